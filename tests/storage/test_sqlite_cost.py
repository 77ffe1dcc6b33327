"""What is asked of a large sweep costs SQLite as much as of a small one, counted in steps of its machine."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from sweepstate import Grid, Objective, Run, RunStatus, SQLiteStorage, Sweep
from sweepstate.core.questions import ACTIVE, ENDED, ByIndex, Due, InStatus, Leased, Queued, Requested, RunQuery, Silent
from sweepstate.storage._rows import encode
from tests.support.sqlite import plan, scan, take

BLOCK: Final = 10
FEW: Final = 100
MANY: Final = 20_000
_COUNTS: Final = ("finished", "failed", "rule_ended", "rule_failed", "version", "events")
_EVERY_QUERY: Final[tuple[RunQuery, ...]] = (
    ByIndex(),
    Queued(),
    Leased(),
    Leased("ada"),
    Leased("ada", presumed=False),
    Requested("ada", "r"),
    Due(1e10),
    Silent(1e10),
    ACTIVE,
    ENDED,
    InStatus(frozenset({RunStatus.FAILED})),
    InStatus(frozenset({RunStatus.FAILED}), withdrawn=True),
    InStatus(frozenset({RunStatus.KILLED, RunStatus.CRASHED}), withdrawn=True, unchanged_since=5),
)


def new_sweep(storage: SQLiteStorage) -> Sweep:
    grid = Grid({"x": list(range(1_000)), "y": list(range(1_000))})
    return Sweep(grid, id="s", storage=storage, objective=Objective("loss"), clock=lambda: 1e9)


def write(path: Path, count: int) -> None:
    """Write a sweep of so many runs, a multiple of ten, which have ended: ten of them lived, the others are alike."""
    with SQLiteStorage(path, synchronous="NORMAL") as storage:
        sweep = new_sweep(storage)
        before = sweep.state
        for number in range(BLOCK):
            run = take(sweep)
            run.start()
            if number == 3:
                run.fail("boom")
            else:
                run.finish(loss=number / 2)
        after = sweep.refresh().state
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        for table in ("run", "event"):
            cursor = connection.execute(f"SELECT * FROM {table} WHERE number > ?", (-1 if table == "run" else 1,))
            columns = [column[0] for column in cursor.description]
            rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
            marks = ", ".join(f":{column}" for column in columns)
            for times in range(1, count // BLOCK):
                versions = (after.version - before.version) * times
                events = (after.events - before.events) * times
                moved = (_moved(row, BLOCK * times, versions, events) for row in rows)
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", moved)
        grown = {
            name: getattr(before, name) + (getattr(after, name) - getattr(before, name)) * (count // BLOCK)
            for name in _COUNTS
        }
        state = attrs.evolve(after, **grown)
        connection.execute("UPDATE sweep SET version = ?, body = ?", (state.version, encode(state)))


def _moved(row: dict[str, Any], runs: int, versions: int, events: int) -> dict[str, Any]:
    body = json.loads(row["body"])
    moves = {"index": runs, "number": events, "version": versions, "status_version": versions}
    body.update({name: body[name] + by for name, by in moves.items() if name in body})
    columns = {"number": events if "version" in row else runs, "version": versions, "status_version": versions}
    return {**row, **{name: row[name] + by for name, by in columns.items() if name in row}, "body": json.dumps(body)}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    directory = tmp_path_factory.mktemp("sqlite")
    found = {count: directory / f"{count}.db" for count in (FEW, MANY)}
    for count, path in found.items():
        write(path, count)
    return found


@pytest.fixture(params=["as it is", "analyzed"])
def storages(
    places: dict[int, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[dict[int, SQLiteStorage]]:
    """Give a small and a large one; also where SQLite has counted what is in them, and plans by that."""
    found: dict[int, SQLiteStorage] = {}
    for count, path in places.items():
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        if request.param == "analyzed":
            with closing(sqlite3.connect(copy)) as connection:
                connection.execute("ANALYZE")
        found[count] = SQLiteStorage(copy, synchronous="NORMAL")
    yield found
    for storage in found.values():
        storage.close()


def steps(storage: SQLiteStorage, action: Callable[[], object]) -> int:
    """Return how many steps SQLite takes to do something."""
    (connection,) = storage._file._idle
    taken = 0

    def step() -> None:
        nonlocal taken
        taken += 1

    connection.set_progress_handler(step, 1)
    action()
    connection.set_progress_handler(None, 1)
    assert storage._file._idle == [connection], "it was done on another connection"
    return taken


def run_of(sweep: Sweep) -> Run:
    return sweep[sweep.state.created - 1]


COMMANDS: Final[dict[str, Callable[[SQLiteStorage, Sweep], object]]] = {
    "open": lambda storage, _: Sweep.open("s", storage=storage),
    "counts": lambda _, sweep: sweep.refresh().counts,
    "best": lambda _, sweep: sweep.best,
    "look at a run": lambda _, sweep: sweep[sweep.state.created // 2],
    "hand out": lambda _, sweep: sweep.next_run("ada"),
    "hand out for a request": lambda _, sweep: sweep.next_run("ada", "r1"),
    "hand out for the same request": lambda _, sweep: sweep.next_run("ada", "r1"),
    "start": lambda _, sweep: run_of(sweep).start(heartbeats=True),
    "report": lambda _, sweep: run_of(sweep).report(loss=0.5),
    "tick": lambda _, sweep: sweep.tick(),
    "orders": lambda _, sweep: list(sweep.orders("ada")),
    "stop a run": lambda _, sweep: run_of(sweep).stop(),
    "finish": lambda _, sweep: run_of(sweep).finish(loss=0.25),
    "retry": lambda _, sweep: sweep[3].retry(),
    "pause": lambda _, sweep: sweep.pause(),
    "resume": lambda _, sweep: sweep.resume(),
    "a page of history": lambda storage, sweep: storage.events("s", after=sweep.state.events - 9, limit=5),
    "a page of sweeps": lambda storage, _: storage.sweeps(limit=5),
    "cancel": lambda _, sweep: sweep.cancel(),
}


def test_a_command_takes_as_many_steps_on_a_large_sweep(storages: dict[int, SQLiteStorage]) -> None:
    """Every one, one after the other; finding a row in a larger tree is no step more."""
    taken: dict[str, list[int]] = {name: [] for name in COMMANDS}
    for count, storage in storages.items():
        sweep = Sweep.open("s", storage=storage, clock=lambda: 1e9 + 1)
        assert sweep.state.created == count
        for name, command in COMMANDS.items():
            taken[name].append(steps(storage, lambda command=command, sweep=sweep: command(storage, sweep)))  # type: ignore[misc]  # noqa: B023 - called at once
    assert all(few > 0 for few, _ in taken.values())
    different = {name: counted for name, counted in taken.items() if counted[1] > counted[0] * 1.2 + 20}
    assert not different


@pytest.mark.parametrize("query", _EVERY_QUERY, ids=str)
def test_a_query_takes_as_many_steps_on_a_large_sweep(storages: dict[int, SQLiteStorage], query: RunQuery) -> None:
    """From anywhere in it, and goes through its index."""
    for after in (-1, 4):
        few, many = (
            steps(storage, lambda storage=storage, after=after: storage.runs("s", query, after=after, limit=3))  # type: ignore[misc]
            for storage in storages.values()
        )
        assert 0 < many <= few * 1.2 + 20
    assert scan(storages[MANY], "s", query) is None


def test_everything_else_goes_through_an_index_too(storages: dict[int, SQLiteStorage]) -> None:
    """Whatever statement is executed, by any of the storage's methods."""
    storage = storages[FEW]
    said: list[str] = []
    (connection,) = storage._file._idle
    connection.set_trace_callback(said.append)
    sweep = Sweep.open("s", storage=storage, clock=lambda: 1e9 + 1)
    for command in COMMANDS.values():
        command(storage, sweep)
    storage._file._known.clear()
    storage.runs("s", ByIndex(), limit=3)
    storage.last_heard("s", [(0, 1)])
    storage.last_metrics("s", 0)
    storage.delete("s")
    connection.set_trace_callback(None)
    statements = {each for each in said if each.lstrip().startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))}
    assert len(statements) > 30
    for statement in statements:
        for step in plan(storage, statement, ()):
            assert not step.startswith("SCAN") or step.startswith(("SCAN CONSTANT ROW", "SCAN (subquery")), statement
