"""DrivenAgent: what every agent does whose executions go on beside it, with executions that only pretend."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence

import attrs
import pytest

from sweepstate import (
    Cause,
    Change,
    Event,
    Grid,
    InvalidValue,
    Limits,
    MemoryStorage,
    OutcomeUnknown,
    Run,
    RunStatus,
    SearchError,
    StorageError,
    Sweep,
    SweepState,
    SweepStatus,
)
from sweepstate.agent._waiting import Bell
from sweepstate.agent.driving import DrivenAgent, Execution, NoRoom, Report, Trace
from sweepstate.core.events import RunEnded, RunStarted
from sweepstate.hooks import History, Kill, Start
from sweepstate.testing.clock import ManualClock

Plan = Callable[["Pretended"], Report | None]


@attrs.define(eq=False, slots=False)
class Pretended(Execution):
    """An execution that nothing executes; its plan says how it ends."""

    looks: int = 0


class Pretending(DrivenAgent[str, Pretended]):
    """Launches nothing, notes what it is told, and lets time pass where it would wait."""

    def __init__(self, plan: Plan, clock: ManualClock, **options: float) -> None:
        super().__init__("pretending", **options)
        self.plan = plan
        self.clock = clock
        self.said: list[str] = []
        self.while_waiting: list[Callable[[], object]] = []
        self.found: Trace | Pretended = Trace.UNKNOWN
        self.launch_error: Exception | None = None
        self.prepare_error: Exception | None = None

    def _prepare(self, run: Run) -> str:
        if self.prepare_error is not None:
            raise self.prepare_error
        self.said.append(f"prepare {run.index}.{run.attempt}")
        return "prepared"

    def _discard(self, prepared: str) -> None:
        self.said.append(f"discard {prepared}")

    def _launch(self, run: Run, prepared: str) -> Pretended:
        assert prepared == "prepared"
        if self.launch_error is not None:
            raise self.launch_error
        self.said.append(f"launch {run.index}.{run.attempt}")
        return Pretended(run)

    def _ask(self, execution: Pretended) -> None:
        self.said.append(f"ask {execution.run.index}")

    def _end(self, execution: Pretended) -> None:
        self.said.append(f"end {execution.run.index}")

    def _look(self, execution: Pretended) -> Report | None:
        execution.looks += 1
        return self.plan(execution)

    def _find(self, run: Run) -> Pretended | Trace:
        self.said.append(f"find {run.index}.{run.attempt}")
        return self.found

    def _released(self, execution: Pretended) -> None:
        self.said.append(f"released {execution.run.index}")

    def _now(self) -> float:
        return self.clock()

    def _wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        if self.while_waiting:
            self.while_waiting.pop(0)()


def finishing(execution: Pretended) -> Report | None:
    """End well at the third look."""
    return (lambda run: run.finish(loss=1.0)) if execution.looks >= 3 else None


def obeying(execution: Pretended) -> Report | None:
    """Go on until asked to end, or ended."""
    if execution.ended:
        return lambda run: run.exited(-9)
    return (lambda run: run.exited(1)) if execution.asked else None


def sweep_of(agent: Pretending, points: int = 3, **limits: float) -> Sweep:
    limits.setdefault("max_active", 2)
    search = Grid({"x": list(range(points))})
    return Sweep(search, id="s", agent=agent, clock=agent.clock, limits=Limits(**limits))  # type: ignore[arg-type]


def stop(sweep: Sweep, index: int) -> Callable[[], object]:
    """Stop a run that need not be there yet."""
    return lambda: sweep[index].stop()  # noqa: PLW0108 - looked up when it is called


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_a_sweep_is_driven_until_it_is_done(clock: ManualClock) -> None:
    """Each point once, and never more than the slots that there are."""
    agent = Pretending(finishing, clock)
    sweep = sweep_of(agent, 5)
    agent.drive(sweep)
    assert (sweep.status, sweep.done, sweep.counts[RunStatus.FINISHED]) == (SweepStatus.FINISHED, True, 5)
    assert [text for text in agent.said if text.startswith("launch")] == [f"launch {n}.1" for n in range(5)]
    assert sum(text.startswith("released") for text in agent.said) == 5


def test_an_order_that_is_delivered_again_starts_nothing(clock: ManualClock) -> None:
    """However often it is."""
    agent = Pretending(lambda _: None, clock)
    sweep = sweep_of(agent)
    sweep.tick()
    for _ in range(3):
        agent.start(Start(sweep[0]))
        sweep.tick()
    assert [text for text in agent.said if text.startswith("launch")] == ["launch 0.1", "launch 1.1"]


def test_a_start_that_is_refused_launches_nothing(clock: ManualClock) -> None:
    """Somebody else has begun it: it is theirs."""
    agent = Pretending(lambda _: None, clock)
    sweep = sweep_of(agent, max_active=1)
    bare = Sweep.open("s", storage=sweep.storage, clock=clock)
    run = bare.next_run("pretending")
    assert isinstance(run, Run)
    run.start("somebody else")
    agent.start(Start(sweep[0]))
    assert agent.said == ["prepare 0.1", "discard prepared"]


def test_a_run_that_was_killed_before_its_start_is_gone_at_once(clock: ManualClock) -> None:
    """So its slot is free."""
    agent = Pretending(lambda _: None, clock)
    sweep = sweep_of(agent, max_active=1)
    run = Sweep.open("s", storage=sweep.storage, clock=clock).next_run("pretending")
    assert isinstance(run, Run)
    run.kill()
    agent.start(Start(run))
    assert "discard prepared" in agent.said
    assert run.refresh().state.lease is None


def test_what_cannot_be_prepared_counts_as_a_failed_launch(clock: ManualClock) -> None:
    """Three times, and the run is FAILED, not launched; the sweep goes on to its end."""
    agent = Pretending(finishing, clock)
    sweep = sweep_of(agent, 1)
    agent.prepare_error = OSError("no such program")
    agent.drive(sweep)
    assert (sweep[0].status, sweep[0].cause) == (RunStatus.FAILED, Cause.NOT_LAUNCHED)
    assert "no such program" in str(sweep[0].message)


def test_an_agent_without_room_is_handed_nothing_and_waits_for_it(clock: ManualClock) -> None:
    """It is still driving: it takes the next run when there is room again."""

    class Cramped(Pretending):
        room = True

        def _has_room(self) -> bool:
            return self.room

    agent = Cramped(finishing, clock)
    agent.room = False
    sweep = sweep_of(agent, 2)
    created: list[int] = []

    def make_room() -> None:
        created.append(sweep.refresh().state.created)
        agent.room = True

    agent.while_waiting = [lambda: None, make_room]
    agent.drive(sweep)
    assert created == [0]
    assert sweep.counts[RunStatus.FINISHED] == 2


def test_a_run_for_which_another_took_the_room_is_given_back(clock: ManualClock) -> None:
    """It is no failed launch, however often that happens."""

    class Outrun(Pretending):
        times = 0

        def _prepare(self, run: Run) -> str:
            self.times += 1
            if self.times <= 5:
                raise NoRoom
            return super()._prepare(run)

    agent = Outrun(finishing, clock)
    sweep = sweep_of(agent, 1)
    agent.drive(sweep)
    assert (sweep[0].status, sweep[0].attempt) == (RunStatus.FINISHED, 6)


class Full(Pretending):
    """Finds out only when it prepares that there is no room; then it says so to whoever wants to know."""

    room = 0
    asked = 0

    def _prepare(self, run: Run) -> str:
        self.asked += 1
        if self.room <= len(self._executions):
            raise NoRoom
        return super()._prepare(run)

    def _wait(self, seconds: float) -> None:
        super()._wait(min(seconds, 1.0))  # something happens meanwhile


def test_an_agent_that_finds_no_room_does_not_spin(clock: ManualClock) -> None:
    """However many runs there are, it tries with one, and then waits."""
    agent = Full(finishing, clock)
    sweep = sweep_of(agent, 100, max_active=100)
    asked: list[int] = []

    def leave() -> None:
        signal.raise_signal(signal.SIGINT)

    agent.while_waiting = [*[lambda: asked.append(agent.asked)] * 3, leave]
    assert agent.drive(sweep) is False
    assert asked == [1, 2, 3]


def test_room_that_an_end_makes_is_used_at_once_also_if_it_is_found_out_late(clock: ManualClock) -> None:
    agent = Full(lambda _: lambda run: run.finish(loss=1.0), clock, poll=10.0)
    agent.room = 1
    sweep = sweep_of(agent, 5, max_active=2)
    began = clock()
    agent.drive(sweep)
    assert (sweep.counts[RunStatus.FINISHED], clock() - began) == (5, 5.0)


def test_a_bell_may_be_rung_from_a_signal_handler_at_any_moment() -> None:
    """Also while whoever waits for it is at its lock; ``threading.Event`` hangs here."""
    bell = Bell()
    rung = [0]

    def ring(*_: object) -> None:
        rung[0] += 1
        bell.set()

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    try:
        while rung[0] < 3_000:
            bell.wait(0.01)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    bell.set()
    bell.set()
    bell.wait(100)
    began = time.monotonic()
    bell.wait(0.01)  # how often it was rung is forgotten
    assert time.monotonic() - began >= 0.01


def test_what_cannot_be_launched_after_all_is_a_failed_run(clock: ManualClock) -> None:
    """Its start was reported, so its end is too."""
    agent = Pretending(finishing, clock)
    agent.launch_error = OSError("out of processes")
    sweep = sweep_of(agent, 1)
    agent.drive(sweep)
    assert sweep[0].status is RunStatus.FAILED
    assert "out of processes" in str(sweep[0].message)
    assert "discard prepared" in agent.said


def test_executions_beat_so_that_none_is_lost(clock: ManualClock) -> None:
    """Also one that takes much longer than silence may last."""
    agent = Pretending(lambda e: (lambda run: run.finish()) if clock() > start + 5_000 else None, clock)
    start = clock()
    sweep = sweep_of(agent, 1, heartbeat_timeout=60.0)
    agent.drive(sweep)
    assert (sweep[0].status, sweep[0].attempt) == (RunStatus.FINISHED, 1)


def test_stopping_one_run_asks_it_once_and_starts_the_next(clock: ManualClock) -> None:
    """It ends by itself; its agent gets the next one."""
    agent = Pretending(obeying, clock)
    sweep = sweep_of(agent, 2, max_active=1)
    agent.while_waiting = [stop(sweep, 0), lambda: None, stop(sweep, 1)]
    agent.drive(sweep)
    assert [text for text in agent.said if text.startswith("ask")] == ["ask 0", "ask 1"]
    assert [run.status for run in sweep.runs()] == [RunStatus.KILLED] * 2


def test_a_stop_by_another_process_is_learned_by_heartbeat_or_tick(clock: ManualClock) -> None:
    """Whatever the handle that the command was given to."""
    agent = Pretending(obeying, clock)
    sweep = sweep_of(agent, 1)
    other = Sweep.open("s", storage=sweep.storage, clock=clock)
    agent.while_waiting = [stop(other, 0)]
    agent.drive(sweep)
    assert sweep[0].cause is Cause.STOPPED


def test_a_run_that_ignores_the_question_is_ended_when_its_grace_is_over(clock: ManualClock) -> None:
    """By the tick that kills it; that it is gone is said when it is."""
    agent = Pretending(lambda e: (lambda run: run.exited(-9)) if e.ended else None, clock)
    sweep = sweep_of(agent, 1, stop_grace=30.0)
    asked = clock()
    agent.while_waiting = [stop(sweep, 0)]
    agent.drive(sweep)
    assert agent.said[-3:] == ["ask 0", "end 0", "released 0"]
    assert 30 <= clock() - asked < 35
    assert sweep.done


def test_cancel_ends_everything_abruptly(clock: ManualClock) -> None:
    """And the sweep is done when all of it is gone."""
    agent = Pretending(obeying, clock)
    sweep = sweep_of(agent)
    agent.while_waiting = [sweep.cancel]
    agent.drive(sweep)
    assert {"end 0", "end 1"} <= set(agent.said)
    assert not any(text.startswith("ask") for text in agent.said)
    assert (sweep.status, sweep.done) == (SweepStatus.CANCELLED, True)


def test_a_paused_sweep_is_waited_for(clock: ManualClock) -> None:
    """Its runs go on, none is handed out, and after a resume it goes on to the end."""
    agent = Pretending(finishing, clock)
    sweep = sweep_of(agent, 4)
    launched: list[int] = []
    agent.while_waiting = [
        sweep.pause,
        *[lambda: None] * 10,
        lambda: launched.append(sum(text.startswith("launch") for text in agent.said)),
        sweep.resume,
    ]
    agent.drive(sweep)
    assert launched == [2]
    assert sweep.counts[RunStatus.FINISHED] == 4


def test_metrics_that_are_none_fail_the_run(clock: ManualClock) -> None:
    """The loop goes on with the next."""
    agent = Pretending(lambda _: lambda run: run.exited(0, "", {"loss": "low"}), clock)  # type: ignore[dict-item]
    sweep = sweep_of(agent, 2)
    agent.drive(sweep)
    assert sweep.counts[RunStatus.FAILED] == 2


def test_an_end_that_was_reported_elsewhere_makes_room_at_once(clock: ManualClock) -> None:
    """As by the execution itself: no commit of this agent's has filled its slot, so it looks at the sweep then."""

    def plan(execution: Pretended) -> Report | None:
        Sweep.open("s", storage=sweep.storage, clock=clock).run_of(execution.run.token).finish(loss=1.0)
        return lambda run: run.gone()

    agent = Pretending(plan, clock, poll=10.0)
    sweep = sweep_of(agent, 3, max_active=1)
    began = clock()
    agent.drive(sweep)
    assert clock() - began == 30.0  # one wait a run, as nothing wakes this agent
    assert sweep.counts[RunStatus.FINISHED] == 3


