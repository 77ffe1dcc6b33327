"""The sync and the async handles are one thing said twice: name by name, and by what they do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import settings

from sweepstate import (
    AgentError,
    AlreadyExists,
    AlreadyStarted,
    Answer,
    AsyncRun,
    AsyncSweep,
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
    RunNotFound,
    RunStatus,
    SearchError,
    SearchMismatch,
    StaleAttempt,
    Sweep,
    SweepNotFound,
    SweepStatus,
    SweepTrigger,
    Verdict,
    Wait,
    aio,
    replay,
)
from tests.fakes import Busy, Clock, Recorder, grid, names
from tests.support.blocking import Blocking, Plain
from tests.test_machine import AttachedMachine, WorkersMachine

# --- names, signatures, docstrings -----------------------------------------------------------------------

#: What is called otherwise on an event loop, as the table in ``sweepstate.aio`` says.
RENAMED = {
    "Sweep.__init__": "AsyncSweep.create",
    "Sweep.__getitem__": "AsyncSweep.run",
    "Sweep.__iter__": "AsyncSweep.__aiter__",
    "Run.__enter__": "AsyncRun.__aenter__",
    "Run.__exit__": "AsyncRun.__aexit__",
}
#: Properties that read the storage, which are awaited there.
AWAITED = {"Sweep.best", "Run.metrics", "Run.should_stop"}
#: What is there on one side only.
ONLY_SYNC: set[str] = set()
ONLY_ASYNC = {  # these refuse, and say what to write instead
    "AsyncSweep.__init__",
    "AsyncSweep.__iter__",
    "AsyncSweep.__getitem__",
    "AsyncRun.__enter__",
    "AsyncRun.__exit__",
}
#: Where the first sentences differ, since the thing does: what a class is, what a property shows and a method returns.
OTHER_WORDS = {"Sweep", "Run", "Sweep.__init__", *AWAITED}
#: Dunders that are part of the interface.
SPOKEN = {"__init__", "__getitem__", "__iter__", "__aiter__", "__enter__", "__exit__", "__aenter__", "__aexit__"}


def interface(cls: type) -> dict[str, Any]:
    """Return what people use of a handle, by qualified name."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("sweepstate."):
            found |= {name: member for name, member in vars(base).items() if name[0] != "_" or name in SPOKEN}
    slots = {"attempt", "entered", "execution", "stop_raises"}
    found.pop("__init__", None) if cls in {Run, AsyncRun} else None
    return {f"{cls.__name__}.{name}": member for name, member in found.items() if name not in slots}


SYNC = interface(Sweep) | interface(Run)
ASYNC = interface(AsyncSweep) | interface(AsyncRun)
PAIRS = [(name, RENAMED.get(name, f"Async{name}")) for name in SYNC if name not in ONLY_SYNC]


def function_of(member: Any) -> Callable[..., Any]:
    """Return the function behind a method, a property or a class method, without a witness's wrapper."""
    function: Callable[..., Any] = member.fget if isinstance(member, property) else getattr(member, "__func__", member)  # type: ignore[assignment]
    return cast("Callable[..., Any]", inspect.unwrap(function))


def test_every_name_has_its_twin() -> None:
    """Nothing is missing on either side, but for what the lists above say."""
    assert {twin for _, twin in PAIRS} == set(ASYNC) - ONLY_ASYNC
    assert set(RENAMED) | AWAITED | ONLY_SYNC <= set(SYNC)


@pytest.mark.parametrize(("name", "twin"), PAIRS, ids=[name for name, _ in PAIRS])
def test_the_arguments_are_the_same(name: str, twin: str) -> None:
    """Names, kinds and defaults; and what is a property or a class method on one side is so on the other."""
    one, two = SYNC[name], ASYNC[twin]
    mine, yours = (
        [(each.name, each.kind, each.default) for each in inspect.signature(function_of(member)).parameters.values()]
        for member in (one, two)
    )
    assert mine[1:] == yours[1:]
    if name not in AWAITED | set(RENAMED):
        assert type(one) is type(two)


@pytest.mark.parametrize(("name", "twin"), PAIRS, ids=[name for name, _ in PAIRS])
def test_what_is_shared_is_written_once(name: str, twin: str) -> None:
    """The same function, hence the same docstring; or its own, whose first sentence and errors are the same."""
    one, two = function_of(SYNC[name]), function_of(ASYNC[twin])
    if one is two:
        return
    mine, yours = inspect.getdoc(one) or "", inspect.getdoc(two) or ""
    if name not in OTHER_WORDS:
        assert mine.split("\n\n")[0].split(". ")[0] == yours.split("\n\n")[0].split(". ")[0]
        for word in ("Raises:", "Returns:", "Args:", "Afterwards:"):
            assert (word in mine) == (word in yours), word


