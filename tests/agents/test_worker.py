"""``work``: asking, executing, waiting, giving up, and what is left when it goes home. In one thread, without time."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sweepstate import (
    AlreadyStarted,
    Cause,
    Conflict,
    Exhausted,
    Flapping,
    Going,
    GoingReason,
    History,
    Idle,
    InlineAgent,
    InvalidValue,
    Limits,
    MemoryStorage,
    Objective,
    OutcomeUnknown,
    Run,
    RunStatus,
    SearchError,
    ShouldStop,
    StorageError,
    Sweep,
    SweepStatus,
    Wait,
    work,
)
from sweepstate.core import events as ev
from tests.agents.fakes import FourMethods, Shaky, World
from tests.fakes import grid, names, sweep_of, take

STATUS = RunStatus


def statuses(sweep: Sweep) -> list[RunStatus]:
    return [run.status for run in sweep.runs()]


def is_end(change: Any) -> bool:
    """Return whether a change has the end of a run in it."""
    return any(isinstance(event, ev.RunEnded) for event in change.events)


def events_of(sweep: Sweep, kind: type[Any]) -> list[Any]:
    return [event for event in sweep.history() if isinstance(event, kind)]


# --- executing -----------------------------------------------------------------------------------


def test_it_executes_everything_and_goes_home_when_the_sweep_has_ended(world: World) -> None:
    """What the function returns are the metrics, and what it has done is in the answer."""
    sweep = world.sweep(3, objective=Objective("loss"))
    going = world.work(sweep, lambda run: {"loss": run.config["x"]})
    assert going == Going(GoingReason.ENDED, "w: the sweep has ended", {STATUS.FINISHED: 3})
    assert str(going) == "w: the sweep has ended; 3 runs, 3 finished"
    assert going.runs == 3
    assert sweep.refresh().status is SweepStatus.FINISHED
    assert sweep.best is not None
    assert sweep.best.metrics == {"loss": 0}
    assert world.waited == []
    assert world.pulse.in_hand is None  # nothing beats for what has ended


def test_an_exception_fails_its_run_and_the_next_one_starts(world: World) -> None:
    """As with ``execute``; and the answer tells verdicts apart."""
    sweep = world.sweep(3)
    going = world.work(sweep, lambda run: {"y": 1 / run.config["x"]})
    assert statuses(sweep) == [STATUS.FAILED, STATUS.FINISHED, STATUS.FINISHED]
    assert going.counts == {STATUS.FAILED: 1, STATUS.FINISHED: 2}
    assert str(going).endswith("3 runs, 1 failed, 2 finished")
    assert "ZeroDivisionError" in str(sweep[0].message)


def test_every_run_is_begun_with_a_promise_of_heartbeats_by_an_execution_of_its_own(world: World) -> None:
    """Named by host and process, so that a person finds it; and never the same, so that a repeated start is known."""
    sweep = world.sweep(3)
    world.work(sweep, name=None)
    place = f"{socket.gethostname()}:{os.getpid()}"
    started = events_of(sweep, ev.RunStarted)
    assert all(event.heartbeats for event in started)
    assert all(str(event.execution).startswith(f"{place}:") for event in started)
    assert len({event.execution for event in started}) == 3
    handed = [event for event in sweep.history() if isinstance(event, ev.RunCreated)]
    assert {event.agent for event in handed} == {place}


def test_count_is_how_many_runs_it_executes_at_most(world: World) -> None:
    sweep = world.sweep(5)
    going = world.work(sweep, count=2)
    assert (going.reason, going.runs) == (GoingReason.COUNT, 2)
    assert sweep.refresh().state.created == 2


def test_a_function_may_report_its_end_itself(world: World) -> None:
    """Then nothing is added, and it counts by what it has reported."""
    sweep = world.sweep(2)

    def train(run: Run) -> None:
        if run.index:
            run.fail("no data")
        else:
            run.finish(loss=1.0)

    going = world.work(sweep, train)
    assert going.counts == {STATUS.FINISHED: 1, STATUS.FAILED: 1}
    assert events_of(sweep, ev.LateReport) == []


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), "KILLED"), (SystemExit(0), "FINISHED"), (SystemExit(3), "FAILED")]
)
def test_what_is_about_the_whole_process_goes_on_upwards_after_it_was_reported(
    world: World, error: BaseException, status: str
) -> None:
    sweep = world.sweep(3)

    def train(run: Run) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        world.work(sweep, train)
    assert raised.value is error
    assert statuses(sweep) == [status]
    assert sweep.refresh().state.leased == 0


def test_a_number_without_an_objective_is_refused_after_its_run_has_failed(world: World) -> None:
    """Every run would fail for it, so nothing more is executed."""
    sweep = world.sweep(3)
    with pytest.raises(InvalidValue, match="has no name"):
        world.work(sweep, lambda run: 1.0)
    assert statuses(sweep) == [STATUS.FAILED]


def test_an_error_of_the_search_is_raised(world: World) -> None:
    """No waiting mends it."""

    class Broken:
        size = None

        def propose(self, index: int, history: History) -> Wait:
            raise OSError("no license")

    with pytest.raises(SearchError, match="no license"):
        world.work(world.sweep(search=Broken()))


# --- waiting -------------------------------------------------------------------------------------


def test_it_waits_while_the_sweep_is_paused(world: World) -> None:
    """And goes on when somebody resumes it; each wait is longer, up to ``poll``."""
    sweep = world.sweep(2)
    sweep.pause()
    world.meanwhile = lambda number: sweep.resume() if number == 7 else None
    assert world.work(sweep).reason is GoingReason.ENDED
    assert world.waited == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0]


def test_workers_that_were_sent_away_at_once_come_back_at_different_times(world: World) -> None:
    """Each wait is shortened at random, by up to a half."""
    sweep = world.sweep(2)
    sweep.pause()
    world.meanwhile = lambda number: sweep.resume() if number == 5 else None
    drawn = iter([0.9, 0.0, 0.5, 1.0, 0.0, 0.5, 1.0])  # the first is for the tick beside runs
    world.work(sweep, poll=8.0, random=lambda: next(drawn, 0.0))
    assert world.waited == [0.5, 1.5, 4.0, 4.0, 6.0, 8.0]


def test_it_waits_while_the_sweep_is_interrupted(world: World) -> None:
    """CRASHED is not the end: somebody may resume it."""
    sweep = world.sweep(1)
    sweep.crash()
    world.meanwhile = lambda number: sweep.resume() if number == 1 else None
    assert world.work(sweep).runs == 1


def test_it_waits_for_a_slot(world: World) -> None:
    sweep = world.sweep(2, limits=Limits(max_active=1))
    other = take(sweep, "other")
    world.meanwhile = lambda number: other.finish() if number == 2 else None
    assert world.work(sweep).runs == 1
    assert len(world.waited) == 3


class Moody:
    """A search that says what it is told to."""

    size = None

    def __init__(self) -> None:
        self.mood: Any = None

    def propose(self, index: int, history: History) -> Any:
        return {"x": index} if self.mood is None else self.mood


def test_it_waits_for_the_search(world: World) -> None:
    """For as long as something is active, however long that takes."""
    search = Moody()
    sweep = world.sweep(search=search)
    other = take(sweep, "other")
    search.mood = Wait()

    def meanwhile(number: int) -> None:
        if number == 200:
            other.finish()
            search.mood = Exhausted()

    world.meanwhile = meanwhile
    assert world.work(sweep).reason is GoingReason.ENDED
    assert len(world.waited) == 201


def test_a_search_that_waits_for_nothing_is_said_and_waited_for_not_for_ever(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """STALLED: nobody may ever act, so it goes home."""
    search = Moody()
    search.mood = Wait()
    sweep = world.sweep(search=search)
    assert world.work(sweep, stalled=100.0).reason is GoingReason.STALLED
    assert 100.0 <= sum(world.waited) < 130.0
    assert caplog.text.count("although nothing is active; complete()") == 1


def test_a_stalled_search_that_goes_on_is_not_given_up(world: World) -> None:
    """The time begins anew with the next stall."""
    search = Moody()
    search.mood = Wait()
    sweep = world.sweep(search=search, limits=Limits(run_cap=2))

    def train(run: Run) -> None:
        search.mood = Wait()

    world.meanwhile = lambda number: setattr(search, "mood", None) if number in (6, 12) else None
    assert world.work(sweep, train, stalled=80.0).counts == {STATUS.FINISHED: 2}
    assert sum(world.waited) > 100.0


def test_another_reason_to_wait_begins_with_short_waits(world: World) -> None:
    """Who has waited for a resume for long does not wait long for a slot."""
    sweep = world.sweep(2, limits=Limits(max_active=1))
    other = take(sweep, "other")
    sweep.pause()

    def meanwhile(number: int) -> None:
        if number == 5:
            sweep.resume()
        elif number == 7:
            other.finish()

    world.meanwhile = meanwhile
    assert world.work(sweep).runs == 1
    assert world.waited == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 1.0, 2.0]


def test_while_it_drains_a_run_may_come_back(world: World) -> None:
    """So it waits."""
    sweep = world.sweep(1)
    other = take(sweep, "other")

    def meanwhile(number: int) -> None:
        if number == 1:
            other.mark_preempting()
            other.crash()

    world.meanwhile = meanwhile
    assert world.work(sweep).counts == {STATUS.FINISHED: 1}
    assert sweep[0].attempt == 2


def test_it_does_not_linger_if_told_so(world: World) -> None:
    sweep = world.sweep(1)
    take(sweep, "other")
    assert world.work(sweep, linger=False).reason is GoingReason.DRAINING
    assert world.waited == []


def test_waiting_workers_let_time_pass(world: World) -> None:
    """A run whose process died is found, and executed again, with nobody there but a worker that waits."""
    sweep = world.sweep(1, limits=Limits(retries={STATUS.CRASHED: 1}, heartbeat_timeout=300))
    take(sweep, "dead", start=False).start("dead", heartbeats=True)
    assert world.work(sweep).counts == {STATUS.FINISHED: 1}
    assert 360 <= sum(world.waited) < 400


# --- giving up -----------------------------------------------------------------------------------


def failing(*good: int) -> Callable[[Run], None]:
    """Return a function that fails but for some indexes."""

    def train(run: Run) -> None:
        if run.index not in good:
            raise OSError("no GPU")

    return train


def test_three_failures_in_the_first_minute_send_it_home(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """W&B's ``is_flapping``. Successes do not matter."""
    sweep = world.sweep(10)
    going = world.work(sweep, failing(1, 3))
    assert (going.reason, going.runs) == (GoingReason.FLAPPING, 5)
    assert going.message == "w: what it executes fails: 3 runs failed in the first 60 s"
    assert going.message in caplog.text
    assert sweep.refresh().status is SweepStatus.RUNNING


