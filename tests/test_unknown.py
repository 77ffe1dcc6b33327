"""What both shells make of a commit whose answer was lost: it is made again, which tells what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sweepstate import (
    AlreadyExists,
    AsyncRun,
    AsyncSweep,
    Change,
    Conflict,
    Grid,
    IdleReason,
    MemoryStorage,
    OutcomeUnknown,
    RunStatus,
    StorageError,
    Sweep,
    SweepStatus,
    ThreadedStorage,
)


class Cut(MemoryStorage):
    """The answer to the n-th commit is lost: the commit was made (``made``), or was not.

    ``down`` further commits are not answered at all.
    """

    def __init__(self, n: int, *, made: bool, down: int = 0) -> None:
        super().__init__()
        self.left = n
        self.made = made
        self.down = down
        self.meanwhile: Callable[[], object] = lambda: None

    def commit(self, change: Change) -> None:
        self.left -= 1
        if self.left == 0:
            if self.made:
                super().commit(change)
            self.meanwhile()
            raise OutcomeUnknown("the connection was lost")
        if self.left < 0 and self.down:
            self.down -= 1
            raise StorageError("the server is down")
        super().commit(change)


def execute(storage: MemoryStorage) -> None:
    sweep = Sweep(Grid({"x": [1, float("nan")]}), id="s", storage=storage, clock=lambda: 5.0)
    sweep.pause("lunch")
    sweep.resume()
    assert sweep.execute(lambda _run: {"loss": float("nan")}).reason is IdleReason.ENDED


async def execute_async(storage: MemoryStorage) -> None:
    threaded = ThreadedStorage(storage, threads=0)
    sweep = await AsyncSweep.create(Grid({"x": [1, float("nan")]}), id="s", storage=threaded, clock=lambda: 5.0)
    await sweep.pause("lunch")
    await sweep.resume()

    async def train(_run: AsyncRun) -> dict[str, float]:
        return {"loss": float("nan")}

    assert (await sweep.execute(train)).reason is IdleReason.ENDED


def execute_awaited(storage: MemoryStorage) -> None:
    asyncio.run(execute_async(storage))


SHELLS = pytest.mark.parametrize("shell", [execute, execute_awaited], ids=["Sweep", "AsyncSweep"])
#: Creation, pause, resume, and a claim and an end for each of two runs.
COMMITS = 7
CLAIMS = (4, 6)


@SHELLS
@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
@pytest.mark.parametrize("n", range(1, COMMITS + 1))
def test_an_answer_that_was_lost_is_found_out(shell: Callable[[Any], None], n: int, *, made: bool) -> None:
    """Nothing is done twice. But whose a claim is that is there and has no request id, nobody can say."""
    cut, whole = Cut(n, made=made), MemoryStorage()
    if made and n in CLAIMS:
        with pytest.raises(OutcomeUnknown):
            shell(cut)
        return
    shell(cut)
    shell(whole)
    assert cut.left < 0
    assert str(cut.events("s", limit=99)) == str(whole.events("s", limit=99))
    assert cut.sweep("s").counts[RunStatus.FINISHED] == 2


@SHELLS
@pytest.mark.parametrize("n", range(1, COMMITS + 1))
def test_where_nobody_can_say_the_caller_is_told(shell: Callable[[Any], None], n: int) -> None:
    with pytest.raises(OutcomeUnknown, match="the connection was lost"):
        shell(Cut(n, made=True, down=1))


@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
def test_who_came_first_meanwhile_came_first(*, made: bool) -> None:
    """What was not made is decided again on what is there now; what was made stays made."""
    storage = Cut(2, made=made)
    sweep = Sweep(Grid({"x": [1, 2]}), id="s", storage=storage)
    other = Sweep.open("s", storage=storage)
    storage.meanwhile = lambda: other.stop(actor="bob")
    caused = sweep.stop(actor="ada")
    assert [event.actor for event in caused] == (["ada"] if made else [])
    assert [event.actor for event in sweep.history()][1:] == (["ada"] if made else ["bob"])
    assert sweep.refresh().status is SweepStatus.STOPPED


def test_a_sweep_that_somebody_else_created_meanwhile_is_theirs() -> None:
    storage = Cut(1, made=False)
    storage.meanwhile = lambda: Sweep(Grid({"x": [1]}), id="s", storage=storage, actor="bob")
    with pytest.raises(AlreadyExists):
        Sweep(Grid({"x": [1, 2]}), id="s", storage=storage)
    assert storage.sweep("s").size == 1


def test_a_handing_out_that_others_outran_meanwhile_begins_anew() -> None:
    storage = Cut(2, made=False)
    sweep = Sweep(Grid({"x": [1, 2]}), id="s", storage=storage)
    other = Sweep.open("s", storage=storage)
    storage.meanwhile = lambda: other.next_run("bob")
    run = sweep.next_run("ada")
    assert run
    assert run.index == 1


@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
def test_a_request_is_answered_whatever_became_of_the_first_answer(*, made: bool) -> None:
    """A claim with a request id can only be the one who asked."""
    sweep = Sweep(Grid({"x": [1, 2]}), id="s", storage=Cut(2, made=made))
    run = sweep.next_run("ada", "r1")
    assert run
    assert run.index == 0
    assert sweep.refresh().state.created == 1


@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
def test_an_execution_is_begun_once(*, made: bool) -> None:
    """Of two who begin one attempt at the same moment, and one learns nothing, never both are told that they may."""
    storage = Cut(3, made=made)
    sweep = Sweep(Grid({"x": [1]}), id="s", storage=storage, clock=lambda: 5.0)
    run = sweep.next_run("ada")
    assert run
    twin = Sweep.open("s", storage=storage, clock=lambda: 5.0).run_of(run.token)
    begun: list[object] = []
    storage.meanwhile = lambda: begun.append(twin.start())
    with pytest.raises(OutcomeUnknown):
        run.start()
    assert begun == [()] if made else len(begun) == 1


def test_two_who_claim_at_the_same_moment_never_both_have_the_run() -> None:
    """Their events are the same to the byte, by clocks that show the same; one of them lost the answer."""
    storage = Cut(2, made=False)
    loop = iter(Sweep(Grid({"x": [1, 2]}), id="s", storage=storage, clock=lambda: 5.0))
    other = iter(Sweep.open("s", storage=storage, clock=lambda: 5.0))
    theirs: list[int] = []
    storage.meanwhile = lambda: theirs.append(next(other).index)
    with pytest.raises(OutcomeUnknown):
        next(loop)
    assert theirs == [0]


@SHELLS
def test_an_answer_that_is_lost_twice_is_unknown(shell: Callable[[Any], None]) -> None:
    """Also where it is the look at the history that fails: a failure there does not say that nothing was written."""

    class Deaf(Cut):
        def events(self, *args: Any, **kwargs: Any) -> Any:
            if self.left == -1:
                raise StorageError("the server is down, and nothing was written")
            return super().events(*args, **kwargs)

    storage = Deaf(2, made=True)
    with pytest.raises(OutcomeUnknown, match="the connection was lost"):
        shell(storage)
    assert storage.sweep("s").status is SweepStatus.PAUSED


def test_a_command_that_is_bound_to_a_version_is_told_that_others_came_first() -> None:
    """If its own commit was not made; ``if_version`` is about the status."""
    storage = Cut(2, made=False)
    sweep = Sweep(Grid({"x": [1, 2]}), id="s", storage=storage)
    other = Sweep.open("s", storage=storage)
    storage.meanwhile = other.pause
    with pytest.raises(Conflict):
        sweep.stop(if_version=1)
