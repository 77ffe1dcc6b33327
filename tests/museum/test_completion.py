"""Bugs of the field about how a sweep ends: never, too early, or so that nobody knows why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sweepstate import (
    Event,
    Exhausted,
    FailureRule,
    History,
    Idle,
    IdleReason,
    IllegalTransition,
    Limits,
    MemoryStorage,
    Objective,
    Run,
    RunStatus,
    RunTrigger,
    Sweep,
    SweepStatus,
    Wait,
)
from sweepstate.core import lifecycle
from tests.fakes import Clock, Recorder, names, sweep_of, take


def test_04_completion_comes_with_the_last_runs_end() -> None:
    """wandb/wandb#5489, #4653: the sweep stayed "running" for ever, because status moved when an agent made contact."""
    # given the last run of a sweep, executing
    sweep, _ = sweep_of(1)
    run = take(sweep)
    assert sweep.status is SweepStatus.RUNNING
    # when it ends, and no agent ever asks again
    events = run.finish()
    # then the sweep is FINISHED, in the same commit
    assert names(events) == ["RunEnded", "SweepStatusChanged"]
    assert {event.version for event in events} == {sweep.state.version}
    assert sweep.refresh().status is SweepStatus.FINISHED


@pytest.mark.parametrize("end", ["finish", "fail", "crash", "kill", "lose", "stop while queued", "cap lowered"])
def test_04_completion_comes_with_any_last_end(end: str) -> None:
    """As above: also where the last run ends by failing, dying, being killed, silence, or a lower cap."""
    sweep, clock = sweep_of(2, limits=Limits(run_cap=1 if end != "cap lowered" else 2))
    run = take(sweep)
    if end == "lose":
        run.heartbeat()
        clock.wait(300)
        sweep.tick()
        clock.wait(60)
        sweep.tick()
    elif end == "stop while queued":
        run.mark_preempting()
        run.fail()
        sweep[0].stop()
    elif end == "cap lowered":
        run.finish()
        assert sweep.status is SweepStatus.RUNNING
        sweep.set_limits(run_cap=1)
    else:
        getattr(run, end)()
    assert sweep.status is SweepStatus.FINISHED
    assert sweep.state.drained


def test_05_an_agent_is_told_why_there_is_nothing_and_when_to_go_home() -> None:
    """wandb/wandb#3961: agents waited for ever after the sweep was done."""
    # given a worker that asks again whatever it is told, but for ENDED
    sweep, _ = sweep_of(2, limits=Limits(max_active=1))
    seen: list[IdleReason] = []

    def ask() -> None:
        idle = sweep.next_run("second")
        assert isinstance(idle, Idle)
        assert not idle
        seen.append(idle.reason)

    run = take(sweep)
    ask()
    sweep.pause()
    ask()
    sweep.resume()
    run.finish()
    sweep.crash("the driver died")
    ask()
    sweep.resume()
    run = take(sweep)
    ask()
    run.finish()
    ask()
    # then each answer has its reason, and the last one is final
    assert seen == [
        IdleReason.AT_CAPACITY,
        IdleReason.PAUSED,
        IdleReason.INTERRUPTED,
        IdleReason.DRAINING,
        IdleReason.ENDED,
    ]


def test_05_a_sweep_with_limits_comes_to_an_end_without_a_command() -> None:
    """As above: an agent that vanishes with the last run keeps nobody waiting for ever."""
    # given the last run, in the hands of a worker that promised heartbeats and vanished; and one never begun
    sweep, clock = sweep_of(2, limits=Limits(retries=0))
    take(sweep, "vanished").heartbeat()
    take(sweep, "vanished before it began", start=False)
    # when another worker only asks, and time passes
    answer: Run | Idle | None = None
    for _ in range(20):
        clock.wait(60)
        answer = sweep.next_run("patient")
        if not isinstance(answer, Idle):
            answer.start()
            answer.finish()
        elif answer.reason is IdleReason.ENDED:
            break
    # then it is sent home, and every run has its verdict
    assert answer == Idle(IdleReason.ENDED)
    assert sweep.refresh().done
    assert [run.status for run in sweep.runs()] == [RunStatus.CRASHED, RunStatus.FINISHED]


def test_15_paused_is_not_ended() -> None:
    """W&B local controller: pausing made the controller think it was done."""
    # given a sweep with its last point taken
    sweep, _ = sweep_of(1)
    run = take(sweep)
    # when it is paused, and the run ends
    sweep.pause()
    run.finish()
    # then it waits, neither ended nor done
    assert (sweep.status, sweep.ended, sweep.done) == (SweepStatus.PAUSED, False, False)
    assert SweepStatus.PAUSED not in lifecycle.SWEEP_ENDED
    assert sweep.next_run() == Idle(IdleReason.PAUSED)
    # and is evaluated in the commit that resumes it
    events = sweep.resume()
    assert [event.version for event in events] == [sweep.state.version] * 2
    assert sweep.status is SweepStatus.FINISHED


