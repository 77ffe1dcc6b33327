"""The checks of the laws can fail: each law is broken here in a few ways, and found out as that law.

A storage knows no rule of the lifecycle, so a forged decision can commit anything.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

from sweepstate import Grid, Limits, MemoryStorage, Objective, Run, RunStatus, Sweep
from sweepstate.core import events as ev
from sweepstate.core.decide import Change, Draft
from sweepstate.core.evolve import Snapshots, replay
from sweepstate.core.lifecycle import SweepTrigger
from sweepstate.core.questions import ByIndex, Exhausted, RunQuery
from sweepstate.core.state import RunState, SweepState, changed
from sweepstate.core.status import Cause, SweepStatus
from sweepstate.core.values import EMPTY
from sweepstate.testing import LAWS, LawViolation, ManualClock, check_commit, check_laws, check_state

pytestmark = pytest.mark.breaks_storage


def claimed(sweep: Sweep) -> Run:
    run = sweep.next_run()
    assert isinstance(run, Run)
    return run


def eventful() -> Sweep:
    """0 is finished, 1 failed, 2 killed and still leased, 3 running, 4 queued as attempt 2."""
    clock = ManualClock(1000.0)
    limits = Limits(run_cap=6, max_active=4, max_preemptions=1)
    sweep = Sweep(Grid({"x": range(9)}), id="s", limits=limits, objective=Objective("loss"), clock=clock)
    first, second = claimed(sweep), claimed(sweep)
    first.start("here")
    first.finish(loss=2.0)
    second.start()
    second.fail("no memory")
    third, fourth = claimed(sweep), claimed(sweep)
    third.start(heartbeats=True)
    third.kill()
    third.finish(loss=0.0)
    fifth = claimed(sweep)
    fifth.release()
    third.retry()
    claimed(sweep).start()
    sweep[2].kill()
    fourth.start(heartbeats=True)
    clock.advance(5)
    sweep.pause()
    sweep.resume()
    return sweep


def runs_of(sweep: Sweep) -> list[RunState]:
    return list(sweep.storage.runs("s", ByIndex(), limit=100))


def forge(sweep: Sweep, forgery: Callable[[Draft, list[Any]], object], **written: Any) -> Change:
    """Commit what no decision would; ``written`` replaces fields of the sweep's snapshot behind the events' back."""
    draft = Draft(sweep.storage.sweep("s"), sweep.storage.sweep("s").at)
    runs = [draft._own(run) for run in runs_of(sweep)]
    forgery(draft, runs)
    change = draft.change()
    assert change is not None
    if written:
        change = attrs.evolve(change, sweep=changed(change.sweep, **written))
    before = snapshots(sweep)
    sweep.storage.commit(change)
    with pytest.raises(LawViolation):
        check_commit(before, change)
    return change


def snapshots(sweep: Sweep) -> Snapshots:
    return Snapshots(sweep.storage.sweep("s"), {run.index: run for run in runs_of(sweep)})


def broken(sweep: Sweep) -> int:
    """Return which law the storage's content breaks."""
    with pytest.raises(LawViolation) as caught:
        check_laws(sweep.storage, "s")
    assert str(caught.value).startswith(f"law {caught.value.law} is broken: {LAWS[caught.value.law]}")
    return caught.value.law


def test_a_history_that_the_library_made_keeps_all_laws() -> None:
    sweep = eventful()
    check_laws(sweep.storage, "s")
    sweep.cancel()
    sweep.reopen(retry={RunStatus.FAILED})
    sweep.execute(lambda _run: {"loss": 1.0})
    check_laws(sweep.storage, "s")


def test_a_sweep_without_points_is_finished_in_the_commit_that_creates_it() -> None:
    class Nothing:
        size = 0

        def propose(self, _index: int, _history: object) -> Exhausted:
            return Exhausted()

    sweep = Sweep(Nothing(), id="s")
    assert sweep.status is SweepStatus.FINISHED
    check_laws(sweep.storage, "s")


