"""``Sweep`` and ``Run``: what the handles promise on top of the core."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from typing import Any

import pytest

from sweepstate import (
    AgentError,
    AlreadyExists,
    AlreadyStarted,
    Answer,
    Cause,
    Change,
    Conflict,
    Event,
    Exhausted,
    Grid,
    History,
    Idle,
    IdleReason,
    IllegalTransition,
    InlineAgent,
    InvalidValue,
    Limits,
    Listener,
    MemoryStorage,
    Objective,
    Random,
    Run,
    RunNotFound,
    RunStatus,
    RunTrigger,
    SearchError,
    SearchMismatch,
    SearchMissing,
    ShouldStop,
    StaleAttempt,
    StorageError,
    Sweep,
    SweepNotFound,
    SweepStatus,
    SweepTrigger,
    Tick,
    Verdict,
    Wait,
    explain,
    replay,
)
from sweepstate.core import events as ev
from tests.fakes import Busy, Recorder, grid, names, sweep_of, take

STATUS = RunStatus


def statuses(sweep: Sweep) -> list[RunStatus]:
    return [run.status for run in sweep.runs()]


# --- for run in sweep ----------------------------------------------------------------------------


def test_the_loop_claims_and_starts_in_one_commit() -> None:
    """A run that the loop yields is RUNNING, and cost one commit."""
    sweep, _ = sweep_of(2)
    for run in sweep:
        assert run.status is STATUS.RUNNING
        assert sweep.state.version == 2
        assert names(tuple(sweep.history()))[1:] == ["RunCreated", "RunStarted"]
        break


def test_a_run_that_the_loop_never_entered_is_given_back_on_break() -> None:
    """Leaving the loop before ``with run`` queues the run again, so that somebody else gets it."""
    sweep, _ = sweep_of(2)
    for _run in sweep:
        break
    assert (sweep[0].status, sweep[0].state.lease, sweep[0].attempt) == (STATUS.PENDING, None, 2)
    assert take(sweep, "other").index == 0


def test_a_run_that_the_loop_never_entered_is_given_back_on_an_exception() -> None:
    """So does an exception in the body of the loop."""
    sweep, _ = sweep_of(2)

    def loop() -> None:
        for run in sweep:
            _ = 1 / run.config["x"]

    with pytest.raises(ZeroDivisionError):
        loop()
    assert sweep[0].status is STATUS.PENDING


@pytest.mark.parametrize(
    "take_on", [lambda run: run.__enter__(), lambda run: run.report(loss=1), lambda run: run.token]
)
def test_a_run_that_somebody_took_on_is_not_given_back(take_on: Callable[[Run], object]) -> None:
    """Entering a run, reporting for it, or passing on its token takes it on: the loop may be left."""
    sweep, _ = sweep_of(2)
    for run in sweep:
        take_on(run)
        break
    assert (sweep[0].status, sweep[0].attempt) == (STATUS.RUNNING, 1)


def test_the_loop_ends_rather_than_waits() -> None:
    """With nothing to hand out it ends: paused, at capacity, draining or ended."""
    sweep, _ = sweep_of(2, limits=Limits(max_active=1))
    run = take(sweep)
    assert list(sweep) == []
    run.finish()
    sweep.pause()
    assert list(sweep) == []
    sweep.resume()
    for run in sweep:
        with run:
            pass
    assert sweep.status is SweepStatus.FINISHED
    assert list(sweep) == []


def test_the_loop_of_the_readme() -> None:
    """Claim, report on the way, look for a stop, finish with the objective: the sweep knows its best run."""
    sweep, _ = sweep_of(4, objective=Objective("loss"))
    for run in sweep:
        with run:
            for epoch in range(3):
                assert run.report(epoch=epoch, loss=float(run.index)) is Answer.CONTINUE
                if run.should_stop:
                    break
            run.finish(loss=abs(run.config["x"] - 2))
    assert sweep.best is not None
    assert (sweep.best.config, sweep.best.metrics) == ({"x": 2}, {"loss": 0})


# --- with run ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "cause", "message", "exit_code"),
    [
        (SystemExit(), STATUS.FINISHED, Cause.SUCCESS, None, None),
        (SystemExit(0), STATUS.FINISHED, Cause.SUCCESS, None, None),
        (SystemExit(1), STATUS.FAILED, Cause.ERROR, "1", 1),
        (SystemExit(3), STATUS.FAILED, Cause.ERROR, "3", 3),
        (SystemExit("no data"), STATUS.FAILED, Cause.ERROR, "no data", 1),
        (SystemExit(True), STATUS.FAILED, Cause.ERROR, "True", 1),
        (KeyboardInterrupt(), STATUS.KILLED, Cause.KILLED, "KeyboardInterrupt", None),
        (ValueError("loss is NaN"), STATUS.FAILED, Cause.ERROR, "ValueError: loss is NaN", None),
        (GeneratorExit(), STATUS.FAILED, Cause.ERROR, "GeneratorExit: ", None),
    ],
)
def test_an_exception_ends_the_run_and_is_not_swallowed(
    error: BaseException, status: RunStatus, cause: Cause, message: str | None, exit_code: int | None
) -> None:
    """What leaves ``with run`` decides about the run, and goes on."""
    sweep, _ = sweep_of(2)
    run = take(sweep)
    with pytest.raises(type(error)) as raised, run:
        raise error
    assert raised.value is error
    state = sweep[0].state
    assert (state.status, state.cause, state.exit_code) == (status, cause, exit_code)
    if status is STATUS.FAILED and not isinstance(error, SystemExit):  # an exception also says where
        assert str(state.message).startswith(f"{message} (at {__file__}:")
    else:
        assert state.message == message


class Hostile(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(10**400),
        SystemExit(10**5000),
        SystemExit(-1),
        SystemExit(Hostile()),
        SystemExit("\ud800"),
        Hostile(),
        ValueError("\ud800 " * 20_000),
    ],
)
def test_no_exception_is_so_odd_that_its_end_cannot_be_reported(error: BaseException) -> None:
    """Training code never gets an exception for reporting its end, however its own looks; and the end can be stored."""
    sweep, _ = sweep_of(2)
    with pytest.raises(type(error)) as raised, take(sweep):
        raise error
    assert raised.value is error
    state = sweep[0].state
    assert state.status is STATUS.FAILED
    assert len((state.message or "").encode()) < 40_000


def test_leaving_without_a_word_finishes() -> None:
    """A body that returns has finished."""
    sweep, _ = sweep_of(2)
    with take(sweep, start=False) as run:
        assert run.status is STATUS.RUNNING
    assert run.refresh().status is STATUS.FINISHED


def test_an_exception_after_finish_changes_nothing() -> None:
    """Its end was reported; a crash while cleaning up is not about the run."""
    sweep, _ = sweep_of(2)
    run = take(sweep)

    def body() -> None:
        run.finish(loss=1)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), run:
        body()
    assert names(tuple(sweep.history()))[-1] == "RunEnded"
    assert run.status is STATUS.FINISHED


@pytest.mark.parametrize("fate", ["killed", "superseded", "lost", "cancelled", "withdrawn and retried"])
@pytest.mark.parametrize("error", [None, ValueError("late")])
def test_leaving_never_raises_because_of_what_happened_meanwhile(fate: str, error: Exception | None) -> None:
    """A run that was killed, superseded or lost meanwhile is left without an error of the library."""
    sweep, clock = sweep_of(2)
    run = take(sweep, start=False)
    caught: list[BaseException] = []
    try:
        with run:
            if fate == "lost":
                run.heartbeat()
                for _ in range(2):
                    clock.wait(300)
                    sweep.tick()
            elif fate == "cancelled":
                sweep.cancel()
            elif fate == "superseded":
                sweep[0].kill()
                sweep[0].retry()
                run.gone()
                assert take(sweep, "other").attempt == 2
            else:
                run.kill()
                if fate == "withdrawn and retried":
                    run.retry()
            if error is not None:
                raise error
    except ValueError as raised:
        caught.append(raised)
    assert caught == ([] if error is None else [error])


def test_entering_a_run_that_was_handed_on_is_refused() -> None:
    """A zombie does not begin: the refusal comes before the body."""
    sweep, clock = sweep_of(2)
    run = take(sweep, start=False)
    clock.wait(300)
    take(sweep, "other")
    with pytest.raises(StaleAttempt), run:
        pytest.fail("entered")


def test_entering_a_run_that_somebody_else_executes_is_refused() -> None:
    """A handle that was looked up executes nothing twice."""
    sweep, _ = sweep_of(2)
    take(sweep)
    with pytest.raises(AlreadyStarted), sweep[0]:
        pytest.fail("entered")
    assert sweep[0].status is STATUS.RUNNING


# --- execute -------------------------------------------------------------------------------------


def test_execute_is_the_whole_loop() -> None:
    """It executes every run, lets those fail that raise, and says why it ended."""
    sweep, _ = sweep_of(3, objective=Objective("loss"))
    results: list[object] = [{"loss": 3}, 2.0, None]
    assert sweep.execute(lambda run: results[run.index]) == Idle(IdleReason.ENDED)
    assert [dict(run.metrics) for run in sweep.runs()] == [{"loss": 3}, {"loss": 2.0}, {}]

    sweep, _ = sweep_of(3)
    assert sweep.execute(lambda run: 1 / run.config["x"] and None) == Idle(IdleReason.ENDED)
    assert statuses(sweep) == [STATUS.FAILED, STATUS.FINISHED, STATUS.FINISHED]


@pytest.mark.parametrize("result", [0.5, 3, True])
def test_a_number_that_nothing_names_ends_the_loop(result: object) -> None:
    """Without an objective, every run would fail for it, one after the other; so the first one is enough."""
    sweep, _ = sweep_of(2)
    with pytest.raises(InvalidValue, match="has no name"):
        sweep.execute(lambda run: result)
    assert statuses(sweep) == [STATUS.FAILED]


@pytest.mark.parametrize("result", ["good", object(), {"loss": "low"}, {"loss": True}, {1: 2}, {"loss": None}])
def test_a_result_that_is_no_metrics_fails_the_run_and_says_so(result: object) -> None:
    """What is no number is no metric. The next run starts."""
    sweep, _ = sweep_of(2)
    assert sweep.execute(lambda run: result) == Idle(IdleReason.ENDED)
    assert statuses(sweep) == [STATUS.FAILED] * 2
    assert "InvalidValue" in str(sweep[0].state.message)


def test_execute_stops_when_there_is_nothing_to_hand_out() -> None:
    """It returns rather than waits, and says whether to come again."""
    sweep, _ = sweep_of(3)
    assert sweep.execute(lambda run: sweep.pause() and None) == Idle(IdleReason.PAUSED)
    assert sweep.counts[STATUS.FINISHED] == 1


def test_execute_hands_on_a_keyboard_interrupt_after_reporting_it() -> None:
    """Ctrl-C kills the run that it hit and ends the loop; so does an exit, which is about the whole process."""
    sweep, _ = sweep_of(3)

    def interrupted(_run: Run) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.execute(interrupted)
    assert statuses(sweep) == [STATUS.KILLED]

    def left(run: Run) -> None:
        sys.exit(run.index)

    with pytest.raises(SystemExit):
        sweep.execute(left)
    assert statuses(sweep) == [STATUS.KILLED, STATUS.FAILED]


@pytest.mark.parametrize("begin", [Run.__enter__, lambda run: run.perform(lambda _run: None)])
def test_a_run_that_may_not_begin_any_more_frees_its_slot(begin: Callable[[Run], object]) -> None:
    """It was cancelled before its holder came to it: nothing executes, so the sweep is done at once."""
    sweep, _ = sweep_of(1)
    run = take(sweep, start=False)
    sweep.cancel()
    assert not sweep.done
    with pytest.raises(IllegalTransition):
        begin(run)
    assert sweep.done


def test_a_looked_up_run_that_may_not_begin_is_somebody_elses() -> None:
    """Only its holder knows that nothing executes."""
    sweep, _ = sweep_of(1)
    take(sweep, start=False)
    sweep.cancel()
    with pytest.raises(IllegalTransition), sweep[0]:
        pass
    assert not sweep.done


def test_perform_begins_the_run() -> None:
    """A held run is executed as RUNNING, so nobody else is given it meanwhile."""
    sweep, _ = sweep_of(1)
    seen: list[RunStatus] = []
    take(sweep, start=False).perform(lambda run: seen.append(run.status))
    assert seen == [STATUS.RUNNING]
    assert sweep[0].status is STATUS.FINISHED


def test_conclude_reports_what_a_function_has_left_behind_once() -> None:
    """A result or an exception, from wherever the function was called; a second time it changes nothing."""
    sweep, _ = sweep_of(4, objective=Objective("loss"))
    run = take(sweep)
    assert names(run.conclude(0.5)) == ["RunEnded"]
    assert (run.status, run.metrics) == (STATUS.FINISHED, {"loss": 0.5})
    assert run.conclude(error=OSError("late")) == ()
    run = take(sweep)
    run.conclude(error=OSError("no data"))
    assert run.status is STATUS.FAILED
    run = take(sweep)
    run.conclude(error=KeyboardInterrupt())
    assert run.status is STATUS.KILLED
    run = take(sweep)
    run.finish()
    assert run.conclude(0.25) == ()
    assert run.metrics == {}


def test_conclude_may_be_repeated_after_the_storage_failed() -> None:
    """That is what it is for: nothing was noted by the handle, so the same report is made again."""

    class Away(MemoryStorage):
        away = False

        def commit(self, change: Change) -> None:
            if self.away:
                raise StorageError("away")
            super().commit(change)

    storage = Away()
    sweep, _ = sweep_of(1, storage=storage)
    run = take(sweep)
    storage.away = True
    for _ in range(2):
        with pytest.raises(StorageError):
            run.conclude({"loss": 0.5})
    storage.away = False
    assert names(run.conclude({"loss": 0.5})) == ["RunEnded", "SweepStatusChanged"]
    assert run.metrics == {"loss": 0.5}


def test_report_raises_that_a_run_should_stop_if_its_handle_is_told_so() -> None:
    """Only that handle, only ``report``, and only after the metrics were kept."""
    storage = MemoryStorage()
    sweep, _ = sweep_of(2, storage=storage)
    run = take(sweep)
    run.stop_raises = True
    assert run.report(loss=3.0) is Answer.CONTINUE
    sweep[0].stop()
    assert run.heartbeat() is Answer.STOP
    assert sweep[0].report(loss=2.0) is Answer.STOP
    with pytest.raises(ShouldStop, match="run 0 of sweep 's' should stop") as raised:
        run.report(loss=1.0)
    assert raised.value.answer is Answer.STOP
    assert storage.last_metrics("s", 0) == {"loss": 1.0}
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (copy.sweep_id, copy.index, copy.attempt) == ("s", 0, 1)
    sweep[0].kill()
    with pytest.raises(ShouldStop, match="has no say any more"):
        run.report(loss=1.0)


def test_what_can_be_kept_of_a_bad_result_is_kept() -> None:
    """One metric that is no number fails the run, and the numbers stand beside the failure."""
    sweep, _ = sweep_of(1)
    sweep.execute(lambda _run: {"loss": 1.5, "note": "good"})
    assert (sweep[0].status, sweep[0].metrics) == (STATUS.FAILED, {"loss": 1.5})


def test_membership_starts_nothing() -> None:
    """Asking whether a run belongs to a sweep does not iterate it."""
    sweep, _ = sweep_of(2)
    run = take(sweep)
    assert run in sweep
    assert "x" not in sweep
    assert sweep.state.created == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_cannot_write_to_its_copy() -> None:
    """It would hand out the same runs as its parent, and nobody would see."""
    sweep, _ = sweep_of(2)
    child = os.fork()
    if child == 0:
        try:
            sweep.next_run()
        except StorageError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert isinstance(sweep.next_run(), Run)


def test_a_storage_with_a_clock_gives_it_to_every_handle() -> None:
    """Code under test that opens a sweep without a clock uses the test's."""
    storage = MemoryStorage(clock=lambda: 5.0)
    Sweep(Grid({"x": [1]}), id="s", storage=storage)
    Sweep.open("s", storage=storage).pause()
    assert [event.at for event in Sweep.open("s", storage=storage).history()] == [5.0, 5.0]


