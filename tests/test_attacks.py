"""What an attacker of the specification found, so that it stays impossible."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import pytest

from sweepstate import (
    Conflict,
    Event,
    Exhausted,
    FailureRule,
    Grid,
    History,
    Idle,
    IdleReason,
    InlineAgent,
    Kill,
    Limits,
    MemoryStorage,
    Run,
    RunStatus,
    RunTrigger,
    SearchError,
    Start,
    Stop,
    Sweep,
    SweepStatus,
    events,
)
from sweepstate.core import lifecycle
from sweepstate.core.errors import InvalidValue
from sweepstate.core.questions import Leased
from sweepstate.testing import ManualClock, check_laws


class Hooks:
    """An agent whose hooks do what a test says."""

    name = "hooks"
    can_kill = True

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.sweep: Sweep | None = None

    def start(self, order: Start, /) -> None:
        self.starts.append(order.index)

    def stop(self, order: Stop, /) -> None: ...

    def kill(self, order: Kill, /) -> None:
        order.gone()


def test_a_hook_that_ticks_is_called_once_a_round() -> None:
    """A nested tick must not make the order that is being delivered outstanding in the same round again."""

    class Ticking(Hooks):
        def start(self, order: Start, /) -> None:
            super().start(order)
            assert self.sweep is not None
            self.sweep.tick()

    agent = Ticking()
    sweep = agent.sweep = Sweep(Grid({"x": [1, 2]}), agent=agent, limits=Limits(max_active=2))
    sweep.tick()
    assert agent.starts == [0, 1]


def test_a_listener_that_ticks_does_not_repeat_a_failing_order_for_ever() -> None:
    """Its failure is an event, the event calls the listener, and the round still ends."""

    class Stubborn(Hooks):
        def kill(self, order: Kill, /) -> None:
            raise OSError(order.index)

    sweep = Sweep(Grid({"x": [1]}), agent=Stubborn(), limits=Limits(max_active=1))
    sweep.tick()

    def listener(_event: Event) -> None:
        sweep.tick()

    sweep.listen(listener)
    sweep.cancel()
    assert sum(isinstance(event, events.OrderFailed) for event in sweep.history()) <= 3


def test_one_tick_hands_out_a_slice_and_says_that_there_is_more() -> None:
    """It works in bounded slices, however many slots are free."""
    agent = Hooks()
    sweep = Sweep(Grid({"x": range(1000)}), agent=agent, limits=Limits(max_active=500))
    assert sweep.tick().more
    first = len(agent.starts)
    assert 0 < first <= 64
    while sweep.tick().more:
        pass
    assert sorted(set(agent.starts)) == list(range(500))


def test_the_error_of_a_hook_that_had_begun_is_an_event() -> None:
    """START is not outstanding any more, and still nobody may lose what the hook raised."""

    class Begins(Hooks):
        def start(self, order: Start, /) -> None:
            order.run.start()
            raise FileNotFoundError("train.py")

    sweep = Sweep(Grid({"x": [1]}), agent=Begins(), limits=Limits(max_active=1))
    sweep.pause()
    sweep.resume()
    failed = [event for event in sweep.history() if isinstance(event, events.OrderFailed)]
    assert [event.message for event in failed] == ["FileNotFoundError: train.py"]
    assert sweep[0].status is RunStatus.RUNNING


@pytest.mark.parametrize("line", range(0, 60, 3))
def test_a_commit_to_memory_is_whole_under_an_interrupt(line: int) -> None:
    """Ctrl-C at any line of the storage leaves all of a commit, or nothing, to whoever looks next."""
    storage = MemoryStorage(clock=lambda: 1.0)
    sweep = Sweep(Grid({"x": [1, 2, 3]}), id="s", storage=storage, limits=Limits(retries=1))
    run = sweep.next_run("ada", "r")
    assert isinstance(run, Run)
    run.start(heartbeats=True)
    seen = 0

    def interrupt(frame: FrameType, what: str, _arg: object) -> Any:
        nonlocal seen
        # Only what is written by this one report, and nothing of locks: those are the interpreter's.
        if "_Shelf" not in getattr(frame.f_code, "co_qualname", frame.f_code.co_name):
            return interrupt if frame.f_code.co_filename.endswith("memory.py") else None
        if what == "line":
            seen += 1
            if seen == line + 1:
                raise KeyboardInterrupt
        return interrupt

    tracer = sys.gettrace()  # coverage is measured by one
    sys.settrace(interrupt)
    try:
        run.fail("no")
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(tracer)
    check_laws(storage, "s")
    assert isinstance(sweep.next_run(), Run)
    sweep.cancel()
    check_laws(storage, "s")


def test_lost_runs_cost_no_later_command() -> None:
    """Leases that were given up to silence stay listed, and are not read by those who want nothing of them."""
    clock = ManualClock(1.0)
    sweep = Sweep(Grid({"x": range(5)}), clock=clock)
    for _ in range(5):
        run = sweep.next_run()
        assert isinstance(run, Run)
        run.start(heartbeats=True)
    for seconds in (300, 60):
        clock.advance(seconds)
        sweep.tick()
    assert [run.status for run in sweep.runs()] == [RunStatus.CRASHED] * 5
    assert list(sweep.storage.runs(sweep.id, Leased(presumed=False), limit=9)) == []
    assert len(sweep.storage.runs(sweep.id, Leased(), limit=9)) == 5
    assert sweep.orders("worker") == []


def test_at_capacity_the_backlog_is_not_searched() -> None:
    """While more can be proposed, a full sweep answers without looking for what could be taken up."""

    class Counting(MemoryStorage):
        reads = 0

        def runs(self, sweep_id: str, query: Any, *, after: int = -1, limit: int) -> Any:
            self.reads += 1
            return super().runs(sweep_id, query, after=after, limit=limit)

    storage = Counting(clock=lambda: 1.0)
    sweep = Sweep(Grid({"x": range(9)}), storage=storage, limits=Limits(max_active=1))
    run = sweep.next_run()
    assert isinstance(run, Run)
    run.fail("no")
    sweep.next_run()
    sweep.retry({RunStatus.FAILED})
    before = storage.reads
    assert sweep.next_run() == Idle(IdleReason.AT_CAPACITY)
    assert storage.reads - before <= 2  # what time has caused


@pytest.mark.parametrize("limit", [0.1, 0.3, 1 / 3, 7.7])
def test_a_tick_at_the_time_it_named_acts(limit: float) -> None:
    """What is due, and when, are one computation: rounding must not let a loop over ticks spin."""
    clock = ManualClock(1_700_000_000.1)
    sweep = Sweep(Grid({"x": [1]}), clock=clock, limits=Limits(time_limit=limit))
    clock.advance(limit / 3)
    sweep.pause()
    clock.advance(0.7)
    sweep.resume()
    next_at = sweep.tick().next_at
    assert next_at is not None
    clock.set(next_at)
    assert not sweep.tick().more
    assert sweep.status is SweepStatus.STOPPED


def test_a_clock_that_was_set_back_hides_nothing_that_is_due() -> None:
    """The sweep's time never runs backwards, also not for the answer of a tick."""
    clock = ManualClock(1_000.0)
    sweep = Sweep(Grid({"x": range(200)}), clock=clock)
    for _ in range(200):
        sweep.next_run()
    clock.advance(300)
    sweep.pause()
    clock.set(1_000.0)
    ticks = 1
    while sweep.tick().more:
        ticks += 1
    assert ticks == 4
    assert {run.state.attempt for run in sweep.runs()} == {2}


