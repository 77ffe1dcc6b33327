"""Which cells of the lifecycle's tables fired in real sweeps: recorded, counted, and a failure under 100 %.

Two witnesses, neither of which looks inside the code under test:

* the history of every sweep that a test leaves in a ``MemoryStorage``, folded here by hand, tells each
  cell that changed a status or kept a late report, what a sweep's change did to its runs, and silence;
* the public methods of ``Sweep`` and ``Run``, wrapped, tell each cell that changed nothing or was refused,
  and how an execution ended.

A cell counts only if what happened is what the page says (``tests.support.tables``).
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from sweepstate import (
    Event,
    IllegalTransition,
    MemoryStorage,
    NotFound,
    Run,
    RunState,
    Sweep,
)
from sweepstate.core import events as ev
from sweepstate.core.questions import ByIndex
from tests.support import tables

Cell = tuple[str, str, str]  # table, row, column

_NO_FINISH: Final = "finish is nobody's command: a sweep finishes itself, and only while it is RUNNING"
_NO_LOSE: Final = "silence is looked for among RUNNING runs only"
_DRAINED: Final = "a sweep finishes only when no run is active"

#: Cells that no public path can ask in a real sweep, with the reason: they are ``lifecycle.step``'s alone,
#: which ``tests/core/test_lifecycle.py`` asks for every cell.
ONLY_STEP: Final[dict[Cell, str]] = {
    **{("SWEEP", row, "finish"): _NO_FINISH for row in tables.SWEEP_STATUSES if row != "RUNNING"},
    **{("RUN", row, "lose"): _NO_LOSE for row in tables.RUN_ROWS if row != "RUNNING"},
    **{("KILLS", "FINISHED", row): _DRAINED for row in tables.ACTIVE},
}
ALL: Final[frozenset[Cell]] = frozenset(
    (name, row, column)
    for name, table in (
        ("SWEEP", tables.SWEEP),
        ("RUN", tables.RUN),
        ("KILLS", tables.KILLS),
        ("ENDING", tables.ENDING),
    )
    for row, cells in table.items()
    for column in cells
)
ASKABLE: Final = ALL - frozenset(ONLY_STEP)

fired: Final[set[Cell]] = set()


def _fire(table: str, row: str, column: str, outcome: str) -> None:
    """Count a cell, if the outcome is the page's."""
    cells = getattr(tables, table)[row]
    if cells[column] == outcome:
        fired.add((table, row, column))


def report() -> tuple[str, list[str]]:
    """Return the line for the summary, and the cells that never fired."""
    missing = sorted(ASKABLE - fired)
    count, total = len(ASKABLE) - len(missing), len(ASKABLE)
    share = 100 * count // total  # rounded down, so that 100 % is all of them
    line = f"edge coverage: {count}/{total} ({share} %); {len(ONLY_STEP)} cells more can only be asked of step()"
    return line, [f"{table}[{row}][{column}]" for table, row, column in missing]


# --- the first witness: histories ----------------------------------------------------------------------


class _Fold:
    """A sweep's status and its runs' situations, from events alone."""

    def __init__(self) -> None:
        self.status = "RUNNING"
        self.rows: dict[int, str] = {}
        self.attempts: dict[int, int] = {}

    def row(self, index: int) -> str:
        row = self.rows[index]
        return "CRASHED" if row == "CRASHED, lost" and self.status == "CANCELLED" else row

    def sweep_moved(self, event: ev.SweepStatusChanged, killed: dict[int, str]) -> None:
        _fire("SWEEP", self.status, event.trigger.value, event.status.value)
        self.status = event.status.value
        if self.status in tables.KILLS:
            for index, row in self.rows.items():
                if row in tables.ACTIVE:
                    _fire("KILLS", self.status, row, killed.get(index, ""))

    def run_ended(self, event: ev.RunEnded) -> None:
        row, status = self.row(event.index), event.status.value
        lost = event.fate is ev.Fate.LOST
        trigger = {"FINISHED": "finish", "FAILED": "fail", "KILLED": "kill"}.get(status, "lose" if lost else "crash")
        if event.cause != "preempted too often":  # its trigger was a requeue, and a limit turned it
            _fire("RUN", row, trigger, status)
        if lost and row == "RUNNING":
            _fire("ENDING", "silence", "asked" if status == "KILLED" else "plain", trigger)
        self.rows[event.index] = "CRASHED, lost" if status == "CRASHED" and lost else status

    def run_requeued(self, event: ev.RunRequeued) -> None:
        row = self.rows[event.index]
        _fire("RUN", row, "requeue", "PENDING, queued")
        if event.fate is ev.Fate.LOST:
            _fire("ENDING", "silence", "preempting", "requeue")
        self.rows[event.index] = "PENDING, queued"
        self.attempts[event.index] = event.attempt

    def take(self, event: Event, killed: dict[int, str]) -> None:
        match event:
            case ev.SweepStatusChanged():
                self.sweep_moved(event, killed)
            case ev.RunHandedOut():
                self.rows[event.index] = "PENDING, held"
                self.attempts[event.index] = event.attempt
            case ev.RunStarted():
                _fire("RUN", self.rows[event.index], "start", "RUNNING")
                self.rows[event.index] = "RUNNING"
            case ev.RunEnded():
                self.run_ended(event)
            case ev.RunRequeued():
                self.run_requeued(event)
            case ev.LateReport() if event.attempt == self.attempts[event.index]:
                _fire("RUN", self.row(event.index), event.trigger.value, ".")
                self.gone(event)
            case ev.LateReport() | ev.LeaseEnded():
                self.gone(event)
            case _:
                pass

    def gone(self, event: ev.LateReport | ev.LeaseEnded) -> None:
        if event.fate is ev.Fate.GONE and self.rows[event.index] == "CRASHED, lost":
            self.rows[event.index] = "CRASHED"


