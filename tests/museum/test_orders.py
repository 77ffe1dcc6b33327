"""Bugs of the field about who executes what: two processes for one run, late reports, orders that got lost."""

from __future__ import annotations

import pytest

from sweepstate import (
    AlreadyStarted,
    Answer,
    Idle,
    IdleReason,
    InlineAgent,
    Limits,
    MemoryStorage,
    Run,
    RunStatus,
    StaleAttempt,
    Sweep,
    SweepStatus,
)
from sweepstate.core.questions import Leased
from tests.fakes import Recorder, names, sweep_of, take
from tests.museum.test_silence import lose


def test_24_a_worker_survives_what_happened_to_its_run_meanwhile() -> None:
    """optuna/optuna#5470: a worker died of an exception in user code, as its trial had been marked failed."""
    # given a worker, and everything that can happen to its run while it computes
    for fate in ("kill", "lose", "lose and retry", "cancel", "stop and time out", "kill and retry"):
        sweep, clock = sweep_of(2)
        run = take(sweep)
        run.heartbeat()
        with run:
            if fate.startswith("lose"):
                lose(sweep, clock)
            elif fate.startswith("kill"):
                sweep[0].kill()
            elif fate == "cancel":
                sweep.cancel()
            else:
                sweep[0].stop()
                clock.wait(30)
                sweep.tick()
            if fate.endswith("retry"):
                sweep[0].retry()
            verdict = sweep[0].status
            assert run.should_stop is (fate != "lose")  # the end of a lost run is still wanted
        # when it ends well, then nothing is raised; the report settled a presumption, or was recorded
        expected = RunStatus.FINISHED if fate == "lose" else verdict
        assert sweep[0].status is expected, fate
        assert ("LateReport" in names(tuple(sweep.history()))) is (fate != "lose"), fate


def test_37_an_old_attempt_cannot_start_and_its_end_is_recorded() -> None:
    """apache/airflow#39717, #52754: executor and database disagreed about who runs a task."""
    # given an executor that was too slow to begin, so that the run was handed on
    sweep, clock = sweep_of(1, limits=Limits(start_timeout=60))
    old = sweep.next_run("slow")
    assert not isinstance(old, Idle)
    clock.wait(60)
    new = take(sweep, "quick")
    assert (new.index, new.attempt) == (0, 2)
    # when the slow one begins after all
    with pytest.raises(StaleAttempt) as refused:
        old.start()
    # then it is refused, told why, and what it says about an end is kept as evidence
    assert (refused.value.attempt, refused.value.current) == (1, 2)
    assert old.heartbeat() is Answer.KILL
    assert names(old.finish(loss=0.0)) == ["LateReport"]
    assert new.refresh().status is RunStatus.RUNNING
    new.finish(loss=1.0)
    assert dict(sweep[0].metrics) == {"loss": 1.0}


def test_38_a_late_release_does_not_break_the_counters() -> None:
    """apscheduler#1116: a lease expired, a job ran twice, and its late release broke the counters for good."""
    # given a run whose lease expired and that somebody else executes, in a sweep of one slot
    sweep, clock = sweep_of(2, limits=Limits(max_active=1))
    first = take(sweep, "first", start=False)
    clock.wait(300)
    second = take(sweep, "second")
    assert (second.index, second.attempt) == (0, 2)
    # when the first one releases, says that it is gone, and reports its end, twice each
    for _ in range(2):
        first.release()
        first.gone()
        first.finish()
    # then the counts are those of the runs, and the slot is taken once
    assert sweep.refresh().state.leased == len(sweep.storage.runs("s", Leased(), limit=9)) == 1
    assert sweep.counts[RunStatus.RUNNING] == 1
    assert sweep.next_run("third") == Idle(IdleReason.AT_CAPACITY)
    second.finish()
    assert sweep.refresh().state.leased == 0


def test_41_the_order_to_kill_outlives_a_retry() -> None:
    """Found in review: a killed run was requeued while its process lived, and the order to kill it was forgotten."""
    # given a run that is killed and retried while its process lives
    agent = Recorder()
    sweep, clock = sweep_of(2, agent=agent, limits=Limits(max_active=1))
    sweep.tick()
    old = sweep[0]
    old.start()
    old.kill()
    sweep[0].retry()
    # when slots are to spare, and somebody asks
    sweep.set_limits(max_active=9)
    assert agent.orders[-1] == ("start", 1, 1)
    assert sweep.next_run("other") == Idle(IdleReason.DRAINING)
    # then the order to kill stays outstanding, and no second attempt is leased
    order = sweep.orders(agent.name)[0]
    assert (order.kind.value, order.index, order.attempt, sweep[0].attempt) == ("kill", 0, 1, 2)
    clock.wait(100)
    sweep.tick()
    assert agent.orders[-2] == ("kill", 0, 1)
    # until the process is gone: then it is handed out
    old.gone()
    assert agent.orders[-1] == ("start", 0, 2)
    assert [(order.kind.value, order.index) for order in sweep.orders(agent.name)] == [("start", 0), ("start", 1)]


def test_44_an_attempt_is_bound_to_one_execution() -> None:
    """Found in review: an order delivered twice made two executions of one attempt."""
    # given an order that is delivered twice, and two processes that it began
    agent = Recorder()
    sweep, _ = sweep_of(2, agent=agent, limits=Limits(max_active=1))
    sweep.tick()
    first, second = sweep.orders(agent.name)[0].run, sweep.orders(agent.name)[0].run
    first.start("job-1")
    # when the second one begins
    with pytest.raises(AlreadyStarted) as refused:
        second.start("job-2")
    # then it is refused; its signs and its end do not count
    assert (refused.value.execution, refused.value.begun_by) == ("job-2", "job-1")
    second.execution = "job-2"
    assert second.heartbeat() is Answer.KILL
    assert names(second.fail("port in use")) == ["LateReport"]
    assert sweep[0].status is RunStatus.RUNNING
    assert first.heartbeat() is Answer.CONTINUE
    first.finish()
    assert sweep.refresh().counts[RunStatus.FINISHED] == 1


def test_44_an_order_delivered_again_does_nothing() -> None:
    """As above: the agent of this library that executes inline begins an order once."""
    executed: list[Run] = []
    agent = InlineAgent(executed.append)
    sweep, _ = sweep_of(1, limits=Limits(retries=0))
    sweep.next_run(agent.name)
    (order,) = sweep.orders(agent.name)
    agent.start(order)  # type: ignore[arg-type]
    assert len(executed) == 1
    assert sweep.refresh().status is SweepStatus.FINISHED
    assert sweep.orders(agent.name) == []


def test_orders_survive_a_crash_between_commit_and_delivery() -> None:
    """Of 41: what was committed and not delivered is delivered by whoever comes back under the agent's name."""
    # given an orchestrator that dies right after each commit, before it could deliver
    storage = MemoryStorage()
    dying, clock = sweep_of(2, storage=storage)
    run = take(dying, "recorder")
    run.kill()
    # when it comes back
    agent = Recorder()
    back = Sweep.open("s", storage=storage, agent=agent, clock=clock)
    back.tick()
    # then the order is delivered
    assert agent.orders[0] == ("kill", 0, 1)