@pytest.mark.parametrize("status", [SweepStatus.FINISHED, SweepStatus.PAUSED])
def test_law_4_a_new_sweep_is_neither_running_nor_complete(status: SweepStatus) -> None:
    created = ev.SweepCreated(1, 1, 0.0, None, None, "s", None, None, Limits(), None)
    moved = ev.SweepStatusChanged(2, 1, 0.0, None, None, SweepTrigger.PAUSE, status)
    with pytest.raises(LawViolation) as caught:
        check_commit(None, Change("s", 0, replay([created, moved]).sweep, (), (created, moved)))
    assert caught.value.law == 4


def test_law_10_creating_a_sweep_does_something_else_too() -> None:
    created = ev.SweepCreated(1, 1, 0.0, None, None, "s", None, None, Limits(), None)
    other = ev.LimitsChanged(2, 1, 0.0, None, None, Limits())
    with pytest.raises(LawViolation) as caught:
        check_commit(None, Change("s", 0, replay([created, other]).sweep, (), (created, other)))
    assert caught.value.law == 10


def test_metrics_that_no_float_can_hold_are_ranked() -> None:
    sweep = Sweep(Grid({"x": [1, 2, 3]}), id="s", objective=Objective("loss"))
    for value in (10**400, float("nan"), 10**399):
        run = claimed(sweep)
        run.start()
        run.finish(loss=value)
    assert sweep.best == sweep[2]
    check_laws(sweep.storage, "s")


def test_every_law_has_its_text() -> None:
    assert list(LAWS) == list(range(1, 13))


def test_a_violation_names_the_law_shows_the_evidence_and_pickles() -> None:
    violation = LawViolation(3, "four of three", ("pause", "resume"))
    assert (
        str(violation) == f"law 3 is broken: {LAWS[3]}\n  found: four of three\n  after:\n    1. pause\n    2. resume"
    )
    again = pickle.loads(pickle.dumps(violation))
    assert (again.law, again.text, again.evidence, again.trace) == (3, LAWS[3], "four of three", ("pause", "resume"))


# --- forged decisions, by law --------------------------------------------------------------------


def test_law_1_a_paused_sweep_creates_a_run() -> None:
    sweep = eventful()
    sweep.pause()
    forge(sweep, lambda draft, _: draft.create(EMPTY, "a", None, attached=False))
    assert broken(sweep) == 1


def test_law_1_a_paused_sweep_hands_out_a_queued_run() -> None:
    sweep = eventful()
    sweep.pause()
    forge(sweep, lambda draft, runs: hand_out(draft, runs[4]))
    assert broken(sweep) == 1


@pytest.mark.parametrize(
    "name", ["pending", "running", "finished", "failed", "crashed", "killed", "leased", "rule_ended"]
)
def test_law_2_a_count_is_off_by_one(name: str) -> None:
    sweep = eventful()
    wrong = getattr(sweep.storage.sweep("s"), name) + 1
    forge(sweep, lambda draft, _: draft.note(ev.LimitsChanged, Limits()), **{name: wrong})
    assert broken(sweep) == 2


@pytest.mark.parametrize(("index", "value"), [(3, 2.0), (0, 1.0), (None, None)])
def test_law_2_the_best_run_is_another(index: int | None, value: float | None) -> None:
    sweep = eventful()
    forge(sweep, lambda draft, _: draft.note(ev.LimitsChanged, Limits()), best_index=index, best_value=value)
    assert broken(sweep) == 2


def test_law_2_there_is_a_best_run_without_an_objective() -> None:
    state = SweepState(id="s", version=1, best_index=0)
    with pytest.raises(LawViolation, match="the best run") as caught:
        check_state(state, [])
    assert caught.value.law == 2


def test_law_2_runs_are_missing_or_out_of_order() -> None:
    sweep = eventful()
    state, runs = sweep.storage.sweep("s"), runs_of(sweep)
    for wrong in (runs[:-1], runs[::-1]):
        with pytest.raises(LawViolation) as caught:
            check_state(state, wrong)
        assert caught.value.law == 2


