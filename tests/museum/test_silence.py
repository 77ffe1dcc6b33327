"""Bugs of the field about silence: runs presumed dead while they live, and dead runs that live for ever."""

from __future__ import annotations

import pytest

from sweepstate import (
    Answer,
    Cause,
    FailureRule,
    Idle,
    IdleReason,
    Limits,
    MemoryStorage,
    Run,
    RunStatus,
    Sweep,
    SweepStatus,
)
from tests.fakes import Clock, Recorder, names, sweep_of, take


def lose(sweep: Sweep, clock: Clock) -> None:
    """Let those who promised heartbeats be silent until they are lost."""
    clock.wait(300)
    sweep.tick()
    clock.wait(60)
    sweep.tick()


def test_07_silence_is_a_presumption_that_a_late_end_corrects() -> None:
    """wandb/wandb#1526, #3599: runs marked crashed while training went on; a late end fixed it by accident."""
    # given a run that goes on while its network is gone
    sweep, clock = sweep_of(3)
    run = take(sweep)
    run.heartbeat()
    clock.wait(300)
    assert names(sweep.tick().events) == ["RunSuspected"]
    assert run.refresh().status is RunStatus.RUNNING
    clock.wait(60)
    assert names(sweep.tick().events) == ["RunEnded"]
    assert (run.refresh().status, run.cause) == (RunStatus.CRASHED, Cause.LOST)
    # when its network is back: it is still wanted to come to its end
    assert run.heartbeat() is Answer.CONTINUE
    assert run.refresh().status is RunStatus.CRASHED
    run.finish(loss=0.5)
    # then the verdict is corrected, by rule, with all it reported
    assert (run.status, dict(run.metrics)) == (RunStatus.FINISHED, {"loss": 0.5})


def test_07_one_sign_between_two_looks_voids_the_suspicion() -> None:
    """As above: somebody who is merely slow is not lost."""
    sweep, clock = sweep_of(3)
    run = take(sweep)
    run.heartbeat()
    clock.wait(300)
    sweep.tick()
    clock.wait(1)
    run.heartbeat()
    clock.wait(60)
    assert names(sweep.tick().events) == ["SuspicionLifted"]
    assert run.refresh().status is RunStatus.RUNNING


def test_07_a_heartbeat_that_comes_between_decision_and_commit_wins() -> None:
    """As above: a commit that acts on silence is conditional on it."""

    class Slow(MemoryStorage):
        """Lets a run beat right before a commit is written."""

        late: Run | None = None

        def commit(self, change: object) -> None:
            run, self.late = self.late, None
            if run is not None:
                run.heartbeat()
            super().commit(change)  # type: ignore[arg-type]

    storage = Slow()
    sweep, clock = sweep_of(3, storage=storage)
    run = take(sweep)
    run.heartbeat()
    clock.wait(300)
    sweep.tick()
    clock.wait(60)
    storage.late = run
    assert names(sweep.tick().events) == ["SuspicionLifted"]
    assert run.refresh().status is RunStatus.RUNNING


@pytest.mark.parametrize("reference", ["08", "18"])
def test_08_and_18_a_vanished_process_does_not_run_for_ever(reference: str) -> None:
    """wandb/wandb#6779; optuna/optuna#485, hyperopt/hyperopt#270: a run stayed "running" after its process died."""
    # given a run whose process died without a word, in a sweep of one slot
    sweep, clock = sweep_of(3, limits=Limits(max_active=1))
    run = take(sweep, f"agent-{reference}")
    run.heartbeat()
    assert sweep.next_run("other") == Idle(IdleReason.AT_CAPACITY)
    # when time passes, and anybody ticks
    lose(sweep, clock)
    # then it is CRASHED, with its cause, and its slot is free
    assert (run.refresh().status, run.cause) == (RunStatus.CRASHED, Cause.LOST)
    assert take(sweep, "other").index == 1


@pytest.mark.parametrize("word", ["stop", "kill"])
def test_08_stop_and_kill_always_work_on_a_silent_run(word: str) -> None:
    """wandb/wandb#6779: it could not be stopped either."""
    # given a run that promised nothing and is silent
    sweep, clock = sweep_of(1)
    run = take(sweep)
    # when somebody stops or kills it, and nobody answers
    getattr(run, word)()
    for _ in range(3):
        clock.wait(300)
        sweep.tick()
    # then it is KILLED, its slot is free, and the sweep is done
    assert run.refresh().status is RunStatus.KILLED
    assert sweep.refresh().done


