"""The twelve laws of the lifecycle, as checks that know nothing of how the core keeps them.

``check_laws`` looks at what a storage holds. It is made of two parts that serve
on their own: ``check_state`` looks at one version, and ``check_commit`` at one
commit: what was there, what was written, what is there then. A test that drives
the core itself calls these two at every step.

What happened is followed here by a small model of its own (status, attempt,
lease: no more than the laws speak of), because a check that called ``evolve``
would repeat its mistakes. Only law 6 replays, because that *is* the law.

Laws 7, 11 and 12 are about what did not happen, or could: ``explore`` checks them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import attrs

from ..core import events as ev
from ..core.decide import Change
from ..core.errors import SweepstateError
from ..core.evolve import Snapshots, apply, new_run, replay
from ..core.limits import Objective
from ..core.plain import to_dict
from ..core.questions import ByIndex
from ..core.state import Lease, RunState, SweepState, unpublished
from ..core.status import RunStatus, SweepStatus
from ..hooks import Storage

#: The laws, by their number in the specification.
LAWS: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: "Only a RUNNING sweep creates runs, and only it hands them out.",
        2: "Counts kept with the sweep equal a recount of its runs.",
        3: "Creation never exceeds run_cap; handing out never takes more than max_active slots.",
        4: "FINISHED means: search complete, backlog empty, drained.",
        5: "After cancel no run is active, and no run's status changes until reopen.",
        6: "Versions of a sweep are 1, 2, 3, ..., one for each commit; events have no gap, and their dates never "
        "run backwards; replay gives the snapshots, to the byte.",
        7: "A refused command changes nothing.",
        8: "Of one run at most one attempt is leased; attempts only rise; only the current one changes the status.",
        9: "FINISHED never changes. FAILED, KILLED and CRASHED change only by requeue, but for the late end of a run "
        "lost to silence.",
        10: "Every commit is all or nothing, and touches the runs that are active or leased, and the one it is about.",
        11: "A RUNNING sweep with limits needs no command to come to an end; from every reachable state some commands "
        "and facts lead to done.",
        12: "Same inputs, same outputs: no clock, no randomness, no I/O inside the core.",
    }
)

_ACTIVE: Final = frozenset({RunStatus.PENDING, RunStatus.RUNNING})
_PAGE: Final = 256


@attrs.define(slots=False, auto_exc=True)
class LawViolation(AssertionError):
    """Something that the specification forbids was found.

    Attributes:
        law: the number of the law.
        evidence: what was found.
        trace: the moves that led there, where an exploration found it.
    """

    law: int
    evidence: str
    trace: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What the law says."""
        return LAWS[self.law]

    def __str__(self) -> str:
        steps = "".join(f"\n  {number:>3}. {step}" for number, step in enumerate(self.trace, 1))
        return f"law {self.law} is broken: {self.text}\n  found: {self.evidence}" + (steps and f"\n  after:{steps}")


def check_laws(storage: Storage, sweep_id: str) -> None:
    """Check the laws on everything that a storage holds of a sweep: its history, commit by commit, and what is there.

    Reads the whole of it, page by page; nobody else may commit to the sweep meanwhile.

    Args:
        storage: where the sweep lives.
        sweep_id: the sweep.

    Raises:
        LawViolation: one of them is broken; ``law`` tells which.
        SweepNotFound: there is no such sweep.

    Example:
        >>> from sweepstate import Grid, Sweep
        >>> sweep = Sweep(Grid({"lr": [0.1, 0.01]}), id="lawful")
        >>> sweep.execute(lambda run: None).reason.value
        'ended'
        >>> check_laws(sweep.storage, "lawful")
    """
    history: list[ev.Event] = []
    before: Snapshots | None = None
    known: dict[int, RunState] = {}
    for events in _commits(storage, sweep_id):
        history += events
        before = _step(before, known, events, sweep_id)
    if before is None:
        raise LawViolation(6, f"sweep {sweep_id!r} has no history")
    stored = storage.sweep(sweep_id)
    runs = list(_all_runs(storage, sweep_id))
    check_state(stored, runs)
    replayed, again = replay(history), replay(history)
    if replayed != again and _canonical(replayed.sweep) != _canonical(again.sweep):
        raise LawViolation(12, "replaying the same history twice gave two results")
    _same_form(stored, replayed.sweep, "the sweep")
    if len(runs) != len(replayed.runs):
        raise LawViolation(6, f"{len(runs)} runs are stored, and the history creates {len(replayed.runs)}")
    for run in runs:
        _same_form(run, replayed.runs[run.index], f"run {run.index}")


