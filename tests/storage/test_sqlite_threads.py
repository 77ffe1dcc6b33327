"""``SQLiteStorage`` in use by many: connections, what is remembered, turns, and those who wait for theirs."""

from __future__ import annotations

import pickle
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import pytest

from sweepstate import AlreadyExists, Conflict, Run, SQLiteStorage, StorageError, Sweep, SweepNotFound
from sweepstate.core.decide import elapse
from sweepstate.core.questions import ByIndex
from sweepstate.storage import _sqlite_forks, sqlite
from sweepstate.testing.contract.together import PATIENCE, in_threads
from sweepstate.testing.contract.world import World, everything
from sweepstate.testing.laws import check_laws
from tests.support.sqlite import assert_usable, change_of, new_sweep, take


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SQLiteStorage]:
    """Give a storage with a sweep "s", of which one run was handed out."""
    with SQLiteStorage(tmp_path / "sweeps.db") as made:
        take(new_sweep(made))
        yield made


def open_files(storage: SQLiteStorage) -> int:
    """Return how many connections this process has to a storage's file, by what they open beside it."""
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += str(each.readlink()) == f"{storage.path}-wal"
    return found


only_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


# --- connections ----------------------------------------------------------------------------------


@only_linux
def test_connections_are_as_many_as_are_needed_and_few_are_kept(storage: SQLiteStorage) -> None:
    """Twenty threads in the middle of reading have twenty; afterwards, eight wait for the next."""
    gate = Barrier(20)

    def read() -> int:
        def wait(_: object) -> None:
            gate.wait(PATIENCE)
            gate.wait(PATIENCE)

        storage._read(wait)
        return open_files(storage)

    in_threads(*[read] * 20)
    assert len(storage._file._idle) == open_files(storage) == 8
    for _ in range(50):
        storage.sweep("s")
    assert open_files(storage) == 8
    storage.close()
    assert open_files(storage) == 0


@only_linux
def test_one_thread_needs_one_connection(storage: SQLiteStorage) -> None:
    for _ in range(20):
        storage.commit(change_of(storage))
        storage.runs("s", ByIndex(), limit=1)
    assert open_files(storage) == 1


@only_linux
def test_a_storage_that_is_forgotten_is_closed(tmp_path: Path) -> None:
    storage = SQLiteStorage(tmp_path / "sweeps.db")
    with SQLiteStorage(tmp_path / "sweeps.db") as other:
        new_sweep(storage)
        assert open_files(other) == 2
        file = id(storage._file)
        del storage
        assert open_files(other) == 1
        assert file not in _sqlite_forks.files


def test_a_closed_storage_says_so(storage: SQLiteStorage) -> None:
    change = change_of(storage)
    storage.close()
    storage.close()
    calls: list[Callable[[], object]] = [
        lambda: storage.sweep("s"),
        lambda: storage.runs("s", ByIndex(), limit=1),
        lambda: storage.events("s", limit=1),
        lambda: storage.commit(change),
        lambda: storage.beat("s", 0, 1, 1e9, None),
        lambda: storage.last_heard("s", []),
        lambda: storage.last_metrics("s", 0),
        lambda: storage.sweeps(limit=1),
        lambda: storage.delete("s"),
        lambda: storage.turn("s").__enter__(),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="was closed; make a new SQLiteStorage"):
            call()
    assert str(storage.path) in repr(storage)
    with SQLiteStorage(storage.path) as again:
        assert again.sweep("s").version == change.version


@only_linux
def test_what_is_in_use_when_a_storage_is_closed_is_finished(storage: SQLiteStorage) -> None:
    with storage.turn("s") as turn:
        change = change_of(turn)
        storage.close()
        turn.commit(change)
    assert open_files(storage) == 0
    with SQLiteStorage(storage.path) as again:
        assert again.sweep("s") == change.sweep


def test_a_pickle_opens_the_same_file_as_it_was_opened(storage: SQLiteStorage, tmp_path: Path) -> None:
    """And makes none where it is not there any more."""
    with SQLiteStorage(storage.path, synchronous="NORMAL", timeout=7) as given:
        text = pickle.dumps(given)
        with pickle.loads(text) as copy:
            assert repr(copy) == repr(given)
            assert everything(copy, "s") == everything(storage, "s")
    storage.close()
    storage.path.unlink()
    with pytest.raises(StorageError, match="there is no such file"):
        pickle.loads(text)
    assert not storage.path.exists()