def test_a_function_may_report_its_end_itself() -> None:
    """What it returns after that changes nothing."""
    sweep, _ = sweep_of(1)

    def work(run: Run) -> Mapping[str, float]:
        run.finish(loss=1)
        return {"loss": 2}

    sweep.execute(work)
    assert dict(sweep[0].metrics) == {"loss": 1}
    assert "LateReport" not in names(tuple(sweep.history()))


# --- agents and ticks ----------------------------------------------------------------------------


def test_ten_thousand_runs_inline_in_one_tick_without_recursion() -> None:
    """An agent that executes inside ``start`` ends runs inside deliveries; that nests nothing."""
    sweep, _ = sweep_of(search=Grid({"x": range(10_000)}), agent=InlineAgent(lambda run: None))
    depth = 0
    frame: Any = sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 80)
    try:
        tick = sweep.tick()
    finally:
        sys.setrecursionlimit(limit)
    assert (tick.more, tick.next_at) == (False, None)
    assert sweep.counts[STATUS.FINISHED] == 10_000
    assert sweep.status is SweepStatus.FINISHED


@pytest.mark.parametrize("max_active", [None, 1, 3])
def test_a_tick_fills_the_free_slots_of_the_attached_agent(max_active: int | None) -> None:
    """And no more; a run that ends is replaced at once, without another tick."""
    agent = Recorder()
    sweep, _ = sweep_of(9, agent=agent, limits=Limits(max_active=max_active))
    assert agent.orders == []
    sweep.tick()
    slots = 9 if max_active is None else max_active
    assert agent.orders == [("start", index, 1) for index in range(slots)]
    if max_active is not None:
        run = sweep.orders(agent.name)[0].run
        run.start()
        run.finish()
        assert agent.orders[slots:] == [("start", slots, 1)]


