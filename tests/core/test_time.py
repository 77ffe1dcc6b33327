"""Time (layer E): silence, suspicion, loss, deadlines, and slices. No test sleeps; the clock is set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstate import Answer, FailureRule, IdleReason, InvalidValue, Limits, MemoryStorage, Run, Sweep
from sweepstate.core.decide.time import SLICE
from sweepstate.core.events import (
    DeadlineMoved,
    LateReport,
    LeaseEnded,
    RevokedLeaseHeard,
    RunEnded,
    RunSuspected,
    SuspicionLifted,
)
from tests.support.world import Clock, Crew, Points, World, everything, make, orders


def names(world: World, after: int) -> list[str]:
    """Return the kinds of the events after a number."""
    return [type(event).__name__ for event in world.sweep.history(after=after)]


def last(world: World) -> int:
    return world.sweep.refresh().state.events


# --- silence --------------------------------------------------------------------------------------------


def test_silence_is_first_suspected_and_then_lost() -> None:
    """heartbeat_timeout (300 s), then at least suspicion (60 s) more: CRASHED, and its slot is free."""
    world = make(Limits(max_active=1))
    run = world.begin(heartbeats=True)
    began = world.clock.now
    tick = world.sweep.tick()
    assert (tick.events, tick.more, tick.next_at) == ((), False, began + 300.0)
    world.pass_by(299.9)
    assert run.refresh().state.lease is not None
    world.clock.advance(0.1)
    (suspected,) = world.sweep.tick().events
    assert isinstance(suspected, RunSuspected)
    assert suspected.heard == began
    assert run.refresh().status == "RUNNING"
    world.pass_by(59.9)
    assert run.refresh().status == "RUNNING"
    assert world.idle() is IdleReason.AT_CAPACITY
    world.pass_by(0.1)
    assert (run.refresh().state.row, run.cause) == ("CRASHED, lost", "lost")
    assert world.take().index == 1


@pytest.mark.parametrize("hours", [1, 1000])
def test_a_plain_loop_is_never_presumed_dead(hours: int) -> None:
    """Silence counts only for a lease that promised heartbeats; metrics alone promise nothing."""
    world = make()
    run = world.begin()
    run.report(loss=1.0)
    for _ in range(3):
        world.pass_by(3600.0 * hours)
    assert run.refresh().status == "RUNNING"
    assert world.sweep.tick().next_at is None


def test_the_first_heartbeat_is_a_promise() -> None:
    """It is a commit, once; from then on silence counts."""
    world = make()
    run = world.begin()
    world.clock.advance(1000.0)
    at = last(world)
    run.heartbeat()
    run.heartbeat()
    assert names(world, at) == ["HeartbeatsPromised"]
    world.lose(run)
    assert run.refresh().state.row == "CRASHED, lost"


@pytest.mark.parametrize("way", ["heartbeat", "report"])
def test_a_sign_puts_the_silence_off(way: str) -> None:
    """Any sign of life counts, also metrics, once heartbeats were promised."""
    world = make()
    run = world.begin(heartbeats=True)
    for _ in range(5):
        world.pass_by(299.0)
        assert (run.heartbeat() if way == "heartbeat" else run.report(loss=0.1)) is Answer.CONTINUE
    assert run.refresh().state.lease is not None
    assert not [event for event in world.sweep.history() if isinstance(event, RunSuspected)]


def test_a_suspicion_is_void_if_anything_newer_was_heard() -> None:
    """The second look finds the sign, says so, and the count begins afresh."""
    world = make()
    run = world.begin(heartbeats=True)
    world.pass_by(300.0)
    world.clock.advance(30.0)
    heard = world.clock.now
    run.heartbeat()
    world.clock.advance(30.0)
    (lifted,) = world.sweep.tick().events
    assert isinstance(lifted, SuspicionLifted)
    assert lifted.heard == heard
    assert run.refresh().status == "RUNNING"
    assert world.sweep.tick().next_at == heard + 300.0


def test_an_outage_in_which_everybody_looked_silent_costs_nothing() -> None:
    """Nobody ticked and nobody could beat for hours: the next ticks suspect all, and lose only who stays silent."""
    world = make(Limits(failure=FailureRule(streak=1)))
    runs = [world.begin(heartbeats=True) for _ in range(5)]
    world.clock.advance(7200.0)
    world.sweep.tick()
    assert world.rows() == ["RUNNING"] * 5
    for run in runs[:4]:
        run.heartbeat()
    world.pass_by(60.0)
    assert world.rows() == ["RUNNING"] * 4 + ["CRASHED, lost"]


def test_an_outage_of_the_orchestrator_costs_nothing_either() -> None:
    """Between the two looks nobody ticked, but everybody beat: all suspicions are void."""
    world = make()
    runs = [world.begin(heartbeats=True) for _ in range(3)]
    world.clock.advance(300.0)
    world.sweep.tick()
    for run in runs:
        run.heartbeat()
    world.clock.advance(250.0)
    world.sweep.tick()
    assert world.rows() == ["RUNNING"] * 3


def test_a_heartbeat_between_decision_and_commit_is_a_conflict() -> None:
    """A commit that acts on silence is conditional on it: the decision is made again, and finds the sign."""
    world = make()
    run = world.begin(heartbeats=True)
    world.pass_by(300.0)
    world.clock.advance(60.0)
    world.storage.foreign = run.heartbeat
    (event,) = world.sweep.tick().events
    assert isinstance(event, SuspicionLifted)
    assert run.refresh().status == "RUNNING"
    world.clock.advance(300.0)
    world.storage.foreign = run.heartbeat
    assert world.sweep.tick().events == (), "not even suspected"


@pytest.mark.parametrize(("end", "row"), [("finish", "FINISHED"), ("fail", "FAILED")])
def test_the_late_end_of_a_lost_run_corrects_it(end: str, row: str) -> None:
    """No work is lost because a network was; nothing is retried, and the failure rule is not rewritten."""
    world = make(Limits(failure=FailureRule(rate=(0.9, 100))))
    run = world.begin(heartbeats=True)
    world.lose(run)
    assert (world.sweep.refresh().state.rule_failed, world.sweep.state.rule_ended) == (1, 1)
    assert run.heartbeat() is Answer.CONTINUE, "its end is still wanted"
    assert run.refresh().status == "CRASHED", "it never comes back to RUNNING"
    world.sweep.set_limits(retries=3)
    getattr(run, end)()
    assert run.state.row == row
    assert run.state.attempt == 1
    assert (world.sweep.refresh().state.rule_failed, world.sweep.state.rule_ended) == (1, 1)
    assert run.state.lease is None


@pytest.mark.parametrize("end", ["crash", "interrupt", "gone"])
def test_any_end_report_closes_the_presumption(end: str) -> None:
    """CRASHED it stays, now for good: a later report is only recorded, and nothing is retried by limit."""
    world = make()
    run = world.begin(heartbeats=True)
    world.lose(run)
    world.sweep.set_limits(retries=3)
    (event,) = getattr(run, end)()
    assert isinstance(event, LeaseEnded)
    assert run.refresh().state.row == "CRASHED"
    (late,) = run.finish()
    assert isinstance(late, LateReport)
    assert run.state.row == "CRASHED"


def test_in_a_cancelled_sweep_a_lost_run_is_not_corrected() -> None:
    """After a cancel no run's status changes, until it is reopened: reports are recorded, agents ordered to kill."""
    world = make()
    run, other = world.begin(heartbeats=True), world.begin(heartbeats=True)
    world.lose(run)
    assert other.refresh().status == "CRASHED"
    world.sweep.cancel()
    assert orders(world.sweep, "worker") == [("kill", 0, 1), ("kill", 1, 1)]
    (late,) = run.finish()
    assert isinstance(late, LateReport)
    assert run.state.status == "CRASHED"
    world.sweep.reopen()
    other.finish()
    assert other.state.status == "FINISHED"


