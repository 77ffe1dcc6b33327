"""Reports: what an execution, or its agent, says about it (layers A4 and D)."""

from __future__ import annotations

from typing import Final, cast

import attrs

from ..errors import AlreadyStarted, IllegalTransition, InvalidValue, StaleAttempt
from ..events import (
    Fate,
    HeartbeatsPromised,
    LateReport,
    LeaseEnded,
    OrderFailed,
    OrderKind,
    Requeue,
    RunEnded,
    RunPreempting,
    RunRequeued,
    RunStarted,
)
from ..lifecycle import ENDING, FAILURES, RUN, Exit, Manner, Mark, RunRow, RunTrigger, refusal
from ..limits import Objective
from ..state import Completion, Lease, RunState
from ..status import Cause, RunStatus, SweepStatus, Word
from ..values import EMPTY, FrozenDict
from .draft import Decision, Draft
from .orders import order_for
from .run import run_id
from .settle import complete_search, kill, requeue, settle, unsettled


@attrs.frozen
class End:
    """How an execution ended.

    Attributes:
        how: the kind of end.
        message: what there is to say about it.
        exit_code: of its process.
        signal: the number of the signal that ended it.
        metrics: the numbers it ended with; they count if it finished.
    """

    how: Exit
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    metrics: FrozenDict = EMPTY


class Answer(Word):
    """What a heartbeat is told."""

    CONTINUE = "continue"
    STOP = "stop"
    KILL = "kill"


# Looking a member up in its enum costs more than comparing with it: here are those that every run's end meets.
_RUNNING: Final = RunStatus.RUNNING
_CRASHED: Final = RunStatus.CRASHED
_KILLED: Final = RunStatus.KILLED
_LOST: Final = RunRow.LOST
_PLAIN: Final = Manner.PLAIN
_GONE: Final = Fate.GONE

_CAUSE: Final = {
    RunTrigger.FINISH: Cause.SUCCESS,
    RunTrigger.FAIL: Cause.ERROR,
    RunTrigger.CRASH: Cause.SIGNAL,
    RunTrigger.LOSE: Cause.LOST,
    RunTrigger.KILL: Cause.KILLED,
}


def start(
    draft: Draft, index: int, attempt: int, execution: str | None = None, *, heartbeats: bool = False
) -> Decision[None]:
    """Decide that an execution begins.

    Args:
        draft: the sweep.
        index: the run.
        attempt: the attempt it was handed out for.
        execution: which execution it is, so that no second one counts.
        heartbeats: whether it promises heartbeats, so that its silence counts.

    Raises:
        StaleAttempt: the run was handed on since.
        AlreadyStarted: another execution has begun this attempt.
        IllegalTransition: nobody has the run, or it has ended.
    """
    run = yield from draft.run(index)
    _check_attempt(run, attempt)
    row = run.row
    cell = RUN[row][RunTrigger.START]
    if attempt < run.attempt:
        remedy = "drop it: the run was handed on"
        raise StaleAttempt(*_refused_start(draft, run), remedy, attempt, run.attempt)
    if cell is Mark.REFUSED:
        raise refusal(run.status, RunTrigger.START, held=run.held, lost=row is RunRow.LOST, id=run_id(draft, run))
    lease = _lease(run)
    if isinstance(cell, Mark):
        if lease.execution != execution:
            remedy = "do not execute it twice"
            raise AlreadyStarted(*_refused_start(draft, run), remedy, execution, lease.execution)
        if not heartbeats or lease.beats:
            return
        draft.record(HeartbeatsPromised, run, attempt)
    else:
        draft.record(RunStarted, run, attempt, execution, heartbeats)
    if unsettled(draft.sweep):
        yield from settle(draft)


def _refused_start(draft: Draft, run: RunState) -> tuple[str, str, str, str, tuple[str, ...]]:
    """Return what every refusal of a start says."""
    lost = run.row is RunRow.LOST
    error = refusal(run.status, RunTrigger.START, held=run.held, lost=lost, id=run_id(draft, run))
    return error.subject, error.id, error.status, error.asked, error.allowed


def end(draft: Draft, index: int, attempt: int, execution: str | None, report: End) -> Decision[None]:
    """Decide what the end of an execution means.

    Never refused for an attempt that was handed out: a report that comes too late, or from an
    execution that does not count, is recorded.

    Args:
        draft: the sweep.
        index: the run.
        attempt: the attempt that ended.
        execution: which execution ended; None does not say, and stands for the one that began.
        report: how it ended.

    Raises:
        IllegalTransition: the attempt was never handed out.
        InvalidValue: there is no such attempt.
    """
    run = yield from draft.run(index)
    _check_attempt(run, attempt)
    if attempt < run.attempt or not _speaks_for(run, attempt, execution):
        _too_late(draft, run, attempt, execution, report)
    elif _end_current(draft, run, execution, report):
        yield from complete_search(draft, Completion.TARGET)
    if draft.events and unsettled(draft.sweep):
        yield from settle(draft)


