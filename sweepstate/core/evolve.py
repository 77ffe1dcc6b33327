"""From events to the next snapshots; replay is a fold over it.

``apply`` is the one place where snapshots are written. It works on private,
unpublished copies, so several events of one commit cost one copy of each
snapshot. Counts, leases and deadlines move together with the status, here, so
they cannot drift apart (apscheduler#1116).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from . import events as ev
from .errors import InvalidValue
from .lifecycle import FAILURES, KILLS, SweepTrigger
from .limits import Limits, Objective
from .state import COUNTER, Backlog, Completion, Lease, RunState, SweepState, changed, unpublished
from .status import Cause, RunStatus, SweepStatus
from .values import EMPTY, show

# Looking a member up in its enum costs as much as all else that a line does here.
_PENDING: Final = RunStatus.PENDING
_RUNNING: Final = RunStatus.RUNNING
_FINISHED: Final = RunStatus.FINISHED
_CRASHED: Final = RunStatus.CRASHED
_GONE: Final = ev.Fate.GONE

# New snapshots are changed copies of these: that is twice as fast as a constructor with as many fields.
_NEW_RUN: Final = RunState(index=0, config=EMPTY)
_NEW_LEASE: Final = Lease(attempt=1, agent="")

# The __dict__ of an unpublished snapshot.
_Fields = dict[str, Any]


@attrs.frozen
class Snapshots:
    """A sweep and its runs at one version.

    Attributes:
        sweep: the sweep.
        runs: its runs, by index; with ``evolve``, those the event is about.
    """

    sweep: SweepState
    runs: Mapping[int, RunState]


def replay(events: Iterable[ev.Event]) -> Snapshots:
    """Return the snapshots that the events lead to.

    Args:
        events: a whole history, from its first event on.

    Returns:
        The sweep and all its runs: to the byte what a storage holds after the last of these events.

    Raises:
        InvalidValue: the events are not the beginning of one history.
    """
    sweep: SweepState | None = None
    runs: dict[int, RunState] = {}
    for event in events:
        if sweep is None:
            sweep = begin(event)
        else:
            _continue(sweep, runs, event)
    if sweep is None:
        raise InvalidValue("events", "there are none", "replay a history from its first event on")
    return Snapshots(sweep, runs)


def evolve(sweep: SweepState, run: RunState | None, event: ev.Event) -> Snapshots:
    """Return the snapshots after one more event, leaving those given as they are.

    Args:
        sweep: the sweep before it.
        run: the run that it is about, unless it creates it or is about the sweep.
        event: the next event.

    Raises:
        InvalidValue: it is not the next one, or is about another run.
    """
    runs = {} if run is None else {run.index: unpublished(run)}
    sweep = unpublished(sweep)
    _continue(sweep, runs, event)
    return Snapshots(sweep, runs)


def _continue(sweep: SweepState, runs: dict[int, RunState], event: ev.Event) -> None:
    """Apply an event that comes from outside, so that it may be any."""
    try:
        apply(sweep, _subject(sweep, runs, event), event)
    except InvalidValue:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"cannot happen after the events before it: {show(event, 300)}"
        raise InvalidValue(f"events[{sweep.events}]", problem, "replay a whole history") from error


def begin(event: ev.Event) -> SweepState:
    """Return the unpublished snapshot that the first event of a history creates."""
    if not isinstance(event, ev.SweepCreated) or event.number != 1:
        raise InvalidValue("events[0]", f"a history begins with SweepCreated as number 1, not {event!r}")
    return SweepState(
        id=event.sweep_id,
        version=event.version,
        events=1,
        at=event.at,
        created_at=event.at,
        search=event.search,
        size=event.size,
        limits=event.limits,
        objective=event.objective,
        running_since=event.at,
    )


def new_run(event: ev.RunCreated) -> RunState:
    """Return the unpublished snapshot of a run that is about to be created by ``event``."""
    return changed(_NEW_RUN, index=event.index, config=event.config, status_version=event.version, created_at=event.at)


def _subject(sweep: SweepState, runs: dict[int, RunState], event: ev.Event) -> RunState | None:
    """Return the run that an event is about, checking that the event continues the history."""
    field = f"events[{event.number - 1}]"
    if event.number != sweep.events + 1 or not sweep.version <= event.version <= sweep.version + 1:
        raise InvalidValue(field, f"does not follow event {sweep.events} of version {sweep.version}: {event!r}")
    if not isinstance(event, ev.RunEvent):
        return None
    if isinstance(event, ev.RunCreated):
        if event.index != sweep.created:
            raise InvalidValue(field, f"creates run {event.index}, but the next one is {sweep.created}")
        runs[event.index] = new_run(event)
    if event.index not in runs:
        raise InvalidValue(field, f"is about run {event.index}, which is not there")
    return runs[event.index]


def apply(sweep: SweepState, run: RunState | None, event: ev.Event) -> None:
    """Write an event into unpublished snapshots.

    Args:
        sweep: an unpublished copy.
        run: an unpublished copy of the run it is about (``new_run`` for a RunCreated); None for an event of the sweep.
        event: the next event.
    """
    fields = sweep.__dict__
    fields["version"] = event.version
    fields["events"] = event.number
    fields["at"] = event.at
    kind = event.__class__
    if run is None:
        _OF_SWEEP[kind](fields, event)
    else:
        run_fields = run.__dict__
        _OF_RUN[kind](fields, run_fields, event)
        run_fields["due_at"] = None if run_fields["lease"] is None else deadline(run, fields["limits"])


def deadline(run: RunState, limits: Limits) -> float | None:
    """Return when time next acts on a run: an overdue stop, a lease that never began, one that was revoked.

    The silence of a RUNNING attempt is not among them: a storage finds it by its heartbeats.
    """
    lease = run.lease
    if lease is None or lease.lost:
        return None
    if lease.revoked_at is not None:
        return lease.revoked_at + limits.heartbeat_timeout
    if not lease.began:
        return None if lease.attached else lease.since + limits.start_timeout
    due = None if lease.stop_at is None else lease.stop_at + limits.stop_grace
    if lease.suspected_at is not None:
        lost_at = lease.suspected_at + limits.suspicion
        return lost_at if due is None else min(due, lost_at)
    return due


def _lease(sweep: _Fields, run: _Fields, lease: Lease | None) -> None:
    """Give the run another lease, and keep the count of slots."""
    old: Lease | None = run["lease"]
    if old is not None and not old.lost:
        sweep["leased"] -= 1
    if lease is not None and not lease.lost:
        sweep["leased"] += 1
    run["lease"] = lease


def _fate(sweep: _Fields, run: _Fields, fate: ev.Fate, at: float) -> None:
    """Write what becomes of the lease of a run that ended or was queued again."""
    lease: Lease | None = run["lease"]
    if lease is None:
        return
    if fate is _GONE:
        _lease(sweep, run, None)
    elif fate is ev.Fate.LOST:
        _lease(sweep, run, _without_say(lease, lost=True, revoked_at=None))
    elif not lease.lost:
        revoked_at = at if lease.revoked_at is None else lease.revoked_at
        _lease(sweep, run, _without_say(lease, lost=False, revoked_at=revoked_at))


def _without_say(lease: Lease, *, lost: bool, revoked_at: float | None) -> Lease:
    """Return a lease that no longer decides anything: what was asked of it is settled."""
    return changed(
        lease, lost=lost, revoked_at=revoked_at, stop_at=None, preempting=False, suspected_at=None, heard=None
    )


def _status(sweep: _Fields, run: _Fields, status: RunStatus, version: int) -> None:
    """Move a run's status, and the counts with it."""
    old: RunStatus = run["status"]
    if old is not status:
        sweep[COUNTER[old]] -= 1
        sweep[COUNTER[status]] += 1
        run["status"] = status
        run["status_version"] = version