def test_stopping_one_run_starts_the_next() -> None:
    """Stopping a run never touches the sweep: its agent gets the next one when it has ended."""
    agent = Recorder()
    sweep, _ = sweep_of(3, agent=agent, limits=Limits(max_active=1))
    sweep.tick()
    run = sweep.orders(agent.name)[0].run
    run.start()
    sweep[0].stop()
    assert agent.orders == [("start", 0, 1), ("stop", 0, 1)]
    run.exited(-15)
    assert (run.status, run.cause) == (STATUS.KILLED, Cause.STOPPED)
    assert agent.orders[-1] == ("start", 1, 1)


def test_a_paused_sweep_fills_nothing_and_a_resume_does() -> None:
    """Slots are filled by the commit that resumes, too."""
    agent = Recorder()
    sweep, _ = sweep_of(3, agent=agent, limits=Limits(max_active=1))
    sweep.pause()
    sweep.tick()
    assert agent.orders == []
    sweep.resume()
    assert agent.orders == [("start", 0, 1)]


def test_outstanding_orders_are_delivered_again_by_every_tick_once() -> None:
    """Orders follow from the snapshots, so each tick repeats them, each once, until they are carried out."""
    agent = Recorder()
    sweep, clock = sweep_of(1, agent=agent)
    sweep.tick()
    sweep.tick()
    assert agent.orders == [("start", 0, 1)] * 2
    run = sweep.orders(agent.name)[0].run
    run.start()
    sweep.tick()
    run.stop()
    sweep.tick()
    assert agent.orders[2:] == [("stop", 0, 1)] * 2
    clock.wait(30)
    sweep.tick()
    assert agent.orders[4:] == [("kill", 0, 1)]
    sweep.tick()
    (kill,) = sweep.orders(agent.name)
    kill.gone()  # type: ignore[attr-defined]
    sweep.tick()
    assert agent.orders[4:] == [("kill", 0, 1)] * 2
    assert sweep.orders(agent.name) == []
    assert sweep.refresh().done


def test_orders_are_only_for_the_agent_they_are_addressed_to() -> None:
    """Another agent, or an agent under another name, delivers nothing of them."""
    sweep, clock = sweep_of(2)
    take(sweep, "somebody").stop()
    other = Recorder("else")
    Sweep.open("s", storage=sweep.storage, agent=other, clock=clock).tick()
    assert ("stop", 0, 1) not in other.orders
    assert [(order.kind.value, order.index, order.attempt) for order in sweep.orders("somebody")] == [("stop", 0, 1)]


def test_an_agent_that_cannot_kill_is_not_asked_to() -> None:
    """Its runs learn it from their next heartbeat."""
    agent = Recorder(can_kill=False)
    sweep, _ = sweep_of(1, agent=agent)
    sweep.tick()
    run = sweep.orders(agent.name)[0].run
    run.start()
    sweep.cancel()
    sweep.tick()
    assert agent.orders == [("start", 0, 1)]
    assert run.heartbeat() is Answer.KILL
    assert len(sweep.orders(agent.name)) == 1


