# ruff: noqa: S101 - a contract is made of assertions; its random numbers are to be the same each time
"""A sweep that is driven through the core, on a clock of its own, in whatever storage is under test.

The handles would do as well, but they take turns within a process and use the
storage's clock where it has one; a contract wants contention, and the same times
everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from ...core import decide as core
from ...core.decide import Change, Decided, Decision, Draft, End
from ...core.errors import IllegalTransition, SweepNotFound
from ...core.events import Event
from ...core.evolve import replay
from ...core.lifecycle import RUN_ENDED, Exit, SweepTrigger
from ...core.limits import Limits, Objective
from ...core.plain import to_dict
from ...core.questions import ByIndex, Due, Exhausted, LastHeard, Question, RunQuery, Runs, Silent
from ...core.state import RunState, SweepState
from ...core.status import RunStatus
from ...core.values import FrozenDict, freeze_mapping
from ...hooks import Heartbeats, Storage
from ..clock import ManualClock
from ..laws import check_state

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: When these sweeps begin, in POSIX seconds; with a fraction that no short decimal number has.
DAWN: Final = 1_000_000.1
#: How many rows are read at a time.
PAGE: Final = 500
LIMITS: Final = Limits(heartbeat_timeout=300, suspicion=60, start_timeout=250, stop_grace=30, max_preemptions=2)


class Beating(Storage, Heartbeats, Protocol):
    """A storage with heartbeats."""


class World:
    """One sweep in a storage.

    Args:
        storage: where it lives.
        sweep_id: its id.
        limits: what bounds it, if it is created.
        size: how many points its search has; None for endlessly many.
        objective: what it is after.
        clock: the time.
        propose: returns the configuration of a run; ``{"x": index}`` if it is not given.
        create: create it; else it is there.
    """

    def __init__(
        self,
        storage: Storage,
        sweep_id: str = "s",
        *,
        limits: Limits = LIMITS,
        size: int | None = None,
        objective: Objective | None = None,
        clock: ManualClock | None = None,
        propose: Callable[[int], Mapping[str, Any]] | None = None,
        create: bool = True,
    ) -> None:
        self.storage = storage
        self.id = sweep_id
        self.size = size
        self.clock: ManualClock = ManualClock(DAWN) if clock is None else clock
        self.heartbeats: Heartbeats | None = storage if isinstance(storage, Heartbeats) else None
        self.propose: Callable[[int], Mapping[str, Any]] = (lambda index: {"x": index}) if propose is None else propose
        #: The version after the last commit that was made here.
        self.version: int = 0
        if create:
            self.commit(core.create(sweep_id, self.clock(), search=None, size=size, limits=limits, objective=objective))

    # --- deciding and committing -----------------------------------------------------------------

    def answer(self, question: Question) -> object:
        """Answer what a decision asks."""
        if isinstance(question, Runs):
            if self.heartbeats is None and isinstance(question.query, Silent):
                return ()
            return self.storage.runs(self.id, question.query, after=question.after, limit=question.limit)
        if isinstance(question, LastHeard):
            if self.heartbeats is None:
                return (None,) * len(question.leases)
            return self.heartbeats.last_heard(self.id, question.leases)
        return freeze_mapping(self.propose(question.index), "config") if self._has(question.index) else Exhausted()

    def _has(self, index: int) -> bool:
        return self.size is None or index < self.size

    def decide(
        self, command: Callable[Concatenate[Draft, _P], Decision[_T]], *args: _P.args, **kwargs: _P.kwargs
    ) -> Decided[_T]:
        """Decide a command on what the storage holds; nothing is committed."""
        return core.decide(command, self.storage.sweep(self.id), self.answer, self.clock())(*args, **kwargs)

    def change(
        self, command: Callable[Concatenate[Draft, _P], Decision[_T]], *args: _P.args, **kwargs: _P.kwargs
    ) -> Change:
        """Decide a command that changes something, and return what is to be committed."""
        change = self.decide(command, *args, **kwargs).change
        if change is None:
            raise AssertionError(f"{command.__name__} was to change something, and does not")
        return change

    def do(self, command: Callable[Concatenate[Draft, _P], Decision[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Decide a command and commit it, once."""
        decided = self.decide(command, *args, **kwargs)
        if decided.change is not None:
            self.commit(decided.change)
        return decided.value

    def commit(self, change: Change) -> None:
        """Commit a change."""
        self.storage.commit(change)
        self.version = change.version + 1

    # --- shorthands ------------------------------------------------------------------------------

    def take(self, agent: str = "worker", request_id: str | None = None, *, begin: bool = False) -> RunState:
        """Ask for a run, and get one."""
        run = self.do(core.next_run, agent, request_id, begin=begin)
        assert isinstance(run, RunState), f"there was to be a run, and the answer is {run}"
        return run

    def take_many(self, count: int, agent: str = "worker") -> None:
        """Create so many runs, all held by one agent, in one commit."""
        self.do(_create_many, count, agent)

    def promise(self, agent: str = "worker") -> RunState:
        """Take a run, and start it with a promise of heartbeats."""
        run = self.take(agent)
        self.do(core.start, run.index, run.attempt, None, heartbeats=True)
        return self.run(run.index)

    def finish(self, index: int, **metrics: float) -> None:
        """Let the current attempt of a run finish."""
        report = End(Exit.SUCCESS, metrics=FrozenDict(metrics))
        self.do(core.end, index, self.run(index).attempt, None, report)

    def fail(self, index: int) -> None:
        """Let the current attempt of a run fail."""
        self.do(core.end, index, self.run(index).attempt, None, End(Exit.ERROR, "boom", 1))

    def elapse(self, seconds: float = 0.0) -> None:
        """Let time pass, and act once."""
        self.clock.advance(seconds)
        self.do(core.elapse)

    # --- looking ---------------------------------------------------------------------------------

    @property
    def sweep(self) -> SweepState:
        """The sweep's snapshot, as it is stored."""
        return self.storage.sweep(self.id)

    def run(self, index: int) -> RunState:
        """Return a run's snapshot, as it is stored."""
        rows = self.storage.runs(self.id, ByIndex(), after=index - 1, limit=1)
        assert [row.index for row in rows] == [index], f"run {index} was to be found, and {rows} was"
        return rows[0]


