# ruff: noqa: ARG002 - what a method does is the storage's promise; how it breaks it, its class says
"""The list of faults, and the right storages that they are made from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from inspect import iscoroutinefunction
from typing import Any, Final, Self, TypeVar

from ...core.decide import Change
from ...core.questions import ByIndex, Due, RunQuery, Silent
from ...core.state import RunState
from ...storage.memory import MemoryStorage
from ..contract.plain import PlainStorage
from ..contract.world import heard_of, select

_Class = TypeVar("_Class", bound=type)

#: Every fault, in the order of the modules.
FAULTS: Final[list[type[MemoryStorage | PlainStorage]]] = []
#: Those that only an async storage can have.
ASYNC_FAULTS: Final[list[type[Any]]] = []


def fault(caught_by: str) -> Callable[[_Class], _Class]:
    """List a fault, and say which test of the contract finds it."""

    def add(cls: _Class) -> _Class:
        cls.caught_by = caught_by  # type: ignore[attr-defined]
        faults: list[Any] = ASYNC_FAULTS if iscoroutinefunction(getattr(cls, "commit", None)) else FAULTS
        faults.append(cls)
        return cls

    return add


class TurningStorage(MemoryStorage):
    """Memory storage in which threads can take turns: right, and what the faults of turns are made from."""

    def __init__(self) -> None:
        super().__init__()
        self._turns = threading.RLock()

    def commit(self, change: Change) -> None:
        """Write a change, when no other thread has the turn."""
        with self._turns:
            super().commit(change)

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Self]:
        """Keep every other thread from committing."""
        with self._turns:
            yield self


class Looking(MemoryStorage):
    """Memory storage that finds its runs by looking at all of them, so that what it looks for can be got wrong."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return what is found."""
        if isinstance(query, ByIndex):
            return super().runs(sweep_id, query, after=after, limit=limit)
        runs = list(super().runs(sweep_id, ByIndex(), limit=10**9))
        found = self.look(sweep_id, query, runs)
        return [runs[index] for index in found if index > after or isinstance(query, (Due, Silent))][:limit]

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        """Return the indexes of what a query means."""
        return select(query, runs, heard_of(self, sweep_id, runs))