def test_law_3_more_runs_than_run_cap() -> None:
    sweep = eventful()
    sweep[3].finish()
    sweep.set_limits(run_cap=sweep.storage.sweep("s").created)
    check_laws(sweep.storage, "s")
    forge(sweep, lambda draft, _: draft.create(EMPTY, "a", None, attached=False))
    assert broken(sweep) == 3


def test_law_3_more_slots_than_max_active() -> None:
    sweep = eventful()
    sweep.set_limits(max_active=sweep.storage.sweep("s").leased)
    forge(sweep, lambda draft, runs: hand_out(draft, runs[4]))
    assert broken(sweep) == 3


def finish(draft: Draft, _runs: object) -> None:
    draft.note(ev.SweepStatusChanged, SweepTrigger.FINISH, SweepStatus.FINISHED)


def test_law_4_finished_while_a_run_is_active() -> None:
    sweep = eventful()
    sweep.set_limits(run_cap=1)
    forge(sweep, finish)
    assert broken(sweep) == 4


def test_law_4_finished_while_the_search_is_not_complete() -> None:
    sweep = Sweep(Grid({"x": [1, 2]}), id="s")
    forge(sweep, finish)
    assert broken(sweep) == 4


def test_law_4_finished_with_a_backlog() -> None:
    sweep = Sweep(Grid({"x": [1, 2]}), id="s")
    claimed(sweep).fail()
    sweep.retry({RunStatus.FAILED})
    sweep.pause()
    sweep.set_limits(run_cap=1)
    forge(sweep, finish)
    assert broken(sweep) == 4


def test_law_5_cancelled_with_an_active_run() -> None:
    sweep = eventful()
    forge(sweep, lambda draft, _: draft.note(ev.SweepStatusChanged, SweepTrigger.CANCEL, SweepStatus.CANCELLED))
    assert broken(sweep) == 5


@pytest.mark.parametrize("index", [1, 3])
def test_law_5_a_run_of_a_cancelled_sweep_is_queued_again(index: int) -> None:
    sweep = eventful()
    sweep.cancel()
    forge(sweep, lambda draft, runs: requeue(draft, runs[index]))
    assert broken(sweep) == 5


def hand_out(draft: Draft, run: RunState) -> None:
    draft.record(ev.RunHandedOut, run, run.attempt, "a", None, False)


def requeue(draft: Draft, run: RunState, attempt: int | None = None) -> None:
    attempt = run.attempt + 1 if attempt is None else attempt
    draft.record(ev.RunRequeued, run, attempt, ev.Requeue.PERSON, ev.Fate.KEPT)


def ended(draft: Draft, run: RunState, status: RunStatus, attempt: int | None = None) -> None:
    attempt = run.attempt if attempt is None else attempt
    draft.record(ev.RunEnded, run, attempt, status, Cause.ERROR, ev.Fate.GONE, False)


def test_law_5_a_run_of_a_cancelled_sweep_gets_another_verdict() -> None:
    sweep = eventful()
    sweep.cancel()
    forge(sweep, lambda draft, runs: ended(draft, runs[3], RunStatus.FINISHED))
    assert broken(sweep) == 5


def test_law_6_a_snapshot_says_what_no_event_does() -> None:
    sweep = eventful()
    forge(sweep, lambda draft, _: draft.note(ev.LimitsChanged, Limits()), exhausted=True)
    assert broken(sweep) == 6


def test_law_6_a_run_says_what_no_event_does() -> None:
    sweep = eventful()

    def meddle(draft: Draft, runs: list[Any]) -> None:
        draft.record(ev.DeadlineMoved, runs[3], 1)
        runs[3].__dict__.update(message="?")

    forge(sweep, meddle)
    assert broken(sweep) == 6


