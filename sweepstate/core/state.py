"""Snapshots: what a sweep, a run and a lease are at one version. Frozen values.

They are attrs classes without slots, because a decision builds the next
snapshot as a private copy and publishes it when it is complete: copying a
``__dict__`` and setting what changed costs a fraction of ``attrs.evolve``,
which calls a constructor of twenty fields. ``unpublished`` makes that copy, and
only ``evolve`` writes to one.
"""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import attrs

from .lifecycle import REVIVABLE, SWEEP_ENDED, RunRow, row_of
from .limits import Limits, Objective
from .status import Cause, RunStatus, SweepStatus, Word
from .values import EMPTY, FrozenDict

_T = TypeVar("_T")


class Completion(Word):
    """Who said that the search is complete, where it does not follow from counts."""

    EXHAUSTED = "exhausted"
    TARGET = "target"
    DECLARED = "declared"


@attrs.frozen(slots=False, kw_only=True)
class Lease:
    """One attempt in an agent's hands.

    It lasts until the execution is known to be gone, also when the run has its verdict already.

    Attributes:
        attempt: the attempt it is for.
        agent: the name of who has it.
        request_id: the request that it answered, if that had an id.
        attached: whether the agent is attached to the sweep and given orders; else it is a worker that asked.
        since: when it was handed out, or began, or promised heartbeats: the last sign of life that was a commit.
        began: whether the execution has begun.
        beats: whether heartbeats were promised, so that silence counts.
        execution: which execution it is, if that was said.
        stop_at: when it was asked to stop, or None.
        preempting: whether it said that it is being preempted.
        suspected_at: when its silence was first noted, or None.
        heard: the last sign that the suspicion knows of; a newer one voids it.
        launch_failures: how often its START failed.
        revoked_at: since its run was killed or requeued, or its last sign since; None while it counts.
        lost: given up to silence: listed, but it takes no slot and holds nothing up.
    """

    attempt: int
    agent: str
    request_id: str | None = None
    attached: bool = False
    since: float = 0.0
    began: bool = False
    beats: bool = False
    execution: str | None = None
    stop_at: float | None = None
    preempting: bool = False
    suspected_at: float | None = None
    heard: float | None = None
    launch_failures: int = 0
    revoked_at: float | None = None
    lost: bool = False


@attrs.frozen(slots=False, kw_only=True)
class RunState:
    """A run at one version of its sweep.

    Attributes:
        index: its number in the sweep, from 0.
        config: its configuration, which never changes.
        status: the verdict, or how it stands.
        status_version: the sweep's version at which the status last changed.
        attempt: its current attempt, from 1.
        lease: the attempt that is in somebody's hands: the current one or, until that is gone, an older one.
        cause: why it ended; None while it is active.
        message: what was said about the end.
        exit_code: of its process, where one was reported.
        signal: the number of the signal that ended it, where one was reported.
        metrics: what it reported with its end.
        created_at: POSIX seconds.
        started_at: when its current attempt began.
        ended_at: when it got its verdict.
        preemptions: how often it was requeued by preemption, since a person last retried it.
        failed_retries: how often it was requeued by itself after FAILED, since then.
        crashed_retries: how often after CRASHED.
        counted_in: the reopening of the sweep in which the failure rule has counted it; -1 for none.
        late: the attempts whose late report is recorded.
        due_at: when time next acts on it, or None; silence of a RUNNING attempt is found otherwise.
    """

    index: int
    config: FrozenDict
    status: RunStatus = RunStatus.PENDING
    status_version: int = 1
    attempt: int = 1
    lease: Lease | None = None
    cause: Cause | None = None
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    metrics: FrozenDict = EMPTY
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    preemptions: int = 0
    failed_retries: int = 0
    crashed_retries: int = 0
    counted_in: int = -1
    late: tuple[int, ...] = ()
    due_at: float | None = None

    @property
    def held(self) -> bool:
        """Whether its current attempt is in somebody's hands."""
        lease = self.lease
        return lease is not None and lease.attempt == self.attempt

    @property
    def blocked(self) -> bool:
        """Whether an older attempt may still be executing, so that it cannot be handed out."""
        lease = self.lease
        return lease is not None and not lease.lost

    @property
    def row(self) -> RunRow:
        """Its row in the table ``RUN``, in a sweep that is not CANCELLED."""
        plain = _UNGUARDED.get(self.status)
        if plain is not None:
            return plain
        lease = self.lease
        held = lease is not None and lease.attempt == self.attempt
        return row_of(self.status, held=held, lost=held and lease is not None and lease.lost)


#: The rows of statuses that no guard splits.
_UNGUARDED: dict[RunStatus, RunRow] = {
    status: row_of(status) for status in RunStatus if status not in (RunStatus.PENDING, RunStatus.CRASHED)
}


@attrs.frozen(slots=False, kw_only=True)
class Backlog:
    """A wish to retry many runs, taken up one by one as agents ask.

    Attributes:
        statuses: runs that ended in one of these are in it.
        withdrawn: runs that were withdrawn are in it too.
        version: if their status has not changed since this version of the sweep.
        cursor: up to this index they were taken up.
    """

    statuses: tuple[RunStatus, ...]
    withdrawn: bool
    version: int
    cursor: int = -1

    def wants(self, run: RunState) -> bool:
        """Return whether ``run`` is in it and not taken up yet."""
        return (
            run.index > self.cursor
            and run.status_version <= self.version
            and (run.status in self.statuses or (self.withdrawn and run.cause is Cause.WITHDRAWN))
        )


