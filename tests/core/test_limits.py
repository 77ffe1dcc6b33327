"""Limits, the failure rule and the objective's target (layer G)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstate import FailureRule, IdleReason, InvalidValue, Limits, Objective, Run, RunStatus
from sweepstate.core.events import LimitsChanged, SweepStatusChanged
from tests.support.world import World, everything, make

FAILED, CRASHED = RunStatus.FAILED, RunStatus.CRASHED


ENDS: dict[str, Callable[[Run], object]] = {"f": Run.fail, "c": Run.crash, "k": Run.interrupt, ".": Run.finish}


def end(world: World, *ends: str) -> None:
    """Let runs begin and end, one after the other: f(ailed), c(rashed), k(illed) or . (finished)."""
    for letter in "".join(ends):
        run = world.begin()
        ENDS[letter](run)


# --- each limit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 3])
def test_max_active_bounds_the_slots(slots: int) -> None:
    """It holds at the commit that hands out; raising it makes room at once, lowering it kills nobody."""
    world = make(Limits(max_active=slots))
    runs = [world.begin() for _ in range(slots)]
    assert world.idle() is IdleReason.AT_CAPACITY
    world.sweep.set_limits(max_active=slots + 1)
    runs.append(world.begin())
    world.sweep.set_limits(max_active=1)
    assert {run.refresh().status for run in runs} == {"RUNNING"}
    for run in runs[1:]:
        run.finish()
    assert world.idle() is IdleReason.AT_CAPACITY
    runs[0].finish()
    world.take()


def test_lowering_the_cap_below_what_was_created_finishes_a_drained_sweep() -> None:
    """What changed limits reach is decided in the same commit."""
    world = make()
    end(world, "..")
    events = world.sweep.set_limits(run_cap=1)
    assert [type(event) for event in events] == [LimitsChanged, SweepStatusChanged]
    assert world.sweep.status == "FINISHED"


def test_the_same_limits_again_are_nothing_to_do() -> None:
    """No event, no version."""
    world = make(Limits(max_active=2, retries={FAILED: 1}))
    before = everything(world.sweep)
    assert world.sweep.set_limits(max_active=2) == ()
    assert world.sweep.set_limits(retries={FAILED: 1, CRASHED: 0}) == ()
    assert world.sweep.set_limits() == ()
    assert everything(world.sweep) == before


@pytest.mark.parametrize("status", ["PAUSED", "STOPPED", "CANCELLED", "FAILED", "CRASHED"])
def test_limits_may_be_changed_at_any_time_and_end_only_a_running_sweep(status: str) -> None:
    """A tripped rule, an overdue time limit and a reached cap leave a sweep as it is that is not RUNNING."""
    world = make()
    end(world, "ff")
    world.begin()
    world.clock.advance(100.0)
    commands = {"PAUSED": "pause", "STOPPED": "stop", "CANCELLED": "cancel", "FAILED": "fail", "CRASHED": "crash"}
    getattr(world.sweep, commands[status])()
    world.sweep.set_limits(run_cap=1, time_limit=1.0, failure=FailureRule(streak=1))
    assert world.sweep.status == status
    if status in ("PAUSED", "CRASHED"):
        world.sweep.resume()
        assert world.sweep.status == "FAILED", "it is evaluated in the commit that resumes it"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run_cap", 0),
        ("run_cap", -1),
        ("run_cap", 1.5),
        ("run_cap", True),
        ("max_active", 0),
        ("heartbeat_timeout", -1.0),
        ("heartbeat_timeout", float("nan")),
        ("suspicion", float("inf")),
        ("start_timeout", "300"),
        ("stop_grace", None),
        ("max_preemptions", -1),
        ("launch_attempts", 0),
        ("retries", {RunStatus.KILLED: 1}),
        ("retries", {RunStatus.FAILED: -1}),
        ("retries", "twice"),
        ("time_limit", 0),
        ("failure", "streak"),
    ],
)
def test_a_limit_out_of_its_range_is_refused_by_name(field: str, value: Any) -> None:
    """When it is built, and when it is changed; nothing changes."""
    with pytest.raises(InvalidValue) as caught:
        Limits(**{field: value})
    assert caught.value.field.startswith(f"limits.{field}")
    world = make()
    before = everything(world.sweep)
    with pytest.raises(InvalidValue):
        world.sweep.set_limits(**{field: value})
    assert everything(world.sweep) == before


def test_a_name_that_is_no_limit_is_refused() -> None:
    """The error lists those that are."""
    world = make()
    before = everything(world.sweep)
    with pytest.raises(InvalidValue) as caught:
        world.sweep.set_limits(run_cup=3)  # type: ignore[call-arg]
    assert caught.value.field == "limits.run_cup"
    assert "run_cap" in caught.value.remedy
    assert everything(world.sweep) == before


@pytest.mark.parametrize(
    "rule",
    [
        {"streak": 0},
        {"within": 3},
        {"within": (0, 60.0)},
        {"within": (3, 0.0)},
        {"rate": (1.0, 5)},
        {"rate": (-0.1, 5)},
        {"rate": (0.5, 0)},
        {"rate": (0.5,)},
    ],
)
def test_a_failure_rule_out_of_its_range_is_refused(rule: dict[str, Any]) -> None:
    """The field is named with its path."""
    with pytest.raises(InvalidValue) as caught:
        FailureRule(**rule)
    assert caught.value.field.startswith(f"limits.failure.{next(iter(rule))}")


# --- the failure rule --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "ends", "trips"),
    [
        (FailureRule(streak=3), "ff.fcf", True),
        (FailureRule(streak=3), "ff.ff.ff", False),
        (FailureRule(streak=3), "fkfkf", True),  # KILLED breaks no streak
        (FailureRule(streak=1), ".....f", True),
        (FailureRule(within=(3, 60.0)), "ff....f", True),
        (FailureRule(within=(3, 60.0)), "ff....k", False),
        (FailureRule(rate=(0.5, 4)), "fff", False),  # not enough ended
        (FailureRule(rate=(0.5, 4)), "ff..", False),  # not more than the share
        (FailureRule(rate=(0.5, 4)), "f.ff", True),
        (FailureRule(rate=(0.5, 4)), "fffk", False),  # KILLED is not in the denominator
        (FailureRule(rate=(0.0, 1)), "...f", True),
        (FailureRule(streak=2, rate=(0.9, 100)), "ff", True),
        (FailureRule(), "ffffffff", False),
    ],
)
def test_when_the_failure_rule_trips(rule: FailureRule, ends: str, *, trips: bool) -> None:
    """It trips with the last of these ends, in the same commit, and not before."""
    world = make(Limits(failure=rule))
    end(world, ends[:-1])
    assert world.sweep.refresh().status == "RUNNING"
    end(world, ends[-1])
    assert world.sweep.refresh().status == ("FAILED" if trips else "RUNNING")


def test_within_counts_from_the_first_start() -> None:
    """n failures in the first seconds after the first start (W&B's agents: 3 in 60 s)."""
    world = make(Limits(failure=FailureRule(within=(2, 60.0))))
    world.clock.advance(1000.0)
    one, two, three = world.begin(), world.begin(), world.begin()
    world.clock.advance(60.0)
    one.fail()
    world.clock.advance(0.1)
    two.fail()
    three.fail()
    assert world.sweep.refresh().status == "RUNNING"
    late = make(Limits(failure=FailureRule(within=(2, 60.0))))
    runs = [late.begin(), late.begin()]
    late.clock.advance(60.0)
    for run in runs:
        run.fail()
    assert late.sweep.refresh().status == "FAILED"


def test_a_failure_counts_after_its_retries_are_used_up() -> None:
    """Once for each run and each reopening; a retry by hand does not count again."""
    world = make(Limits(retries=1, failure=FailureRule(streak=3)))
    world.begin().fail()
    assert world.sweep.refresh().state.rule_failed == 0
    world.begin().fail()
    assert world.sweep.refresh().state.rule_failed == 1
    world.sweep[0].retry()
    world.begin().fail()
    world.begin().crash()
    world.begin().fail()
    state = world.sweep.refresh().state
    assert world.sweep[0].status == "FAILED"
    assert (state.rule_failed, state.rule_ended, state.rule_streak) == (1, 1, 1)


def test_reopening_restarts_the_failure_counts() -> None:
    """Reopenings are numbered, so nothing is rewritten, and a run counts again in the next."""
    world = make(Limits(failure=FailureRule(streak=2)))
    end(world, "ff")
    assert world.sweep.refresh().status == "FAILED"
    world.sweep.reopen(retry={FAILED})
    state = world.sweep.state
    assert (state.reopened, state.rule_ended, state.rule_failed, state.rule_streak) == (1, 0, 0, 0)
    world.begin().fail()
    assert world.sweep.refresh().status == "RUNNING"
    world.begin().fail()
    assert world.sweep.refresh().status == "FAILED"


def test_a_failed_sweep_drains() -> None:
    """FAILED: executing runs go on, what was not begun is withdrawn."""
    world = make(Limits(failure=FailureRule(streak=1)))
    running, held, failing = world.begin(), world.take(), world.begin()
    failing.fail()
    assert world.rows() == ["RUNNING", "KILLED", "FAILED"]
    assert held.refresh().cause == "withdrawn"
    running.finish()
    assert world.sweep.refresh().status == "FAILED"


FORMS = st.fixed_dictionaries(
    {},
    optional={
        "streak": st.integers(1, 4),
        "within": st.tuples(st.integers(1, 4), st.sampled_from([10.0, 25.0])),
        "rate": st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75]), st.integers(1, 5)),
    },
)