def test_16_every_end_of_a_run_is_an_end() -> None:
    """W&B public API: waiting for the end of a run hung on killed and preempted runs."""
    # given runs that end in each way
    sweep, _ = sweep_of(6, limits=Limits(max_preemptions=0))
    ends = {
        "finish": RunStatus.FINISHED,
        "fail": RunStatus.FAILED,
        "crash": RunStatus.CRASHED,
        "kill": RunStatus.KILLED,
        "interrupt": RunStatus.KILLED,
    }
    for word, status in ends.items():
        run = take(sweep)
        getattr(run, word)()
        # then who waits for run.ended is told so, whichever it is
        assert run.ended
        assert run.refresh().status is status
    run = take(sweep)
    run.mark_preempting()
    run.fail("the machine is gone")
    assert (run.ended, run.status) == (True, RunStatus.CRASHED)
    # and the set is derived: ended is whatever a kill leaves as it is
    untouched = {
        status for status in RunStatus if lifecycle.check(status, RunTrigger.KILL) is lifecycle.Verdict.NOTHING
    }
    assert untouched == lifecycle.RUN_ENDED == set(RunStatus) - {RunStatus.PENDING, RunStatus.RUNNING}


class Waiting:
    """A search that waits for something that never happens."""

    size: int | None = None

    def propose(self, index: int, history: History) -> Mapping[str, Any] | Wait | Exhausted:
        return Wait()


def test_31_nothing_can_be_stuck_without_saying_so() -> None:
    """ray-project/ray#23424: all trials paused for ever, nothing could make progress."""
    # given a search that waits although nothing is active
    sweep, _ = sweep_of(search=Waiting())
    # when an agent asks
    idle = sweep.next_run()
    # then it is told that somebody must act; and acting helps
    assert idle == Idle(IdleReason.STALLED)
    sweep.complete("nothing will come")
    assert sweep.status is SweepStatus.FINISHED
    assert sweep.next_run() == Idle(IdleReason.ENDED)


@pytest.mark.parametrize("status", list(SweepStatus))
def test_31_from_every_status_some_moves_lead_to_done(status: SweepStatus) -> None:
    """As above: every sweep can be brought to done, with a run queued, one held and one executing."""
    sweep, _ = sweep_of(9)
    executing, held, queued = take(sweep), take(sweep, start=False), take(sweep, start=False)
    queued.release()
    moves: dict[SweepStatus, Callable[[], object]] = {
        SweepStatus.RUNNING: lambda: (),
        SweepStatus.PAUSED: sweep.pause,
        SweepStatus.STOPPED: sweep.stop,
        SweepStatus.CANCELLED: sweep.cancel,
        SweepStatus.FAILED: sweep.fail,
        SweepStatus.CRASHED: sweep.crash,
        SweepStatus.FINISHED: lambda: (sweep.complete(), executing.finish(), held.finish()),
    }
    moves[status]()
    assert sweep.status is status
    if not sweep.ended or status is SweepStatus.CRASHED:
        sweep.stop()
    executing.finish()
    held.gone()
    assert sweep.refresh().done


def test_32_a_sweep_gives_up_after_systematic_failures() -> None:
    """ray-project/ray#21222: users asked to stop after k errors."""
    # given each of the rules, and a second run that executes
    rules = [
        (FailureRule(streak=3), [0, 0, 0]),
        (FailureRule(within=(3, 60.0)), [0, 1, 0, 0]),
        (FailureRule(rate=(0.5, 5)), [0, 1, 0, 1, 0]),
    ]
    for rule, outcomes in rules:
        sweep, _ = sweep_of(50, limits=Limits(failure=rule))
        other = take(sweep, "other")
        events: list[Event] = []
        # when runs fail as the rule says
        for number, good in enumerate(outcomes):
            assert sweep.refresh().status is SweepStatus.RUNNING, (rule, number)
            run = take(sweep)
            events += run.finish() if good else run.fail("out of memory")
        # then the sweep is FAILED with that very failure, and says why; what executes goes on
        assert sweep.refresh().status is SweepStatus.FAILED, rule
        assert "failed" in str(events[-1].reason)
        assert sweep.next_run() == Idle(IdleReason.ENDED)
        assert other.refresh().status is RunStatus.RUNNING


