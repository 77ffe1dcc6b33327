"""Handing out (layer B): in which order, and why there is nothing."""

from __future__ import annotations

from collections import Counter
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstate import (
    Conflict,
    Exhausted,
    Idle,
    IdleReason,
    IllegalTransition,
    InvalidValue,
    Limits,
    MemoryStorage,
    Objective,
    Run,
    RunStatus,
    SearchError,
    SearchMissing,
    Sweep,
)
from sweepstate.core.events import RunCreated, SearchCompleted, SweepStatusChanged
from tests.support import tables
from tests.support.world import STATUSES, Clock, Points, everything, make, reach

ENDED_STATUSES = ("STOPPED", "CANCELLED", "FINISHED", "FAILED")


# --- in this order ---------------------------------------------------------------------------------


def test_the_same_request_gets_the_same_run() -> None:
    """1. Asking again after a lost reply gives the same run, begun or not, and changes nothing."""
    world = make()
    run = world.take("ada", "r1")
    before = everything(world.sweep)
    assert world.take("ada", "r1") == run
    assert everything(world.sweep) == before
    run.start()
    assert world.take("ada", "r1").status == "RUNNING"
    assert world.take("bob", "r1").index == 1, "a request is its agent's own"
    assert world.take("ada", "r2").index == 2
    assert world.take("ada").index == 3, "without an id every request is a new one"


@pytest.mark.parametrize("status", ["PAUSED", "CRASHED", "STOPPED", "FAILED"])
def test_the_same_request_gets_its_run_whatever_the_sweep_does(status: str) -> None:
    """1. comes before 2.: a worker whose reply was lost does not leave its run behind when the sweep is ended."""
    world = make()
    run = world.take("ada", "r1")
    run.start()
    STATUSES[status](world.sweep)
    assert world.take("ada", "r1") == run
    run.finish()
    assert isinstance(world.sweep.next_run("ada", "r1"), Idle), "its lease is over"


def test_a_request_id_is_free_again_when_its_lease_is_over() -> None:
    """1. speaks of the run's current lease only."""
    world = make()
    world.take("ada", "r1").finish()
    assert world.take("ada", "r1").index == 1
    world.sweep[1].release()
    assert world.take("ada", "r1").attempt == 2


@pytest.mark.parametrize(
    ("status", "reason"),
    [("PAUSED", IdleReason.PAUSED), ("CRASHED", IdleReason.INTERRUPTED)]
    + [(status, IdleReason.ENDED) for status in ENDED_STATUSES],
)
def test_a_sweep_that_is_not_running_hands_out_nothing(status: str, reason: IdleReason) -> None:
    """2. Only ENDED is final; what is queued waits, and the search is not asked."""
    rows = [row for row in tables.REACHABLE[status] if row == "PENDING, queued"]
    world, _ = reach(status, *rows)
    asked = list(world.search.asked)
    before = everything(world.sweep)
    assert world.idle() is reason
    assert everything(world.sweep) == before
    assert world.search.asked == asked


def test_draining_comes_before_at_capacity() -> None:
    """3. before 4.: when the search is complete, waiting for a slot would be in vain."""
    world = make(Limits(max_active=1), size=1)
    run = world.begin()
    assert world.idle() is IdleReason.DRAINING
    run.fail()
    assert world.sweep.status == "FINISHED"
    assert world.idle() is IdleReason.ENDED


def test_draining_is_not_final() -> None:
    """3. A run may still come back, and then it is handed out."""
    world = make(size=1)
    run = world.take()
    assert world.idle() is IdleReason.DRAINING
    run.release()
    assert world.take().attempt == 2


def test_a_queued_run_whose_older_attempt_still_executes_cannot_be_handed_out() -> None:
    """3. It is no reason to say anything but DRAINING, and without an end in sight a new run is created."""
    world = make(size=2)
    run = world.begin()
    run.kill()
    run.retry()
    assert world.rows() == ["PENDING, queued"]
    assert world.take().index == 1
    assert world.idle() is IdleReason.DRAINING
    run.gone()
    assert (world.take().index, world.state(0).attempt) == (0, 2)