# --- events of the sweep -------------------------------------------------------------------------


def _sweep_status_changed(sweep: _Fields, event: ev.SweepStatusChanged) -> None:
    if sweep["running_since"] is not None:
        sweep["running_seconds"] += event.at - sweep["running_since"]
    sweep["status"] = event.status
    sweep["status_version"] = event.version
    sweep["running_since"] = event.at if event.status is SweepStatus.RUNNING else None
    if event.trigger is SweepTrigger.REOPEN:
        # What a person or a target decided is cleared; what is still true stays.
        sweep.update(reopened=sweep["reopened"] + 1, completed=None, running_seconds=0.0, first_start_at=None)
        sweep.update(rule_ended=0, rule_failed=0, rule_streak=0, rule_early=0)
    if KILLS[event.status]:
        sweep["backlog"] = ()


def _limits_changed(sweep: _Fields, event: ev.LimitsChanged) -> None:
    sweep["limits"] = event.limits


def _search_completed(sweep: _Fields, event: ev.SearchCompleted) -> None:
    if event.cause is Completion.EXHAUSTED:
        sweep["exhausted"] = True
    else:
        sweep["completed"] = event.cause
        sweep["backlog"] = ()


def _backlog_added(sweep: _Fields, event: ev.BacklogAdded) -> None:
    wish = Backlog(statuses=event.statuses, withdrawn=event.withdrawn, version=event.version)
    backlog: tuple[Backlog, ...] = sweep["backlog"]
    # The same wish again, of which nothing was taken up yet, is brought up to date where it stands: so the
    # snapshot stays small however often somebody asks.
    known = [old for old in backlog if changed(old, version=wish.version) == wish]
    sweep["backlog"] = tuple(wish if old in known else old for old in backlog) if known else (*backlog, wish)


