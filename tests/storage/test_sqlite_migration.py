"""How a SQLite file is brought up to date, and how hard what is committed to it is pressed onto the disk."""

from __future__ import annotations

import pickle
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Final
from unittest.mock import patch

import pytest

from sweepstate import RunStatus, SQLiteStorage, StorageError, Sweep
from sweepstate.storage import _sqlite_file
from sweepstate.storage._sqlite_file import Synchronous
from sweepstate.storage._sqlite_schema import APPLICATION_ID, STEPS, statements_of
from sweepstate.testing.contract.together import in_processes, in_threads
from sweepstate.testing.contract.world import everything
from tests.support.sqlite import change_of, migrate, new_sweep, take

#: A step that was released never changes: files that have seen it would differ from new ones. Add a step instead.
#: What each step's text hashes to.
HASHES: Final = ("3a60ce0435622da1", "b69d2b1185d4dea6")
OLD: Final = range(1, len(STEPS))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sweeps.db"


@pytest.fixture
def content(tmp_path: Path) -> str:
    """Return all that is in the file ``full.db``, of which older ones are made."""
    with SQLiteStorage(tmp_path / "full.db") as storage:
        sweep = new_sweep(storage, retries={RunStatus.FAILED: 1})
        for number in range(6):
            run = take(sweep)
            run.start(heartbeats=True)
            run.report(loss=number / 2)
        sweep[0].finish(loss=0.5)
        sweep[1].fail("boom")
        sweep[2].stop()
        return everything(storage, "s")


def write_older(path: Path, schema: int) -> None:
    """Write a file as it was at an older schema, with the rows of ``full.db``."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for step in STEPS[:schema]:
            for statement in statements_of(step):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {schema}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("ATTACH ? AS full", (str(path.with_name("full.db")),))
        for table in ("sweep", "run", "event", "beat"):
            connection.execute(f"INSERT INTO {table} SELECT * FROM full.{table}")


def schema_of(path: Path) -> tuple[int, list[tuple[str, ...]]]:
    """Return how many steps a file has seen, and what it is made of."""
    with closing(sqlite3.connect(path)) as connection:
        (number,) = connection.execute("PRAGMA user_version").fetchone()
        return number, connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()


# --- migration ------------------------------------------------------------------------------------


def test_a_released_step_never_changes() -> None:
    found = [blake2b(step.encode(), digest_size=8).hexdigest() for step in STEPS]
    assert found[: len(HASHES)] == list(HASHES), "add a step instead of changing one that was released"
    assert len(found) == len(HASHES), "note the hash of the new step, too"


def test_each_statement_of_a_step_is_one_statement() -> None:
    """Also the last one, if it was not ended, and one with a semicolon in it."""
    step = "CREATE TABLE a (x); -- one; and only one\nCREATE TABLE b (\n  x DEFAULT ';'\n);\nCREATE TABLE c (x)\n"
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in statements_of(step):
            connection.execute(statement)
        assert [name for (name,) in connection.execute("SELECT name FROM sqlite_master")] == ["a", "b", "c"]


@pytest.mark.parametrize("schema", OLD)
def test_an_older_file_is_brought_up_to_date_and_keeps_what_is_in_it(path: Path, content: str, schema: int) -> None:
    write_older(path, schema)
    with SQLiteStorage(path, create=False) as storage:
        assert everything(storage, "s") == content
        take(Sweep.open("s", storage=storage))
    assert schema_of(path) == schema_of(path.with_name("full.db"))
    assert schema_of(path)[0] == len(STEPS)


def test_threads_and_processes_migrate_a_file_once(path: Path, content: str) -> None:
    """All of them find it up to date; a step that was taken twice would fail."""
    for number in range(3):
        file = path.with_name(f"{number}.db")
        write_older(file, 1)
        with ExitStack() as stack:
            for storage in in_threads(*[partial(SQLiteStorage, file)] * 6):
                stack.enter_context(storage)
                assert everything(storage, "s") == content
    write_older(path, 1)
    assert in_processes(migrate, *[(path,)] * 3) == [content] * 3
    assert schema_of(path) == schema_of(path.with_name("full.db"))


def test_threads_and_processes_make_a_file_once(path: Path) -> None:
    for number in range(3):
        file = path.with_name(f"{number}.db")
        with ExitStack() as stack:
            for storage in in_threads(*[partial(SQLiteStorage, file)] * 6):
                stack.enter_context(storage)
    assert in_processes(migrate, *[(path,)] * 3) == ["nothing"] * 3
    assert schema_of(path) == schema_of(path.with_name("0.db"))


FAILING: Final = """
    CREATE TABLE extra (x);
    UPDATE run SET status = 'lost';
    INSERT INTO nowhere VALUES (1);