class Narrow(Pretending):
    """Has room for one, whatever the sweep allows."""

    def _has_room(self) -> bool:
        return not self._executions


def test_room_that_an_end_makes_is_used_at_once(clock: ManualClock) -> None:
    """Though the commit that reports the end comes before that."""
    agent = Narrow(lambda e: (lambda run: run.finish()) if e.looks else None, clock, poll=10.0)
    sweep = sweep_of(agent, 3, max_active=5)
    began = clock()
    agent.drive(sweep)
    assert clock() - began == 30.0
    assert sweep.counts[RunStatus.FINISHED] == 3


# --- hooks that raise -----------------------------------------------------------------------------


class Faulty(Pretending):
    """Raises in a hook for one run, as often as the test says."""

    def __init__(self, plan: Plan, clock: ManualClock, hook: str, *, times: float = float("inf")) -> None:
        super().__init__(plan, clock)
        self.hook = hook
        self.times = times
        self.tried: list[float] = []

    def _fail(self, hook: str, run: Run) -> None:
        if (hook, 0) == (self.hook, run.index):
            self.tried.append(self.clock())
            if len(self.tried) <= self.times:
                raise RuntimeError(f"{hook} is broken")

    def _look(self, execution: Pretended) -> Report | None:
        self._fail("look", execution.run)
        return super()._look(execution)

    def _ask(self, execution: Pretended) -> None:
        self._fail("ask", execution.run)
        super()._ask(execution)

    def _end(self, execution: Pretended) -> None:
        self._fail("end", execution.run)
        super()._end(execution)

    def _find(self, run: Run) -> Pretended | Trace:
        self._fail("find", run)
        return super()._find(run)

    def _released(self, execution: Pretended) -> None:
        super()._released(execution)
        self._fail("released", execution.run)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_what_cannot_be_looked_at_is_lost_to_silence_and_the_others_go_on(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody knows whether it executes: it is sent no heartbeats, looked at in each round, and complained of once."""
    agent = Faulty(finishing, clock, "look")
    sweep = sweep_of(agent, 3, heartbeat_timeout=60.0, suspicion=20.0)
    began = clock()
    assert agent.drive(sweep)
    assert [run.status for run in sweep.runs()] == [RunStatus.CRASHED, RunStatus.FINISHED, RunStatus.FINISHED]
    assert sweep[0].cause is Cause.LOST
    assert 80 <= clock() - began < 90
    assert 80 <= len(agent.tried) < 90  # a round a second
    [said] = complaints(caplog)
    assert "s[0]" in said
    assert "RuntimeError: look is broken" in said
    assert "released 0" not in agent.said  # nobody knows whether what it holds is free


def test_what_could_not_be_looked_at_for_a_while_ends_as_if_nothing_had_been(clock: ManualClock) -> None:
    """Its heartbeats go on as soon as it can."""
    agent = Faulty(lambda e: (lambda run: run.finish()) if clock() > start + 200 else None, clock, "look", times=50)
    start = clock()
    sweep = sweep_of(agent, 1, heartbeat_timeout=60.0, suspicion=20.0)
    agent.drive(sweep)
    assert (sweep[0].status, sweep[0].attempt) == (RunStatus.FINISHED, 1)


def test_the_end_of_what_is_seen_again_corrects_that_it_was_lost(clock: ManualClock) -> None:
    """While its sweep is being driven, it is looked at."""
    agent = Faulty(finishing, clock, "look", times=150)
    sweep = sweep_of(agent, 1, heartbeat_timeout=60.0, suspicion=20.0)
    sweep.tick()
    sweep.pause()
    agent.while_waiting = [*[lambda: None] * 200, sweep.resume]
    assert agent.drive(sweep)
    assert sweep[0].status is RunStatus.FINISHED
    assert "released 0" in agent.said


def test_three_interrupts_do_not_wait_for_what_cannot_be_looked_at(clock: ManualClock) -> None:
    """Whoever presses Ctrl-C three times wants to leave."""
    agent = Faulty(obeying, clock, "look")
    sweep = sweep_of(agent, 1)
    interrupt = lambda: agent._interrupted(2, None)  # noqa: E731 - short is clearer here
    agent.while_waiting = [interrupt, interrupt, interrupt]
    began = clock()
    assert not agent.drive(sweep)
    assert clock() - began < 10
    assert "end 0" in agent.said


@pytest.mark.parametrize("hook", ["ask", "end"])
def test_what_could_not_be_asked_or_ended_is_tried_again(clock: ManualClock, hook: str) -> None:
    """By each order, until it can be; a stop is told once, and its grace counts from the first attempt."""
    agent = Faulty(obeying, clock, hook, times=3)
    sweep = sweep_of(agent, 1)
    agent.while_waiting = [stop(sweep, 0) if hook == "ask" else sweep.cancel]
    assert agent.drive(sweep)
    assert len(agent.tried) >= 4
    assert agent.said.count(f"{hook} 0") == len(agent.tried) - 3
    assert sweep[0].status is RunStatus.KILLED
    if hook == "ask":
        assert agent.said.count("ask 0") == 1


@pytest.mark.parametrize(("hook", "presses"), [("ask", 2), ("end", 3)])
def test_a_hook_that_raises_keeps_no_interrupt_from_the_others(clock: ManualClock, hook: str, presses: int) -> None:
    """Each is asked or ended, and the one for which that failed is in the next round."""
    agent = Faulty(lambda e: obeying(e) if hook == "ask" or e.ended else None, clock, hook, times=2)
    sweep = sweep_of(agent, 3)
    agent.while_waiting = [lambda: agent._interrupted(2, None)] * presses
    assert not agent.drive(sweep)
    assert {f"{hook} 0", f"{hook} 1"} <= set(agent.said)
    assert [run.status for run in sweep.runs()] == [RunStatus.KILLED] * 2


def test_what_a_heartbeat_asks_for_is_tried_again_too(clock: ManualClock) -> None:
    """Where no order comes: a run that has reported its end is no tick's business any more."""
    agent = Faulty(lambda e: (lambda run: run.exited(-9)) if e.ended else None, clock, "end", times=2)
    sweep = sweep_of(agent, 1, stop_grace=10.0)

    def finish() -> None:
        Sweep.open("s", storage=sweep.storage, clock=clock)[0].finish()

    agent.while_waiting = [finish]
    assert agent.drive(sweep)
    assert sweep[0].status is RunStatus.FINISHED
    assert len(agent.tried) == 3


def test_what_an_execution_held_and_cannot_be_given_back_ends_nothing(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Faulty(finishing, clock, "released")
    sweep = sweep_of(agent, 3)
    assert agent.drive(sweep)
    assert sweep.counts[RunStatus.FINISHED] == 3
    assert len(complaints(caplog)) == 1


def test_an_end_that_cannot_be_reported_fails_its_run_with_the_reason(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of it executes, so it must not be RUNNING; the others go on."""

    def report(run: Run) -> object:
        if run.index == 0:
            raise LookupError("no such exit code")
        return run.finish()

    agent = Pretending(lambda _: report, clock)
    sweep = sweep_of(agent, 3)
    assert agent.drive(sweep)
    assert (sweep[0].status, sweep.counts[RunStatus.FINISHED]) == (RunStatus.FAILED, 2)
    assert "no such exit code" in str(sweep[0].message)
    assert len(complaints(caplog)) == 1


def test_what_was_left_behind_and_cannot_be_looked_for_is_looked_for_again(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """In each round; and what is never found is lost to silence."""
    sweep = left_behind(clock)
    agent = Faulty(finishing, clock, "find", times=5)
    agent.found = Pretended(sweep[0])
    assert agent.drive(reopened(sweep, agent))
    assert (sweep[0].status, sweep[0].attempt) == (RunStatus.FINISHED, 1)
    assert len(agent.tried) == 6
    assert len(complaints(caplog)) == 1


def test_a_deleted_sweep_waits_for_nothing_that_cannot_be_looked_at(clock: ManualClock) -> None:
    agent = Faulty(obeying, clock, "look")
    storage = MemoryStorage()
    sweep = Sweep(Grid({"x": [1, 2]}), id="s", agent=agent, clock=clock, storage=storage, limits=Limits(max_active=2))
    agent.while_waiting = [lambda: storage.delete("s")]
    agent.drive(sweep)
    assert {"end 0", "end 1", "released 1"} <= set(agent.said)


# --- outages --------------------------------------------------------------------------------------


class Away(MemoryStorage):
    """Does not answer while it is away."""

    away = False

    def sweep(self, sweep_id: str) -> SweepState:
        if self.away:
            raise StorageError("away")
        return super().sweep(sweep_id)


def test_an_outage_of_the_storage_loses_no_end(clock: ManualClock) -> None:
    """What ended meanwhile is reported afterwards."""
    agent = Pretending(finishing, clock)
    storage = Away()
    sweep = Sweep(Grid({"x": [1, 2]}), id="s", agent=agent, clock=clock, storage=storage, limits=Limits(max_active=1))

    def go() -> None:
        storage.away = True

    def come_back() -> None:
        storage.away = False

    agent.while_waiting = [go, *[lambda: None] * 20, come_back]
    agent.drive(sweep)
    assert sweep.counts[RunStatus.FINISHED] == 2


def test_an_outage_that_lasts_too_long_is_raised_and_nothing_is_ended(clock: ManualClock) -> None:
    """Called again, it goes on where it was."""
    agent = Pretending(finishing, clock, patience=100.0)
    storage = Away()
    sweep = Sweep(Grid({"x": [1]}), id="s", agent=agent, clock=clock, storage=storage)
    sweep.tick()
    storage.away = True
    with pytest.raises(StorageError, match="away"):
        agent.drive(sweep)
    storage.away = False
    agent.drive(sweep)
    assert not any(text.startswith("end") for text in agent.said)
    assert sweep[0].status is RunStatus.FINISHED


def test_a_start_whose_answer_is_lost_is_settled_by_what_is_found(clock: ManualClock) -> None:
    """It may have begun, and nobody executes it; that is found out without waiting for silence."""
    agent = Pretending(finishing, clock)
    agent.found = Trace.GONE
    storage = Forgetful()
    limits = Limits(max_active=1, retries={RunStatus.CRASHED: 1})
    sweep = Sweep(Grid({"x": [1]}), id="s", agent=agent, clock=clock, storage=storage, limits=limits)
    began = clock()
    agent.drive(sweep)
    assert "discard prepared" in agent.said
    assert (sweep[0].status, sweep[0].attempt) == (RunStatus.FINISHED, 2)
    assert clock() - began < 30


class Forgetful(MemoryStorage):
    """Writes the first start of a run, and cannot say so."""

    forgot = 0

    def commit(self, change: Change) -> None:
        super().commit(change)
        if self.forgot < 2 and any(isinstance(event, RunStarted) for event in change.events):
            self.forgot += 1
            raise OutcomeUnknown("the connection was lost")

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        if self.forgot == 1:
            self.forgot = 2
            raise StorageError("still away")
        return super().events(sweep_id, after=after, limit=limit)


def test_a_launch_that_failed_is_reported_when_the_storage_is_back(clock: ManualClock) -> None:
    """The run is FAILED with what was wrong, and not lost to silence."""
    agent = Pretending(finishing, clock)
    agent.launch_error = OSError("out of processes")
    storage = Losing()
    sweep = Sweep(Grid({"x": [1]}), id="s", agent=agent, clock=clock, storage=storage, limits=Limits(max_active=1))
    agent.drive(sweep)
    assert storage.lost == 1
    assert sweep[0].status is RunStatus.FAILED
    assert "out of processes" in str(sweep[0].message)


class Losing(MemoryStorage):
    """Refuses the first end of a run."""

    lost = 0

    def commit(self, change: Change) -> None:
        if not self.lost and any(isinstance(event, RunEnded) for event in change.events):
            self.lost += 1
            raise StorageError("away")
        super().commit(change)


def test_a_start_that_was_not_stored_is_no_failed_launch_and_nobody_elses_execution_is_touched(
    clock: ManualClock,
) -> None:
    """Its order is outstanding still; if somebody else has begun meanwhile, it is theirs."""
    agent = Pretending(finishing, clock)
    storage = Away()
    sweep = Sweep(Grid({"x": [1]}), id="s", agent=agent, clock=clock, storage=storage, limits=Limits(max_active=1))
    run = Sweep.open("s", storage=storage, clock=clock).next_run("pretending")
    assert isinstance(run, Run)
    storage.away = True
    agent.start(Start(sweep._handle(run.state)))
    storage.away = False
    run.start("somebody else", heartbeats=True)
    agent.while_waiting = [run.finish]
    agent.drive(sweep)
    assert (sweep[0].status, sweep[0].attempt) == (RunStatus.FINISHED, 1)


def test_interrupts_are_obeyed_while_the_storage_is_away(clock: ManualClock) -> None:
    """What executes is ended at once, and reported as KILLED when the storage is back."""
    agent = Pretending(obeying, clock)
    storage = Away()
    sweep = Sweep(Grid({"x": [1, 2]}), id="s", agent=agent, clock=clock, storage=storage, limits=Limits(max_active=1))
    sweep.tick()
    ended: list[bool] = []

    def come_back() -> None:
        ended.append("end 0" in agent.said)
        storage.away = False

    def interrupt() -> None:
        storage.away = True
        agent._interrupted(2, None)

    agent.while_waiting = [interrupt, interrupt, interrupt, lambda: None, come_back]
    assert not agent.drive(sweep)
    assert ended == [True]
    assert sweep[0].status is RunStatus.KILLED


def test_the_deletion_of_another_sweep_touches_nothing_of_this_one(clock: ManualClock) -> None:
    """An agent may execute for several."""
    agent = Pretending(lambda e: finishing(e) if e.run.sweep_id == "s" else obeying(e), clock)
    storage = MemoryStorage()
    options = {"agent": agent, "clock": clock, "storage": storage, "limits": Limits(max_active=1)}
    other = Sweep(Grid({"x": [1]}), id="other", **options)  # type: ignore[arg-type]
    other.tick()
    sweep = Sweep(Grid({"x": [1, 2]}), id="s", **options)  # type: ignore[arg-type]
    agent.while_waiting = [lambda: storage.delete("other")]
    assert agent.drive(sweep)
    assert sweep.counts[RunStatus.FINISHED] == 2


def test_what_has_reported_its_end_and_goes_on_is_ended_after_its_grace(clock: ManualClock) -> None:
    """Or its slot would be held for ever: no tick kills a run that has ended."""
    agent = Pretending(lambda e: (lambda run: run.exited(-9)) if e.ended else None, clock)
    sweep = sweep_of(agent, 1, stop_grace=10.0)

    def finish() -> None:
        Sweep.open("s", storage=sweep.storage, clock=clock)[0].finish()

    agent.while_waiting = [finish]
    began = clock()
    assert agent.drive(sweep)
    assert sweep[0].status is RunStatus.FINISHED
    assert clock() - began < 120


def test_heartbeats_that_are_due_all_the_time_do_not_make_it_spin(clock: ManualClock) -> None:
    """However short silence may be."""
    agent = Pretending(lambda e: (lambda run: run.finish()) if clock() > start + 10 else None, clock)
    start = clock()
    waits: list[float] = []
    wait = agent._wait

    def note(seconds: float) -> None:
        waits.append(seconds)
        wait(seconds)

    agent._wait = note  # type: ignore[method-assign]
    agent.drive(sweep_of(agent, 1, heartbeat_timeout=0.0))
    assert len(waits) < 500


def test_what_executes_for_a_deleted_sweep_is_ended(clock: ManualClock) -> None:
    """Nobody wants its result."""
    agent = Pretending(obeying, clock)
    storage = MemoryStorage()
    sweep = Sweep(Grid({"x": [1]}), id="s", agent=agent, clock=clock, storage=storage)
    agent.while_waiting = [lambda: storage.delete("s")]
    agent.drive(sweep)
    assert agent.said[-2:] == ["end 0", "released 0"]


# --- what every further run would fail for --------------------------------------------------------


class Breaking:
    """A search that breaks at a point, until it is repaired."""

    size = None
    broken = True

    def propose(self, index: int, _history: History, /) -> dict[str, int]:
        if index >= 2 and self.broken:
            raise LookupError("the model of the search is gone")
        return {"x": index}


def breaking(agent: Pretending, **limits: float) -> tuple[Sweep, Breaking]:
    search = Breaking()
    bounds = Limits(**{"max_active": 3, "run_cap": 4, **limits})  # type: ignore[arg-type]
    return Sweep(search, id="s", agent=agent, clock=agent.clock, limits=bounds), search


def test_a_search_that_fails_is_raised_when_what_executes_has_ended(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is looked after meanwhile, and nothing is begun; called again, it goes on."""
    agent = Pretending(lambda e: (lambda run: run.finish()) if clock() > start + 500 else None, clock)
    start = clock()
    sweep, search = breaking(agent, heartbeat_timeout=60.0)
    with pytest.raises(SearchError, match="the model of the search is gone"):
        agent.drive(sweep)
    assert clock() - start > 500
    assert [run.status for run in sweep.runs()] == [RunStatus.FINISHED] * 2
    assert not agent.accepting
    assert len(complaints(caplog)) == 1  # at once, and not when all have ended
    search.broken = False
    assert agent.drive(sweep)
    assert sweep.counts[RunStatus.FINISHED] == 4


def test_a_search_that_fails_while_nothing_executes_is_raised_at_once(clock: ManualClock) -> None:
    agent = Pretending(finishing, clock)
    sweep, _ = breaking(agent, max_active=1)
    with pytest.raises(SearchError):
        agent.drive(sweep)
    assert sweep.counts[RunStatus.FINISHED] == 2


def test_interrupts_are_obeyed_after_a_search_has_failed(clock: ManualClock) -> None:
    """Nobody has to wait for what executes."""
    agent = Pretending(obeying, clock)
    sweep, _ = breaking(agent)
    interrupt = lambda: agent._interrupted(2, None)  # noqa: E731 - short is clearer here
    agent.while_waiting = [lambda: None, interrupt, interrupt]
    with pytest.raises(SearchError):
        agent.drive(sweep)
    assert {"ask 0", "ask 1"} <= set(agent.said)
    assert [run.status for run in sweep.runs()] == [RunStatus.KILLED] * 2


def test_an_end_that_all_runs_would_have_is_raised_and_no_more_are_begun(clock: ManualClock) -> None:
    """After it is reported; what else executes is looked after until it has ended."""

    def plan(execution: Pretended) -> Report | None:
        if execution.run.index == 0:
            execution.systematic = InvalidValue("result", "0.3 has no name")
            return lambda run: run.fail("0.3 has no name")
        return finishing(execution)

    agent = Pretending(plan, clock)
    sweep = sweep_of(agent, 5)
    with pytest.raises(InvalidValue, match="has no name"):
        agent.drive(sweep)
    assert [run.status for run in sweep.runs()] == [RunStatus.FAILED, RunStatus.FINISHED]


# --- counting -------------------------------------------------------------------------------------


def test_it_leaves_when_it_has_begun_so_many_and_they_have_ended(clock: ManualClock) -> None:
    """Another drive counts afresh."""
    agent = Pretending(finishing, clock)
    sweep = sweep_of(agent, 5, max_active=4)
    assert not agent.drive(sweep, signals=False, count=3)
    assert [run.status for run in sweep.runs()] == [RunStatus.FINISHED] * 3
    assert (agent.begun, agent.accepting, sweep.status) == (3, False, SweepStatus.RUNNING)
    assert agent.drive(sweep, signals=False, count=3)
    assert agent.begun == 2


def test_what_is_tried_again_counts_again(clock: ManualClock) -> None:
    """As a worker counts what it executes; what could not be prepared does not count."""
    agent = Pretending(lambda _: lambda run: run.crash("again"), clock)
    sweep = sweep_of(agent, 5, max_active=1)
    agent.prepare_error = OSError("not yet")
    sweep.set_limits(retries={RunStatus.CRASHED: 9})
    agent.while_waiting = [lambda: setattr(agent, "prepare_error", None)]
    assert not agent.drive(sweep, signals=False, count=3)
    assert (sweep[0].attempt, sweep[0].status) == (4, RunStatus.PENDING)


def test_two_threads_that_begin_at_once_begin_no_more_than_so_many(clock: ManualClock) -> None:
    """By handles of their own, whose orders are not delivered one after the other."""
    meeting = threading.Barrier(2)

    class Meeting(Pretending):
        def _prepare(self, run: Run) -> str:
            if run.index == 0:
                meeting.wait(60)  # it is about to begin
                meeting.wait(60)
            return super()._prepare(run)

    agent = Meeting(lambda _: None, clock)
    agent._most = 1
    storage = MemoryStorage()
    bare = Sweep(Grid({"x": [1, 2]}), id="s", storage=storage, clock=clock)
    runs = [bare.next_run("pretending"), bare.next_run("pretending")]
    orders = [Start(run) for run in runs if isinstance(run, Run)]
    thread = threading.Thread(target=agent.start, args=(orders[0],))
    thread.start()
    meeting.wait(60)
    agent.start(orders[1])
    meeting.wait(60)
    thread.join(60)
    assert [text for text in agent.said if text.startswith("launch")] == ["launch 0.1"]
    assert (bare[1].status, bare[1].state.held) == (RunStatus.PENDING, False)


# --- leaving --------------------------------------------------------------------------------------


def executing(clock: ManualClock, plan: Plan = obeying, **limits: float) -> tuple[Pretending, Sweep, Away]:
    """Return an agent that has two executions of a sweep, and whose storage is away."""
    agent, storage = Pretending(plan, clock, patience=10.0), Away()
    search = Grid({"x": list(range(4))})
    bounds = Limits(**{"max_active": 2, **limits})  # type: ignore[arg-type]
    sweep = Sweep(search, id="s", agent=agent, clock=clock, storage=storage, limits=bounds)
    sweep.tick()
    storage.away = True
    return agent, sweep, storage


def test_who_leaves_asks_and_ends_what_executes_though_the_storage_is_away(clock: ManualClock) -> None:
    """The one that does not end by itself after its grace; that is reported when the agent is driven again."""
    stubborn = lambda e: obeying(e) if e.run.index == 0 or e.ended else None  # noqa: E731 - short is clearer here
    agent, sweep, storage = executing(clock, stubborn, stop_grace=30.0)
    with pytest.raises(StorageError):
        agent.drive(sweep)
    began = clock()
    assert agent.terminate()
    assert 30 <= clock() - began < 33
    assert [text for text in agent.said if text.startswith(("ask", "end"))] == ["ask 0", "ask 1", "end 1"]
    assert not agent.accepting
    storage.away = False
    agent.plan = finishing
    assert agent.drive(sweep)
    statuses = [run.status for run in sweep.runs()]
    assert statuses == [RunStatus.FAILED, RunStatus.CRASHED, RunStatus.FINISHED, RunStatus.FINISHED]


def test_who_leaves_reports_ends_if_the_storage_takes_them_and_begins_nothing(clock: ManualClock) -> None:
    agent, sweep, storage = executing(clock)
    storage.away = False
    assert agent.terminate()
    assert [(run.status, run.state.lease) for run in sweep.runs()] == [(RunStatus.FAILED, None)] * 2
    assert sum(text.startswith("released") for text in agent.said) == 2


def test_who_leaves_does_not_wait_for_what_cannot_be_ended(clock: ManualClock) -> None:
    agent, _, _ = executing(clock, lambda _: None, stop_grace=5.0)
    began = clock()
    assert not agent.terminate()
    assert 15 <= clock() - began < 20
    assert {"end 0", "end 1"} <= set(agent.said)


def test_an_interrupt_means_that_the_grace_is_over(clock: ManualClock) -> None:
    agent, _, _ = executing(clock, lambda e: obeying(e) if e.ended else None, stop_grace=500.0)
    agent.while_waiting = [lambda: agent._interrupted(2, None)]
    began = clock()
    assert agent.terminate()
    assert clock() - began < 5


def test_who_leaves_is_stopped_by_no_hook_that_raises(clock: ManualClock) -> None:
    """Nor by one that has something to report, and no storage."""
    agent, _, _ = executing(clock, stop_grace=5.0)

    def plan(execution: Pretended) -> Report | None:
        if execution.run.index == 0:
            raise RuntimeError("cannot look")
        execution.run.report(loss=1.0)
        return None

    agent.plan = plan
    assert not agent.terminate()
    assert {"ask 0", "ask 1", "end 0", "end 1"} <= set(agent.said)


def test_who_leaves_also_ends_what_another_thread_is_about_to_begin(clock: ManualClock) -> None:
    """Its order was delivered there before; with its whole grace."""
    entered, let = threading.Event(), threading.Event()

    class Slow(Pretending):
        def _launch(self, run: Run, prepared: str) -> Pretended:
            entered.set()
            assert let.wait(10.0)
            return super()._launch(run, prepared)

    agent = Slow(lambda each: (lambda run: run.exited(-9)) if each.ended else None, clock)
    sweep = sweep_of(agent, 1, stop_grace=30.0)
    thread = threading.Thread(target=sweep.tick)
    thread.start()
    assert entered.wait(10.0)

    def launch() -> None:
        let.set()
        thread.join(10.0)

    agent.while_waiting = [launch]
    began = clock()
    assert (agent.terminate(), clock() - began) == (True, 32.0)  # a second each until it is there, and until it is seen
    assert agent.said == ["prepare 0.1", "launch 0.1", "ask 0", "end 0", "released 0"]


def test_nobody_leaves_in_the_middle_of_a_drive(clock: ManualClock) -> None:
    """Of another thread, that is."""
    agent = Pretending(finishing, clock)
    sweep = sweep_of(agent, 1)
    errors: list[InvalidValue] = []

    def leave() -> None:
        with pytest.raises(InvalidValue, match="being driven already") as caught:
            agent.terminate()
        errors.append(caught.value)

    agent.while_waiting = [leave]
    assert agent.drive(sweep)
    assert [error.field for error in errors] == ["terminate"]


def test_with_nothing_that_executes_there_is_nothing_to_leave(clock: ManualClock) -> None:
    assert Pretending(finishing, clock).terminate()


# --- recovery -------------------------------------------------------------------------------------


def test_what_a_machine_that_is_taken_away_executes_is_queued_again(clock: ManualClock) -> None:
    """It is asked, and ended after its grace; what ends well all the same is FINISHED, and nothing more is begun."""

    def plan(execution: Pretended) -> Report | None:
        match execution.run.index:
            case 0:
                return obeying(execution)
            case 1:
                return (lambda run: run.exited(-9)) if execution.ended else None
            case _:
                return (lambda run: run.finish(loss=1.0)) if execution.asked else None

    agent = Pretending(plan, clock)
    sweep = sweep_of(agent, 5, max_active=3, stop_grace=30.0)
    agent.while_waiting = [agent.preempt]
    assert (agent.drive(sweep), agent.accepting, agent.preempted) == (False, False, True)
    runs = [(run.status, run.attempt) for run in sweep.runs()]
    assert runs == [(RunStatus.PENDING, 2), (RunStatus.PENDING, 2), (RunStatus.FINISHED, 1)]
    assert [text for text in agent.said if text.startswith(("ask", "end"))] == ["ask 0", "ask 1", "ask 2", "end 1"]
    assert agent.drive(sweep) is False  # it is still about to be taken away
    assert agent.begun == 0


def test_a_preemption_during_an_outage_is_obeyed_at_once_and_reported_afterwards(clock: ManualClock) -> None:
    agent, sweep, storage = executing(clock)
    storage.away = True
    agent.preempt()
    agent.while_waiting = [lambda: None, lambda: setattr(storage, "away", False)]
    assert agent.drive(sweep) is False
    assert [(run.status, run.attempt) for run in sweep.runs()] == [(RunStatus.PENDING, 2)] * 2


def test_a_run_that_is_killed_while_its_machine_is_taken_away_is_killed(clock: ManualClock) -> None:
    agent = Pretending(obeying, clock)
    sweep = sweep_of(agent, 5, max_active=2)

    def leave() -> None:
        Sweep.open("s", storage=sweep.storage, clock=clock)[0].kill()
        agent.preempt()

    agent.while_waiting = [leave]
    assert agent.drive(sweep) is False
    assert [run.status for run in sweep.runs()] == [RunStatus.KILLED, RunStatus.PENDING]


def left_behind(clock: ManualClock) -> Sweep:
    """Return a sweep whose first run was begun by an orchestrator that is gone."""
    agent = Pretending(lambda _: None, clock)
    sweep = sweep_of(agent, 1, max_active=1)
    sweep.tick()
    return sweep


def reopened(sweep: Sweep, agent: Pretending) -> Sweep:
    return Sweep.open("s", storage=sweep.storage, agent=agent, clock=agent.clock)


def test_what_an_earlier_orchestrator_began_and_is_gone_is_reported(clock: ManualClock) -> None:
    """So the sweep is done without waiting for silence."""
    sweep = left_behind(clock)
    agent = Pretending(finishing, clock)
    agent.found = Trace.GONE
    began = clock()
    agent.drive(reopened(sweep, agent))
    assert sweep[0].status is RunStatus.CRASHED
    assert clock() - began < 5


def test_what_is_found_executing_is_gone_on_with(clock: ManualClock) -> None:
    """Its end is reported as if nothing had been."""
    sweep = left_behind(clock)
    agent = Pretending(finishing, clock)
    agent.found = Pretended(sweep[0])
    agent.drive(reopened(sweep, agent))
    assert (sweep[0].status, sweep[0].attempt) == (RunStatus.FINISHED, 1)


def test_an_orphan_that_two_threads_come_to_at_once_is_found_once(clock: ManualClock) -> None:
    """An order to kill it, in whatever thread, while the drive looks for it: one of them has it, or what it holds
    would be held twice and given back once.
    """
    sweep = left_behind(clock)
    meeting = threading.Barrier(2)

    class Slow(Pretending):
        finds = 0

        def _find(self, run: Run) -> Pretended | Trace:
            found = Pretended(run)
            self.finds += 1
            if self.finds == 1:
                meeting.wait(60)  # it has been found, and is not known yet
                meeting.wait(60)
            return found

    agent = Slow(obeying, clock)
    thread = threading.Thread(target=agent.drive, args=(reopened(sweep, agent),))
    thread.start()
    meeting.wait(60)
    run = Sweep.open("s", storage=sweep.storage, clock=clock)[0]
    run.kill()
    agent.kill(Kill(run))
    meeting.wait(60)
    thread.join(60)
    assert agent.finds == 1
    assert "end 0" in agent.said  # the order came again
    assert (run.refresh().status, run.state.lease) == (RunStatus.KILLED, None)


def test_what_nobody_knows_of_is_left_to_silence(clock: ManualClock) -> None:
    """It may execute on another machine; it is lost when nothing is heard of it."""
    sweep = left_behind(clock)
    agent = Pretending(finishing, clock)
    agent.drive(reopened(sweep, agent))
    assert sweep[0].cause is Cause.LOST


# --- interrupts -----------------------------------------------------------------------------------


def test_after_the_first_interrupt_nothing_is_begun_and_what_executes_ends_by_itself(clock: ManualClock) -> None:
    """And no run is handed back and forth."""
    agent = Pretending(finishing, clock)
    sweep = sweep_of(agent, 5)
    agent.while_waiting = [lambda: agent._interrupted(2, None)]
    agent.drive(sweep)
    assert sweep.counts[RunStatus.FINISHED] == 2
    assert (sweep.state.created, sweep.status) == (2, SweepStatus.RUNNING)
    sweep.tick()
    assert sweep.refresh().state.created == 2


def test_a_second_interrupt_asks_and_a_third_one_ends(clock: ManualClock) -> None:
    """What executed is reported truthfully: somebody ended it."""
    agent = Pretending(lambda e: (lambda run: run.exited(-9)) if e.ended else None, clock)
    sweep = sweep_of(agent, 3)
    interrupt = lambda: agent._interrupted(2, None)  # noqa: E731 - short is clearer here
    agent.while_waiting = [interrupt, interrupt, lambda: None, interrupt]
    agent.drive(sweep)
    assert {"ask 0", "ask 1", "end 0", "end 1"} <= set(agent.said)
    assert [run.status for run in sweep.runs()] == [RunStatus.KILLED] * 2


def test_it_drives_only_what_it_is_attached_to(clock: ManualClock) -> None:
    """The error says how to attach it."""
    agent = Pretending(finishing, clock)
    with pytest.raises(InvalidValue, match="give it this one"):
        agent.drive(Sweep(Grid({"x": [1]})))
