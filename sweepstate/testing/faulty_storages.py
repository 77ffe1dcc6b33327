# ruff: noqa: ARG002, D102 - what a method does is the storage's promise; how it breaks it, its class says
"""Storages that are each broken in one way that storages really are broken; the contract has to find every one.

A contract that no wrong storage fails proves nothing. ``FAULTS`` lists them;
each says in its docstring what goes wrong, with the bug of the field it stands
for where there is one, and in ``caught_by`` which test is meant to find it.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
import unicodedata
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import attrs

from ..core.decide import Change
from ..core.errors import AlreadyExists, Conflict, StorageError, SweepNotFound
from ..core.events import Event
from ..core.plain import to_dict
from ..core.questions import ByIndex, Due, InStatus, Leased, Queued, Requested, RunQuery, Silent
from ..core.state import RunState, SweepState
from ..core.status import RunStatus
from ..core.values import FrozenDict
from ..hooks import AsyncStorage, Storage
from ..storage.memory import MemoryStorage
from .contract.plain import PlainStorage
from .contract.world import heard_of, select

_Class = TypeVar("_Class", bound=type)

#: Every fault, in the order of this page.
FAULTS: Final[list[type[MemoryStorage | PlainStorage]]] = []
#: Those that only an async storage can have.
ASYNC_FAULTS: Final[list[type[AwaitingStorage]]] = []


def _fault(caught_by: str) -> Callable[[_Class], _Class]:
    """List a fault, and say which test of the contract finds it."""

    def add(cls: _Class) -> _Class:
        cls.caught_by = caught_by  # type: ignore[attr-defined]
        faults: list[Any] = ASYNC_FAULTS if iscoroutinefunction(getattr(cls, "commit", None)) else FAULTS
        faults.append(cls)
        return cls

    return add


class TurningStorage(MemoryStorage):
    """Memory storage in which threads can take turns: right, and what the faults of turns are made from."""

    def __init__(self) -> None:
        super().__init__()
        self._turns = threading.RLock()

    def commit(self, change: Change) -> None:
        """Write a change, when no other thread has the turn."""
        with self._turns:
            super().commit(change)

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Self]:
        """Keep every other thread from committing."""
        with self._turns:
            yield self


class _Looking(MemoryStorage):
    """Memory storage that finds its runs by looking at all of them, so that what it looks for can be got wrong."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return what is found."""
        if isinstance(query, ByIndex):
            return super().runs(sweep_id, query, after=after, limit=limit)
        runs = list(super().runs(sweep_id, ByIndex(), limit=10**9))
        found = self.look(sweep_id, query, runs)
        return [runs[index] for index in found if index > after or isinstance(query, (Due, Silent))][:limit]

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        """Return the indexes of what a query means."""
        return select(query, runs, heard_of(self, sweep_id, runs))


# --- versions ------------------------------------------------------------------------------------


@_fault("test_the_version_is_compared")
class NoVersionCheck(MemoryStorage):
    """The last one to write wins, whatever it was decided on (wandb#8549: 13,020 points made 17,961 runs)."""

    def commit(self, change: Change) -> None:
        if change.version:
            change = attrs.evolve(change, version=self.sweep(change.sweep_id).version)
        super().commit(change)


@_fault("test_threads_that_commit_on_one_version_have_one_winner")
class VersionCheckedOutsideTheLock(NoVersionCheck):
    """The version is compared, and written a moment later (optuna#4002: two workers popped one trial)."""

    def commit(self, change: Change) -> None:
        if change.version and self.sweep(change.sweep_id).version != change.version:
            raise Conflict(change.sweep_id, change.version)
        time.sleep(0.002)
        super().commit(change)


