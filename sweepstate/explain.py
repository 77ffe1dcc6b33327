"""A run's story, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from .core import events as ev
from .core.state import RunState
from .core.values import show


def tell(run: RunState, history: Iterable[ev.Event]) -> str:
    """Return what happened to a run, one sentence a line, oldest first, and how it stands.

    Args:
        run: the run.
        history: the events of its sweep, from the first on.
    """
    mine = [event for event in history if isinstance(event, ev.RunEvent) and event.index == run.index]
    if not mine:
        return f"Run {run.index}: nothing happened yet."
    began = mine[0].at
    lines = [f"Run {run.index} with {show(dict(run.config), 200)}:"]
    lines += [f"  +{event.at - began:.3f} s, attempt {event.attempt}: {_sentence(event)}" for event in mine]
    lines.append(f"  Now it is {run.row}.")
    return "\n".join(lines)


def _sentence(event: ev.RunEvent) -> str:
    text = _SENTENCES[type(event)](event)
    if event.reason:
        text += f", because {event.reason}"
    if event.actor:
        text += f" (by {event.actor})"
    return text


def _handed_out(event: ev.RunHandedOut) -> str:
    request = f" for request {event.request_id}" if event.request_id else ""
    how = "ordered from" if event.attached else "handed out to"
    return f"{how} {event.agent}{request}"


def _started(event: ev.RunStarted) -> str:
    by = f" as {event.execution}" if event.execution else ""
    return f"started{by}{', promising heartbeats' if event.heartbeats else ''}"


def _ended(event: ev.RunEnded) -> str:
    parts = [f"{event.status}, {event.cause}"]
    if event.message:
        parts.append(event.message)
    if event.exit_code is not None:
        parts.append(f"exit code {event.exit_code}")
    if event.signal is not None:
        parts.append(f"signal {event.signal}")
    if event.metrics:
        parts.append(show(dict(event.metrics), 200))
    return "; ".join(parts)


def _late(event: ev.LateReport) -> str:
    by = f" by {event.execution}" if event.execution else ""
    message = f": {event.message}" if event.message else ""
    return f"a late report{by} to {event.trigger} it was recorded{message}; the verdict stands"


_FATES: Final = {
    ev.Fate.GONE: "its execution is gone",
    ev.Fate.LOST: "its execution was given up as lost",
    ev.Fate.KEPT: "its execution may still be there",
}

_SENTENCES: Final[dict[type[ev.Event], Callable[[Any], str]]] = {
    ev.RunCreated: lambda event: f"created and {_handed_out(event)}",
    ev.RunHandedOut: _handed_out,
    ev.RunStarted: _started,
    ev.HeartbeatsPromised: lambda _: "sent its first heartbeat",
    ev.RunPreempting: lambda _: "said that it is being preempted",
    ev.StopRequested: lambda _: "asked to stop",
    ev.RunSuspected: lambda event: f"suspected to be lost; last heard at {event.heard:.3f}",
    ev.SuspicionLifted: lambda event: f"heard again, at {event.heard:.3f}",
    ev.RevokedLeaseHeard: lambda event: f"still executing, although nobody wants it any more, at {event.heard:.3f}",
    ev.RunEnded: _ended,
    ev.RunRequeued: lambda event: f"queued again as this attempt: {event.cause}",
    ev.OrderFailed: lambda event: f"the agent could not {event.order} it: {event.message}",
    ev.LateReport: _late,
    ev.LeaseEnded: lambda event: _FATES[event.fate],
    ev.DeadlineMoved: lambda _: "other limits moved its deadline",
}