def check_state(sweep: SweepState, runs: Iterable[RunState]) -> None:
    """Check what the laws say of one version of a sweep.

    Args:
        sweep: the sweep.
        runs: all its runs, in index order.

    Raises:
        LawViolation: law 2 (counts), 5 (nothing is active after a cancel) or 8 (leases) is broken.
    """
    counts = dict.fromkeys(RunStatus, 0)
    leased = counted = 0
    finished: list[RunState] = []
    for place, run in enumerate(runs):
        if run.index != place:
            raise LawViolation(2, f"run {run.index} stands where run {place} should")
        counts[run.status] += 1
        counted += run.counted_in == sweep.reopened
        lease = run.lease
        if lease is not None:
            leased += not lease.lost
            _check_lease(run, lease)
        elif run.status is RunStatus.RUNNING:
            raise LawViolation(8, f"nobody has the run that is RUNNING: {run}")
        if run.status is RunStatus.FINISHED:
            finished.append(run)
    for status, found in counts.items():
        _equal(2, f"the count of {status} runs", getattr(sweep, status.lower()), found)
    _equal(2, "the count of leases that take a slot", sweep.leased, leased)
    _equal(2, "the count of ends that the failure rule has seen", sweep.rule_ended, counted)
    _check_best(sweep, finished)
    if sweep.status is SweepStatus.CANCELLED and counts[RunStatus.PENDING] + counts[RunStatus.RUNNING]:
        raise LawViolation(5, f"the sweep is CANCELLED, and {counts} are counted")


def _check_lease(run: RunState, lease: Lease) -> None:
    current = lease.attempt == run.attempt
    if not 1 <= lease.attempt <= run.attempt:
        raise LawViolation(8, f"attempt {lease.attempt} is leased, and {run.attempt} is the current one: {run}")
    if run.status is RunStatus.RUNNING and not (current and lease.began and not lease.lost):
        raise LawViolation(8, f"the run is RUNNING, but not by its current attempt: {run}")
    if run.status is RunStatus.PENDING and current and (lease.began or lease.lost):
        raise LawViolation(8, f"the run is PENDING, and its current attempt has begun: {run}")
    if not (current and run.status in _ACTIVE) and not lease.lost and lease.revoked_at is None:
        raise LawViolation(8, f"a lease without a say counts still: {run}")


def _check_best(sweep: SweepState, finished: Sequence[RunState]) -> None:
    """Check the best run; of equal ones the first to finish wins, which only the history tells."""
    objective = sweep.objective
    values = [] if objective is None else [(_value(run, objective), run.index) for run in finished]
    numbers = {value for value, _ in values if value is not None and value == value}  # noqa: PLR0124 - NaN; math.isnan refuses large integers
    wanted = None
    if objective is not None and numbers:
        wanted = min(numbers) if objective.goal == "minimize" else max(numbers)
    _equal(2, "the best value", sweep.best_value, wanted)
    if wanted is None:
        _equal(2, "the best run", sweep.best_index, None)
    elif (wanted, sweep.best_index) not in values:
        raise LawViolation(2, f"the best run is said to be {sweep.best_index}, which did not report {wanted}")