@_fault("test_processes_that_commit_on_one_version_have_one_winner")
class VersionCheckedOutsideTheTransaction(PlainStorage):
    """A lock of the process stands for one of the database (optuna#5489: repeated points in parallel)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept, _lock=threading.Lock())

    def commit(self, change: Change) -> None:
        with self._lock:
            found = self.sweep(change.sweep_id).version if change.version else 0
            if found != change.version:
                raise Conflict(change.sweep_id, change.version, found)
            time.sleep(0.002)
            super().commit(change)

    def _take_version(self, db: sqlite3.Connection, change: Change) -> None:
        if change.version == 0:
            super()._take_version(db, change)
            return
        sql = "UPDATE sweep SET version = ?, body = ? WHERE id = ?"
        self._write(db, sql, change.sweep.version, json.dumps(to_dict(change.sweep)), change.sweep_id)
        self._write(db, "DELETE FROM event WHERE sweep = ? AND number >= ?", change.sweep_id, change.events[0].number)


@_fault("test_the_version_is_compared")
class NewerVersionsAccepted(MemoryStorage):
    """The version is compared with < where it should be with !=."""

    def commit(self, change: Change) -> None:
        if change.version > 0:
            change = attrs.evolve(change, version=min(change.version, self.sweep(change.sweep_id).version))
        super().commit(change)


@_fault("test_creating_a_sweep_that_is_there_is_refused")
class CreationOverwrites(MemoryStorage):
    """Creating is an upsert, so a second one wipes the first (ray#30861: resuming restored an incoherent state)."""

    def commit(self, change: Change) -> None:
        if change.version == 0:
            self._shelves.pop(change.sweep_id, None)
        super().commit(change)


@_fault("test_the_id_of_a_deleted_sweep_stays_taken")
class IdsReused(MemoryStorage):
    """A deletion forgets that the id was taken, so a late worker reports to a stranger's sweep."""

    def delete(self, sweep_id: str) -> None:
        super().delete(sweep_id)
        self._deleted.clear()


# --- all or nothing ------------------------------------------------------------------------------


@_fault("test_a_commit_is_whole_or_absent_whichever_write_fails")
class EachWriteByItself(PlainStorage):
    """Autocommit: what failed half-way is there by half (optuna#5138: a study that could not be read any more)."""

    def _write(self, db: sqlite3.Connection, sql: str, *values: object) -> int:
        touched = super()._write(db, sql, *values)
        if self._turn is None:
            db.execute("COMMIT")
            db.execute("BEGIN IMMEDIATE")
        return touched


@_fault("test_a_commit_is_whole_or_absent_whichever_write_fails")
class RunsBeforeTheSweep(PlainStorage):
    """The runs are written in a transaction of their own, before the sweep's (ray#14667: parts that do not fit)."""

    def commit(self, change: Change) -> None:
        with self._transaction() as db:
            if change.version:
                self._compare(db, change)
            for run in change.runs:
                sql = "INSERT OR REPLACE INTO run VALUES (?, ?, ?)"
                self._write(db, sql, change.sweep_id, run.index, json.dumps(to_dict(run)))
        super().commit(change)

    def _compare(self, db: sqlite3.Connection, change: Change) -> None:
        found = self._sweep(db, change.sweep_id).version
        if found != change.version:
            raise Conflict(change.sweep_id, change.version, found)


@_fault("test_a_deletion_is_whole_or_absent_whichever_write_fails")
class DeletionInParts(PlainStorage):
    """Each table is emptied by a transaction of its own."""

    def delete(self, sweep_id: str) -> None:
        self.sweep(sweep_id)
        for table in ("run", "event", "beat"):
            with self._transaction() as db:
                self._write(db, f"DELETE FROM {table} WHERE sweep = ?", sweep_id)  # noqa: S608 - names from here
        super().delete(sweep_id)


@_fault("test_the_version_is_compared")
class EventsBeforeTheCommit(MemoryStorage):
    """Events are written first, and stay when the commit is refused: history tells what never happened."""

    def commit(self, change: Change) -> None:
        with suppress(KeyError):
            self._shelves[change.sweep_id].events.extend(change.events)
        super().commit(change)


@_fault("test_a_commit_of_many_runs_is_one_commit")
class FirstThousandRunsOnly(MemoryStorage):
    """A statement takes so many parameters, and what is beyond them is dropped (wandb#5247: a listing cut at 500)."""

    def commit(self, change: Change) -> None:
        super().commit(attrs.evolve(change, runs=change.runs[:999]))


@_fault("test_what_was_acknowledged_survives_a_killed_process")
class AcknowledgedTooEarly(PlainStorage):
    """A commit returns before it is written, and nobody in the process can tell (ray#12347: lost on resume)."""

    def __init__(self, path: Path) -> None:
        self._behind: list[Change] = []
        super().__init__(path)

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Generator[sqlite3.Connection]:
        if self._turn is None:
            while self._behind:
                super().commit(self._behind.pop())
        with super()._transaction(begin) as db:
            yield db

    def commit(self, change: Change) -> None:
        with self._transaction() as db:
            found = self._sweep(db, change.sweep_id).version if change.version else 0
        if change.version and found == change.version and not change.silences and self._turn is None:
            self._behind.append(change)
        else:
            super().commit(change)


# --- what is written -----------------------------------------------------------------------------


@_fault("test_the_laws_hold_after_anything")
class EventLost(MemoryStorage):
    """Of a commit, one event is kept: the history no longer leads to the snapshot."""

    def commit(self, change: Change) -> None:
        super().commit(attrs.evolve(change, events=change.events[:1]))


@_fault("test_what_was_committed_is_there")
class CountNotMoved(MemoryStorage):
    """The status moves in one commit and the count in the next (apscheduler#1116: counters broken for good)."""

    def commit(self, change: Change) -> None:
        if change.version:
            finished = self.sweep(change.sweep_id).finished
            change = attrs.evolve(change, sweep=attrs.evolve(change.sweep, finished=finished))
        super().commit(change)


@_fault("test_metrics_come_back_as_they_were")
class FloatsRounded(MemoryStorage):
    """A column of single precision: 6 digits (wandb#4237: a run came back with a changed configuration)."""

    def commit(self, change: Change) -> None:
        runs = tuple(attrs.evolve(run, metrics=FrozenDict(_rounded(run.metrics))) for run in change.runs)
        super().commit(attrs.evolve(change, runs=runs))


def _rounded(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in metrics.items()}


@_fault("test_values_come_back_as_they_were")
class NaNBecomesNone(MemoryStorage):
    """A JSON column knows no NaN, and makes it null."""

    def commit(self, change: Change) -> None:
        super().commit(_with_configs(change, lambda value: None if value != value else value))  # noqa: PLR0124 - NaN


@_fault("test_values_come_back_as_they_were")
class BigIntegersBecomeFloats(MemoryStorage):
    """A JSON column has numbers of 64 bits, and rounds the larger ones."""

    def commit(self, change: Change) -> None:
        def wide(value: Any) -> Any:
            return float(2**63) if type(value) is int and abs(value) > 2**63 else value

        super().commit(_with_configs(change, wide))


@_fault("test_values_come_back_as_they_were")
class NamesSorted(MemoryStorage):
    """A JSON column sorts the names of a mapping, and so changes how a configuration is passed on."""

    def commit(self, change: Change) -> None:
        runs = tuple(attrs.evolve(run, config=FrozenDict(sorted(run.config.items()))) for run in change.runs)
        super().commit(attrs.evolve(change, runs=runs))


def _with_configs(change: Change, convert: Callable[[Any], Any]) -> Change:
    """Return a change whose runs have their configuration's values converted."""
    runs = tuple(
        attrs.evolve(run, config=FrozenDict({name: convert(value) for name, value in run.config.items()}))
        for run in change.runs
    )
    return attrs.evolve(change, runs=runs)


@_fault("test_texts_come_back_as_they_were")
class TextCut(MemoryStorage):
    """A message is cut at the width of its column, without a word."""

    def commit(self, change: Change) -> None:
        runs = tuple(attrs.evolve(run, message=run.message and run.message[:4_000]) for run in change.runs)
        super().commit(attrs.evolve(change, runs=runs))


# --- what is read --------------------------------------------------------------------------------


@_fault("test_a_commit_is_seen_by_every_thread_at_once")
class EachThreadHasACache(MemoryStorage):
    """Each thread keeps the snapshot it last saw until it commits itself, as a session does (airflow#39717)."""

    def __init__(self) -> None:
        super().__init__()
        self._mine = threading.local()

    def sweep(self, sweep_id: str) -> SweepState:
        known: dict[str, SweepState] = self._mine.__dict__.setdefault("known", {})
        if sweep_id not in known:
            known[sweep_id] = super().sweep(sweep_id)
        return known[sweep_id]

    def commit(self, change: Change) -> None:
        self._mine.__dict__.clear()
        super().commit(change)

    def delete(self, sweep_id: str) -> None:
        super().delete(sweep_id)
        self._mine.__dict__.clear()


@_fault("test_a_second_handle_sees_each_commit_at_once")
class EachHandleHasACache(PlainStorage):
    """Runs are kept ready for the next reader, as long as this handle does not commit (airflow#52754)."""

    def __init__(self, path: Path) -> None:
        self._known: dict[tuple[Any, ...], Sequence[RunState]] = {}
        super().__init__(path)

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        key = (sweep_id, query, after, limit)
        if self._turn is not None or key not in self._known:
            self._known[key] = super().runs(sweep_id, query, after=after, limit=limit)
        return list(self._known[key])

    def commit(self, change: Change) -> None:
        super().commit(change)
        self._known.clear()

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        super().beat(sweep_id, index, attempt, at, metrics)
        self._known.clear()

    def delete(self, sweep_id: str) -> None:
        super().delete(sweep_id)
        self._known.clear()


@_fault("test_reads_are_values")
class StoredListReturned(MemoryStorage):
    """What is returned is the very list that is stored."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        found = super().runs(sweep_id, query, after=after, limit=limit)
        stored = self._shelves[sweep_id].runs
        return stored if len(found) == len(stored) and found == stored else found


@_fault("test_reads_are_values")
class MetricsShared(MemoryStorage):
    """The metrics of a heartbeat are kept as the dictionary that the caller goes on using."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        super().beat(sweep_id, index, attempt, at, metrics)
        known = self._shelves[sweep_id].beats.get(index)
        if known is not None and metrics is not None and known[2] == metrics:
            self._shelves[sweep_id].beats[index] = (known[0], known[1], metrics)


@_fault("test_a_sweep_that_is_unknown_is_not_found")
class UnknownIsEmpty(MemoryStorage):
    """Runs and events of a sweep that is not there are none, as a SELECT says (wandb#2376: it ended too early)."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        return super().runs(sweep_id, query, after=after, limit=limit) if sweep_id in self._shelves else []

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        return super().events(sweep_id, after=after, limit=limit) if sweep_id in self._shelves else []


@_fault("test_a_page_of_events_ends_between_two_commits")
class PageCutInsideACommit(MemoryStorage):
    """A page has as many events as were asked for: whoever replays it sees half a commit."""

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        return super().events(sweep_id, after=after, limit=10**9)[:limit]


@_fault("test_a_page_of_events_ends_between_two_commits")
class LargeCommitEndsTheHistory(MemoryStorage):
    """A commit of more events than the limit has an empty page, which looks like the end."""

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        page = super().events(sweep_id, after=after, limit=limit)
        return page if len(page) <= limit else []


@_fault("test_a_limit_is_kept_exactly")
class LimitIgnored(MemoryStorage):
    """All are returned, however few were asked for (optuna#763: everything costs time proportional to all trials)."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        return super().runs(sweep_id, query, after=after, limit=max(limit, 256))


@_fault("test_queued_runs_come_by_index")
class LimitBeforeTheCondition(MemoryStorage):
    """The limit counts rows that are looked at, not rows that are found (wandb#5247: points repeated)."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        found = super().runs(sweep_id, query, after=after, limit=limit)
        if isinstance(query, (ByIndex, Due, Silent)):
            return found
        looked_at = {run.index for run in super().runs(sweep_id, ByIndex(), after=after, limit=limit)}
        return [run for run in found if run.index in looked_at]


@_fault("test_a_limit_is_kept_exactly")
class CursorIncluded(MemoryStorage):
    """The run after which to go on comes once more: >= instead of >."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        return super().runs(sweep_id, query, after=max(-1, after - (limit > 1)), limit=limit)


# --- queries -------------------------------------------------------------------------------------


@_fault("test_queued_runs_come_by_index")
class QueueByInsertion(_Looking):
    """Queued runs come in the order in which they were queued, which no other storage knows."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        found = super().look(sweep_id, query, runs)
        return sorted(found, key=lambda index: runs[index].status_version) if isinstance(query, Queued) else found


@_fault("test_threads_claim_queued_runs_once")
class ClaimedTwice(_Looking):
    """A queued run stays in the queue when somebody has it (optuna PR#1014: two workers popped the same trial)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, Queued):
            return [run.index for run in runs if run.status is RunStatus.PENDING]
        return super().look(sweep_id, query, runs)


@_fault("test_queued_runs_come_by_index")
class BlockedIsQueued(_Looking):
    """A run is handed out while its older attempt may still be executing (review: two attempts leased at once)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, Queued):
            return [run.index for run in runs if run.status is RunStatus.PENDING and not run.held]
        return super().look(sweep_id, query, runs)


@_fault("test_a_lost_lease_is_listed_as_leased_and_never_as_queued")
class LostIsQueued(_Looking):
    """A run that was lost to silence is handed out at once, though its end may still come (wandb#1526)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        found = super().look(sweep_id, query, runs)
        if isinstance(query, Queued):
            found += [run.index for run in runs if run.status is RunStatus.CRASHED and run.held]
        return sorted(found)


@_fault("test_a_lost_lease_is_listed_as_leased_and_never_as_queued")
class LostIsNotLeased(_Looking):
    """A lost lease is no lease, so a cancel forgets the order to kill it (review: a process that nobody ends)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, Leased):
            query = attrs.evolve(query, presumed=False)
        return super().look(sweep_id, query, runs)


@_fault("test_due_runs_come_by_time_and_then_by_index")
class DueByIndex(_Looking):
    """Overdue runs come by index, so in a large sweep some are never reached (wandb#3506: "stopping" for hours)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        found = super().look(sweep_id, query, runs)
        return sorted(found) if isinstance(query, Due) else found


@_fault("test_due_runs_come_by_time_and_then_by_index")
class DueExclusive(_Looking):
    """What is due at this very moment is not: the one who slept until then wakes up for nothing, for ever."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        found = super().look(sweep_id, query, runs)
        return [index for index in found if runs[index].due_at != query.at] if isinstance(query, Due) else found


@_fault("test_requests_are_answered_while_their_lease_lasts")
class RequestedForEver(_Looking):
    """A request is answered by its run also when that has ended: a worker gets a finished run again."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, Requested):
            asked = (query.agent, query.request_id)
            return [run.index for run in runs if run.lease and (run.lease.agent, run.lease.request_id) == asked][:1]
        return super().look(sweep_id, query, runs)


@_fault("test_requests_are_answered_while_their_lease_lasts")
class RequestsOfAnyAgent(_Looking):
    """Request ids are looked up without the agent: two workers that count from 1 get one run."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, Requested):
            agents = {run.lease.agent for run in runs if run.lease is not None}
            each = [super(RequestsOfAnyAgent, self).look(sweep_id, attrs.evolve(query, agent=a), runs) for a in agents]
            return sorted(index for found in each for index in found)[:1]
        return super().look(sweep_id, query, runs)


@_fault("test_sweeps_side_by_side_do_not_mix")
class RequestsOfAnySweep(MemoryStorage):
    """Request ids are looked up without the sweep: the answer is a run of another one."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        found = super().runs(sweep_id, query, after=after, limit=limit)
        if isinstance(query, Requested) and not found:
            for other in list(self._shelves):
                found = found or super().runs(other, query, after=after, limit=limit)
        return found


@_fault("test_runs_unchanged_since_a_version_are_found")
class UnchangedSinceIgnored(_Looking):
    """A wish to retry takes up what failed after it was made: it never ends (wandb#1879, ray#21222)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, InStatus):
            query = attrs.evolve(query, unchanged_since=None)
        return super().look(sweep_id, query, runs)


@_fault("test_runs_unchanged_since_a_version_are_found")
class WithdrawnForgotten(_Looking):
    """Reopening does not find what a stop withdrew (ray#12347: queued trials were forgotten on resume)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, InStatus):
            query = attrs.evolve(query, withdrawn=False)
        return super().look(sweep_id, query, runs)


@_fault("test_runs_unchanged_since_a_version_are_found")
class BranchesOneAfterTheOther(_Looking):
    """A union of two index ranges comes unmerged, so that a cursor skips what is smaller."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        found = super().look(sweep_id, query, runs)
        if isinstance(query, InStatus) and query.withdrawn:
            return sorted(found, key=lambda index: (runs[index].status not in query.statuses, index))
        return sorted(found, key=lambda index: (runs[index].status, index)) if isinstance(query, InStatus) else found


@_fault("test_every_query_is_answered_by_an_index")
class NoIndex(PlainStorage):
    """Every query looks at every run (optuna#5948: claiming cost time proportional to all trials)."""

    def plan(self, query: RunQuery) -> str | None:
        """Return how a query is answered."""
        return None if isinstance(query, ByIndex) else "SCAN run"


# --- names ---------------------------------------------------------------------------------------


class _NamesAlike(_Looking):
    """Takes some names for one another."""

    def alike(self, name: str) -> str:
        """Return what is compared."""
        return name

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        """Return the indexes of what a query means, by a wrong comparison."""
        if isinstance(query, Leased) and query.agent is not None:
            agents = {run.lease.agent for run in runs if run.lease is not None}
            each = [
                super(_NamesAlike, self).look(sweep_id, attrs.evolve(query, agent=agent), runs)
                for agent in agents
                if self.alike(agent) == self.alike(query.agent)
            ]
            return sorted(index for found in each for index in found)
        return super().look(sweep_id, query, runs)


@_fault("test_names_are_compared_to_the_byte")
class AgentsInAnyCase(_NamesAlike):
    """A collation that knows no case: "GPU-7" has the runs of "gpu-7" (MySQL's default)."""

    def alike(self, name: str) -> str:
        return name.casefold()


@_fault("test_names_are_compared_to_the_byte")
class AgentsTrimmed(_NamesAlike):
    """A collation that pads with blanks: a trailing one does not count (SQL's CHAR)."""

    def alike(self, name: str) -> str:
        return name.rstrip(" ")


@_fault("test_names_are_compared_to_the_byte")
class AgentsNormalised(_NamesAlike):
    """A collation by Unicode: one accent is two code points or one."""

    def alike(self, name: str) -> str:
        return unicodedata.normalize("NFC", name)


@_fault("test_names_are_compared_to_the_byte")
class AgentsCut(_NamesAlike):
    """A column of 255 characters: long names are equal when they begin alike."""

    def alike(self, name: str) -> str:
        return name[:255]


@_fault("test_names_are_compared_to_the_byte")
class NulEndsNames(_NamesAlike):
    """A driver in C: a name ends at its first NUL."""

    def alike(self, name: str) -> str:
        return name.split("\0", maxsplit=1)[0]


@_fault("test_ids_are_compared_to_the_byte")
class IdsNormalised(MemoryStorage):
    """A file for each sweep, on a file system that normalises names: two ids, one sweep."""

    def sweep(self, sweep_id: str) -> SweepState:
        return super().sweep(unicodedata.normalize("NFC", sweep_id))

    def commit(self, change: Change) -> None:
        super().commit(attrs.evolve(change, sweep_id=unicodedata.normalize("NFC", change.sweep_id)))


@_fault("test_ids_are_compared_to_the_byte")
class IdsInAnyCase(MemoryStorage):
    """A primary key in a collation that knows no case."""

    def commit(self, change: Change) -> None:
        if change.version == 0 and change.sweep_id.lower() in {sweep_id.lower() for sweep_id in self._shelves}:
            raise AlreadyExists(change.sweep_id)
        super().commit(change)


# --- heartbeats ----------------------------------------------------------------------------------


@_fault("test_a_heartbeat_is_no_commit")
class HeartbeatWritesTheRun(MemoryStorage):
    """A heartbeat saves the run as it was read before, and undoes what came since (wandb#3599, optuna#5470)."""

    def __init__(self) -> None:
        super().__init__()
        self._loaded: dict[tuple[str, int, int], RunState] = {}

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        super().beat(sweep_id, index, attempt, at, metrics)
        runs = self._shelves[sweep_id].runs
        if index < len(runs):
            runs[index] = self._loaded.setdefault((sweep_id, index, attempt), runs[index])


@_fault("test_a_heartbeat_is_no_commit")
class HeartbeatTakesAVersion(MemoryStorage):
    """A heartbeat moves the version, so commands and heartbeats outrun each other for ever."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        super().beat(sweep_id, index, attempt, at, metrics)
        shelf = self._shelves[sweep_id]
        shelf.sweep = attrs.evolve(shelf.sweep, version=shelf.sweep.version + 1)


@_fault("test_a_heartbeat_is_no_commit")
class CommitForgetsHeartbeats(MemoryStorage):
    """A commit writes the run's row whole, and with it the time of its last heartbeat (wandb#6779)."""

    def commit(self, change: Change) -> None:
        super().commit(change)
        for run in change.runs:
            self._shelves[change.sweep_id].beats.pop(run.index, None)


@_fault("test_an_older_heartbeat_changes_nothing")
class HeartbeatGoesBack(MemoryStorage):
    """The sign that arrives last wins, also if it was sent first."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        known = self._shelf(sweep_id).beats.get(index)
        super().beat(sweep_id, index, attempt, at, metrics)
        if known is not None and known[0] == attempt:
            _, _, kept = self._shelves[sweep_id].beats[index]
            self._shelves[sweep_id].beats[index] = (attempt, at, kept)


@_fault("test_heartbeats_are_of_one_attempt")
class HeartbeatsOfAnyAttempt(MemoryStorage):
    """A zombie's heartbeat keeps the new attempt alive (airflow#39717: who runs this task?)."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        known = self._shelf(sweep_id).beats.get(index)
        super().beat(sweep_id, index, attempt if known is None else max(attempt, known[0]), at, metrics)


@_fault("test_heartbeats_are_of_one_attempt")
class MetricsOfAnyAttempt(MemoryStorage):
    """The metrics of the attempt before are shown as the new one's."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        known = self._shelf(sweep_id).beats.get(index)
        super().beat(sweep_id, index, attempt, at, metrics if metrics is not None or known is None else known[2])


@_fault("test_metrics_are_kept_until_newer_ones_come")
class NoMetricsErase(MemoryStorage):
    """A heartbeat without metrics wipes those that are there."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        super().beat(sweep_id, index, attempt, at, {} if metrics is None else metrics)

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        return super().last_metrics(sweep_id, index) or None


@_fault("test_a_heartbeat_of_nothing_changes_nothing")
class HeartbeatOfNothing(MemoryStorage):
    """A heartbeat of a run that is not there yet is kept for it: the table has no foreign key."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        super().beat(sweep_id, index, attempt, at, metrics)
        if index >= len(self._shelves[sweep_id].runs):
            self._shelves[sweep_id].beats[index] = (attempt, at, metrics)


@_fault("test_silent_runs_come_by_last_sign_and_then_by_index")
class SilentInSpiteOfHeartbeats(_Looking):
    """Silence is counted from the start, whatever was heard since (wandb#1526: crashed while training goes on)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        since = {run.index: run.lease.since for run in runs if run.lease is not None}
        return select(query, runs, since)


@_fault("test_silent_runs_come_by_last_sign_and_then_by_index")
class SuspectedAgain(_Looking):
    """Who is suspected already is suspected again, and so never lost (wandb#6779: "running" for weeks)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if not isinstance(query, Silent):
            return super().look(sweep_id, query, runs)
        innocent = [
            attrs.evolve(run, lease=attrs.evolve(run.lease, suspected_at=None)) if run.lease is not None else run
            for run in runs
        ]
        return super().look(sweep_id, query, innocent)


@_fault("test_silent_runs_come_by_last_sign_and_then_by_index")
class SilentWithoutAPromise(_Looking):
    """A loop that never promised heartbeats is watched like one that did (review: crashed after five minutes)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if not isinstance(query, Silent):
            return super().look(sweep_id, query, runs)
        promised = [
            attrs.evolve(run, lease=attrs.evolve(run.lease, beats=True)) if run.lease is not None else run
            for run in runs
        ]
        return super().look(sweep_id, query, promised)


@_fault("test_a_commit_on_a_silence_that_was_broken_is_a_conflict")
class SilenceUnchecked(MemoryStorage):
    """A heartbeat that came just before the commit does not count: the run is lost (wandb#1526, review: an outage)."""

    def commit(self, change: Change) -> None:
        super().commit(attrs.evolve(change, silences=()))


@_fault("test_one_broken_silence_of_many_is_enough")
class FirstSilenceOnly(MemoryStorage):
    """Of the silences that a commit acts on, the first is compared."""

    def commit(self, change: Change) -> None:
        super().commit(attrs.evolve(change, silences=change.silences[:1]))


@_fault("test_a_commit_on_a_silence_that_held_is_accepted")
class SilenceComparedWithEqual(MemoryStorage):
    """The sign that the decision knew of breaks its silence: >= instead of >, and nobody is ever lost (optuna#485)."""

    def commit(self, change: Change) -> None:
        for silence in change.silences:
            if self.last_heard(change.sweep_id, [(silence.index, silence.attempt)])[0] == silence.heard:
                raise Conflict(change.sweep_id, change.version, what="heard")
        super().commit(change)


@_fault("test_a_commit_on_a_silence_that_was_broken_is_a_conflict")
class SilenceInWholeSeconds(MemoryStorage):
    """A DATETIME column: what was heard within the same second is not newer."""

    def commit(self, change: Change) -> None:
        coarse = tuple(attrs.evolve(silence, heard=float(int(silence.heard)) + 1) for silence in change.silences)
        super().commit(attrs.evolve(change, silences=coarse))


# --- catalog -------------------------------------------------------------------------------------


@_fault("test_sweeps_are_listed_by_id")
class CatalogByCreation(MemoryStorage):
    """Sweeps come in the order in which they were created, and a cursor skips some (wandb#5247)."""

    def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        ids = [sweep_id for sweep_id in self._shelves if sweep_id > after]
        return [self.sweep(sweep_id) for sweep_id in ids[:limit]]


@_fault("test_sweeps_are_listed_by_id")
class CatalogInUtf16(MemoryStorage):
    """Sweeps are sorted by UTF-16, where an emoji comes before a full-width letter, and compared otherwise."""

    def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        ids = sorted((each for each in self._shelves if each > after), key=lambda each: each.encode("utf-16-be"))
        return [self.sweep(sweep_id) for sweep_id in ids[:limit]]


@_fault("test_a_deleted_sweep_is_not_found")
class DeletionLeavesRuns(PlainStorage):
    """The sweep's row is deleted, its runs are not, and are still found (wandb#4283)."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        try:
            return super().runs(sweep_id, query, after=after, limit=limit)
        except SweepNotFound:
            with self._reading() as db:
                if db.execute("SELECT 1 FROM sweep WHERE id = ?", [sweep_id]).fetchone():
                    return []  # what the runs are is decided by nobody any more
            raise


@_fault("test_deleting_leaves_other_sweeps_alone")
class DeletesNeighbours(MemoryStorage):
    """Deletion by prefix: "s" takes "s1" along (keys of a key-value store)."""

    def delete(self, sweep_id: str) -> None:
        super().delete(sweep_id)
        for other in [other for other in self._shelves if other.startswith(sweep_id)]:
            super().delete(other)


@_fault("test_deleting_leaves_other_sweeps_alone")
class DeletesEverybodysHeartbeats(MemoryStorage):
    """Deletion forgets which sweep the heartbeats to delete are of."""

    def delete(self, sweep_id: str) -> None:
        super().delete(sweep_id)
        for shelf in self._shelves.values():
            shelf.beats.clear()


# --- turns ---------------------------------------------------------------------------------------


@_fault("test_nobody_else_commits_during_a_turn")
class TurnExcludesNobody(TurningStorage):
    """A turn is a promise that nobody keeps."""

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Self]:
        yield self


@_fault("test_the_version_is_compared_in_a_turn_too")
class TurnTrusted(TurningStorage):
    """In a turn the version is not compared, as nobody else can commit; but it was decided before (optuna#4002)."""

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Any]:
        with self._turns:
            trusting = NoVersionCheck()
            trusting._shelves, trusting._lock = self._shelves, threading.Lock()  # noqa: SLF001
            yield trusting


@_fault("test_a_turn_without_a_commit_writes_nothing")
class TurnTakesAVersion(TurningStorage):
    """A turn is taken by a write, which stays if nothing else comes."""

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Self]:
        with self._turns:
            before = self.sweep(sweep_id).version
            yield self
            shelf = self._shelf(sweep_id)
            if shelf.sweep.version == before:
                shelf.sweep = attrs.evolve(shelf.sweep, version=before + 1)


@_fault("test_an_exception_after_the_commit_leaves_it_whole_or_absent")
class TurnUndoesTheSweepOnly(TurningStorage):
    """An exception in a turn takes back the snapshot, and not the runs and events."""

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Self]:
        with self._turns:
            before = self._shelf(sweep_id).sweep
            try:
                yield self
            except BaseException:
                self._shelf(sweep_id).sweep = before
                raise


@_fault("test_what_is_read_in_a_turn_is_current")
class TurnWithoutHeartbeats(TurningStorage):
    """What a turn gives has no heartbeats, so in a turn nobody is ever heard."""

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Any]:
        with self._turns:
            yield _Four(self)


class _Four:
    """The four methods of a storage, and no more."""

    def __init__(self, storage: Storage) -> None:
        self.sweep, self.runs, self.commit, self.events = storage.sweep, storage.runs, storage.commit, storage.events


# --- cancellation --------------------------------------------------------------------------------


class _Open(MemoryStorage):
    """Memory storage that shows what it has."""

    def shelf(self, sweep_id: str) -> Any:
        """Return what is stored of a sweep."""
        return self._shelf(sweep_id)


class AwaitingStorage:
    """An async storage over memory that waits before and after everything: right, and cancelled without harm."""

    def __init__(self) -> None:
        self.memory: _Open = _Open()
        self.lock: asyncio.Lock = asyncio.Lock()

    async def sweep(self, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot."""
        await asyncio.sleep(0)
        return self.memory.sweep(sweep_id)

    async def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return runs that a query means."""
        await asyncio.sleep(0)
        return self.memory.runs(sweep_id, query, after=after, limit=limit)

    async def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        """Return events in order."""
        await asyncio.sleep(0)
        return self.memory.events(sweep_id, after=after, limit=limit)

    async def commit(self, change: Change) -> None:
        """Write a change, between two waits."""
        async with self.lock:
            await self.write(change)

    async def write(self, change: Change) -> None:
        """Write a change, by whoever has the lock."""
        await asyncio.sleep(0)
        self.memory.commit(change)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def turn(self, sweep_id: str) -> AsyncGenerator[AsyncStorage]:
        """Keep every other task from committing."""
        async with self.lock:
            yield _InsideATurn(self)


class _InsideATurn:
    """An ``AwaitingStorage`` for the task that has its turn."""

    def __init__(self, storage: AwaitingStorage) -> None:
        self.sweep, self.runs, self.commit, self.events = storage.sweep, storage.runs, storage.write, storage.events


@_fault("test_a_commit_that_is_cancelled_is_whole_or_absent")
class CancelledHalfWay(AwaitingStorage):
    """The runs are written, then it waits, then the sweep: who is cancelled in between leaves half (optuna#5138)."""

    async def write(self, change: Change) -> None:
        if change.version and self.memory.sweep(change.sweep_id).version == change.version:
            shelf = self.memory.shelf(change.sweep_id)
            for run in change.runs:
                shelf.unfiled.setdefault(run.index, shelf.runs[run.index] if run.index < len(shelf.runs) else None)
                shelf.runs[run.index : run.index + 1] = [run]
            await asyncio.sleep(0)
        await super().write(change)


@_fault("test_a_commit_that_is_cancelled_is_whole_or_absent")
class CancelledAndStillWriting(AwaitingStorage):
    """Who is cancelled is told so, and the commit goes on behind his back, to be seen later."""

    async def commit(self, change: Change) -> None:
        async def later() -> None:
            for _ in range(20):
                await asyncio.sleep(0)
            await super(CancelledAndStillWriting, self).commit(change)

        self.task: asyncio.Task[None] = asyncio.ensure_future(later())
        await asyncio.shield(self.task)


@_fault("test_a_turn_that_is_cancelled_is_over")
class CancelledTurnIsKept(AwaitingStorage):
    """Who is cancelled while he has the turn never gives it back, and nobody commits any more (wandb#3961)."""

    @asynccontextmanager
    async def turn(self, sweep_id: str) -> AsyncGenerator[AsyncStorage]:
        try:
            await asyncio.wait_for(self.lock.acquire(), 1.0)
        except TimeoutError:
            raise StorageError("the turn is not given back") from None
        try:
            yield _InsideATurn(self)
        except Exception:
            self.lock.release()
            raise
        self.lock.release()

    async def commit(self, change: Change) -> None:
        try:
            await asyncio.wait_for(self.lock.acquire(), 1.0)
        except TimeoutError:
            raise StorageError("the turn is not given back") from None
        try:
            await self.write(change)
        finally:
            self.lock.release()


@_fault("test_tasks_that_commit_on_one_version_have_one_winner")
class ComparedBeforeTheWait(AwaitingStorage):
    """The version is compared, and written after a wait: on one thread, and yet two win (optuna#4002)."""

    async def commit(self, change: Change) -> None:
        found = (await self.sweep(change.sweep_id)).version if change.version else 0
        if found != change.version:
            raise Conflict(change.sweep_id, change.version, found)
        await asyncio.sleep(0)
        if change.version:
            change = attrs.evolve(change, version=self.memory.sweep(change.sweep_id).version)
        self.memory.commit(change)