def slow(world: World, *good: int) -> Callable[[Run], None]:
    """Return a function that takes half a minute, and fails but for some indexes."""

    def train(run: Run) -> None:
        world.wait(30.0)
        failing(*good)(run)

    return train


def test_five_failures_with_at_most_one_success_send_it_home(world: World) -> None:
    """W&B's ``is_failing``, however long they took."""
    going = world.work(world.sweep(20), slow(world))
    assert (going.reason, going.counts) == (GoingReason.FLAPPING, {STATUS.FAILED: 5})
    going = world.work(world.sweep(20), slow(world, 4))
    assert going.counts == {STATUS.FAILED: 5, STATUS.FINISHED: 1}
    assert going.message == "w: what it executes fails: 5 runs failed, and 1 succeeded"


def test_a_worker_that_was_seen_to_work_twice_stays(world: World) -> None:
    going = world.work(world.sweep(20), slow(world, 0, 4))
    assert going.counts == {STATUS.FAILED: 18, STATUS.FINISHED: 2}


def test_flapping_can_be_told_otherwise(world: World) -> None:
    """None does not look; other numbers count as they are."""
    assert world.work(world.sweep(20), failing(), flapping=None).runs == 20
    rule = Flapping(early=None, failures=7, successes=2)
    assert world.work(world.sweep(20), failing(0, 1), flapping=rule).runs == 9
    assert world.work(world.sweep(20), failing(), flapping=Flapping(early=(1, 10.0), failures=None)).runs == 1
    assert world.work(world.sweep(20), failing(), flapping=Flapping(early=None, failures=None)).runs == 20


