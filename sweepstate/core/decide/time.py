"""What time causes (layer E)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from ..events import Fate, LeaseEnded, Requeue, RevokedLeaseHeard, RunSuspected, SuspicionLifted
from ..lifecycle import ENDING, Exit, RunTrigger
from ..questions import Due, Silent
from ..state import Lease, RunState
from ..status import Cause, RunStatus
from .draft import Decision, Draft
from .report import End, give_verdict, manner_of, preempt
from .settle import kill, requeue, settle

#: How many runs one slice acts on.
SLICE: Final = 64


def elapse(draft: Draft, limit: int = SLICE) -> Decision[None]:
    """Decide what the time that has passed causes, for at most ``limit`` runs, by deadline and then index.

    Overdue stops, leases that never began, suspicions, losses, and the sweep's time limit.
    """
    if draft.sweep.leased:
        due = yield from draft.due(Due(draft.at), limit)
        yield from _act_on_due(draft, due)
        if len(due) < limit:
            yield from _suspect(draft, limit - len(due))
    yield from settle(draft)


def _act_on_due(draft: Draft, due: Sequence[RunState]) -> Decision[None]:
    heard = yield from _heard([run for run in due if _needs_hearing(run)], draft)
    for run in due:
        lease = cast(Lease, run.lease)  # only what is leased has a deadline
        if lease.revoked_at is not None:
            _revoked(draft, run, lease.revoked_at, heard.get(run.index))
        elif not lease.began:
            requeue(draft, run, Requeue.NOT_BEGUN, Fate.GONE)
        elif lease.suspected_at is not None and lease.suspected_at + draft.sweep.limits.suspicion <= draft.at:
            _suspected(draft, run, lease, heard.get(run.index))
        else:
            kill(draft, run, Cause.STOPPED)


def _needs_hearing(run: RunState) -> bool:
    lease = run.lease
    return lease is not None and (lease.revoked_at is not None or lease.suspected_at is not None)


def _heard(runs: Sequence[RunState], draft: Draft) -> Decision[dict[int, float]]:
    """Return the last heartbeat of each run's lease, where there was one, by index."""
    leases = [(run.index, run.lease.attempt) for run in runs if run.lease is not None]
    times = yield from draft.last_heard(leases)
    return {index: at for (index, _), at in zip(leases, times, strict=True) if at is not None}


def _revoked(draft: Draft, run: RunState, since: float, heard: float | None) -> None:
    """Give up an execution that nobody wants any more, unless it still shows signs of life."""
    lease = run.lease
    attempt = run.attempt if lease is None else lease.attempt
    if heard is not None and heard > since:
        draft.record(RevokedLeaseHeard, run, attempt, heard)
    else:
        draft.record(LeaseEnded, run, attempt, Fate.LOST)
        draft.rely_on_silence(run, attempt, since)


def _suspected(draft: Draft, run: RunState, lease: Lease, heard: float | None) -> None:
    """Take a second look at a silent execution: lost, unless anything newer than the suspicion was heard."""
    known = lease.since if lease.heard is None else lease.heard
    if heard is not None and heard > known:
        draft.record(SuspicionLifted, run, run.attempt, heard)
        return
    draft.rely_on_silence(run, run.attempt, known)
    trigger = ENDING[Exit.SILENCE][manner_of(run)]
    if trigger is RunTrigger.REQUEUE:
        preempt(draft, run, Fate.LOST)
    elif trigger is RunTrigger.KILL:
        kill(draft, run, Cause.STOPPED, Fate.LOST)
    else:
        report = End(Exit.SILENCE, f"nothing was heard of it for {max(0.0, draft.at - known):.0f} s")
        give_verdict(draft, run, RunStatus.CRASHED, Cause.LOST, Fate.LOST, report)


def _suspect(draft: Draft, limit: int) -> Decision[None]:
    """Note the executions that have been silent for too long; nothing happens to them yet."""
    runs = yield from draft.due(Silent(draft.at - draft.sweep.limits.heartbeat_timeout), limit)
    heard = yield from _heard(runs, draft)
    for run in runs:
        lease = run.lease
        if lease is None or run.status is not RunStatus.RUNNING:
            continue
        last = max(lease.since, heard.get(run.index, lease.since))
        draft.rely_on_silence(run, run.attempt, last)
        draft.record(RunSuspected, run, run.attempt, last)


def upcoming(draft: Draft) -> Decision[float | None]:
    """Return when time acts next, in POSIX seconds; None if never, as things stand. Changes nothing."""
    sweep = draft.sweep
    times = [] if sweep.time_limit_at is None else [sweep.time_limit_at]
    if sweep.leased:
        times += [run.due_at for run in (yield from draft.due(Due(_EVER), 1)) if run.due_at is not None]
        silent = yield from draft.due(Silent(_EVER), 1)
        heard = yield from _heard(silent, draft)
        for run in silent:
            since = 0.0 if run.lease is None else run.lease.since
            times.append(max(since, heard.get(run.index, since)) + sweep.limits.heartbeat_timeout)
    return min(times, default=None)


_EVER: Final = 1e18