def test_32_killed_runs_do_not_count_as_failures() -> None:
    """As above: what somebody killed is no failure, and breaks no streak either."""
    sweep, _ = sweep_of(50, limits=Limits(failure=FailureRule(streak=3)))
    for end in ("fail", "kill", "fail", "kill"):
        getattr(take(sweep), end)()
    assert sweep.refresh().status is SweepStatus.RUNNING
    take(sweep).fail()
    assert sweep.refresh().status is SweepStatus.FAILED


def test_33_a_failure_drains_and_a_cancel_kills() -> None:
    """kubeflow/katib#855, #2061: trials ran on after the experiment had failed; nobody could say if that was meant."""
    # given a run that executes, one that is held, and one that is queued
    agent = Recorder()
    for move, fates in (
        ("fail", [RunStatus.RUNNING, RunStatus.KILLED, RunStatus.KILLED]),
        ("cancel", [RunStatus.KILLED, RunStatus.KILLED, RunStatus.KILLED]),
    ):
        sweep, _ = sweep_of(9)
        take(sweep, agent.name)
        take(sweep, start=False)
        take(sweep, start=False).release()
        # when the sweep fails, or is cancelled
        getattr(sweep, move)()
        # then a failure lets what executes go on, and a cancel orders its end
        assert [run.status for run in sweep.runs()] == fates
        killed = [order.kind.value for order in sweep.orders(agent.name)]
        assert killed == (["kill"] if move == "cancel" else [])
    # and both are written down where code can read them
    assert lifecycle.table()["kills"]["FAILED"] == {"PENDING, queued": "withdrawn", "PENDING, held": "withdrawn"}
    assert lifecycle.table()["kills"]["CANCELLED"]["RUNNING"] == "cancelled"


def test_34_severity_can_always_be_raised() -> None:
    """Determined PR#5655: an experiment being cancelled could not be killed for an hour."""
    # given a sweep that ends gently, with a run that was asked to stop and does not
    sweep, _ = sweep_of(3)
    run = take(sweep)
    run.stop("be so kind")
    sweep.pause()
    sweep.stop()
    assert run.refresh().status is RunStatus.RUNNING
    # when somebody has had enough: of the run, and of the sweep
    other, _ = sweep_of(3, id="other")
    second = take(other)
    second.stop()
    second.kill()
    sweep.cancel()
    # then nothing has to be waited for
    assert second.refresh().status is RunStatus.KILLED
    assert (sweep.status, run.refresh().status) == (SweepStatus.CANCELLED, RunStatus.KILLED)


@pytest.mark.parametrize("first", ["stop", "fail", "crash"])
def test_13_a_sweep_that_still_drains_can_be_cancelled(first: str) -> None:
    """W&B clients: a stopped sweep that is still draining could not be cancelled."""
    # given a sweep that has ended and still drains
    sweep, _ = sweep_of(3)
    run = take(sweep)
    getattr(sweep, first)()
    assert run.refresh().status is RunStatus.RUNNING
    # when it is cancelled
    sweep.cancel()
    # then what executes is killed
    assert sweep.status is SweepStatus.CANCELLED
    assert run.refresh().status is RunStatus.KILLED


def test_28_every_command_works_from_wherever_the_storage_can_be_reached() -> None:
    """optuna/optuna#966, #3154: a study could be stopped only from inside its loop."""
    # given a sweep that some loop executes
    storage = MemoryStorage()
    loop, _ = sweep_of(9, storage=storage)
    run = take(loop)
    # when somebody else opens it, without the search and without an agent
    outside = Sweep.open("s", storage=storage, clock=Clock())
    outside.pause()
    assert loop.next_run() == Idle(IdleReason.PAUSED)
    outside.resume()
    outside[0].stop()
    # then the loop learns it from what it does anyway
    assert run.should_stop
    outside.stop()
    assert loop.next_run() == Idle(IdleReason.ENDED)
    outside.cancel()
    outside.reopen()
    outside.set_limits(run_cap=2)
    outside.complete()
    run.gone()
    assert outside.refresh().done


def test_target_completes_the_search_in_the_commit_that_reaches_it() -> None:
    """Of 4: the objective's target ends the sweep with the run that reaches it, and drops what was queued."""
    sweep, _ = sweep_of(9, objective=Objective("loss", "minimize", target=0.1))
    queued, run = take(sweep, start=False), take(sweep)
    queued.release()
    run.finish(loss=0.05)
    assert sweep.refresh().status is SweepStatus.FINISHED
    assert sweep[0].cause == "withdrawn"
    with pytest.raises(IllegalTransition, match="reopen"):
        sweep[0].retry()
