"""Moving the sweep, and what limits and completion cause in the same commit (layers A and G)."""

from __future__ import annotations

from ..events import BacklogEmptied, Fate, Requeue, RunEnded, RunRequeued, SearchCompleted, SweepStatusChanged
from ..lifecycle import KILLS, STATUS_OF, SWEEP, Mark, RunRow, SweepTrigger, refusal
from ..limits import FailureRule
from ..questions import InStatus
from ..state import Backlog, Completion, RunState, SweepState
from ..status import Cause, RunStatus, SweepStatus
from .draft import Decision, Draft

_PENDING = InStatus(frozenset({RunStatus.PENDING}))
_RUNNING = SweepStatus.RUNNING


def move_sweep(draft: Draft, trigger: SweepTrigger) -> Decision[bool]:
    """Move the sweep by a trigger, with what that does to its runs; return whether anything changed.

    Raises:
        IllegalTransition: the table refuses it.
    """
    sweep = draft.sweep
    cell = SWEEP[sweep.status][trigger]
    if cell is Mark.REFUSED:
        raise refusal(sweep.status, trigger, id=sweep.id)
    if isinstance(cell, Mark):
        return False
    draft.note(SweepStatusChanged, trigger, cell)
    yield from _kill_runs(draft)
    return True


def _kill_runs(draft: Draft) -> Decision[None]:
    """Kill the runs that the sweep's new status ends."""
    causes = KILLS[draft.sweep.status]
    if not causes:
        return
    statuses = frozenset(STATUS_OF[row] for row in causes)
    for run in (yield from draft.all(InStatus(statuses))):
        kill(draft, run, causes[run.row])


def kill(draft: Draft, run: RunState, cause: Cause, fate: Fate = Fate.KEPT) -> None:
    """Record that an active run is KILLED; its lease lasts until the execution is gone, or as ``fate`` says."""
    draft.record(RunEnded, run, run.attempt, RunStatus.KILLED, cause, fate, False)


def withdraw_queued(draft: Draft) -> Decision[None]:
    """Kill what is queued, because the search is complete and nothing more is wanted."""
    for run in (yield from draft.all(_PENDING)):
        if run.row is RunRow.QUEUED:
            kill(draft, run, Cause.WITHDRAWN)


def complete_search(draft: Draft, cause: Completion) -> Decision[None]:
    """Record that the search is complete; a target or a declaration also withdraws what is queued."""
    draft.note(SearchCompleted, cause)
    if draft.sweep.decided:
        yield from withdraw_queued(draft)


def requeue(draft: Draft, run: RunState, cause: Requeue, fate: Fate) -> None:
    """Queue an active run again, or withdraw it where the sweep queues nothing any more."""
    if draft.sweep.requeues:
        draft.record(RunRequeued, run, run.attempt + 1, cause, fate)
    else:
        kill(draft, run, Cause.WITHDRAWN, fate)


def next_in_backlog(draft: Draft) -> Decision[RunState | None]:
    """Return the first run that the backlog wants and that could be handed out, or None.

    Wishes of which nothing is left are taken off. Wanted runs whose older execution is neither gone
    nor lost are queued, so that they are handed out when it is.
    """
    sweep = draft.sweep
    while sweep.backlog:
        wish = sweep.backlog[0]
        run = yield from draft.first(wanted(wish), wish.cursor)
        if run is None:
            draft.note(BacklogEmptied)
        elif run.blocked:
            draft.record(RunRequeued, run, run.attempt + 1, Requeue.BACKLOG, Fate.KEPT)
        else:
            return run
    return None


def wanted(wish: Backlog) -> InStatus:
    """Return the query for the runs of a wish; its cursor comes separately."""
    return InStatus(frozenset(wish.statuses), wish.withdrawn, wish.version)


def unsettled(sweep: SweepState) -> bool:
    """Return whether ``settle`` may have anything to do: mostly not, and asking costs less than a generator."""
    if sweep.status is not _RUNNING:
        return False
    limits = sweep.limits
    if limits.failure is not None or limits.time_limit is not None:
        return True
    return not (sweep.pending or sweep.running) and sweep.complete


def settle(draft: Draft) -> Decision[None]:
    """Let limits and completion act, in the commit of the events that reached them.

    Only a RUNNING sweep is ended by a limit. If several are due at once: FAILED before FINISHED
    before STOPPED.
    """
    sweep = draft.sweep
    if sweep.status is not SweepStatus.RUNNING:
        return
    limits = sweep.limits
    why = "" if limits.failure is None else tripped(sweep, limits.failure)
    if why:
        yield from _end_by_itself(draft, SweepTrigger.FAIL, why)
        return
    if not (sweep.pending or sweep.running) and sweep.complete:
        yield from next_in_backlog(draft)
        if not sweep.backlog and sweep.drained:
            yield from _end_by_itself(draft, SweepTrigger.FINISH, "the search is complete and every run has ended")
            return
    over_at = sweep.time_limit_at
    if over_at is not None and over_at <= draft.at:
        yield from _end_by_itself(draft, SweepTrigger.STOP, f"the time limit of {limits.time_limit:g} s is over")


def _end_by_itself(draft: Draft, trigger: SweepTrigger, why: str) -> Decision[None]:
    draft.reason, draft.actor = why, None
    yield from move_sweep(draft, trigger)


def tripped(sweep: SweepState, rule: FailureRule) -> str:
    """Return why the failure rule trips, or an empty string."""
    if rule.streak is not None and sweep.rule_streak >= rule.streak:
        return f"{sweep.rule_streak} runs in a row failed"
    if rule.within is not None and sweep.rule_early >= rule.within[0]:
        return f"{sweep.rule_early} runs failed in the first {rule.within[1]:g} s"
    if rule.rate is not None:
        share, at_least = rule.rate
        if sweep.rule_ended >= at_least and sweep.rule_failed > share * sweep.rule_ended:
            return f"{sweep.rule_failed} of {sweep.rule_ended} ended runs failed"
    return ""
