"""Second chances (layer F): preemption, retries by limit and by person, the backlog, and reopening."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstate import IdleReason, IllegalTransition, InvalidValue, Limits, Run, RunStatus, SweepStatus
from sweepstate.core.events import BacklogAdded, RunEnded, RunRequeued, SweepStatusChanged
from tests.support import tables
from tests.support.world import STATUSES, World, everything, make, orders, reach

RETRYABLE = ("FAILED", "CRASHED", "KILLED")
ENDS: dict[str, Callable[[Run], object]] = {"FAILED": Run.fail, "CRASHED": Run.crash, "KILLED": Run.interrupt}


def preempt(run: Run) -> None:
    run.mark_preempting()
    run.crash()


def ended(*ends: str, limits: Limits | None = None) -> World:
    """Return a world whose runs ended so, in this order."""
    world = make(limits)
    for end in ends:
        run = world.begin()
        ENDS.get(end, Run.finish)(run)
    return world


# --- the table of layer F -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["RUNNING", "PAUSED", "CRASHED", "STOPPED", "FAILED"])
def test_a_preempted_run(status: str) -> None:
    """Queued, or KILLED and withdrawn where the sweep was ended gracefully."""
    world, runs = reach(status, "RUNNING")
    preempt(runs["RUNNING"])
    state = world.state(0)
    if tables.CHANCES[status]["preempted"] == "queued":
        assert (state.row, state.attempt, state.preemptions) == ("PENDING, queued", 2, 1)
    else:
        assert (state.row, state.cause, state.lease) == ("KILLED", "withdrawn", None)


@pytest.mark.parametrize(("status", "end"), list(product(["RUNNING", "PAUSED", "CRASHED", "STOPPED", "FAILED"], ENDS)))
def test_a_retry_by_limit(status: str, end: str) -> None:
    """Made for FAILED and CRASHED, never for KILLED, and only where the table says so."""
    world, runs = reach(status, "RUNNING", limits=Limits(retries=1))
    ENDS[end](runs["RUNNING"])
    again = tables.CHANCES[status]["limit"] == "queued" and end != "KILLED"
    assert world.rows() == ["PENDING, queued" if again else end]


@pytest.mark.parametrize(("status", "end"), list(product(tables.SWEEP_STATUSES, RETRYABLE)))
def test_a_persons_retry(status: str, end: str) -> None:
    """Yes, or refused with the remedy to reopen first; one run, and all of a status."""
    for many in (False, True):
        world, runs = reach(status, end)
        before = everything(world.sweep)
        if tables.CHANCES[status]["retry"] == "yes":
            events = world.sweep.retry({RunStatus(end)}) if many else runs[end].retry()
            assert [type(event) for event in events] == [BacklogAdded if many else RunRequeued]
            continue
        retry = partial(world.sweep.retry, {RunStatus(end)}) if many else runs[end].retry
        with pytest.raises(IllegalTransition) as caught:
            retry()
        assert caught.value.allowed == ("reopen",)
        assert "reopen" in caught.value.remedy
        assert everything(world.sweep) == before


@pytest.mark.parametrize("row", tables.RUN_ROWS)
def test_which_runs_a_person_may_retry(row: str) -> None:
    """FAILED, CRASHED and KILLED; on a queued run it is `=`; on any other refused."""
    world, runs = reach("RUNNING", row)
    before = everything(world.sweep)
    if row == "PENDING, queued":
        assert runs[row].retry() == ()
    elif row in ("PENDING, held", "RUNNING", "FINISHED"):
        with pytest.raises(IllegalTransition) as caught:
            runs[row].retry()
        assert caught.value.asked == "retry"
    else:
        assert runs[row].retry() != ()
        return
    assert everything(world.sweep) == before


# --- preemption and retries by limit ----------------------------------------------------------------


@pytest.mark.parametrize("most", [0, 1, 5])
def test_more_than_max_preemptions_end_in_crashed(most: int) -> None:
    """So many requeues, and the next one is a verdict: CRASHED, preempted too often."""
    world = make(Limits(max_preemptions=most))
    for number in range(most):
        preempt(world.begin())
        assert world.state(0).preemptions == number + 1
    preempt(world.begin())
    state = world.state(0)
    assert (state.status, state.cause, state.attempt) == ("CRASHED", "preempted too often", most + 1)
    assert world.sweep[0].retry()
    state_after = world.state(0)
    assert (state_after.preemptions, state_after.attempt) == (0, most + 2), "a person's retry starts them afresh"


def test_retries_are_counted_by_status() -> None:
    """FAILED and CRASHED have a count each; the verdict stands when both are used up."""
    world = make(Limits(retries={RunStatus.FAILED: 1, RunStatus.CRASHED: 2}))
    for end, row in [
        ("FAILED", "PENDING, queued"),
        ("CRASHED", "PENDING, queued"),
        ("CRASHED", "PENDING, queued"),
        ("CRASHED", "CRASHED"),
    ]:
        ENDS[end](world.begin())
        assert world.rows() == [row]
    world.sweep[0].retry()
    world.begin().fail()
    assert world.rows() == ["PENDING, queued"], "a person's retry starts them afresh"


def test_a_retry_by_limit_leaves_the_verdict_in_the_history() -> None:
    """RunEnded and RunRequeued, in one commit."""
    world = make(Limits(retries=1))
    ended, requeued = world.begin().fail("boom")
    assert isinstance(ended, RunEnded)
    assert isinstance(requeued, RunRequeued)
    assert (ended.status, ended.message, ended.version) == ("FAILED", "boom", requeued.version)
    assert not ended.counts


def test_a_lost_run_is_retried_by_limit_and_its_late_end_is_recorded() -> None:
    """The next attempt is on its way, so the old one has no say; two attempts never take slots at once."""
    world = make(Limits(retries=1))
    old = world.begin(heartbeats=True)
    world.lose(old)
    assert world.rows() == ["PENDING, queued"]
    assert world.sweep.refresh().state.leased == 0
    new = world.begin()
    old.finish(loss=0.0)
    assert (world.state(0).status, world.state(0).late) == ("RUNNING", (1,))
    new.finish()
    assert world.state(0).status == "FINISHED"


# --- the backlog ---------------------------------------------------------------------------------------


def test_retrying_by_statuses_records_a_wish_and_rewrites_nothing() -> None:
    """Runs are taken up one by one, as agents ask, in index order: a million cost what ten cost."""
    world = ended(*["FAILED"] * 5)
    (event,) = world.sweep.retry({RunStatus.FAILED}, "new driver", actor="ada")
    assert isinstance(event, BacklogAdded)
    assert (event.statuses, event.reason, event.actor) == (("FAILED",), "new driver", "ada")
    assert world.rows() == ["FAILED"] * 5
    assert [(run.index, run.attempt) for run in (world.take(), world.take())] == [(0, 2), (1, 2)]
    assert world.rows() == ["PENDING, held"] * 2 + ["FAILED"] * 3


def test_a_run_whose_status_changed_since_is_left_out() -> None:
    """It was retried by hand, and failed again: that is another failure than the one that was meant."""
    world = ended("FAILED", "FAILED", "FAILED")
    world.sweep.retry({RunStatus.FAILED})
    world.sweep[0].retry()
    world.begin().fail()
    world.sweep[1].retry()
    world.begin().kill()
    assert world.take().index == 2
    assert world.take().index == 3


def test_runs_that_fail_after_the_wish_are_not_in_it() -> None:
    """So a retry of what keeps failing ends."""
    world = ended("FAILED")
    world.sweep.retry({RunStatus.FAILED})
    world.begin().fail()
    assert world.take().index == 1
    assert world.sweep.refresh().state.backlog == ()


def test_a_second_wish_is_appended_with_its_own_statuses() -> None:
    """The older one is worked off first."""
    world = ended("FAILED", "CRASHED", "FAILED", "CRASHED")
    world.sweep.retry({RunStatus.CRASHED})
    world.sweep.retry({RunStatus.FAILED})
    assert [world.take().index for _ in range(5)] == [1, 3, 0, 2, 4]


def test_a_run_of_the_backlog_that_still_executes_is_queued_instead() -> None:
    """It is handed out when its old lease is gone or lost; the next one is taken."""
    world = make(size=2)
    killed, failed = world.begin("ada"), world.begin("bob")
    world.sweep.pause()
    killed.kill()
    failed.fail()
    world.sweep.retry({RunStatus.KILLED, RunStatus.FAILED})
    world.sweep.resume()
    assert world.take("eve").index == 1
    assert world.rows() == ["PENDING, queued", "PENDING, held"]
    assert orders(world.sweep, "ada") == [("kill", 0, 1)]
    assert world.idle() is IdleReason.DRAINING
    killed.gone()
    assert world.take().index == 0


def test_a_sweep_with_a_backlog_is_not_finished() -> None:
    """Complete and drained is not enough; nor is it asked for more than the backlog has."""
    world = make(size=1)
    run = world.begin()
    world.sweep.pause()
    run.fail()
    world.sweep.retry({RunStatus.FAILED})
    world.sweep.resume()
    assert world.sweep.status == "RUNNING"
    world.begin().finish()
    assert world.sweep.refresh().status == "FINISHED"


def test_a_wish_that_nothing_fulfils_finishes_at_once() -> None:
    """In the commit that records it, where the search is complete and the sweep drained."""
    world = make(size=1)
    run = world.begin()
    world.sweep.pause()
    run.finish()
    world.sweep.retry({RunStatus.FAILED})
    events = world.sweep.resume()
    assert [event.status for event in events if isinstance(event, SweepStatusChanged)] == ["RUNNING", "FINISHED"]
    assert world.sweep.state.backlog == ()


@pytest.mark.parametrize("how", ["stop", "fail", "cancel", "complete"])
def test_a_later_end_drops_the_backlog(how: str) -> None:
    """So what was wished before does not come back with a reopen."""
    world = ended("FAILED")
    world.begin()
    world.sweep.retry({RunStatus.FAILED})
    getattr(world.sweep, how)()
    assert world.sweep.refresh().state.backlog == ()
    world.sweep[1].kill()
    world.sweep.reopen()
    assert world.take().index == 2


@pytest.mark.parametrize("how", ["pause", "crash"])
def test_a_pause_keeps_the_backlog(how: str) -> None:
    """Nothing was decided against it."""
    world = ended("FAILED")
    world.sweep.retry({RunStatus.FAILED})
    getattr(world.sweep, how)()
    world.sweep.resume()
    assert (world.take().index, world.state(0).attempt) == (0, 2)


@pytest.mark.parametrize("statuses", [set(), {"FINISHED"}, {"RUNNING"}, {"nonsense"}, "FAILED"])
def test_statuses_that_cannot_be_retried_are_refused(statuses: set[RunStatus]) -> None:
    """An InvalidValue names the argument; nothing changes."""
    world = ended("FAILED")
    before = everything(world.sweep)
    with pytest.raises(InvalidValue) as caught:
        world.sweep.retry(statuses)
    assert caught.value.field == "statuses"
    if statuses:
        with pytest.raises(InvalidValue) as caught:
            world.sweep.reopen(retry=statuses)
        assert caught.value.field == "retry"
    assert everything(world.sweep) == before


# --- reopening -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["STOPPED", "CANCELLED", "FAILED"])
def test_withdrawn_runs_are_always_in_a_reopens_backlog(status: str) -> None:
    """What never got to run is taken up again, before anything new; what a person killed is not."""
    world = make()
    killed, held, released = world.begin(), world.take(), world.take()
    killed.kill()
    released.release()
    STATUSES[status](world.sweep)
    held.gone()
    killed.gone()
    world.sweep.reopen()
    again = [world.take().index for _ in range(3)]
    assert again == ([3, 4, 5] if status == "CANCELLED" else [1, 2, 3])


def test_reopen_with_retry_does_both() -> None:
    """reopen(retry={statuses}): the deliberate end is undone, and these runs come back."""
    world = ended("FAILED", "FINISHED", "CRASHED")
    world.sweep.stop()
    world.sweep.reopen(retry={RunStatus.FAILED, RunStatus.CRASHED})
    assert [world.take().index for _ in range(3)] == [0, 2, 3]


def test_on_a_running_sweep_reopen_with_something_to_retry_is_refused() -> None:
    """Use retry; without anything to retry it is `=`."""
    world = ended("FAILED")
    before = everything(world.sweep)
    assert world.sweep.reopen() == ()
    with pytest.raises(IllegalTransition) as caught:
        world.sweep.reopen(retry={RunStatus.FAILED})
    assert "retry" in caught.value.remedy
    assert everything(world.sweep) == before


def test_reopen_keeps_what_is_still_true() -> None:
    """An exhausted search stays complete: with nothing to take up it is FINISHED again in the same commit."""
    world = ended("FAILED")
    world.search.exhausted = True
    assert world.idle() is IdleReason.ENDED
    version = world.sweep.refresh().state.version
    events = world.sweep.reopen()
    assert [event.status for event in events if isinstance(event, SweepStatusChanged)] == ["RUNNING", "FINISHED"]
    assert world.sweep.state.version == version + 1
    world.sweep.reopen(retry={RunStatus.FAILED})
    assert world.take().attempt == 2


def test_reopen_clears_what_a_person_decided() -> None:
    """A declaration that the search is complete is undone, and it proposes again."""
    world = ended("FINISHED")
    world.sweep.complete()
    assert world.sweep.status == "FINISHED"
    world.sweep.reopen()
    assert (world.sweep.status, world.sweep.state.completed) == ("RUNNING", None)
    assert world.take().index == 1


def test_a_cancelled_sweeps_runs_can_be_executed_again() -> None:
    """Cancelled runs come back by reopen(retry={KILLED}), one after the other execution is gone."""
    world = make(Limits(run_cap=3))
    runs = [world.begin() for _ in range(3)]
    world.sweep.cancel()
    for run in runs:
        run.gone()
    world.sweep.reopen(retry={RunStatus.KILLED})
    again = [world.begin() for _ in range(3)]
    assert [(run.index, run.attempt) for run in again] == [(0, 2), (1, 2), (2, 2)]
    for run in again:
        run.finish()
    assert world.sweep.refresh().status == SweepStatus.FINISHED


@given(
    ends=st.lists(st.sampled_from(["FAILED", "CRASHED", "KILLED", "FINISHED"]), max_size=12),
    wishes=st.lists(st.sets(st.sampled_from(RETRYABLE), min_size=1), min_size=1, max_size=3),
)
def test_what_is_wished_is_taken_up_once_and_nothing_else(ends: list[str], wishes: list[set[str]]) -> None:
    """Each run that ended in a wished status comes back exactly once before anything new is created."""
    world = ended(*ends)
    for wish in wishes:
        world.sweep.retry({RunStatus(status) for status in wish})
    wanted = {index for index, end in enumerate(ends) if any(end in wish for wish in wishes)}
    taken = [world.take() for _ in wanted]
    assert {run.index for run in taken} == wanted
    assert all(run.attempt == 2 for run in taken)
    assert world.take().index == len(ends)
    assert world.sweep.refresh().state.backlog == ()
