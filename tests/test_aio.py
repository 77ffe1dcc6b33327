"""The async shell: many tasks, cancellation at every await, threads, agents, and what it does not import."""

from __future__ import annotations

import asyncio
import gc
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any

import attrs
import pytest

from sweepstate import (
    AgentError,
    Answer,
    AsyncRun,
    AsyncSweep,
    Change,
    Conflict,
    Event,
    Exhausted,
    Idle,
    InvalidValue,
    Limits,
    MemoryStorage,
    Objective,
    OutcomeUnknown,
    RunNotFound,
    RunStatus,
    SearchError,
    SearchMissing,
    ShouldStop,
    StorageError,
    Sweep,
    SweepNotFound,
    SweepStatus,
    ThreadedStorage,
)
from sweepstate.aio.search import LoopHistory
from sweepstate.core.questions import ByIndex, LastHeard, Proposal
from sweepstate.hooks import (
    AsyncCatalog,
    AsyncHeartbeats,
    AsyncKill,
    AsyncOrder,
    AsyncStart,
    AsyncStop,
    AsyncStorage,
    AsyncTimekeeper,
    AsyncTurns,
    Storage,
)
from sweepstate.outlast import in_thread, outlast
from sweepstate.testing import check_laws
from tests.fakes import Clock, grid, names
from tests.support.waypoints import Turning, Waypoints

Body = Callable[[], Coroutine[Any, Any, None]]