def test_most_of_it_is_shared() -> None:
    """Every command, every report, and what is shown without reading."""
    own = {name for name, twin in PAIRS if function_of(SYNC[name]) is not function_of(ASYNC[twin])}
    assert own == {
        *RENAMED,
        *AWAITED,
        *(f"Sweep.{name}" for name in ("open", "storage", "agent", "refresh", "run_of", "runs", "history", "explain")),
        *(f"Sweep.{name}" for name in ("next_run", "execute", "orders", "tick")),
        *(f"Run.{name}" for name in ("refresh", "perform", "conclude")),
    }


# --- scenarios -------------------------------------------------------------------------------------------


@pytest.fixture(params=["sync", "async", "threads"])
def make(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes sweeps: sync ones, async ones on the loop itself, or async ones whose storage is called in threads."""
    maker: Any = Plain() if request.param == "sync" else Blocking(threads=2 * (request.param == "threads"))
    yield maker
    maker.close()


def test_the_whole_loop(make: Any) -> None:
    """Execute: results, an exception, and the best run."""
    sweep = make.create(grid(3), id="s", objective=Objective("loss"))

    def train(run: Any) -> object:
        return 1 / run.config["x"]

    assert sweep.execute(train) == Idle(IdleReason.ENDED)
    assert repr(sweep) == "<Sweep 's' FINISHED: 3 runs, 2 finished, 1 failed>"
    assert (sweep.best.index, sweep.best.metrics, sweep[0].cause) == (2, {"loss": 0.5}, "error")
    assert [run.index for run in sweep.runs(RunStatus.FINISHED)] == [1, 2]
    assert len([run.index for run in sweep.runs()]) == 3
    assert "ZeroDivisionError" in sweep.explain(0)
    assert "ZeroDivisionError" in sweep.explain(sweep[0])
    assert replay(list(sweep.history())).sweep == sweep.state
    assert next(sweep.history(after=4)).number == 5
    with pytest.raises(InvalidValue, match="cannot be called"):
        sweep.execute(3)


def test_the_loop_by_hand(make: Any) -> None:
    """Claim, start, report, look for a stop, finish; and a run that was not entered is given back."""
    sweep = make.create(grid(2), id="s")
    for run in sweep:
        with run:
            assert run.report(loss=1.0) is Answer.CONTINUE
            assert run.heartbeat() is Answer.CONTINUE
            assert (run.metrics, run.should_stop) == ({"loss": 1.0}, False)
            sweep[0].stop("enough", actor="ada")
            assert run.should_stop
            assert run.heartbeat() is Answer.STOP
        assert run in sweep
        break
    for _run in sweep:
        break
    assert (sweep[1].status, sweep[1].attempt, sweep.refresh().state.leased) == (RunStatus.PENDING, 2, 0)
    assert [run.index for run in sweep] == [1]
    assert sweep[1].should_stop is False


def test_a_result_without_a_name(make: Any) -> None:
    """A number needs an objective; a text is the run's own error."""
    sweep = make.create(grid(3), id="s")
    with pytest.raises(InvalidValue, match="has no name"):
        sweep.execute(lambda run: 1.0)
    run = sweep.next_run()
    run.perform(lambda run: "text")
    assert [each.status for each in sweep.runs()] == [RunStatus.FAILED] * 2
    for run in sweep:
        run.perform(lambda run: run.finish(loss=1.0))
        assert run.status is RunStatus.FINISHED


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit(3), SystemExit("no data"), KeyboardInterrupt(), OSError()])
def test_what_leaves_the_body_is_reported(make: Any, error: BaseException) -> None:
    """Finish, fail or interrupt, and the exception goes on."""
    sweep = make.create(grid(2), id="s")
    run = sweep.next_run()
    with pytest.raises(type(error)), run:
        raise error
    expected = {"0": RunStatus.FINISHED, "3": RunStatus.FAILED, "no data": RunStatus.FAILED}
    wanted = expected.get(str(error), RunStatus.FAILED)
    assert sweep[0].status is (RunStatus.KILLED if isinstance(error, KeyboardInterrupt) else wanted)
    again = sweep.next_run()
    if not isinstance(error, OSError):
        with pytest.raises(type(error)):
            again.perform(lambda run: _raise(error))
    else:
        again.perform(lambda run: _raise(error))
    assert sweep[1].status is sweep[0].status


def _raise(error: BaseException) -> None:
    raise error