def _value(run: RunState, objective: Objective) -> float | None:
    return run.metrics.get(objective.metric)  # as it was reported: an integer may be too large for a float


def check_commit(before: Snapshots | None, change: Change) -> None:
    """Check what the laws say of one commit.

    Args:
        before: the sweep, and at least those of its runs that the change writes; None if it creates the sweep.
        change: what is committed.

    Raises:
        LawViolation: one of the laws 1 to 6 and 8 to 10 is broken.
    """
    _check_commit(before, change, replays=True)


def _check_commit(before: Snapshots | None, change: Change, *, replays: bool) -> None:
    """Check a commit; ``replays`` is False where the snapshots are a replay of the events anyway."""
    _check_numbers(before, change)
    if before is None:
        _check_created(change)
        return
    _check_touched(before, change)
    model = _follow(before, change.events)
    for run in change.runs:
        _check_run(before, change, before.runs.get(run.index), run, model.runs[run.index])
    _check_counts(before, change)
    after = change.sweep
    if model.finished:
        _check_finished(after)
    if after.status is SweepStatus.CANCELLED and after.pending + after.running:
        raise LawViolation(5, f"cancelled, with {after.pending} runs PENDING and {after.running} RUNNING")
    if replays:
        _check_replay(before, change)


def _check_created(change: Change) -> None:
    """Check the commit that creates a sweep: it writes nothing else, but that a search without points finishes it."""
    first, *others = change.events
    finished = [event for event in others if isinstance(event, ev.SweepStatusChanged)]
    if change.runs or not isinstance(first, ev.SweepCreated) or len(others) > 1 or others != finished:
        raise LawViolation(10, f"creating a sweep writes the sweep alone, not {_kinds(change)}")
    if any(event.status is not SweepStatus.FINISHED for event in finished):
        raise LawViolation(4, f"a new sweep is RUNNING, or FINISHED if there is nothing to do: {others}")
    if finished:
        _check_finished(change.sweep)


def _check_numbers(before: Snapshots | None, change: Change) -> None:
    """Law 6: versions and events are numbered without gaps, and time does not run backwards."""
    version = 0 if before is None else before.sweep.version
    after = change.sweep
    if not change.events:
        raise LawViolation(6, "a commit without an event")
    if change.version != version or after.version != version + 1:
        raise LawViolation(6, f"version {change.version} -> {after.version} is committed on version {version}")
    _check_events(before, change.events)
    last = change.events[-1]
    if after.events != last.number or after.at != last.at:
        raise LawViolation(6, f"event {after.events} at {after.at} is said to be the last one, and that is {last}")


def _check_events(before: Snapshots | None, events: Iterable[ev.Event]) -> None:
    """Law 6, for the events of one commit."""
    version, number, at = (
        (0, 0, 0.0) if before is None else (before.sweep.version, before.sweep.events, before.sweep.at)
    )
    for event in events:
        number += 1
        if event.number != number or event.version != version + 1:
            raise LawViolation(6, f"expected event {number} of version {version + 1}, found {event}")
        if event.at < at:
            raise LawViolation(6, f"time ran backwards, from {at} to {event}")
        at = event.at


def _check_touched(before: Snapshots, change: Change) -> None:
    """Law 10: a commit writes what its events are about: active or leased runs, and at most one other."""
    written = [run.index for run in change.runs]
    subjects = {event.index for event in change.events if isinstance(event, ev.RunEvent)}
    if len(set(written)) != len(written) or set(written) != subjects:
        raise LawViolation(10, f"runs {written} are written, and the events are about {sorted(subjects)}")
    others: list[int] = []
    for index in written:
        old = before.runs.get(index)
        if old is None:
            if index < before.sweep.created:
                raise LawViolation(10, f"run {index} is written, and is not among those before")
            others.append(index)
        elif old.status not in _ACTIVE and old.lease is None:
            others.append(index)
    if len(others) > 1:
        raise LawViolation(10, f"runs {others} were neither active nor leased, and {_kinds(change)} touches them all")


