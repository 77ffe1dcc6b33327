"""Handing out runs (layer B)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, final

import attrs

from ..events import Fate, Requeue, RunHandedOut, RunRequeued, RunStarted
from ..lifecycle import RunRow
from ..questions import Exhausted, Proposal, Queued, Requested, Wait
from ..state import Completion, RunState
from ..status import RunStatus, SweepStatus, Word
from ..values import FrozenDict, freeze_mapping
from .draft import Decision, Draft
from .settle import complete_search, next_in_backlog, settle

_QUEUED: Final = Queued()
_RUNNING: Final = SweepStatus.RUNNING  # looking it up in the enum costs more than comparing with it


class IdleReason(Word):
    """Why there is nothing to hand out. Only ``ENDED`` is final."""

    PAUSED = "paused"
    INTERRUPTED = "interrupted"
    ENDED = "ended"
    DRAINING = "draining"
    AT_CAPACITY = "at capacity"
    WAITING = "waiting"
    STALLED = "stalled"


@final
@attrs.frozen
class Idle:
    """There is nothing to hand out. It is falsy.

    Attributes:
        reason: ``ENDED``: go home. ``DRAINING``: nothing new comes, but a run may still come back.
            ``PAUSED``, ``INTERRUPTED`` (the sweep is CRASHED), ``AT_CAPACITY``, ``WAITING`` (for the search):
            ask again later. ``STALLED``: the search waits although nothing is active, so somebody must
            act: ``complete()`` the sweep, or stop it.
    """

    reason: IdleReason

    def __bool__(self) -> Literal[False]:
        return False

    def __str__(self) -> str:
        return self.reason.value


_IDLE_IN: Final = {
    status: Idle(IdleReason.PAUSED)
    if status is SweepStatus.PAUSED
    else Idle(IdleReason.INTERRUPTED)
    if status is SweepStatus.CRASHED
    else Idle(IdleReason.ENDED)
    for status in SweepStatus
    if status is not SweepStatus.RUNNING
}


def next_run(  # noqa: C901, PLR0912 - the steps of layer B, in their order
    draft: Draft,
    agent: str,
    request_id: str | None = None,
    *,
    attached: bool = False,
    begin: bool = False,
) -> Decision[RunState | Idle]:
    """Decide what an agent gets, in one commit.

    Args:
        draft: the sweep.
        agent: who asks.
        request_id: names this request, so that asking again after a lost reply gives the same run.
        attached: the agent is attached to the sweep, and will be ordered to start the run.
        begin: the asker executes the run itself, from now on: it is handed out and started.

    Returns:
        The run, held or (with ``begin``) RUNNING; or why there is none.
    """
    if request_id is not None:
        run = yield from draft.first(Requested(agent, request_id))
        if run is not None:
            if begin and run.row is RunRow.HELD:
                draft.record(RunStarted, run, run.attempt, None, False)
            return run
    sweep = draft.sweep
    limits = sweep.limits
    if limits.time_limit is not None:
        yield from settle(draft)  # handing out needs a sweep whose time is not over
    if sweep.status is not _RUNNING:
        return _IDLE_IN[sweep.status]
    full = limits.max_active is not None and sweep.leased >= limits.max_active
    if full and not sweep.complete:
        return Idle(IdleReason.AT_CAPACITY)  # before the backlog is looked at, which may take long
    run = (yield from _next_again(draft)) if sweep.pending or sweep.backlog else None
    if run is None and sweep.complete:
        return (yield from _nothing_more(draft))
    if full:
        return Idle(IdleReason.AT_CAPACITY)
    if run is None:
        answer: FrozenDict | Mapping[str, object] | Wait | Exhausted = yield Proposal(sweep.created)
        if isinstance(answer, Wait):
            return Idle(IdleReason.STALLED if sweep.drained else IdleReason.WAITING)
        if isinstance(answer, Exhausted):
            yield from complete_search(draft, Completion.EXHAUSTED)
            return (yield from _nothing_more(draft))
        config = answer if type(answer) is FrozenDict else freeze_mapping(answer, "config")
        run = draft.create(config, agent, request_id, attached=attached)
    else:
        if run.status is not RunStatus.PENDING:
            draft.record(RunRequeued, run, run.attempt + 1, Requeue.BACKLOG, Fate.KEPT)
        draft.record(RunHandedOut, run, run.attempt, agent, request_id, attached)
    if begin:
        draft.record(RunStarted, run, run.attempt, None, False)
    return run


def _next_again(draft: Draft) -> Decision[RunState | None]:
    """Return a run that waits to be handed out again: a queued one, else one of the backlog."""
    if draft.sweep.pending:
        run = yield from draft.first(_QUEUED)
        if run is not None:
            return run
    if draft.sweep.backlog:
        return (yield from next_in_backlog(draft))
    return None


def _nothing_more(draft: Draft) -> Decision[Idle]:
    """Return the answer when the search is complete and nothing waits."""
    yield from settle(draft)
    return Idle(IdleReason.ENDED if draft.sweep.ended else IdleReason.DRAINING)