def test_a_run_that_may_not_begin(make: Any) -> None:
    """Killed before it began: its slot is free at once. Begun by somebody else: left alone. Looked up: begun once."""
    sweep = make.create(grid(4), id="s")
    run = sweep.next_run()
    sweep[0].kill()
    with pytest.raises(IllegalTransition), run:
        pass
    assert sweep.refresh().state.leased == 0
    run = sweep.next_run()
    run.start("host-1")
    with sweep.run_of(run.token) as same:
        assert same == run
    run = sweep.next_run()
    run.start()
    with pytest.raises(AlreadyStarted), sweep[2]:
        pass
    other = sweep[2]
    other.execution = "host-2"
    with pytest.raises(AlreadyStarted), other:
        pass
    old = sweep.next_run()
    old.release()
    with pytest.raises(StaleAttempt), old:
        pass
    with pytest.raises(IllegalTransition), sweep[3]:
        pass
    assert sweep[2].status is RunStatus.RUNNING


def test_commands_and_refusals(make: Any) -> None:
    """Each is decided on what the storage holds, and returns its events."""
    sweep = make.create(grid(4), id="s", limits=Limits(max_active=3))
    told: list[Any] = []
    sweep.listen(told.append)
    assert names(sweep.pause("lunch", actor="ada")) == ["SweepStatusChanged"]
    assert sweep.pause() == ()
    assert (sweep.check(SweepTrigger.RESUME), sweep.can(SweepTrigger.STOP)) == (Verdict.CHANGES, True)
    with pytest.raises(Conflict):
        sweep.resume(if_version=1)
    sweep.resume()
    runs = [sweep.next_run() for _ in range(3)]
    assert sweep.next_run().reason is IdleReason.AT_CAPACITY
    runs[0].start(heartbeats=True)
    runs[0].fail("boom", exit_code=3)
    assert names(runs[0].finish(loss=1)) == ["LateReport"]
    runs[1].start()
    runs[1].mark_preempting()
    assert names(runs[1].crash("gone", signal=9)) == ["RunEnded", "RunRequeued"] or runs[1].state.attempt == 2
    runs[2].start()
    runs[2].interrupt()
    assert names(sweep[2].retry()) == ["RunRequeued"]
    assert names(sweep.retry({RunStatus.FAILED}))
    assert names(sweep.set_limits(max_active=None)) == ["LimitsChanged"]
    with pytest.raises(InvalidValue):
        sweep.set_limits(max_activ=1)
    sweep.crash()
    sweep.resume()
    sweep.stop()
    sweep.cancel()
    with pytest.raises(IllegalTransition):
        sweep.pause()
    sweep.reopen(retry={RunStatus.KILLED})
    sweep.fail()
    sweep.reopen()
    sweep.complete()
    assert [event.number for event in told] == list(range(2, sweep.state.events + 1))
    assert told == list(sweep.history(after=1))


def test_exited_and_gone(make: Any) -> None:
    """By return code, and by the agent that knows that nothing is left."""
    sweep = make.create(grid(5), id="s")
    for code, status in [(0, "FINISHED"), (1, "FAILED"), (-9, "CRASHED"), (-2, "KILLED")]:
        run = sweep.next_run()
        run.start()
        run.exited(code, "out", {"loss": 1.0})
        assert run.status == status
    run = sweep.next_run()
    run.start()
    run.gone()
    assert (run.status, run.cause, run.ended) == ("CRASHED", "died by a signal", True) or run.status == "CRASHED"


def test_opening(make: Any) -> None:
    """Created once, opened with the search that it has; and what is not there is not found."""
    storage = MemoryStorage()
    sweep = make.create(grid(2), id="s", storage=storage)
    with pytest.raises(AlreadyExists):
        make.create(grid(2), id="s", storage=storage)
    assert make.create(grid(2), id="s", storage=storage, exists_ok=True).id == "s"
    with pytest.raises(SearchMismatch):
        make.create(grid(3), id="s", storage=storage, exists_ok=True)
    with pytest.raises(SearchMismatch):
        make.open("s", storage=storage, search=grid(3))
    assert make.open("s", storage=storage, search=grid(2)).next_run().index == 0
    assert make.open("s", storage=storage).next_run().index == 1
    with pytest.raises(SweepNotFound):
        make.open("t", storage=storage)
    with pytest.raises(RunNotFound):
        sweep[7]
    with pytest.raises(RunNotFound):
        sweep[-1]
    with pytest.raises(InvalidValue, match="not of"):
        make.create(grid(1), id="other").run_of(sweep[0].token)
    storage.delete("s")
    with pytest.raises(AlreadyExists):
        make.create(grid(2), id="s", storage=storage, exists_ok=True)