@attrs.define
class _Seen:
    """What the laws speak of in a run, followed event by event."""

    status: RunStatus
    attempt: int
    leased: int | None
    lost: bool


class _Model:
    """Follows the events of one commit, and checks each where it happens: laws 1, 3, 5, 8 and 9."""

    def __init__(self, before: Snapshots) -> None:
        sweep = before.sweep
        self._known = before.runs
        self.runs: dict[int, _Seen] = {}
        self.finished = False
        self._status = sweep.status
        # Until it is reopened, no run of a cancelled sweep changes; the kills of the cancel itself come with it.
        self._frozen = sweep.status is SweepStatus.CANCELLED
        self._created = sweep.created
        self._slots = sweep.leased
        self._limits = sweep.limits

    def follow(self, event: ev.Event) -> None:
        """Check an event, and note what it changes."""
        if isinstance(event, ev.RunEvent):
            handler = _FOLLOW.get(event.__class__)
            seen = self._seen(event)
            if handler is not None:
                handler(self, seen, event)
            elif event.attempt != seen.attempt and not isinstance(event, _OF_ANY_ATTEMPT):
                raise LawViolation(8, f"attempt {seen.attempt} is the current one, not that of {event}")
        elif isinstance(event, ev.SweepStatusChanged):
            self._status = event.status
            self._frozen = self._frozen and event.status is SweepStatus.CANCELLED
            self.finished = event.status is SweepStatus.FINISHED
        elif isinstance(event, ev.LimitsChanged):
            self._limits = event.limits

    def _seen(self, event: ev.RunEvent) -> _Seen:
        seen = self.runs.get(event.index)
        if seen is None:
            run = self._known.get(event.index)
            if isinstance(event, ev.RunCreated):
                _equal(6, "the index of the run that is created", event.index, self._created)
                seen = _Seen(RunStatus.PENDING, 1, leased=None, lost=False)
            elif run is None:
                raise LawViolation(10, f"there is no run for {event}")
            else:
                lease = run.lease
                leased, lost = (None, False) if lease is None else (lease.attempt, lease.lost)
                seen = _Seen(run.status, run.attempt, leased, lost)
            self.runs[event.index] = seen
        return seen

    def created(self, seen: _Seen, event: ev.RunCreated) -> None:
        if self._status is not SweepStatus.RUNNING:
            raise LawViolation(1, f"a run is created in a sweep that is {self._status}: {event}")
        self._created += 1
        cap = self._limits.run_cap
        if cap is not None and self._created > cap:
            raise LawViolation(3, f"run_cap is {cap}, and {self._created} runs are created: {event}")
        self.handed_out(seen, event)

    def handed_out(self, seen: _Seen, event: ev.RunHandedOut) -> None:
        if self._status is not SweepStatus.RUNNING:
            raise LawViolation(1, f"a run is handed out in a sweep that is {self._status}: {event}")
        if seen.status is not RunStatus.PENDING:
            raise LawViolation(9, f"a run that is {seen.status} is handed out: {event}")
        if event.attempt != seen.attempt:
            raise LawViolation(8, f"attempt {seen.attempt} is the current one, not that of {event}")
        if seen.leased is not None and not seen.lost:
            raise LawViolation(8, f"attempt {seen.leased} is leased still: {event}")
        seen.leased, seen.lost = event.attempt, False
        self._slots += 1
        slots = self._limits.max_active
        if slots is not None and self._slots > slots:
            raise LawViolation(3, f"max_active is {slots}, and {self._slots} slots are taken: {event}")

    def started(self, seen: _Seen, event: ev.RunStarted) -> None:
        self._changes(seen, event)
        if seen.status is not RunStatus.PENDING:
            raise LawViolation(9, f"a run that is {seen.status} is started: {event}")
        if seen.leased != event.attempt or seen.lost:
            raise LawViolation(8, f"attempt {seen.leased} is leased, and another one starts: {event}")
        seen.status = RunStatus.RUNNING

    def ended(self, seen: _Seen, event: ev.RunEnded) -> None:
        self._changes(seen, event)
        if event.status in _ACTIVE:
            raise LawViolation(9, f"that is no verdict: {event}")
        if seen.status not in _ACTIVE:
            corrects = seen.status is RunStatus.CRASHED and seen.lost and seen.leased == event.attempt
            if not corrects or event.status not in (RunStatus.FINISHED, RunStatus.FAILED):
                raise LawViolation(9, f"a run that is {seen.status} gets another verdict: {event}")
        seen.status = event.status
        self._lease(seen, event.fate)

    def requeued(self, seen: _Seen, event: ev.RunRequeued) -> None:
        if self._frozen:
            raise LawViolation(5, f"the sweep is CANCELLED, and a run changes: {event}")
        if seen.status is RunStatus.FINISHED:
            raise LawViolation(9, f"a FINISHED run is queued again: {event}")
        if event.attempt != seen.attempt + 1:
            raise LawViolation(8, f"attempt {seen.attempt} is the current one, and the next one is not that of {event}")
        seen.status = RunStatus.PENDING
        seen.attempt = event.attempt
        self._lease(seen, event.fate)

    def lease_told(self, seen: _Seen, event: ev.LateReport | ev.LeaseEnded) -> None:
        if event.attempt > seen.attempt:
            raise LawViolation(8, f"attempt {seen.attempt} is the current one, and a later one speaks: {event}")
        if event.fate is ev.Fate.KEPT:
            return
        if event.attempt != seen.leased:
            raise LawViolation(8, f"attempt {seen.leased} is leased, and another one's lease ends: {event}")
        if seen.status in _ACTIVE and event.attempt == seen.attempt:
            raise LawViolation(8, f"the lease of a run that is {seen.status} ends, and its status does not: {event}")
        self._lease(seen, event.fate)

    def _changes(self, seen: _Seen, event: ev.RunEvent) -> None:
        if self._frozen:
            raise LawViolation(5, f"the sweep is CANCELLED, and a run changes: {event}")
        if event.attempt != seen.attempt:
            raise LawViolation(
                8, f"attempt {seen.attempt} is the current one, and another one changes the run: {event}"
            )

    def _lease(self, seen: _Seen, fate: ev.Fate) -> None:
        if seen.leased is None or fate is ev.Fate.KEPT:
            return
        self._slots -= not seen.lost
        if fate is ev.Fate.GONE:
            seen.leased, seen.lost = None, False
        else:
            seen.lost = True


