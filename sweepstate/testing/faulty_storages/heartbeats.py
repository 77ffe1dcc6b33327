# ruff: noqa: ARG002, D102 - what a method does is the storage's promise; how it breaks it, its class says
"""Faults of heartbeats and of silence."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ...core.decide import Change
from ...core.errors import Conflict
from ...core.questions import RunQuery, Silent
from ...core.state import RunState
from ...storage.memory import MemoryStorage
from ..contract.world import select
from .base import Looking, fault


@fault("test_a_heartbeat_is_no_commit")
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


@fault("test_a_heartbeat_is_no_commit")
class HeartbeatTakesAVersion(MemoryStorage):
    """A heartbeat moves the version, so commands and heartbeats outrun each other for ever."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        super().beat(sweep_id, index, attempt, at, metrics)
        shelf = self._shelves[sweep_id]
        shelf.sweep = attrs.evolve(shelf.sweep, version=shelf.sweep.version + 1)


@fault("test_a_heartbeat_is_no_commit")
class CommitForgetsHeartbeats(MemoryStorage):
    """A commit writes the run's row whole, and with it the time of its last heartbeat (wandb#6779)."""

    def commit(self, change: Change) -> None:
        super().commit(change)
        for run in change.runs:
            self._shelves[change.sweep_id].beats.pop(run.index, None)


@fault("test_an_older_heartbeat_moves_no_time")
class HeartbeatGoesBack(MemoryStorage):
    """The sign that arrives last wins, also if it was sent first."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        known = self._shelf(sweep_id).beats.get(index)
        super().beat(sweep_id, index, attempt, at, metrics)
        if known is not None and known[0] == attempt:
            _, _, kept = self._shelves[sweep_id].beats[index]
            self._shelves[sweep_id].beats[index] = (attempt, at, kept)


@fault("test_heartbeats_are_of_one_attempt")
class HeartbeatsOfAnyAttempt(MemoryStorage):
    """A zombie's heartbeat keeps the new attempt alive (airflow#39717: who runs this task?)."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        known = self._shelf(sweep_id).beats.get(index)
        super().beat(sweep_id, index, attempt if known is None else max(attempt, known[0]), at, metrics)


@fault("test_heartbeats_are_of_one_attempt")
class MetricsOfAnyAttempt(MemoryStorage):
    """The metrics of the attempt before are shown as the new one's."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        known = self._shelf(sweep_id).beats.get(index)
        super().beat(sweep_id, index, attempt, at, metrics if metrics is not None or known is None else known[2])


@fault("test_metrics_are_kept_until_newer_ones_come")
class NoMetricsErase(MemoryStorage):
    """A heartbeat without metrics wipes those that are there."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        super().beat(sweep_id, index, attempt, at, {} if metrics is None else metrics)

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        return super().last_metrics(sweep_id, index) or None


@fault("test_a_heartbeat_of_nothing_changes_nothing")
class HeartbeatOfNothing(MemoryStorage):
    """A heartbeat of a run that is not there yet is kept for it: the table has no foreign key."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        super().beat(sweep_id, index, attempt, at, metrics)
        if index >= len(self._shelves[sweep_id].runs):
            self._shelves[sweep_id].beats[index] = (attempt, at, metrics)


@fault("test_silent_runs_come_by_last_sign_and_then_by_index")
class SilentInSpiteOfHeartbeats(Looking):
    """Silence is counted from the start, whatever was heard since (wandb#1526: crashed while training goes on)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        since = {run.index: run.lease.since for run in runs if run.lease is not None}
        return select(query, runs, since)


@fault("test_silent_runs_come_by_last_sign_and_then_by_index")
class SuspectedAgain(Looking):
    """Who is suspected already is suspected again, and so never lost (wandb#6779: "running" for weeks)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if not isinstance(query, Silent):
            return super().look(sweep_id, query, runs)
        innocent = [
            attrs.evolve(run, lease=attrs.evolve(run.lease, suspected_at=None)) if run.lease is not None else run
            for run in runs
        ]
        return super().look(sweep_id, query, innocent)


@fault("test_silent_runs_come_by_last_sign_and_then_by_index")
class SilentWithoutAPromise(Looking):
    """A loop that never promised heartbeats is watched like one that did (review: crashed after five minutes)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if not isinstance(query, Silent):
            return super().look(sweep_id, query, runs)
        promised = [
            attrs.evolve(run, lease=attrs.evolve(run.lease, beats=True)) if run.lease is not None else run
            for run in runs
        ]
        return super().look(sweep_id, query, promised)


@fault("test_a_commit_on_a_silence_that_was_broken_is_a_conflict")
class SilenceUnchecked(MemoryStorage):
    """A heartbeat that came just before the commit does not count: the run is lost (wandb#1526, review: an outage)."""

    def commit(self, change: Change) -> None:
        super().commit(attrs.evolve(change, silences=()))


@fault("test_one_broken_silence_of_many_is_enough")
class FirstSilenceOnly(MemoryStorage):
    """Of the silences that a commit acts on, the first is compared."""

    def commit(self, change: Change) -> None:
        super().commit(attrs.evolve(change, silences=change.silences[:1]))


@fault("test_a_commit_on_a_silence_that_held_is_accepted")
class SilenceComparedWithEqual(MemoryStorage):
    """The sign that the decision knew of breaks its silence: >= instead of >, and nobody is ever lost (optuna#485)."""

    def commit(self, change: Change) -> None:
        for silence in change.silences:
            if self.last_heard(change.sweep_id, [(silence.index, silence.attempt)])[0] == silence.heard:
                raise Conflict(change.sweep_id, change.version, what="heard")
        super().commit(change)


@fault("test_a_commit_on_a_silence_that_was_broken_is_a_conflict")
class SilenceInWholeSeconds(MemoryStorage):
    """A DATETIME column: what was heard within the same second is not newer."""

    def commit(self, change: Change) -> None:
        coarse = tuple(attrs.evolve(silence, heard=float(int(silence.heard)) + 1) for silence in change.silences)
        super().commit(attrs.evolve(change, silences=coarse))