def test_a_lost_lease_takes_no_slot_and_holds_nothing_up() -> None:
    """It stays listed, and a sweep is done all the same; handing out replaces it."""
    world = make(size=1)
    run = world.begin(heartbeats=True)
    world.sweep.complete()
    world.lose(run)
    assert world.sweep.refresh().done
    world.sweep.reopen(retry={run.refresh().status})
    assert world.take("bob").attempt == 2
    lease = world.state(0).lease
    assert lease is not None
    assert (lease.agent, lease.lost) == ("bob", False)


# --- leases that nobody wants ------------------------------------------------------------------------


@pytest.mark.parametrize("promised", [True, False])
def test_a_killed_lease_counts_as_lost_after_the_timeout(*, promised: bool) -> None:
    """heartbeat_timeout without a sign since then, promised or not; its order stays listed until gone."""
    world = make(Limits(max_active=1))
    run = world.begin("ada", heartbeats=promised)
    run.kill()
    world.pass_by(299.9)
    assert world.idle() is IdleReason.AT_CAPACITY
    world.pass_by(0.1)
    assert world.take("bob").index == 1
    assert orders(world.sweep, "ada") == [("kill", 0, 1)]
    run.gone()
    assert orders(world.sweep, "ada") == []


def test_each_sign_of_a_killed_execution_moves_the_date() -> None:
    """What still shows signs of life still takes its slot."""
    world = make()
    run = world.begin()
    run.kill()
    for _ in range(4):
        world.pass_by(200.0)
        assert run.heartbeat() is Answer.KILL
    state = world.state(0)
    assert state.lease is not None
    assert not state.lease.lost
    assert [event for event in world.sweep.history() if isinstance(event, RevokedLeaseHeard)]
    world.pass_by(299.0)
    assert world.sweep.refresh().state.leased == 1
    world.pass_by(1.0)
    assert world.sweep.refresh().state.leased == 0