def _follow(before: Snapshots, events: Iterable[ev.Event]) -> _Model:
    """Follow the events of a commit, checking each."""
    model = _Model(before)
    for event in events:
        model.follow(event)
    return model


_FOLLOW: Final[Mapping[type[ev.RunEvent], Callable[[_Model, _Seen, Any], None]]] = {
    ev.RunCreated: _Model.created,
    ev.RunHandedOut: _Model.handed_out,
    ev.RunStarted: _Model.started,
    ev.RunEnded: _Model.ended,
    ev.RunRequeued: _Model.requeued,
    ev.LateReport: _Model.lease_told,
    ev.LeaseEnded: _Model.lease_told,
}
#: Events that may be about an attempt that counts no more: what is heard of it, and what could not be delivered to it.
_OF_ANY_ATTEMPT: Final = (ev.RevokedLeaseHeard, ev.OrderFailed)


def _check_run(before: Snapshots, change: Change, old: RunState | None, new: RunState, seen: _Seen) -> None:
    """Check what became of one run: laws 5, 8 and 9 on the snapshots themselves, and that the events tell it."""
    if old is not None:
        _check_step(before, change, old, new)
    lease = new.lease
    leased, lost = (None, False) if lease is None else (lease.attempt, lease.lost)
    if (leased, lost) != (seen.leased, seen.lost) or new.attempt != seen.attempt:
        raise LawViolation(8, f"attempt and lease should be {seen}, by {_kinds(change)}; found {new}")
    if new.status is not seen.status:
        raise LawViolation(6, f"the events make run {new.index} {seen.status}; written is {new.status}")
    if lease is not None:
        _check_lease(new, lease)