@given(rule=FORMS, ends=st.text("fck.", max_size=15))
def test_the_rule_against_a_plain_count(rule: dict[str, Any], ends: str) -> None:
    """The same as counting the whole list again after each end, ten seconds apart."""
    world = make(Limits(failure=FailureRule(**rule)))
    for number in range(len(ends)):
        run = world.begin()
        ENDS[ends[number]](run)
        seen = [letter for letter in ends[: number + 1] if letter != "k"]
        failed = sum(letter in "fc" for letter in seen)
        streak = len(seen) - len("".join(seen).replace("c", "f").rstrip("f"))
        last_early = rule.get("within", (0, 0.0))[1] / 10.0
        early = sum(letter in "fc" for at, letter in enumerate(ends[: number + 1]) if at <= last_early)
        trips = ("streak" in rule and streak >= rule["streak"]) or (
            "rate" in rule and len(seen) >= rule["rate"][1] and failed > rule["rate"][0] * len(seen)
        )
        trips = trips or ("within" in rule and early >= rule["within"][0])
        assert (world.sweep.refresh().status == "FAILED") == trips, (ends[: number + 1], rule)
        if trips:
            break
        world.clock.advance(10.0)


# --- several at once -------------------------------------------------------------------------------------


def test_failed_comes_before_finished() -> None:
    """The last run of a complete search fails, and that trips the rule."""
    world = make(Limits(run_cap=2, failure=FailureRule(streak=2)))
    end(world, "ff")
    assert world.sweep.refresh().status == "FAILED"