def test_law_6_time_runs_backwards() -> None:
    sweep = eventful()

    def earlier(draft: Draft, _runs: object) -> None:
        draft.at -= 1.0
        draft.note(ev.LimitsChanged, Limits())

    forge(sweep, earlier)
    assert broken(sweep) == 6


def test_law_6_an_event_is_missing() -> None:
    sweep = eventful()
    for missing in range(1, sweep.storage.sweep("s").events + 1):
        with pytest.raises(LawViolation) as caught:
            check_laws(without(sweep, missing), "s")
        assert caught.value.law == 6


def without(sweep: Sweep, number: int) -> Faulty:
    return Faulty(sweep.storage, events=lambda events: [event for event in events if event.number != number])


def test_law_6_a_version_is_missing() -> None:
    sweep = eventful()

    def skipped(events: Sequence[ev.Event]) -> list[ev.Event]:
        return [attrs.evolve(event, version=event.version + (event.version > 3)) for event in events]

    with pytest.raises(LawViolation) as caught:
        check_laws(Faulty(sweep.storage, events=skipped), "s")
    assert caught.value.law == 6


def test_law_6_there_is_no_history_or_the_runs_are_not_its_runs() -> None:
    sweep = eventful()
    with pytest.raises(LawViolation, match="no history"):
        check_laws(Faulty(sweep.storage, events=lambda _events: []), "s")
    with pytest.raises(LawViolation) as caught:
        check_laws(Faulty(sweep.storage, runs=lambda runs: [changed(run, config=EMPTY) for run in runs]), "s")
    assert caught.value.law == 6


def test_law_8_a_run_is_handed_out_while_an_older_attempt_executes() -> None:
    sweep = eventful()
    sweep[2].retry()
    forge(sweep, lambda draft, runs: hand_out(draft, runs[2]))
    assert broken(sweep) == 8


def test_law_8_an_older_attempt_gives_the_verdict() -> None:
    sweep = eventful()
    forge(sweep, lambda draft, runs: ended(draft, runs[4], RunStatus.FINISHED, runs[4].attempt - 1))
    assert broken(sweep) == 8


@pytest.mark.parametrize("step", [0, -1, 2])
def test_law_8_an_attempt_does_not_rise_by_one(step: int) -> None:
    sweep = eventful()
    forge(sweep, lambda draft, runs: requeue(draft, runs[1], runs[1].attempt + step))
    assert broken(sweep) == 8


def test_law_8_a_stranger_ends_the_lease_of_an_executing_run() -> None:
    sweep = eventful()
    forge(sweep, lambda draft, runs: draft.record(ev.LeaseEnded, runs[3], 1, ev.Fate.GONE))
    assert broken(sweep) == 8


def test_law_8_an_attempt_begins_that_nobody_has() -> None:
    sweep = eventful()

    def started(draft: Draft, runs: list[Any]) -> None:
        runs[4].__dict__["lease"] = runs[3].lease  # so that the event can be applied at all
        draft.record(ev.RunStarted, runs[4], 2, None, False)

    forge(sweep, started)
    assert broken(sweep) == 8


def test_law_9_a_finished_run_is_queued_again() -> None:
    sweep = eventful()
    forge(sweep, lambda draft, runs: requeue(draft, runs[0]))
    assert broken(sweep) == 9


@pytest.mark.parametrize(("index", "status"), [(0, RunStatus.FAILED), (1, RunStatus.FINISHED), (2, RunStatus.CRASHED)])
def test_law_9_a_verdict_is_given_twice(index: int, status: RunStatus) -> None:
    sweep = eventful()
    forge(sweep, lambda draft, runs: ended(draft, runs[index], status))
    assert broken(sweep) == 9


def test_law_9_a_verdict_changes_without_an_event_that_may() -> None:
    sweep = eventful()
    before = snapshots(sweep)
    for index, fields in ((0, {"message": "?"}), (1, {"status": RunStatus.KILLED}), (3, {"config": EMPTY})):
        run = before.runs[index]
        draft = Draft(before.sweep, before.sweep.at)
        draft.record(ev.DeadlineMoved, draft._own(run), run.attempt)
        change = draft.change()
        assert change is not None
        with pytest.raises(LawViolation) as caught:
            check_commit(before, attrs.evolve(change, runs=(changed(change.runs[0], **fields),)))
        assert caught.value.law == 9


