# ruff: noqa: D102 - what a method does is the storage's promise; how it breaks it, its class says
"""Faults of the closed set of queries."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from ...core.questions import ByIndex, Due, InStatus, Leased, Queued, Requested, RunQuery
from ...core.state import RunState
from ...core.status import RunStatus
from ...storage.memory import MemoryStorage
from ..contract.plain import PlainStorage
from .base import Looking, fault


@fault("test_queued_runs_come_by_index")
class QueueByInsertion(Looking):
    """Queued runs come in the order in which they were queued, which no other storage knows."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        found = super().look(sweep_id, query, runs)
        return sorted(found, key=lambda index: runs[index].status_version) if isinstance(query, Queued) else found


@fault("test_threads_claim_queued_runs_once")
class ClaimedTwice(Looking):
    """A queued run stays in the queue when somebody has it (optuna PR#1014: two workers popped the same trial)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, Queued):
            return [run.index for run in runs if run.status is RunStatus.PENDING]
        return super().look(sweep_id, query, runs)


@fault("test_queued_runs_come_by_index")
class BlockedIsQueued(Looking):
    """A run is handed out while its older attempt may still be executing (review: two attempts leased at once)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, Queued):
            return [run.index for run in runs if run.status is RunStatus.PENDING and not run.held]
        return super().look(sweep_id, query, runs)


@fault("test_a_lost_lease_is_listed_as_leased_and_never_as_queued")
class LostIsQueued(Looking):
    """A run that was lost to silence is handed out at once, though its end may still come (wandb#1526)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        found = super().look(sweep_id, query, runs)
        if isinstance(query, Queued):
            found += [run.index for run in runs if run.status is RunStatus.CRASHED and run.held]
        return sorted(found)


@fault("test_a_lost_lease_is_listed_as_leased_and_never_as_queued")
class LostIsNotLeased(Looking):
    """A lost lease is no lease, so a cancel forgets the order to kill it (review: a process that nobody ends)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, Leased):
            query = attrs.evolve(query, presumed=False)
        return super().look(sweep_id, query, runs)


@fault("test_due_runs_come_by_time_and_then_by_index")
class DueByIndex(Looking):
    """Overdue runs come by index, so in a large sweep some are never reached (wandb#3506: "stopping" for hours)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        found = super().look(sweep_id, query, runs)
        return sorted(found) if isinstance(query, Due) else found


@fault("test_due_runs_come_by_time_and_then_by_index")
class DueExclusive(Looking):
    """What is due at this very moment is not: the one who slept until then wakes up for nothing, for ever."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        found = super().look(sweep_id, query, runs)
        return [index for index in found if runs[index].due_at != query.at] if isinstance(query, Due) else found


@fault("test_requests_are_answered_while_their_lease_lasts")
class RequestedForEver(Looking):
    """A request is answered by its run also when that has ended: a worker gets a finished run again."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, Requested):
            asked = (query.agent, query.request_id)
            return [run.index for run in runs if run.lease and (run.lease.agent, run.lease.request_id) == asked][:1]
        return super().look(sweep_id, query, runs)


@fault("test_requests_are_answered_while_their_lease_lasts")
class RequestsOfAnyAgent(Looking):
    """Request ids are looked up without the agent: two workers that count from 1 get one run."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, Requested):
            agents = {run.lease.agent for run in runs if run.lease is not None}
            each = [super(RequestsOfAnyAgent, self).look(sweep_id, attrs.evolve(query, agent=a), runs) for a in agents]
            return sorted(index for found in each for index in found)[:1]
        return super().look(sweep_id, query, runs)


@fault("test_sweeps_side_by_side_do_not_mix")
class RequestsOfAnySweep(MemoryStorage):
    """Request ids are looked up without the sweep: the answer is a run of another one."""

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        found = super().runs(sweep_id, query, after=after, limit=limit)
        if isinstance(query, Requested) and not found:
            for other in list(self._shelves):
                found = found or super().runs(other, query, after=after, limit=limit)
        return found


@fault("test_runs_unchanged_since_a_version_are_found")
class UnchangedSinceIgnored(Looking):
    """A wish to retry takes up what failed after it was made: it never ends (wandb#1879, ray#21222)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, InStatus):
            query = attrs.evolve(query, unchanged_since=None)
        return super().look(sweep_id, query, runs)


@fault("test_runs_unchanged_since_a_version_are_found")
class WithdrawnForgotten(Looking):
    """Reopening does not find what a stop withdrew (ray#12347: queued trials were forgotten on resume)."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        if isinstance(query, InStatus):
            query = attrs.evolve(query, withdrawn=False)
        return super().look(sweep_id, query, runs)


@fault("test_runs_unchanged_since_a_version_are_found")
class BranchesOneAfterTheOther(Looking):
    """A union of two index ranges comes unmerged, so that a cursor skips what is smaller."""

    def look(self, sweep_id: str, query: RunQuery, runs: list[RunState]) -> list[int]:
        found = super().look(sweep_id, query, runs)
        if isinstance(query, InStatus) and query.withdrawn:
            return sorted(found, key=lambda index: (runs[index].status not in query.statuses, index))
        return sorted(found, key=lambda index: (runs[index].status, index)) if isinstance(query, InStatus) else found


@fault("test_every_query_is_answered_by_an_index")
class NoIndex(PlainStorage):
    """Every query looks at every run (optuna#5948: claiming cost time proportional to all trials)."""

    def plan(self, query: RunQuery) -> str | None:
        """Return how a query is answered."""
        return None if isinstance(query, ByIndex) else "SCAN run"