def test_finished_comes_before_stopped() -> None:
    """The last run of a complete search ends when the time is over."""
    world = make(Limits(run_cap=1, time_limit=100.0))
    run = world.begin()
    world.clock.advance(100.0)
    run.finish()
    assert world.sweep.refresh().status == "FINISHED"


def test_failed_comes_before_stopped() -> None:
    """A rule that trips when the time is over."""
    world = make(Limits(time_limit=100.0, failure=FailureRule(streak=1)))
    run = world.begin()
    world.clock.advance(100.0)
    run.fail()
    assert world.sweep.refresh().status == "FAILED"


def test_all_three_at_once_are_one_commit_and_one_change() -> None:
    """FAILED, and it is said why."""
    world = make(Limits(run_cap=1, time_limit=100.0, failure=FailureRule(streak=1)))
    run = world.begin()
    world.clock.advance(100.0)
    events = run.fail()
    moved = [event for event in events if isinstance(event, SweepStatusChanged)]
    assert [event.status for event in moved] == ["FAILED"]
    assert moved[0].reason == "1 runs in a row failed" or "row" in (moved[0].reason or "")
    assert moved[0].actor is None


# --- the target --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("goal", "value", "reached"),
    [
        ("minimize", 0.1, True),
        ("minimize", 0.09, True),
        ("minimize", 0.11, False),
        ("maximize", 0.1, True),
        ("maximize", 0.11, True),
        ("maximize", 0.09, False),
        ("minimize", float("nan"), False),
        ("minimize", float("-inf"), True),
    ],
)
def test_when_the_target_is_reached(goal: Any, value: float, *, reached: bool) -> None:
    """A tie reaches it, NaN never does; then a drained sweep is FINISHED in the same commit."""
    world = make(objective=Objective("score", goal, target=0.1))
    world.begin().finish(score=value)
    assert world.sweep.refresh().status == ("FINISHED" if reached else "RUNNING")