def test_law_10_a_commit_touches_two_runs_that_are_over() -> None:
    sweep = eventful()
    sweep[3].fail()

    def requeue_both(draft: Draft, runs: list[Any]) -> None:
        requeue(draft, runs[1])
        requeue(draft, runs[3])

    forge(sweep, requeue_both)
    assert broken(sweep) == 10


def test_law_10_a_commit_is_written_in_part() -> None:
    sweep = eventful()
    draft = Draft(sweep.storage.sweep("s"), 2000.0)
    runs = [draft._own(run) for run in runs_of(sweep)]
    requeue(draft, runs[1])
    change = draft.change()
    assert change is not None
    for wrong in ((), (runs[1], runs[1]), (runs[0], runs[1])):
        with pytest.raises(LawViolation) as caught:
            check_commit(snapshots(sweep), attrs.evolve(change, runs=wrong))
        assert caught.value.law == 10


def test_law_10_a_page_of_history_ends_within_a_commit() -> None:
    sweep = eventful()
    sweep.cancel()
    last = sweep.storage.sweep("s").events

    class Torn(Faulty):
        def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[ev.Event]:
            page = super().events(sweep_id, after=after, limit=limit)
            return [event for event in page if event.number < last] or page

    with pytest.raises(LawViolation) as caught:
        check_laws(Torn(sweep.storage), "s")
    assert caught.value.law == 10


def test_a_commit_is_checked_without_its_storage() -> None:
    sweep = eventful()
    draft = Draft(sweep.storage.sweep("s"), 2000.0)
    draft.note(ev.LimitsChanged, Limits())
    change = draft.change()
    assert change is not None
    check_commit(snapshots(sweep), change)
    for wrong in ({"events": ()}, {"version": 3}):
        with pytest.raises(LawViolation) as caught:
            check_commit(snapshots(sweep), attrs.evolve(change, **wrong))
        assert caught.value.law == 6


def test_leases_are_checked_in_a_single_version() -> None:
    sweep = eventful()
    state = sweep.storage.sweep("s")
    for index, fields in (
        (3, {"lease": None}),
        (3, {"attempt": 2}),
        (2, {"attempt": 1}),
        (4, {"lease": changed(lease_of(sweep, 3), attempt=2)}),
        (1, {"lease": lease_of(sweep, 3)}),
    ):
        runs = runs_of(sweep)
        runs[index] = changed(runs[index], **fields)
        with pytest.raises(LawViolation) as caught:
            check_state(state, runs)
        assert caught.value.law == 8, fields


def lease_of(sweep: Sweep, index: int) -> Any:
    return runs_of(sweep)[index].lease


def test_the_example_history_replays() -> None:
    sweep = eventful()
    assert replay(sweep.history()).sweep == sweep.storage.sweep("s")


def _same(items: Any) -> Any:
    return items


class Faulty:
    """A storage that shows another history, or other runs, than were committed."""

    def __init__(
        self,
        storage: Any,
        *,
        events: Callable[[Sequence[ev.Event]], Sequence[ev.Event]] = _same,
        runs: Callable[[Sequence[RunState]], Sequence[RunState]] = _same,
    ) -> None:
        assert isinstance(storage, MemoryStorage)
        self._storage = storage
        self._events = events
        self._runs = runs

    def sweep(self, sweep_id: str) -> SweepState:
        return self._storage.sweep(sweep_id)

    def commit(self, change: Change) -> None:
        raise NotImplementedError

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        return self._runs(self._storage.runs(sweep_id, query, after=after, limit=limit))

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[ev.Event]:
        return self._events(self._storage.events(sweep_id, after=after, limit=limit))