def test_all_slots_are_taken() -> None:
    """4. before 5.: a queued run does not take a slot that is not there."""
    world = make(Limits(max_active=2))
    one, two = world.begin(), world.take()
    assert world.idle() is IdleReason.AT_CAPACITY
    two.release()
    world.take()
    assert world.idle() is IdleReason.AT_CAPACITY
    one.kill()
    assert world.idle() is IdleReason.AT_CAPACITY, "what is being killed takes its slot until it is gone"
    one.gone()
    world.take()


def test_queued_runs_come_first_and_by_index() -> None:
    """5. before 6. before 7.: queued, backlog, new; each by index."""
    world = make()
    runs = [world.begin() for _ in range(6)]
    for index in (5, 1, 3):
        runs[index].fail()
    world.sweep.retry({RunStatus.FAILED})
    for index in (4, 0):
        runs[index].mark_preempting()
        runs[index].crash()
    assert [world.take().index for _ in range(6)] == [0, 4, 1, 3, 5, 6]


def test_the_search_is_asked_last_and_in_order() -> None:
    """7. The index, the configuration and the search's cursor move in one commit."""
    world = make()
    assert [world.take().config["x"] for _ in range(3)] == [0, 1, 2]
    assert world.search.asked == [0, 1, 2]
    (event,) = [event for event in world.sweep.history() if isinstance(event, RunCreated) and event.index == 2]
    assert event.version == 4


def test_an_exhausted_search_ends_a_drained_sweep_in_the_same_commit() -> None:
    """8. ENDED, if that finished the sweep; it is not asked again."""
    world = make()
    world.take().finish()
    world.search.exhausted = True
    version = world.sweep.state.version
    assert world.idle() is IdleReason.ENDED
    assert (world.sweep.status, world.sweep.state.version) == ("FINISHED", version + 1)
    asked = list(world.search.asked)
    assert world.idle() is IdleReason.ENDED
    assert world.search.asked == asked


def test_an_exhausted_search_with_active_runs_is_draining() -> None:
    """8. DRAINING, if runs are active; the last of them finishes the sweep with its own end."""
    world = make()
    one, two = world.begin(), world.begin()
    world.search.exhausted = True
    assert world.idle() is IdleReason.DRAINING
    assert world.sweep.state.exhausted
    world.search.exhausted = False
    assert world.idle() is IdleReason.DRAINING, "what it answered stays true"
    one.finish()
    assert world.sweep.status == "RUNNING"
    events = two.fail()
    assert [type(event).__name__ for event in events] == ["RunEnded", "SweepStatusChanged"]
    assert world.sweep.refresh().status == "FINISHED"


def test_a_search_that_waits() -> None:
    """9. WAITING while runs are active; STALLED when nothing is, so that nobody waits for ever."""
    world = make()
    run = world.take()
    world.search.waiting = True
    before = everything(world.sweep)
    assert world.idle() is IdleReason.WAITING
    run.start()
    assert world.idle() is IdleReason.WAITING
    run.finish()
    assert world.idle() is IdleReason.STALLED
    world.search.waiting = False
    assert world.take().index == 1
    assert before != everything(world.sweep)


def test_waiting_changes_nothing() -> None:
    """9. An answer of Wait is no event."""
    world = make()
    world.search.waiting = True
    before = everything(world.sweep)
    assert world.idle() is IdleReason.STALLED
    assert everything(world.sweep) == before


def test_an_idle_is_falsy_and_says_why() -> None:
    """``while run := sweep.next_run()`` ends, and the reason can be shown."""
    world = make(size=0)
    idle = world.sweep.next_run()
    assert isinstance(idle, Idle)
    assert not any([idle])
    assert str(idle) == "ended"
    assert idle == Idle(IdleReason.ENDED)


def test_every_reason_is_tested_here() -> None:
    """The reasons of the page: PAUSED, INTERRUPTED, ENDED, DRAINING, AT_CAPACITY, WAITING, STALLED."""
    assert {reason.name for reason in IdleReason} == {
        "PAUSED",
        "INTERRUPTED",
        "ENDED",
        "DRAINING",
        "AT_CAPACITY",
        "WAITING",
        "STALLED",
    }


