"""What ``list`` and ``status`` show: read in bounded pages, and as plain data.

The keys of the plain data are a promise: ``docs/cli.md`` lists them, programs
read them. New ones may be added.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs

from ..core.decide.settle import tripped
from ..core.events import Event
from ..core.questions import InStatus, Silent
from ..core.state import RunState, SweepState
from ..core.status import RunStatus
from ..diagnosis import Evidence, Health, diagnose
from ..hooks import Catalog, Heartbeats, Storage, Timekeeper

_PAGE: Final = 256
#: So many events are looked at for causes, agents and hyperparameters: the newest ones.
_HISTORY: Final = 2_000


@attrs.frozen
class ActiveRun:
    """An active run, and when it was last heard.

    Attributes:
        state: its snapshot.
        heard: the last sign of life of its attempt, in POSIX seconds; None if nobody has it.
    """

    state: RunState
    heard: float | None


@attrs.frozen
class LimitUse:
    """A limit of a sweep, and how much of it is used.

    Attributes:
        name: the field of ``Limits``.
        limit: its value.
        used: how much is used.
    """

    name: str
    limit: float
    used: float

    @property
    def reached(self) -> bool:
        """Whether nothing is left of it."""
        return self.used >= self.limit


@attrs.frozen
class Vitals:
    """What a person looks at before choosing pause, stop or cancel.

    Attributes:
        ended: how many ended runs the failure rule has seen since the sweep was created or reopened.
        failed: how many of them failed.
        streak: how many failed since the last success.
        trips: why the failure rule trips; empty if it does not, or if there is none.
        limits: those that are set.
        silent: indexes of runs that promised heartbeats, and were silent for longer than the timeout.
        newest: what the newest history says of causes, agents and hyperparameters.
    """

    ended: int
    failed: int
    streak: int
    trips: str
    limits: tuple[LimitUse, ...]
    silent: tuple[int, ...]
    newest: Health

    @property
    def failure_rate(self) -> float | None:
        """The share that failed; None while none has ended."""
        return self.failed / self.ended if self.ended else None


@attrs.frozen
class Look:
    """A sweep, as it was seen once.

    Attributes:
        sweep: its snapshot.
        now: when it was seen, by the storage's clock if it has one.
        active: its first active runs: those that are RUNNING, then those that are PENDING.
        more: how many others are active.
        health: its vitals.
    """

    sweep: SweepState
    now: float
    active: tuple[ActiveRun, ...]
    more: int
    health: Vitals


def sweeps_of(catalog: Catalog) -> Iterator[SweepState]:
    """Yield all sweeps, by id, read page by page."""
    after = ""
    while page := catalog.sweeps(after=after, limit=_PAGE):
        yield from page
        after = page[-1].id


def look_at(storage: Storage, sweep_id: str, rows: int) -> Look:
    """Look at a sweep. What that costs does not grow with the number of its runs.

    Args:
        storage: where it is.
        sweep_id: its id.
        rows: of so many active runs at most.

    Raises:
        SweepNotFound: there is none of this id.
    """
    sweep = storage.sweep(sweep_id)
    now = max(storage.now() if isinstance(storage, Timekeeper) else time.time(), sweep.at)
    active = _active(storage, sweep, rows)
    silent = _silent(storage, sweep, now, active, rows)
    newest = diagnose(sweep, _history(storage, sweep))
    return Look(sweep, now, active, max(sweep.active - len(active), 0), _vitals(sweep, now, silent, newest))


def _history(storage: Storage, sweep: SweepState) -> Iterator[Event]:
    after = max(sweep.events - _HISTORY, 0)
    while page := storage.events(sweep.id, after=after, limit=_PAGE):
        yield from page
        after = page[-1].number


def _active(storage: Storage, sweep: SweepState, rows: int) -> tuple[ActiveRun, ...]:
    runs: list[RunState] = []
    for status in (RunStatus.RUNNING, RunStatus.PENDING):  # what executes first: thousands may be queued
        if len(runs) < rows:
            runs += storage.runs(sweep.id, InStatus(frozenset({status})), limit=rows - len(runs))
    heard = _heard(storage, sweep, runs)
    return tuple(ActiveRun(run, at) for run, at in zip(runs, heard, strict=True))


def _heard(storage: Storage, sweep: SweepState, runs: Sequence[RunState]) -> list[float | None]:
    """Return the last sign of life of each: its last heartbeat, or the last that was a commit."""
    leases = [(run.index, run.attempt) for run in runs]
    beats = storage.last_heard(sweep.id, leases) if isinstance(storage, Heartbeats) else [None] * len(runs)
    signs: list[float | None] = []
    for run, beat in zip(runs, beats, strict=True):
        since = run.lease.since if run.held and run.lease is not None else None
        signs.append(max((at for at in (since, beat) if at is not None), default=None))
    return signs


def _silent(storage: Storage, sweep: SweepState, now: float, active: Sequence[ActiveRun], rows: int) -> tuple[int, ...]:
    """Return which runs are silent: of those not suspected yet the first by time, of those that are the ones shown."""
    if not isinstance(storage, Heartbeats):
        return ()  # without heartbeats, silence means nothing
    since = now - sweep.limits.heartbeat_timeout
    found = {run.index for run in storage.runs(sweep.id, Silent(since), limit=max(rows, 1))}
    for each in active:
        lease = each.state.lease
        if lease is not None and lease.suspected_at is not None and each.heard is not None and each.heard <= since:
            found.add(each.state.index)
    return tuple(sorted(found))


def _vitals(sweep: SweepState, now: float, silent: tuple[int, ...], newest: Health) -> Vitals:
    limits = sweep.limits
    uses = [
        LimitUse(name, limit, used)
        for name, limit, used in (
            ("run_cap", limits.run_cap, sweep.created),
            ("max_active", limits.max_active, sweep.leased),
            ("time_limit", limits.time_limit, sweep.running_time(now)),
        )
        if limit is not None
    ]
    trips = "" if limits.failure is None else tripped(sweep, limits.failure)
    return Vitals(sweep.rule_ended, sweep.rule_failed, sweep.rule_streak, trips, tuple(uses), silent, newest)


# --- as plain data --------------------------------------------------------------------------------


def plain_sweep(sweep: SweepState) -> dict[str, Any]:
    """Return a sweep as plain data: what ``list --json`` shows of it."""
    best, objective = sweep.best_index, sweep.objective
    return {
        "id": sweep.id,
        "status": sweep.status.value,
        "done": sweep.done,
        "version": sweep.version,
        "created_at": sweep.created_at,
        "changed_at": sweep.at,
        "search": None if sweep.search is None else sweep.search.get("name"),
        "size": sweep.size,
        "runs": {"created": sweep.created, **{status.value.lower(): n for status, n in sweep.counts.items()}},
        "held_by_agents": sweep.leased,
        "best": None
        if best is None or objective is None
        else {"run": best, "metric": objective.metric, "value": sweep.best_value},
    }


def plain_look(look: Look) -> dict[str, Any]:
    """Return a look as plain data: what ``status --json`` shows."""
    return {
        **plain_sweep(look.sweep),
        "seen_at": look.now,
        "active": [_plain_run(each) for each in look.active],
        "active_more": look.more,
        "health": _plain_health(look.health),
    }


def _plain_run(each: ActiveRun) -> dict[str, Any]:
    run = each.state
    lease = run.lease if run.held else None
    return {
        "run": run.index,
        "status": run.status.value,
        "attempt": run.attempt,
        "agent": None if lease is None else lease.agent,
        "started_at": run.started_at,
        "last_heard": each.heard,
        "stop_requested": lease is not None and lease.stop_at is not None,
        "config": run.config,
    }


def _plain_health(found: Vitals) -> dict[str, Any]:
    return {
        "ended": found.ended,
        "failed": found.failed,
        "failure_rate": found.failure_rate,
        "streak": found.streak,
        "failure_rule": found.trips or None,
        "limits": [
            {"name": use.name, "limit": use.limit, "used": use.used, "reached": use.reached} for use in found.limits
        ],
        "silent": list(found.silent),
        "causes": [
            {
                "status": group.status.value,
                "cause": group.cause.value,
                "count": group.count,
                "message": group.message,
                "runs": list(group.runs),
            }
            for group in found.newest.causes
        ],
        "agents": [
            {"agent": each.agent, "suspect": each.suspect, **_plain_evidence(each.evidence)}
            for each in found.newest.agents
        ],
        "suspects": [
            {"parameter": each.parameter, "value": each.value, **_plain_evidence(each.evidence)}
            for each in found.newest.suspects
        ],
    }


def _plain_evidence(evidence: Evidence) -> dict[str, Any]:
    return attrs.asdict(evidence)