def test_errors_of_an_agent_are_events_and_only_a_tick_raises_them() -> None:
    """``finish`` of one run does not raise because the next could not be started."""
    agent = Recorder()
    heard: list[Event] = []
    sweep, _ = sweep_of(5, agent=agent, limits=Limits(max_active=1), listeners=[heard.append])
    sweep.tick()
    run = sweep.orders(agent.name)[0].run
    run.start()
    agent.failing = lambda: OSError("no such host")
    run.finish()
    assert names(tuple(heard))[-1] == "OrderFailed"
    assert sweep[1].status is STATUS.PENDING
    with pytest.raises(AgentError, match="no such host") as raised:
        sweep.tick()
    assert (raised.value.agent, len(raised.value.failures)) == ("recorder", 1)
    assert [order.index for order in sweep.orders(agent.name)] == [1]


def test_a_run_that_cannot_be_launched_fails() -> None:
    """After ``launch_attempts`` failed STARTs, one a tick; the next run has its slot."""
    agent = Recorder(failing=lambda: OSError("no such program"))
    sweep, _ = sweep_of(1, agent=agent, limits=Limits(launch_attempts=3))
    for tries in range(1, 4):
        with pytest.raises(AgentError):
            sweep.tick()
        assert len(agent.orders) == tries
    state = sweep[0].state
    assert (state.status, state.cause) == (STATUS.FAILED, Cause.NOT_LAUNCHED)
    assert "no such program" in str(state.message)
    assert sweep.refresh().done


def test_a_failing_stop_or_kill_stays_outstanding_for_ever() -> None:
    """Only a START is given up."""
    agent = Recorder()
    sweep, _ = sweep_of(1, agent=agent)
    sweep.tick()
    run = sweep.orders(agent.name)[0].run
    run.start()
    agent.failing = lambda: OSError("no route")
    sweep.cancel()
    for _ in range(5):
        with pytest.raises(AgentError):
            sweep.tick()
    assert [order.kind.value for order in sweep.orders(agent.name)] == ["kill"]
    assert run.refresh().status is STATUS.KILLED


@pytest.mark.parametrize("error", [Hostile(), ValueError("\ud800"), ValueError("x" * 100_000)])
def test_no_error_of_an_agent_is_so_odd_that_it_disturbs_others(error: Exception) -> None:
    """It can always be shown, kept and stored."""
    agent = Recorder(failing=lambda: error)
    sweep, _ = sweep_of(2, agent=agent, limits=Limits(max_active=1))
    with pytest.raises(AgentError):
        sweep.tick()
    event = list(sweep.history())[-1]
    assert type(event).__name__ == "OrderFailed"
    assert len(event.message.encode()) < 40_000  # type: ignore[attr-defined]


def test_a_function_may_tick_the_sweep_that_executes_it() -> None:
    """An inline agent's function that ticks neither hangs nor nests: the outermost caller delivers."""
    seen: list[int] = []

    def work(run: Run) -> None:
        seen.append(run.index)
        assert sweep.tick().events == ()
        assert seen == list(range(run.index + 1))

    sweep, _ = sweep_of(5, agent=InlineAgent(work))
    done = threading.Event()

    def tick() -> None:
        sweep.tick()
        done.set()

    threading.Thread(target=tick, daemon=True).start()
    assert done.wait(20), "the tick hangs"
    assert seen == [0, 1, 2, 3, 4]


def test_a_search_that_fails_is_raised_by_a_tick_and_nowhere_else() -> None:
    """As an agent's errors: a run's end does not fail because there is no next configuration."""

    class Failing:
        size: int | None = None
        fails = False

        def propose(self, index: int, history: History) -> Mapping[str, Any] | Wait | Exhausted:
            if self.fails:
                raise OSError("model not there")
            return {"x": index}

    search = Failing()
    sweep, _ = sweep_of(search=search, agent=Recorder(), limits=Limits(max_active=1))
    sweep.tick()
    search.fails = True
    run = sweep.orders("recorder")[0].run
    run.start()
    run.finish()
    assert run.status is STATUS.FINISHED
    with pytest.raises(SearchError, match="model not there"):
        sweep.tick()


def test_a_tick_says_when_time_acts_next() -> None:
    """And whether something is due already, so that a driver need not poll."""
    sweep, clock = sweep_of(200, limits=Limits(time_limit=10_000))
    assert sweep.tick() == Tick((), more=False, next_at=11_000)
    runs = [take(sweep, start=False) for _ in range(100)]
    assert sweep.tick() == Tick((), more=False, next_at=1_300)
    runs[0].start(heartbeats=True)
    clock.wait(300)
    tick = sweep.tick()
    assert (len(tick.events), tick.more) == (64, True)
    tick = sweep.tick()
    assert tick.more is False
    assert sweep[0].status is STATUS.RUNNING
    assert sweep[0].state.lease.suspected_at == 1_300  # type: ignore[union-attr]
    assert tick.next_at == 1_360


# --- listeners -----------------------------------------------------------------------------------


def test_listeners_are_told_every_event_in_order_after_the_commit() -> None:
    """What they hear is the history, and what they look up is there already."""
    heard: list[Event] = []
    sweep: Sweep | None = None

    def listen(event: Event) -> None:
        heard.append(event)
        if sweep is not None:
            assert sweep.storage.sweep("s").version >= event.version

    sweep, _ = sweep_of(3, listeners=[listen])
    sweep.execute(lambda run: None)
    assert heard == list(sweep.history())


def test_a_listener_that_raises_disturbs_neither_the_call_nor_other_listeners() -> None:
    """Its error is handed to ``on_listener_error``."""
    heard: list[Event] = []
    errors: list[tuple[Listener, Event, Exception]] = []

    def broken(event: Event) -> None:
        raise RuntimeError(f"cannot take event {event.number}")

    sweep, _ = sweep_of(2, listeners=[broken, heard.append], on_listener_error=lambda *error: errors.append(error))
    sweep.execute(lambda run: None)
    assert heard == list(sweep.history())
    assert [(listener, event) for listener, event, _ in errors] == [(broken, event) for event in heard]
    assert str(errors[0][2]) == "cannot take event 1"