# --- when the search is complete ----------------------------------------------------------------------


def test_run_cap_is_exact_and_derived() -> None:
    """run_cap counts created runs; a requeue is not a new one, and raising the cap undoes that it is complete."""
    world = make(Limits(run_cap=2, retries=1))
    world.begin().fail()
    assert world.take().attempt == 2
    world.take()
    assert world.idle() is IdleReason.DRAINING
    assert world.sweep.refresh().state.complete
    world.sweep.set_limits(run_cap=3)
    assert not world.sweep.refresh().state.complete
    assert world.take().index == 2
    assert not [event for event in world.sweep.history() if isinstance(event, SearchCompleted)]


def test_a_search_that_knows_its_size_is_complete_with_its_last_point() -> None:
    """Nobody has to ask once more to find out (W&B sweeps hang in "running" for that reason)."""
    world = make(size=2)
    one, two = world.begin(), world.begin()
    assert world.sweep.refresh().state.complete
    one.finish()
    two.finish()
    assert world.sweep.refresh().status == "FINISHED"
    assert world.search.asked == [0, 1]


def test_a_search_without_points_is_finished_as_it_is_created() -> None:
    """Evaluated in every commit, and so in the first: nothing to propose is ENDED, not an error."""
    world = make(size=0)
    assert world.sweep.status == "FINISHED"
    assert world.sweep.state.version == 1
    assert world.idle() is IdleReason.ENDED


@pytest.mark.parametrize("status", ["RUNNING", "PAUSED", "CRASHED"])
def test_complete_is_accepted_while_it_can_go_on(status: str) -> None:
    """A declaration withdraws what is queued and drops the backlog; what is held or executing goes on."""
    world, runs = reach(status, "PENDING, queued", "PENDING, held", "RUNNING", "FAILED")
    world.sweep.retry({RunStatus.FAILED})
    world.sweep.complete("enough", actor="ada")
    assert world.sweep.state.backlog == ()
    rows = {row: world.state(run.index) for row, run in runs.items()}
    assert (rows["PENDING, queued"].status, rows["PENDING, queued"].cause) == ("KILLED", "withdrawn")
    assert rows["PENDING, held"].row == "PENDING, held"
    assert rows["RUNNING"].row == "RUNNING"
    before = everything(world.sweep)
    assert world.sweep.complete() == ()
    assert everything(world.sweep) == before


@pytest.mark.parametrize("status", ["STOPPED", "CANCELLED", "FAILED"])
def test_complete_is_refused_after_another_end(status: str) -> None:
    """It proposes nothing any more as it is."""
    world, _ = reach(status)
    before = everything(world.sweep)
    with pytest.raises(IllegalTransition) as caught:
        world.sweep.complete()
    assert caught.value.asked == "complete"
    assert everything(world.sweep) == before


@pytest.mark.parametrize("status", ["STOPPED", "CANCELLED", "FAILED", "FINISHED"])
def test_complete_is_nothing_to_do_when_it_was_declared(status: str) -> None:
    """`=` when it was declared already or the sweep is FINISHED."""
    world = make()
    world.begin()
    world.sweep.complete()
    if status == "FINISHED":
        world.sweep[0].finish()
    else:
        STATUSES[status](world.sweep)
    assert world.sweep.refresh().status == status
    before = everything(world.sweep)
    assert world.sweep.complete() == ()
    assert everything(world.sweep) == before


def test_after_a_declaration_nothing_is_requeued() -> None:
    """A preempted or released run is KILLED, withdrawn, a retry refused, and a retry by limit not made."""
    world = make(Limits(retries=3))
    held, preempted, failing, killed = world.take(), world.begin(), world.begin(), world.begin()
    killed.kill()
    world.sweep.complete()
    with pytest.raises(IllegalTransition):
        killed.retry()
    with pytest.raises(IllegalTransition):
        world.sweep.retry({RunStatus.KILLED})
    held.release()
    preempted.mark_preempting()
    preempted.crash()
    failing.fail()
    causes = [(run.status, run.cause) for run in world.sweep.runs()]
    assert causes == [("KILLED", "withdrawn"), ("KILLED", "withdrawn"), ("FAILED", "error"), ("KILLED", "killed")]
    assert world.sweep.refresh().status == "FINISHED"


