"""The core alone, in an orchestrator with its own tables; checked, and not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_type

from sweepstate import (
    Change,
    Event,
    Idle,
    RunState,
    RunStatus,
    RunTrigger,
    SweepState,
    SweepStatus,
    SweepTrigger,
    Verdict,
)
from sweepstate.core import lifecycle
from sweepstate.core.decide import Decided, End, Sign, decide, end, heartbeat, kill_run, move, next_run, set_limits
from sweepstate.core.evolve import evolve
from sweepstate.core.questions import LastHeard, Proposal, Question, Runs, Wait


class Row:
    """A row of somebody's own table."""

    status: SweepStatus = SweepStatus.RUNNING
    run: RunStatus = RunStatus.PENDING


def tables(row: Row) -> None:
    row.status = lifecycle.step(row.status, SweepTrigger.PAUSE)
    assert_type(lifecycle.step(row.status, SweepTrigger.STOP), SweepStatus)
    assert_type(lifecycle.step(row.run, RunTrigger.START), RunStatus)
    assert_type(lifecycle.step(row.run, RunTrigger.REQUEUE, held=False, lost=True), RunStatus)
    assert_type(lifecycle.allowed(row.status), frozenset[SweepTrigger])
    assert_type(lifecycle.allowed(row.run, held=False), frozenset[RunTrigger])
    assert_type(lifecycle.check(row.run, RunTrigger.KILL), Verdict)
    assert_type(lifecycle.table(), dict[str, Any])
    assert_type(SweepStatus.parse("CANCELED"), SweepStatus)
    assert_type(RunStatus.parse("preempted"), RunStatus)


def refused_by_type_checkers(row: Row) -> None:
    lifecycle.step(row.status, RunTrigger.START)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    lifecycle.step(row.run, SweepTrigger.STOP)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


class Mine:
    """A system with a storage of its own, which drives decisions itself."""

    sweep: SweepState
    runs: dict[int, RunState]

    def answer(self, question: Question) -> object:
        match question:
            case Runs(query=query, after=after, limit=limit):
                found = [run for run in self.runs.values() if run.index > after]
                assert query is not None
                return found[:limit]
            case LastHeard(leases=leases):
                return [None] * len(leases)
            case Proposal():
                return Wait()

    def decide(self) -> Sequence[Event]:
        moved = decide(move, self.sweep, self.answer, now=0.0, actor="ada")(SweepTrigger.PAUSE)
        assert_type(moved, Decided[None])
        assert_type(moved.change, Change | None)
        handed = decide(next_run, self.sweep, self.answer, 0.0)("agent", "request", begin=True)
        assert_type(handed.value, RunState | Idle)
        beaten = decide(heartbeat, self.sweep, self.answer, 0.0)(0, 1, None, promise=True)
        assert_type(beaten.value, Sign)
        decide(kill_run, self.sweep, self.answer, 0.0)(3)
        decide(set_limits, self.sweep, self.answer, 0.0)({"run_cap": 3})
        decide(end, self.sweep, self.answer, 0.0)(0, 1, None, End(lifecycle.Exit.SUCCESS))
        decide(kill_run, self.sweep, self.answer, 0.0)("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return () if moved.change is None else moved.change.events

    def apply(self, event: Event) -> None:
        assert_type(evolve(self.sweep, None, event).sweep, SweepState)