def running(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test."""

    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(60):
            await test(*args, **kwargs)

    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(bounded(*args, **kwargs))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = __import__("inspect").signature(test)  # type: ignore[attr-defined]
    return run


@attrs.define
class Crew:
    """An async agent that notes its orders; ``act`` is awaited for each."""

    act: Callable[[AsyncOrder], Awaitable[object]] | None = None
    name: str = "crew"
    can_kill: bool = True
    log: list[tuple[str, int, int]] = attrs.field(factory=list)

    async def start(self, order: AsyncStart) -> None:
        await self._take(order)

    async def stop(self, order: AsyncStop) -> None:
        await self._take(order)

    async def kill(self, order: AsyncKill) -> None:
        await self._take(order)

    async def _take(self, order: AsyncOrder) -> None:
        self.log.append((order.kind.value, order.index, order.attempt))
        await asyncio.sleep(0)
        if self.act is not None:
            await self.act(order)


async def take(sweep: AsyncSweep, *, start: bool = True, **asked: Any) -> AsyncRun:
    """Ask for a run, which there must be, and start it."""
    run = await sweep.next_run(**asked)
    assert isinstance(run, AsyncRun), run
    if start:
        await run.start()
    return run


async def for_long(_run: AsyncRun) -> None:
    """Execute until somebody cancels it."""
    await asyncio.sleep(60)


# --- reports ---------------------------------------------------------------------------------------------


@running
async def test_conclude_reports_what_a_function_has_left_behind_once() -> None:
    """As with ``Run``; and a cancellation goes on when it was reported."""
    sweep = await AsyncSweep.create(grid(3), id="s", storage=ThreadedStorage(MemoryStorage()))
    run = await take(sweep)
    assert len(await run.conclude({"loss": 0.5})) == 1
    assert await run.conclude(error=OSError("late")) == ()
    assert (run.status, run.state.metrics) == (RunStatus.FINISHED, {"loss": 0.5})
    run = await take(sweep)
    assert len(await run.conclude(error=OSError("no data"))) == 1
    assert run.status is RunStatus.FAILED
    run = await take(sweep)
    with pytest.raises(asyncio.CancelledError):
        await run.conclude(error=asyncio.CancelledError())
    assert run.status is RunStatus.KILLED


@running
async def test_report_raises_that_a_run_should_stop_if_its_handle_is_told_so() -> None:
    sweep = await AsyncSweep.create(grid(1), id="s", storage=ThreadedStorage(MemoryStorage()))
    run = await take(sweep)
    run.stop_raises = True
    await run.report(loss=3.0)
    await run.stop()
    await run.heartbeat()
    with pytest.raises(ShouldStop):
        await run.report(loss=1.0)


# --- many tasks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [Waypoints, Turning, lambda: ThreadedStorage(MemoryStorage())])
@running
async def test_many_tasks_claim_every_point_once(made: Callable[[], Any]) -> None:
    """Twelve tasks over two handles: no point twice, none skipped, and nobody gives up."""
    storage = made()
    sweep = await AsyncSweep.create(grid(60), id="s", storage=storage, limits=Limits(max_active=20))
    other = await AsyncSweep.open("s", storage=storage)
    done: Counter[int] = Counter()

    async def train(run: AsyncRun) -> None:
        done[run.config["x"]] += 1
        await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task((sweep, other)[number % 2].execute(train))
    assert done == Counter(range(60))
    assert (await sweep.refresh()).status is SweepStatus.FINISHED


@running
async def test_two_loops_share_a_storage() -> None:
    """Conflicts between them are decided again; and turns are taken where the storage has them."""
    memory = MemoryStorage()
    done: Counter[int] = Counter()

    def elsewhere() -> None:
        async def main() -> None:
            sweep = await AsyncSweep.open("s", storage=Turning(memory))
            await sweep.execute(train)

        asyncio.run(main())

    async def train(run: AsyncRun) -> None:
        done[run.index] += 1

    sweep = await AsyncSweep.create(grid(40), id="s", storage=Turning(memory))
    thread = threading.Thread(target=elsewhere)
    thread.start()
    await sweep.execute(train)
    await asyncio.to_thread(thread.join)
    assert done == Counter(range(40))
    check_laws(memory, "s")


class Contended(Turning):
    """One in which somebody comes first, so many times."""

    def __init__(self, conflicts: int) -> None:
        super().__init__()
        self.conflicts = conflicts

    async def commit(self, change: Change) -> None:
        if self.conflicts and change.version:
            self.conflicts -= 1
            await self.point()
            raise Conflict(change.sweep_id, change.version)
        await super().commit(change)


class Slow:
    """A search that is no function of the index, so it is asked in a thread, one call at a time."""

    size = None

    def __init__(self, points: int = 1_000) -> None:
        self.points = points
        self.threads: set[int] = set()
        self.asked: list[int] = []
        self.dropped: list[int] = []
        self.inside = threading.Lock()

    def propose(self, index: int, history: Any) -> Any:
        assert self.inside.acquire(blocking=False)
        try:
            self.threads.add(threading.get_ident())
            self.asked.append(index)
            found = len(history.ended(limit=100))
            return {"x": index, "ended": found} if index < self.points else Exhausted()
        finally:
            self.inside.release()

    def discard(self, index: int, config: Any) -> None:
        self.dropped.append(index)


@running
async def test_a_search_is_asked_in_a_thread_and_out_of_turn() -> None:
    """It may take long; so it never thinks while others wait for the storage's turn, nor on the loop."""
    storage, search = Contended(1), Slow()
    sweep = await AsyncSweep.create(search, id="s", storage=storage)
    run = await take(sweep)
    assert (run.index, search.asked) == (0, [0])
    assert storage.taken > 0
    assert threading.get_ident() not in search.threads
    await run.finish()
    storage.conflicts = 1
    later = await take(sweep)
    assert dict(later.config) == {"x": 1, "ended": 1}
    # What was proposed is another's by the time of the turn: it is asked for the next one, out of turn.
    storage.conflicts = 1

    async def race() -> AsyncRun:
        return await take(await AsyncSweep.open("s", storage=storage, search=search))

    runs = await asyncio.gather(race(), race(), race())
    assert sorted(run.index for run in runs) == [2, 3, 4]
    assert storage.open == 0


@running
async def test_while_the_search_thinks_everything_else_goes_on() -> None:
    """Reports, commands, and handing out what needs no search; others who need it wait, and it is not asked in vain."""
    thinking, release = threading.Event(), threading.Event()

    class Thinking(Slow):
        def propose(self, index: int, history: Any) -> Any:
            if index == 2:
                thinking.set()
                assert release.wait(10)
            return super().propose(index, history)

    search = Thinking()
    sweep = await AsyncSweep.create(search, id="s", storage=Waypoints())
    run, queued = await take(sweep), await take(sweep, start=False)
    asking = [asyncio.create_task(take(sweep)) for _ in range(3)]
    await asyncio.to_thread(thinking.wait, 10)
    assert await run.report(loss=1.0) is Answer.CONTINUE
    await run.finish()
    await queued.release()
    assert (await take(sweep)).index == 1
    assert not any(task.done() for task in asking)
    release.set()
    assert sorted([(await task).index for task in asking]) == [2, 3, 4]
    assert (search.asked, search.dropped) == ([0, 1, 2, 3, 4], [])


class Rushing(Contended):
    """One in which another process takes the run just before each of the first commits."""

    async def commit(self, change: Change) -> None:
        if self.conflicts and change.version and change.sweep.created > self.memory.sweep("s").created:
            self.conflicts -= 1
            Sweep.open("s", storage=self.memory, search=Slow()).next_run()
        await Turning.commit(self, change)


@running
async def test_a_proposal_that_another_made_useless_is_discarded_and_replaced() -> None:
    """In turn it is found that a new index is wanted: the turn is left, the search asked, and the turn taken again."""
    storage, search = Rushing(1), Slow()
    sweep = await AsyncSweep.create(search, id="s", storage=storage)
    run = await take(sweep)
    assert (run.index, dict(run.config)) == (1, {"x": 1, "ended": 0})
    assert (search.asked, search.dropped) == ([0, 1], [0])


class Reading:
    """A search that says that it depends on the index alone, and reads all the same."""

    size = None
    by_index = True

    def propose(self, index: int, history: Any) -> Any:
        return {"x": len(history.ended(limit=1))}


@running
async def test_a_search_on_the_loop_cannot_read() -> None:
    """It would wait for itself."""
    sweep = await AsyncSweep.create(Reading(), id="s")
    with pytest.raises(SearchError, match="by_index"):
        await sweep.next_run()


# --- cancellation at every await -------------------------------------------------------------------------


@attrs.define
class Stage:
    """A sweep in which an operation is cancelled."""

    storage: Waypoints
    sweep: AsyncSweep
    crew: Crew | None
    clock: Clock
    told: list[Event]
    run: AsyncRun | None = None

    @property
    def memory(self) -> MemoryStorage:
        return self.storage.memory


Operation = Callable[[Stage], Coroutine[Any, Any, object]]


async def _entered(stage: Stage) -> None:
    async with await take(stage.sweep, start=False) as run:
        await run.report(loss=1.0)
        await run.finish(loss=0.5)


async def _left_alone(stage: Stage) -> None:
    async for run in stage.sweep:
        async with run:
            await asyncio.sleep(0)


async def _raising(stage: Stage) -> None:
    with suppress(OSError):
        async with await take(stage.sweep, start=False):
            raise OSError("disk full")


async def _looked_up(stage: Stage) -> None:
    run = await take(stage.sweep, start=False)
    try:
        async with await stage.sweep.run(run.index):
            pass
    except asyncio.CancelledError:
        await outlast(run.gone)
        raise


async def _loop_and_break(stage: Stage) -> None:
    async with aclosing(aiter(stage.sweep)) as runs:
        async for _run in runs:
            break


async def _result(stage: Stage) -> None:
    async def train(run: AsyncRun) -> float:
        await run.heartbeat()
        return 1.0

    await stage.sweep.execute(train)


async def _killed_before(stage: Stage) -> None:
    run = await take(stage.sweep, start=False)
    stage.told += Sweep.open("s", storage=stage.memory, clock=stage.clock)[run.index].kill()
    with suppress(Exception):
        async with run:
            pass


#: Operations after which no slot is taken, cancelled or not.
LEAVING_NOTHING: dict[str, Operation] = {
    "next_run": lambda stage: _given_back(stage, stage.sweep.next_run()),
    "next_run with a request": lambda stage: _given_back(stage, stage.sweep.next_run("gpu", "r")),
    "async with": _entered,
    "async for": _left_alone,
    "async for, break": _loop_and_break,
    "async with, exception": _raising,
    "async with, looked up": _looked_up,
    "async with, killed before": _killed_before,
    "execute": _result,
}


async def _given_back(stage: Stage, asking: Coroutine[Any, Any, AsyncRun | Idle]) -> None:
    run = await asking
    assert isinstance(run, AsyncRun)
    await outlast(run.release)


def _at_run(what: str, *args: Any) -> Operation:
    return lambda stage: getattr(stage.run, what)(*args)


#: Operations on a sweep with a run that is RUNNING.
COMMANDS: dict[str, Operation] = {
    "pause": lambda stage: stage.sweep.pause(),
    "cancel": lambda stage: stage.sweep.cancel(),
    "set_limits": lambda stage: stage.sweep.set_limits(max_active=3),
    "tick": lambda stage: stage.sweep.tick(),
    "orders": lambda stage: stage.sweep.orders("crew"),
    **{f"run.{what}": _at_run(what) for what in ("stop", "kill", "heartbeat", "finish", "gone", "mark_preempting")},
    "run.refresh": _at_run("refresh"),
    "run.should_stop": _at_run("should_stop"),
}


async def _killed_and_retried(stage: Stage) -> None:
    assert stage.run is not None
    await stage.run.kill()
    await stage.run.gone()
    await stage.run.retry()


async def _started(stage: Stage) -> None:
    run = await stage.sweep.next_run("other")
    if run:
        await run.start()


async def _overdue(stage: Stage) -> None:
    assert stage.run is not None
    await stage.run.stop()
    stage.clock.wait(100)  # it had 30 seconds to end by itself; now it is killed
    await stage.sweep.tick()


COMMANDS |= {"run.retry": _killed_and_retried, "run.start": _started, "tick, overdue": _overdue}


def this_task(task: asyncio.Task[Any]) -> None:
    """Cancel the caller."""
    task.cancel()


def twice(task: asyncio.Task[Any]) -> None:
    """Cancel the caller, and again while it finishes."""
    task.cancel()
    for turns in (1, 3):
        _later(turns, task.cancel)


def everybody(_task: asyncio.Task[Any]) -> None:
    """Cancel all tasks but the test's own, as ``asyncio.run`` does in the end."""
    for task in asyncio.all_tasks():
        if not task.get_name().startswith("test"):
            task.cancel()


def _later(turns: int, call: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon(_later, turns - 1, call) if turns else call()


async def cancel_everywhere(prepare: Callable[[], Awaitable[Stage]], operation: Operation, how: Any) -> int:
    """Cancel an operation at its first await, at its second, ... until it completes; check what is left each time."""
    asyncio.current_task().set_name("test")  # type: ignore[union-attr]
    for number in range(1, 500):
        stage = await prepare()
        task = asyncio.create_task(_named(operation(stage)), name="operation")
        stage.storage.arm(number, lambda task=task: how(task))  # type: ignore[misc]
        await asyncio.wait([task])
        fired = stage.storage.fired
        stage.storage.at = None
        assert fired == task.cancelled(), (number, task)
        if not fired:
            task.result()
        check(stage)
        # Nobody holds the lock, nor a turn, nor a thread of control.
        assert getattr(stage.storage, "open", 0) == 0
        assert {each.get_name() for each in asyncio.all_tasks()} == {"test"}
        await asyncio.wait_for(stage.sweep.set_limits(run_cap=7), 5)
        check(stage)
        if not fired:
            return number
    raise AssertionError("it never completes")


async def _named(work: Coroutine[Any, Any, object]) -> object:
    return await work


def check(stage: Stage) -> None:
    """The laws hold; whoever listens was told of everything; the agent was told of all that is outstanding."""
    check_laws(stage.memory, "s")
    history = list(stage.memory.events("s", limit=10_000))
    assert stage.told == history[len(history) - len(stage.told) :]
    assert len(stage.told) == len(history) - 1  # the creation came before
    if stage.crew is not None:
        outstanding = Sweep.open("s", storage=stage.memory).orders("crew")
        assert {(order.kind.value, order.index, order.attempt) for order in outstanding} <= set(stage.crew.log)


def a_stage(
    kind: Callable[[], Waypoints], *, crew: bool = False, running: bool = False, search: Any = None
) -> Callable[[], Any]:
    async def prepare() -> Stage:
        storage, clock = kind(), Clock()
        told: list[Event] = []
        agent = Crew() if crew else None
        sweep = await AsyncSweep.create(
            grid(2) if search is None else search(),
            id="s",
            storage=storage,
            clock=clock,
            agent=agent,
            limits=Limits(max_active=2, time_limit=5_000.0),
            objective=Objective("loss"),
        )
        sweep.listen(told.append)
        stage = Stage(storage, sweep, agent, clock, told)
        if running:
            if crew:
                await sweep.tick()
            stage.run = (await sweep.orders("crew"))[0].run if crew else await take(sweep, start=False, agent="crew")
            await stage.run.start(heartbeats=True)
            clock.wait(300)
        if isinstance(storage, Contended):
            storage.conflicts = 1
        return stage

    return prepare


WAYS = [this_task, twice, everybody]
KINDS: list[Callable[[], Waypoints]] = [Waypoints, lambda: Contended(0)]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("kind", KINDS, ids=["plain", "contended"])
@pytest.mark.parametrize("name", LEAVING_NOTHING)
@running
async def test_whoever_is_cancelled_leaves_no_slot_taken(name: str, kind: Callable[[], Waypoints], how: Any) -> None:
    """At every await: a run that was handed out is given back, or its end is reported."""

    async def operation(stage: Stage) -> None:
        try:
            await LEAVING_NOTHING[name](stage)
        finally:
            assert stage.memory.sweep("s").leased == 0

    assert await cancel_everywhere(a_stage(kind), operation, how) > 5


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("crew", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=["plain", "contended"])
@pytest.mark.parametrize("name", COMMANDS)
@running
async def test_a_command_that_is_cancelled_is_whole_or_nothing(
    name: str, kind: Callable[[], Waypoints], crew: Any, how: Any
) -> None:
    """At every await: the laws hold, and everybody was told of what was committed."""
    await cancel_everywhere(a_stage(kind, crew=crew, running=True), COMMANDS[name], how)


@pytest.mark.parametrize("how", WAYS)
@running
async def test_creating_and_opening_can_be_cancelled(how: Any) -> None:
    """It is there, or it is not."""
    asyncio.current_task().set_name("test")  # type: ignore[union-attr]
    for number in range(1, 100):
        storage = Waypoints()
        told: list[Event] = []

        async def operation() -> None:
            await AsyncSweep.create(grid(2), id="s", storage=storage, listeners=[told.append])  # noqa: B023
            await AsyncSweep.open("s", storage=storage)  # noqa: B023

        task = asyncio.create_task(operation())
        storage.arm(number, lambda task=task: how(task))  # type: ignore[misc]
        await asyncio.wait([task])
        assert task.cancelled() == storage.fired
        with suppress(SweepNotFound):
            assert told == list(storage.memory.events("s", limit=9))
            check_laws(storage.memory, "s")
        if not storage.fired:
            assert told
            return


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("kind", KINDS, ids=["plain", "contended"])
@running
async def test_a_search_in_a_thread_leaves_nothing_either(kind: Callable[[], Waypoints], how: Any) -> None:
    """Also while it reads the history, by way of the loop; and its turn to be asked is free again."""
    await cancel_everywhere(a_stage(kind, search=lambda: Slow(2)), _left_alone, how)


@pytest.mark.parametrize("how", WAYS)
@running
async def test_a_run_is_given_back_though_an_agent_is_attached(how: Any) -> None:
    """Also if the cancellation comes while the agent is told, when the run is about to be returned."""

    async def operation(stage: Stage) -> None:
        try:
            await _given_back(stage, stage.sweep.next_run("gpu"))
        finally:
            leases = [run.lease for run in stage.memory.runs("s", ByIndex(), limit=9)]
            assert all(lease is None or lease.agent == "crew" for lease in leases)

    await cancel_everywhere(a_stage(Waypoints, crew=True), operation, how)


@running
async def test_a_run_that_a_request_has_already_is_not_given_back() -> None:
    """Somebody executes it: the one who asked first."""
    storage = Waypoints()
    sweep = await AsyncSweep.create(grid(1), id="s", storage=storage)
    run = await take(sweep, agent="gpu", request_id="r")
    for number in range(1, 20):
        task = asyncio.create_task(sweep.next_run("gpu", "r"))
        storage.arm(number, task.cancel)
        await asyncio.wait([task])
        assert (await run.refresh()).status is RunStatus.RUNNING
        if not task.cancelled():
            assert task.result() == run
            break
    await sweep._shell._give_back((run.state, None))  # as if it was cancelled when all was done
    assert (await run.refresh()).status is RunStatus.RUNNING


@running
async def test_a_command_that_is_cancelled_gives_up_when_others_come_first() -> None:
    """Its commit did not happen, and it is not tried again."""
    storage = Contended(0)
    sweep = await AsyncSweep.create(grid(1), id="s", storage=storage)
    storage.conflicts = 1_000
    task = asyncio.create_task(sweep.pause())
    storage.arm(3, task.cancel)  # while it commits, which then meets the first Conflict
    await asyncio.wait([task])
    assert task.cancelled()
    assert storage.conflicts == 999
    assert (await sweep.refresh()).status is SweepStatus.RUNNING


@running
async def test_cleaning_up_is_not_cancelled_again() -> None:
    """However often the caller is: the first cancellation ends the work, which then leaves the turn in peace."""
    left: list[str] = []

    class Careful(Contended):
        def turn(self, sweep_id: str) -> AbstractAsyncContextManager[AsyncStorage]:
            return self.careful()

        @asynccontextmanager
        async def careful(self) -> AsyncGenerator[AsyncStorage, None]:
            try:
                yield self
            finally:
                for _ in range(5):
                    await asyncio.sleep(0)
                left.append("whole")

    storage = Careful(0)
    sweep = await AsyncSweep.create(grid(1), id="s", storage=storage)
    storage.conflicts = 1
    task = asyncio.create_task(sweep.pause())

    def cancel(times: int) -> None:
        task.cancel()
        if times:
            asyncio.get_running_loop().call_soon(cancel, times - 1)

    storage.arm(5, lambda: cancel(8))  # while it reads in its turn
    await asyncio.wait([task])
    assert task.cancelled()
    assert left == ["whole"]


@running
async def test_tasks_of_one_loop_do_not_outrun_each_other() -> None:
    """They take turns; so a hundred reports at once cost no Conflict."""
    conflicts: list[Conflict] = []

    class Counting(Waypoints):
        async def commit(self, change: Change) -> None:
            try:
                await super().commit(change)
            except Conflict as conflict:
                conflicts.append(conflict)
                raise

    sweep = await AsyncSweep.create(grid(21), id="s", storage=Counting())
    runs = await asyncio.gather(*(take(sweep) for _ in range(20)))
    await asyncio.gather(*(run.finish(loss=1.0) for run in runs), *(sweep.pause() for _ in range(20)))
    assert conflicts == []


@running
async def test_a_command_that_is_cancelled_fills_no_slots() -> None:
    """What it concerned is delivered; the next tick does the rest."""
    storage, crew = Waypoints(), Crew()
    sweep = await AsyncSweep.create(grid(3), id="s", storage=storage, agent=crew, limits=Limits(max_active=1))
    await sweep.pause()
    task = asyncio.create_task(sweep.resume())
    storage.arm(4, task.cancel)  # after it has written
    await asyncio.wait([task])
    assert task.cancelled()
    assert (await sweep.refresh()).status is SweepStatus.RUNNING
    assert crew.log == []
    await sweep.tick()
    assert crew.log == [("start", 0, 1)]


@running
async def test_a_cancelled_body_interrupts_its_run() -> None:
    """KILLED; or queued again if the machine was about to be taken away."""
    sweep = await AsyncSweep.create(grid(3), id="s")

    async def body(run: AsyncRun, *, preempting: bool) -> None:
        async with run:
            if preempting:
                await run.mark_preempting()
            await asyncio.sleep(60)

    for preempting in (False, True):
        task = asyncio.create_task(body(await take(sweep), preempting=preempting))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [(run.status, run.state.message) async for run in sweep.runs()] == [
        (RunStatus.KILLED, "CancelledError"),
        (RunStatus.PENDING, None),
    ]
    whole = asyncio.create_task(sweep.execute(for_long))
    await asyncio.sleep(0.01)
    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole
    assert [run.status async for run in sweep.runs()] == [RunStatus.KILLED, RunStatus.KILLED]


@running
async def test_a_timeout_is_a_cancellation_like_any_other() -> None:
    """It becomes a TimeoutError outside, and the run is interrupted."""
    sweep = await AsyncSweep.create(grid(1), id="s")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await sweep.execute(for_long)
    assert (await sweep.run(0)).status is RunStatus.KILLED


def test_tasks_that_are_left_to_asyncio_run_leave_nothing() -> None:
    """It cancels them all in the end; runs are interrupted or given back, and loops that were not closed are."""
    memory = MemoryStorage()

    async def main() -> None:
        sweep = await AsyncSweep.create(grid(9), id="s", storage=Waypoints(memory))
        tasks = [asyncio.create_task(sweep.execute(for_long)) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert len(tasks) == 3
        async for _run in sweep:
            raise OSError("and nobody closes the iterator")

    with pytest.raises(OSError, match="nobody closes"):
        asyncio.run(main())
    gc.collect()
    check_laws(memory, "s")
    assert memory.sweep("s").leased == 0


class Failing(Waypoints):
    """One that breaks down in the next commit, while the caller is cancelled."""

    victim: asyncio.Task[Any] | None = None

    async def commit(self, change: Change) -> None:
        await self.point()
        if self.victim is not None:
            self.victim.cancel()
            await self.point()
            raise StorageError("disk full")
        self.memory.commit(change)


@pytest.mark.parametrize("what", ["command", "body", "entering", "loop"])
@running
async def test_a_cancellation_goes_on_though_the_storage_fails(what: str) -> None:
    """What the storage raised is its cause."""
    storage = Failing()
    sweep = await AsyncSweep.create(grid(2), id="s", storage=storage)
    run = await take(sweep, start=what != "entering")
    causes: list[BaseException | None] = []

    async def operation() -> None:
        storage.victim = asyncio.current_task()
        try:
            if what == "command":
                await sweep.pause()
            elif what == "loop":
                storage.victim = None
                async with aclosing(aiter(sweep)) as runs:
                    async for _run in runs:
                        storage.victim = asyncio.current_task()
                        break
            else:
                async with run:
                    await asyncio.wait_for(asyncio.sleep(60), 0.001) if what == "body" else None
        except asyncio.CancelledError as error:
            causes.append(error.__cause__)
            raise

    task = asyncio.create_task(operation())
    await asyncio.wait([task])
    assert task.cancelled()
    assert isinstance(causes[0], StorageError)


@running
async def test_waiting_for_a_search_is_waited_for() -> None:
    """A thread cannot be interrupted, and must not be asked twice at once: its proposal is discarded."""
    release = threading.Event()

    class Thinking(Slow):
        def propose(self, index: int, history: Any) -> Any:
            release.wait(10)
            return super().propose(index, history)

    search, storage = Thinking(), Waypoints()
    sweep = await AsyncSweep.create(search, id="s", storage=storage)
    task = asyncio.create_task(sweep.next_run())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (search.dropped, storage.memory.sweep("s").version) == ([0], 1)
    assert (await take(sweep)).index == 0


# --- for run in sweep ------------------------------------------------------------------------------------


@running
async def test_a_run_that_the_loop_never_entered_is_given_back() -> None:
    """On break and on an exception, as soon as the loop comes to it; and not if somebody took it on."""
    sweep = await AsyncSweep.create(grid(3), id="s")
    async for _run in sweep:
        break
    for _ in range(20):
        await asyncio.sleep(0)
    assert ((await sweep.run(0)).status, (await sweep.run(0)).attempt) == (RunStatus.PENDING, 2)

    async def fail() -> None:
        async for run in sweep:
            _ = 1 / run.config["x"]

    with pytest.raises(ZeroDivisionError):
        await fail()
    for _ in range(20):
        await asyncio.sleep(0)
    assert sweep.state.leased == 0
    async with aclosing(aiter(sweep)) as runs:
        async for run in runs:
            assert run.token
            break
    assert (await sweep.run(0)).status is RunStatus.RUNNING
    assert [run.index async for run in sweep] == [1, 2]


# --- agents ----------------------------------------------------------------------------------------------


@running
async def test_an_agent_that_executes_in_tasks() -> None:
    """Hooks begin and return; runs end in tasks of the loop, each replaced by the next one."""
    tasks: set[asyncio.Task[None]] = set()

    async def act(order: AsyncOrder) -> None:
        if order.kind == "start":
            task = asyncio.create_task(order.run.perform(train))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def train(run: AsyncRun) -> float:
        await asyncio.sleep(0)
        return float(run.index)

    crew = Crew(act)
    sweep = await AsyncSweep.create(
        grid(20), id="s", agent=crew, limits=Limits(max_active=3), objective=Objective("loss")
    )
    await sweep.tick()
    while tasks:
        await asyncio.wait(tasks)
    assert (await sweep.refresh()).status is SweepStatus.FINISHED
    assert crew.log == [("start", index, 1) for index in range(20)]
    best = await sweep.best()
    assert best is not None
    assert best.index == 0


@running
async def test_an_agent_that_executes_inline_does_not_recurse_and_can_be_cancelled() -> None:
    """The end of a run inside ``start`` starts the next one outside; a cancellation reaches the hook."""

    async def act(order: AsyncOrder) -> None:
        if order.kind == "start":
            await order.run.perform(train)

    reached = asyncio.Event()

    async def train(run: AsyncRun) -> None:
        if run.index == 30:
            reached.set()
            await asyncio.sleep(60)

    sweep = await AsyncSweep.create(grid(100), id="s", agent=Crew(act), limits=Limits(max_active=1))
    task = asyncio.create_task(sweep.tick())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    state = (await sweep.refresh()).state
    assert (state.finished, state.killed, state.leased) == (30, 1, 0)


@running
async def test_what_other_tasks_left_to_a_cancelled_one_is_delivered() -> None:
    """While one delivers, others leave their orders to it; it does not take them along when it is cancelled."""
    reached = asyncio.Event()

    async def act(order: AsyncOrder) -> None:
        if order.kind == "start":
            await order.run.start()
            if order.index == 1:
                reached.set()
                await asyncio.sleep(60)

    crew = Crew(act)
    sweep = await AsyncSweep.create(grid(5), id="s", agent=crew, limits=Limits(max_active=2))
    ticking = asyncio.create_task(sweep.tick())
    await reached.wait()
    run = await sweep.run(0)
    await run.kill()
    assert ("kill", 0, 1) not in crew.log
    ticking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ticking
    assert ("kill", 0, 1) in crew.log


@running
async def test_errors_of_hooks_are_events_and_only_tick_raises_them() -> None:
    """And an error of the storage or the search is the tick's; others log it."""

    async def act(order: AsyncOrder) -> None:
        raise OSError("no machine")

    sweep = await AsyncSweep.create(grid(5), id="s", agent=Crew(act), limits=Limits(max_active=1), listeners=[_raise])
    with pytest.raises(AgentError, match="no machine"):
        await sweep.tick()
    await sweep.pause()
    await sweep.resume()
    assert names(tuple([event async for event in sweep.history()])).count("OrderFailed") == 1


def _raise(_event: Event) -> None:
    raise OSError("a listener")


@running
async def test_a_search_that_fails_while_slots_are_filled(caplog: pytest.LogCaptureFixture) -> None:
    """Is logged where a command filled them, and raised by a tick."""
    sweep = await AsyncSweep.create(Reading(), id="s", agent=Crew(), limits=Limits(max_active=1))
    await sweep.pause()
    await sweep.resume()
    assert "by_index" in caplog.text
    with pytest.raises(SearchError):
        await sweep.tick()


@running
async def test_a_nested_tick_delivers_each_order_once_a_round() -> None:
    """The outermost one delivers."""

    async def act(order: AsyncOrder) -> None:
        await sweep.tick()

    crew = Crew(act)
    sweep = await AsyncSweep.create(grid(2), id="s", agent=crew, limits=Limits(max_active=2))
    await sweep.tick()
    assert crew.log == [("start", 0, 1), ("start", 1, 1)]
    kill = AsyncKill(await sweep.run(0))
    assert names(await kill.gone()) == ["RunRequeued"]


# --- handles ---------------------------------------------------------------------------------------------


def test_one_handle_serves_one_loop_after_the_other_and_pickles() -> None:
    """A lock belongs to a loop; a handle does not. An agent stays with its process."""
    storage = ThreadedStorage(MemoryStorage(), threads=0)

    async def create() -> AsyncSweep:
        return await AsyncSweep.create(grid(3), id="s", storage=storage, agent=Crew())

    async def claim(sweep: AsyncSweep) -> list[int]:
        runs = await asyncio.gather(*(take(sweep) for _ in range(1)))
        return [run.index for run in runs]

    sweep: AsyncSweep = asyncio.run(create())
    assert asyncio.run(claim(sweep)) == [0]
    copy = pickle.loads(pickle.dumps(sweep))
    assert asyncio.run(claim(copy)) == [1]
    assert (copy.agent, copy.id) == (None, "s")
    run = asyncio.run(sweep.run(0))
    again = pickle.loads(pickle.dumps(run))
    assert again == run
    assert asyncio.run(again.finish())
    assert isinstance(again, AsyncRun)


def test_what_is_plainly_wrong_is_refused_before_anything_is_created() -> None:
    """A sync storage or agent, or a constructor that cannot await."""
    memory: Any = MemoryStorage()

    class Plain:
        name, can_kill = "plain", True

        def start(self, order: Any) -> None: ...

        stop = kill = start

    plain: Any = Plain()
    with pytest.raises(TypeError, match=r"await AsyncSweep\.create"):
        AsyncSweep(grid(1))  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="ThreadedStorage"):
        asyncio.run(AsyncSweep.create(grid(1), storage=memory))
    with pytest.raises(InvalidValue, match="async functions"):
        asyncio.run(AsyncSweep.create(grid(1), agent=plain))
    with pytest.raises(InvalidValue, match="cannot be called"):
        asyncio.run(asyncio.run(AsyncSweep.create(grid(1))).execute(memory))


@running
async def test_what_is_gone_is_not_found() -> None:
    """A run that the storage has lost, a search that nobody gave, and questions that have no answer here."""

    class Forgetful(Waypoints):
        async def runs(self, *args: Any, **kwargs: Any) -> Any:
            return []

    memory = MemoryStorage()
    sweep = await AsyncSweep.create(Slow(), id="s", storage=Waypoints(memory))
    run = await take(sweep)
    sweep._shell.storage = Forgetful(memory)
    with pytest.raises(RunNotFound):
        await run.refresh()
    assert await run.stop() != ()
    assert await run.heartbeat() is Answer.STOP
    opened = await AsyncSweep.open("s", storage=Waypoints(memory))
    with pytest.raises(SearchMissing):
        await opened.next_run()
    with pytest.raises(SearchMissing):
        await opened._shell.answer(opened.storage, Proposal(0))
    bare = AsyncSweep._of(type(opened._shell)("s", ThreadedStorage(Bare()), None, None, Clock(), (), None))
    assert await bare._shell.answer(bare.storage, LastHeard(((0, 1),))) == (None,)


@running
async def test_many_runs_are_read_page_by_page() -> None:
    """Runs, orders, events and verdicts."""
    search = Slow()
    sweep = await AsyncSweep.create(search, id="s", agent=Crew())
    for _ in range(300):
        await take(sweep, start=False, agent="crew")
    assert len([run async for run in sweep.runs()]) == 300
    orders = await sweep.orders("crew")
    assert len(orders) == 300
    await sweep.pause()
    for order in orders[:140]:
        await order.run.start()
        await order.run.finish()
    history = LoopHistory(sweep._shell)
    assert len(await asyncio.to_thread(history.ended, limit=200)) == 140
    assert [ended.index for ended in await asyncio.to_thread(history.ended, limit=2)] == [0, 1]


class Unknown(Waypoints):
    """One that cannot say whether it has written."""

    async def commit(self, change: Change) -> None:
        if change.version:
            raise OutcomeUnknown("the connection broke")
        await super().commit(change)


@running
async def test_a_proposal_whose_fate_is_unknown_is_not_discarded() -> None:
    """It may be the configuration of a run."""
    search = Slow()
    sweep = await AsyncSweep.create(search, id="s", storage=Unknown())
    with pytest.raises(OutcomeUnknown):
        await sweep.next_run()
    assert (search.asked, search.dropped) == ([0], [])


@running
async def test_the_clock_of_the_storage_is_the_sweeps() -> None:
    """Awaited, and checked like any other."""
    now = [5.0]
    storage = ThreadedStorage(MemoryStorage(clock=lambda: now[0]), threads=0)
    sweep = await AsyncSweep.create(grid(1), storage=storage, clock=Clock())
    assert sweep.state.at == 5.0
    now[0] = -1.0
    with pytest.raises(InvalidValue, match="clock"):
        await sweep.pause()


class Bare:
    """A storage that keeps no heartbeats."""

    def __init__(self) -> None:
        memory = MemoryStorage()
        self.sweep, self.runs, self.commit, self.events = memory.sweep, memory.runs, memory.commit, memory.events


@running
async def test_without_heartbeats_silence_means_nothing() -> None:
    """Nobody is lost, and metrics on the way are not kept."""
    clock = Clock()
    sweep = await AsyncSweep.create(grid(2), id="s", storage=ThreadedStorage(Bare()), clock=clock)
    run = await take(sweep)
    assert await run.heartbeat() is Answer.CONTINUE
    await run.report(loss=1.0)
    assert await run.metrics() == {}
    clock.wait(10_000)
    for _ in range(3):
        await sweep.tick()
    assert (await run.refresh()).status is RunStatus.RUNNING


def test_the_package_does_not_import_asyncio() -> None:
    """Not before an async name is used; and then the name is there for good."""
    program = """
import sys, sweepstate
before = "asyncio" in sys.modules
from sweepstate import AsyncSweep
print(before, "asyncio" in sys.modules, "AsyncSweep" in vars(sweepstate))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True", "True"], done.stderr


# --- storages in threads ---------------------------------------------------------------------------------


class Ours(MemoryStorage):
    """A storage with turns, which notes in which thread it was called."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.threads: list[tuple[str, int]] = []
        self.failing = False
        self.wait = threading.Event()
        self.wait.set()

    @contextmanager
    def turn(self, sweep_id: str) -> Iterator[Storage]:
        self.wait.wait(10)
        if self.failing:
            raise StorageError("no turn")
        self.threads.append(("enter", threading.get_ident()))
        try:
            yield self
        finally:
            self.threads.append(("exit", threading.get_ident()))

    def commit(self, change: Change) -> None:
        self.threads.append(("commit", threading.get_ident()))
        super().commit(change)


CAPABILITIES = (AsyncHeartbeats, AsyncCatalog, AsyncTimekeeper, AsyncTurns)


def test_a_threaded_storage_can_do_what_its_storage_can() -> None:
    """No more and no less; and it is named, shown and pickled as what it is."""

    def able(storage: Any, **options: Any) -> list[bool]:
        return [isinstance(ThreadedStorage(storage, **options), each) for each in CAPABILITIES]

    assert able(Bare()) == [False, False, False, False]
    assert able(MemoryStorage()) == [True, True, False, False]
    assert able(MemoryStorage(clock=Clock())) == [True, True, True, False]
    assert able(Ours(clock=Clock()), threads=0) == [True, True, True, True]
    one: AsyncStorage = ThreadedStorage(MemoryStorage(), threads=2)
    assert type(one).__name__ == "ThreadedStorage"
    assert repr(one) == "ThreadedStorage(<MemoryStorage of 0 sweep(s)>, threads=2)"
    assert repr(pickle.loads(pickle.dumps(one))) == repr(one)
    with pytest.raises(InvalidValue):
        ThreadedStorage(MemoryStorage(), threads=-1)


@pytest.mark.parametrize("threads", [0, 3])
@running
async def test_a_turn_is_in_one_thread_from_beginning_to_end(threads: int) -> None:
    """A connection may belong to a thread; the loop's is only used if that was wanted."""
    ours = Ours()
    storage: Any = ThreadedStorage(ours, threads=threads)
    await AsyncSweep.create(grid(1), id="s", storage=storage)
    ours.threads.clear()
    async with storage.turn("s") as turn:
        state = await turn.sweep("s")
        await turn.beat("s", 0, 1, 1.0, None)
        assert await turn.last_heard("s", [(0, 1)]) == [None]
        assert (await turn.runs("s", ByIndex(), limit=1), len(await turn.events("s", limit=1))) == ([], 1)
        with pytest.raises(Conflict):
            await turn.commit(attrs.evolve(Change("s", 7, state, (), ()), version=7))
    assert [what for what, _ in ours.threads] == ["enter", "commit", "exit"]
    assert len({thread for _, thread in ours.threads}) == 1
    assert (threading.get_ident() in {thread for _, thread in ours.threads}) == (threads == 0)
    ours.failing = True
    with pytest.raises(StorageError, match="no turn"):
        async with storage.turn("s"):
            pass


@running
async def test_a_turn_whose_beginning_is_cancelled_is_left_again() -> None:
    """The thread gets its turn, and gives it back."""
    ours = Ours()
    storage: Any = ThreadedStorage(ours)
    ours.wait.clear()

    async def use() -> None:
        async with storage.turn("s"):
            raise AssertionError("never")

    task = asyncio.create_task(use())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.01)
    ours.wait.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [what for what, _ in ours.threads] == ["enter", "exit"]
    ours.failing = True
    ours.wait.clear()
    task = asyncio.create_task(use())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.01)
    ours.wait.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(ours.threads) == 2


