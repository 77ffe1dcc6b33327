"""A sweep of very many runs, written in bulk: what commands on a large sweep are measured on.

Ten runs live through real commands in memory. Every further ten are the same, moved on: other indexes, versions and
numbers in the rows that the storages' own encoder made of them. Times stand still, so a history of any length replays
to the snapshots that are stored; ``storage.py`` checks that on a short one.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

import attrs
import psycopg

from sweepstate import Event, MemoryStorage, Objective, Random, Run, RunState, SQLiteStorage, Sweep, SweepState
from sweepstate.core.questions import ByIndex
from sweepstate.hooks import Storage
from sweepstate.storage._rows import encode, record_of
from tests.benchmarks.common import SPACE

#: The sweep's id.
LARGE = "large"
_BLOCK = 10
_COUNTS = ("finished", "failed", "killed", "rule_ended", "rule_failed")
#: Numbers that nothing else in a row contains; in their place, other numbers are written.
_MARKS = (7_000_000_000_000_001, 7_000_000_000_000_002, 7_000_000_000_000_003)
_RUN_COLUMNS = ("number", "status", "status_version", "body", "sweep")
_EVENT_COLUMNS = ("number", "version", "body", "sweep")
_SLICE = 200_000


def large_on_sqlite(path: str, count: int) -> None:
    """Write a sweep of ``count`` runs, a multiple of ten, into a new file."""
    block = _Block()
    with SQLiteStorage(path) as storage:
        block.create(storage)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    for table, columns, rows in block.rows(1, count // _BLOCK):
        marks = ", ".join("?" * len(columns))
        insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        while some := list(islice(rows, _SLICE)):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, some)
            connection.execute("COMMIT")
    state = block.sweep(count // _BLOCK)
    connection.execute("UPDATE sweep SET version = ?, body = ?", (state.version, encode(state)))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def large_on_postgresql(storage: Storage, url: str, prefix: str, count: int) -> None:
    """Write a sweep of ``count`` runs, a multiple of ten, into tables that are there."""
    block = _Block()
    block.create(storage)
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        ((key,),) = cursor.execute(f"SELECT key FROM {prefix}sweep WHERE id = '{LARGE}'".encode()).fetchall()
        for table, columns, rows in block.rows(key, count // _BLOCK):
            with cursor.copy(f"COPY {prefix}{table} ({', '.join(columns)}) FROM STDIN".encode()) as copy:
                for row in rows:
                    copy.write_row(row)
        state = block.sweep(count // _BLOCK)
        cursor.execute(
            f"UPDATE {prefix}sweep SET version = %s, body = %s WHERE key = %s".encode(),
            (state.version, encode(state), key),
        )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ANALYZE {prefix}run, {prefix}event".encode())


class _Block:
    """Ten runs that have ended, and what becomes of the sweep by them."""

    def __init__(self) -> None:
        self._now = time.time() - 3600.0
        storage = MemoryStorage()
        sweep = self.create(storage)
        self._before = sweep.state
        for number in range(_BLOCK):
            _live(sweep, number)
        self._after = sweep.refresh().state
        self._runs = list(storage.runs(LARGE, ByIndex(), limit=_BLOCK))
        self._events = [event for event in sweep.history() if event.number > self._before.events]

    def create(self, storage: Storage) -> Sweep:
        return Sweep(Random(SPACE), id=LARGE, storage=storage, objective=Objective("loss"), clock=lambda: self._now)

    def sweep(self, times: int) -> SweepState:
        """Return the sweep after so many blocks."""
        after, versions, events = self._after, self._versions, len(self._events)
        counts = {name: getattr(after, name) * times for name in _COUNTS}
        version, number = self._before.version + versions * times, self._before.events + events * times
        return attrs.evolve(after, version=version, events=number, **counts)

    @property
    def _versions(self) -> int:
        return self._after.version - self._before.version

    def rows(self, key: int, times: int) -> Iterator[tuple[str, tuple[str, ...], Iterator[tuple[Any, ...]]]]:
        """Yield table, columns and rows."""
        of_runs = [_run_row(run, key) for run in self._runs]
        of_events = [_event_row(event, key) for event in self._events]
        steps = range(times)
        versions, events = self._versions, len(self._events)
        yield (
            "run",
            _RUN_COLUMNS,
            chain.from_iterable((row(_BLOCK * n, versions * n) for row in of_runs) for n in steps),
        )
        yield (
            "event",
            _EVENT_COLUMNS,
            chain.from_iterable((row(events * n, versions * n, _BLOCK * n) for row in of_events) for n in steps),
        )


def _live(sweep: Sweep, number: int) -> None:
    """Let one run live: one of ten fails, one is killed, and the others finish."""
    run = sweep.next_run()
    assert isinstance(run, Run)
    run.start()
    if number == 3:
        run.fail("out of memory")
    elif number == 6:
        run.kill()
        run.gone()
    else:
        run.finish(loss=0.5 + 1.0 / (number + 1))


def _run_row(run: RunState, key: int) -> Callable[[int, int], tuple[Any, ...]]:
    """Return what makes the row of a run that is moved on."""
    record = record_of(run)
    # An ended run is in no index but that of its status, so these columns are all that a row has.
    assert record._replace(number=0, status="", status_version=0, body="") == (0, "", 0, *[None] * 7, "")
    index, version, status = run.index, run.status_version, record.status
    first, second, third = _parts(encode(attrs.evolve(run, index=_MARKS[0], status_version=_MARKS[1])), 2)

    def row(indexes: int, versions: int) -> tuple[Any, ...]:
        moved, at = index + indexes, version + versions
        return moved, status, at, f"{first}{moved}{second}{at}{third}", key

    return row


def _event_row(event: Event, key: int) -> Callable[[int, int, int], tuple[Any, ...]]:
    """Return what makes the row of a run's event that is moved on."""
    number, version, index = event.number, event.version, getattr(event, "index")  # noqa: B009 - all are of runs
    moves: dict[str, Any] = dict(zip(("number", "version", "index"), _MARKS, strict=True))
    one, two, three, four = _parts(encode(attrs.evolve(event, **moves)), 3)

    def row(numbers: int, versions: int, indexes: int) -> tuple[Any, ...]:
        place, at = number + numbers, version + versions
        return place, at, f"{one}{place}{two}{at}{three}{index + indexes}{four}", key

    return row


def _parts(text: str, marks: int) -> list[str]:
    """Cut a text at the marks, which stand in it once each and in this order."""
    parts = []
    for mark in _MARKS[:marks]:
        part, text = text.split(str(mark))
        parts.append(part)
    return [*parts, text]
