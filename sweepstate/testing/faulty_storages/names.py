# ruff: noqa: D102 - what a method does is the storage's promise; how it breaks it, its class says
"""Faults of names that are taken for one another."""

from __future__ import annotations

import unicodedata

import attrs

from ...core.decide import Change
from ...core.errors import AlreadyExists
from ...core.questions import Leased, RunQuery
from ...core.state import RunState, SweepState
from ...storage.memory import MemoryStorage
from .base import Looking, fault


class _NamesAlike(Looking):
    """Takes some names for one another."""

    def alike(self, name: str) -> str:
        """Return what is compared."""
        return name

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        """Return the indexes of what a query means, by a wrong comparison."""
        if isinstance(query, Leased) and query.agent is not None:
            agents = {run.lease.agent for run in runs if run.lease is not None}
            each = [
                super(_NamesAlike, self).look(sweep_id, attrs.evolve(query, agent=agent), runs)
                for agent in agents
                if self.alike(agent) == self.alike(query.agent)
            ]
            return sorted(index for found in each for index in found)
        return super().look(sweep_id, query, runs)


@fault("test_names_are_compared_to_the_byte")
class AgentsInAnyCase(_NamesAlike):
    """A collation that knows no case: "GPU-7" has the runs of "gpu-7" (MySQL's default)."""

    def alike(self, name: str) -> str:
        return name.casefold()


@fault("test_names_are_compared_to_the_byte")
class AgentsTrimmed(_NamesAlike):
    """A collation that pads with blanks: a trailing one does not count (SQL's CHAR)."""

    def alike(self, name: str) -> str:
        return name.rstrip(" ")


@fault("test_names_are_compared_to_the_byte")
class AgentsNormalised(_NamesAlike):
    """A collation by Unicode: one accent is two code points or one."""

    def alike(self, name: str) -> str:
        return unicodedata.normalize("NFC", name)


@fault("test_names_are_compared_to_the_byte")
class AgentsCut(_NamesAlike):
    """A column of 255 characters: long names are equal when they begin alike."""

    def alike(self, name: str) -> str:
        return name[:255]


@fault("test_names_are_compared_to_the_byte")
class NulEndsNames(_NamesAlike):
    """A driver in C: a name ends at its first NUL."""

    def alike(self, name: str) -> str:
        return name.split("\0", maxsplit=1)[0]


@fault("test_ids_are_compared_to_the_byte")
class IdsNormalised(MemoryStorage):
    """A file for each sweep, on a file system that normalises names: two ids, one sweep."""

    def sweep(self, sweep_id: str) -> SweepState:
        return super().sweep(unicodedata.normalize("NFC", sweep_id))

    def commit(self, change: Change) -> None:
        super().commit(attrs.evolve(change, sweep_id=unicodedata.normalize("NFC", change.sweep_id)))


@fault("test_ids_are_compared_to_the_byte")
class IdsInAnyCase(MemoryStorage):
    """A primary key in a collation that knows no case."""

    def commit(self, change: Change) -> None:
        if change.version == 0 and change.sweep_id.lower() in {sweep_id.lower() for sweep_id in self._shelves}:
            raise AlreadyExists(change.sweep_id)
        super().commit(change)
