"""Memory storage: for unit tests, notebooks, and sweeps that need not outlive their process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import merge, nsmallest
from itertools import count, islice
from threading import Lock
from typing import Final
from weakref import WeakValueDictionary

from ..core.decide import Change
from ..core.errors import AlreadyExists, Conflict, StorageError, SweepNotFound
from ..core.events import Event
from ..core.questions import ByIndex, Due, InStatus, Leased, Queued, Requested, RunQuery, Silent
from ..core.state import RunState, SweepState
from ..core.status import Cause, RunStatus
from ..core.values import freeze_metrics
from ._indexes import IndexSet, TimeIndex

_QUEUED = Queued()
_SILENT = Silent(0.0)
_PENDING = RunStatus.PENDING
_WITHDRAWN = Cause.WITHDRAWN
#: So many runs may wait to be filed in the indexes: enough that most have ended by then.
_UNFILED = 256


class _Shelf:
    """One sweep, its runs and events, and what answers each query.

    The indexes are brought up to date when a query needs them, so that a run which began and ended in
    between is filed once.
    """

    __slots__ = (
        "agents",
        "beats",
        "due",
        "events",
        "leased",
        "queued",
        "requests",
        "runs",
        "silent",
        "statuses",
        "sweep",
        "torn",
        "unfiled",
        "withdrawn",
    )

    def __init__(self, sweep: SweepState) -> None:
        self.sweep = sweep
        self.runs: list[RunState] = []
        self.events: list[Event] = []
        self.statuses = {status: IndexSet() for status in RunStatus}
        self.withdrawn = IndexSet()
        self.queued = IndexSet()
        # Runs with a lease, and those of each agent; apart, by True, those that are CRASHED by silence.
        self.leased = {False: IndexSet(), True: IndexSet()}
        self.agents: dict[tuple[str, bool], IndexSet] = {}
        self.requests: dict[tuple[str, str], int] = {}
        self.due = TimeIndex()
        self.silent = TimeIndex()
        # The newest attempt heard of each run: attempt, time, metrics.
        self.beats: dict[int, tuple[int, float, Mapping[str, float] | None]] = {}
        # The runs that changed since they were filed, each as it was then; None for a new one.
        self.unfiled: dict[int, RunState | None] = {}
        # The change that is being written: an interrupt (Ctrl-C) in the middle leaves it here to be finished.
        self.torn: Change | None = None

    # --- writing ---------------------------------------------------------------------------------

    def write(self, change: Change) -> None:
        self.torn = change
        self.finish(change)

    def finish(self, change: Change) -> None:
        """Write a change; again from the start if that was interrupted, which does no harm."""
        runs, unfiled, events = self.runs, self.unfiled, self.events
        for run in change.runs:
            index = run.index
            if index == len(runs):
                unfiled[index] = None
                runs.append(run)
            else:
                if index not in unfiled:
                    unfiled[index] = runs[index]
                runs[index] = run
        first = change.events[0].number - 1
        if len(events) > first:
            del events[first:]
        events += change.events
        # Last, because the snapshot and single runs are read without the lock: what is read is never older than it.
        self.sweep = change.sweep
        self.torn = None
        if len(unfiled) > _UNFILED:
            self._file()

    def _file(self) -> None:
        """Bring the indexes up to date."""
        unfiled = self.unfiled
        while unfiled:
            index = next(iter(unfiled))
            old, run = unfiled[index], self.runs[index]
            if old is not None:
                self._forget(old, run)
            self._index(run)
            del unfiled[index]  # only now: filing again what was interrupted does no harm

    def _forget(self, old: RunState, run: RunState) -> None:
        """Take a run out of the indexes that its next snapshot is not in."""
        index = old.index
        if old.status is not run.status:
            self.statuses[old.status].discard(index)
        if old.cause is _WITHDRAWN:
            self.withdrawn.discard(index)
        if old.status is _PENDING:
            self.queued.discard(index)
        if old.due_at is not None and run.due_at is None:
            self.due.set(index, None)
        lease = old.lease
        if lease is None or lease is run.lease:
            return
        key = (lease.agent, _presumed(old))
        mine = self.agents.get(key, _NONE)
        mine.discard(index)
        if not mine:
            self.agents.pop(key, None)
        self.leased[key[1]].discard(index)
        if lease.request_id is not None and self.requests.get((lease.agent, lease.request_id)) == index:
            del self.requests[lease.agent, lease.request_id]
        if lease.beats:
            self.silent.set(index, None)

    def _index(self, run: RunState) -> None:
        """Put a run into the indexes that it is in; being there already does no harm."""
        index, lease = run.index, run.lease
        self.statuses[run.status].add(index)
        if run.cause is _WITHDRAWN:
            self.withdrawn.add(index)
        if run.status is _PENDING and _QUEUED.matches(run):
            self.queued.add(index)
        if run.due_at is not None:
            self.due.set(index, run.due_at)
        if lease is None:
            return
        key = (lease.agent, _presumed(run))
        self.leased[key[1]].add(index)
        mine = self.agents.get(key)
        if mine is None:
            mine = self.agents[key] = IndexSet()
        mine.add(index)
        if lease.request_id is not None and Requested(lease.agent, lease.request_id).matches(run):
            self.requests[lease.agent, lease.request_id] = index
        if lease.beats and _SILENT.watches(run):
            self.silent.set(index, self.heard(run))

    def beat(self, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        known = self.beats.get(index)
        if known is not None:
            if known[0] > attempt:
                return
            if known[0] == attempt:
                at = max(at, known[1])
                metrics = known[2] if metrics is None else metrics
        self.beats[index] = (attempt, at, metrics)
        run = self.runs[index]
        if index not in self.unfiled and _SILENT.watches(run):
            self.silent.set(index, self.heard(run))

    # --- reading ---------------------------------------------------------------------------------

    def last_beat(self, index: int, attempt: int) -> float | None:
        known = self.beats.get(index)
        return known[1] if known is not None and known[0] == attempt else None

    def heard(self, run: RunState) -> float:
        """Return when the leased attempt of a run was last heard."""
        lease = run.lease
        if lease is None:
            return run.created_at
        beat = self.last_beat(run.index, lease.attempt)
        return lease.since if beat is None else max(lease.since, beat)

    def select(
        self, query: Queued | Leased | Requested | Due | Silent | InStatus, after: int, limit: int
    ) -> Iterator[int]:
        """Return the indexes that a query means."""
        if self.unfiled:
            self._file()
        match query:
            case Queued():
                return islice(self.queued.above(after), limit)
            case Leased(agent=agent, presumed=presumed):
                wanted = (False, True) if presumed else (False,)
                sets = [
                    self.leased[each] if agent is None else self.agents.get((agent, each), _NONE) for each in wanted
                ]
                return islice(merge(*(members.above(after) for members in sets)), limit)
            case Requested(agent=agent, request_id=request_id):
                found = self.requests.get((agent, request_id))
                return iter(() if found is None or found <= after else (found,))
            case Due(at=at):
                return iter(self.due.until(at, limit))
            case Silent(since=since):
                return iter(self.silent.until(since, limit))
            case InStatus():
                return islice(self._in_status(query, after), limit)

    def _in_status(self, query: InStatus, after: int) -> Iterator[int]:
        sets = [self.statuses[status] for status in query.statuses]
        if query.withdrawn and RunStatus.KILLED not in query.statuses:
            sets.append(self.withdrawn)
        members = sets[0].above(after) if len(sets) == 1 else merge(*(each.above(after) for each in sets))
        since = query.unchanged_since
        return (index for index in members if since is None or self.runs[index].status_version <= since)


_NONE = IndexSet()


def _presumed(run: RunState) -> bool:
    """Return whether a leased run is CRASHED by silence: nothing is asked of it, unless the sweep is cancelled."""
    return run.status is RunStatus.CRASHED


class MemoryStorage:
    """Keeps sweeps in this process. Thread-safe, and every query is answered by an index.

    A pickled copy finds its original again in the process that made it; in any other it is refused,
    because two processes with a copy each would hand out the same runs. For the same reason a forked
    child cannot write to its copy.

    Args:
        clock: returns POSIX seconds; if it is given, it is the clock of every sweep that lives here,
            also of those that are opened without one.

    Raises:
        StorageError: to a forked child that writes, and to another process that unpickles it.
    """

    def __init__(self, *, clock: Callable[[], float] | None = None) -> None:
        if clock is not None:
            self.now = clock
        self._copied = False
        self._lock = Lock()
        self._shelves: dict[str, _Shelf] = {}
        self._deleted: set[str] = set()
        self._key = next(_KEYS)
        _HERE[self._key] = self

    def __repr__(self) -> str:
        return f"<MemoryStorage of {len(self._shelves)} sweep(s)>"

    def __reduce__(self) -> tuple[object, ...]:
        return (_find, (os.getpid(), self._key))

    def mark_copied(self) -> None:
        """Refuse writing from now on; the lock is made anew, as a thread that is not here may have held it."""
        self._copied = True
        self._lock = Lock()

    def sweep(self, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot; see ``Storage.sweep``."""
        try:
            return self._shelves[sweep_id].sweep
        except KeyError:
            raise SweepNotFound(sweep_id) from None

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return runs that a query means; see ``Storage.runs``."""
        if isinstance(query, ByIndex):  # without the lock: a slice is made whole
            try:
                return self._shelves[sweep_id].runs[after + 1 : after + 1 + limit]
            except KeyError:
                raise SweepNotFound(sweep_id) from None
        with self._lock:
            shelf = self._shelf(sweep_id)
            runs = shelf.runs
            return [runs[index] for index in shelf.select(query, after, limit)]

    def commit(self, change: Change) -> None:
        """Write a change, all or nothing; see ``Storage.commit``.

        Raises:
            StorageError: this is a forked child's copy.
        """
        with self._lock:
            if self._copied:
                raise StorageError(_ELSEWHERE)
            if change.version == 0:
                if change.sweep_id in self._shelves or change.sweep_id in self._deleted:
                    raise AlreadyExists(change.sweep_id)
                self._shelves[change.sweep_id] = shelf = _Shelf(change.sweep)
                shelf.write(change)
                return
            shelf = self._shelf(change.sweep_id)
            if shelf.sweep.version != change.version:
                raise Conflict(change.sweep_id, change.version, shelf.sweep.version)
            for silence in change.silences:
                heard = shelf.last_beat(silence.index, silence.attempt)
                if heard is not None and heard > silence.heard:
                    raise Conflict(
                        change.sweep_id, change.version, change.version, f"run {silence.index} was heard meanwhile"
                    )
            shelf.write(change)

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        """Return events in order, ending at a commit boundary; see ``Storage.events``."""
        with self._lock:
            events = self._shelf(sweep_id).events
            end = min(after + max(limit, 1), len(events))
            if after >= len(events):
                return []
            # Back to the end of a commit that fits, or on to the end of the one that does not.
            while end > after and end < len(events) and events[end - 1].version == events[end].version:
                end -= 1
            if end == after:
                version = events[after].version
                end = after + 1
                while end < len(events) and events[end].version == version:
                    end += 1
            return events[after:end]

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        """Keep a sign of life; see ``Heartbeats.beat``.

        Raises:
            StorageError: this is a forked child's copy.
        """
        frozen = None if metrics is None else freeze_metrics(metrics)
        with self._lock:
            if self._copied:
                raise StorageError(_ELSEWHERE)
            shelf = self._shelf(sweep_id)
            if index < len(shelf.runs):
                shelf.beat(index, attempt, at, frozen)

    def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        """Return when each attempt was last heard; see ``Heartbeats.last_heard``."""
        with self._lock:
            shelf = self._shelf(sweep_id)
            return [shelf.last_beat(index, attempt) for index, attempt in leases]

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        """Return what a run last reported on the way; see ``Heartbeats.last_metrics``."""
        with self._lock:
            known = self._shelf(sweep_id).beats.get(index)
            return None if known is None else known[2]

    def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        """Return sweeps by id; see ``Catalog.sweeps``."""
        with self._lock:
            ids = nsmallest(limit, (sweep_id for sweep_id in self._shelves if sweep_id > after))
            return [self._shelves[sweep_id].sweep for sweep_id in ids]

    def delete(self, sweep_id: str) -> None:
        """Forget a sweep; see ``Catalog.delete``."""
        with self._lock:
            self._shelf(sweep_id)
            del self._shelves[sweep_id]
            self._deleted.add(sweep_id)

    def _shelf(self, sweep_id: str) -> _Shelf:
        """Return a sweep's shelf, with the lock held."""
        try:
            shelf = self._shelves[sweep_id]
        except KeyError:
            raise SweepNotFound(sweep_id) from None
        if shelf.torn is not None:
            shelf.finish(shelf.torn)
        return shelf


_KEYS = count()
_HERE: WeakValueDictionary[int, MemoryStorage] = WeakValueDictionary()


def _find(process: int, key: int) -> MemoryStorage:
    """Return the storage that was pickled, if this is the process it lives in."""
    found = _HERE.get(key) if process == os.getpid() else None
    if found is None:
        raise StorageError(_ELSEWHERE)
    return found


_ELSEWHERE: Final = (
    "a MemoryStorage lives in one process, the one that made it, and this is another; "
    "use a storage that processes share"
)


def _mark_copies() -> None:
    """Mark what a forked child has inherited: writing to it would be seen by nobody else."""
    for storage in list(_HERE.values()):
        storage.mark_copied()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_copies)