def test_09_an_overdue_stop_becomes_a_kill() -> None:
    """wandb/wandb#3506: "stopping" for hours."""
    # given a run that was asked to stop and goes on, beating
    agent = Recorder()
    sweep, clock = sweep_of(3, agent=agent, limits=Limits(max_active=1))
    sweep.tick()
    sweep[0].start()
    run = sweep[0]
    assert run.heartbeat() is Answer.CONTINUE
    run.stop()
    assert run.heartbeat() is Answer.STOP
    # when the grace of 30 s is over
    clock.wait(29)
    assert sweep.tick().events == ()
    clock.wait(1)
    assert names(sweep.tick().events) == ["RunEnded"]
    # then it is KILLED, and its agent is ordered to end it
    assert (run.refresh().status, run.cause) == (RunStatus.KILLED, Cause.STOPPED)
    assert run.heartbeat() is Answer.KILL
    assert agent.orders[-2:] == [("stop", 0, 1), ("kill", 0, 1)]


def test_27_heartbeats_work_from_anywhere() -> None:
    """optuna/optuna#3293: heartbeats existed only inside the library's own loop."""
    # given a run that is executed by no loop of this library, far away: it has a token and the storage
    sweep, clock = sweep_of(3)
    token = take(sweep).token
    far = Sweep.open("s", storage=sweep.storage, clock=clock).run_of(token)
    # when it beats every 200 s, for an hour
    for _ in range(18):
        assert far.heartbeat() is Answer.CONTINUE
        clock.wait(200)
        assert sweep.tick().events == ()
    # then it lives; and when it stops beating, it is noticed
    lose(sweep, clock)
    assert far.refresh().cause is Cause.LOST


def test_42_who_promised_no_heartbeats_is_never_presumed_dead() -> None:
    """Found in review: a training loop that never sends heartbeats was declared crashed after five minutes."""
    # given a plain loop that reports metrics and never a heartbeat
    sweep, clock = sweep_of(3)
    run = take(sweep)
    # when it takes a week
    for _ in range(7):
        clock.wait(86_400)
        assert run.report(loss=1.0) is Answer.CONTINUE
        assert sweep.tick().events == ()
    # then nobody presumes anything
    assert run.refresh().status is RunStatus.RUNNING
    run.finish(loss=0.5)
    assert run.status is RunStatus.FINISHED


def test_43_an_outage_in_which_everybody_looked_silent_costs_nothing() -> None:
    """Found in review: an outage of the storage made every run look silent, and the failure limit ended the sweep."""
    # given twenty runs that beat, and a failure rule
    sweep, clock = sweep_of(30, limits=Limits(failure=FailureRule(streak=3)))
    runs = [take(sweep, f"agent-{n}") for n in range(20)]
    for run in runs:
        run.heartbeat()
    # when nothing at all gets through for a day, and the first thing afterwards is a tick
    clock.wait(86_400)
    assert set(names(sweep.tick().events)) == {"RunSuspected"}
    # then there is a second look only after they could be heard again
    sweep.tick()
    clock.wait(30)
    for run in runs:
        run.heartbeat()
    clock.wait(30)
    assert set(names(sweep.tick().events)) == {"SuspicionLifted"}
    assert sweep.refresh().counts[RunStatus.RUNNING] == 20
    assert sweep.status is SweepStatus.RUNNING


def test_36_failed_crashed_and_killed_are_told_apart() -> None:
    """facebook/Ax#329, optuna/optuna#5860: failed, abandoned and stale were one word."""
    # given runs that end in different ways
    sweep, clock = sweep_of(9)
    take(sweep).fail(ValueError("loss is NaN"))
    take(sweep).crash("out of memory", signal=9)
    take(sweep).kill("no longer of interest")
    abandoned = take(sweep, start=False)
    silent = take(sweep)
    silent.heartbeat()
    # when the last two say nothing
    lose(sweep, clock)
    sweep.stop()
    # then each has a word of its own, a cause, and what is known about it
    told = [(run.status, run.cause, run.state.message or run.state.signal) for run in sweep.runs()]
    assert told == [
        (RunStatus.FAILED, Cause.ERROR, "ValueError: loss is NaN"),
        (RunStatus.CRASHED, Cause.SIGNAL, "out of memory"),
        (RunStatus.KILLED, Cause.KILLED, None),
        (RunStatus.KILLED, Cause.WITHDRAWN, None),
        (RunStatus.CRASHED, Cause.LOST, "nothing was heard of it for 360 s"),
    ]
    assert abandoned.refresh().attempt == 1
    assert sweep[1].state.signal == 9
