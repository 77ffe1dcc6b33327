"""Commands on the sweep: its five, its two declarations, completion, limits, and second chances (layers A, B, F, G)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..errors import IllegalTransition, InvalidValue
from ..events import BacklogAdded, DeadlineMoved, LimitsChanged, SweepCreated, SweepStatusChanged
from ..evolve import apply, begin, deadline
from ..lifecycle import RETRYABLE, REVIVABLE, SWEEP, Mark, SweepTrigger, allowed, refusal
from ..limits import Limits, Objective
from ..questions import Leased
from ..state import Completion, SweepState
from ..status import RunStatus, SweepStatus
from ..values import FrozenDict, check_collection, show
from .draft import Change, Decision, Draft, expect
from .settle import complete_search, move_sweep, settle


def create(
    sweep_id: str,
    now: float,
    *,
    search: FrozenDict | None,
    size: int | None,
    limits: Limits,
    objective: Objective | None,
    reason: str | None = None,
    actor: str | None = None,
) -> Change:
    """Return the change that creates a sweep at version 1: RUNNING, or FINISHED if its search has no points."""
    created = SweepCreated(1, 1, now, reason, actor, sweep_id, search, size, limits, objective)
    sweep = begin(created)
    if sweep.complete:
        why = "the search has no points"
        finished = SweepStatusChanged(2, 1, now, why, None, SweepTrigger.FINISH, SweepStatus.FINISHED)
        apply(sweep, None, finished)
        return Change(sweep_id, 0, sweep, (), (created, finished))
    return Change(sweep_id, 0, sweep, (), (created,))


def move(draft: Draft, trigger: SweepTrigger, if_version: int | None = None) -> Decision[None]:
    """Decide a command or a fact about the sweep, all but ``reopen`` and ``finish``.

    Raises:
        IllegalTransition: the table refuses it.
        Conflict: the status has changed since ``if_version``.
    """
    expect(draft.base, if_version, draft.base.status_version)
    if (yield from move_sweep(draft, trigger)):
        yield from settle(draft)


def reopen(draft: Draft, statuses: Collection[RunStatus] = (), if_version: int | None = None) -> Decision[None]:
    """Decide to undo a deliberate end, and to take up withdrawn runs and those that ended in ``statuses``.

    Raises:
        IllegalTransition: the sweep has not ended on purpose, or it is RUNNING and there is something to retry.
        Conflict: the status has changed since ``if_version``.
        InvalidValue: a status cannot be retried.
    """
    wanted = _retryable(statuses, "retry")
    sweep = draft.sweep
    expect(draft.base, if_version, sweep.status_version)
    if wanted and SWEEP[sweep.status][SweepTrigger.REOPEN] is Mark.SAME:
        error = refusal(sweep.status, SweepTrigger.REOPEN, id=sweep.id)
        options = tuple(option for option in error.allowed if option != SweepTrigger.REOPEN)
        asked = "retry runs by reopening"
        raise IllegalTransition("sweep", sweep.id, sweep.status, asked, (*options, "retry"), "it is open; retry() them")
    if (yield from move_sweep(draft, SweepTrigger.REOPEN)):
        draft.note(BacklogAdded, wanted, True)
        yield from settle(draft)


def retry_statuses(draft: Draft, statuses: Collection[RunStatus], if_version: int | None = None) -> Decision[None]:
    """Decide to take up again, one by one as agents ask, the runs that ended in these statuses.

    Raises:
        IllegalTransition: the sweep was ended, or its search was ended on purpose.
        Conflict: the sweep's status has changed since ``if_version``.
        InvalidValue: no status is given, or one that cannot be retried.
    """
    wanted = _retryable(statuses, "statuses")
    if not wanted:
        raise InvalidValue("statuses", "is empty", "name at least one of FAILED, CRASHED and KILLED")
    expect(draft.base, if_version, draft.base.status_version)
    check_accepts_retry(draft.sweep)
    draft.note(BacklogAdded, wanted, False)
    yield from settle(draft)


def _retryable(statuses: Collection[RunStatus], field: str) -> tuple[RunStatus, ...]:
    names = ", ".join(sorted(RETRYABLE))
    if isinstance(statuses, str):
        raise InvalidValue(field, f"must be a set of statuses, not {show(statuses)}", f"e.g. {{RunStatus.{statuses}}}")
    for status in check_collection(statuses, field):
        if not isinstance(status, str) or status not in RETRYABLE:
            raise InvalidValue(field, f"{show(status)} cannot be retried", f"use {names}")
    return tuple(sorted({RunStatus(status) for status in statuses}))


def check_accepts_retry(sweep: SweepState) -> None:
    """Refuse to queue a run again in a sweep that was ended, or whose search was ended on purpose."""
    if sweep.requeues:
        return
    ended = sweep.status not in REVIVABLE
    options = ("reopen",) if ended else tuple(sorted(allowed(sweep.status)))
    remedy = (
        "reopen it first, with what is to be retried"
        if ended
        else "its search was ended on purpose; let it finish, then reopen it"
    )
    raise IllegalTransition("sweep", sweep.id, sweep.status, "retry runs of", options, remedy)


def complete(draft: Draft, if_version: int | None = None) -> Decision[None]:
    """Decide that the search has proposed enough: nothing more is created or requeued.

    Raises:
        IllegalTransition: the sweep was ended otherwise.
        Conflict: the status has changed since ``if_version``.
    """
    sweep = draft.sweep
    expect(draft.base, if_version, sweep.status_version)
    if sweep.status is SweepStatus.FINISHED or sweep.completed is not None:
        return
    if sweep.status not in REVIVABLE:
        options = tuple(sorted(allowed(sweep.status)))
        raise IllegalTransition(
            "sweep", sweep.id, sweep.status, "complete", options, "it has ended; it proposes nothing"
        )
    yield from complete_search(draft, Completion.DECLARED)
    yield from settle(draft)


def set_limits(draft: Draft, changes: Mapping[str, Any], if_version: int | None = None) -> Decision[None]:
    """Decide that other limits hold; what they reach is decided in the same commit.

    Raises:
        InvalidValue: a name is no limit, or a value is out of its range.
        Conflict: the status has changed since ``if_version``.
    """
    expect(draft.base, if_version, draft.base.status_version)
    limits = draft.sweep.limits.replace(changes)
    if limits == draft.sweep.limits:
        return
    draft.note(LimitsChanged, limits)
    for run in (yield from draft.all(Leased(presumed=False))):
        if deadline(run, limits) != run.due_at:
            draft.record(DeadlineMoved, run, run.attempt)
    yield from settle(draft)
