"""Bugs of the field about trying again: not at all, with something else, or what nobody wanted to live again."""

from __future__ import annotations

import pytest

from sweepstate import (
    Conflict,
    Grid,
    IllegalTransition,
    Limits,
    MemoryStorage,
    RunStatus,
    Sweep,
    SweepStatus,
    SweepTrigger,
)
from sweepstate.core import lifecycle
from tests.fakes import Clock, sweep_of, take


def test_06_failed_points_are_retried_by_hand_all_together_or_by_limit() -> None:
    """wandb/wandb#1879, #6594, #4283: failed grid points were never retried; deleting and resuming was the only way."""
    # given a sweep that has finished with failures
    sweep, _ = sweep_of(4)
    sweep.execute(lambda run: None if run.config["x"] % 2 else 1 / 0)
    assert sweep.counts[RunStatus.FAILED] == 2
    # when it is reopened for them
    sweep.reopen(retry={RunStatus.FAILED})
    again: list[int] = []
    sweep.execute(lambda run: again.append(run.index))
    # then those are executed again, and no other
    assert (again, sweep.status, sweep.counts[RunStatus.FINISHED]) == ([0, 2], SweepStatus.FINISHED, 4)
    # and while a sweep runs, one by hand, all by a command, or each by a limit
    sweep, _ = sweep_of(4)
    one, two = take(sweep), take(sweep)
    one.fail()
    two.fail()
    sweep[0].retry()
    sweep.retry({RunStatus.FAILED})
    assert [(run.index, run.attempt) for run in (take(sweep), take(sweep))] == [(0, 2), (1, 2)]
    sweep, _ = sweep_of(1, limits=Limits(retries={RunStatus.FAILED: 2}))
    assert [take(sweep).fail() and sweep[0].attempt for _ in range(3)] == [2, 3, 3]
    assert sweep.refresh().status is SweepStatus.FINISHED


@pytest.mark.parametrize("cause", ["preempted", "retried", "by limit", "released", "not begun", "from the backlog"])
def test_10_a_requeue_keeps_identity_and_configuration(cause: str) -> None:
    """wandb/wandb#4237: a requeued run came back with a changed configuration."""
    # given a run with a nested configuration, in a storage that is opened anew each time
    storage = MemoryStorage()
    limits = Limits(retries=1 if cause == "by limit" else 0)
    search = Grid({"lr": [0.1, 0.2], "net": {"width": [8], "act": ["relu"]}, "tag": "t"})
    sweep, clock = sweep_of(search=search, storage=storage, limits=limits)
    run = take(sweep, start=cause not in ("released", "not begun"))
    before = (run.index, repr(run.config))
    # when it is queued again, for whatever reason
    if cause == "preempted":
        run.mark_preempting()
        run.exited(-15)
    elif cause == "released":
        run.release()
    elif cause == "not begun":
        clock.wait(300)
    else:
        run.fail()
        if cause == "retried":
            run.retry()
        elif cause == "from the backlog":
            sweep.retry({RunStatus.FAILED})
    # then it comes back as the same run
    again = take(Sweep.open("s", storage=storage, clock=clock))
    assert (again.index, repr(again.config)) == before
    assert again.attempt == 2


def test_12_resume_and_reopen_mean_the_same_on_every_front_end() -> None:
    """wandb/wandb#3344, #5845: a stopped sweep could not be resumed on one front end and could on another."""
    # given a stopped sweep, a handle of it, another handle, and somebody who has the table alone
    storage = MemoryStorage()
    sweep, clock = sweep_of(3, storage=storage)
    sweep.stop()
    other = Sweep.open("s", storage=storage, clock=clock)
    # when each of them resumes it
    refusals = []
    for resume in (sweep.resume, other.resume, lambda: lifecycle.step(SweepStatus.STOPPED, SweepTrigger.RESUME)):
        with pytest.raises(IllegalTransition) as refused:
            resume()
        refusals.append((refused.value.status, refused.value.asked, refused.value.allowed, refused.value.remedy))
    # then each has the same answer, which names the command that is meant
    assert refusals == [refusals[0]] * 3
    assert "reopen" in refusals[0][2]
    assert "reopen" in refusals[0][3]
    # and that one works on all of them
    assert lifecycle.step(SweepStatus.STOPPED, SweepTrigger.REOPEN) is SweepStatus.RUNNING
    other.reopen()
    assert sweep.refresh().status is SweepStatus.RUNNING


def test_45_a_delayed_command_cannot_hit_a_sweep_that_was_reopened() -> None:
    """Found in review: a delayed stop hit the sweep after it had been reopened."""
    # given a stop that was sent when the sweep was RUNNING, and is delayed
    sweep, _ = sweep_of(3)
    run = take(sweep)
    seen = sweep.refresh().state.version
    # when the sweep was cancelled and reopened meanwhile
    sweep.cancel()
    run.gone()
    sweep.reopen()
    before = list(sweep.history())
    # then the delayed command is a Conflict, and changes nothing
    with pytest.raises(Conflict, match="if_version"):
        sweep.stop("delayed", if_version=seen)
    assert (sweep.refresh().status, list(sweep.history())) == (SweepStatus.RUNNING, before)
    # while commits that do not move the status are no reason to refuse
    seen = sweep.state.version
    take(sweep)
    sweep.stop(if_version=seen)
    assert sweep.status is SweepStatus.STOPPED


def test_45_a_delayed_command_cannot_hit_the_next_attempt_of_a_run() -> None:
    """As above, for a run: its version is that of its own status."""
    sweep, _ = sweep_of(3)
    run = take(sweep)
    seen = run.state.status_version
    run.fail()
    run.retry()
    with pytest.raises(Conflict):
        sweep[0].kill("delayed", if_version=seen)
    assert sweep[0].status is RunStatus.PENDING


def test_a_plain_resume_cannot_revive_a_cancelled_sweep() -> None:
    """Of 12: W&B's clients let a stale resume revive what was cancelled."""
    sweep = Sweep(Grid({"x": [1]}), clock=Clock())
    sweep.cancel()
    with pytest.raises(IllegalTransition):
        sweep.resume()
    assert sweep.refresh().status is SweepStatus.CANCELLED