def _backlog_emptied(sweep: _Fields, _event: ev.BacklogEmptied) -> None:
    sweep["backlog"] = sweep["backlog"][1:]


# --- events of a run -----------------------------------------------------------------------------


def _run_created(sweep: _Fields, run: _Fields, event: ev.RunCreated) -> None:
    sweep["pending"] += 1
    sweep["leased"] += 1
    run["lease"] = _new_lease(event)


def _run_handed_out(sweep: _Fields, run: _Fields, event: ev.RunHandedOut) -> None:
    _lease(sweep, run, _new_lease(event))


def _new_lease(event: ev.RunHandedOut) -> Lease:
    return changed(
        _NEW_LEASE,
        attempt=event.attempt,
        agent=event.agent,
        request_id=event.request_id,
        attached=event.attached,
        since=event.at,
    )


def _run_started(sweep: _Fields, run: _Fields, event: ev.RunStarted) -> None:
    at = event.at
    _note_start(sweep, run, at)
    _status(sweep, run, _RUNNING, event.version)
    run["lease"] = changed(run["lease"], began=True, since=at, execution=event.execution, beats=event.heartbeats)


def _note_start(sweep: _Fields, run: _Fields, at: float) -> None:
    if sweep["first_start_at"] is None:
        sweep["first_start_at"] = at
    run["started_at"] = at


#: Causes that only an execution can report.
_EXECUTED: Final = frozenset({Cause.SUCCESS, Cause.ERROR, Cause.SIGNAL})


def _heartbeats_promised(_sweep: _Fields, run: _Fields, event: ev.HeartbeatsPromised) -> None:
    run["lease"] = changed(run["lease"], beats=True, since=event.at)


def _run_preempting(_sweep: _Fields, run: _Fields, _event: ev.RunPreempting) -> None:
    run["lease"] = changed(run["lease"], preempting=True)


def _stop_requested(_sweep: _Fields, run: _Fields, event: ev.StopRequested) -> None:
    run["lease"] = changed(run["lease"], stop_at=event.at)


def _run_suspected(_sweep: _Fields, run: _Fields, event: ev.RunSuspected) -> None:
    run["lease"] = changed(run["lease"], suspected_at=event.at, heard=event.heard)


def _suspicion_lifted(_sweep: _Fields, run: _Fields, _event: ev.SuspicionLifted) -> None:
    run["lease"] = changed(run["lease"], suspected_at=None, heard=None)


def _revoked_lease_heard(_sweep: _Fields, run: _Fields, event: ev.RevokedLeaseHeard) -> None:
    run["lease"] = changed(run["lease"], revoked_at=event.heard)


def _run_ended(sweep: _Fields, run: _Fields, event: ev.RunEnded) -> None:
    before: RunStatus = run["status"]
    status = event.status
    if before is _PENDING and event.cause in _EXECUTED:
        # Its execution reported an end, so it must have begun.
        _note_start(sweep, run, event.at)
    _status(sweep, run, status, event.version)
    run["cause"] = event.cause
    run["message"] = event.message
    run["exit_code"] = event.exit_code
    run["signal"] = event.signal
    run["metrics"] = event.metrics
    run["ended_at"] = event.at
    _fate(sweep, run, event.fate, event.at)
    if event.counts:
        _count(sweep, run, event)
    if status is _FINISHED:
        if before is not _CRASHED:  # a correction does not rewrite what the rule has seen
            sweep["rule_streak"] = 0
        if sweep["objective"] is not None:
            _rank(sweep, sweep["objective"], event)