def test_failures_that_are_tried_again_count(world: World) -> None:
    """A bad machine must not use up the retries of all runs."""
    sweep = world.sweep(10, limits=Limits(retries=100))
    going = world.work(sweep, failing())
    assert (going.counts, going.runs) == ({STATUS.FAILED: 3}, 3)


def test_killed_and_preempted_runs_count_nowhere(world: World) -> None:
    """Somebody wanted that, or a cluster did."""
    sweep = world.sweep(10)

    def train(run: Run) -> None:
        if run.attempt == 1 and run.index % 2:
            run.mark_preempting()
        elif run.index % 2 == 0:
            sweep[run.index].stop()
        else:
            return
        raise OSError("as told")

    going = world.work(sweep, train)
    assert (going.reason, going.requeued) == (GoingReason.ENDED, 5)
    assert going.counts == {STATUS.KILLED: 5, STATUS.FINISHED: 5}
    assert "5 queued again" in str(going)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"early": 3}, "flapping.early"),
        ({"early": (0, 60)}, r"flapping.early\[0\]"),
        ({"early": (3, 0)}, r"flapping.early\[1\]"),
        ({"failures": 0}, "flapping.failures"),
        ({"successes": -1}, "flapping.successes"),
    ],
)
def test_numbers_of_flapping_are_checked(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue, match=field):
        Flapping(**wrong)


# --- a storage that fails ------------------------------------------------------------------------


def shaky(world: World, points: int = 2, **hooks: Any) -> tuple[Sweep, Shaky]:
    storage = Shaky()
    return world.sweep(points, storage=storage, **hooks), storage


