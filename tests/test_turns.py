"""What both shells make of a storage with turns: outrun once, a command takes its turn, and decides again in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

import pytest

from sweepstate import (
    AsyncRun,
    AsyncSweep,
    Change,
    Conflict,
    GaveWay,
    Grid,
    Idle,
    InlineAgent,
    MemoryStorage,
    Run,
    RunState,
    RunStatus,
    Sweep,
    SweepState,
    SweepStatus,
    ThreadedStorage,
)
from sweepstate.core.questions import RunQuery

#: What may give way: each thing that a decision does in a turn.
POINTS = ("sweep", "runs", "commit")


class Contended(MemoryStorage):
    """Everybody is outrun outside of a turn; inside, one thing gives way a few times, as in a deadlock."""

    def __init__(self, point: str, times: int) -> None:
        super().__init__()
        self.point = point
        self.times = times
        self.turns = 0
        self.conflicts = 0
        self.inside = False

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Self]:
        assert not self.inside
        self.inside = True
        self.turns += 1
        try:
            yield self
        finally:
            self.inside = False

    def _pass(self, point: str, sweep_id: str) -> None:
        if self.inside and self.point == point and self.times:
            self.times -= 1
            raise GaveWay(sweep_id, -1, -1, "deadlock detected")

    def sweep(self, sweep_id: str) -> SweepState:
        self._pass("sweep", sweep_id)
        return super().sweep(sweep_id)

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        self._pass("runs", sweep_id)
        return super().runs(sweep_id, query, after=after, limit=limit)

    def commit(self, change: Change) -> None:
        self._pass("commit", change.sweep_id)
        if not self.inside and change.version:
            self.conflicts += 1
            raise Conflict(change.sweep_id, change.version)
        super().commit(change)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def little(storage: Contended, clock: Clock) -> None:
    """Hand out, begin, let time pass, retry, end: every way in which the shell commits."""
    sweep = Sweep(Grid({"x": [1, 2]}), id="s", storage=storage, clock=clock)
    run = sweep.next_run("ada")
    assert isinstance(run, Run)
    run.start()
    run.fail("boom")
    run.retry()
    held = sweep.next_run("ada")
    assert isinstance(held, Run)
    clock.now += 301
    assert len(sweep.tick().events) == 1  # the worker has not begun: it is queued again
    sweep.execute(lambda _run: {"loss": 1.0})
    sweep.stop()


async def little_async(storage: Contended, clock: Clock) -> None:
    """The same, awaited."""
    search = Grid({"x": [1, 2]})
    sweep = await AsyncSweep.create(search, id="s", storage=ThreadedStorage(storage, threads=0), clock=clock)
    run = await sweep.next_run("ada")
    assert isinstance(run, AsyncRun)
    await run.start()
    await run.fail("boom")
    await run.retry()
    held = await sweep.next_run("ada")
    assert isinstance(held, AsyncRun)
    clock.now += 301
    assert len((await sweep.tick()).events) == 1

    async def train(_run: AsyncRun) -> dict[str, float]:
        return {"loss": 1.0}

    await sweep.execute(train)
    await sweep.stop()


def blocking(storage: Contended, clock: Clock) -> None:
    asyncio.run(little_async(storage, clock))


@pytest.mark.parametrize("shell", [little, blocking], ids=["Sweep", "AsyncSweep"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("times", [0, 1, 3])
def test_who_was_outrun_decides_again_in_a_turn(shell: Callable[..., None], point: str, times: int) -> None:
    """Nobody is told of it: neither that others came first, nor that a turn gave way."""
    storage, quiet = Contended(point, times), MemoryStorage()
    shell(storage, Clock())
    assert storage.times == 0
    assert not storage.inside
    shell(quiet, Clock())
    assert list(storage.events("s", limit=99)) == list(quiet.events("s", limit=99))
    # The first one is outrun; who comes soon after takes a turn at once, and one more each time that it gave way.
    assert storage.conflicts == 1
    assert storage.turns >= storage.sweep("s").version - 1 + times


def test_who_is_alone_again_takes_no_more_turns() -> None:
    """Only for a while after somebody else came first."""
    storage = Contended("", 0)
    sweep = Sweep(Grid({"x": [1]}), id="s", storage=storage)
    sweep.pause()
    taken = storage.turns
    for _ in range(50):
        assert sweep.pause() == ()
    assert taken < storage.turns < taken + 20
    sweep.resume()
    assert storage.conflicts == 2


@pytest.mark.parametrize("shell", [little, blocking], ids=["Sweep", "AsyncSweep"])
def test_an_error_in_a_turn_ends_it(shell: Callable[..., None]) -> None:
    """Whatever it is, and nothing was committed."""

    class Broken(Contended):
        def sweep(self, sweep_id: str) -> SweepState:
            if self.inside:
                raise OSError("no network")
            return super().sweep(sweep_id)

    storage = Broken("", 0)
    with pytest.raises(OSError, match="no network"):
        shell(storage, Clock())
    assert not storage.inside
    assert storage.sweep("s").version == 1


def test_a_search_is_asked_before_the_turn_is_taken_again() -> None:
    """Not inside: it may take long, and meanwhile nobody could even pause the sweep."""
    storage = Contended("", 0)

    class Slow:
        size = None

        def propose(self, index: int, _history: Any) -> dict[str, int]:
            assert not storage.inside
            return {"x": index}

    sweep = Sweep(Slow(), id="s", storage=storage)
    assert [run.index for run in (sweep.next_run(), sweep.next_run()) if not isinstance(run, Idle)] == [0, 1]


def test_while_the_search_thinks_everything_else_goes_on() -> None:
    """Commands, reports, and handing out what needs no search; others who need it wait, and it is not asked in vain."""
    thinking, release = threading.Event(), threading.Event()
    asked: list[int] = []

    class Thinking:
        size = None

        def propose(self, index: int, _history: Any) -> dict[str, int]:
            asked.append(index)
            if index == 2:
                thinking.set()
                assert release.wait(60)
            return {"x": index}

    sweep = Sweep(Thinking(), id="s")
    run, queued = sweep.next_run("ada"), sweep.next_run("ada")
    assert isinstance(run, Run)
    assert isinstance(queued, Run)
    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(sweep.next_run, f"bob {n}") for n in range(3)]
        assert thinking.wait(60)
        run.start()
        run.heartbeat()
        run.finish()
        queued.release()
        again = sweep.next_run("ada")
        assert isinstance(again, Run)
        assert again.index == 1
        assert not any(each.done() for each in asking)
        release.set()
        found = [each.result(60) for each in asking]
    assert sorted(each.index for each in found if isinstance(each, Run)) == [2, 3, 4]
    assert asked == [0, 1, 2, 3, 4]


def test_an_agent_that_executes_inline_keeps_nobody_from_the_search() -> None:
    """It is told when the search is free again."""
    inside: list[int] = []

    class Quick:
        size = 2

        def propose(self, index: int, _history: Any) -> dict[str, int]:
            return {"x": index}

    def train(run: Run) -> None:
        with ThreadPoolExecutor(1) as other:
            found = other.submit(Sweep.open("s", storage=storage, search=Quick()).next_run, "other").result(60)
        inside.append(run.index)
        if isinstance(found, Run):
            found.finish()

    storage = MemoryStorage()
    sweep = Sweep(Quick(), id="s", storage=storage, agent=InlineAgent(train))
    sweep.tick()
    assert inside == [0]
    assert sweep.refresh().status is SweepStatus.FINISHED


def test_a_search_that_is_always_outrun_gives_up_with_conflict() -> None:
    """After 64 times in a row; so does whoever is outrun without turns."""
    storage = MemoryStorage()
    asked: list[int] = []

    class Outrun:
        size = None

        def propose(self, index: int, _history: Any) -> dict[str, int]:
            asked.append(index)
            if len(asked) < 1_000:
                run = Sweep.open("s", storage=storage, search=Quick()).next_run("other")
                assert isinstance(run, Run)
            return {"x": index}

    class Quick:
        size = None

        def propose(self, index: int, _history: Any) -> dict[str, int]:
            return {"x": index}

    sweep = Sweep(Outrun(), id="s", storage=storage)
    with pytest.raises(Conflict):
        sweep.next_run()
    assert len(asked) == 64
    assert sweep.refresh().counts[RunStatus.PENDING] == 64
    assert sweep.status is SweepStatus.RUNNING
