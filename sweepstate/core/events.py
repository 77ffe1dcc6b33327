"""What happened: frozen, past tense, numbered from 1 without gaps.

The snapshots of a sweep and its runs are a fold over these (``evolve``), so an
event carries whatever its decision used that no other event tells: a heartbeat,
a deadline, whether the failure rule counts an end.

A history keeps every one of them, so they have no slot for weak references:
that is 24 bytes each.
"""

from __future__ import annotations

import attrs

from .lifecycle import RunTrigger, SweepTrigger
from .limits import Limits, Objective
from .state import Completion
from .status import Cause, RunStatus, SweepStatus, Word
from .values import EMPTY, FrozenDict


class Fate(Word):
    """What became of a run's lease."""

    GONE = "gone"
    LOST = "lost"
    KEPT = "kept"


class Requeue(Word):
    """Why a run was queued again."""

    RELEASED = "released"
    NOT_BEGUN = "not begun in time"
    PREEMPTED = "preempted"
    LIMIT = "retried by limit"
    PERSON = "retried"
    BACKLOG = "taken up from the backlog"


class OrderKind(Word):
    """What an agent is asked to do."""

    START = "start"
    STOP = "stop"
    KILL = "kill"


@attrs.frozen(weakref_slot=False)
class Event:
    """Something that happened to a sweep.

    Attributes:
        number: 1, 2, 3, ... in the sweep, without gaps.
        version: the sweep's version whose commit it belongs to.
        at: POSIX seconds; never before the event before it.
        reason: why, if somebody said.
        actor: who, if somebody said.
    """

    number: int
    version: int
    at: float
    reason: str | None
    actor: str | None


@attrs.frozen(weakref_slot=False)
class SweepCreated(Event):
    """A sweep was created, RUNNING."""

    sweep_id: str
    search: FrozenDict | None
    size: int | None
    limits: Limits
    objective: Objective | None


@attrs.frozen(weakref_slot=False)
class SweepStatusChanged(Event):
    """A sweep's status moved by ``trigger``."""

    trigger: SweepTrigger
    status: SweepStatus


@attrs.frozen(weakref_slot=False)
class LimitsChanged(Event):
    """Other limits hold from here on."""

    limits: Limits


@attrs.frozen(weakref_slot=False)
class SearchCompleted(Event):
    """The search was exhausted, reached its target, or was declared complete."""

    cause: Completion


@attrs.frozen(weakref_slot=False)
class BacklogAdded(Event):
    """Runs that ended in one of ``statuses``, or were withdrawn, are to be taken up again."""

    statuses: tuple[RunStatus, ...]
    withdrawn: bool


@attrs.frozen(weakref_slot=False)
class BacklogEmptied(Event):
    """Nothing is left of the oldest wish in the backlog."""


@attrs.frozen(weakref_slot=False)
class RunEvent(Event):
    """Something that happened to one run.

    Attributes:
        index: the run.
        attempt: the attempt it happened to.
    """

    index: int
    attempt: int


@attrs.frozen(weakref_slot=False)
class RunHandedOut(RunEvent):
    """An agent has the run; ``attached`` tells whether it was ordered to, or asked for it."""

    agent: str
    request_id: str | None
    attached: bool


@attrs.frozen(weakref_slot=False)
class RunCreated(RunHandedOut):
    """A run was created and handed out."""

    config: FrozenDict


@attrs.frozen(weakref_slot=False)
class RunStarted(RunEvent):
    """The execution began; ``heartbeats`` tells whether it promised them."""

    execution: str | None
    heartbeats: bool


@attrs.frozen(weakref_slot=False)
class HeartbeatsPromised(RunEvent):
    """The first heartbeat of an execution that began without promising them."""


@attrs.frozen(weakref_slot=False)
class RunPreempting(RunEvent):
    """The execution said that it is being preempted."""


@attrs.frozen(weakref_slot=False)
class StopRequested(RunEvent):
    """The execution was asked to end."""


@attrs.frozen(weakref_slot=False)
class RunSuspected(RunEvent):
    """The execution was silent for too long; ``heard`` is its last sign."""

    heard: float


@attrs.frozen(weakref_slot=False)
class SuspicionLifted(RunEvent):
    """A sign newer than the suspicion was heard."""

    heard: float


@attrs.frozen(weakref_slot=False)
class RevokedLeaseHeard(RunEvent):
    """An execution whose run was killed or requeued is still alive, as of ``heard``."""

    heard: float


@attrs.frozen(weakref_slot=False)
class RunEnded(RunEvent):
    """A run got its verdict, or a presumption of loss was corrected.

    Attributes:
        status: FINISHED, FAILED, CRASHED or KILLED.
        cause: why.
        fate: what became of the lease.
        counts: whether the failure rule counts it.
        message: what was said about it.
        exit_code: of the process, where reported.
        signal: that ended it, where reported.
        metrics: what it reported with its end.
    """

    status: RunStatus
    cause: Cause
    fate: Fate
    counts: bool
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    metrics: FrozenDict = EMPTY


@attrs.frozen(weakref_slot=False)
class RunRequeued(RunEvent):
    """A run was queued again; ``attempt`` is the next one."""

    cause: Requeue
    fate: Fate


@attrs.frozen(weakref_slot=False)
class OrderFailed(RunEvent):
    """An agent's hook raised; the order stays outstanding."""

    order: OrderKind
    message: str


@attrs.frozen(weakref_slot=False)
class LateReport(RunEvent):
    """An end was reported after the verdict, or by an execution that does not count; the verdict stands."""

    trigger: RunTrigger
    fate: Fate
    execution: str | None = None
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    metrics: FrozenDict = EMPTY


@attrs.frozen(weakref_slot=False)
class LeaseEnded(RunEvent):
    """An execution without a say is known to be gone, or is given up as lost."""

    fate: Fate


@attrs.frozen(weakref_slot=False)
class DeadlineMoved(RunEvent):
    """Changed limits moved the time at which time acts on the run."""


#: Every event there is, by name.
EVENTS: dict[str, type[Event]] = {
    cls.__name__: cls
    for cls in (
        SweepCreated,
        SweepStatusChanged,
        LimitsChanged,
        SearchCompleted,
        BacklogAdded,
        BacklogEmptied,
        RunCreated,
        RunHandedOut,
        RunStarted,
        HeartbeatsPromised,
        RunPreempting,
        StopRequested,
        RunSuspected,
        SuspicionLifted,
        RevokedLeaseHeard,
        RunEnded,
        RunRequeued,
        OrderFailed,
        LateReport,
        LeaseEnded,
        DeadlineMoved,
    )
}