def test_a_paused_sweep_waits_and_is_evaluated_in_the_commit_that_resumes_it() -> None:
    """PAUSED stays PAUSED when its last run ends; resume is FINISHED at once."""
    world = make(size=1)
    run = world.begin()
    world.sweep.pause()
    run.finish()
    assert world.sweep.refresh().status == "PAUSED"
    version = world.sweep.state.version
    events = world.sweep.resume()
    moved = [event.status for event in events if isinstance(event, SweepStatusChanged)]
    assert moved == ["RUNNING", "FINISHED"]
    assert world.sweep.state.version == version + 1


@pytest.mark.parametrize("end", ["finish", "fail", "crash", "kill", "stop", "gone", "interrupt"])
def test_the_last_runs_end_finishes_the_sweep(end: str) -> None:
    """Completion is evaluated in every commit, never only when an agent happens to ask."""
    world = make(Limits(run_cap=1))
    run = world.begin()
    getattr(run, end)()
    if end == "stop":
        world.pass_by(30.0)
    assert world.sweep.refresh().status == "FINISHED"


def test_an_agent_may_give_a_run_back_before_it_has_begun() -> None:
    """Released: queued again, as the next attempt; begun, it is refused."""
    world = make()
    run = world.take()
    run.release()
    assert world.rows() == ["PENDING, queued"]
    again = world.begin()
    before = everything(world.sweep)
    with pytest.raises(IllegalTransition) as caught:
        again.release()
    assert caught.value.asked == "release"
    assert everything(world.sweep) == before
    assert run.release() == (), "of an older attempt there is nothing to give back"


# --- the search and the world around it ------------------------------------------------------------


def test_a_search_that_raises_is_a_search_error_and_commits_nothing() -> None:
    """The error names the index and the cause."""
    world = make()
    before = everything(world.sweep)
    world.search.propose = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
    with pytest.raises(SearchError) as caught:
        world.sweep.next_run()
    assert caught.value.index == 0
    assert "ZeroDivisionError" in caught.value.problem
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert everything(world.sweep) == before


@pytest.mark.parametrize("answer", [None, [("x", 1)], {"x": object()}, {1: 2}, "x"])
def test_a_search_that_proposes_nonsense_is_a_search_error(answer: Any) -> None:
    """What cannot be stored is refused before anything is committed."""
    world = make()
    before = everything(world.sweep)
    world.search.propose = lambda *_: answer  # type: ignore[method-assign]
    with pytest.raises(SearchError):
        world.sweep.next_run()
    assert everything(world.sweep) == before


def test_without_a_search_everything_works_but_creating() -> None:
    """A handle that was opened without the search hands out what is queued, and says what is missing for more."""
    world, runs = reach("RUNNING", "PENDING, queued")
    opened = Sweep.open("s", storage=world.storage, clock=world.clock)
    assert opened.next_run() == Run(opened._shell, runs["PENDING, queued"].state, 2)
    before = everything(world.sweep)
    with pytest.raises(SearchMissing):
        opened.next_run()
    assert everything(world.sweep) == before
    opened.pause()


def test_a_proposal_that_met_a_conflict_is_used_again() -> None:
    """As long as its index is free the search is not asked a second time."""
    world = make()
    world.storage.conflicts = 5
    assert world.take().config == {"x": 0}
    assert world.search.asked == [0]
    assert world.search.discarded == []


def test_a_proposal_whose_index_was_taken_is_discarded() -> None:
    """The search hears of it, and proposes for the next index."""
    world = make()
    other = Sweep.open("s", storage=world.storage, search=Points(), clock=world.clock)
    world.storage.foreign = other.next_run
    assert world.take().config == {"x": 1}
    assert world.search.asked == [0, 1]
    assert world.search.discarded == [0]


