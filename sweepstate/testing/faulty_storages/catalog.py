# ruff: noqa: D102 - what a method does is the storage's promise; how it breaks it, its class says
"""Faults of listing and deleting."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ...core.decide import Change
from ...core.errors import SweepNotFound
from ...core.questions import RunQuery
from ...core.state import RunState, SweepState
from ...storage.memory import MemoryStorage
from ..contract.plain import PlainStorage
from .base import fault


@fault("test_sweeps_are_listed_by_id")
class CatalogByCreation(MemoryStorage):
    """Sweeps come in the order in which they were created, and a cursor skips some (wandb#5247)."""

    def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        ids = [sweep_id for sweep_id in self._shelves if sweep_id > after]
        return [self.sweep(sweep_id) for sweep_id in ids[:limit]]


@fault("test_sweeps_are_listed_by_id")
class CatalogInUtf16(MemoryStorage):
    """Sweeps are sorted by UTF-16, where an emoji comes before a full-width letter, and compared otherwise."""

    def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        ids = sorted((each for each in self._shelves if each > after), key=lambda each: each.encode("utf-16-be"))
        return [self.sweep(sweep_id) for sweep_id in ids[:limit]]


@fault("test_a_deleted_sweep_is_not_found")
class DeletionLeavesRuns(PlainStorage):
    """The sweep's row is deleted, its runs are not, and are still found (wandb#4283)."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        try:
            return super().runs(sweep_id, query, after=after, limit=limit)
        except SweepNotFound:
            with self._reading() as db:
                if db.execute("SELECT 1 FROM sweep WHERE id = ?", [sweep_id]).fetchone():
                    return []  # what the runs are is decided by nobody any more
            raise


@fault("test_a_second_handle_sees_a_deletion_at_once")
class DeletedSweepIsRemembered(PlainStorage):
    """A snapshot is kept as long as its version stands, and deleting a sweep does not move that (wandb#4283)."""

    def __init__(self, path: Path) -> None:
        self._known: dict[str, SweepState] = {}
        super().__init__(path)

    def sweep(self, sweep_id: str) -> SweepState:
        known = self._known.get(sweep_id)
        if known is not None and self._turn is None:
            with self._reading() as db:
                if db.execute("SELECT version FROM sweep WHERE id = ?", [sweep_id]).fetchone() == (known.version,):
                    return known
        self._known[sweep_id] = found = super().sweep(sweep_id)
        return found

    def delete(self, sweep_id: str) -> None:
        super().delete(sweep_id)
        self._known.clear()


@fault("test_a_sweep_that_is_deleted_while_others_commit_stays_deleted")
class CommitRevives(MemoryStorage):
    """A sweep is read, changed and put back; if it was deleted in between, it is there again (wandb#4283)."""

    def commit(self, change: Change) -> None:
        shelf = self._shelves.get(change.sweep_id)
        if shelf is not None:
            time.sleep(0.0005)  # so that others come in between
            self._shelves[change.sweep_id] = shelf
        super().commit(change)


@fault("test_deleting_leaves_other_sweeps_alone")
class DeletesNeighbours(MemoryStorage):
    """Deletion by prefix: "s" takes "s1" along (keys of a key-value store)."""

    def delete(self, sweep_id: str) -> None:
        super().delete(sweep_id)
        for other in [other for other in self._shelves if other.startswith(sweep_id)]:
            super().delete(other)


@fault("test_deleting_leaves_other_sweeps_alone")
class DeletesEverybodysHeartbeats(MemoryStorage):
    """Deletion forgets which sweep the heartbeats to delete are of."""

    def delete(self, sweep_id: str) -> None:
        super().delete(sweep_id)
        for shelf in self._shelves.values():
            shelf.beats.clear()