def test_the_target_is_not_reached_by_what_did_not_finish() -> None:
    """Nor in a sweep that was ended: there is no search to complete."""
    world = make(objective=Objective("loss", target=0.1))
    world.begin().exited(1, metrics={"loss": 0.0})
    late = world.begin()
    world.begin()
    world.sweep.stop()
    late.finish(loss=0.0)
    state = world.sweep.refresh().state
    assert (state.status, state.completed, state.best_value) == ("STOPPED", None, 0.0)


@pytest.mark.parametrize("status", ["PAUSED", "CRASHED"])
def test_the_target_is_reached_while_paused(status: str) -> None:
    """The search is complete; the sweep waits, and finishes with its resume."""
    world = make(objective=Objective("loss", target=0.1))
    run = world.begin()
    (world.sweep.pause if status == "PAUSED" else world.sweep.crash)()
    run.finish(loss=0.0)
    assert (world.sweep.refresh().status, world.sweep.state.completed) == (status, "target")
    world.sweep.resume()
    assert world.sweep.status == "FINISHED"


def test_after_a_reopening_only_newly_ending_runs_reach_the_target() -> None:
    """The old best stays the best, and the search goes on."""
    world = make(objective=Objective("loss", target=0.1))
    world.begin().finish(loss=0.05)
    world.sweep.reopen()
    assert (world.sweep.status, world.sweep.state.best_value) == ("RUNNING", 0.05)
    world.begin().finish(loss=0.5)
    assert world.sweep.refresh().status == "RUNNING"
    world.begin().finish(loss=0.07)
    assert world.sweep.refresh().status == "FINISHED"
    assert world.sweep.state.best_index == 0


def test_the_late_end_of_a_lost_run_may_reach_the_target() -> None:
    """It finished: its metrics count like anybody's."""
    world = make(objective=Objective("loss", target=0.1))
    run = world.begin(heartbeats=True)
    world.lose(run)
    run.finish(loss=0.0)
    assert world.sweep.refresh().status == "FINISHED"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"metric": 3}, "objective.metric"),
        ({"metric": "loss", "goal": "least"}, "objective.goal"),
        ({"metric": "loss", "target": float("nan")}, "objective.target"),
        ({"metric": "loss", "target": "0.1"}, "objective.target"),
    ],
)
def test_an_objective_that_cannot_be_used_is_refused(arguments: dict[str, Any], field: str) -> None:
    """By the name of its field."""
    with pytest.raises(InvalidValue) as caught:
        Objective(**arguments)
    assert caught.value.field == field


def test_a_sweep_with_limits_comes_to_an_end_by_itself() -> None:
    """Law 11, a readable case: agents ask and return, all fails or goes silent, time passes: it is done one day."""
    world = make(Limits(run_cap=4, max_active=2, retries=1, max_preemptions=1), objective=Objective("loss", target=0.0))
    for round_ in range(60):
        answer = world.sweep.next_run(f"w{round_}")
        if isinstance(answer, Run):
            answer.start(heartbeats=True)
            if round_ % 3 == 1:
                answer.mark_preempting()
            if round_ % 3 != 2:
                answer.fail()
        world.pass_by(120.0)
    assert world.sweep.refresh().done
    assert world.sweep.status == "FINISHED"