@pytest.mark.parametrize("handler", [None, lambda *_: 1 / 0])
def test_without_a_handler_that_works_errors_of_listeners_are_logged(
    handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As ``sweepstate``, with what was raised last."""
    sweep, _ = sweep_of(1, listeners=[lambda event: [].pop()], on_listener_error=handler)
    assert sweep.status is SweepStatus.RUNNING
    (record,) = caplog.records
    assert record.name == "sweepstate"
    assert record.exc_info is not None
    assert record.exc_info[0] is (IndexError if handler is None else ZeroDivisionError)


def test_a_listener_may_command_the_sweep() -> None:
    """It is told after the commit, so it may make the next one: early stopping from outside, for example."""
    sweep: Sweep

    def listen(event: Event) -> None:
        if type(event).__name__ == "RunEnded" and sweep.can(SweepTrigger.STOP) and not sweep.ended:
            sweep.stop("enough")

    sweep, _ = sweep_of(5, listeners=[listen])
    assert sweep.execute(lambda run: None) == Idle(IdleReason.ENDED)
    assert sweep.status is SweepStatus.STOPPED
    assert sweep.state.created == 1


# --- pickling ------------------------------------------------------------------------------------


def test_a_pickled_handle_finds_the_same_sweep_in_the_same_process() -> None:
    """The copy works on the same storage; its agent and listeners stay where they were."""
    heard: list[Event] = []
    sweep, _ = sweep_of(3, agent=Recorder(), listeners=[heard.append])
    run = take(sweep)
    copy: Sweep = pickle.loads(pickle.dumps(sweep))
    again: Run = pickle.loads(pickle.dumps(run))
    assert (copy, copy.storage, copy.agent) == (sweep, sweep.storage, None)
    assert again == run
    told = len(heard)
    again.finish(loss=1)
    assert len(heard) == told
    assert sweep[0].status is STATUS.FINISHED
    copy.pause()
    assert sweep.refresh().status is SweepStatus.PAUSED
    assert copy.search == sweep.search


def test_a_pickled_handle_of_another_process_is_refused_clearly() -> None:
    """Two processes with a copy of a memory storage each would hand out the same runs."""
    sweep = Sweep(grid(3))
    program = f"""
import os
import pickle
from sweepstate import StorageError
try:
    pickle.loads({pickle.dumps(sweep)!r})
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "lives in one process" in done.stdout, done.stderr
    assert "share" in done.stdout


def test_a_pickle_that_outlives_its_storage_is_refused_clearly() -> None:
    """It does not silently begin with an empty one. (In a process of its own, where nobody else keeps the storage.)"""
    program = """
import os
import pickle
from sweepstate import Grid, StorageError, Sweep
data = pickle.dumps(Sweep(Grid({"x": [1]})))
try:
    pickle.loads(data)
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "lives in one process" in done.stdout, done.stderr


# --- threads -------------------------------------------------------------------------------------


def test_eight_threads_claim_two_thousand_points_on_one_handle() -> None:
    """All distinct, none lost, and the counts are right."""
    sweep = Sweep(Grid({"x": range(2_000)}))
    claimed: list[list[int]] = [[] for _ in range(8)]
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            while run := sweep.next_run(f"agent-{number}"):
                assert isinstance(run, Run)
                claimed[number].append(run.config["x"])
                run.start()
                run.finish()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sorted(x for part in claimed for x in part) == list(range(2_000))
    assert sweep.refresh().status is SweepStatus.FINISHED
    assert replay(sweep.history()).sweep == sweep.state


def test_threads_that_end_runs_share_the_delivery_of_orders() -> None:
    """Ends reported by several threads at once lose no order: every run of the grid is started and ended."""
    started: list[int] = []
    pending: list[Run] = []
    lock = threading.Lock()

    class Pool(Recorder):
        def _take(self, kind: str, run: Run) -> None:
            run.start()
            with lock:
                started.append(run.index)
                pending.append(run)

    sweep = Sweep(Grid({"x": range(400)}), agent=Pool(), limits=Limits(max_active=8))
    sweep.tick()
    errors: list[BaseException] = []
    left = threading.Event()

    def work() -> None:
        try:
            while not left.is_set():
                with lock:
                    run = pending.pop() if pending else None
                if run is not None:
                    run.finish()
                elif len(started) == 400:
                    left.set()
        except BaseException as error:
            errors.append(error)
            left.set()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert left.wait(50), f"{len(started)} started, {len(pending)} pending"
    for thread in threads:
        thread.join(20)
    while pending:
        pending.pop().finish()
    assert errors == []
    assert sorted(started) == list(range(400))
    assert sweep.refresh().status is SweepStatus.FINISHED


# --- conflicts -----------------------------------------------------------------------------------


def test_handing_out_gives_up_after_64_conflicts_in_a_row() -> None:
    """With a Conflict that says so; the search is told that its proposal was not used."""
    discarded: list[tuple[int, Mapping[str, Any]]] = []

    class Search:
        size: int | None = None

        def propose(self, index: int, history: History) -> Mapping[str, Any] | Wait | Exhausted:
            return {"x": index}

        def discard(self, index: int, config: Mapping[str, Any]) -> None:
            discarded.append((index, config))

    storage = Busy()
    sweep, _ = sweep_of(search=Search(), storage=storage)
    storage.conflicts, storage.tries = 64, 0
    with pytest.raises(Conflict) as raised:
        sweep.next_run()
    assert (storage.tries, raised.value.sweep_id) == (64, "s")
    assert discarded == [(0, {"x": 0})]
    assert sweep.refresh().state.version == 1
    storage.conflicts = 63
    assert take(sweep, start=False).index == 0


def test_every_other_command_is_decided_again_until_it_succeeds() -> None:
    """However many came first."""
    storage = Busy()
    sweep, _ = sweep_of(3, storage=storage)
    run = take(sweep)
    for command in (run.finish, sweep.pause, sweep.resume, sweep.stop):
        storage.conflicts = 200
        command()
        assert storage.conflicts == 0
    assert statuses(sweep) == [STATUS.FINISHED]


def test_a_conflict_by_if_version_is_final() -> None:
    """It is raised, not decided again."""
    sweep, _ = sweep_of(3)
    sweep.pause()
    with pytest.raises(Conflict, match="status has changed"):
        sweep.cancel(if_version=1)
    with pytest.raises(InvalidValue, match="if_version"):
        sweep.cancel(if_version=99)


# --- proposals -----------------------------------------------------------------------------------


class Discarding:
    """Proposes, and keeps what was discarded."""

    size: int | None = None

    def __init__(self, storage: Busy | None = None) -> None:
        self.proposed: list[int] = []
        self.discarded: list[int] = []
        self.meanwhile: Callable[[], object] | None = None
        self.discard_error: Exception | None = None

    def propose(self, index: int, history: History) -> Mapping[str, Any] | Wait | Exhausted:
        self.proposed.append(index)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return {"x": index}

    def discard(self, index: int, config: Mapping[str, Any]) -> None:
        assert config == {"x": index}
        self.discarded.append(index)
        if self.discard_error is not None:
            raise self.discard_error


def test_a_proposal_whose_index_was_taken_is_discarded() -> None:
    """Somebody else created the run of that index first; the search proposes again for the next one."""
    search = Discarding()
    sweep, _ = sweep_of(search=search)
    search.meanwhile = lambda: take(sweep, "other")
    assert take(sweep).index == 1
    assert (search.proposed, search.discarded) == ([0, 0, 1], [0])


def test_a_proposal_that_a_queued_run_made_needless_is_discarded() -> None:
    """A run came back meanwhile, and goes first."""
    search = Discarding()
    sweep, _ = sweep_of(search=search)
    first = take(sweep, start=False)
    search.meanwhile = first.release
    assert (take(sweep).index, search.discarded) == (0, [1])


@pytest.mark.parametrize("meanwhile", ["pause", "stop"])
def test_a_proposal_for_a_sweep_that_was_paused_meanwhile_is_discarded(meanwhile: str) -> None:
    """Only a RUNNING sweep creates runs, however long the search thought."""
    search = Discarding()
    sweep, _ = sweep_of(search=search)
    search.meanwhile = getattr(sweep, meanwhile)
    assert isinstance(sweep.next_run(), Idle)
    assert (search.discarded, sweep.state.created) == ([0], 0)


def test_an_error_of_discard_takes_no_run_away(caplog: pytest.LogCaptureFixture) -> None:
    """The run was handed out by a commit; that the search could not forget another proposal is logged."""
    search = Discarding()
    sweep, _ = sweep_of(search=search)
    first = take(sweep, start=False)
    search.meanwhile = first.release
    search.discard_error = OSError("gone")
    assert take(sweep).index == 0
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["gone"]


def test_a_storage_that_fails_discards_the_proposal_and_says_so() -> None:
    """A storage's error reaches the caller; nothing happened."""

    class Full(MemoryStorage):
        full = False

        def commit(self, change: Any) -> None:
            if self.full:
                raise StorageError("disk full")
            super().commit(change)

    search, storage = Discarding(), Full()
    sweep, _ = sweep_of(search=search, storage=storage)
    storage.full = True
    with pytest.raises(StorageError, match="disk full"):
        sweep.next_run()
    assert search.discarded == [0]
    storage.full = False
    assert take(sweep).index == 0


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (None, "mapping"),
        (5, "mapping"),
        ("lr=0.1", "mapping"),
        ([("lr", 0.1)], "mapping"),
        (Wait, "mapping"),
        ({1: 2}, "not a string"),
        ({"x": object()}, "config.x"),
        ({"x": {"y": [{1, 2}]}}, r"config\.x\.y\[0\]"),
        ({"\ud800": 1}, "surrogate"),
        ({"x": "\udfff"}, "surrogate"),
        ({"x": 1 << 5000}, "bits"),
    ],
)
def test_nonsense_from_a_search_is_a_search_error_and_nothing_is_committed(answer: Any, problem: str) -> None:
    """The error names the place."""

    class Odd:
        size: int | None = None

        def propose(self, index: int, history: History) -> Mapping[str, Any] | Wait | Exhausted:
            result: Mapping[str, Any] = answer
            return result

    sweep, _ = sweep_of(search=Odd())
    with pytest.raises(SearchError, match=problem) as raised:
        sweep.next_run()
    assert (raised.value.sweep_id, raised.value.index) == ("s", 0)
    assert sweep.refresh().state.version == 1