def _end_current(draft: Draft, run: RunState, execution: str | None, report: End) -> bool:
    """Decide what the end of the current attempt means, by the tables; return whether it reached the target."""
    row = run.row
    if row is _LOST and draft.sweep.status is SweepStatus.CANCELLED:
        row = RunRow.CRASHED  # after a cancel no run's status changes
    manner = manner_of(run)
    trigger = ENDING[report.how][manner]
    cell = Mark.REFUSED if row is RunRow.QUEUED else RUN[row][trigger]  # nobody has it, so nothing of it can end
    if not isinstance(cell, Mark):
        if cell is not RunStatus.PENDING:
            cause = Cause.STOPPED if manner is Manner.ASKED and trigger is RunTrigger.KILL else _CAUSE[trigger]
            return give_verdict(draft, run, cell, cause, _GONE, report)
        preempt(draft, run, _GONE)
    elif cell is Mark.REFUSED:
        raise refusal(run.status, trigger, held=run.held, lost=row is RunRow.LOST, id=run_id(draft, run))
    elif cell is Mark.RECORDED:
        _too_late(draft, run, run.attempt, execution, report)
    elif run.held:  # the verdict stands, and now its execution is known to be gone
        draft.record(LeaseEnded, run, run.attempt, _GONE)
    return False


def manner_of(run: RunState) -> Manner:
    """Return what is going on with a run; nothing, unless it is RUNNING."""
    lease = run.lease
    if lease is None or run.status is not _RUNNING:
        return _PLAIN
    if lease.stop_at is not None:
        return Manner.ASKED
    return Manner.PREEMPTING if lease.preempting else _PLAIN


def preempt(draft: Draft, run: RunState, fate: Fate) -> None:
    """Decide what becomes of a run whose machine was taken away: queued again, unless that happened too often."""
    if draft.sweep.requeues and run.preemptions >= draft.sweep.limits.max_preemptions:
        message = f"preempted more than {draft.sweep.limits.max_preemptions} times"
        report = End(Exit.SIGNAL, message)
        give_verdict(draft, run, RunStatus.CRASHED, Cause.PREEMPTED_TOO_OFTEN, fate, report)
    else:
        requeue(draft, run, Requeue.PREEMPTED, fate)


def give_verdict(draft: Draft, run: RunState, status: RunStatus, cause: Cause, fate: Fate, report: End) -> bool:
    """Record a run's verdict, and its retry by limit; return whether it reached the target, and so ends the search.

    A late end that corrects a presumption of loss is neither retried nor counted.
    """
    sweep = draft.sweep
    corrects = run.status is _CRASHED
    again = status in FAILURES and not corrects and sweep.requeues and _retries_left(draft, run, status)
    counts = not (again or corrects or status is _KILLED) and run.counted_in != sweep.reopened
    draft.record(
        RunEnded,
        run,
        run.attempt,
        status,
        cause,
        fate,
        counts,
        report.message,
        report.exit_code,
        report.signal,
        report.metrics,
    )
    if again:
        draft.record(RunRequeued, run, run.attempt + 1, Requeue.LIMIT, Fate.KEPT)
    return (
        sweep.objective is not None
        and status is RunStatus.FINISHED
        and sweep.requeues
        and _reaches_target(sweep.objective, report.metrics)
    )


def _retries_left(draft: Draft, run: RunState, status: RunStatus) -> bool:
    used = run.failed_retries if status is RunStatus.FAILED else run.crashed_retries
    return used < draft.sweep.limits.retries.get(status, 0)


def _reaches_target(objective: Objective, metrics: FrozenDict) -> bool:
    value = metrics.get(objective.metric)
    return value is not None and objective.reached(value)


def _too_late(draft: Draft, run: RunState, attempt: int, execution: str | None, report: End) -> None:
    """Record a report that no longer decides anything: the evidence once an attempt, and that its execution is gone."""
    lease = run.lease
    gone = lease is not None and lease.attempt == attempt and _speaks_for(run, attempt, execution)
    fate = Fate.GONE if gone else Fate.KEPT
    if attempt not in run.late:
        draft.record(
            LateReport,
            run,
            attempt,
            ENDING[report.how][Manner.PLAIN],
            fate,
            execution,
            report.message,
            report.exit_code,
            report.signal,
            report.metrics,
        )
    elif gone:
        draft.record(LeaseEnded, run, attempt, fate)


def gone(draft: Draft, index: int, attempt: int) -> Decision[None]:
    """Decide what it means that, as its agent says, nothing of an attempt is executing.

    A RUNNING run ends as by a signal, a held one is released; else its lease ends.
    """
    run = yield from draft.run(index)
    _check_attempt(run, attempt)
    lease = run.lease
    if lease is None or lease.attempt != attempt:
        return
    row = run.row
    if row is RunRow.HELD:
        requeue(draft, run, Requeue.RELEASED, Fate.GONE)
    elif row is RunRow.RUNNING:
        _end_current(draft, run, None, End(Exit.SIGNAL, "its agent says that it is gone"))
    else:
        draft.record(LeaseEnded, run, attempt, Fate.GONE)
    yield from settle(draft)


