"""Commands on runs, reports, leases and orders (layers A5 and D)."""

from __future__ import annotations

from math import isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstate import (
    AgentError,
    AlreadyStarted,
    Answer,
    IdleReason,
    IllegalTransition,
    Limits,
    Objective,
    Run,
    RunStatus,
    StaleAttempt,
    Sweep,
)
from sweepstate.core.events import LateReport, LeaseEnded, OrderFailed, RunEnded, RunStarted
from tests.support import tables
from tests.support.world import Crew, everything, make, orders, reach

# --- commands on one run -----------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["PENDING, queued", "PENDING, held"])
def test_stopping_a_pending_run_kills_it_at_once(row: str) -> None:
    """There is nothing to ask: nothing executes."""
    world, runs = reach("RUNNING", row)
    runs[row].stop("not needed", actor="ada")
    state = world.state(0)
    assert (state.status, state.cause) == ("KILLED", "stopped")


def test_stopping_a_running_run_asks_and_kills_after_the_grace() -> None:
    """STOP is ordered and told by heartbeats; after stop_grace (30 s, W&B) it is KILLED, its slot taken until gone."""
    world = make(Limits(max_active=1))
    run = world.begin("ada")
    run.stop()
    assert (run.status, run.should_stop) == ("RUNNING", True)
    assert orders(world.sweep, "ada") == [("stop", 0, 1)]
    assert run.heartbeat() is Answer.STOP
    assert run.stop() == (), "asked already"
    world.pass_by(29.9)
    assert run.refresh().status == "RUNNING"
    world.pass_by(0.1)
    assert (run.refresh().status, run.cause) == ("KILLED", "stopped")
    assert orders(world.sweep, "ada") == [("kill", 0, 1)]
    assert run.heartbeat() is Answer.KILL
    assert world.idle() is IdleReason.AT_CAPACITY
    run.gone()
    assert orders(world.sweep, "ada") == []
    assert world.take().index == 1


def test_a_run_that_was_asked_to_stop_may_finish() -> None:
    """A good end is a good end (A4)."""
    world = make()
    run = world.begin()
    run.stop()
    run.finish(loss=1.0)
    assert run.status == "FINISHED"


def test_stopping_one_run_never_touches_the_sweep_and_its_agent_gets_the_next() -> None:
    """When a run ends for any reason, its agent gets the next one (W&B)."""
    crew = Crew()
    world = make(Limits(max_active=1), agent=crew)
    world.sweep.tick()
    crew.orders[-1].run.start()
    world.sweep[0].stop()
    crew.orders[-1].run.interrupt()
    assert world.sweep.refresh().status == "RUNNING"
    assert crew.log == [("start", 0, 1), ("stop", 0, 1), ("start", 1, 1)]


@pytest.mark.parametrize("command", ["stop", "kill"])
@pytest.mark.parametrize("row", [row for row in tables.RUN_ROWS if row not in tables.ACTIVE])
def test_stop_and_kill_of_an_ended_run_are_nothing_to_do(row: str, command: str) -> None:
    """Its goal holds already."""
    world, runs = reach("RUNNING", row)
    before = everything(world.sweep)
    assert getattr(runs[row], command)() == ()
    assert everything(world.sweep) == before


def test_reasons_and_actors_stand_in_the_events() -> None:
    """Nobody has to guess who stopped a run (microsoft/nni#205)."""
    world = make()
    run = world.begin()
    (event,) = run.kill("it diverged", actor="ada")
    assert (event.reason, event.actor) == ("it diverged", "ada")


# --- attempts, leases, executions ---------------------------------------------------------------------


def test_a_killed_run_keeps_its_lease_until_it_is_gone() -> None:
    """Verdict and execution are kept apart: KILLED at once, and still in the way."""
    world = make()
    run = world.begin("ada")
    run.kill()
    state = world.state(0)
    assert state.status == "KILLED"
    assert state.lease is not None
    world.sweep.cancel()
    assert not world.sweep.refresh().done
    (event,) = run.gone()
    assert isinstance(event, LeaseEnded)
    assert world.sweep.refresh().done