def test_a_search_nested_without_end_is_a_search_error() -> None:
    """As deep as a configuration may be, and no deeper."""
    deep: dict[str, Any] = {}
    deep["deep"] = deep

    class Deep:
        size: int | None = None

        def propose(self, index: int, history: History) -> Mapping[str, Any] | Wait | Exhausted:
            return deep

    sweep, _ = sweep_of(search=Deep())
    with pytest.raises(SearchError, match="nested deeper"):
        sweep.next_run()


@pytest.mark.parametrize("error", [ValueError("no model"), Hostile(), KeyError("x")])
def test_a_search_that_raises_is_a_search_error_with_its_cause(error: Exception) -> None:
    """Nothing was committed."""

    class Raising:
        size: int | None = None

        def propose(self, index: int, history: History) -> Mapping[str, Any] | Wait | Exhausted:
            raise error

    sweep, _ = sweep_of(search=Raising())
    with pytest.raises(SearchError) as raised:
        sweep.next_run()
    assert raised.value.__cause__ is error
    assert type(error).__name__ in str(raised.value)
    assert sweep.refresh().state.version == 1


def test_a_search_sees_the_verdicts_in_order_behind_its_cursor() -> None:
    """And never has to read all of them each time."""
    pages: list[list[tuple[int, RunStatus, dict[str, float]]]] = []

    class Adaptive:
        size: int | None = None
        cursor = 0

        def propose(self, index: int, history: History) -> Mapping[str, Any] | Wait | Exhausted:
            page = history.ended(after=self.cursor, limit=2)
            pages.append([(ended.index, ended.status, dict(ended.metrics)) for ended in page])
            self.cursor = page[-1].cursor if page else self.cursor
            return {"x": index}

    sweep, _ = sweep_of(search=Adaptive())
    runs = [take(sweep) for _ in range(3)]
    runs[2].finish(loss=1)
    runs[0].fail()
    runs[1].finish(loss=3)
    for _ in range(3):
        take(sweep)
    assert pages[3:] == [
        [(2, STATUS.FINISHED, {"loss": 1}), (0, STATUS.FAILED, {})],
        [(1, STATUS.FINISHED, {"loss": 3})],
        [],
    ]


# --- creating and opening ------------------------------------------------------------------------


def test_ids_are_never_reused() -> None:
    """Not while the sweep is there, nor after it was deleted."""
    storage = MemoryStorage()
    sweep_of(2, storage=storage)
    with pytest.raises(AlreadyExists, match="exists_ok"):
        sweep_of(2, storage=storage)
    storage.delete("s")
    with pytest.raises(AlreadyExists):
        sweep_of(2, storage=storage)
    with pytest.raises(AlreadyExists):
        sweep_of(2, storage=storage, exists_ok=True)
    with pytest.raises(SweepNotFound):
        Sweep.open("s", storage=storage)


def test_ids_are_made_up_if_none_is_given() -> None:
    """Eight signs, that nobody has used."""
    made = {Sweep(grid(1)).id for _ in range(50)}
    assert len(made) == 50
    assert {len(each) for each in made} == {8}


def test_exists_ok_opens_what_is_there_with_its_own_limits() -> None:
    """So that a training job may be started any number of times."""
    storage = MemoryStorage()
    first, _ = sweep_of(2, storage=storage, limits=Limits(run_cap=5), objective=Objective("loss"))
    take(first)
    second, _ = sweep_of(2, storage=storage, limits=Limits(run_cap=7), exists_ok=True)
    assert second == first
    assert (second.limits, second.objective) == (Limits(run_cap=5), Objective("loss"))
    assert take(second).index == 1


@pytest.mark.parametrize("other", [grid(3), Grid({"y": [0, 1]}), Random({"x": [0, 1]}), Discarding()])
def test_another_search_than_the_stored_one_is_refused_with_both_shown(other: Any) -> None:
    """By ``exists_ok`` and by ``open``; nothing is changed."""
    storage = MemoryStorage()
    sweep_of(2, storage=storage)
    for attempt in (
        lambda: sweep_of(search=other, storage=storage, exists_ok=True),
        lambda: Sweep.open("s", storage=storage, search=other),
    ):
        with pytest.raises(SearchMismatch, match="'grid'") as raised:
            attempt()
        assert "was given" in str(raised.value)
    assert storage.sweep("s").version == 1


def test_without_the_search_every_command_works_but_handing_out_new_runs() -> None:
    """A search that is no plain data must be passed to ``open``; what is queued can be handed out without."""
    sweep, clock = sweep_of(search=Discarding())
    take(sweep, start=False).release()
    opened = Sweep.open("s", storage=sweep.storage, clock=clock)
    assert opened.search is None
    opened.pause()
    opened.resume()
    assert take(opened).index == 0
    with pytest.raises(SearchMissing, match="search=") as raised:
        opened.next_run()
    assert raised.value.index == 1
    assert take(Sweep.open("s", storage=sweep.storage, clock=clock, search=Discarding())).index == 1


# --- tokens --------------------------------------------------------------------------------------