def test_the_order_to_kill_a_lost_attempt_is_listed_until_the_next_is_handed_out() -> None:
    """Then its agent learns from its next heartbeat, by its attempt."""
    world = make()
    run = world.begin("ada")
    run.kill()
    run.retry()
    world.pass_by(300.0)
    assert orders(world.sweep, "ada") == [("kill", 0, 1)]
    world.take("bob")
    assert orders(world.sweep, "ada") == []
    assert run.heartbeat() is Answer.KILL


# --- other deadlines -----------------------------------------------------------------------------------


def test_a_workers_lease_that_has_not_begun_is_released() -> None:
    """After start_timeout (300 s): queued, the next attempt, and no preemption is counted."""
    world = make()
    world.take("ada")
    assert world.sweep.tick().next_at == world.clock.now + 300.0
    world.pass_by(299.0)
    assert world.rows() == ["PENDING, held"]
    world.clock.advance(1.0)
    again = world.take("bob")
    assert (again.index, again.attempt, again.state.preemptions) == (0, 2, 0)


def test_an_attached_agents_lease_may_wait_for_ever() -> None:
    """Its jobs may wait in a cluster's queue."""
    crew = Crew()
    world = make(Limits(max_active=1), agent=crew)
    world.sweep.tick()
    world.pass_by(1e6)
    assert world.rows() == ["PENDING, held"]
    assert world.state(0).attempt == 1


def test_next_run_first_does_what_time_has_caused() -> None:
    """A worker that asks needs nobody who ticks."""
    world = make(Limits(max_active=1))
    world.begin(heartbeats=True)
    world.clock.advance(300.0)
    assert world.idle() is IdleReason.AT_CAPACITY
    world.clock.advance(60.0)
    assert world.take().index == 1


def test_next_run_does_not_deliver_nor_fill() -> None:
    """What time frees for a worker's request, the worker gets, not the attached agent."""
    crew = Crew()
    world = make(Limits(max_active=1), agent=crew)
    run = world.begin("ada", heartbeats=True)
    crew.orders.clear()
    world.clock.advance(300.0)
    world.idle("bob")
    world.clock.advance(60.0)
    assert world.take("bob").index == 1
    assert crew.log == []
    assert run.refresh().status == "CRASHED"


def test_changed_limits_move_deadlines() -> None:
    """set_limits(...) changes them at any time, also for what was asked or killed before."""
    world = make()
    stopping, killed = world.begin(), world.begin()
    stopping.stop()
    killed.kill()
    world.sweep.set_limits(stop_grace=5.0, heartbeat_timeout=10.0)
    assert len([event for event in world.sweep.history() if isinstance(event, DeadlineMoved)]) == 2
    world.pass_by(5.0)
    assert world.rows() == ["KILLED", "KILLED"]
    world.pass_by(5.0)
    assert world.sweep.refresh().state.leased == 1
    world.pass_by(5.0)
    assert world.sweep.refresh().state.leased == 0


def test_the_time_limit_stops_the_sweep_and_a_pause_stops_the_clock() -> None:
    """Seconds spent RUNNING since it was created or reopened."""
    world = make(Limits(time_limit=100.0))
    run = world.begin()
    world.pass_by(60.0)
    world.sweep.pause()
    world.pass_by(1000.0)
    world.sweep.resume()
    assert world.sweep.tick().next_at == world.clock.now + 40.0
    world.pass_by(39.0)
    assert world.sweep.refresh().status == "RUNNING"
    world.pass_by(1.0)
    assert world.sweep.refresh().status == "STOPPED"
    assert run.refresh().status == "RUNNING", "a stop drains"
    world.sweep.reopen()
    world.pass_by(99.0)
    assert world.sweep.refresh().status == "RUNNING"
    world.clock.advance(1.0)
    assert world.idle() is IdleReason.ENDED, "nothing is handed out when the time is over, tick or not"


@pytest.mark.parametrize("act", ["finish", "heartbeat", "set_limits"])
def test_the_time_limit_is_evaluated_in_every_commit(act: str) -> None:
    """All limits are decided in the same commit as the event that reaches them."""
    world = make(Limits(time_limit=100.0))
    run = world.begin()
    world.clock.advance(100.0)
    acts: dict[str, Callable[[], object]] = {
        "finish": run.finish,
        "heartbeat": run.heartbeat,
        "set_limits": lambda: world.sweep.set_limits(max_active=3),
    }
    acts[act]()
    assert world.sweep.refresh().status == "STOPPED"