def test_two_attempts_of_a_run_never_take_slots_at_once() -> None:
    """A retried run waits until its killed execution is gone."""
    world = make(size=2)
    run, _ = world.begin("ada"), world.begin("eve")
    run.kill()
    run.retry()
    assert world.sweep.refresh().state.leased == 2
    assert world.idle() is IdleReason.DRAINING
    assert orders(world.sweep, "ada") == [("kill", 0, 1)], "the order to kill it is not forgotten"
    run.gone()
    again = world.take("bob")
    assert (again.index, again.attempt) == (0, 2)
    assert orders(world.sweep, "bob") == [("start", 0, 2)]


def test_a_zombie_does_not_begin() -> None:
    """start by an older attempt is refused, and says which attempt is current."""
    world = make()
    old = world.take("ada")
    old.release()
    new = world.take("bob")
    before = everything(world.sweep)
    with pytest.raises(StaleAttempt) as caught:
        old.start()
    assert (caught.value.attempt, caught.value.current) == (1, 2)
    assert everything(world.sweep) == before
    new.start()
    with pytest.raises(StaleAttempt):
        old.start()


def test_an_order_delivered_twice_does_not_make_two_executions_count() -> None:
    """The first to begin has it; the other is refused, told to die, and its end is recorded only."""
    world = make()
    run = world.take("ada")
    one, two = world.sweep.run_of(run.token), world.sweep.run_of(run.token)
    one.start("host-1:17")
    assert one.start("host-1:17") == (), "the same one: its reply was lost"
    before = everything(world.sweep)
    with pytest.raises(AlreadyStarted) as caught:
        two.start("host-2:99")
    assert (caught.value.execution, caught.value.begun_by) == ("host-2:99", "host-1:17")
    assert everything(world.sweep) == before
    two.execution = "host-2:99"
    assert two.heartbeat() is Answer.KILL
    assert two.report(loss=0.1) is Answer.KILL
    assert everything(world.sweep) == before, "its sign is not kept"
    (late,) = two.finish(loss=0.0)
    assert isinstance(late, LateReport)
    assert late.execution == "host-2:99"
    assert world.state(0).status == "RUNNING"
    one.finish(loss=0.5)
    assert (world.state(0).status, world.state(0).metrics) == ("FINISHED", {"loss": 0.5})


def test_an_end_report_of_a_held_run_implies_the_lost_start() -> None:
    """Training code never gets an exception for reporting its end."""
    world = make()
    run = world.take()
    run.finish(loss=1.0)
    state = world.state(0)
    assert (state.status, state.started_at) == ("FINISHED", world.clock.now)


@pytest.mark.parametrize("promise", [True, False])
def test_a_sign_of_life_of_a_held_run_implies_the_lost_start(*, promise: bool) -> None:
    """A heartbeat promises more of them; metrics on the way promise nothing."""
    world = make()
    run = world.take()
    assert (run.heartbeat() if promise else run.report(loss=1.0)) is Answer.CONTINUE
    state = world.state(0)
    assert state.status == "RUNNING"
    assert state.lease is not None
    assert state.lease.beats is promise
    assert [event.heartbeats for event in world.sweep.history() if isinstance(event, RunStarted)] == [promise]


def test_a_late_report_is_recorded_once_for_each_attempt() -> None:
    """The verdict stands, and the evidence is kept, not piled up."""
    world = make()
    run = world.begin()
    run.kill()
    (late,) = run.finish(loss=0.1)
    assert isinstance(late, LateReport)
    assert late.metrics == {"loss": 0.1}
    assert world.state(0).lease is None, "and its execution is known to be gone"
    before = everything(world.sweep)
    assert run.fail("again") == ()
    assert everything(world.sweep) == before
    run.retry()
    again = world.begin()
    assert [type(event) for event in run.fail("of attempt 1")] == []
    again.kill()
    assert [event.attempt for event in again.crash() if isinstance(event, LateReport)] == [2]
    assert world.state(0).late == (1, 2)