def _check_step(before: Snapshots, change: Change, old: RunState, new: RunState) -> None:
    """Check what a commit made of a run that was there, by its two snapshots."""
    if new.attempt < old.attempt:
        raise LawViolation(8, f"the attempt fell from {old.attempt} to {new.attempt}: {new}")
    if old.status is RunStatus.FINISHED and _verdict(old) != _verdict(new):
        raise LawViolation(9, f"a FINISHED run changed, from {_verdict(old)} to {_verdict(new)}")
    if old.status is not new.status:
        if before.sweep.status is SweepStatus.CANCELLED is change.sweep.status:
            raise LawViolation(5, f"the sweep is CANCELLED, and run {new.index} went {old.status} -> {new.status}")
        kinds = {type(event) for event in change.events if getattr(event, "index", None) == new.index}
        if old.status not in _ACTIVE and not kinds & {ev.RunEnded, ev.RunRequeued}:
            raise LawViolation(9, f"run {new.index} went {old.status} -> {new.status} by {_kinds(change)}")
    if old.config != new.config or old.created_at != new.created_at:
        raise LawViolation(9, f"what never changes of a run changed: {old} -> {new}")


def _verdict(run: RunState) -> tuple[object, ...]:
    return (run.status, run.attempt, run.cause, run.message, run.exit_code, run.signal, run.metrics, run.ended_at)


_COUNTS: Final = tuple((status, status.value.lower()) for status in RunStatus)


def _check_counts(before: Snapshots, change: Change) -> None:
    """Law 2, for one commit: counts move as the runs do. ``check_state`` recounts them all."""
    moved: dict[RunStatus, int] = {}
    leased = before.sweep.leased
    for new in change.runs:
        old = before.runs.get(new.index)
        if old is not None:
            moved[old.status] = moved.get(old.status, 0) - 1
            leased -= old.lease is not None and not old.lease.lost
        moved[new.status] = moved.get(new.status, 0) + 1
        leased += new.lease is not None and not new.lease.lost
    for status, name in _COUNTS:
        wanted = getattr(before.sweep, name) + moved.get(status, 0)
        if getattr(change.sweep, name) != wanted:
            _equal(2, f"the count of {status} runs", getattr(change.sweep, name), wanted)
    if change.sweep.leased != leased:
        _equal(2, "the count of leases that take a slot", change.sweep.leased, leased)


def _check_finished(after: SweepState) -> None:
    """Law 4, at the commit that finishes."""
    created = sum(after.counts.values())
    bounds = [bound for bound in (after.limits.run_cap, after.size) if bound is not None]
    complete = after.exhausted or after.completed is not None or any(created >= bound for bound in bounds)
    if not complete:
        raise LawViolation(4, f"FINISHED, but the search is not complete: {after}")
    if after.backlog:
        raise LawViolation(4, f"FINISHED, with a backlog: {after.backlog}")
    if after.pending or after.running:
        raise LawViolation(4, f"FINISHED, with {after.pending} runs PENDING and {after.running} RUNNING")


def _check_replay(before: Snapshots, change: Change) -> None:
    """Law 6: the events, applied to what was there, give what is written."""
    after = _applied(before, change.events)
    if after.sweep != change.sweep:
        _same_form(change.sweep, after.sweep, "the sweep")
    for run in change.runs:
        if after.runs[run.index] != run:
            _same_form(run, after.runs[run.index], f"run {run.index}")


