"""What the tests of ``SQLiteStorage`` share: sweeps to commit to, writes that fail, query plans."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing.connection import Connection as Line
from pathlib import Path
from sqlite3 import Connection, OperationalError
from typing import Any, Final
from unittest.mock import patch

import pytest

from sweepstate import Grid, Limits, Run, SQLiteStorage, Storage, StorageError, Sweep, SweepStatus
from sweepstate.core import decide as core
from sweepstate.core.lifecycle import SweepTrigger
from sweepstate.core.questions import ByIndex, Due, InStatus, Leased, Queued, Requested, RunQuery, Silent
from sweepstate.storage import _sqlite_forks
from sweepstate.storage._sqlite_schema import select
from sweepstate.testing.contract.together import in_threads
from sweepstate.testing.contract.world import everything

#: What SQLite's files consist of, in bytes.
PAGE: Final = 4096

# --- sweeps ---------------------------------------------------------------------------------------


def new_sweep(storage: Storage, id: str = "s", points: int = 20, **limits: Any) -> Sweep:
    return Sweep(Grid({"x": list(range(points))}), id=id, storage=storage, limits=Limits(**limits))


def take(sweep: Sweep, agent: str = "ada") -> Run:
    run = sweep.next_run(agent)
    assert isinstance(run, Run), run
    return run


def change_of(storage: Storage, id: str = "s") -> core.Change:
    """Return a change, decided on what is stored now: the sweep is paused, or resumed."""
    sweep = storage.sweep(id)
    trigger = SweepTrigger.RESUME if sweep.status is SweepStatus.PAUSED else SweepTrigger.PAUSE
    change = core.decide(core.move, sweep, lambda _: (), 1e9)(trigger).change
    assert change is not None
    return change


def filled(path: Path, runs: int = 1) -> bytes:
    """Make a file of a sweep "s" with some runs; return what is in it, when nobody has it open."""
    with SQLiteStorage(path, synchronous="NORMAL") as storage:
        sweep = new_sweep(storage, points=runs)
        for _ in range(runs):
            take(sweep)
    return path.read_bytes()


def problem(action: Callable[[], object], path: Path, *words: str) -> StorageError:
    """Assert that an action is refused with an error that names a file and says some words; return it."""
    with pytest.raises(StorageError) as caught:
        action()
    text = str(caught.value)
    assert str(path) in text
    for word in words:
        assert word in text
    return caught.value


def assert_usable(storage: SQLiteStorage) -> None:
    """Assert that nothing was left locked or open, for this thread, others, and other connections."""
    assert not _sqlite_forks.uses
    assert not any(connection.in_transaction for connection in storage._file._idle)
    with closing(sqlite3.connect(storage.path, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    version = storage.sweep("s").version
    storage.commit(change_of(storage))
    in_threads(lambda: storage.commit(change_of(storage)))
    assert storage.sweep("s").version == version + 2


# --- writes that fail -----------------------------------------------------------------------------

_WRITES: Final = ("INSERT", "UPDATE", "DELETE", "COMMIT")


class _Counting(Connection):
    """A connection that says each write before it is done."""

    written: Callable[[str], None]

    def execute(self, sql: str, values: Any = (), /) -> Any:
        if sql.lstrip().startswith(_WRITES):
            self.written(sql)
        return super().execute(sql, values)

    def executemany(self, sql: str, rows: Iterable[Any], /) -> Any:
        cursor = self.cursor()
        for row in rows:
            self.written(sql)
            cursor.execute(sql, row)
        return cursor


@contextmanager
def watching_writes(storage: SQLiteStorage, written: Callable[[str], None]) -> Generator[None]:
    """Call a function before each row that is written, and before each COMMIT; what it raises is what came of it."""
    factory = type("Watched", (_Counting,), {"written": staticmethod(written)})
    storage._file.close_idle()
    with patch.object(sqlite3, "connect", partial(sqlite3.connect, factory=factory)):
        yield
    storage._file.close_idle()


@contextmanager
def failing_write(storage: SQLiteStorage, n: int) -> Generator[None]:
    """Let the ``n``-th write fail from now on; COMMIT counts as one."""
    left = n

    def written(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OperationalError("sabotage")

    with watching_writes(storage, written):
        yield


# --- plans ----------------------------------------------------------------------------------------

#: The index that a kind of query goes through, where there is one choice.
_INDEXES: Final[Mapping[type, tuple[str, ...]]] = {
    ByIndex: ("sqlite_autoindex_run_1",),
    Queued: ("run_queued",),
    Leased: ("run_leased", "run_presumed", "run_agent_leased", "run_agent_presumed"),
    Requested: ("run_request",),
    Due: ("run_due",),
    Silent: ("beat_heard", "sqlite_autoindex_run_1"),
    InStatus: ("run_status", "run_withdrawn"),
}
_TABLES: Final = ("run", "beat", "event", "sweep")


def scan(storage: SQLiteStorage, sweep_id: str, query: RunQuery) -> str | None:
    """Return the plan of a query if it goes through more than ranges of its indexes."""
    sql, values = storage._read(lambda desk: select(query, desk._key(sweep_id), 5, 10))
    steps = plan(storage, sql, values)
    wanted = [f"INDEX {index} (" for index in _INDEXES[type(query)]]
    ranges = [step for step in steps if step.startswith("SEARCH ")]
    bad = [step for step in ranges if not any(index in step for index in wanted)]
    # What a union has found is put in order, which is no more than a few times the limit; a range is in order.
    bad += [step for step in steps if step.startswith("SCAN ") and step.split()[1] in _TABLES]
    bad += [step for step in steps if "TEMP B-TREE" in step and "UNION" not in sql]
    return "\n".join(steps) if bad or not ranges else None


def plan(storage: SQLiteStorage, sql: str, values: Any) -> list[str]:
    """Return how SQLite would execute a statement: one line for each step."""
    return [row[3] for row in storage._read(lambda desk: desk.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall())]


# --- other processes, as ``in_processes`` calls them -------------------------------------------------


def migrate(line: Line, path: Path) -> None:
    """Open a file, and say what is in it."""
    line.send("ready")
    line.recv()
    with SQLiteStorage(path) as storage:
        line.send(everything(storage, "s"))
