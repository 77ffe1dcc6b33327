"""The two vocabularies: the statuses of a sweep and of a run, as Weights & Biases names them."""

from __future__ import annotations

from enum import StrEnum
from typing import Self, cast

from .errors import UnknownStatus
from .values import show


class Word(StrEnum):
    """A string enum whose members hash as the strings they are.

    ``Enum`` hashes by name in Python code; a table lookup would spend most of its time there.
    """

    __hash__ = str.__hash__


class _Status(Word):
    @classmethod
    def parse(cls, word: str) -> Self:
        """Return the status that ``word`` names, in any case and in any spelling in use.

        Args:
            word: a status of this enum, its value, or a word that W&B's clients, API or launch
                agents use for it (``CANCELED``, ``ERROR``, ``preempted``, ...).

        Raises:
            UnknownStatus: it names none; ``known`` lists the words that do.
        """
        given = cast(object, word)
        found = _ALIASES[cls.__name__].get(given.strip().lower()) if isinstance(given, str) else None
        if found is None:
            known = tuple(sorted({*_ALIASES[cls.__name__]}))
            raise UnknownStatus(
                "status", f"{show(word)} names no {cls.__name__}", "use one of " + ", ".join(known), known
            )
        return cls(found)


class SweepStatus(_Status):
    """Whether a sweep creates runs, and if not, why.

    Source: W&B, "Manage sweeps with the CLI" and the sweep states shown in its app.
    """

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"
    CANCELLED = "CANCELLED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"


class RunStatus(_Status):
    """How one configuration's execution stands; once it has ended, the verdict on it.

    Source: W&B, "Run states".
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"
    KILLED = "KILLED"


class Cause(Word):
    """Why a run ended."""

    SUCCESS = "success"
    ERROR = "error"
    SIGNAL = "signal"
    LOST = "lost"
    STOPPED = "stopped"
    KILLED = "killed"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"
    PREEMPTED_TOO_OFTEN = "preempted too often"
    NOT_LAUNCHED = "not launched"


# W&B spells CANCELED in its public API and CANCELLED in its command line; comparing the two as
# different words was a bug of its launch scheduler.
_ALIASES: dict[str, dict[str, str]] = {
    "SweepStatus": {
        **{status.value.lower(): status.value for status in SweepStatus},
        "canceled": "CANCELLED",
        "pending": "RUNNING",
        "active": "RUNNING",
        "error": "FAILED",
        "flapping": "FAILED",
    },
    "RunStatus": {
        **{status.value.lower(): status.value for status in RunStatus},
        "starting": "PENDING",
        "queued": "PENDING",
        "canceled": "KILLED",
        "cancelled": "KILLED",
        "stopped": "KILLED",
        "preempting": "RUNNING",
        "preempted": "PENDING",
        "error": "FAILED",
        "failure": "FAILED",
        "success": "FINISHED",
        "succeeded": "FINISHED",
    },
}