def _create_many(draft: Draft, count: int, agent: str) -> Decision[None]:
    """Decide to hand out many runs at once, as no command does, so that one commit has many rows."""
    for _ in range(count):
        draft.create(FrozenDict(x=draft.sweep.created), agent, None, attached=False)
    yield from ()


# --- all that is stored --------------------------------------------------------------------------


def all_runs(storage: Storage, sweep_id: str) -> list[RunState]:
    """Return every run, read page by page."""
    found: list[RunState] = []
    while page := storage.runs(sweep_id, ByIndex(), after=len(found) - 1, limit=PAGE):
        found += page
    return found


def all_events(storage: Storage, sweep_id: str) -> list[Event]:
    """Return the whole history, read page by page."""
    found: list[Event] = []
    while page := storage.events(sweep_id, after=len(found), limit=PAGE):
        found += page
    return found


def text(values: SweepState | Iterable[RunState] | Iterable[Event]) -> str:
    """Return snapshots or events as JSON: equal texts are equal to the byte, NaN and the sign of zero included."""
    if isinstance(values, SweepState):
        return json.dumps(to_dict(values))
    return json.dumps([to_dict(value) for value in values])


def everything(storage: Storage, sweep_id: str) -> str:
    """Return all that is stored of a sweep as JSON: snapshot, runs, history, signs of life. Or that it is not there."""
    try:
        sweep = storage.sweep(sweep_id)
    except SweepNotFound:
        return "nothing"
    runs = all_runs(storage, sweep_id)
    signs: list[object] = []
    if isinstance(storage, Heartbeats):
        leases = [(run.index, attempt) for run in runs for attempt in range(1, run.attempt + 1)]
        signs = [*storage.last_heard(sweep_id, leases), *(storage.last_metrics(sweep_id, run.index) for run in runs)]
    return "\n".join([text(sweep), text(runs), text(all_events(storage, sweep_id)), json.dumps(signs)])


def assert_whole(storage: Storage, sweep_id: str) -> None:
    """Assert that the history leads to exactly what is stored, and that the counts are what is counted."""
    replayed = replay(all_events(storage, sweep_id))
    stored, runs = storage.sweep(sweep_id), all_runs(storage, sweep_id)
    assert text(stored) == text(replayed.sweep), "the history does not lead to the snapshot"
    assert text(runs) == text(replayed.runs[index] for index in sorted(replayed.runs)), "nor to these runs"
    check_state(stored, runs)


def heard_of(storage: Storage, sweep_id: str, runs: Sequence[RunState]) -> dict[int, float]:
    """Return when the leased attempt of each run was last heard, by index."""
    leases = [(run.index, run.lease.attempt) for run in runs if run.lease is not None]
    beats = storage.last_heard(sweep_id, leases) if isinstance(storage, Heartbeats) else [None] * len(leases)
    signs = {index: beat for (index, _), beat in zip(leases, beats, strict=True)}
    since = {run.index: run.lease.since for run in runs if run.lease is not None}
    return {index: max(at, signs[index] or at) for index, at in since.items()}


