"""A sweep against the model: any order of commands, reports, requests, time and races, compared after every step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any, ClassVar, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    multiple,
    precondition,
    rule,
)

from sweepstate import FailureRule, Idle, Limits, Objective, Run, RunState, RunStatus, Sweep, SweepstateError, replay
from sweepstate.core.questions import ByIndex
from sweepstate.testing import check_laws
from tests.support import tables
from tests.support.model import Crew as CrewModel
from tests.support.model import Model, RefusedError, Row
from tests.support.world import Clock, Crew, FlakyStorage, Points, orders

AGENTS = ("ada", "bob")
EXECUTIONS = st.sampled_from([None, None, "host-1", "host-2"])
LOSSES = st.sampled_from([{}, {"loss": 0.5}, {"loss": 0.5}, {"loss": 0.25}, {"loss": float("nan")}, {"accuracy": 1.0}])
RETRYABLE = st.sets(st.sampled_from(["FAILED", "CRASHED", "KILLED"]), min_size=1)
COMMANDS = [trigger for trigger in tables.SWEEP_TRIGGERS if trigger not in ("finish", "reopen")]
AGE = st.sampled_from([None, None, None, 0, 1, 3])  # how many versions ago the sender looked

LIMITS = {
    "run_cap": st.sampled_from([None, 1, 3, 5]),
    "max_active": st.sampled_from([None, 1, 2]),
    "heartbeat_timeout": st.sampled_from([300.0, 100.0]),
    "suspicion": st.sampled_from([60.0, 0.0]),
    "start_timeout": st.sampled_from([300.0, 50.0]),
    "stop_grace": st.sampled_from([30.0, 500.0]),
    "max_preemptions": st.sampled_from([5, 0, 1]),
    "launch_attempts": st.sampled_from([3, 1]),
    "retries": st.sampled_from([{}, {"FAILED": 1}, {"CRASHED": 2}, {"FAILED": 1, "CRASHED": 1}]),
    "time_limit": st.sampled_from([None, None, 1000.0]),
}
RULES = {
    "streak": st.sampled_from([None, None, 2]),
    "within": st.sampled_from([None, None, (2, 60.0)]),
    "rate": st.sampled_from([None, None, (0.5, 3)]),
}


class WorkersMachine(RuleBasedStateMachine):
    """Workers that ask, report early, late and under wrong names; people; time; and others that come first."""

    attached: ClassVar[bool] = False
    handles = Bundle("handles")

    @initialize(
        limits=st.fixed_dictionaries({}, optional=LIMITS),
        failure=st.fixed_dictionaries({}, optional=RULES),
        size=st.sampled_from([None, 2, 4, 0]),
        goal=st.sampled_from([None, 0.3]),
    )
    def create(self, limits: dict[str, Any], failure: dict[str, Any], size: int | None, goal: float | None) -> None:
        self.clock, self.search, self.storage = Clock(), Points(size), FlakyStorage()
        if self.attached:
            limits = {"run_cap": 5, **limits}  # where nothing bounds the slots, a tick hands out 64
            limits["run_cap"] = limits["run_cap"] or 5
        self.crew = Crew() if self.attached else None
        crew = CrewModel("crew") if self.attached else None
        known: dict[str, Any] = {"run_cap": None, "max_active": None, "time_limit": None, "retries": {}}
        known |= {"heartbeat_timeout": 300.0, "suspicion": 60.0, "start_timeout": 300.0, "stop_grace": 30.0}
        known |= {"max_preemptions": 5, "launch_attempts": 3, "streak": None, "within": None, "rate": None}
        self.model = Model(self.clock, {**known, **limits, **failure}, size, goal, crew=crew)
        self.sweep = self.make(
            search=self.search,
            id="s",
            storage=self.storage,
            clock=self.clock,
            agent=self.crew,
            limits=Limits(**limits, failure=FailureRule(**failure)),
            objective=Objective("loss", "minimize", target=goal),
        )
        # Somebody else, in another process: the same storage, and no agent.
        self.elsewhere = Sweep.open("s", storage=self.storage, search=self.search, clock=self.clock)
        self.foreign: Callable[[], object] | None = None

    def make(self, **options: Any) -> Sweep:
        """Create the sweep; the async shell is held to the same model by another one."""
        return Sweep(**options)

    # --- doing it twice ------------------------------------------------------------------------------

    def both(self, real: Callable[[], object], model: Callable[[], object]) -> object:
        """Do it to the sweep and to the model: the same answer, or the same refusal, which changes nothing."""
        before = self.glance()
        found: object = None
        refused = ""
        try:
            found = real()
        except SweepstateError as error:
            refused = type(error).__name__
        if self.foreign is not None and self.storage.foreign is None:  # it came first
            foreign, self.foreign = self.foreign, None
            crew, self.model.crew = self.model.crew, None
            _attempt(foreign)
            self.model.crew = crew
        elif refused and refused != "AgentError":
            assert self.glance() == before, "refused, and yet something changed"
        self.storage.conflicts = 0
        expected: object = None
        meant = ""
        try:
            expected = model()
        except RefusedError as error:
            meant = str(error)
        assert refused == meant, f"refused by {(refused, found)}, and by the model with {(meant, expected)}"
        self.agree()
        self.laws()
        return found if refused else (found, expected)

    def glance(self) -> tuple[object, ...]:
        """Return all that is stored: snapshots and events are values."""
        runs, events = self.storage.runs("s", ByIndex(), limit=1_000), self.storage.events("s", limit=10_000)
        signs = self.storage.last_heard("s", [(run.index, run.attempt) for run in runs])
        return self.storage.sweep("s"), tuple(runs), tuple(events), tuple(signs)

    def version(self, age: int | None) -> int | None:
        return None if age is None else max(1, self.model.version - age)

    # --- workers -------------------------------------------------------------------------------------

    @rule(target=handles, agent=st.sampled_from(AGENTS), request=st.sampled_from([None, None, "r1", "r2"]))
    def ask(self, agent: str, request: str | None) -> Run | MultipleResults[Run]:
        """A worker asks for a run."""
        answers = self.both(lambda: self.sweep.next_run(agent, request), lambda: self.model.next_run(agent, request))
        assert isinstance(answers, tuple), answers
        found, expected = answers
        if isinstance(found, Idle):
            assert found.reason == expected
            return multiple()
        run: Run = cast(Run, found)
        assert run.index == expected
        assert run.config == {"x": run.index}
        return run

    @precondition(lambda self: self.model.runs)
    @rule(target=handles, pick=st.integers(0, 5))
    def look(self, pick: int) -> Run:
        """Somebody takes a handle of a run's current attempt."""
        return self.sweep[pick % len(self.model.runs)]

    @rule(run=handles, execution=EXECUTIONS, heartbeats=st.booleans())
    def start(self, run: Run, execution: str | None, *, heartbeats: bool) -> None:
        run.execution = execution
        self.both(
            lambda: run.start(heartbeats=heartbeats),
            lambda: self.model.start(run.index, run.attempt, execution, heartbeats=heartbeats),
        )

    @rule(target=handles, agent=st.sampled_from(AGENTS), heartbeats=st.booleans())
    def begin(self, agent: str, *, heartbeats: bool) -> Run | MultipleResults[Run]:
        """A worker asks, and starts what it gets."""
        found = self.ask(agent, None)
        if not isinstance(found, MultipleResults):
            self.start(found, found.execution, heartbeats=heartbeats)
        return found

    @rule(run=handles, execution=EXECUTIONS, how=st.sampled_from(tables.EXITS[:4]), metrics=LOSSES)
    def end(self, run: Run, execution: str | None, how: str, metrics: dict[str, float]) -> None:
        """An execution, perhaps of an old attempt or the wrong one, reports its end."""
        run.execution = execution
        code = {"exit 0": 0, "error": 1, "interrupt": -2, "signal": -9}[how]
        self.both(
            lambda: run.exited(code, metrics=metrics),
            lambda: self.model.report(run.index, run.attempt, execution, how, metrics),
        )

    @rule(run=handles, execution=EXECUTIONS, promise=st.booleans())
    def sign(self, run: Run, execution: str | None, *, promise: bool) -> None:
        """An execution sends a heartbeat, or metrics on the way."""
        run.execution = execution
        answers = self.both(
            lambda: run.heartbeat() if promise else run.report(loss=1.0),
            lambda: self.model.heartbeat(run.index, run.attempt, execution, promise=promise),
        )
        assert isinstance(answers, tuple), answers
        assert answers[0] == answers[1]

    @rule(run=handles, execution=EXECUTIONS)
    def mark_preempting(self, run: Run, execution: str | None) -> None:
        run.execution = execution
        self.both(run.mark_preempting, lambda: self.model.mark(run.index, run.attempt, execution))

    @rule(run=handles)
    def gone(self, run: Run) -> None:
        self.both(run.gone, lambda: self.model.gone(run.index, run.attempt))

    @rule(run=handles)
    def release(self, run: Run) -> None:
        self.both(run.release, lambda: self.model.gone(run.index, run.attempt, release=True))

    # --- people --------------------------------------------------------------------------------------

    @rule(trigger=st.sampled_from(COMMANDS), age=AGE)
    def command(self, trigger: str, age: int | None) -> None:
        version = self.version(age)
        self.both(
            lambda: getattr(self.sweep, trigger)(if_version=version), lambda: self.model.command(trigger, version)
        )

    @rule(retry=st.one_of(st.just(set[str]()), RETRYABLE), age=AGE)
    def reopen(self, retry: set[str], age: int | None) -> None:
        version = self.version(age)
        self.both(
            lambda: self.sweep.reopen(retry={RunStatus(status) for status in retry}, if_version=version),
            lambda: self.model.reopen(retry, version),
        )

    @rule(statuses=RETRYABLE, age=AGE)
    def retry_all(self, statuses: set[str], age: int | None) -> None:
        version = self.version(age)
        self.both(
            lambda: self.sweep.retry({RunStatus(status) for status in statuses}, if_version=version),
            lambda: self.model.retry_all(statuses, version),
        )

    @rule(age=AGE)
    def complete(self, age: int | None) -> None:
        version = self.version(age)
        self.both(lambda: self.sweep.complete(if_version=version), lambda: self.model.declare_complete(version))

    @rule(what=st.sampled_from(["stop", "kill", "retry"]), run=handles, age=AGE)
    def command_run(self, what: str, run: Run, age: int | None) -> None:
        version = self.version(age)
        self.both(
            lambda: getattr(run, what)(if_version=version),
            lambda: getattr(self.model, f"{what}_run")(run.index, version),
        )

    @rule(data=st.data(), name=st.sampled_from(sorted(LIMITS)))
    def set_limits(self, data: st.DataObject, name: str) -> None:
        value = data.draw(LIMITS[name], label=name)
        if self.attached and name == "run_cap":
            value = value or 5
        change: Any = {name: value}
        self.both(lambda: self.sweep.set_limits(**change), lambda: self.model.set_limits(change))

    # --- the world -----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 30.0, 50.0, 60.0, 100.0, 300.0, 1000.0, -10.0]))
    def time_passes(self, seconds: float) -> None:
        """Time passes; now and then a clock is set back."""
        self.clock.advance(seconds)

    @rule()
    def tick(self) -> None:
        later = self.foreign, self.storage.foreign
        if self.attached:  # its tick is many commits, and the model knows of foreign ones before the first only
            self.foreign = self.storage.foreign = None
        answers = self.both(self.sweep.tick, self.model.tick)
        if self.attached:
            self.foreign, self.storage.foreign = later
        if isinstance(answers, tuple):
            found: Any = answers[0]
            assert found.next_at == self.model.next_at()
            assert found.more == (found.next_at is not None and found.next_at <= max(self.clock(), self.model.at))

    @rule(looks=st.integers(1, 2))
    def silence(self, looks: int) -> None:
        """Nobody is heard for so long that a tick suspects, and a second one gives up."""
        for seconds in (self.model.limits["heartbeat_timeout"], self.model.limits["suspicion"])[:looks]:
            self.time_passes(seconds)
            self.tick()

    @rule(waiting=st.booleans(), exhausted=st.booleans())
    def search_says(self, *, waiting: bool, exhausted: bool) -> None:
        self.search.waiting = self.model.waiting = waiting
        self.search.exhausted = self.model.exhausting = exhausted

    @rule(times=st.integers(1, 3))
    def others_come_first(self, times: int) -> None:
        """The next commit conflicts, with nothing that matters."""
        self.storage.conflicts = times

    @rule(trigger=st.sampled_from(COMMANDS))
    def somebody_slips_in_a_command(self, trigger: str) -> None:
        """Between the next decision and its commit, somebody commands the sweep."""
        self.foreign = lambda: self.model.command(trigger)
        self.storage.foreign = lambda: _attempt(getattr(self.elsewhere, trigger))

    @rule(run=handles, what=st.sampled_from(["heartbeat", "kill", "finish"]))
    def somebody_slips_in_a_report(self, run: Run, what: str) -> None:
        """Between the next decision and its commit, an execution sends a sign or ends, or a person kills it."""
        index, attempt = run.index, run.attempt
        models: dict[str, Callable[[], object]] = {
            "heartbeat": lambda: self.model.heartbeat(index, attempt, None, promise=True),
            "kill": lambda: self.model.kill_run(index),
            "finish": lambda: self.model.report(index, attempt, None, "exit 0", {}),
        }
        self.foreign = models[what]
        handle = Run(self.elsewhere._shell, run.state, attempt)
        self.storage.foreign = lambda: _attempt(getattr(handle, what))

    # --- after every step ----------------------------------------------------------------------------

    # Called after each rule that does anything, rather than as invariants: so a failing trace shows rules only.

    def agree(self) -> None:
        """The sweep is what the model says."""
        sweep, model = self.storage.sweep("s"), self.model
        assert (sweep.status, sweep.version, sweep.status_version) == (model.status, model.version, model.changed)
        assert (sweep.leased, sweep.active, sweep.created) == (model.slots, model.active, len(model.runs))
        assert (sweep.exhausted, sweep.completed, sweep.complete) == (model.exhausted, model.completed, model.complete)
        assert (sweep.reopened, sweep.at) == (model.reopened, model.at)
        assert (sweep.best_index, sweep.best_value) == (model.best or (None, None))
        assert bool(sweep.backlog) == bool(model.backlog)
        seen = {"ended": sweep.rule_ended, "failed": sweep.rule_failed, "streak": sweep.rule_streak}
        assert seen | {"early": sweep.rule_early} == model.seen
        runs = self.storage.runs("s", ByIndex(), limit=1_000)
        assert [shown(run) for run in runs] == [shown_model(model, row) for row in model.runs]
        for agent in (*AGENTS, "crew"):
            assert orders(self.elsewhere, agent) == model.orders(agent)
        if self.crew is not None and model.crew is not None:
            assert self.crew.log == model.crew.log, "orders come as the model says, once for each edge and each tick"

    def laws(self) -> None:
        """The laws of the page hold."""
        check_laws(self.storage, "s")

    def teardown(self) -> None:
        """Once more by hand, without the laws' own code: replay and recount."""
        if not hasattr(self, "sweep"):
            return
        history = list(self.elsewhere.history())
        replayed = replay(history)
        assert replayed.sweep == self.storage.sweep("s")
        assert list(replayed.runs.values()) == list(self.storage.runs("s", ByIndex(), limit=1_000))
        assert [event.number for event in history] == list(range(1, len(history) + 1))
        assert sorted({event.version for event in history}) == list(range(1, self.model.version + 1))
        assert all(one.at <= two.at for one, two in pairwise(history))
        for status, count in replayed.sweep.counts.items():
            assert count == sum(run.status is status for run in replayed.runs.values())