def test_a_request_is_answered_once(make: Any) -> None:
    """The same name, the same run."""
    sweep = make.create(grid(3), id="s")
    assert sweep.next_run("gpu", "r1") == sweep.next_run("gpu", "r1")
    assert sweep.next_run("gpu", "r2").index == 1
    with pytest.raises(InvalidValue):
        sweep.next_run("gpu", 3)


class Moody:
    """A search that says what it is told to, and is told what was not used."""

    size = None

    def __init__(self) -> None:
        self.mood: Any = None
        self.seen: list[Any] = []
        self.dropped: list[int] = []

    def propose(self, index: int, history: Any) -> Any:
        self.seen = list(history.ended(limit=10))
        if isinstance(self.mood, Exception):
            raise self.mood
        return {"x": index} if self.mood is None else self.mood

    def discard(self, index: int, config: Any) -> None:
        self.dropped.append(index)
        raise OSError("nobody hears this")


def test_a_search_that_reads_waits_and_fails(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It reads verdicts; that it raised is an error of the search, and nothing happened."""
    search = Moody()
    storage = Busy()
    sweep = make.create(search, id="s", storage=storage)
    sweep.next_run().finish(loss=1.0)
    run = sweep.next_run()
    assert [(ended.index, ended.status, ended.config) for ended in search.seen] == [(0, "FINISHED", {"x": 0})]
    version = sweep.state.version
    for mood in (OSError("no license"), 3):
        search.mood = mood
        with pytest.raises(SearchError):
            sweep.next_run()
    search.mood = Wait()
    assert sweep.next_run().reason is IdleReason.WAITING
    assert sweep.refresh().state.version == version
    search.mood = None
    storage.conflicts = 64
    with pytest.raises(Conflict):
        sweep.next_run()
    assert search.dropped == [2]
    assert "nobody hears this" in caplog.text
    run.finish()
    search.mood = Exhausted()
    assert sweep.next_run().reason is IdleReason.ENDED
    assert sweep.status is SweepStatus.FINISHED


def test_time(make: Any) -> None:
    """A tick does what time causes: silence is suspected, and then given up."""
    clock = Clock()
    sweep = make.create(grid(2), id="s", clock=clock, limits=Limits(time_limit=10_000.0))
    run = sweep.next_run()
    run.start(heartbeats=True)
    clock.wait(300)
    assert names(sweep.tick().events) == ["RunSuspected"]
    clock.wait(300)
    tick = sweep.tick()
    assert (names(tick.events), tick.next_at) == (["RunEnded"], 11_000.0)
    assert sweep[0].state.row == "CRASHED, lost"
    clock.wait(20_000)
    sweep.tick()
    assert sweep.status is SweepStatus.STOPPED


def test_an_agent_gets_its_orders(make: Any) -> None:
    """Slots are filled, stops and kills are delivered, and what its hooks raise is an event."""
    agent = Recorder()
    sweep = make.create(grid(5), id="s", agent=agent, limits=Limits(max_active=2))
    assert sweep.agent is not None
    sweep.tick()
    assert agent.orders == [("start", 0, 1), ("start", 1, 1)]
    for index in (0, 1):
        run = sweep.orders("recorder")[0].run
        assert run.index == index
        run.start()
    sweep[0].stop()
    sweep[1].kill()
    assert agent.orders[2:] == [("stop", 0, 1), ("kill", 1, 1)]
    order = next(order for order in sweep.orders("recorder") if order.kind == "kill")
    order.run.gone()
    assert agent.orders[4:] == [("start", 2, 1)]
    agent.failing = lambda: OSError("no machine")
    with pytest.raises(AgentError, match="no machine"):
        sweep.tick()
    assert "OrderFailed" in names(tuple(sweep.history()))


# --- the model -------------------------------------------------------------------------------------------


class AsyncWorkersMachine(WorkersMachine):
    """The machine of the sync shell, and its model, with an async sweep inside."""

    def make(self, **options: Any) -> Any:
        self.maker = Blocking()
        return self.maker.create(**options)

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "maker"):
            self.maker.close()


class AsyncAttachedMachine(AsyncWorkersMachine, AttachedMachine):
    """The same with an agent."""


TestAsyncWorkers = AsyncWorkersMachine.TestCase
TestAsyncAttached = AsyncAttachedMachine.TestCase
TestAsyncWorkers.settings = TestAsyncAttached.settings = settings(max_examples=settings().max_examples)


def test_the_page_says_what_is_called_otherwise() -> None:
    """The table of the module has what the lists above have."""
    for name in ("AsyncSweep.create", "sweep.run(index)", *(f"{each.split('.')[1]}()" for each in AWAITED)):
        assert name in (aio.__doc__ or "")
