"""Everything that can happen to a small sweep: commands, facts, reports of attempts old and new, and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import attrs

from ...core import decide as core
from ...core.decide import Change, Decision, End, Sign
from ...core.events import Fate, OrderKind, RunCreated, RunEnded, RunEvent, RunRequeued, RunStarted, SweepStatusChanged
from ...core.lifecycle import ENDING, KILLS, RUN, SWEEP, Exit, Manner, RunRow, RunTrigger, SweepTrigger
from ...core.limits import Objective
from ...core.questions import Exhausted, Wait
from ...core.state import RunState, SweepState
from ...core.status import Cause, RunStatus, SweepStatus
from ...core.values import EMPTY, FrozenDict

_IN_HAND: Final = frozenset({RunRow.HELD, RunRow.RUNNING})

#: A cell of one of the tables: its name, the row, the column.
Cell = tuple[str, str, str]

_NAMED: Final = "x"
_STRANGER: Final = "y"
_AGENT: Final = "a"


@attrs.frozen
class Move:
    """Something that can happen.

    Attributes:
        name: what it is.
        decide: the decision that it asks for; None lets time pass.
        args: the decision's arguments.
        options: its keywords.
        command: whether somebody has to want it; all others are facts, which happen by themselves.
        index: the run that it is about, or None.
        attempt: the attempt that it is about, or None.
        role: which attempt that is: the current one, the leased one, or one older than both.
        proposal: what the search answers if it is asked.
        fresh: whether it needs a request id of its own.
        ordered: whether it may depend on the order of the runs, beyond the run that it names.
        alone: whether time acts on the run that it names, and no further: a slice that ends with it. Which
            run's deadline is the first of several is not known to a state, so each of them may be.
        asks: the trigger that it asks for by its own name, where it is one.
        how: how an execution ended, where it is that.
    """

    name: str
    decide: Callable[..., Decision[Any]] | None
    args: tuple[Any, ...] = ()
    options: Mapping[str, Any] = EMPTY
    command: bool = False
    index: int | None = None
    attempt: int | None = None
    role: str = ""
    proposal: FrozenDict | Wait | Exhausted = EMPTY
    fresh: bool = False
    ordered: bool = False
    alone: bool = False
    asks: SweepTrigger | RunTrigger | None = None
    how: Exit | None = None

    @property
    def label(self) -> tuple[str, int | None, str]:
        """What it is without numbers of attempts: the same in all worlds of one key."""
        return (self.name, self.index, self.role)

    def __str__(self) -> str:
        whom = "" if self.index is None else f"run {self.index}"
        which = "" if self.attempt is None else f", attempt {self.attempt}"
        return f"{whom}{which}: {self.name}" if whom else self.name


TIME: Final = Move("a unit of time passes", None)


class Moves:
    """Lists what can happen in a world.

    Args:
        runs: how many runs the search has.
        objective: what the sweep is after.
        retries: the sets of statuses that are retried.
        changes: the changes of limits that are tried.
        executions: whether executions say who they are, and strangers report.
        attached: whether an attached agent asks for runs, beside a worker.
        every_attempt: whether each older attempt reports late, or only the newest of them.
    """

    def __init__(
        self,
        *,
        runs: int,
        objective: Objective | None,
        retries: Sequence[frozenset[RunStatus]],
        changes: Sequence[Mapping[str, Any]],
        executions: bool,
        attached: bool,
        every_attempt: bool,
    ) -> None:
        self._runs = runs
        self._executions = executions
        self._every_attempt = every_attempt
        self._slices = runs > 1
        self._ends = tuple(_ends(objective))
        self._of_sweep = (TIME, *_commands(retries, changes), Move("tick", core.elapse, ordered=True))
        self._asking = tuple(_asking(attached=attached))
        self._exhausted = Move(
            "a worker asks; the search is exhausted",
            core.next_run,
            (_AGENT,),
            proposal=Exhausted(),
            fresh=True,
            ordered=True,
        )
        self._of_run = lru_cache(maxsize=100_000)(self._list_run)

    def of(self, world_sweep: SweepState, runs: Sequence[RunState]) -> list[Move]:
        """Return all moves of a world, always in the same order."""
        moves = [*self._of_sweep, *self._asking]
        if len(runs) < self._runs:  # else it is, whoever asks
            moves.append(self._exhausted)
        for run in runs:
            lease = run.lease
            leased = None if lease is None else lease.attempt
            named = lease is not None and lease.execution is not None
            # Of an ended run it is forgotten: asked again, it is a new request like any other.
            request = lease.request_id if lease is not None and run.row in _IN_HAND else None
            order = core.order_for(world_sweep, run)
            moves += self._of_run(run.index, run.row, run.attempt, leased, named, request, order)
        return moves

    def _list_run(
        self,
        index: int,
        row: RunRow,
        attempt: int,
        leased: int | None,
        named: bool,  # noqa: FBT001 - a part of the cache's key
        request: str | None,
        order: OrderKind | None,
    ) -> tuple[Move, ...]:
        moves = [
            Move("stop", core.stop_run, (index,), command=True, index=index),
            Move("kill", core.kill_run, (index,), command=True, index=index, asks=RunTrigger.KILL),
            Move("retry", core.retry_run, (index,), command=True, index=index, asks=RunTrigger.REQUEUE, ordered=True),
        ]
        if request is not None:
            again = (core.next_run, (_AGENT, request))
            moves += [
                Move("its request is asked again", *again, index=index, ordered=True),
                Move("its request is asked again, to begin", *again, {"begin": True}, index=index, ordered=True),
            ]
        moves += self._current(index, row, attempt, leased, named=named)
        older = [number for number in range(attempt - 1, 0, -1) if number != leased]
        if leased is not None and leased != attempt:
            moves += self._older(index, leased, "leased", named=named)
        for number in older if self._every_attempt else older[:1]:
            moves += self._older(index, number, "older", named=False)
        if leased is not None:
            if self._slices:
                moves.append(Move("a tick reaches it alone", core.elapse, (1,), index=index, alone=True))
            # Where none is outstanding: it was on its way when what it was for happened.
            kind = order or OrderKind.START
            args = (index, leased, kind, "refused")
            moves.append(Move(f"{kind} cannot be delivered", core.order_failed, args, index=index, attempt=leased))
        return tuple(moves)

    def _current(self, index: int, row: RunRow, attempt: int, leased: int | None, *, named: bool) -> Iterator[Move]:
        """Yield the reports of the current attempt, also those that make no sense where the run stands."""

        def move(name: str, decide: Callable[..., Decision[Any]], *args: object, **more: Any) -> Move:
            return Move(name, decide, (index, attempt, *args), index=index, attempt=attempt, role="current", **more)

        mine = _NAMED if named and leased == attempt else None
        names: tuple[str | None, ...] = (None, _NAMED) if row is RunRow.HELD and self._executions else (mine,)
        for name in names:
            said = "" if name is None else f" as {name}"
            for beats in (False, True):
                promising = ", promising heartbeats" if beats else ""
                options = {"heartbeats": beats}
                yield move(f"start{said}{promising}", core.start, name, options=options, asks=RunTrigger.START)
                if beats or row is RunRow.HELD:
                    sign = "heartbeat" if beats else "metrics on the way"
                    yield move(sign + said, core.heartbeat, name, options={"promise": beats})
            yield move(f"mark_preempting{said}", core.mark_preempting, name)
        for name, end in self._ends:
            yield move(name, core.end, None, end, how=end.how)
        yield move("gone", core.gone)
        yield move("release", core.release)
        if row is RunRow.RUNNING:
            yield move("release, never entered", core.release, options={"begun": True})
            if self._executions:
                yield move("start as a stranger", core.start, _STRANGER)
        if mine is not None:
            yield from self._stranger(index, attempt, "current")

    def _older(self, index: int, attempt: int, role: str, *, named: bool) -> Iterator[Move]:
        """Yield what an attempt may still say although the run has a later one."""

        def move(name: str, decide: Callable[..., Decision[Any]], *args: object, **more: Any) -> Move:
            return Move(name, decide, (index, attempt, *args), index=index, attempt=attempt, role=role, **more)

        name = _NAMED if named else None
        yield move("start", core.start, name)
        yield move("heartbeat", core.heartbeat, name, options={"promise": True})
        yield move("mark_preempting", core.mark_preempting, name)
        for said, end in (self._ends[0], self._ends[-1]):
            yield move(said, core.end, None, end)
        yield move("gone", core.gone)
        yield move("release", core.release)
        if named:
            yield from self._stranger(index, attempt, role)

    def _stranger(self, index: int, attempt: int, role: str) -> Iterator[Move]:
        """Yield what an execution says that was started twice for one attempt."""

        def move(name: str, decide: Callable[..., Decision[Any]], *args: object, **more: Any) -> Move:
            return Move(name, decide, (index, attempt, *args), index=index, attempt=attempt, role=role, **more)

        name, end = self._ends[0]
        yield move(f"{name}, by a stranger", core.end, _STRANGER, end)
        yield move("heartbeat by a stranger", core.heartbeat, _STRANGER, options={"promise": True})
        yield move("mark_preempting by a stranger", core.mark_preempting, _STRANGER)


def _ends(objective: Objective | None) -> Iterator[tuple[str, End]]:
    """Yield how an execution may end; first the end that a late report could do most harm with."""
    if objective is None:
        yield "it succeeds", End(Exit.SUCCESS)
    else:
        good, bad = (-1.0, 1.0) if objective.goal == "minimize" else (1.0, -1.0)
        if objective.target is not None:
            good, bad = objective.target, objective.target + bad
        yield "it succeeds, well", End(Exit.SUCCESS, metrics=FrozenDict({objective.metric: good}))
        yield "it succeeds, badly", End(Exit.SUCCESS, metrics=FrozenDict({objective.metric: bad}))
    yield "it fails", End(Exit.ERROR, exit_code=1)
    yield "it is interrupted", End(Exit.INTERRUPT)
    yield "it dies by a signal", End(Exit.SIGNAL, signal=9)


def _commands(retries: Sequence[frozenset[RunStatus]], changes: Sequence[Mapping[str, Any]]) -> Iterator[Move]:
    """Yield the commands on the sweep, and the two facts that are told as commands are."""
    for trigger in SweepTrigger:
        if trigger not in (SweepTrigger.REOPEN, SweepTrigger.FINISH):
            yield Move(
                trigger.value, core.move, (trigger,), command=True, asks=trigger, ordered=trigger is SweepTrigger.RESUME
            )
    yield Move("complete", core.complete, command=True)
    yield Move("reopen", core.reopen, command=True, asks=SweepTrigger.REOPEN, ordered=True)
    for statuses in retries:
        names = ", ".join(sorted(statuses))
        yield Move(f"reopen, retrying {names}", core.reopen, (statuses,), command=True, ordered=True)
        yield Move(f"retry all that are {names}", core.retry_statuses, (statuses,), command=True, ordered=True)
    for change in changes:
        said = ", ".join(f"{name}={value}" for name, value in change.items())
        yield Move(f"set_limits({said})", core.set_limits, (change,), command=True, ordered=True)


def _asking(*, attached: bool) -> Iterator[Move]:
    yield Move("a worker asks; the search waits", core.next_run, (_AGENT,), proposal=Wait(), fresh=True, ordered=True)
    yield Move("a worker asks", core.next_run, (_AGENT,), fresh=True, ordered=True)
    yield Move("a worker asks, to begin at once", core.next_run, (_AGENT,), {"begin": True}, fresh=True, ordered=True)
    if attached:
        yield Move("the attached agent asks", core.next_run, (_AGENT,), {"attached": True}, fresh=True, ordered=True)


# --- the cells of the tables ---------------------------------------------------------------------


def all_cells() -> frozenset[Cell]:
    """Return every cell of the four tables."""
    cells = {("SWEEP", status.value, trigger.value) for status, row in SWEEP.items() for trigger in row}
    cells |= {("RUN", row.value, trigger.value) for row, columns in RUN.items() for trigger in columns}
    cells |= {("KILLS", status.value, row.value) for status, rows in KILLS.items() for row in rows}
    cells |= {("ENDING", how.value, manner.value) for how, columns in ENDING.items() for manner in columns}
    return frozenset(cells)


def asked(move: Move, sweep: SweepState, runs: Sequence[RunState], change: Change | None) -> Iterator[Cell]:
    """Yield the cells that a move asked for, where they did not change a status; those that did are ``fired``."""
    asks = move.asks
    if isinstance(asks, SweepTrigger):
        if change is None:
            yield ("SWEEP", sweep.status.value, asks.value)
        return
    if move.index is None:
        return
    run = runs[move.index]
    if move.how is not None:
        manner = manner_of(run)
        if run.held:
            yield ("ENDING", move.how.value, manner.value)
        asks = ENDING[move.how][manner]
    if asks is not None:
        row = _row(run, sweep)
        if not isinstance(RUN[row][asks], RunStatus):
            yield ("RUN", row.value, asks.value)


def manner_of(run: RunState) -> Manner:
    """Return what is going on with a run, told from its snapshot."""
    lease = run.lease
    if run.status is not RunStatus.RUNNING or lease is None:
        return Manner.PLAIN
    if lease.stop_at is not None:
        return Manner.ASKED
    return Manner.PREEMPTING if lease.preempting else Manner.PLAIN


def _row(run: RunState, sweep: SweepState) -> RunRow:
    row = run.row
    return RunRow.CRASHED if row is RunRow.LOST and sweep.status is SweepStatus.CANCELLED else row


_TRIGGER_OF: Final = {
    RunStatus.FINISHED: RunTrigger.FINISH,
    RunStatus.FAILED: RunTrigger.FAIL,
    RunStatus.CRASHED: RunTrigger.CRASH,
    RunStatus.KILLED: RunTrigger.KILL,
}


def fired(sweep: SweepState, runs: Sequence[RunState], change: Change) -> Iterator[Cell]:
    """Yield the cells by which a commit changed statuses."""
    status = sweep.status
    rows: dict[int, RunRow] = {}
    for event in change.events:
        if isinstance(event, SweepStatusChanged):
            yield ("SWEEP", status.value, event.trigger.value)
            status = event.status
        elif isinstance(event, RunEvent):
            index = event.index
            row = rows.get(index)
            if row is None:
                row = rows[index] = runs[index].row if index < len(runs) else RunRow.HELD
            if isinstance(event, RunCreated):
                continue
            if isinstance(event, RunStarted):
                yield ("RUN", row.value, RunTrigger.START.value)
                rows[index] = RunRow.RUNNING
            elif isinstance(event, RunRequeued):
                yield ("RUN", row.value, RunTrigger.REQUEUE.value)
                if event.fate is Fate.LOST:
                    yield ("ENDING", Exit.SILENCE.value, manner_of(runs[index]).value)
                rows[index] = RunRow.QUEUED
            elif isinstance(event, RunEnded):
                yield from _ended(event, row, runs, status)
                rows[index] = RunRow.LOST if event.fate is Fate.LOST else RunRow(event.status.value)


def _ended(event: RunEnded, row: RunRow, runs: Sequence[RunState], status: SweepStatus) -> Iterator[Cell]:
    trigger = RunTrigger.LOSE if event.cause is Cause.LOST else _TRIGGER_OF[event.status]
    if event.cause is not Cause.PREEMPTED_TOO_OFTEN:  # that is a requeue which is not made: no cell
        yield ("RUN", row.value, trigger.value)
    if event.fate is Fate.LOST:
        yield ("ENDING", Exit.SILENCE.value, manner_of(runs[event.index]).value)
    if event.cause in (Cause.WITHDRAWN, Cause.CANCELLED) and row in KILLS[status]:
        yield ("KILLS", status.value, row.value)


def kept(sign: object) -> bool:
    """Return whether a decision's value is a sign of life that the storage keeps."""
    return isinstance(sign, Sign) and sign.keep


__all__ = ["TIME", "Cell", "Move", "Moves", "all_cells", "asked", "fired", "kept"]
