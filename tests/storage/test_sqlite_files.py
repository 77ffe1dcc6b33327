"""What may be wrong with a file, and what ``SQLiteStorage`` says of it: which file, what, and what to do."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pytest

from sweepstate import InvalidValue, SQLiteStorage, Storage, StorageError, Sweep
from sweepstate.core.questions import ByIndex
from sweepstate.storage._sqlite_schema import STEPS
from tests.support.sqlite import PAGE, change_of, filled, new_sweep, problem, take


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sweeps.db"


@pytest.fixture
def storage(path: Path) -> Iterator[SQLiteStorage]:
    """Give a storage with a sweep "s", of which one run was handed out."""
    with SQLiteStorage(path, timeout=0.05) as made:
        take(new_sweep(made))
        yield made


def read_all(storage: Storage) -> list[Any]:
    runs, events = storage.runs("s", ByIndex(), limit=10_000), storage.events("s", limit=10_000)
    return [storage.sweep("s"), *runs, *events]


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def files_in(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", ":memory:", b"sweeps.db", 7, None, "a\0b"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(InvalidValue, match="path"):
        SQLiteStorage(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("synchronous", "OFF"),
        ("synchronous", "full"),
        ("synchronous", None),
        ("timeout", -1),
        ("timeout", float("nan")),
        ("timeout", "1"),
        ("create", 1),
    ],
)
def test_other_arguments_are_refused_before_a_file_is_made(path: Path, field: str, value: object) -> None:
    arguments: dict[str, Any] = {field: value}
    with pytest.raises(InvalidValue, match=field):
        SQLiteStorage(path, **arguments)
    assert files_in(path) == []


def test_any_name_of_a_file_will_do(tmp_path: Path) -> None:
    """Signs that mean something in a URI, and bytes that are no UTF-8."""
    for name in ("what? is%20this#here&mode=ro.db", "file:x", "söl.db", os.fsdecode(b"\xff\xfe.db"), " "):
        with SQLiteStorage(tmp_path / name) as storage:
            take(new_sweep(storage))
        assert (tmp_path / name).exists()
        with SQLiteStorage(tmp_path / name, create=False) as storage:
            assert storage.sweep("s").created == 1


def test_a_relative_path_is_found_after_the_directory_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with SQLiteStorage("sweeps.db") as storage:
        new_sweep(storage)
        monkeypatch.chdir("/")
        assert storage.path == tmp_path / "sweeps.db"
        storage._file.close_idle()
        assert storage.sweep("s").id == "s"


def test_a_timeout_may_be_longer_than_anybody_lives(path: Path) -> None:
    with SQLiteStorage(path, timeout=1e300) as storage:
        new_sweep(storage)


# --- what is not there ----------------------------------------------------------------------------


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "sweeps.db"
    problem(lambda: SQLiteStorage(path), path, "there is no directory", str(path.parent), "make it first")
    problem(lambda: SQLiteStorage(path, create=False), path, "there is no directory", "make it first")
    path.parent.mkdir()
    SQLiteStorage(path).close()


def test_a_file_in_the_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    path = tmp_path / "file" / "sweeps.db"
    problem(lambda: SQLiteStorage(path), path, "there is no directory")


def test_a_directory_in_the_place_of_a_file(tmp_path: Path) -> None:
    problem(lambda: SQLiteStorage(tmp_path), tmp_path, "it is a directory")


def test_no_file_where_none_is_to_be_made(path: Path) -> None:
    problem(lambda: SQLiteStorage(path, create=False), path, "there is no such file", "create=True")
    assert files_in(path) == []


def test_an_empty_file_becomes_one_of_ours_only_where_one_may_be_made(path: Path) -> None:
    path.touch()
    problem(lambda: SQLiteStorage(path, create=False), path, "is empty", "create=True")
    assert path.read_bytes() == b""
    with SQLiteStorage(path) as storage:
        new_sweep(storage)


# --- what is not ours -----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["x", "epoch,loss\n" * 1_000], ids=["short", "long"])
def test_a_file_that_is_no_database_is_left_as_it_is(path: Path, text: str) -> None:
    path.write_text(text)
    problem(lambda: SQLiteStorage(path), path, "not a database", "give another path")
    assert path.read_text() == text
    assert files_in(path) == [path.name]


@pytest.mark.parametrize(
    "made_by",
    ["CREATE TABLE theirs (x)", "PRAGMA user_version = 1", "PRAGMA application_id = 7"],
)
def test_another_applications_database_is_left_as_it_is(path: Path, made_by: str) -> None:
    edit(path, made_by)
    before = path.read_bytes()
    problem(lambda: SQLiteStorage(path), path, "another application's database", "a path of its own")
    assert path.read_bytes() == before
    assert files_in(path) == [path.name]


def test_a_file_of_a_newer_version_is_left_as_it_is(path: Path) -> None:
    filled(path)
    edit(path, f"PRAGMA user_version = {len(STEPS) + 1}")
    with closing(sqlite3.connect(path)) as connection:  # so that none of it is in a WAL
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()
    problem(lambda: SQLiteStorage(path), path, "newer version", f"schema {len(STEPS) + 1}", "update sweepstate")
    assert path.read_bytes() == before
    edit(path, f"PRAGMA user_version = {len(STEPS)}")
    with SQLiteStorage(path) as storage:
        assert storage.sweep("s").created == 1


def test_nothing_is_written_to_a_file_that_a_newer_version_has_migrated_meanwhile(storage: SQLiteStorage) -> None:
    """It may want more of each row than this version knows."""
    change = change_of(storage)
    edit(storage.path, f"PRAGMA user_version = {len(STEPS) + 1}")
    problem(lambda: storage.commit(change), storage.path, "newer version", "update sweepstate")
    problem(lambda: storage.beat("s", 0, 1, 1e9, None), storage.path, "newer version")
    assert storage.sweep("s").version == change.version
    assert storage.last_heard("s", [(0, 1)]) == [None]


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.9, 0.5, 0.05])
def test_a_truncated_file(path: Path, part: float) -> None:
    whole = filled(path, 300)
    path.write_bytes(whole[: int(len(whole) * part)])
    torn = path.read_bytes()
    problem(lambda: SQLiteStorage(path), path, "the file is damaged", "restore it from a backup")
    assert path.read_bytes() == torn
    path.write_bytes(whole)
    with SQLiteStorage(path) as storage:
        assert storage.sweep("s").created == 300


def test_a_file_of_which_only_some_bytes_are_left(path: Path) -> None:
    whole = filled(path)
    for length in (1, 50, 99, 512):
        path.write_bytes(whole[:length])
        problem(lambda: SQLiteStorage(path), path, "restore it from a backup")


def test_an_overwritten_header(path: Path) -> None:
    whole = filled(path)
    path.write_bytes(b"\0" * 100 + whole[100:])
    problem(lambda: SQLiteStorage(path), path, "not a database")


@pytest.mark.parametrize("seed", range(12))
def test_pages_of_garbage_are_found_where_they_are_read(path: Path, seed: int) -> None:
    """Whatever is hit: what can be read is what was written, and the rest is an error that names the file."""
    whole = filled(path, 300)
    with SQLiteStorage(path) as storage:
        before = read_all(storage)
    pages, chance = len(whole) // PAGE, Random(seed)
    assert pages > 100
    torn = bytearray(whole)
    for page in chance.sample(range(1, pages), pages // 4):
        torn[page * PAGE : (page + 1) * PAGE] = chance.randbytes(PAGE)
    path.write_bytes(torn)
    with pytest.raises(StorageError) as caught, SQLiteStorage(path) as storage:
        read_all(storage)
    assert str(path) in str(caught.value)
    assert "restore it from a backup" in str(caught.value)
    path.write_bytes(whole)
    for rest in ("-wal", "-shm"):
        Path(f"{path}{rest}").unlink(missing_ok=True)
    with SQLiteStorage(path) as storage:
        assert read_all(storage) == before


BODIES = {
    "half": '{"format":1,"ind',
    "another kind": "null",
    "a list": "[]",
    "bottomless": "[" * 200_000,
    "of the future": '{"format":999}',
    "no text": b"\x80\x81",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_damaged_row_is_named_and_the_others_are_read(storage: SQLiteStorage, body: object) -> None:
    take(Sweep.open("s", storage=storage))
    with closing(sqlite3.connect(storage.path)) as connection, connection:
        connection.execute("UPDATE run SET body = CAST(? AS TEXT) WHERE number = 0", (body,))
        connection.execute("UPDATE event SET body = CAST(? AS TEXT) WHERE number = 2", (body,))
    problem(lambda: storage.runs("s", ByIndex(), limit=1), storage.path)
    problem(lambda: storage.events("s", after=1, limit=1), storage.path)
    if isinstance(body, str):
        problem(lambda: storage.runs("s", ByIndex(), limit=1), storage.path, "run 0 of sweep 's'")
        problem(lambda: storage.events("s", limit=9), storage.path, "event of sweep 's'")
    else:
        problem(lambda: storage.runs("s", ByIndex(), limit=1), storage.path, "the file is damaged")
    assert [run.index for run in storage.runs("s", ByIndex(), after=0, limit=9)] == [1]
    assert storage.sweep("s").created == 2


def test_a_damaged_sweep_is_named(storage: SQLiteStorage) -> None:
    new_sweep(storage, "other")
    edit(storage.path, "UPDATE sweep SET body = '{}', version = 99 WHERE id = 's'")
    problem(lambda: storage.sweep("s"), storage.path, "sweep 's'")
    problem(lambda: storage.sweeps(limit=9), storage.path, "sweep 's'")
    assert storage.sweep("other").id == "other"


def test_damaged_metrics_are_named(storage: SQLiteStorage) -> None:
    storage.beat("s", 0, 1, 1e9, {"loss": 0.5})
    edit(storage.path, "UPDATE beat SET metrics = '{'")
    problem(lambda: storage.last_metrics("s", 0), storage.path, "metrics of run 0 of sweep 's'")


# --- what happens while it is open ----------------------------------------------------------------


def test_a_file_that_was_moved_away_is_missed_and_found_again(storage: SQLiteStorage, tmp_path: Path) -> None:
    change = change_of(storage)
    elsewhere = tmp_path / "elsewhere.db"
    for fresh in (False, True):
        if fresh:
            storage._file.close_idle()  # so that a connection would be made: it must not make a file
        storage.path.rename(elsewhere)
        problem(lambda: storage.commit(change), storage.path, "cannot be found any more", "put it back")
        problem(lambda: storage.sweep("s"), storage.path, "cannot be found any more")
        assert not storage.path.exists()
        elsewhere.rename(storage.path)
    storage.commit(change)
    assert storage.sweep("s") == change.sweep


def test_a_file_that_is_removed_when_a_connection_is_made_is_not_made_anew(storage: SQLiteStorage) -> None:
    """Just after it was seen: an empty one in its place would have lost everything, and not say so."""
    identity = storage._file._identity
    assert identity is not None
    storage._file.close_idle()
    storage.path.unlink()
    with patch.object(storage._file, "_look", lambda: identity):
        problem(lambda: storage.sweep("s"), storage.path)
    assert not storage.path.exists()


def test_a_file_that_was_replaced_is_not_mistaken_for_the_one_that_was_opened(
    storage: SQLiteStorage, tmp_path: Path
) -> None:
    """Even if the other one is a copy: what is committed to either is not seen by who has the other."""
    with SQLiteStorage(tmp_path / "other.db") as other:
        new_sweep(other, "another")
    change = change_of(storage)
    (tmp_path / "other.db").replace(storage.path)
    for fresh in (False, True):
        if fresh:
            storage._file.close_idle()
        problem(lambda: storage.commit(change), storage.path, "was replaced", "make a new SQLiteStorage")
        problem(lambda: storage.sweep("s"), storage.path, "was replaced")
        problem(lambda: storage.turn("s").__enter__(), storage.path, "was replaced")


def test_a_file_locked_by_others_is_given_up_after_the_timeout(storage: SQLiteStorage) -> None:
    """Commits, heartbeats, turns and deletions; reading waits for nobody."""
    change = change_of(storage)
    calls: list[Callable[[], object]] = [
        lambda: storage.commit(change),
        lambda: storage.beat("s", 0, 1, 1e9, None),
        lambda: storage.turn("s").__enter__(),
        lambda: storage.delete("s"),
    ]
    with closing(sqlite3.connect(storage.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for call in calls:
            problem(call, storage.path, "was locked by others for more than 0.05 s", "pass a longer timeout")
        assert storage.sweep("s").version == change.version
        other.execute("ROLLBACK")
    storage.commit(change)
    assert storage.sweep("s") == change.sweep
