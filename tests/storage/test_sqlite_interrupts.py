"""What Ctrl-C and forks do to ``SQLiteStorage``, at any moment: nothing is half, lost, or left locked."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from sweepstate import SQLiteStorage
from sweepstate.core.questions import ByIndex
from sweepstate.storage import _sqlite_desk, _sqlite_file, _sqlite_forks, sqlite
from sweepstate.testing.contract.together import PATIENCE
from sweepstate.testing.contract.world import World, assert_whole, everything
from sweepstate.testing.laws import check_laws
from tests.support.sqlite import assert_usable, change_of, new_sweep, take, watching_writes

# Who is interrupted between two steps leaves a connection to the garbage collector, which closes it; Python 3.13 tells.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*sqlite3.Connection:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect what was left, before another test is told of it."""
    yield
    gc.collect()


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SQLiteStorage]:
    """Give a storage with a sweep "s", of which one run was handed out."""
    with SQLiteStorage(tmp_path / "sweeps.db") as made:
        take(new_sweep(made))
        yield made


# --- interrupts -----------------------------------------------------------------------------------

_OURS: Final = {each.__file__ for each in (sqlite, _sqlite_desk, _sqlite_file, _sqlite_forks)}


class _Interrupt:
    """Raises KeyboardInterrupt where the interpreter would: when a function begins, and after a call of C."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event in {"call", "c_return"} and frame.f_code.co_filename in _OURS:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def _interrupted(action: Callable[[], object], n: int) -> bool:
    """Do something, and be interrupted at the n-th place; return whether there are so many."""
    interrupt = _Interrupt(n)
    sys.setprofile(interrupt)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return interrupt.left <= 0


def _turn_of(storage: SQLiteStorage, change: Any) -> None:
    with storage.turn("s") as turn:
        turn.sweep("s")
        turn.commit(change)


@pytest.mark.parametrize("fresh", [False, True], ids=["warm", "new connection"])
@pytest.mark.parametrize("how", ["commit", "turn", "beat", "read"])
def test_an_interrupt_anywhere_leaves_a_commit_whole_or_absent_and_nothing_locked(
    storage: SQLiteStorage, how: str, *, fresh: bool
) -> None:
    """Ctrl-C at each place where Python would notice it."""
    for n in count(1):
        before, change = storage.sweep("s"), change_of(storage)
        actions: dict[str, Callable[[], object]] = {
            "commit": partial(storage.commit, change),
            "turn": partial(_turn_of, storage, change),
            "beat": partial(storage.beat, "s", 0, 1, 1e9 + n, None),
            "read": partial(storage.runs, "s", ByIndex(), limit=1),
        }
        if fresh:
            storage._file.close_idle()
        reached = _interrupted(actions[how], n)
        after = storage.sweep("s")
        assert after in (before, change.sweep)
        assert not storage._file.writing.locked()
        if after == change.sweep:
            assert storage.events("s", after=before.events, limit=9) == list(change.events)
        assert_usable(storage)
        if not reached:
            assert n > 5
            break
    check_laws(storage, "s")


def test_an_interrupt_between_two_rows_undoes_the_first(storage: SQLiteStorage) -> None:
    world = World(storage, "w")
    world.take_many(3)
    before = everything(storage, "w")
    for n in range(1, 6):
        left = n

        def written(_: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        with watching_writes(storage, written), pytest.raises(KeyboardInterrupt):
            world.take_many(3)
        assert everything(storage, "w") == before
    world.take_many(3)
    assert_whole(storage, "w")


# --- forks ----------------------------------------------------------------------------------------

_FORKS: Final = """
import os, sys, time, traceback, warnings
from threading import Event, Thread
warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads, since Python 3.12
from sweepstate import Conflict, SQLiteStorage, StorageError
from sweepstate.testing.contract.world import World
from tests.support.sqlite import change_of, new_sweep, take

path = sys.argv[1]
storage = SQLiteStorage(path)
sweep = new_sweep(storage, points=1000)
take(sweep)

def fork(work):
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def wait(*children):
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
"""


def run_forking(path: Path, script: str) -> None:
    """Run a script in a process of its own, that may fork."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", _FORKS + script, str(path)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=PATIENCE, cwd=root, env={"PYTHONPATH": root}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


only_forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")