def _count(sweep: _Fields, run: _Fields, event: ev.RunEnded) -> None:
    """Let the failure rule see an end."""
    run["counted_in"] = sweep["reopened"]
    sweep["rule_ended"] += 1
    if event.status not in FAILURES:
        return
    sweep["rule_failed"] += 1
    sweep["rule_streak"] += 1
    rule = sweep["limits"].failure
    first = sweep["first_start_at"]
    if rule is None or rule.within is None:
        return
    # A run that could not be launched fails before anything started: that is early, too. Other failures without a
    # first start are of runs that began before the sweep was reopened.
    early = event.cause is Cause.NOT_LAUNCHED if first is None else event.at - first <= rule.within[1]
    if early:
        sweep["rule_early"] += 1


def _rank(sweep: _Fields, objective: Objective, event: ev.RunEnded) -> None:
    """Keep the best finished run."""
    value = event.metrics.get(objective.metric)
    if value is not None and objective.better(value, sweep["best_value"]):
        sweep["best_index"] = event.index
        sweep["best_value"] = value


_END_FIELDS: Final[_Fields] = {
    "cause": None,
    "message": None,
    "exit_code": None,
    "signal": None,
    "metrics": EMPTY,
    "started_at": None,
    "ended_at": None,
}


def _run_requeued(sweep: _Fields, run: _Fields, event: ev.RunRequeued) -> None:
    if event.cause is ev.Requeue.PREEMPTED:
        run["preemptions"] += 1
    elif event.cause is ev.Requeue.LIMIT:
        run["failed_retries" if run["status"] is RunStatus.FAILED else "crashed_retries"] += 1
    elif event.cause in (ev.Requeue.PERSON, ev.Requeue.BACKLOG):
        # Somebody wants it again: its own counts start afresh.
        run.update(preemptions=0, failed_retries=0, crashed_retries=0)
    if event.cause is ev.Requeue.BACKLOG:
        first, *rest = sweep["backlog"]
        sweep["backlog"] = (changed(first, cursor=event.index), *rest)
    run["attempt"] = event.attempt
    run.update(_END_FIELDS)
    _status(sweep, run, RunStatus.PENDING, event.version)
    _fate(sweep, run, event.fate, event.at)


def _order_failed(_sweep: _Fields, run: _Fields, event: ev.OrderFailed) -> None:
    if event.order is ev.OrderKind.START and run["status"] is _PENDING:
        lease: Lease = run["lease"]
        run["lease"] = changed(lease, launch_failures=lease.launch_failures + 1)


def _late_report(sweep: _Fields, run: _Fields, event: ev.LateReport) -> None:
    run["late"] = (*run["late"], event.attempt)
    if event.fate is ev.Fate.GONE:
        _lease(sweep, run, None)


def _lease_ended(sweep: _Fields, run: _Fields, event: ev.LeaseEnded) -> None:
    _fate(sweep, run, event.fate, event.at)


def _deadline_moved(_sweep: _Fields, _run: _Fields, _event: ev.DeadlineMoved) -> None:
    """Nothing: ``apply`` computes the deadline after every event of a run."""


_OF_SWEEP: Final[dict[type[ev.Event], Callable[[_Fields, Any], None]]] = {
    ev.SweepStatusChanged: _sweep_status_changed,
    ev.LimitsChanged: _limits_changed,
    ev.SearchCompleted: _search_completed,
    ev.BacklogAdded: _backlog_added,
    ev.BacklogEmptied: _backlog_emptied,
}
_OF_RUN: Final[dict[type[ev.Event], Callable[[_Fields, _Fields, Any], None]]] = {
    ev.RunCreated: _run_created,
    ev.RunHandedOut: _run_handed_out,
    ev.RunStarted: _run_started,
    ev.HeartbeatsPromised: _heartbeats_promised,
    ev.RunPreempting: _run_preempting,
    ev.StopRequested: _stop_requested,
    ev.RunSuspected: _run_suspected,
    ev.SuspicionLifted: _suspicion_lifted,
    ev.RevokedLeaseHeard: _revoked_lease_heard,
    ev.RunEnded: _run_ended,
    ev.RunRequeued: _run_requeued,
    ev.OrderFailed: _order_failed,
    ev.LateReport: _late_report,
    ev.LeaseEnded: _lease_ended,
    ev.DeadlineMoved: _deadline_moved,
}