def _applied(before: Snapshots, events: Iterable[ev.Event]) -> Snapshots:
    """Return what the events of one commit lead to, by the core's own replay."""
    sweep = unpublished(before.sweep)
    runs: dict[int, RunState] = {}
    for event in events:
        run = None
        if isinstance(event, ev.RunEvent):
            run = runs.get(event.index)
            if run is None:
                old = before.runs.get(event.index)
                if isinstance(event, ev.RunCreated):
                    run = new_run(event)
                elif old is None:
                    raise LawViolation(6, f"there is no run for {event}")
                else:
                    run = unpublished(old)
                runs[event.index] = run
        apply(sweep, run, event)
    return Snapshots(sweep, runs)


# --- what a storage holds ------------------------------------------------------------------------


def _step(before: Snapshots | None, runs: dict[int, RunState], events: Sequence[ev.Event], sweep_id: str) -> Snapshots:
    """Check one commit of a history, and return what is there after it; ``runs`` are updated in place."""
    _check_events(before, events)
    try:
        after = replay(events) if before is None else _applied(before, events)
    except (SweepstateError, LookupError, AttributeError, TypeError) as error:
        if before is not None:
            _follow(before, events)  # the law that it breaks says more than that it cannot be replayed
        raise LawViolation(6, f"the history cannot be replayed at {events[0]}: {error}") from error
    version = 0 if before is None else before.sweep.version
    changed = tuple(after.runs.values())
    _check_commit(before, Change(sweep_id, version, after.sweep, changed, tuple(events)), replays=False)
    runs.update(after.runs)
    return Snapshots(after.sweep, runs)


def _commits(storage: Storage, sweep_id: str) -> Iterator[Sequence[ev.Event]]:
    """Yield the events of each commit, from pages that should end where a commit does."""
    after = 0
    open_commit: list[ev.Event] = []
    for page in _pages(storage, sweep_id):
        for event in page:
            if open_commit and event.version != open_commit[-1].version:
                yield open_commit
                open_commit = []
            open_commit.append(event)
        after = page[-1].number
        following = storage.events(sweep_id, after=after, limit=1)
        if following and following[0].version == page[-1].version:
            raise LawViolation(10, f"a page of history ends within the commit of version {page[-1].version}")
    if open_commit:
        yield open_commit


def _pages(storage: Storage, sweep_id: str) -> Iterator[Sequence[ev.Event]]:
    after = 0
    while page := storage.events(sweep_id, after=after, limit=_PAGE):
        if page[-1].number <= after:
            raise LawViolation(6, f"behind event {after} the history goes on with event {page[-1].number}")
        yield page
        after = page[-1].number


def _all_runs(storage: Storage, sweep_id: str) -> Iterator[RunState]:
    after = -1
    while page := storage.runs(sweep_id, ByIndex(), after=after, limit=_PAGE):
        yield from page
        if page[-1].index <= after:
            raise LawViolation(2, f"behind run {after} the runs go on with run {page[-1].index}")
        after = page[-1].index


# --- evidence ------------------------------------------------------------------------------------


def _canonical(value: SweepState | RunState) -> str:
    return json.dumps(to_dict(value), sort_keys=True)


def _same_form(stored: SweepState | RunState, replayed: SweepState | RunState, name: str) -> None:
    """Compare to the byte, and show only the fields that differ."""
    if _canonical(stored) == _canonical(replayed):
        return
    found, wanted = to_dict(stored), to_dict(replayed)
    differing = [f"{key}: {found[key]!r}, by replay {wanted[key]!r}" for key in found if found[key] != wanted[key]]
    raise LawViolation(6, f"{name} is not what its events lead to: " + "; ".join(differing))


def _equal(law: int, what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise LawViolation(law, f"{what} is {found}, and should be {wanted}")


def _kinds(change: Change) -> str:
    return ", ".join(type(event).__name__ for event in change.events)
