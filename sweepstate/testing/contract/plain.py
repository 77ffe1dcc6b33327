"""The contract in its plainest form: four tables, and every query answered by looking at every run.

It is slow, and right. The contract is tried on it where it needs a place that
processes share, and some of the faults that the contract must find are made in
it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from copy import copy
from pathlib import Path
from typing import Any, Final, Self

from ...core.decide import Change
from ...core.errors import AlreadyExists, Conflict, StorageError, SweepNotFound
from ...core.events import Event
from ...core.plain import from_dict, to_dict
from ...core.questions import ByIndex, Due, RunQuery, Silent
from ...core.state import RunState, SweepState
from ...core.values import freeze_metrics
from .world import select

_TABLES: Final = """
    CREATE TABLE IF NOT EXISTS sweep (id TEXT PRIMARY KEY, version INTEGER, body TEXT) -- no body: it was deleted
    CREATE TABLE IF NOT EXISTS run (sweep TEXT, number INTEGER, body TEXT, PRIMARY KEY (sweep, number))
    CREATE TABLE IF NOT EXISTS event (sweep, number, version, body TEXT, PRIMARY KEY (sweep, number))
    CREATE TABLE IF NOT EXISTS beat (sweep, run, attempt, at REAL, metrics TEXT, PRIMARY KEY (sweep, run))