def select(query: RunQuery, runs: Sequence[RunState], heard: Mapping[int, float]) -> list[int]:
    """Return what a query means, found by looking at every run: the oracle of every storage."""
    if isinstance(query, Due):
        due = sorted((run.due_at, run.index) for run in runs if run.due_at is not None and query.matches(run))
        return [index for _, index in due]
    if isinstance(query, Silent):
        silent = sorted((heard[run.index], run.index) for run in runs if query.watches(run))
        return [index for at, index in silent if at <= query.since]
    return [run.index for run in runs if query.matches(run)]


# --- any order of moves --------------------------------------------------------------------------

AGENTS: Final = ("ada", "Ada", "ada ")
REQUESTS: Final = ("r1", "R1", None, None)
_RETRYABLE: Final = (RunStatus.FAILED, RunStatus.CRASHED, RunStatus.KILLED)


def _pick(world: World, random: Random) -> tuple[int, int] | None:
    """Return some run and one of its attempts, mostly a newer run and its newest attempt."""
    created = world.sweep.created
    if not created:
        return None
    index = created - 1 - int(random.random() ** 2 * created)
    attempt = world.run(index).attempt
    return index, max(1, attempt - (random.random() < 0.1))


def _of_a_run(act: Callable[[World, Random, int, int], object]) -> Callable[[World, Random], None]:
    def move(world: World, random: Random) -> None:
        picked = _pick(world, random)
        if picked is not None:
            act(world, random, *picked)

    return move


def _ask(world: World, random: Random) -> None:
    world.do(core.next_run, random.choice(AGENTS), random.choice(REQUESTS), begin=random.random() < 0.2)


def _start(world: World, random: Random, index: int, attempt: int) -> None:
    world.do(core.start, index, attempt, None, heartbeats=random.random() < 0.8)


def _sign(world: World, random: Random, index: int, attempt: int) -> None:
    sign = world.do(core.heartbeat, index, attempt, None, promise=world.heartbeats is not None)
    if sign.keep and world.heartbeats is not None:
        metrics = random.choice([None, {"loss": random.random()}])
        world.heartbeats.beat(world.id, index, attempt, world.clock() - random.choice([0, 0, 50]), metrics)


def _end(world: World, random: Random, index: int, attempt: int) -> None:
    how = random.choice([Exit.SUCCESS, Exit.SUCCESS, Exit.ERROR, Exit.SIGNAL, Exit.INTERRUPT])
    world.do(core.end, index, attempt, None, End(how, "said", 1, None, FrozenDict(loss=random.random())))


def _time(world: World, random: Random) -> None:
    world.elapse(random.choice([0.1, 20.0, 60.0, 150.0, 301.0]))


def _move(*triggers: SweepTrigger) -> Callable[[World, Random], None]:
    return lambda world, random: world.do(core.move, random.choice(triggers))


def _reopen(world: World, random: Random) -> None:
    world.do(core.reopen, {status for status in _RETRYABLE if random.random() < 0.5})


def _retry_all(world: World, random: Random) -> None:
    world.do(core.retry_statuses, {random.choice(_RETRYABLE)})


def _set_limits(world: World, random: Random) -> None:
    world.do(core.set_limits, {"stop_grace": random.choice([10.0, 30.0]), "max_active": random.choice([None, 12])})


_MOVES: Final[dict[Callable[[World, Random], None], int]] = {
    _ask: 9,
    _of_a_run(_start): 7,
    _of_a_run(_sign): 5,
    _of_a_run(_end): 4,
    _time: 5,
    _of_a_run(lambda world, _random, index, attempt: world.do(core.mark_preempting, index, attempt, None)): 1,
    _of_a_run(lambda world, _random, index, attempt: world.do(core.gone, index, attempt)): 2,
    _of_a_run(lambda world, _random, index, attempt: world.do(core.release, index, attempt)): 2,
    _of_a_run(lambda world, _random, index, _attempt: world.do(core.stop_run, index)): 2,
    _of_a_run(lambda world, _random, index, _attempt: world.do(core.kill_run, index)): 1,
    _of_a_run(lambda world, _random, index, _attempt: world.do(core.retry_run, index)): 2,
    _move(SweepTrigger.PAUSE, SweepTrigger.STOP, SweepTrigger.CRASH): 1,
    _move(SweepTrigger.CANCEL): 1,
    _move(SweepTrigger.RESUME): 2,
    _reopen: 3,
    _retry_all: 1,
    _set_limits: 1,
}


def wander(world: World, random: Random, steps: int) -> None:
    """Do so many things to a sweep, in an order that the random numbers decide; what is refused is left."""
    for move in random.choices(list(_MOVES), list(_MOVES.values()), k=steps):
        with suppress(IllegalTransition):
            move(world, random)


#: Statuses as ``InStatus`` takes them.
STATUSES: Final = (*(frozenset({status}) for status in RunStatus), RUN_ENDED)
