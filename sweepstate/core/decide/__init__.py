"""Decisions: a command, a report or a question about time in, events and the next snapshots out.

One file for each subject of the lifecycle; every decision is a generator that
takes a ``Draft`` first. People who embed the core do not drive generators:
``decide`` does that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, Generic, ParamSpec, TypeVar

import attrs

from ..questions import Exhausted, LastHeard, Proposal, Question, Runs, Wait
from ..state import SweepState
from .draft import Change, Decision, Draft, Silence, drive
from .handing import Idle, IdleReason, next_run
from .orders import order_for
from .report import Answer, End, Sign, end, gone, heartbeat, mark_preempting, order_failed, release, start
from .run import kill_run, retry_run, stop_run
from .sweep import complete, create, move, reopen, retry_statuses, set_limits
from .time import elapse, upcoming

_P = ParamSpec("_P")
_T = TypeVar("_T")


@attrs.frozen
class Decided(Generic[_T]):
    """What was decided.

    Attributes:
        change: what is to be committed; None if nothing changes.
        value: what the decision tells its caller, such as the run that was handed out.
    """

    change: Change | None
    value: _T


def decide(
    command: Callable[Concatenate[Draft, _P], Decision[_T]],
    sweep: SweepState,
    answer: Callable[[Question], object],
    now: float,
    reason: str | None = None,
    actor: str | None = None,
) -> Callable[_P, Decided[_T]]:
    """Prepare a decision on a snapshot; calling the result with the command's arguments makes it.

    For people who embed the core in a system with its own storage.

    Args:
        command: one of the decisions of this package, such as ``move`` or ``next_run``.
        sweep: the snapshot to decide on.
        answer: answers the questions of the decision (``Runs``, ``LastHeard``, ``Proposal``), from what
            was true at that snapshot's version or later.
        now: POSIX seconds.
        reason: why, for the events.
        actor: who, for the events.

    Returns:
        A function of the command's other arguments that returns what was decided. Afterwards nothing
        has changed: commit ``change`` if the sweep is still at ``change.version``, else decide again.

    Example:
        >>> from sweepstate.core.lifecycle import SweepTrigger
        >>> sweep = SweepState(id="mine", version=1, events=1)
        >>> decided = decide(move, sweep, answer=lambda question: (), now=0.0, actor="ada")(SweepTrigger.PAUSE)
        >>> decided.change.sweep.status, decided.change.version
        (<SweepStatus.PAUSED: 'PAUSED'>, 1)
    """

    def make(*args: _P.args, **kwargs: _P.kwargs) -> Decided[_T]:
        draft = Draft(sweep, now, reason, actor)
        value = drive(command(draft, *args, **kwargs), answer)
        return Decided(draft.change(), value)

    return make


__all__ = [
    "Answer",
    "Change",
    "Decided",
    "Decision",
    "Draft",
    "End",
    "Exhausted",
    "Idle",
    "IdleReason",
    "LastHeard",
    "Proposal",
    "Question",
    "Runs",
    "Sign",
    "Silence",
    "Wait",
    "complete",
    "create",
    "decide",
    "drive",
    "elapse",
    "end",
    "gone",
    "heartbeat",
    "kill_run",
    "mark_preempting",
    "move",
    "next_run",
    "order_failed",
    "order_for",
    "release",
    "reopen",
    "retry_run",
    "retry_statuses",
    "set_limits",
    "start",
    "stop_run",
    "upcoming",
]