def walk(history: Iterable[Event]) -> None:
    """Record the cells that a history tells of."""
    events = list(history)
    killed: dict[int, dict[int, str]] = defaultdict(dict)
    for event in events:
        if isinstance(event, ev.RunEnded) and event.status == "KILLED":
            killed[event.version][event.index] = event.cause.value
    fold = _Fold()
    for event in events:
        fold.take(event, killed[event.version])


# --- the second witness: calls ---------------------------------------------------------------------------


def _stored(handle: Sweep | Run) -> MemoryStorage | None:
    """Return where a handle's sweep lives, if it can be read without anybody noticing."""
    storage = handle._shell.storage
    return storage if isinstance(storage, MemoryStorage) else None


def _run_state(storage: MemoryStorage, run: Run) -> RunState | None:
    try:
        rows = MemoryStorage.runs(storage, run.sweep_id, ByIndex(), after=run.index - 1, limit=1)
    except NotFound:
        return None
    return rows[0] if rows and rows[0].index == run.index else None


def _watch_sweep(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(sweep: Sweep, *args: Any, **kwargs: Any) -> Any:
        storage = _stored(sweep)
        try:
            row = "" if storage is None else MemoryStorage.sweep(storage, sweep.id).status.value
        except NotFound:
            row = ""
        try:
            events = method(sweep, *args, **kwargs)
        except IllegalTransition as error:
            if row and error.status == row and error.asked == name:
                _fire("SWEEP", row, name, "-")
            raise
        if row and events == ():
            _fire("SWEEP", row, name, "=")
        return events

    return call


_HOW: Final = {"finish": "exit 0", "fail": "error", "interrupt": "interrupt", "crash": "signal", "gone": "signal"}


def _how(name: str, args: tuple[Any, ...]) -> str:
    if name != "exited":
        return _HOW.get(name, "")
    code = args[0] if args else None
    if not isinstance(code, int):
        return ""
    return "exit 0" if code == 0 else "error" if code > 0 else "interrupt" if code == -2 else "signal"


def _watch_run(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(run: Run, *args: Any, **kwargs: Any) -> Any:
        storage = _stored(run)
        before = None if storage is None else _run_state(storage, run)
        if storage is None or before is None or before.attempt != run.attempt:
            return method(run, *args, **kwargs)
        row, manner = _situation(storage, run, before)
        how = _how(name, args)
        trigger = tables.ENDING[how][manner] if how else {"stop": "kill", "retry": "requeue"}.get(name, name)
        if name == "stop" and row == "RUNNING":
            return method(run, *args, **kwargs)  # asks, and moves nothing yet
        try:
            events = method(run, *args, **kwargs)
        except IllegalTransition as error:
            if type(error) is IllegalTransition and error.status == row:
                _fire("RUN", row, trigger, "-")
            raise
        after = _run_state(storage, run)
        moved = after is not None and (after.status, after.attempt) != (before.status, before.attempt)
        if moved and how and row == "RUNNING":
            _fire("ENDING", how, manner, trigger)
        if not moved and name != "gone" and not any(isinstance(event, ev.LateReport) for event in events):
            _fire("RUN", row, trigger, "=")
        return events

    return call


def _situation(storage: MemoryStorage, run: Run, state: RunState) -> tuple[str, str]:
    """Return a run's row, and what is going on with it."""
    row = str(state.row)
    if row == "CRASHED, lost" and MemoryStorage.sweep(storage, run.sweep_id).status == "CANCELLED":
        row = "CRASHED"
    lease = state.lease
    if row != "RUNNING" or lease is None:
        return row, "plain"
    return row, "asked" if lease.stop_at is not None else "preempting" if lease.preempting else "plain"


_SWEEP_CALLS: Final = ("pause", "resume", "stop", "cancel", "reopen", "fail", "crash")
_RUN_CALLS: Final = ("stop", "kill", "retry", "start", "finish", "fail", "crash", "interrupt", "exited", "gone")


def install() -> Callable[[], None]:
    """Wrap the public methods; return what unwraps them."""
    undo: list[tuple[type, str, Any]] = []
    watched: list[tuple[type, tuple[str, ...], Callable[..., Any]]] = [
        (Sweep, _SWEEP_CALLS, _watch_sweep),
        (Run, _RUN_CALLS, _watch_run),
    ]
    for cls, names, watch in watched:
        for name in names:
            method = getattr(cls, name)
            undo.append((cls, name, method))
            setattr(cls, name, watch(name, method))

    def restore() -> None:
        for cls, name, method in undo:
            setattr(cls, name, method)

    return restore


# --- the storages that a test made -------------------------------------------------------------------------


class Storages:
    """Keeps every MemoryStorage that is made, until it was looked at."""

    def __init__(self) -> None:
        self.made: list[MemoryStorage] = []
        self._original = MemoryStorage.__init__

    def install(self) -> Callable[[], None]:
        original, made = self._original, self.made

        @functools.wraps(original)
        def init(storage: MemoryStorage, *args: Any, **kwargs: Any) -> None:
            original(storage, *args, **kwargs)
            made.append(storage)

        MemoryStorage.__init__ = init  # type: ignore[assignment, method-assign]

        def restore() -> None:
            MemoryStorage.__init__ = original  # type: ignore[method-assign]

        return restore

    def drain(self) -> Iterator[MemoryStorage]:
        while self.made:
            yield self.made.pop()