# --- what is remembered ----------------------------------------------------------------------------


def test_a_sweep_that_another_handle_deleted_is_not_remembered(storage: SQLiteStorage) -> None:
    change = change_of(storage)
    with SQLiteStorage(storage.path) as other:
        other.delete("s")
    calls: list[Callable[[], object]] = [
        lambda: storage.sweep("s"),
        lambda: storage.runs("s", ByIndex(), limit=1),
        lambda: storage.events("s", limit=1),
        lambda: storage.commit(change),
        lambda: storage.beat("s", 0, 1, 1e9, None),
        lambda: storage.last_heard("s", [(0, 1)]),
        lambda: storage.last_metrics("s", 0),
        lambda: storage.delete("s"),
    ]
    for call in calls:
        with pytest.raises(SweepNotFound):
            call()
    with pytest.raises(AlreadyExists):
        new_sweep(storage)


def test_more_sweeps_than_are_remembered(storage: SQLiteStorage) -> None:
    for number in range(150):
        World(storage, f"w{number}")
    assert [storage.sweep(f"w{number}").version for number in range(150)] == [1] * 150
    assert len(storage._file._known.sweeps) <= 64


def test_an_unchanged_snapshot_is_not_read_again(storage: SQLiteStorage) -> None:
    assert storage.sweep("s") is storage.sweep("s")
    with SQLiteStorage(storage.path) as other:
        change = change_of(other)
        other.commit(change)
    assert storage.sweep("s") == change.sweep


def test_a_commit_that_was_not_made_is_not_remembered(storage: SQLiteStorage) -> None:
    """Although a turn had written it when a heartbeat was found to contradict it."""
    world = World(storage, "silent")
    world.promise()
    world.clock.advance(301)
    with storage.turn("silent") as turn:
        inside = World(turn, "silent", create=False, clock=world.clock)
        change = inside.change(elapse)
        turn.beat("silent", 0, 1, world.clock() - 1, None)
        with pytest.raises(Conflict):
            turn.commit(change)
        with pytest.raises(StorageError, match="this turn is over"):
            turn.sweep("silent")
    assert storage.sweep("silent").version == change.version
    world.take()
    with SQLiteStorage(storage.path) as other:
        assert storage.sweep("silent") == other.sweep("silent") != change.sweep


def test_numbers_that_sqlite_does_not_know_are_those_of_nothing(storage: SQLiteStorage) -> None:
    huge = 2**80
    assert len(storage.runs("s", ByIndex(), limit=huge)) == 1
    assert storage.runs("s", ByIndex(), after=huge, limit=1) == []
    assert storage.runs("s", ByIndex(), limit=-1) == []
    assert storage.events("s", after=huge, limit=1) == []
    assert storage.last_heard("s", [(huge, 1), (0, huge)]) == [None, None]
    assert storage.last_metrics("s", huge) is None
    assert storage.sweeps(limit=-1) == []


# --- turns ----------------------------------------------------------------------------------------


def test_a_thread_does_not_wait_for_its_own_turn(storage: SQLiteStorage) -> None:
    """Which would be for ever; it is told at once, and the turn goes on."""
    started = time.monotonic()
    with storage.turn("s") as turn:
        change = change_of(turn)
        calls: list[Callable[[], object]] = [
            lambda: storage.commit(change),
            lambda: storage.beat("s", 0, 1, 1e9, None),
            lambda: storage.turn("s").__enter__(),
            lambda: storage.delete("s"),
        ]
        for call in calls:
            with pytest.raises(StorageError, match="use the storage that the turn gave"):
                call()
        assert storage.sweep("s").version == change.version
        turn.commit(change)
    assert time.monotonic() - started < 20
    assert storage.sweep("s") == change.sweep
    assert_usable(storage)


def test_a_turn_is_over_when_it_was_committed_to_or_left(storage: SQLiteStorage) -> None:
    """What has kept it cannot write into the turn that somebody else has now, by the same connection."""
    with storage.turn("s") as turn:
        turn.commit(change_of(turn))
        late = change_of(storage)
        _assert_over(turn, late)
    with storage.turn("s") as other:
        _assert_over(turn, late)
        assert other.sweep("s").version == late.version
    _assert_over(other, late)
    assert storage.sweep("s").version == late.version
    assert storage.last_heard("s", [(0, 1)]) == [None]