@only_forking
def test_what_a_forked_child_commits_outlives_its_parent(tmp_path: Path) -> None:
    """SQLite in the child would count the parent's locks as its own; the parent's end then took the WAL with it."""
    script = """
    told, tell = os.pipe()
    heard, hear = os.pipe()

    def work():
        take(sweep)
        os.write(tell, b"x")
        os.read(heard, 1)
        take(sweep)

    child = fork(work)
    os.read(told, 1)
    take(sweep)
    storage.close()
    assert os.path.exists(path + "-wal"), "the child has it open"
    os.write(hear, b"x")
    wait(child)
    assert SQLiteStorage(path).sweep("s").created == 4
    """
    run_forking(tmp_path / "sweeps.db", _dedent(script))


@only_forking
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_connection_is_inherited(tmp_path: Path) -> None:
    script = """
    def names():
        found = [os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")[:-1]]
        return [each for each in found if each.startswith(path)]

    assert names()
    def work():
        assert not names(), names()
        assert storage.sweep("s").created == 1
        assert names()
    wait(fork(work))
    take(sweep)
    """
    run_forking(tmp_path / "sweeps.db", _dedent(script))


@only_forking
def test_forks_in_the_middle_of_commits_of_other_threads(tmp_path: Path) -> None:
    """Parent and children all go on, and everything that any of them committed is there."""
    script = """
    over, made = Event(), []
    def claim():
        while True:
            try:
                return World(storage, create=False).take()
            except Conflict:
                pass
    def commit():
        while not over.is_set():
            claim()
            made.append(1)
    threads = [Thread(target=commit) for _ in range(2)]
    for thread in threads:
        thread.start()
    children = [fork(lambda: [claim() for _ in range(3)]) for _ in range(8)]
    wait(*children)
    over.set()
    for thread in threads:
        thread.join()
    created = 1 + 8 * 3 + len(made)
    assert sweep.refresh().state.created == created, (sweep.state.created, created)
    storage.close()
    assert SQLiteStorage(path).sweep("s").created == created
    """
    run_forking(tmp_path / "sweeps.db", _dedent(script))
    with SQLiteStorage(tmp_path / "sweeps.db") as storage:
        check_laws(storage, "s")


@only_forking
def test_a_child_that_was_forked_within_a_turn_may_not_use_the_file(tmp_path: Path) -> None:
    """It is told so, whatever it tries; and the parent's turn goes on."""
    script = """
    elsewhere = SQLiteStorage(path + "2")
    def refused(call):
        try:
            call()
        except StorageError as error:
            assert path in str(error), error
            return str(error)
        raise AssertionError("was not refused")
    def work():
        assert "this turn is over" in str(refused_turn())
        for call in (lambda: storage.sweep("s"), lambda: storage.commit(change), lambda: SQLiteStorage(path)):
            assert "when this process was forked" in refused(call)
        new_sweep(elsewhere)
    def refused_turn():
        try:
            turn.commit(change)
        except StorageError as error:
            return error
    with storage.turn("s") as turn:
        change = change_of(turn)
        child = fork(work)
        wait(child)
        turn.commit(change)
    assert storage.sweep("s") == change.sweep
    take(new_sweep(storage, "more"))
    assert elsewhere.sweep("s").version == 1

    # The child leaves the turn as its parent would.
    with storage.turn("s") as turn:
        if os.fork() == 0:
            left = True
        else:
            left = False
            os.wait()
            turn.commit(change_of(turn))
    if left:
        os._exit(0)
    assert storage.sweep("s").version == change.version + 2
    """
    run_forking(tmp_path / "sweeps.db", _dedent(script))


@only_forking
def test_pools_of_forked_processes(tmp_path: Path) -> None:
    """As many start them; the storage goes to them by inheritance or in a pickle."""
    script = """
    import multiprocessing
    context = multiprocessing.get_context("fork")
    def claim(given):
        return take(sweep if given is None else given).index
    with context.Pool(3) as pool:
        first = pool.map(claim, [None] * 6)
        second = pool.map(claim, [sweep] * 6)
    assert sorted(first + second) == list(range(1, 13)), (first, second)
    assert sweep.refresh().state.created == 13
    """
    run_forking(tmp_path / "sweeps.db", _dedent(script))


def _dedent(script: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in script.splitlines())