def test_handing_out_gives_up_after_64_conflicts_and_changes_nothing() -> None:
    """Every other command is decided again until it succeeds."""
    world = make()
    before = everything(world.sweep)
    world.storage.conflicts = 64
    with pytest.raises(Conflict):
        world.sweep.next_run()
    assert everything(world.sweep) == before
    assert world.search.discarded == [0]
    world.storage.conflicts = 63
    world.take()
    world.storage.conflicts = 500
    world.sweep.pause()
    assert world.sweep.status == "PAUSED"


@pytest.mark.parametrize("request_id", [7, b"r", "x" * 1_001, "\ud800"])
def test_a_request_id_that_cannot_be_stored_is_refused(request_id: Any) -> None:
    """So is an agent's name; nothing changes."""
    world = make()
    before = everything(world.sweep)
    with pytest.raises(InvalidValue) as caught:
        world.sweep.next_run("ada", request_id)
    assert caught.value.field == "request_id"
    with pytest.raises(InvalidValue) as caught:
        world.sweep.next_run(request_id)
    assert caught.value.field == "agent"
    assert everything(world.sweep) == before


def test_agents_that_ask_at_once_get_every_point_exactly_once() -> None:
    """No configuration is handed out twice and none is lost, whatever number of agents ask at once."""
    storage, clock = MemoryStorage(), Clock()
    Sweep(Points(200), id="s", storage=storage, clock=clock)
    got: list[int] = []

    def work(name: str) -> None:
        sweep = Sweep.open("s", storage=storage, search=Points(200), clock=clock)
        while run := sweep.next_run(name):
            assert isinstance(run, Run)
            run.start()
            got.append(run.config["x"])
            run.finish()

    threads = [Thread(target=work, args=(f"w{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(got) == Counter(range(200))
    assert storage.sweep("s").status == "FINISHED"


@given(
    size=st.integers(0, 12),
    cap=st.none() | st.integers(1, 12),
    slots=st.none() | st.integers(1, 4),
    script=st.lists(st.sampled_from(["ask", "ask", "finish", "fail", "release", "kill", "preempt", "gone", "repeat"])),
)
def test_creation_never_exceeds_the_cap_nor_slots_their_number(
    size: int, cap: int | None, slots: int | None, script: list[str]
) -> None:
    """Laws 1, 3 and 4 under any order of asking and ending; every point is created once, in order."""
    world = make(Limits(run_cap=cap, max_active=slots), size=size)
    runs: list[Run] = []
    for number, step in enumerate(script):
        if step == "ask":
            answer = world.sweep.next_run("ada", f"r{number}")
            if isinstance(answer, Run):
                runs.append(answer)
        elif step == "repeat" and runs and runs[-1].refresh().state.held and not runs[-1].ended:
            lease = runs[-1].state.lease
            assert lease is not None
            assert world.sweep.next_run("ada", lease.request_id) == runs[-1]
        elif runs and step != "repeat":
            run = runs.pop(number % len(runs))
            if step == "preempt":
                run.mark_preempting()
                run.crash()
            elif step != "release" or run.refresh().state.row == "PENDING, held":
                getattr(run, step)()
        state = world.sweep.refresh().state
        least = min(size, size if cap is None else cap)
        assert state.created <= least
        assert slots is None or state.leased <= slots
        assert (state.status == "FINISHED") == (state.created == least and state.drained)
    assert [run.config["x"] for run in world.sweep.runs()] == list(range(world.sweep.state.created))


def test_the_target_ends_the_search_like_a_declaration() -> None:
    """What is queued is withdrawn, the backlog dropped, and held runs may go on."""
    world = make(objective=Objective("loss", target=0.1))
    held, winner, failed, queued = world.take(), world.begin(), world.begin(), world.take()
    failed.fail()
    queued.release()
    world.sweep.retry({RunStatus.FAILED})
    winner.finish(loss=0.05)
    assert world.sweep.refresh().state.completed == "target"
    assert world.sweep.state.backlog == ()
    assert world.rows() == ["PENDING, held", "FINISHED", "FAILED", "KILLED"]
    assert world.idle() is IdleReason.DRAINING
    held.finish()
    assert world.sweep.refresh().status == "FINISHED"


def test_exhausted_is_a_value() -> None:
    """A search may answer with any Exhausted."""
    assert Exhausted() == Exhausted()