def _assert_over(turn: sqlite.Turn, change: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: turn.sweep("s"),
        lambda: turn.runs("s", ByIndex(), limit=1),
        lambda: turn.events("s", limit=1),
        lambda: turn.commit(change),
        lambda: turn.beat("s", 0, 1, 1e9, None),
        lambda: turn.last_heard("s", [(0, 1)]),
        lambda: turn.last_metrics("s", 0),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="this turn is over"):
            call()


def test_a_heartbeat_in_a_turn_is_kept_with_its_commit(storage: SQLiteStorage) -> None:
    with storage.turn("s") as turn:
        turn.beat("s", 0, 1, 1e9, {"loss": 0.5})
        assert turn.last_heard("s", [(0, 1)]) == [1e9]
    assert storage.last_heard("s", [(0, 1)]) == [None]
    with storage.turn("s") as turn:
        turn.beat("s", 0, 1, 1e9, {"loss": 0.5})
        turn.commit(change_of(turn))
    assert storage.last_heard("s", [(0, 1)]) == [1e9]
    assert storage.last_metrics("s", 0) == {"loss": 0.5}


def test_a_turn_of_one_sweep_is_not_anothers(storage: SQLiteStorage) -> None:
    new_sweep(storage, "other")
    change = change_of(storage, "other")
    with storage.turn("s") as turn, pytest.raises(StorageError, match="'other'"):
        turn.commit(change)
    assert storage.sweep("other").version == change.version


def test_an_error_of_sqlite_that_is_somebody_elses_is_left_as_it_is(storage: SQLiteStorage) -> None:
    error = sqlite3.OperationalError("of another database")
    with pytest.raises(sqlite3.OperationalError) as caught, storage.turn("s"):
        raise error
    assert caught.value is error
    assert_usable(storage)


def test_a_turn_that_was_never_left_ends_when_it_is_forgotten(storage: SQLiteStorage) -> None:
    context = storage.turn("s")
    context.__enter__()
    del context
    assert_usable(storage)


# --- waiting --------------------------------------------------------------------------------------


def test_who_waits_for_another_process_takes_no_processor_and_comes_soon(storage: SQLiteStorage) -> None:
    """As another connection has the file, which is all that SQLite sees of another process."""
    change = change_of(storage)
    done: list[float] = []
    with closing(sqlite3.connect(storage.path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")

        def commit() -> None:
            storage.commit(change)
            done.append(time.monotonic())

        waiting = Thread(target=commit)
        used = time.process_time()
        waiting.start()
        waiting.join(1.0)
        used = time.process_time() - used
        assert waiting.is_alive()
        other.execute("ROLLBACK")
        free = time.monotonic()
        waiting.join(PATIENCE)
    assert used < 0.1  # of one second
    assert done[0] - free < 1.0
    assert storage.sweep("s") == change.sweep


def test_threads_that_wait_for_a_turn_give_up_after_the_timeout(storage: SQLiteStorage) -> None:
    with SQLiteStorage(storage.path, timeout=0.1) as hasty:
        change = change_of(hasty)
        begun, over = Event(), Event()

        def hold() -> None:
            with hasty.turn("s"):
                begun.set()
                assert over.wait(PATIENCE)

        def wait() -> None:
            assert begun.wait(PATIENCE)
            try:
                with pytest.raises(StorageError, match=r"was locked by others for more than 0\.1 s"):
                    hasty.commit(change)
            finally:
                over.set()

        in_threads(hold, wait)
        hasty.commit(change)


def test_many_threads_claim_every_point_once(storage: SQLiteStorage) -> None:
    """Eight of them, with readers among them."""
    sweep = new_sweep(storage, "many", points=64)

    def claim(name: str) -> list[int]:
        handle, claimed = Sweep.open("many", storage=storage), []
        while isinstance(run := handle.next_run(name), Run):
            claimed.append(run.index)
            storage.runs("many", ByIndex(), limit=5)
        return claimed

    claimed = in_threads(*[partial(claim, f"worker {n}") for n in range(8)])
    assert sorted(index for each in claimed for index in each) == list(range(64))
    assert sweep.refresh().state.created == 64
    check_laws(storage, "many")