@running
async def test_the_catalog_of_a_threaded_storage() -> None:
    """Lists and deletes, as the storage does."""
    storage: Any = ThreadedStorage(MemoryStorage())
    await AsyncSweep.create(grid(1), id="s", storage=storage)
    assert [state.id for state in await storage.sweeps(limit=9)] == ["s"]
    await storage.delete("s")
    with pytest.raises(SweepNotFound):
        await AsyncSweep.open("s", storage=storage)


@running
async def test_work_is_begun_again_if_its_own_task_was_cancelled() -> None:
    """As when asyncio.run cancels everything; but not for ever, and not if it has an end to give up at."""
    begun: list[int] = []

    async def work() -> str:
        begun.append(1)
        if len(begun) == 1:
            raise asyncio.CancelledError
        return "done"

    assert await outlast(work) == "done"

    async def never() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await outlast(never)


@running
async def test_a_thread_that_fails_while_its_caller_is_cancelled() -> None:
    """The cancellation goes on, and says why."""
    release = threading.Event()

    def function() -> None:
        release.wait(10)
        raise OSError("late")

    causes: list[object] = []

    async def call() -> None:
        try:
            await in_thread(None, function)
        except asyncio.CancelledError as error:
            causes.append(error.__cause__)
            raise

    task = asyncio.create_task(call())
    await asyncio.sleep(0.01)
    task.cancel()
    release.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert isinstance(causes[0], OSError)
