# ruff: noqa: D102 - what a method does is the storage's promise; how it breaks it, its class says
"""Faults of what is written, and of what is read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ...core.decide import Change
from ...core.events import Event
from ...core.questions import ByIndex, Due, RunQuery, Silent
from ...core.state import RunState, SweepState
from ...core.values import FrozenDict
from ...storage.memory import MemoryStorage
from ..contract.plain import PlainStorage
from .base import fault


@fault("test_the_laws_hold_after_anything")
class EventLost(MemoryStorage):
    """Of a commit, one event is kept: the history no longer leads to the snapshot."""

    def commit(self, change: Change) -> None:
        super().commit(attrs.evolve(change, events=change.events[:1]))


@fault("test_what_was_committed_is_there")
class CountNotMoved(MemoryStorage):
    """The status moves in one commit and the count in the next (apscheduler#1116: counters broken for good)."""

    def commit(self, change: Change) -> None:
        if change.version:
            finished = self.sweep(change.sweep_id).finished
            change = attrs.evolve(change, sweep=attrs.evolve(change.sweep, finished=finished))
        super().commit(change)


@fault("test_metrics_come_back_as_they_were")
class FloatsRounded(MemoryStorage):
    """A column of single precision: 6 digits (wandb#4237: a run came back with a changed configuration)."""

    def commit(self, change: Change) -> None:
        runs = tuple(attrs.evolve(run, metrics=FrozenDict(_rounded(run.metrics))) for run in change.runs)
        super().commit(attrs.evolve(change, runs=runs))


def _rounded(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in metrics.items()}


@fault("test_values_come_back_as_they_were")
class NaNBecomesNone(MemoryStorage):
    """A JSON column knows no NaN, and makes it null."""

    def commit(self, change: Change) -> None:
        super().commit(_with_configs(change, lambda value: None if value != value else value))  # noqa: PLR0124 - NaN


@fault("test_values_come_back_as_they_were")
class BigIntegersBecomeFloats(MemoryStorage):
    """A JSON column has numbers of 64 bits, and rounds the larger ones."""

    def commit(self, change: Change) -> None:
        def wide(value: Any) -> Any:
            return float(2**63) if type(value) is int and abs(value) > 2**63 else value

        super().commit(_with_configs(change, wide))


@fault("test_values_come_back_as_they_were")
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


@fault("test_texts_come_back_as_they_were")
class TextCut(MemoryStorage):
    """A message is cut at the width of its column, without a word."""

    def commit(self, change: Change) -> None:
        runs = tuple(attrs.evolve(run, message=run.message and run.message[:4_000]) for run in change.runs)
        super().commit(attrs.evolve(change, runs=runs))


@fault("test_a_commit_is_seen_by_every_thread_at_once")
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


@fault("test_a_second_handle_sees_each_commit_at_once")
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


@fault("test_reads_are_values")
class StoredListReturned(MemoryStorage):
    """What is returned is the very list that is stored."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        found = super().runs(sweep_id, query, after=after, limit=limit)
        stored = self._shelves[sweep_id].runs
        return stored if len(found) == len(stored) and found == stored else found


@fault("test_reads_are_values")
class MetricsShared(MemoryStorage):
    """The metrics of a heartbeat are kept as the dictionary that the caller goes on using."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        super().beat(sweep_id, index, attempt, at, metrics)
        known = self._shelves[sweep_id].beats.get(index)
        if known is not None and metrics is not None and known[2] == metrics:
            self._shelves[sweep_id].beats[index] = (known[0], known[1], metrics)


@fault("test_a_sweep_that_is_unknown_is_not_found")
class UnknownIsEmpty(MemoryStorage):
    """Runs and events of a sweep that is not there are none, as a SELECT says (wandb#2376: it ended too early)."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        return super().runs(sweep_id, query, after=after, limit=limit) if sweep_id in self._shelves else []

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        return super().events(sweep_id, after=after, limit=limit) if sweep_id in self._shelves else []


@fault("test_a_page_of_events_ends_between_two_commits")
class PageCutInsideACommit(MemoryStorage):
    """A page has as many events as were asked for: whoever replays it sees half a commit."""

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        return super().events(sweep_id, after=after, limit=10**9)[:limit]


@fault("test_a_page_of_events_ends_between_two_commits")
class LargeCommitEndsTheHistory(MemoryStorage):
    """A commit of more events than the limit has an empty page, which looks like the end."""

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        page = super().events(sweep_id, after=after, limit=limit)
        return page if len(page) <= limit else []


@fault("test_a_limit_is_kept_exactly")
class LimitIgnored(MemoryStorage):
    """All are returned, however few were asked for (optuna#763: everything costs time proportional to all trials)."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        return super().runs(sweep_id, query, after=after, limit=max(limit, 256))


@fault("test_queued_runs_come_by_index")
class LimitBeforeTheCondition(MemoryStorage):
    """The limit counts rows that are looked at, not rows that are found (wandb#5247: points repeated)."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        found = super().runs(sweep_id, query, after=after, limit=limit)
        if isinstance(query, (ByIndex, Due, Silent)):
            return found
        looked_at = {run.index for run in super().runs(sweep_id, ByIndex(), after=after, limit=limit)}
        return [run for run in found if run.index in looked_at]


@fault("test_a_limit_is_kept_exactly")
class CursorIncluded(MemoryStorage):
    """The run after which to go on comes once more: >= instead of >."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        return super().runs(sweep_id, query, after=max(-1, after - (limit > 1)), limit=limit)