def release(draft: Draft, index: int, attempt: int, *, begun: bool = False) -> Decision[None]:
    """Decide that an agent gives a run back before it has begun: queued again, as its next attempt.

    Args:
        draft: the sweep.
        index: the run.
        attempt: the attempt that is given back.
        begun: give it back although it was handed out as begun, because nothing of it was executed.

    Raises:
        IllegalTransition: it has begun.
    """
    run = yield from draft.run(index)
    _check_attempt(run, attempt)
    lease = run.lease
    if lease is None or lease.attempt != attempt:
        return
    row = run.row
    if row is RunRow.RUNNING and not begun:
        remedy = "it has begun; report its end, or gone() when nothing of it executes"
        raise IllegalTransition("run", run_id(draft, run), row, "release", ("fail", "finish", "gone"), remedy)
    if manner_of(run) is Manner.ASKED:
        kill(draft, run, Cause.STOPPED, Fate.GONE)  # giving it back does not undo that somebody stopped it
    elif row is RunRow.HELD or row is RunRow.RUNNING:
        requeue(draft, run, Requeue.RELEASED, Fate.GONE)
    else:
        draft.record(LeaseEnded, run, attempt, Fate.GONE)
    yield from settle(draft)


def mark_preempting(draft: Draft, index: int, attempt: int, execution: str | None = None) -> Decision[None]:
    """Decide that an execution is about to be preempted, so that its end queues it again.

    Nothing changes where it has no say any more.

    Raises:
        IllegalTransition: nobody has the run.
    """
    run = yield from draft.run(index)
    _check_attempt(run, attempt)
    row = run.row
    if row is RunRow.QUEUED and attempt == run.attempt:
        raise refusal(run.status, RunTrigger.START, held=False, id=run_id(draft, run))
    if attempt < run.attempt or not _speaks_for(run, attempt, execution):
        return
    if row is RunRow.HELD:
        draft.record(RunStarted, run, attempt, execution, False)
    elif row is not RunRow.RUNNING or _lease(run).preempting:
        return
    draft.record(RunPreempting, run, attempt)
    yield from settle(draft)


@attrs.frozen
class Sign:
    """What a sign of life is answered.

    Attributes:
        answer: what is wanted of the execution.
        keep: whether the sign is its lease's, so that the storage keeps it.
    """

    answer: Answer
    keep: bool


def heartbeat(draft: Draft, index: int, attempt: int, execution: str | None, *, promise: bool) -> Decision[Sign]:
    """Decide what a sign of life of an attempt is answered.

    It is no commit, unless it implies a start that got lost, or is the first one and so a promise.

    Args:
        draft: the sweep.
        index: the run.
        attempt: the attempt that is alive.
        execution: which execution it is; None does not say.
        promise: whether it is a heartbeat; metrics alone promise nothing.
    """
    run = yield from draft.run(index)
    _check_attempt(run, attempt)
    lease = run.lease
    if lease is None or lease.attempt != attempt:
        # Its lease is gone: it has reported its end, or somebody else has the run.
        ended = attempt == run.attempt and run.row is not RunRow.QUEUED
        return Sign(Answer.STOP if ended else Answer.KILL, keep=False)
    if not _speaks_for(run, attempt, execution):
        return Sign(Answer.KILL, keep=False)
    if run.row is RunRow.HELD:
        draft.record(RunStarted, run, attempt, execution, promise)
    elif run.row is RunRow.RUNNING and promise and not lease.beats:
        draft.record(HeartbeatsPromised, run, attempt)
    if draft.events:
        yield from settle(draft)
    order = order_for(draft.sweep, run)
    return Sign(_ANSWER.get(order, Answer.CONTINUE), keep=True)


_ANSWER: Final[dict[OrderKind | None, Answer]] = {OrderKind.STOP: Answer.STOP, OrderKind.KILL: Answer.KILL}


def order_failed(draft: Draft, index: int, attempt: int, order: OrderKind, message: str) -> Decision[None]:
    """Decide what it means that an agent's hook raised: too many STARTs that failed make the run FAILED."""
    run = yield from draft.run(index)
    lease = run.lease
    if lease is None or lease.attempt != attempt:
        return
    draft.record(OrderFailed, run, attempt, order, message)
    if (
        order is OrderKind.START
        and run.row is RunRow.HELD
        and _lease(run).launch_failures >= draft.sweep.limits.launch_attempts
    ):
        report = End(Exit.ERROR, f"its agent failed to start it: {message}")
        give_verdict(draft, run, RunStatus.FAILED, Cause.NOT_LAUNCHED, Fate.GONE, report)
    yield from settle(draft)


def _lease(run: RunState) -> Lease:
    return cast(Lease, run.lease)  # only asked of runs in somebody's hands


def _check_attempt(run: RunState, attempt: int) -> None:
    if not 1 <= attempt <= run.attempt:
        raise InvalidValue("attempt", f"run {run.index} has no attempt {attempt}; its attempt is {run.attempt}")


def _speaks_for(run: RunState, attempt: int, execution: str | None) -> bool:
    """Return whether an execution is the one that began the attempt, as far as the two say who they are."""
    lease = run.lease
    return (
        execution is None
        or lease is None
        or lease.attempt != attempt
        or lease.execution is None
        or lease.execution == execution
    )