class AttachedMachine(WorkersMachine):
    """The same, through a handle that an agent is attached to, which notes its orders and now and then refuses them."""

    attached = True

    @rule(broken=st.booleans())
    def machines_break(self, *, broken: bool) -> None:
        assert self.crew is not None
        assert self.model.crew is not None
        self.crew.broken = self.model.crew.broken = broken

    @precondition(lambda self: self.crew.log)
    @rule(target=WorkersMachine.handles, pick=st.integers(0, 5))
    def take_an_order(self, pick: int) -> Run:
        """The agent reports through the handle of an order, new or old."""
        assert self.crew is not None
        return self.crew.orders[-1 - pick % len(self.crew.orders)].run


def _attempt(action: Callable[[], object]) -> None:
    """Do it; that it is refused is nobody's concern."""
    with suppress(SweepstateError, RefusedError):
        action()


def shown(run: RunState) -> dict[str, object]:
    """Return what is compared of a run, as the sweep has it."""
    lease = run.lease
    return {
        "index": run.index,
        "status": run.status.value,
        "changed": run.status_version,
        "attempt": run.attempt,
        "cause": None if run.cause is None else run.cause.value,
        "preempted": run.preemptions,
        "retried": (run.failed_retries, run.crashed_retries),
        "late": sorted(run.late),
        "due": run.due_at,
        "lease": None
        if lease is None
        else {
            "holder": (lease.attempt, lease.agent, lease.request_id, lease.attached),
            "begun": (lease.began, lease.beats, lease.execution, lease.since),
            "asked": (lease.stop_at, lease.preempting, lease.suspected_at, lease.launch_failures),
            "gone": (lease.revoked_at, lease.lost),
        },
    }


def shown_model(model: Model, run: Row) -> dict[str, object]:
    """Return the same, as the model has it."""
    lease = run.lease
    return {
        "index": run.index,
        "status": run.status,
        "changed": run.changed,
        "attempt": run.attempt,
        "cause": run.cause,
        "preempted": run.preempted,
        "retried": (run.retried["FAILED"], run.retried["CRASHED"]),
        "late": sorted(run.late),
        "due": model.due_at(run),
        "lease": None
        if lease is None
        else {
            "holder": (lease.attempt, lease.agent, lease.request, lease.attached),
            "begun": (lease.began, lease.beats, lease.execution, lease.since),
            "asked": (lease.stop_at, lease.preempting, lease.suspected_at, lease.failures),
            "gone": (lease.revoked_at, lease.lost),
        },
    }


TestWorkers = WorkersMachine.TestCase
TestAttached = AttachedMachine.TestCase
TestWorkers.settings = TestAttached.settings = settings(max_examples=4 * settings().max_examples)