def test_a_search_without_points_makes_a_sweep_that_is_finished() -> None:
    """Completion is evaluated in every commit, the first one included."""

    class Empty:
        size = 0

        def propose(self, index: int, history: History) -> Exhausted:
            raise AssertionError

    sweep = Sweep(Empty())
    assert (sweep.status, sweep.done) == (SweepStatus.FINISHED, True)
    check_laws(sweep.storage, sweep.id)


def test_failures_before_the_first_start_since_a_reopening_are_not_early() -> None:
    """``within`` counts from the first start; runs from before the reopening have none."""
    clock = ManualClock(1.0)
    rule = FailureRule(within=(2, 60.0))
    sweep = Sweep(Grid({"x": range(9)}), clock=clock, limits=Limits(failure=rule))
    runs = [sweep.next_run() for _ in range(2)]
    for run in runs:
        assert isinstance(run, Run)
        run.start()
    sweep.stop()
    sweep.reopen()
    clock.advance(36_000)
    for run in runs:
        assert isinstance(run, Run)
        run.fail("no")
    assert sweep.refresh().status is SweepStatus.RUNNING


class _Broken(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("raised", [InvalidValue("x", "bad"), Conflict("s", 1), KeyError("x")])
def test_whatever_a_search_raises_is_its_error(raised: Exception) -> None:
    """Its own Conflict is no lost race, and its InvalidValue is not about the caller's arguments."""

    class Raising:
        size = None

        def propose(self, index: int, history: History) -> Exhausted:
            raise raised

    with pytest.raises(SearchError) as caught:
        Sweep(Raising()).next_run()
    assert caught.value.__cause__ is raised


def test_a_proposal_that_cannot_be_read_is_the_searchs_error() -> None:
    """A mapping may raise anything."""

    class Proposing:
        size = None

        def propose(self, index: int, history: History) -> _Broken:
            return _Broken()

    with pytest.raises(SearchError):
        Sweep(Proposing()).next_run()


def test_a_snapshot_never_goes_back() -> None:
    """A thread that was slow to show what it committed does not hide what another has seen since."""
    sweep = Sweep(Grid({"x": [1]}))
    old = sweep.state
    sweep.pause()
    sweep._shell.show(old)
    assert sweep.status is SweepStatus.PAUSED


def test_the_same_wish_again_keeps_its_place() -> None:
    """So the backlog stays small however often somebody asks, and nobody's turn moves back."""
    sweep = Sweep(Grid({"x": [1]}))
    for statuses in ({RunStatus.FAILED}, {RunStatus.CRASHED}, {RunStatus.FAILED}):
        sweep.retry(statuses)
    assert [wish.statuses for wish in sweep.state.backlog] == [(RunStatus.FAILED,), (RunStatus.CRASHED,)]
    assert [wish.version for wish in sweep.state.backlog] == [sweep.state.version, sweep.state.version - 1]


def test_a_trigger_of_the_other_machine_is_refused() -> None:
    """Words of the two machines are equal as strings; a mix-up must not find a cell."""
    mixed: list[tuple[Any, Any]] = [
        (SweepStatus.RUNNING, RunTrigger.KILL),
        (RunStatus.RUNNING, lifecycle.SweepTrigger.PAUSE),
    ]
    for status, trigger in mixed:
        with pytest.raises(InvalidValue, match="does not move"):
            lifecycle.step(status, trigger)
        with pytest.raises(InvalidValue, match="does not move"):
            lifecycle.check(status, trigger)


def test_an_inline_agent_lets_go_of_a_run_that_may_not_begin() -> None:
    """It was killed between the order and its delivery: nothing executes, and no slot stays taken."""
    sweep = Sweep(Grid({"x": [1]}), limits=Limits(max_active=1))
    run = sweep.next_run("inline")
    assert isinstance(run, Run)
    sweep.cancel()
    InlineAgent(lambda _run: None).start(Start(run))
    assert sweep.refresh().done