# --- ticks ------------------------------------------------------------------------------------------------


def test_a_tick_works_in_bounded_slices_by_deadline_and_then_index() -> None:
    """It answers whether more is due now, and the commits are as large as a slice."""
    world = make()
    count = 2 * SLICE + 7
    runs = [world.take() for _ in range(count)]
    for run in reversed(runs):
        run.start(heartbeats=True)
    world.clock.advance(300.0)
    seen: list[int] = []
    while True:
        tick = world.sweep.tick()
        assert len(tick.events) <= SLICE
        seen += [event.index for event in tick.events if isinstance(event, RunSuspected)]
        if not tick.more:
            break
    assert seen == list(range(count))
    world.pass_by(60.0)
    assert {run.status for run in world.sweep.runs()} == {"CRASHED"}


def test_the_earliest_deadline_comes_first() -> None:
    """By deadline, and only then by index."""
    world = make(Limits(stop_grace=100.0))
    runs = [world.begin() for _ in range(3)]
    for index in (2, 0, 1):
        runs[index].stop()
        world.clock.advance(1.0)
    world.clock.advance(200.0)
    ended = [event.index for event in world.sweep.tick().events if isinstance(event, RunEnded)]
    assert ended == [2, 0, 1]


def test_ticking_again_changes_nothing() -> None:
    """Anybody may call it, any number of times."""
    world = make()
    run = world.begin(heartbeats=True)
    world.begin().stop()
    world.take()
    for seconds in (0.0, 30.0, 270.0, 60.0, 300.0, 1e6):
        world.pass_by(seconds)
        before = everything(world.sweep)
        for _ in range(3):
            assert world.sweep.tick().events == ()
        assert everything(world.sweep) == before
    assert run.refresh().status == "CRASHED"


def test_dates_of_events_never_run_backwards() -> None:
    """A clock that is set back is held at the last event's date."""
    world = make()
    run = world.begin(heartbeats=True)
    world.clock.advance(-500.0)
    run.heartbeat()
    run.finish()
    world.take()
    dates = [event.at for event in world.sweep.history()]
    assert dates == sorted(dates)


@given(jumps=st.lists(st.floats(-1e4, 1e4), max_size=20))
def test_no_clock_makes_dates_run_backwards(jumps: list[float]) -> None:
    """Whatever the clock does, and whoever reads it."""
    world = make(Limits(start_timeout=100.0, retries=2, time_limit=5e4))
    for number, jump in enumerate(jumps):
        world.clock.now = max(0.0, world.clock.now + jump)
        answer = world.sweep.next_run(f"w{number % 2}", None)
        if isinstance(answer, Run):
            answer.start(heartbeats=number % 2 == 0)
            if number % 3 == 0:
                answer.fail()
        world.sweep.tick()
    dates = [event.at for event in world.sweep.history()]
    assert dates == sorted(dates)


@pytest.mark.parametrize("now", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_clock_that_tells_no_time_is_refused(now: float) -> None:
    """Nothing is committed with such a date."""
    world = make()
    before = everything(world.sweep)
    world.clock.now = now
    with pytest.raises(InvalidValue) as caught:
        world.sweep.pause()
    assert caught.value.field == "clock"
    assert everything(world.sweep) == before


def test_a_storage_that_has_a_clock_supplies_the_time() -> None:
    """Processes whose clocks differ then agree."""

    class Timekeeper(MemoryStorage):
        def now(self) -> float:
            return 123.0

    sweep = Sweep(Points(), id="s", storage=Timekeeper(), clock=Clock(999.0))
    assert sweep.state.at == 123.0


def test_a_storage_without_heartbeats_finds_nobody_silent() -> None:
    """Signs are answered, and kept nowhere; a promise that nobody could check is not recorded."""
    world = make()

    class Plain:
        """The four methods that make a storage."""

        def __init__(self, inner: MemoryStorage) -> None:
            self.sweep, self.runs, self.commit, self.events = inner.sweep, inner.runs, inner.commit, inner.events

    storage: Any = Plain(world.storage)
    sweep = Sweep.open("s", storage=storage, search=world.search, clock=world.clock)
    run = sweep.next_run()
    assert isinstance(run, Run)
    run.start(heartbeats=True)
    assert run.heartbeat() is Answer.CONTINUE
    assert run.report(loss=1.0) is Answer.CONTINUE
    for _ in range(3):
        world.clock.advance(1e5)
        sweep.tick()
    assert run.refresh().status == "RUNNING"
    run.kill()
    world.clock.advance(300.0)
    sweep.tick()
    assert sweep.refresh().state.leased == 0, "a killed lease is still given up"