def test_a_token_is_all_that_a_remote_worker_needs() -> None:
    """It stands for the sweep, the run, the attempt, and the execution."""
    sweep, clock = sweep_of(2, id="sweep with spaces/ünd")
    run = take(sweep, start=False)
    run.start("host:17")
    assert run.token.isascii()
    assert not set(run.token) & set("+/= ")
    far = Sweep.open(sweep.id, storage=sweep.storage, clock=clock).run_of(run.token)
    assert (far, far.execution) == (run, "host:17")
    far.finish(loss=1)
    assert run.refresh().status is STATUS.FINISHED


def test_a_token_of_an_old_attempt_has_no_say() -> None:
    """It is read, and its reports are late."""
    sweep, _ = sweep_of(2)
    token = take(sweep).token
    sweep[0].kill()
    sweep[0].retry()
    old = sweep.run_of(token)
    assert old.attempt == 1
    assert old.should_stop
    assert old.heartbeat() is Answer.KILL
    assert names(old.finish()) == ["LateReport"]


@pytest.mark.parametrize(
    "token",
    [
        "",
        "nonsense",
        "ä",
        "\ud800",
        "e30",  # {}
        "WyJzIiwwLDFd",  # ["s",0,1]
        "WyJzIixmYWxzZSwxLG51bGxd",  # ["s",false,1,null]
        "WyJzIiwtMSwxLG51bGxd",  # ["s",-1,1,null]
        "WyJzIiwwLDAsbnVsbF0",  # ["s",0,0,null]
        "WyJzIiwwLDksbnVsbF0",  # ["s",0,9,null]
        "WyJvdGhlciIsMCwxLG51bGxd",  # ["other",0,1,null]
        "WyJzIiwwLDEsIlx1ZDgwMCJd",  # ["s",0,1,"\ud800"]
        "WyJzIiwwLDEsNV0",  # ["s",0,1,5]
        "W1tbW1tbW1tb" * 5_000,
        b"WyJzIiwwLDFd",
        None,
        5,
    ],
)
def test_what_is_no_token_is_refused(token: Any) -> None:
    """With InvalidValue that names it, whatever it is."""
    sweep, _ = sweep_of(2)
    take(sweep)
    with pytest.raises(InvalidValue) as raised:
        sweep.run_of(token)
    assert raised.value.field.startswith("token")


# --- looking -------------------------------------------------------------------------------------


def test_handles_show_what_they_last_saw_and_refresh_looks_again() -> None:
    """Commands are decided on what the storage holds, whatever the handle shows."""
    sweep, clock = sweep_of(3)
    other = Sweep.open("s", storage=sweep.storage, clock=clock)
    run = take(other)
    assert (sweep.state.version, sweep.counts[STATUS.RUNNING]) == (1, 0)
    mine = sweep[0]
    run.finish()
    assert (mine.status, mine.refresh().status) == (STATUS.RUNNING, STATUS.FINISHED)
    assert sweep.refresh() is sweep
    assert sweep.counts[STATUS.FINISHED] == 1
    other.stop()
    with pytest.raises(IllegalTransition):
        sweep.pause()


def test_should_stop_looks_at_the_storage() -> None:
    """True when the run was asked to stop, has its verdict, or was handed on; it is no heartbeat."""
    sweep, clock = sweep_of(5)
    asked, killed, handed_on, plain = (take(sweep, f"agent-{n}", start=n != 2) for n in range(4))
    assert not any(run.should_stop for run in (asked, killed, handed_on, plain))
    sweep[0].stop()
    sweep[1].kill()
    clock.wait(300)
    sweep.tick()
    take(sweep)
    assert [run.should_stop for run in (asked, killed, handed_on, plain)] == [True, True, True, False]
    assert plain.refresh().state.lease.beats is False  # type: ignore[union-attr]


def best_of(sweep: Sweep) -> int | None:
    best = sweep.best
    return None if best is None else best.index


def test_best_is_the_best_finished_run_so_far() -> None:
    """By the objective; NaN is never the best, a tie keeps the first, and other metrics do not matter."""
    sweep, _ = sweep_of(9, objective=Objective("acc", "maximize"))
    assert best_of(sweep) is None
    for metrics, best in [
        ({"acc": float("nan")}, None),
        ({"loss": 0.0}, None),
        ({"acc": 0.5}, 2),
        ({"acc": 0.5}, 2),
        ({"acc": 0.75}, 4),
        ({"acc": 0.7}, 4),
    ]:
        take(sweep).finish(**metrics)
        assert best_of(sweep) == best
    failed = take(sweep)
    failed.report(acc=0.99)
    failed.fail()
    assert best_of(sweep) == 4
    assert best_of(sweep_of(1)[0]) is None


def test_metrics_on_the_way_are_shown_and_decide_nothing() -> None:
    """What ``report`` said is there for watching until the end replaces it."""
    sweep, _ = sweep_of(3, objective=Objective("loss", target=0.1))
    run = take(sweep)
    assert run.metrics == {}
    run.report(loss=0.0, epoch=1)
    run.report(loss=0.0)
    assert dict(sweep[0].metrics) == {"loss": 0.0}
    assert sweep.status is SweepStatus.RUNNING
    run.finish(loss=3)
    assert dict(sweep[0].metrics) == {"loss": 3}


def test_runs_are_listed_in_index_order_by_status() -> None:
    """Of one status, of several, in any spelling, page by page."""
    sweep, _ = sweep_of(600)
    for n in range(600):
        run = take(sweep)
        if n % 2:
            run.finish()
    assert [run.index for run in sweep.runs()] == list(range(600))
    assert [run.index for run in sweep.runs(STATUS.FINISHED)] == list(range(1, 600, 2))
    assert [run.index for run in sweep.runs("success")] == list(range(1, 600, 2))  # type: ignore[arg-type]
    assert len(list(sweep.runs({STATUS.RUNNING, STATUS.FINISHED}))) == 600
    assert list(sweep.runs([])) == []
    with pytest.raises(InvalidValue, match="names no RunStatus"):
        list(sweep.runs("done"))  # type: ignore[arg-type]


def test_a_run_that_is_not_there_is_not_found() -> None:
    """By its index, by one that is not there yet, or by a negative one: runs are no list."""
    sweep, _ = sweep_of(3)
    take(sweep)
    for index in (1, -1, 10**18):
        with pytest.raises(RunNotFound, match="1 were created"):
            sweep[index]


