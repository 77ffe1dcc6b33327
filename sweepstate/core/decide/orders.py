"""Orders: what an agent is to do, which follows from the snapshots alone (layer D)."""

from __future__ import annotations

from ..events import OrderKind
from ..state import RunState, SweepState
from ..status import RunStatus, SweepStatus


def order_for(sweep: SweepState, run: RunState) -> OrderKind | None:
    """Return what is outstanding for the agent that has a run, or None.

    It follows from the snapshots, so it survives a crash between a commit and its delivery.

    Args:
        sweep: the sweep.
        run: one of its runs.
    """
    lease = run.lease
    if lease is None:
        return None
    if lease.attempt < run.attempt or run.status is RunStatus.KILLED:
        return OrderKind.KILL
    if run.status is RunStatus.PENDING:
        return OrderKind.START
    if run.status is RunStatus.RUNNING:
        return None if lease.stop_at is None else OrderKind.STOP
    # Lost, and so CRASHED: only a cancel wants it dead, else its end is still welcome.
    return OrderKind.KILL if sweep.status is SweepStatus.CANCELLED else None