@pytest.mark.parametrize("end", ["finish", "fail", "crash", "interrupt"])
def test_the_end_of_an_older_attempt_never_disturbs_the_newer_one(end: str) -> None:
    """Only the current attempt counts (apache/airflow#39717)."""
    world = make()
    old = world.begin("ada")
    old.mark_preempting()
    old.crash()
    new = world.begin("bob")
    getattr(old, end)()
    old.gone()
    old.mark_preempting()
    old.release()
    assert old.heartbeat() is Answer.KILL
    state = world.state(0)
    assert (state.status, state.attempt) == ("RUNNING", 2)
    assert state.lease is not None
    assert (state.lease.agent, state.lease.preempting) == ("bob", False)
    new.finish()
    assert world.state(0).status == "FINISHED"


def test_an_end_report_of_a_run_that_nobody_has_is_refused() -> None:
    """It was never handed out in this attempt, so nothing of it can have ended."""
    world, runs = reach("RUNNING", "PENDING, queued")
    before = everything(world.sweep)
    for report in (Run.finish, Run.fail, Run.crash, Run.mark_preempting, Run.start):
        with pytest.raises(IllegalTransition):
            report(runs["PENDING, queued"])
    assert everything(world.sweep) == before


def test_preempting_sticks_until_the_attempt_ends() -> None:
    """Said once; the next attempt is not preempting."""
    world = make()
    run = world.begin()
    run.mark_preempting()
    assert run.mark_preempting() == ()
    run.fail()
    again = world.begin()
    assert (again.index, again.attempt) == (0, 2)
    again.fail()
    assert world.state(0).status == "FAILED"


def test_a_requeued_run_keeps_its_index_and_configuration() -> None:
    """Requeue gives the run its next attempt, and keeps its id and configuration (wandb/wandb#4237)."""
    world = make()
    run = world.begin()
    config = run.config
    run.fail()
    run.retry()
    again = world.take()
    assert (again.index, again.config, again.attempt) == (0, config, 2)
    assert (again.state.cause, again.state.message, again.state.ended_at) == (None, None, None)


@given(codes=st.lists(st.integers(-64, 255), min_size=1, max_size=5))
def test_a_return_code_is_read_as_subprocess_gives_it(codes: list[int]) -> None:
    """0 finishes, a positive one fails, minus a signal crashes, and SIGINT kills; code and signal are kept."""
    world = make()
    for code in codes:
        run = world.begin()
        run.exited(code)
        state = run.state
        if code == 0:
            assert (state.status, state.exit_code, state.signal) == ("FINISHED", 0, None)
        elif code > 0:
            assert (state.status, state.exit_code, state.signal) == ("FAILED", code, None)
        elif code == -2:
            assert (state.status, state.cause, state.signal) == ("KILLED", "killed", 2)
        else:
            assert (state.status, state.exit_code, state.signal) == ("CRASHED", None, -code)


# --- orders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "row", "order"),
    [
        (status, row, order)
        for status in tables.SWEEP_STATUSES
        for row, order in {
            "PENDING, queued": None,
            "PENDING, held": "start",
            "RUNNING": None,
            "FINISHED": None,
            "FAILED": None,
            "CRASHED": None,
            "CRASHED, lost": "kill" if status == "CANCELLED" else None,
            "KILLED": "kill",
        }.items()
        if row in tables.REACHABLE[status]
    ],
)
def test_orders_follow_from_the_snapshots(status: str, row: str, order: str | None) -> None:
    """The table of layer D, in a sweep of every status; nobody else's orders are listed."""
    world, runs = reach(status, row)
    assert orders(world.sweep, "worker") == ([] if order is None else [(order, runs[row].index, runs[row].attempt)])
    assert orders(world.sweep, "somebody else") == []
    opened = Sweep.open("s", storage=world.storage, clock=world.clock)
    assert orders(opened, "worker") == orders(world.sweep, "worker"), "they survive a crash"