"""


@pytest.mark.parametrize("schema", OLD)
def test_a_migration_that_fails_half_way_leaves_the_older_file(path: Path, content: str, schema: int) -> None:
    write_older(path, schema)
    before = schema_of(path)
    with patch.object(_sqlite_file, "STEPS", (*STEPS, FAILING)), pytest.raises(StorageError) as caught:
        SQLiteStorage(path)
    assert str(path) in str(caught.value)
    assert "nowhere" in str(caught.value)
    assert schema_of(path) == before
    with SQLiteStorage(path) as storage:
        assert everything(storage, "s") == content


def test_a_migration_that_is_interrupted_leaves_the_older_file(path: Path, content: str) -> None:
    write_older(path, 1)
    before = schema_of(path)

    def interrupted(step: str) -> Iterator[str]:
        yield from list(statements_of(step))[:3]
        raise KeyboardInterrupt

    with patch.object(_sqlite_file, "statements_of", interrupted), pytest.raises(KeyboardInterrupt):
        SQLiteStorage(path)
    assert schema_of(path) == before
    with SQLiteStorage(path) as storage:
        assert everything(storage, "s") == content


def test_a_file_that_could_not_be_made_whole_is_made_by_the_next(path: Path) -> None:
    with patch.object(_sqlite_file, "STEPS", (*STEPS, FAILING)), pytest.raises(StorageError):
        SQLiteStorage(path)
    with pytest.raises(StorageError, match="is empty"):
        SQLiteStorage(path, create=False)
    with SQLiteStorage(path) as storage:
        take(new_sweep(storage))
    assert schema_of(path)[0] == len(STEPS)


# --- durability -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("synchronous", "number"), [("FULL", 2), ("NORMAL", 1)])
def test_every_connection_is_as_durable_as_was_asked(path: Path, synchronous: Synchronous, number: int) -> None:
    """Also those that were made later, for threads at once, and by a copy."""
    with SQLiteStorage(path, synchronous=synchronous) as first, pickle.loads(pickle.dumps(first)) as copy:
        assert synchronous in repr(copy)
        for storage in (first, copy):
            new_sweep(storage, f"s{id(storage)}")
            with storage.turn("s"):
                storage.sweep(f"s{id(storage)}")  # a second connection, while the turn has the first
            idle = storage._file._idle
            assert len(idle) == 2
            for connection in idle:
                assert connection.execute("PRAGMA synchronous").fetchone() == (number,)
                assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
                assert connection.execute("PRAGMA fullfsync").fetchone() == (int(synchronous == "FULL"),)


_COMMITS: Final = """
import os, sys
from sweepstate import SQLiteStorage
from tests.support.sqlite import change_of, new_sweep

with SQLiteStorage(sys.argv[1], synchronous=sys.argv[2]) as storage:
    new_sweep(storage)
    for _ in range(3):
        change = change_of(storage)
        os.write(1, b"before")
        storage.commit(change)
        os.write(1, b"after")
"""


def synced(path: Path, synchronous: Synchronous) -> list[bool]:
    """Return, for each of three commits, whether the last that it wrote to the WAL was pressed onto the disk."""
    tool = shutil.which("strace")
    log, root = path.with_name("strace"), str(Path(__file__).parents[2])
    if tool is None:
        pytest.skip("strace is not installed")
    command: list[str] = [tool, "-f", "-y", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o", str(log)]
    command += [sys.executable, "-c", _COMMITS, str(path), synchronous]
    done = subprocess.run(command, check=False, capture_output=True, cwd=root, env={"PYTHONPATH": root})
    if b"Operation not permitted" in done.stderr:
        pytest.skip("processes may not be traced here")
    assert done.returncode == 0, done.stderr
    found = []
    for part in log.read_text().split('"before"')[1:]:
        calls = part[: part.index('"after"')].splitlines()
        writes = [number for number, call in enumerate(calls) if re.search(r"pwrite64\(\d+<[^>]*-wal>", call)]
        syncs = [number for number, call in enumerate(calls) if re.search(r"sync\(\d+<[^>]*-wal>", call)]
        assert writes, calls
        found.append(bool(syncs) and syncs[-1] > writes[-1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's")
def test_a_commit_returns_when_it_is_on_the_disk(path: Path) -> None:
    """With NORMAL, it returns before."""
    assert synced(path, "FULL") == [True] * 3
    assert synced(path.with_name("normal.db"), "NORMAL") == [False] * 3


def test_what_was_committed_with_normal_is_there_for_everybody(path: Path) -> None:
    with SQLiteStorage(path, synchronous="NORMAL") as storage, SQLiteStorage(path) as other:
        new_sweep(storage)
        change = change_of(storage)
        storage.commit(change)
        assert other.sweep("s") == change.sweep