def test_a_deleted_sweep_is_not_found_by_any_handle() -> None:
    """Every command says so, and changes nothing."""
    sweep, _ = sweep_of(3)
    run = take(sweep)
    assert isinstance(sweep.storage, MemoryStorage)
    sweep.storage.delete("s")
    calls: list[Callable[[], object]] = [
        sweep.refresh, sweep.pause, sweep.tick, sweep.next_run, run.finish, run.heartbeat, run.refresh, run.stop
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(SweepNotFound):
            call()


def test_explain_tells_a_story_in_sentences() -> None:
    """From the first hand-out to how it stands, with times, reasons and actors."""
    sweep, clock = sweep_of(3)
    run = take(sweep, "gpu-7", "req-1", start=False)
    clock.wait(1.5)
    run.start("host:1", heartbeats=True)
    run.stop("too slow", actor="ada")
    clock.wait(30)
    sweep.tick()
    run.finish(loss=1)
    assert sweep.explain(0).splitlines() == [
        "Run 0 with {'x': 0}:",
        "  +0.000 s, attempt 1: created and handed out to gpu-7 for request req-1",
        "  +1.500 s, attempt 1: started as host:1, promising heartbeats",
        "  +1.500 s, attempt 1: asked to stop, because too slow (by ada)",
        "  +31.500 s, attempt 1: KILLED, stopped",
        "  +31.500 s, attempt 1: a late report by host:1 to finish it was recorded; the verdict stands",
        "  Now it is KILLED.",
    ]
    assert sweep.explain(run) == sweep.explain(0)
    with pytest.raises(RunNotFound):
        sweep.explain(7)


def test_every_event_of_a_run_has_a_sentence() -> None:
    """A story is told whatever happened: no event is without words."""
    of_runs = {cls for cls in ev.EVENTS.values() if issubclass(cls, ev.RunEvent)}
    assert set(explain._SENTENCES) == of_runs


def test_history_is_what_replay_needs() -> None:
    """From its start it gives the snapshots; behind a number, what came after it."""
    sweep, _ = sweep_of(300)
    sweep.execute(lambda run: None)
    events = list(sweep.history())
    snapshots = replay(events)
    assert snapshots.sweep == sweep.state
    assert dict(snapshots.runs) == {run.index: run.state for run in sweep.runs()}
    assert list(sweep.history(after=100)) == events[100:]
    assert list(sweep.history(after=10**6)) == []


def test_check_and_can_ask_the_table_without_doing_anything() -> None:
    """From what was seen last."""
    sweep, _ = sweep_of(3)
    run = take(sweep)
    assert sweep.check(SweepTrigger.RESUME) is Verdict.NOTHING
    assert sweep.check(SweepTrigger.PAUSE) is Verdict.CHANGES
    assert run.check(RunTrigger.REQUEUE) is Verdict.CHANGES
    run.kill()
    assert run.check(RunTrigger.FINISH) is Verdict.RECORDED
    assert run.check(RunTrigger.START) is Verdict.REFUSED
    sweep.cancel()
    assert [sweep.can(trigger) for trigger in (SweepTrigger.RESUME, SweepTrigger.STOP)] == [False, True]


def test_handles_show_themselves() -> None:
    """``repr`` and ``str`` say what a person wants to know."""
    sweep, _ = sweep_of(3)
    assert repr(sweep) == "<Sweep 's' RUNNING: 0 runs>"
    run = take(sweep, start=False)
    assert str(run) == "<Run s[0] PENDING, held: {'x': 0}>"
    run.start()
    run.fail("no")
    assert repr(run) == "<Run s[0] FAILED (error): {'x': 0}>"
    run.retry()
    assert repr(run) == "<Run s[0] PENDING, queued, attempt 1 of 2: {'x': 0}>"
    assert str(sweep) == "<Sweep 's' RUNNING: 1 run, 1 pending>"
    take(sweep).finish()
    assert repr(sweep[0]) == "<Run s[0] FINISHED, attempt 2 of 2: {'x': 0}>"
    assert str(sweep) == "<Sweep 's' RUNNING: 1 run, 1 finished>"


def test_handles_compare_by_what_they_stand_for() -> None:
    """Not by what they have seen."""
    sweep, clock = sweep_of(3)
    other = Sweep.open("s", storage=sweep.storage, clock=clock)
    elsewhere, _ = sweep_of(3)
    run = take(sweep)
    assert sweep == other
    assert len({sweep, other}) == 1
    assert sweep != elsewhere
    assert sweep != "s"
    assert run == other[0]
    assert len({run, other[0]}) == 1
    assert run != "s[0]"
    run.fail()
    run.retry()
    assert run != sweep[0]


def test_a_command_returns_the_events_it_caused() -> None:
    """None if it was accepted and nothing changed."""
    sweep, _ = sweep_of(3)
    run = take(sweep)
    assert names(sweep.pause()) == ["SweepStatusChanged"]
    assert sweep.pause() == ()
    assert names(run.stop()) == ["StopRequested"]
    assert run.stop() == ()
    assert names(sweep.cancel()) == ["SweepStatusChanged", "RunEnded"]
    assert sweep.stop() == ()
    assert run.kill() == ()


def test_a_repeated_request_gives_the_same_run() -> None:
    """After a lost reply, begun or not, and whatever the sweep's status; another agent's same words are not it."""
    sweep, _ = sweep_of(3)
    run = take(sweep, "a", "req", start=False)
    assert sweep.next_run("a", "req") == run
    run.start()
    sweep.pause()
    assert sweep.next_run("a", "req") == run
    sweep.resume()
    assert take(sweep, "b", "req").index == 1
    run.finish()
    assert take(sweep, "a", "req").index == 2


def test_what_a_storage_clock_says_counts() -> None:
    """A storage that has a clock of its own supplies the time instead."""

    class Timed(MemoryStorage):
        def now(self) -> float:
            return 5.0

    sweep, _ = sweep_of(1, storage=Timed())
    assert sweep.state.created_at == 5.0


def test_without_heartbeats_in_the_storage_silence_means_nothing() -> None:
    """Four methods make a storage; then promises are not kept, and nobody is lost."""
    inner = MemoryStorage()

    class Plain:
        sweep = inner.sweep
        runs = inner.runs
        commit = inner.commit
        events = inner.events

    sweep, clock = sweep_of(2, storage=Plain())
    run = take(sweep, start=False)
    run.start(heartbeats=True)
    assert run.heartbeat() is Answer.CONTINUE
    assert run.report(loss=1) is Answer.CONTINUE
    assert run.metrics == {}
    for _ in range(3):
        clock.wait(1_000)
        assert sweep.tick().events == ()
    assert run.refresh().status is STATUS.RUNNING
    run.kill()
    clock.wait(1_000)
    sweep.tick()
    assert sweep[0].state.lease.lost  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("code", "status", "exit_code", "signal"),
    [
        (0, STATUS.FINISHED, 0, None),
        (1, STATUS.FAILED, 1, None),
        (137, STATUS.FAILED, 137, None),
        (-2, STATUS.KILLED, None, 2),
        (-9, STATUS.CRASHED, None, 9),
        (-11, STATUS.CRASHED, None, 11),
    ],
)
def test_a_process_is_reported_by_its_return_code(
    code: int, status: RunStatus, exit_code: int | None, signal: int | None
) -> None:
    """As ``subprocess`` gives it: a negative one is a signal."""
    sweep, _ = sweep_of(2)
    take(sweep).exited(code, "last words")
    state = sweep[0].state
    assert (state.status, state.exit_code, state.signal, state.message) == (status, exit_code, signal, "last words")


def iterate(sweep: Sweep) -> Generator[int, None, None]:
    for run in sweep:
        with run:
            yield run.index


def test_a_generator_over_the_loop_may_be_dropped() -> None:
    """What it had entered has failed; what it had not is handed out to others."""
    sweep, _ = sweep_of(3)
    loop = iterate(sweep)
    assert next(loop) == 0
    loop.close()
    assert Counter(statuses(sweep)) == Counter({STATUS.FAILED: 1})