@pytest.mark.parametrize("row", ["PENDING, held", "RUNNING", "KILLED", "CRASHED, lost"])
def test_heartbeats_are_answered_by_the_table_of_orders(row: str) -> None:
    """KILL where it is ordered, STOP if asked or ended, else CONTINUE, also for a lost run."""
    world, runs = reach("RUNNING", row)
    assert runs[row].heartbeat() is (Answer.KILL if row == "KILLED" else Answer.CONTINUE)
    world.sweep.cancel()
    assert runs[row].heartbeat() is Answer.KILL
    runs[row].gone()
    assert runs[row].heartbeat() is Answer.STOP, "it has ended, and its lease is over"


def test_a_heartbeat_is_no_status_no_version_no_event() -> None:
    """A sign of life costs nothing."""
    world = make()
    run = world.begin(heartbeats=True)
    version, events = world.sweep.refresh().state.version, len(list(world.sweep.history()))
    for _ in range(10):
        world.clock.advance(10.0)
        assert run.heartbeat() is Answer.CONTINUE
        run.report(loss=0.5)
    assert world.sweep.refresh().state.version == version
    assert len(list(world.sweep.history())) == events
    assert run.metrics == {"loss": 0.5}


def test_an_attached_agent_gets_its_orders_by_edge_and_by_level() -> None:
    """After the commit, and with each tick again for what is outstanding; success is not recorded."""
    crew = Crew()
    world = make(Limits(max_active=2), agent=crew)
    world.sweep.tick()
    assert crew.log == [("start", 0, 1), ("start", 1, 1)]
    version = world.sweep.state.version
    world.sweep.tick()
    assert crew.log == [("start", 0, 1), ("start", 1, 1)] * 2
    assert world.sweep.refresh().state.version == version
    for order in crew.orders[:2]:
        order.run.start()
    crew.orders.clear()
    world.sweep.cancel()
    assert crew.log == [("kill", 0, 1), ("kill", 1, 1)]
    world.sweep.tick()
    assert crew.log == [("kill", 0, 1), ("kill", 1, 1)] * 2
    for order in crew.orders[:2]:
        order.run.gone()
    world.sweep.tick()
    assert len(crew.log) == 4
    assert world.sweep.refresh().done


def test_no_other_agent_delivers_an_order() -> None:
    """An order is for the agent of that name, also when somebody else ticks."""
    ada, bob = Crew("ada"), Crew("bob")
    world = make(Limits(max_active=1), agent=ada)
    world.sweep.tick()
    other = Sweep.open("s", storage=world.storage, search=world.search, agent=bob, clock=world.clock)
    other.tick()
    assert bob.log == []
    other[0].kill()
    assert ada.log == [("start", 0, 1)], "its own handle did not commit it"
    world.sweep.tick()
    assert ada.log == [("start", 0, 1), ("kill", 0, 1)]


def test_an_agent_that_cannot_kill_is_not_ordered_to() -> None:
    """Its runs learn it from their next heartbeat."""
    crew = Crew()
    crew.can_kill = False
    world = make(Limits(max_active=1), agent=crew)
    world.sweep.tick()
    run = crew.orders[0].run
    run.start()
    run.kill()
    world.sweep.tick()
    assert crew.log == [("start", 0, 1)]
    assert orders(world.sweep, "crew") == [("kill", 0, 1)]
    assert run.heartbeat() is Answer.KILL


