"""Whether a storage answers everything as ``MemoryStorage`` does, in whatever order it is asked.

A hypothesis machine drives both with the same commands, through the core, by
one clock. What a decision asks is asked of both, and so is every kind of query
with arguments of its own; the first answer that differs ends it, and hypothesis
finds a short way there. The idea is hypothesis' own, for its databases
(``tests/nocover/test_database_agreement.py``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar, cast

import attrs

from ..core import decide as core
from ..core.decide import Change, Decision, Draft, End
from ..core.errors import IllegalTransition, InvalidValue, NotFound, SweepNotFound, SweepstateError
from ..core.lifecycle import Exit, SweepTrigger
from ..core.limits import Limits, Objective
from ..core.plain import to_dict
from ..core.questions import ByIndex, Due, InStatus, LastHeard, Leased, Question, Queued, Requested, Runs, Silent
from ..core.status import RunStatus
from ..core.values import FrozenDict
from ..hooks import Catalog, Heartbeats, Storage
from ..storage.memory import MemoryStorage
from .contract.world import DAWN, all_events, text

if TYPE_CHECKING:
    from hypothesis.stateful import RuleBasedStateMachine

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: The sweeps that a machine moves in, by the end of their ids: a case and a blank apart.
NAMES: Final = ("a", "A", "a ")
_AGENTS: Final = ("ada", "Ada", "ada ", "a\0b", "")
_REQUESTS: Final = ("r1", "R1", "r1 ", None)
_RETRYABLE: Final = (RunStatus.FAILED, RunStatus.CRASHED, RunStatus.KILLED)
_NUMBERS: Final = (0.1 + 0.2, float("nan"), float("-inf"), -0.0, 3, 2**70)


class Twins:
    """A storage and a ``MemoryStorage`` that are told the same, and asked the same.

    Args:
        storage: what is compared.
        prefix: begins the id of every sweep, so that one storage serves for many comparisons, one after
            the other.
    """

    def __init__(self, storage: Storage, prefix: str = "") -> None:
        self.storage = storage
        self.memory: MemoryStorage = MemoryStorage()
        self.prefix = prefix
        self.now = DAWN
        #: Changes that were decided, and are to come too late.
        self.late: list[Change] = []

    def both(self, ask: Callable[[Any], object], what: str) -> Any:
        """Ask both; return what the memory answered.

        Raises:
            AssertionError: they answer differently.
            SweepstateError: both refuse it.
        """
        wanted, found = _outcome(ask, self.memory), _outcome(ask, self.storage)
        if _shown(wanted) != _shown(found):
            raise AssertionError(f"{what}:\n  MemoryStorage: {_shown(wanted)}\n  this storage:  {_shown(found)}")
        if isinstance(wanted, SweepstateError):
            raise wanted
        return wanted

    def answer(self, sweep_id: str, question: Question) -> object:
        """Answer a decision's question, by both."""
        if isinstance(question, Runs):
            if isinstance(question.query, Silent) and not isinstance(self.storage, Heartbeats):
                return ()
            return self.both(
                lambda storage: storage.runs(sweep_id, question.query, after=question.after, limit=question.limit),
                f"{question}",
            )
        if isinstance(question, LastHeard):
            if not isinstance(self.storage, Heartbeats):
                return (None,) * len(question.leases)
            return self.both(lambda storage: storage.last_heard(sweep_id, question.leases), f"{question}")
        return FrozenDict(x=question.index, odd=_NUMBERS[question.index % len(_NUMBERS)])

    def do(
        self,
        sweep_id: str,
        command: Callable[Concatenate[Draft, _P], Decision[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T | None:
        """Decide a command on both, and commit it to both; what is refused is left."""
        with suppress(NotFound, IllegalTransition, InvalidValue):
            sweep = self.both(lambda storage: storage.sweep(sweep_id), f"sweep({sweep_id!r})")
            make = core.decide(command, sweep, lambda question: self.answer(sweep_id, question), self.now)
            decided = make(*args, **kwargs)
            if decided.change is not None:
                self.late = [*self.late[-5:], decided.change]
                self.commit(decided.change)
            return decided.value
        return None

    def commit(self, change: Change) -> None:
        """Commit to both; they accept it, or refuse it for the same reason."""
        with suppress(SweepstateError):
            self.both(lambda storage: storage.commit(change), f"commit of {[type(e).__name__ for e in change.events]}")

    def compare(self, sweep_id: str) -> None:
        """Compare all that is stored of a sweep."""
        try:
            sweep = self.both(lambda storage: storage.sweep(sweep_id), f"sweep({sweep_id!r})")
        except SweepNotFound:
            return
        # A page of events may be shorter than it could be, so the pages are not compared, but what they add up to.
        self.both(lambda storage: text(all_events(storage, sweep_id)), "the history")
        runs = self.both(lambda storage: storage.runs(sweep_id, ByIndex(), limit=sweep.created + 1), "all runs")
        if isinstance(self.storage, Heartbeats):
            leases = [(run.index, attempt) for run in runs for attempt in range(1, run.attempt + 1)]
            self.both(lambda storage: storage.last_heard(sweep_id, leases), "the signs of life")
            indexes = [run.index for run in runs]
            self.both(lambda storage: [storage.last_metrics(sweep_id, index) for index in indexes], "the metrics")


def _outcome(ask: Callable[[Any], object], storage: object) -> object:
    try:
        return ask(storage)
    except SweepstateError as error:
        return error


def _shown(answer: Any) -> str:
    """Return an answer as text, so that NaN equals itself and -0.0 is not 0.0."""
    if isinstance(answer, SweepstateError):
        return type(answer).__name__  # in which words, and whether it knows the version found, is its own affair
    if attrs.has(cast("type[Any]", answer.__class__)):
        return json.dumps(to_dict(answer))
    if isinstance(answer, (list, tuple)):
        items = cast("Sequence[object]", answer)
        return f"[{', '.join(_shown(item) for item in items)}]"
    if isinstance(answer, dict):
        return repr(sorted(cast("dict[str, object]", answer).items()))
    return repr(answer)


def agreement_machine(storage: Storage) -> type[RuleBasedStateMachine]:  # noqa: C901 - one class, whose rules are short
    """Return a machine that compares a storage with ``MemoryStorage``.

    Every example uses sweeps of its own, so they all have the same storage, which may hold others too.

    Args:
        storage: what is compared. Its clock, if it has one, is not asked.

    Returns:
        A class for ``hypothesis.stateful.run_state_machine_as_test``, or whose ``TestCase`` is a test.

    Raises:
        ImportError: hypothesis is not installed.
    """
    from hypothesis import strategies as st  # noqa: PLC0415 - so that this package can be imported without it
    from hypothesis.stateful import RuleBasedStateMachine, initialize, rule  # noqa: PLC0415

    examples = count()
    names = st.sampled_from([*NAMES[:1] * 4, *NAMES])
    agents, requests = st.sampled_from(_AGENTS), st.sampled_from(_REQUESTS)
    indexes, limits = st.integers(0, 7), st.sampled_from([1, 2, 3, 1_000])
    statuses = st.frozensets(st.sampled_from(RunStatus), min_size=1)
    metrics = st.none() | st.dictionaries(st.sampled_from(["loss", "ß"]), st.sampled_from(_NUMBERS))

    class Agreement(RuleBasedStateMachine):
        """The same commands for both; every answer compared."""

        @initialize()
        def begin(self) -> None:
            self.twins = Twins(storage, f"{next(examples):06}.")
            self.create("a")

        def of(self, name: str) -> str:
            return self.twins.prefix + name

        def attempt_of(self, name: str, index: int, age: int) -> int:
            with suppress(SweepNotFound):
                for run in self.twins.memory.runs(self.of(name), ByIndex(), after=index - 1, limit=1):
                    return max(1, run.attempt - age)
            return 1

        # --- commands ----------------------------------------------------------------------------

        @rule(name=st.sampled_from(NAMES))
        def create(self, name: str) -> None:
            bounds = Limits(heartbeat_timeout=100, suspicion=50, start_timeout=80, max_preemptions=1)
            objective = Objective("loss")
            self.twins.commit(
                core.create(self.of(name), self.twins.now, search=None, size=2**70, limits=bounds, objective=objective)
            )

        @rule(name=names, agent=agents, request=requests, begin=st.booleans())
        def ask(self, name: str, agent: str, request: str | None, *, begin: bool) -> None:
            self.twins.do(self.of(name), core.next_run, agent, request, begin=begin)

        @rule(name=names, index=indexes, age=st.integers(0, 1), promise=st.booleans())
        def start(self, name: str, index: int, age: int, *, promise: bool) -> None:
            attempt = self.attempt_of(name, index, age)
            promise = promise and isinstance(storage, Heartbeats)
            self.twins.do(self.of(name), core.start, index, attempt, None, heartbeats=promise)

        @rule(name=names, index=indexes, age=st.integers(0, 1), how=st.sampled_from(list(Exit)[:4]), metrics=metrics)
        def end(self, name: str, index: int, age: int, how: Exit, metrics: dict[str, float] | None) -> None:
            report = End(how, "said", 1, None, FrozenDict(metrics or {}))
            self.twins.do(self.of(name), core.end, index, self.attempt_of(name, index, age), None, report)

        @rule(
            name=names,
            index=indexes,
            what=st.sampled_from([core.gone, core.release, core.mark_preempting]),
        )
        def report(self, name: str, index: int, what: Callable[[Draft, int, int], Decision[None]]) -> None:
            self.twins.do(self.of(name), what, index, self.attempt_of(name, index, 0))

        @rule(name=names, index=indexes, what=st.sampled_from([core.stop_run, core.kill_run, core.retry_run]))
        def command_run(self, name: str, index: int, what: Callable[[Draft, int], Decision[None]]) -> None:
            self.twins.do(self.of(name), what, index)

        @rule(name=names, trigger=st.sampled_from([each for each in SweepTrigger if each not in ("finish", "reopen")]))
        def move(self, name: str, trigger: SweepTrigger) -> None:
            self.twins.do(self.of(name), core.move, trigger)

        @rule(name=names, retry=st.frozensets(st.sampled_from(_RETRYABLE)))
        def reopen(self, name: str, retry: frozenset[RunStatus]) -> None:
            self.twins.do(self.of(name), core.reopen, retry)

        @rule(name=names, seconds=st.sampled_from([0.0, 1.5, 30.0, 50.0, 100.0]))
        def time_passes(self, name: str, seconds: float) -> None:
            self.twins.now += seconds
            self.twins.do(self.of(name), core.elapse)

        @rule(pick=st.integers(0, 5))
        def commit_late(self, pick: int) -> None:
            """Commit again what was committed, or is outrun by now."""
            for change in self.twins.late[pick : pick + 1]:
                self.twins.commit(change)

        # --- heartbeats, catalog -----------------------------------------------------------------

        if isinstance(storage, Heartbeats):

            @rule(name=names, index=indexes, age=st.integers(0, 1), ago=st.sampled_from([0.0, 20.0]), metrics=metrics)
            def beat(self, name: str, index: int, age: int, ago: float, metrics: dict[str, float] | None) -> None:
                attempt, at = self.attempt_of(name, index, age), self.twins.now - ago
                with suppress(SweepNotFound):
                    self.twins.both(lambda each: each.beat(self.of(name), index, attempt, at, metrics), "beat")

            @rule(name=names, index=indexes)
            def sign(self, name: str, index: int) -> None:
                self.twins.do(self.of(name), core.heartbeat, index, self.attempt_of(name, index, 0), None, promise=True)

            @rule(name=names, ago=st.sampled_from([-1_000.0, 0.0, 20.0, 100.0]), limit=limits)
            def silent(self, name: str, ago: float, limit: int) -> None:
                self.query(name, Silent(self.twins.now - ago), -1, limit)

            @rule(name=names)
            def break_silence(self, name: str) -> None:
                """Decide on a silence, and let it be broken before the commit."""
                with suppress(SweepstateError):
                    sweep = self.twins.memory.sweep(self.of(name))
                    answer = partial(self.twins.answer, self.of(name))
                    change = core.decide(core.elapse, sweep, answer, self.twins.now)().change
                    if change is not None and change.silences:
                        index, attempt = change.silences[-1].index, change.silences[-1].attempt
                        at = self.twins.now
                        self.twins.both(lambda each: each.beat(self.of(name), index, attempt, at, None), "beat")
                        self.twins.commit(change)

        if isinstance(storage, Catalog):

            @rule(after=st.sampled_from(["", *NAMES]), limit=limits)
            def listing(self, after: str, limit: int) -> None:
                first = self.of(after)
                catalogs: list[Any] = [self.twins.memory, storage]
                pages: list[list[str]] = [
                    [sweep.id for sweep in catalog.sweeps(after=first, limit=limit)] for catalog in catalogs
                ]
                mine = [[sweep_id for sweep_id in page if sweep_id.startswith(self.of(""))] for page in pages]
                assert mine[0] == mine[1], f"sweeps after {first!r}: {mine}"  # noqa: S101 - that is what it is for

            @rule(name=st.sampled_from(NAMES[1:]))
            def delete(self, name: str) -> None:
                with suppress(SweepNotFound):
                    self.twins.both(lambda each: each.delete(self.of(name)), f"delete({name!r})")

        # --- queries -----------------------------------------------------------------------------

        def query(self, name: str, query: Any, after: int, limit: int) -> None:
            with suppress(SweepNotFound):
                sweep_id = self.of(name)
                self.twins.both(lambda each: each.runs(sweep_id, query, after=after, limit=limit), f"{query}, {limit=}")

        @rule(name=names, after=st.integers(-1, 7), limit=limits, kind=st.sampled_from([ByIndex, Queued]))
        def plain_query(self, name: str, after: int, limit: int, kind: type[ByIndex | Queued]) -> None:
            self.query(name, kind(), after, limit)

        @rule(name=names, agent=st.none() | agents, presumed=st.booleans(), after=st.integers(-1, 7), limit=limits)
        def leased(self, name: str, agent: str | None, after: int, limit: int, *, presumed: bool) -> None:
            self.query(name, Leased(agent, presumed), after, limit)

        @rule(name=names, agent=agents, request=st.sampled_from(_REQUESTS[:3]))
        def requested(self, name: str, agent: str, request: str) -> None:
            self.query(name, Requested(agent, request), -1, 9)

        @rule(name=names, ahead=st.sampled_from([0.0, 30.0, 80.0, 1_000.0]), limit=limits)
        def due(self, name: str, ahead: float, limit: int) -> None:
            self.query(name, Due(self.twins.now + ahead), -1, limit)

        @rule(
            name=names,
            statuses=statuses,
            withdrawn=st.booleans(),
            ago=st.none() | st.integers(0, 6),
            after=st.integers(-1, 7),
            limit=limits,
        )
        def in_status(
            self, name: str, statuses: frozenset[RunStatus], ago: int | None, after: int, limit: int, *, withdrawn: bool
        ) -> None:
            with suppress(SweepNotFound):
                version = self.twins.memory.sweep(self.of(name)).version
                since = None if ago is None else version - ago
                self.query(name, InStatus(statuses, withdrawn, since), after, limit)

        def teardown(self) -> None:
            """Compare all that is stored, at the end of each example."""
            if hasattr(self, "twins"):
                for name in NAMES:
                    self.twins.compare(self.of(name))

    return Agreement


def check_agreement(storage: Storage, *, examples: int = 30, steps: int = 30) -> None:
    """Compare a storage with ``MemoryStorage`` in many examples; the same ones each time, unless a profile differs.

    Args:
        storage: what is compared.
        examples: how many.
        steps: how many commands, queries and so on in each, at most.

    Raises:
        AssertionError: they differ; the shortest way to it that was found is printed.
        ImportError: hypothesis is not installed.
    """
    try:
        from hypothesis import HealthCheck, Phase, settings  # noqa: PLC0415 - so that this package can do without it
    except ImportError as error:
        raise ImportError("check_agreement needs hypothesis: pip install hypothesis") from error
    from hypothesis.stateful import (  # noqa: PLC0415
        run_state_machine_as_test,  # pyright: ignore[reportUnknownVariableType] - it has no annotations
    )

    profile: Any = settings()
    chosen = settings.default is not settings.get_profile("default")  # somebody has loaded one that suits him
    run_state_machine_as_test(
        agreement_machine(storage),
        settings=settings(
            profile,
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=profile.derandomize if chosen else True,
            database=None,  # what failed on one storage need not fail on the next
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink],
            report_multiple_bugs=False,
        ),
    )
