"""A decision in the making: the next snapshots, and the events that lead to them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, TypeVar, cast

import attrs

from ..errors import Conflict, InvalidValue, RunNotFound
from ..events import Event, RunCreated, RunEvent
from ..evolve import apply, new_run
from ..questions import (
    ByIndex,
    Due,
    InStatus,
    LastHeard,
    Leased,
    Question,
    Queued,
    Requested,
    Runs,
    Silent,
)
from ..state import RunState, SweepState, unpublished
from ..values import FrozenDict, check_count

T = TypeVar("T")
#: A decision: it yields questions, is sent their answers, and returns what the caller wanted to know.
Decision = Generator[Question, Any, T]

#: How many runs are read at a time.
PAGE: Final = 256

_BY_INDEX: Final = ByIndex()


@attrs.frozen
class Silence:
    """A silence that a commit acts on.

    Attributes:
        index: the run.
        attempt: the attempt.
        heard: the last sign the decision knows of; a later heartbeat makes the commit a Conflict.
    """

    index: int
    attempt: int
    heard: float


@attrs.frozen
class Change:
    """What one commit writes, all or nothing.

    Attributes:
        sweep_id: the sweep.
        version: the version it was decided on; 0 creates the sweep. Another one is a Conflict.
        sweep: the next snapshot, of version ``version + 1``.
        runs: the next snapshots of the runs that it concerns.
        events: what happened, at least one event.
        silences: the silences it acts on. A later heartbeat is a Conflict.
    """

    sweep_id: str
    version: int
    sweep: SweepState
    runs: tuple[RunState, ...]
    events: tuple[Event, ...]
    silences: tuple[Silence, ...] = ()


class Draft:
    """The next snapshots while a decision is being made.

    Reading methods are generators, to be driven with ``yield from``: they ask a question where the
    answer is not known, and they see what this decision has changed already. The runs they return
    are private copies that ``record`` writes to, so a caller always sees the newest state.

    Attributes:
        base: the snapshot that the decision is made on; None when the sweep is being created.
        sweep: the next snapshot, unpublished.
        at: POSIX seconds: the time of the decision, never before the sweep's last event.
        events: what happened so far.
    """

    __slots__ = ("_changed", "_known", "_silences", "_version", "actor", "at", "base", "events", "reason", "sweep")

    def __init__(self, base: SweepState, now: float, reason: str | None = None, actor: str | None = None) -> None:
        self.base: SweepState = base
        self.sweep: SweepState = unpublished(base)
        self.at: float = max(now, base.at)
        self.reason: str | None = reason
        self.actor: str | None = actor
        self.events: list[Event] = []
        self._version = base.version + 1
        self._known: dict[int, RunState] = {}
        self._changed: dict[int, RunState] = {}
        self._silences: tuple[Silence, ...] = ()

    # --- writing ---------------------------------------------------------------------------------

    def note(self, kind: Callable[..., Event], *fields: object) -> None:
        """Record an event of the sweep; ``fields`` are those after the common ones."""
        sweep = self.sweep
        event = kind(sweep.events + 1, self._version, self.at, self.reason, self.actor, *fields)
        apply(sweep, None, event)
        self.events.append(event)

    def record(self, kind: Callable[..., RunEvent], run: RunState, attempt: int, *fields: object) -> None:
        """Record an event of a run that this draft has returned; ``fields`` are those after the attempt."""
        sweep = self.sweep
        index = run.index
        event = kind(sweep.events + 1, self._version, self.at, self.reason, self.actor, index, attempt, *fields)
        apply(sweep, run, event)
        self._changed[index] = run
        self.events.append(event)

    def create(self, config: FrozenDict, agent: str, request_id: str | None, *, attached: bool) -> RunState:
        """Record that the next run is created and handed out; return it."""
        sweep = self.sweep
        index = sweep.created
        number = sweep.events + 1
        event = RunCreated(
            number, self._version, self.at, self.reason, self.actor, index, 1, agent, request_id, attached, config
        )
        run = new_run(event)
        apply(sweep, run, event)
        self._known[index] = self._changed[index] = run
        self.events.append(event)
        return run

    def rely_on_silence(self, run: RunState, attempt: int, heard: float) -> None:
        """Make the commit conditional on nothing having been heard of the attempt since ``heard``."""
        self._silences += (Silence(run.index, attempt, heard),)

    def change(self) -> Change | None:
        """Return what is to be committed; None if nothing happened."""
        if not self.events:
            return None
        sweep = self.sweep
        return Change(
            sweep.id,
            self._version - 1,
            sweep,
            tuple(self._changed.values()),
            tuple(self.events),
            self._silences,
        )

    # --- reading ---------------------------------------------------------------------------------

    def run(self, index: int) -> Decision[RunState]:
        """Return one run.

        Raises:
            RunNotFound: there is none of this index.
        """
        known = self._known.get(index)
        if known is not None:
            return known
        rows: Sequence[RunState] = yield Runs(_BY_INDEX, index - 1, 1)
        if not rows or rows[0].index != index:
            raise RunNotFound(self.sweep.id, index, self.sweep.created)
        return self._own(rows[0])

    def tell(self, run: RunState) -> None:
        """Answer beforehand what the decision is going to ask: a run, read after the sweep's snapshot was."""
        self._known[run.index] = unpublished(run)

    def _own(self, run: RunState) -> RunState:
        """Return the private copy of a run."""
        known = self._known.get(run.index)
        if known is None:
            known = self._known[run.index] = unpublished(run)
        return known

    def first(self, query: Queued | InStatus | Requested, after: int = -1) -> Decision[RunState | None]:
        """Return the run of lowest index that a query means, as this decision sees it, or None."""
        rows: Sequence[RunState] = yield Runs(query, after, 1 + len(self._changed))
        if not self._changed:
            return self._own(rows[0]) if rows else None
        found = [row for row in rows if row.index not in self._changed][:1]
        found += [run for run in self._changed.values() if run.index > after and query.matches(run)]
        return self._own(min(found, key=_index)) if found else None

    def all(self, query: Leased | InStatus) -> Decision[list[RunState]]:
        """Return every run that a query means, as this decision sees it, in index order.

        Only for what is bounded by the number of active or leased runs.
        """
        found: list[RunState] = []
        after = -1
        while True:
            rows: Sequence[RunState] = yield Runs(query, after, PAGE)
            found += [self._own(row) for row in rows if row.index not in self._changed]
            if len(rows) < PAGE:
                break
            after = rows[-1].index
        found += [run for run in self._changed.values() if query.matches(run)]
        return sorted(found, key=_index)

    def due(self, query: Due | Silent, limit: int) -> Decision[list[RunState]]:
        """Return the first runs that time acts on; asked before anything has changed."""
        rows: Sequence[RunState] = yield Runs(query, -1, limit)
        return [self._own(row) for row in rows]

    def last_heard(self, leases: Sequence[tuple[int, int]]) -> Decision[Sequence[float | None]]:
        """Return when each attempt, given as index and attempt, last sent a heartbeat."""
        if not leases:
            return ()
        heard: Sequence[float | None] = yield LastHeard(tuple(leases))
        return heard


def _index(run: RunState) -> int:
    return run.index


def expect(sweep: SweepState, if_version: int | None, status_version: int) -> None:
    """Refuse a command that was aimed at a status which has changed since.

    Args:
        sweep: the sweep that it was sent to.
        if_version: the version the sender saw; None does not ask.
        status_version: the version at which the status last changed.

    Raises:
        Conflict: the status has changed since; final, the command must not be sent again unseen.
        InvalidValue: there is no such version yet.
    """
    if if_version is None:
        return
    check_count(if_version, "if_version", least=1)
    if if_version > sweep.version:
        raise InvalidValue(
            "if_version",
            f"is {if_version}, but sweep {sweep.id!r} is at version {sweep.version}",
            "give a version you saw",
        )
    if status_version > if_version:
        raise Conflict(sweep.id, if_version, status_version, "the status has changed since if_version; look again")


def drive(decision: Decision[T], answer: Callable[[Question], object]) -> T:
    """Run a decision to its end, answering its questions."""
    given: object = None
    while True:
        try:
            question = decision.send(given)
        except StopIteration as end:
            return cast(T, end.value)
        given = answer(question)