def test_a_start_that_fails_three_times_fails_the_run() -> None:
    """FAILED, not launched; only tick raises, and what failed is recorded."""
    crew = Crew()
    world = make(Limits(max_active=1, run_cap=1), agent=crew)
    crew.broken = True
    for _ in range(2):
        with pytest.raises(AgentError) as caught:
            world.sweep.tick()
        assert (caught.value.agent, len(caught.value.failures)) == ("crew", 1)
        assert world.rows() == ["PENDING, held"]
    with pytest.raises(AgentError):
        world.sweep.tick()
    state = world.state(0)
    assert (state.status, state.cause, state.lease) == ("FAILED", "not launched", None)
    assert "no machine" in (state.message or "")
    assert len([event for event in world.sweep.history() if isinstance(event, OrderFailed)]) == 3
    assert world.sweep.refresh().status == "FINISHED"


def test_a_start_that_succeeds_in_the_end_is_forgiven() -> None:
    """Counts of failed STARTs are the lease's own."""
    crew = Crew()
    world = make(Limits(max_active=1), agent=crew)
    crew.broken = True
    for _ in range(2):
        with pytest.raises(AgentError):
            world.sweep.tick()
    crew.broken = False
    world.sweep.tick()
    crew.orders[-1].run.start()
    assert world.rows() == ["RUNNING"]


def test_an_agents_error_never_reaches_somebody_elses_call() -> None:
    """finish of one run does not raise because the next could not be started; the order stays outstanding."""
    crew = Crew()
    world = make(Limits(max_active=1), agent=crew)
    world.sweep.tick()
    crew.broken = True
    (ended,) = crew.orders[0].run.finish()
    assert isinstance(ended, RunEnded)
    assert orders(world.sweep, "crew") == [("start", 1, 1)]
    crew.broken = False
    world.sweep.tick()
    assert crew.log[-1] == ("start", 1, 1)


def test_other_orders_that_fail_stay_outstanding() -> None:
    """STOP and KILL are repeated for ever; only STARTs are counted."""
    crew = Crew()
    world = make(Limits(max_active=1), agent=crew)
    world.sweep.tick()
    run = crew.orders[0].run
    run.start()
    crew.broken = True
    run.stop()
    for _ in range(5):
        with pytest.raises(AgentError):
            world.sweep.tick()
    assert world.rows() == ["RUNNING"]
    run.kill()
    for _ in range(5):
        with pytest.raises(AgentError):
            world.sweep.tick()
    assert orders(world.sweep, "crew") == [("kill", 0, 1)]


# --- the best run ---------------------------------------------------------------------------------------

LOSSES = st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.integers(-5, 5), max_size=12)


@given(losses=LOSSES, goal=st.sampled_from(["minimize", "maximize"]))
def test_the_best_run_is_the_first_of_the_best_values(losses: list[float | None], goal: str) -> None:
    """NaN beats nothing, a tie keeps the first, and a run that reports no objective is not compared."""
    world = make(objective=Objective("loss", goal))  # type: ignore[arg-type, unused-ignore]
    for loss in losses:
        run = world.begin()
        run.finish(**({} if loss is None else {"loss": loss}))
    numbers = [(loss, index) for index, loss in enumerate(losses) if loss is not None and not isnan(loss)]
    sign = 1 if goal == "minimize" else -1
    expected = min(((sign * loss, index) for loss, index in numbers), default=None)
    best = world.sweep.refresh().best
    assert (best.index if best else None) == (expected[1] if expected else None)


def test_only_what_a_run_reports_with_its_end_decides() -> None:
    """Metrics on the way are for watching; those of runs that did not finish count nothing."""
    world = make(objective=Objective("loss", target=0.1))
    run, failed = world.begin(), world.begin()
    run.report(loss=0.0)
    run.finish(loss=0.5)
    failed.exited(1, metrics={"loss": 0.0})
    assert world.sweep.refresh().state.best_value == 0.5
    assert world.sweep.state.completed is None
    assert [run.status for run in world.sweep.runs(RunStatus.FINISHED)] == ["FINISHED"]