@attrs.frozen(slots=False, kw_only=True)
class SweepState:
    """A sweep at one version.

    Attributes:
        id: its id.
        version: how many commits it has seen.
        events: the number of its last event.
        at: POSIX seconds of its last event; never runs backwards.
        created_at: POSIX seconds.
        status: whether it creates runs.
        status_version: the version at which the status last changed.
        search: the search as plain data (``name`` and ``settings``), or None if it has no such form.
        size: how many points the search has, where that is known.
        limits: what bounds it.
        objective: what it is after.
        exhausted: whether the search said that it has nothing more.
        completed: whether a target or a person ended the search; see ``complete``.
        backlog: wishes to retry many runs, the oldest first.
        reopened: how often it was reopened.
        pending: how many runs are PENDING; ``running`` ... ``killed`` likewise.
        leased: how many leases take a slot.
        running_seconds: how long it was RUNNING, up to ``running_since``.
        running_since: since when it is RUNNING; None while it is not.
        first_start_at: when its first run started since it was created or reopened.
        rule_ended: how many ended runs the failure rule has seen since then.
        rule_failed: how many of them failed.
        rule_streak: how many failed since the last success.
        rule_early: how many failed within the first seconds that the rule names.
        best_index: the best finished run so far.
        best_value: its objective.
    """

    id: str
    version: int = 0
    events: int = 0
    at: float = 0.0
    created_at: float = 0.0
    status: SweepStatus = SweepStatus.RUNNING
    status_version: int = 1
    search: FrozenDict | None = None
    size: int | None = None
    limits: Limits = attrs.field(factory=Limits)
    objective: Objective | None = None
    exhausted: bool = False
    completed: Completion | None = None
    backlog: tuple[Backlog, ...] = ()
    reopened: int = 0
    pending: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    crashed: int = 0
    killed: int = 0
    leased: int = 0
    running_seconds: float = 0.0
    running_since: float | None = None
    first_start_at: float | None = None
    rule_ended: int = 0
    rule_failed: int = 0
    rule_streak: int = 0
    rule_early: int = 0
    best_index: int | None = None
    best_value: float | None = None

    @property
    def created(self) -> int:
        """How many runs were created; the next one has this index."""
        return self.pending + self.running + self.finished + self.failed + self.crashed + self.killed

    @property
    def active(self) -> int:
        """How many runs are PENDING or RUNNING."""
        return self.pending + self.running

    @property
    def counts(self) -> dict[RunStatus, int]:
        """How many runs have each status."""
        return {status: getattr(self, COUNTER[status]) for status in RunStatus}

    @property
    def complete(self) -> bool:
        """Whether the search proposes nothing more.

        True when it was exhausted, reached its target or was declared complete, when all points of a
        search of known size were taken, and when ``run_cap`` runs were created. The last follows from the
        counts, so raising the cap undoes it.
        """
        if self.exhausted or self.completed is not None:
            return True
        cap, size = self.limits.run_cap, self.size
        if cap is None and size is None:
            return False
        created = self.created
        return (cap is not None and created >= cap) or (size is not None and created >= size)

    @property
    def decided(self) -> bool:
        """Whether a person or a target ended the search, after which nothing is requeued."""
        return self.completed is not None

    @property
    def requeues(self) -> bool:
        """Whether a run that was preempted, or failed with retries left, is queued again."""
        return self.status in REVIVABLE and not self.decided

    @property
    def ended(self) -> bool:
        """Whether it is neither RUNNING nor PAUSED."""
        return self.status in SWEEP_ENDED

    @property
    def drained(self) -> bool:
        """Whether no run is active."""
        return not (self.pending or self.running)

    @property
    def done(self) -> bool:
        """Whether it has ended, is drained, and every execution is known to be gone or given up as lost."""
        return self.ended and self.drained and self.leased == 0

    def running_time(self, now: float) -> float:
        """Return the seconds it was RUNNING, until ``now``, since it was created or reopened."""
        since = self.running_since
        return self.running_seconds if since is None else self.running_seconds + (now - since)

    @property
    def time_limit_at(self) -> float | None:
        """When its time limit is over, in POSIX seconds, if it goes on RUNNING; None if it has none, or is not."""
        limit, since = self.limits.time_limit, self.running_since
        return None if limit is None or since is None else since + (limit - self.running_seconds)


#: The field of ``SweepState`` that counts the runs of each status.
COUNTER: dict[RunStatus, str] = {status: status.value.lower() for status in RunStatus}


_new = object.__new__
_set = object.__setattr__  # a frozen class refuses `copy.__dict__ = ...`


def unpublished(snapshot: _T) -> _T:
    """Return a private copy of a snapshot, whose ``__dict__`` may be written until it is published."""
    copy = _new(snapshot.__class__)
    if sys.version_info >= (3, 13):  # pragma: no cover - each version has its way
        # An instance has room for its values, which a dictionary from elsewhere would leave empty beside itself.
        copy.__dict__.update(snapshot.__dict__)
    else:
        # dict.copy keeps the keys shared between all snapshots, and is twice as fast as filling a dictionary.
        _set(copy, "__dict__", snapshot.__dict__.copy())
    return copy


def changed(snapshot: _T, **fields: Any) -> _T:
    """Return a copy of a snapshot with some fields changed: ``attrs.evolve`` without the constructor."""
    copy = _new(snapshot.__class__)
    content = snapshot.__dict__.copy()
    content.update(fields)
    _set(copy, "__dict__", content)
    return copy