"""


class PlainStorage:
    """Keeps sweeps in a SQLite file, with a connection for each thing that it does.

    Safe against the death of the process, and not against a power cut: it does not wait for the disk.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The connection of the turn that this is the inside of.
        self._turn: sqlite3.Connection | None = None
        # How many writes may still be made until one fails; None for endlessly many.
        self._writes: int | None = None
        with self._transaction() as db:
            for table in _TABLES.strip().splitlines():
                db.execute(table)

    # --- transactions ----------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Generator[sqlite3.Connection]:
        """Do what is done within one, or none of it; in a turn, the turn is the transaction."""
        if self._turn is not None:
            yield self._turn
            return
        with closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = OFF")
            db.execute(begin)
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _reading(self) -> Any:
        return self._transaction("BEGIN")

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Self]:  # noqa: ARG002 - one file, one turn
        """Keep everybody else from committing; see ``Turns.turn``. That it is about one sweep makes no difference."""
        with self._transaction() as db:
            inside = copy(self)
            inside._turn = db  # noqa: SLF001 - it is of this class
            yield inside

    @contextmanager
    def failing_at(self, n: int) -> Generator[None]:
        """Let the ``n``-th write from now on fail; see ``StorageContract.sabotage``."""
        self._writes = n - 1
        try:
            yield
        finally:
            self._writes = None

    def _write(self, db: sqlite3.Connection, sql: str, *values: object) -> int:
        """Do one write; return how many rows it touched."""
        if self._writes is not None:
            if self._writes == 0:
                raise StorageError("the disk is full, says the test")
            self._writes -= 1
        return db.execute(sql, values).rowcount

    # --- Storage ---------------------------------------------------------------------------------

    def sweep(self, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot; see ``Storage.sweep``."""
        with self._reading() as db:
            return self._sweep(db, sweep_id)

    def _sweep(self, db: sqlite3.Connection, sweep_id: str) -> SweepState:
        found = db.execute("SELECT body FROM sweep WHERE id = ?", [sweep_id]).fetchone()
        if found is None or found[0] is None:
            raise SweepNotFound(sweep_id)
        return from_dict(json.loads(found[0]), SweepState)

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return runs that a query means; see ``Storage.runs``."""
        with self._reading() as db:
            self._sweep(db, sweep_id)
            if isinstance(query, ByIndex):
                sql = "SELECT body FROM run WHERE sweep = ? AND number > ? ORDER BY number LIMIT ?"
                return [from_dict(json.loads(body), RunState) for (body,) in db.execute(sql, [sweep_id, after, limit])]
            sql = "SELECT body FROM run WHERE sweep = ? ORDER BY number"
            runs = [from_dict(json.loads(body), RunState) for (body,) in db.execute(sql, [sweep_id])]
            if isinstance(query, (Due, Silent)):
                after = -1
            leases = {run.index: run.lease for run in runs if run.lease is not None}
            beats = {index: self._heard(db, sweep_id, index, lease.attempt) for index, lease in leases.items()}
            heard = {index: max(lease.since, beats[index] or 0.0) for index, lease in leases.items()}
            return [runs[index] for index in select(query, runs, heard) if index > after][:limit]

    def commit(self, change: Change) -> None:
        """Write a change, all or nothing; see ``Storage.commit``."""
        with self._transaction() as db:
            self._take_version(db, change)
            for silence in change.silences:
                heard = self._heard(db, change.sweep_id, silence.index, silence.attempt)
                if heard is not None and heard > silence.heard:
                    raise Conflict(change.sweep_id, change.version, what=f"run {silence.index} was heard meanwhile")
            for run in change.runs:
                sql = "INSERT OR REPLACE INTO run VALUES (?, ?, ?)"
                self._write(db, sql, change.sweep_id, run.index, json.dumps(to_dict(run)))
            for event in change.events:
                values = (change.sweep_id, event.number, event.version, json.dumps(to_dict(event)))
                self._write(db, "INSERT INTO event VALUES (?, ?, ?, ?)", *values)

    def _take_version(self, db: sqlite3.Connection, change: Change) -> None:
        """Write the snapshot, if the sweep is at the version that the change was decided on."""
        sweep_id, body = change.sweep_id, json.dumps(to_dict(change.sweep))
        if change.version == 0:
            if db.execute("SELECT 1 FROM sweep WHERE id = ?", [sweep_id]).fetchone():
                raise AlreadyExists(sweep_id)
            self._write(db, "INSERT INTO sweep VALUES (?, 1, ?)", sweep_id, body)
            return
        found = self._sweep(db, sweep_id).version
        sql = "UPDATE sweep SET version = version + 1, body = ? WHERE id = ? AND version = ?"
        if self._write(db, sql, body, sweep_id, change.version) != 1:
            raise Conflict(sweep_id, change.version, found)

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        """Return events in order, ending at a commit boundary; see ``Storage.events``."""
        with self._reading() as db:
            self._sweep(db, sweep_id)
            sql = "SELECT version, body FROM event WHERE sweep = ? AND number > ? ORDER BY number"
            rows: list[tuple[int, str]] = db.execute(sql, [sweep_id, after]).fetchall()
            if len(rows) > limit:
                first, beyond = rows[0][0], rows[limit][0]
                rows = [row for row in rows[:limit] if row[0] < beyond] or [row for row in rows if row[0] == first]
            return [from_dict(json.loads(body), Event) for _, body in rows]

    # --- Heartbeats ------------------------------------------------------------------------------

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        """Keep a sign of life; see ``Heartbeats.beat``."""
        text = None if metrics is None else json.dumps(freeze_metrics(metrics))
        with self._transaction() as db:
            if index >= self._sweep(db, sweep_id).created:
                return
            sql = "SELECT attempt, at, metrics FROM beat WHERE sweep = ? AND run = ?"
            known = db.execute(sql, [sweep_id, index]).fetchone()
            if known is not None and known[0] > attempt:
                return
            if known is not None and known[0] == attempt:
                at, text = max(at, known[1]), known[2] if text is None else text
            self._write(db, "INSERT OR REPLACE INTO beat VALUES (?, ?, ?, ?, ?)", sweep_id, index, attempt, at, text)

    def _heard(self, db: sqlite3.Connection, sweep_id: str, index: int, attempt: int) -> float | None:
        sql = "SELECT at FROM beat WHERE sweep = ? AND run = ? AND attempt = ?"
        found = db.execute(sql, [sweep_id, index, attempt]).fetchone()
        return None if found is None else float(found[0])

    def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        """Return when each attempt was last heard; see ``Heartbeats.last_heard``."""
        with self._reading() as db:
            self._sweep(db, sweep_id)
            return [self._heard(db, sweep_id, index, attempt) for index, attempt in leases]

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        """Return what a run last reported on the way; see ``Heartbeats.last_metrics``."""
        with self._reading() as db:
            self._sweep(db, sweep_id)
            sql = "SELECT metrics FROM beat WHERE sweep = ? AND run = ? AND metrics IS NOT NULL"
            found = db.execute(sql, [sweep_id, index]).fetchone()
            return None if found is None else freeze_metrics(json.loads(found[0]))

    # --- Catalog ---------------------------------------------------------------------------------

    def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        """Return sweeps by id; see ``Catalog.sweeps``. SQLite compares UTF-8 byte by byte, which is by code point."""
        with self._reading() as db:
            sql = "SELECT body FROM sweep WHERE id > ? AND body IS NOT NULL ORDER BY id LIMIT ?"
            return [from_dict(json.loads(body), SweepState) for (body,) in db.execute(sql, [after, limit])]

    def delete(self, sweep_id: str) -> None:
        """Forget a sweep; see ``Catalog.delete``."""
        with self._transaction() as db:
            self._sweep(db, sweep_id)
            self._write(db, "UPDATE sweep SET body = NULL WHERE id = ?", sweep_id)
            for table in ("run", "event", "beat"):
                self._write(db, f"DELETE FROM {table} WHERE sweep = ?", sweep_id)  # noqa: S608 - names from above
