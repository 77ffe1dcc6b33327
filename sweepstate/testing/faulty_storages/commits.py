# ruff: noqa: D102 - what a method does is the storage's promise; how it breaks it, its class says
"""Faults of versions, and of all or nothing."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from ...core.decide import Change
from ...core.errors import Conflict
from ...core.plain import to_dict
from ...storage.memory import MemoryStorage
from ..contract.plain import PlainStorage
from .base import fault


@fault("test_the_version_is_compared")
class NoVersionCheck(MemoryStorage):
    """The last one to write wins, whatever it was decided on (wandb#8549: 13,020 points made 17,961 runs)."""

    def commit(self, change: Change) -> None:
        if change.version:
            change = attrs.evolve(change, version=self.sweep(change.sweep_id).version)
        super().commit(change)


@fault("test_threads_that_commit_on_one_version_have_one_winner")
class VersionCheckedOutsideTheLock(NoVersionCheck):
    """The version is compared, and written a moment later (optuna#4002: two workers popped one trial)."""

    def commit(self, change: Change) -> None:
        if change.version and self.sweep(change.sweep_id).version != change.version:
            raise Conflict(change.sweep_id, change.version)
        time.sleep(0.002)
        super().commit(change)


@fault("test_processes_that_commit_on_one_version_have_one_winner")
class VersionCheckedOutsideTheTransaction(PlainStorage):
    """A lock of the process stands for one of the database (optuna#5489: repeated points in parallel)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept, _lock=threading.Lock())

    def commit(self, change: Change) -> None:
        with self._lock:
            found = self.sweep(change.sweep_id).version if change.version else 0
            if found != change.version:
                raise Conflict(change.sweep_id, change.version, found)
            time.sleep(0.002)
            super().commit(change)

    def _take_version(self, db: sqlite3.Connection, change: Change) -> None:
        if change.version == 0:
            super()._take_version(db, change)
            return
        sql = "UPDATE sweep SET version = ?, body = ? WHERE id = ?"
        self._write(db, sql, change.sweep.version, json.dumps(to_dict(change.sweep)), change.sweep_id)
        self._write(db, "DELETE FROM event WHERE sweep = ? AND number >= ?", change.sweep_id, change.events[0].number)


@fault("test_the_version_is_compared")
class NewerVersionsAccepted(MemoryStorage):
    """The version is compared with < where it should be with !=."""

    def commit(self, change: Change) -> None:
        if change.version > 0:
            change = attrs.evolve(change, version=min(change.version, self.sweep(change.sweep_id).version))
        super().commit(change)


@fault("test_creating_a_sweep_that_is_there_is_refused")
class CreationOverwrites(MemoryStorage):
    """Creating is an upsert, so a second one wipes the first (ray#30861: resuming restored an incoherent state)."""

    def commit(self, change: Change) -> None:
        if change.version == 0:
            self._shelves.pop(change.sweep_id, None)
        super().commit(change)


@fault("test_the_id_of_a_deleted_sweep_stays_taken")
class IdsReused(MemoryStorage):
    """A deletion forgets that the id was taken, so a late worker reports to a stranger's sweep."""

    def delete(self, sweep_id: str) -> None:
        super().delete(sweep_id)
        self._deleted.clear()


@fault("test_a_commit_is_whole_or_absent_whichever_write_fails")
class EachWriteByItself(PlainStorage):
    """Autocommit: what failed half-way is there by half (optuna#5138: a study that could not be read any more)."""

    def _write(self, db: sqlite3.Connection, sql: str, *values: object) -> int:
        touched = super()._write(db, sql, *values)
        if self._turn is None:
            db.execute("COMMIT")
            db.execute("BEGIN IMMEDIATE")
        return touched


@fault("test_a_commit_is_whole_or_absent_whichever_write_fails")
class RunsBeforeTheSweep(PlainStorage):
    """The runs are written in a transaction of their own, before the sweep's (ray#14667: parts that do not fit)."""

    def commit(self, change: Change) -> None:
        with self._transaction() as db:
            if change.version:
                self._compare(db, change)
            for run in change.runs:
                sql = "INSERT OR REPLACE INTO run VALUES (?, ?, ?)"
                self._write(db, sql, change.sweep_id, run.index, json.dumps(to_dict(run)))
        super().commit(change)

    def _compare(self, db: sqlite3.Connection, change: Change) -> None:
        found = self._sweep(db, change.sweep_id).version
        if found != change.version:
            raise Conflict(change.sweep_id, change.version, found)


@fault("test_a_deletion_is_whole_or_absent_whichever_write_fails")
class DeletionInParts(PlainStorage):
    """Each table is emptied by a transaction of its own."""

    def delete(self, sweep_id: str) -> None:
        self.sweep(sweep_id)
        for table in ("run", "event", "beat"):
            with self._transaction() as db:
                self._write(db, f"DELETE FROM {table} WHERE sweep = ?", sweep_id)  # noqa: S608 - names from here
        super().delete(sweep_id)


@fault("test_the_version_is_compared")
class EventsBeforeTheCommit(MemoryStorage):
    """Events are written first, and stay when the commit is refused: history tells what never happened."""

    def commit(self, change: Change) -> None:
        with suppress(KeyError):
            self._shelves[change.sweep_id].events.extend(change.events)
        super().commit(change)


@fault("test_a_commit_of_many_runs_is_one_commit")
class FirstThousandRunsOnly(MemoryStorage):
    """A statement takes so many parameters, and what is beyond them is dropped (wandb#5247: a listing cut at 500)."""

    def commit(self, change: Change) -> None:
        super().commit(attrs.evolve(change, runs=change.runs[:999]))


@fault("test_what_was_acknowledged_survives_a_killed_process")
class AcknowledgedTooEarly(PlainStorage):
    """A commit returns before it is written, and nobody in the process can tell (ray#12347: lost on resume)."""

    def __init__(self, path: Path) -> None:
        self._behind: list[Change] = []
        super().__init__(path)

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Generator[sqlite3.Connection]:
        if self._turn is None:
            while self._behind:
                super().commit(self._behind.pop())
        with super()._transaction(begin) as db:
            yield db

    def commit(self, change: Change) -> None:
        with self._transaction() as db:
            found = self._sweep(db, change.sweep_id).version if change.version else 0
        if change.version and found == change.version and not change.silences and self._turn is None:
            self._behind.append(change)
        else:
            super().commit(change)