def test_an_outage_is_waited_for(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It asks again, more and more rarely, and says once that it does, and once that it is over."""
    sweep, storage = shaky(world)
    until = world.now + 100
    storage.trouble = lambda method, asked: StorageError("no route to host") if world.now < until else None
    assert world.work(sweep).counts == {STATUS.FINISHED: 2}
    assert world.waited[:6] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert caplog.text.count("no route to host") == 1
    assert caplog.text.count("answers again") == 1


def test_the_next_outage_begins_with_short_waits_again(world: World) -> None:
    sweep, storage = shaky(world)
    until = [world.now + 100.0]
    storage.trouble = lambda method, asked: StorageError("away") if world.now < until[0] else None
    first: list[int] = []

    def train(run: Run) -> None:
        if run.index == 0:
            first.append(len(world.waited))
            until[0] = world.now + 10

    assert world.work(sweep, train).counts == {STATUS.FINISHED: 2}
    assert world.waited[first[0] :] == [1.0, 2.0, 4.0, 8.0]


def test_an_outage_that_lasts_longer_than_its_patience_is_raised(world: World) -> None:
    """With a note that says what was tried, and for how long."""
    sweep, storage = shaky(world)
    storage.trouble = lambda method, asked: StorageError("no route to host")
    with pytest.raises(StorageError, match="no route") as raised:
        world.work(sweep, patience=100.0)
    assert sum(world.waited) == 100.0
    assert "gave up asking for a run after 100 s" in raised.value.__notes__[0]


@pytest.mark.parametrize("error", [StorageError("away"), OutcomeUnknown("perhaps")])
def test_an_end_that_cannot_be_reported_is_reported_until_it_is(world: World, error: Exception) -> None:
    """What was computed is not lost."""
    sweep, storage = shaky(world, objective=Objective("loss"))
    failures = iter([error] * 6)
    storage.trouble = lambda method, asked: next(failures, None) if method == "commit" and is_end(asked) else None
    calls: list[int] = []

    def train(run: Run) -> float:
        calls.append(run.index)
        return 0.25

    assert world.work(sweep, train).counts == {STATUS.FINISHED: 2}
    assert calls == [0, 1]
    assert sweep[0].metrics == {"loss": 0.25}
    assert world.waited


def test_an_end_that_is_never_stored_stands_in_the_error(world: World) -> None:
    """So that a person can still write it down."""
    sweep, storage = shaky(world)
    storage.trouble = lambda method, asked: StorageError("full") if method == "commit" and is_end(asked) else None
    with pytest.raises(StorageError) as raised:
        world.work(sweep, lambda run: {"loss": 0.125}, patience=60.0)
    assert any("it returned {'loss': 0.125}" in note for note in raised.value.__notes__)
    storage.trouble = lambda method, asked: None


@pytest.mark.parametrize("what", [ev.RunCreated, ev.RunStarted, ev.RunEnded])
def test_a_reply_that_gets_lost_costs_nothing(world: World, what: type[Any]) -> None:
    """The claim, the start or the end was committed, and nobody could say so, nor look: it is asked again, safely."""
    sweep, storage = shaky(world, 3)
    lost: list[float] = []

    def trouble(method: str, asked: Any) -> Exception | None:
        if lost:
            return StorageError("away") if world.now - lost[0] < 5 else None
        if method == "committed" and any(isinstance(event, what) for event in asked.events):
            lost.append(world.now)
            return OutcomeUnknown("the connection was lost")
        return None

    storage.trouble = trouble
    seen: list[tuple[int, int]] = []
    world.work(sweep, lambda run: seen.append((run.index, run.attempt)))
    assert seen == [(0, 1), (1, 1), (2, 1)]
    assert statuses(sweep) == [STATUS.FINISHED] * 3
    assert events_of(sweep, ev.LateReport) == []
    assert lost


def test_contention_is_waited_for(world: World) -> None:
    """Others who come first all the time are no reason to go home."""
    sweep, storage = shaky(world, 1)
    conflicts = iter([Conflict("s", 1)] * 130)
    storage.trouble = lambda method, asked: next(conflicts, None) if method == "commit" else None
    assert world.work(sweep).counts == {STATUS.FINISHED: 1}
    assert world.waited == [1.0, 2.0]


def test_a_storage_that_keeps_no_heartbeats_serves_it_too(world: World) -> None:
    """Four methods make a storage; then silence counts for nobody, and orders are seen all the same."""
    sweep = world.sweep(2, storage=FourMethods())

    def train(run: Run) -> None:
        world.wait(3_000)
        world.pulse.act()
        if run.index == 0:
            sweep[0].stop()
            assert run.should_stop

    assert world.work(sweep, train).counts == {STATUS.FINISHED: 2}


def test_a_deleted_sweep_sends_it_home(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """As a drain; and it says so."""
    storage = MemoryStorage()
    sweep = world.sweep(3, storage=storage)
    storage.delete("s")
    going = world.work(sweep)
    assert (going.reason, going.runs) == (GoingReason.DELETED, 0)
    assert "the sweep was deleted" in caplog.text


def test_a_sweep_that_is_deleted_under_a_run_sends_it_home_too(world: World) -> None:
    """Its end has no place any more."""
    storage = MemoryStorage()
    sweep = world.sweep(3, storage=storage)

    def train(run: Run) -> None:
        storage.delete("s")
        assert world.pulse.act() > 0  # nothing is raised there either
        assert run.should_stop  # which raises SweepNotFound, and that ends the function

    assert world.work(sweep, train).reason is GoingReason.DELETED


# --- orders --------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_is_seen_by_its_function_and_the_next_one_starts(world: World) -> None:
    sweep = world.sweep(2)
    seen: list[bool] = []

    def train(run: Run) -> None:
        if run.index == 0:
            seen.append(run.should_stop)
            sweep[0].stop("enough")
            seen.append(run.should_stop)
            run.fail("stopped")

    assert world.work(sweep, train).counts == {STATUS.KILLED: 1, STATUS.FINISHED: 1}
    assert seen == [False, True]
    assert sweep[0].cause is Cause.STOPPED


def test_a_killed_run_is_told_and_its_late_end_is_recorded_only(world: World) -> None:
    """And the worker goes on: the order is obeyed as soon as the function returns."""
    sweep = world.sweep(2, objective=Objective("loss"))

    def train(run: Run) -> float:
        if run.index == 0:
            sweep[0].kill()
            assert run.should_stop
            assert sweep.refresh().state.leased == 1
        return 1.0

    going = world.work(sweep, train)
    assert (going.counts, going.late) == ({STATUS.FINISHED: 1}, 1)
    assert statuses(sweep) == [STATUS.KILLED, STATUS.FINISHED]
    assert len(events_of(sweep, ev.LateReport)) == 1
    assert "1 late" in str(going)


def test_it_never_reports_for_an_old_attempt(world: World) -> None:
    """A run that was lost, and is executed elsewhere, is not touched by the end of the old execution."""
    sweep = world.sweep(1, limits=Limits(retries=1, heartbeat_timeout=300, suspicion=60))
    elsewhere: list[Run] = []

    def train(run: Run) -> None:
        for seconds in (301, 61):
            world.wait(seconds)
            sweep.tick()
        elsewhere.append(take(sweep, "other"))
        assert run.should_stop

    going = world.work(sweep, train, linger=False)
    assert going.late == 1
    assert (sweep[0].status, sweep[0].attempt) == (STATUS.RUNNING, 2)
    elsewhere[0].finish()
    assert sweep[0].status is STATUS.FINISHED


def test_report_raises_only_if_asked_to(world: World) -> None:
    """ShouldStop leaves a deep loop; the run is KILLED as it was asked to stop, and the next one starts."""
    sweep = world.sweep(2)
    raised: list[ShouldStop] = []

    def train(run: Run) -> None:
        run.report(loss=2.0)
        if run.index == 0:
            sweep[0].stop()
            assert run.heartbeat() == "stop"  # only reports raise
            try:
                run.report(loss=1.0)
            except ShouldStop as error:
                raised.append(error)
                raise

    assert world.work(sweep, train, stop_raises=True).counts == {STATUS.KILLED: 1, STATUS.FINISHED: 1}
    error = raised[0]
    assert (error.sweep_id, error.index, error.attempt, error.answer) == ("s", 0, 1, "stop")
    assert str(pickle.loads(pickle.dumps(error))) == "run 0 of sweep 's' should stop (attempt 1)"
    assert isinstance(sweep.storage, MemoryStorage)
    assert sweep.storage.last_metrics("s", 0) == {"loss": 1.0}  # kept before it was raised
    assert sweep[0].cause is Cause.STOPPED
    sweep = world.sweep(1)

    def plain(run: Run) -> None:
        sweep[0].kill()
        assert run.report(loss=1.0) == "kill"

    assert world.work(sweep, plain).late == 1


def interposed(sweep: Sweep, act: Callable[[], object]) -> Callable[..., Run | Idle]:
    """Return ``next_run``, after whose first answer something happens."""
    ask, again = sweep.next_run, iter([False])

    def next_run(*args: Any, **named: Any) -> Run | Idle:
        answer = ask(*args, **named)
        if not next(again, True):
            act()
        return answer

    return next_run


def test_a_run_that_may_not_begin_any_more_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between its handing out and its start: it is gone at once, does not count, and the next one starts."""
    sweep = world.sweep(2)

    def act() -> None:
        sweep[0].kill()

    monkeypatch.setattr(sweep, "next_run", interposed(sweep, act))
    seen: list[int] = []
    assert world.work(sweep, lambda run: seen.append(run.index)).counts == {STATUS.FINISHED: 1}
    assert seen == [1]
    assert sweep.refresh().done


def test_a_run_that_somebody_else_has_begun_is_left_to_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not said to be gone."""
    sweep = world.sweep(2)
    others: list[Run] = []

    def act() -> None:
        others.append(sweep[0])
        others[0].start("elsewhere")

    monkeypatch.setattr(sweep, "next_run", interposed(sweep, act))
    assert world.work(sweep, linger=False).counts == {STATUS.FINISHED: 1}
    assert sweep[0].status is STATUS.RUNNING
    with pytest.raises(AlreadyStarted):
        sweep[0].start("mine")
    others[0].finish()


# --- signals -------------------------------------------------------------------------------------


@pytest.fixture
def handlers() -> Iterator[Callable[[], tuple[Any, Any]]]:
    """Tells how SIGINT and SIGTERM are handled, and restores that."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    yield lambda: (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])


def press(times: int = 1) -> None:
    """Press Ctrl-C: the handler is called before the next instruction."""
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


def test_the_first_press_finishes_the_current_run_and_leaves(
    world: World, handlers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing new is claimed, while the heartbeats go on; and the handler is as before."""
    sweep = world.sweep(5)
    before = handlers()

    def train(run: Run) -> None:
        if run.index == 1:
            press()
            assert not run.should_stop
            held = world.pulse.in_hand
            assert held is not None
            assert held.run == run
            assert held.run is not run  # or what this handle shows could be older than what it has reported
            world.wait(40)
            heard = sweep.storage.last_heard("s", [(1, 1)])  # type: ignore[attr-defined]
            world.pulse.act()
            assert sweep.storage.last_heard("s", [(1, 1)]) != heard  # type: ignore[attr-defined]

    going = world.work(sweep, train, signals=True)
    assert (going.reason, going.counts) == (GoingReason.INTERRUPTED, {STATUS.FINISHED: 2})
    assert sweep.refresh().state.created == 2
    assert "finishes s[1] and leaves" in caplog.text
    assert handlers() == before


def test_the_first_press_ends_a_wait(world: World, handlers: Any) -> None:
    sweep = world.sweep(2)
    sweep.pause()
    world.meanwhile = lambda number: press() if number == 3 else None
    assert world.work(sweep, signals=True).reason is GoingReason.INTERRUPTED
    assert len(world.waited) == 4


def test_the_first_press_ends_asking_a_storage_that_fails(world: World, handlers: Any) -> None:
    """Be it during a wait or while asking; but it does not end reporting."""
    sweep, storage = shaky(world)
    asked: list[int] = []

    def trouble(method: str, _: Any) -> Exception:
        asked.append(len(world.waited))
        if len(world.waited) == 8:
            press()
        return StorageError("away")

    storage.trouble = trouble
    world.meanwhile = lambda number: press() if number == 3 else None
    assert world.work(sweep, signals=True).reason is GoingReason.INTERRUPTED
    assert (len(world.waited), asked) == (4, [0, 1, 2, 3])
    world.meanwhile = lambda number: None
    assert world.work(sweep, signals=True).reason is GoingReason.INTERRUPTED
    assert (len(world.waited), asked[-1]) == (8, 8)
    storage.trouble = lambda method, asked: None


def test_the_end_is_reported_after_the_first_press(world: World, handlers: Any) -> None:
    """However often that must be tried."""
    sweep, storage = shaky(world)
    failures = iter([StorageError("away")] * 5)
    storage.trouble = lambda method, asked: next(failures, None) if method == "commit" and is_end(asked) else None
    going = world.work(sweep, lambda run: press(), signals=True)
    assert going.counts == {STATUS.FINISHED: 1}
    assert len(world.waited) == 5


def test_who_is_going_away_gives_back_what_it_has_not_begun_and_does_not_get_it_again(
    world: World, handlers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between handing out and start: queued again for somebody else."""
    sweep = world.sweep(3)
    monkeypatch.setattr(sweep, "next_run", interposed(sweep, press))
    seen: list[int] = []
    going = world.work(sweep, lambda run: seen.append(run.index), signals=True)
    assert (going.reason, going.runs, seen) == (GoingReason.INTERRUPTED, 0, [])
    assert names(tuple(sweep.history()))[1:] == ["RunCreated", "RunRequeued"]
    assert (sweep[0].status, sweep[0].state.lease, sweep[0].attempt) == (STATUS.PENDING, None, 2)
    assert take(sweep, "other").index == 0


def test_the_second_press_asks_the_run_to_stop(world: World, handlers: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Beside the function, never in the handler, and with a reason and an actor."""
    sweep = world.sweep(3)

    def train(run: Run) -> None:
        press(2)
        assert not run.should_stop
        world.pulse.act()
        assert run.should_stop
        raise OSError("leaving, as asked")

    going = world.work(sweep, train, signals=True)
    assert (going.reason, going.counts) == (GoingReason.INTERRUPTED, {STATUS.KILLED: 1})
    (asked,) = events_of(sweep, ev.StopRequested)
    assert (asked.reason, asked.actor) == ("Ctrl-C, twice", "w")
    assert "asks s[0] to stop; Ctrl-C again leaves now" in caplog.text


def test_the_third_press_leaves_now_and_the_run_is_reported_as_interrupted(
    world: World, handlers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = world.sweep(3)
    before = handlers()
    with pytest.raises(KeyboardInterrupt):
        world.work(sweep, lambda run: press(3), signals=True)
    assert (sweep[0].status, sweep[0].message, sweep.refresh().state.leased) == (
        STATUS.KILLED,
        "KeyboardInterrupt",
        0,
    )
    assert sweep.state.created == 1
    assert "leaves now" in caplog.text
    assert handlers() == before


def test_who_leaves_now_tells_the_truth_once_more(world: World, handlers: Any) -> None:
    """The function had returned, and its end could not be stored: it is FINISHED, not interrupted."""
    sweep, storage = shaky(world, objective=Objective("loss"))
    failures = iter([StorageError("away")] * 2)
    storage.trouble = lambda method, asked: next(failures, None) if method == "commit" and is_end(asked) else None
    world.meanwhile = lambda number: press(3) if number == 1 else None
    with pytest.raises(KeyboardInterrupt):
        world.work(sweep, lambda run: 0.5, signals=True)
    assert (sweep[0].status, sweep[0].metrics) == (STATUS.FINISHED, {"loss": 0.5})


def test_who_leaves_now_has_the_late_end_of_a_killed_run_recorded_too(world: World, handlers: Any) -> None:
    """As evidence; it is not only said to be gone."""
    sweep, storage = shaky(world)
    failures = iter([StorageError("away")])

    def trouble(method: str, asked: Any) -> Exception | None:
        late = method == "commit" and any(isinstance(event, ev.LateReport) for event in asked.events)
        return next(failures, None) if late else None

    storage.trouble = trouble
    world.meanwhile = lambda number: press(3)
    with pytest.raises(KeyboardInterrupt):
        world.work(sweep, lambda run: sweep[0].kill() and None, signals=True)
    assert len(events_of(sweep, ev.LateReport)) == 1
    assert sweep.refresh().state.leased == 0


def test_who_leaves_now_does_not_wait_for_a_storage(
    world: World, handlers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what was not stored, and silence will tell the rest."""
    sweep, storage = shaky(world)
    storage.trouble = lambda method, asked: StorageError("away") if method == "commit" and is_end(asked) else None
    world.meanwhile = lambda number: press(3)
    with pytest.raises(KeyboardInterrupt):
        world.work(sweep, lambda run: {"loss": 0.5}, signals=True)
    assert len(world.waited) == 1
    assert "the end of run 0 was not stored (it returned {'loss': 0.5})" in caplog.text
    assert sweep[0].status is STATUS.RUNNING


def test_who_leaves_while_beginning_gives_the_run_back_or_reports_it(world: World, handlers: Any) -> None:
    """Wherever in between it is hit, nobody is left with a lease."""
    for point, status in [("commit", STATUS.PENDING), ("committed", STATUS.KILLED)]:
        sweep, storage = shaky(world)
        hit = iter([True])

        def trouble(method: str, asked: Any, point: str = point, hit: Iterator[bool] = hit) -> None:
            if method == point and any(isinstance(event, ev.RunStarted) for event in asked.events) and next(hit, False):
                press(3)

        storage.trouble = trouble
        with pytest.raises(KeyboardInterrupt):
            world.work(sweep, signals=True)
        assert (sweep[0].status, sweep.refresh().state.leased) == (status, 0)


def test_signals_are_left_alone_if_told_so_and_where_they_cannot_or_must_not_be_handled(
    world: World, handlers: Any
) -> None:
    """In other threads, where they are ignored, and by default for SIGTERM."""
    seen: list[Any] = []

    def look(_run: Run) -> None:
        seen.append(handlers())

    before = handlers()
    world.work(world.sweep(1), look, signals=False)
    thread = threading.Thread(target=lambda: world.work(world.sweep(1), look, signals=True, preemptible=True))
    thread.start()
    thread.join(60)
    assert seen == [before, before]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nohup, or `&` in a script
    world.work(world.sweep(1), look, signals=True)
    assert seen[2] == (signal.SIG_IGN, before[1])


def test_a_handler_that_the_function_has_installed_stays(world: World, handlers: Any) -> None:
    """Whoever replaces the worker's wants it so."""

    def mine(number: int, frame: object) -> None:
        """Do nothing."""

    world.work(world.sweep(1), lambda run: signal.signal(signal.SIGINT, mine) and None, signals=True)
    assert handlers()[0] is mine


# --- preemption ----------------------------------------------------------------------------------


def test_sigterm_is_a_notice_of_preemption_if_asked_for(
    world: World, handlers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The function is left by SystemExit(143), the run is queued again, and nothing new is claimed."""
    sweep = world.sweep(3)
    before = handlers()
    saved: list[str] = []

    def train(run: Run) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except SystemExit:
            signal.raise_signal(signal.SIGTERM)  # a second one does not tear what is being saved
            saved.append("checkpoint")
            raise

    with pytest.raises(SystemExit) as left:
        world.work(sweep, train, preemptible=True)
    assert left.value.code == 143
    assert saved == ["checkpoint"]
    assert (sweep[0].status, sweep[0].attempt, sweep.refresh().state.created) == (STATUS.PENDING, 2, 1)
    assert "about to be taken away" in caplog.text
    assert handlers() == before


def test_a_preemption_is_marked_beside_the_function(world: World, handlers: Any) -> None:
    """So that the silence of a machine that vanishes meanwhile queues the run again, too."""
    sweep = world.sweep(3)

    def train(run: Run) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            world.pulse.act()
            assert names(tuple(sweep.history()))[-1] == "RunPreempting"

    with pytest.raises(SystemExit):
        world.work(sweep, train, preemptible=True)
    assert len(events_of(sweep, ev.RunPreempting)) == 1


def test_a_run_that_finishes_all_the_same_is_finished(world: World, handlers: Any) -> None:
    sweep = world.sweep(3)

    def train(run: Run) -> None:
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        world.work(sweep, train, preemptible=True)
    assert statuses(sweep) == [STATUS.FINISHED]
    assert events_of(sweep, ev.RunPreempting) == []  # nothing was to be queued again


def test_sigterm_ends_a_wait_and_a_start(world: World, handlers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a run in hand, and with one that has not begun, or whose function was not called yet."""
    sweep = world.sweep(2)
    sweep.pause()
    world.meanwhile = lambda number: signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        world.work(sweep, preemptible=True)
    sweep.resume()
    monkeypatch.setattr(sweep, "next_run", interposed(sweep, lambda: signal.raise_signal(signal.SIGTERM)))
    with pytest.raises(SystemExit):
        world.work(sweep, preemptible=True)
    assert (sweep[0].status, sweep[0].attempt) == (STATUS.PENDING, 2)
    sweep, storage = shaky(world)

    def trouble(method: str, asked: Any) -> None:
        if method == "committed" and any(isinstance(event, ev.RunStarted) for event in asked.events):
            signal.raise_signal(signal.SIGTERM)

    storage.trouble = trouble
    seen: list[int] = []
    with pytest.raises(SystemExit):
        world.work(sweep, lambda run: seen.append(run.index), preemptible=True)
    assert (sweep[0].status, sweep[0].attempt, seen) == (STATUS.PENDING, 2, [])


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"function": 3}, "function"),
        ({"name": 7}, "name"),
        ({"count": 0}, "count"),
        ({"linger": "yes"}, "linger"),
        ({"flapping": 3}, "flapping"),
        ({"poll": 0}, "poll"),
        ({"stalled": -1}, "stalled"),
        ({"patience": "long"}, "patience"),
        ({"stop_raises": None}, "stop_raises"),
        ({"signals": 1}, "signals"),
        ({"preemptible": 1}, "preemptible"),
    ],
)
def test_arguments_are_checked_before_anything_happens(world: World, options: dict[str, Any], field: str) -> None:
    sweep = world.sweep(1)
    with pytest.raises(InvalidValue) as refused:
        world.work(sweep, **options)
    assert refused.value.field == field
    assert sweep.refresh().state.created == 0


def test_what_it_cannot_work_for_is_refused() -> None:
    """No sweep; one that is awaited; an async function; one with an agent, which would be given orders in between."""

    async def train(run: Run) -> None:
        """Train."""

    class Awaited:
        async def next_run(self) -> None:
            """Hand out."""

        async def tick(self) -> None:
            """Tick."""

    sweep, _ = sweep_of(1)
    anything: Any = train
    for given, field, remedy in [(3, "sweep", "give a Sweep"), (Awaited(), "sweep", "AsyncSweep.execute")]:
        wrong: Any = given
        with pytest.raises(InvalidValue, match=remedy) as refused:
            work(wrong, lambda run: None)
        assert refused.value.field == field
    with pytest.raises(InvalidValue, match=r"AsyncSweep\.execute"):
        work(sweep, anything)
    with pytest.raises(InvalidValue, match="or open it without one"):
        work(Sweep(grid(1), agent=InlineAgent(lambda run: None)), lambda run: None)
