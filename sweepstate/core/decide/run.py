"""Commands on one run (layers A5 and F)."""

from __future__ import annotations

from ..errors import IllegalTransition
from ..events import Fate, Requeue, RunRequeued, StopRequested
from ..lifecycle import ACTIVE_ROWS, RETRYABLE, RunRow
from ..state import RunState
from ..status import Cause
from .draft import Decision, Draft, expect
from .settle import kill, settle
from .sweep import check_accepts_retry


def run_id(draft: Draft, run: RunState) -> str:
    """Return how errors call a run."""
    return f"{draft.sweep.id}[{run.index}]"


def stop_run(draft: Draft, index: int, if_version: int | None = None) -> Decision[None]:
    """Decide to ask a run to end: a PENDING one is KILLED at once, a RUNNING one has ``stop_grace`` seconds.

    Raises:
        RunNotFound: there is none of this index.
        Conflict: the run's status has changed since ``if_version``.
    """
    run = yield from draft.run(index)
    expect(draft.base, if_version, run.status_version)
    row = run.row
    if row is RunRow.RUNNING:
        if run.lease is not None and run.lease.stop_at is None:
            draft.record(StopRequested, run, run.attempt)
            yield from settle(draft)
    elif row in ACTIVE_ROWS:
        kill(draft, run, Cause.STOPPED)
        yield from settle(draft)


def kill_run(draft: Draft, index: int, if_version: int | None = None) -> Decision[None]:
    """Decide that a run is KILLED at once; its agent is told to end the execution.

    Raises:
        RunNotFound: there is none of this index.
        Conflict: the run's status has changed since ``if_version``.
    """
    run = yield from draft.run(index)
    expect(draft.base, if_version, run.status_version)
    if run.row in ACTIVE_ROWS:
        kill(draft, run, Cause.KILLED)
        yield from settle(draft)


def retry_run(draft: Draft, index: int, if_version: int | None = None) -> Decision[None]:
    """Decide that a FAILED, CRASHED or KILLED run is queued again, with the counts of its own started afresh.

    Raises:
        RunNotFound: there is none of this index.
        IllegalTransition: it is executing or FINISHED, or the sweep was ended.
        Conflict: the run's status has changed since ``if_version``.
    """
    run = yield from draft.run(index)
    expect(draft.base, if_version, run.status_version)
    row = run.row
    if row is RunRow.QUEUED:
        return
    if run.status not in RETRYABLE:
        remedy = (
            "it is in somebody's hands; kill it first"
            if row in ACTIVE_ROWS
            else "it finished; nothing is to be repeated"
        )
        raise IllegalTransition("run", run_id(draft, run), row, "retry", ("kill", "stop"), remedy)
    check_accepts_retry(draft.sweep)
    draft.record(RunRequeued, run, run.attempt + 1, Requeue.PERSON, Fate.KEPT)
    yield from settle(draft)
