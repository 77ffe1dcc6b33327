"""What may happen: the two lifecycles, and how they are coupled, as tables.

There are two machines. A **sweep** says whether new runs are created; a **run**
says how one configuration's execution stands. A *trigger* moves a status. It is
a *command* (somebody wants it) or a *fact* (somebody observed it).

Rules for this file:

1. It is the only place where a status is chosen. Everybody else asks a table.
2. The tables are complete: every status has a row and every row has every
   trigger, dead ends included, so "was this case thought of?" has one answer.

``SWEEP`` is the sweep's machine and ``RUN`` the run's. A cell holds the status
that follows, or one of three marks::

    =    SAME       accepted; its goal holds already, so nothing changes and nothing is recorded
    .    RECORDED   a report that came too late: the verdict stands, the evidence is kept
    -    REFUSED    not from here: IllegalTransition

A sweep's status is its row. A run's status is not quite enough, because a
PENDING run may or may not be in somebody's hands, and because a run that was
CRASHED by silence is only presumed dead; so the rows of ``RUN`` are
*situations* (``RunRow``), two of them split by a guard that is part of the
table.

The machines are coupled in two places, and both are tables too. ``KILLS`` says
what a sweep's new status does to its runs, in the same commit. ``ENDING`` maps
how an execution ended, and what was going on with it, to the trigger that its
run receives.

Sets of statuses (which have ended, which accept a retry) are derived from the
tables, because a set written by hand goes stale when a status is added: that
was Determined's PR #9605, reverted by #10207.

Sources. W&B, "Manage sweeps with the CLI" (pause, resume, stop, cancel), "Run
states", and "Sweeps troubleshooting / signal handling" for ``ENDING``. Where
W&B leaves something open, the comment at the row says what was chosen and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, overload

from .errors import IllegalTransition, InvalidValue
from .status import Cause, RunStatus, SweepStatus, Word
from .values import show

#: Rises whenever a cell of a table changes.
TABLE_VERSION: Final = 1


class SweepTrigger(Word):
    """What moves a sweep. The first five are commands, ``finish`` is a fact; ``fail`` and ``crash`` may be either."""

    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    CANCEL = "cancel"
    REOPEN = "reopen"
    FINISH = "finish"
    FAIL = "fail"
    CRASH = "crash"


class RunTrigger(Word):
    """What moves a run."""

    START = "start"
    FINISH = "finish"
    FAIL = "fail"
    CRASH = "crash"
    LOSE = "lose"
    KILL = "kill"
    REQUEUE = "requeue"


class RunRow(Word):
    """A run's situation: its status, and the guard where the status is not enough."""

    QUEUED = "PENDING, queued"
    HELD = "PENDING, held"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"
    LOST = "CRASHED, lost"
    KILLED = "KILLED"


class Mark(Word):
    """A cell that is not a status."""

    SAME = "="
    RECORDED = "."
    REFUSED = "-"


class Verdict(Word):
    """What ``check`` answers."""

    CHANGES = "changes"
    NOTHING = "nothing to do"
    RECORDED = "recorded"
    REFUSED = "refused"


class Exit(Word):
    """How an execution ended."""

    SUCCESS = "exit 0"
    ERROR = "exit other than 0, or an exception"
    INTERRUPT = "SIGINT, or KeyboardInterrupt"
    SIGNAL = "another signal, or its agent says that it is gone"
    SILENCE = "silence"


class Manner(Word):
    """What was going on with a RUNNING run when it ended; ``ASKED`` wins over ``PREEMPTING``."""

    PLAIN = "plain"
    PREEMPTING = "marked as preempting"
    ASKED = "asked to stop"


SweepCell = SweepStatus | Mark
RunCell = RunStatus | Mark

_same, _late, _no = Mark.SAME, Mark.RECORDED, Mark.REFUSED


def _sweep_table() -> dict[SweepStatus, dict[SweepTrigger, SweepCell]]:
    running, paused, stopped, cancelled, finished, failed, crashed = SweepStatus
    # fmt: off
    rows: dict[SweepStatus, tuple[SweepCell, ...]] = {
        #           pause   resume   stop     cancel     reopen   finish    fail    crash
        running:   (paused, _same,   stopped, cancelled, _same,   finished, failed, crashed),
        paused:    (_same,  running, stopped, cancelled, _no,     _no,      failed, crashed),
        # Severity only rises: a sweep that was stopped, failed or crashed may still have executing
        # runs, so it can be cancelled (W&B refuses that). Undoing a deliberate end is a command of
        # its own, reopen, so that a stale resume cannot revive a cancelled sweep (with W&B it can).
        stopped:   (_no,    _no,     _same,   cancelled, running, _no,      _no,    _no),
        cancelled: (_no,    _no,     _same,   _same,     running, _no,      _no,    _no),
        finished:  (_no,    _no,     _same,   _same,     running, _same,    _no,    _no),
        failed:    (_no,    _no,     _same,   cancelled, running, _no,      _same,  _no),
        # Nobody decided this end, so a resume is enough to undo it.
        crashed:   (_no,    running, stopped, cancelled, _no,     _no,      failed, _same),
    }
    # fmt: on
    return {status: dict(zip(SweepTrigger, cells, strict=True)) for status, cells in rows.items()}


def _run_table() -> dict[RunRow, dict[RunTrigger, RunCell]]:
    pending, running, finished, failed, crashed, killed = RunStatus
    queued, held, executing, success, failure, crash, lost, kill = RunRow
    # fmt: off
    rows: dict[RunRow, tuple[RunCell, ...]] = {
        #           start    finish    fail    crash    lose     kill    requeue
        queued:    (_no,     _no,      _no,    _no,     _no,     killed, _same),
        # An end report of a run that was handed out implies the start that got lost.
        held:      (running, finished, failed, crashed, _no,     killed, pending),
        executing: (_same,   finished, failed, crashed, crashed, killed, pending),
        success:   (_no,     _same,    _late,  _late,   _no,     _same,  _no),
        failure:   (_no,     _late,    _same,  _late,   _no,     _same,  pending),
        crash:     (_no,     _late,    _late,  _same,   _no,     _same,  pending),
        # Silence is a presumption: the same attempt's late end corrects it, so no work is lost
        # because a network was (wandb/wandb#1526, #3599). It never comes back to RUNNING, so no
        # slot is taken twice. In a CANCELLED sweep the row CRASHED holds instead.
        lost:      (_no,     finished, failed, _same,   _no,     _same,  pending),
        kill:      (_no,     _late,    _late,  _late,   _no,     _same,  pending),
    }
    # fmt: on
    return {row: dict(zip(RunTrigger, cells, strict=True)) for row, cells in rows.items()}


def _kills() -> dict[SweepStatus, dict[RunRow, Cause]]:
    withdrawn = {RunRow.QUEUED: Cause.WITHDRAWN, RunRow.HELD: Cause.WITHDRAWN}
    everything: dict[RunRow, Cause] = dict.fromkeys((RunRow.QUEUED, RunRow.HELD, RunRow.RUNNING), Cause.CANCELLED)
    return {
        SweepStatus.RUNNING: {},
        # A pause stops creation: a run that an agent already holds may start.
        SweepStatus.PAUSED: {},
        # W&B leaves withdrawn runs pending for ever; here they are told.
        SweepStatus.STOPPED: withdrawn,
        SweepStatus.CANCELLED: everything,
        SweepStatus.FINISHED: {},
        SweepStatus.FAILED: withdrawn,
        SweepStatus.CRASHED: {},
    }


def _ending() -> dict[Exit, dict[Manner, RunTrigger]]:
    finish, fail, crash, lose = RunTrigger.FINISH, RunTrigger.FAIL, RunTrigger.CRASH, RunTrigger.LOSE
    kill, requeue = RunTrigger.KILL, RunTrigger.REQUEUE
    rows = {
        #                plain   preempting  asked to stop
        Exit.SUCCESS: (finish, finish, finish),
        Exit.ERROR: (fail, requeue, kill),
        Exit.INTERRUPT: (kill, requeue, kill),
        Exit.SIGNAL: (crash, requeue, kill),
        Exit.SILENCE: (lose, requeue, kill),
    }
    return {how: dict(zip(Manner, triggers, strict=True)) for how, triggers in rows.items()}


#: What each trigger does to a sweep, by its status.
SWEEP: Final[Mapping[SweepStatus, Mapping[SweepTrigger, SweepCell]]] = MappingProxyType(_sweep_table())
#: What each trigger does to a run, by its situation.
RUN: Final[Mapping[RunRow, Mapping[RunTrigger, RunCell]]] = MappingProxyType(_run_table())
#: Which runs a sweep kills as it takes a status, and with which cause; the others go on.
KILLS: Final[Mapping[SweepStatus, Mapping[RunRow, Cause]]] = MappingProxyType(_kills())
#: The trigger of a run whose execution ended, by how it ended and what was going on.
ENDING: Final[Mapping[Exit, Mapping[Manner, RunTrigger]]] = MappingProxyType(_ending())

#: The status of each situation.
STATUS_OF: Final[Mapping[RunRow, RunStatus]] = MappingProxyType({row: RunStatus(row.split(",")[0]) for row in RunRow})

#: Sweeps that create runs and hand them out.
CREATING: Final = frozenset({SweepStatus.RUNNING})
#: Sweeps that have ended: they cannot be paused any more.
SWEEP_ENDED: Final = frozenset(status for status, row in SWEEP.items() if row[SweepTrigger.PAUSE] is _no)
#: Sweeps that nobody ended on purpose: what a resume accepts. Only they requeue runs.
REVIVABLE: Final = frozenset(status for status, row in SWEEP.items() if row[SweepTrigger.RESUME] is not _no)
#: Situations of an active run: those that a kill changes.
ACTIVE_ROWS: Final = frozenset(row for row, cells in RUN.items() if cells[RunTrigger.KILL] is not _same)
#: Statuses of active runs, and of runs that have ended.
RUN_ACTIVE: Final = frozenset(STATUS_OF[row] for row in ACTIVE_ROWS)
RUN_ENDED: Final = frozenset(RunStatus) - RUN_ACTIVE
#: Ended runs that a person may retry.
RETRYABLE: Final = frozenset(
    STATUS_OF[row] for row, cells in RUN.items() if row not in ACTIVE_ROWS and cells[RunTrigger.REQUEUE] is not _no
)
#: Ends that count as failures: what the failure rule looks at, and what ``retries`` may repeat.
FAILURES: Final = frozenset({RunStatus.FAILED, RunStatus.CRASHED})

# A situation is told by (status, held, lost); the two guards are ignored where they mean nothing.
_ROW_OF: Final[dict[tuple[str, bool, bool], RunRow]] = {
    (STATUS_OF[row], held, lost): row
    for row in RunRow
    for held in (False, True)
    for lost in (False, True)
    if not (row is RunRow.QUEUED and held)
    and not (row is RunRow.HELD and not held)
    and not (row is RunRow.CRASHED and lost)
    and not (row is RunRow.LOST and not lost)
}


def row_of(status: RunStatus, *, held: bool = True, lost: bool = False) -> RunRow:
    """Return the situation of a run: its status, whether it was handed out, whether it was lost to silence."""
    return _ROW_OF[status, held, lost]


def _targets(cells: Mapping[Any, Any], status: Any) -> dict[Any, Any]:
    """Return the status that follows each trigger that is not refused."""
    return {trigger: status if isinstance(cell, Mark) else cell for trigger, cell in cells.items() if cell is not _no}


# `step` is one lookup by the trigger's class, one by status, one by trigger. The status of a plain
# table (no guards) stands for the common situation: a PENDING run is held, a CRASHED one was not lost.
_NEXT: Final[dict[type, dict[str, dict[str, Any]]]] = {
    SweepTrigger: {status: _targets(cells, status) for status, cells in SWEEP.items()},
    RunTrigger: {
        STATUS_OF[row]: _targets(cells, STATUS_OF[row])
        for row, cells in RUN.items()
        if row not in (RunRow.QUEUED, RunRow.LOST)
    },
}


# Words of the two machines are equal as strings: a status of the wrong one would be looked up, and found.
_FOREIGN: Final[dict[Any, Any]] = {SweepTrigger: RunStatus, RunTrigger: SweepStatus}


@overload
def step(status: SweepStatus, trigger: SweepTrigger) -> SweepStatus: ...
@overload
def step(status: RunStatus, trigger: RunTrigger, *, held: bool = True, lost: bool = False) -> RunStatus: ...
def step(status: Any, trigger: Any, *, held: bool = True, lost: bool = False) -> Any:
    """Return the status that follows, or refuse.

    For orchestrators that keep sweeps and runs in tables of their own and want the lifecycle alone.

    Args:
        status: a ``SweepStatus`` or ``RunStatus``; its plain string value serves as well.
        trigger: a ``SweepTrigger`` for a sweep, a ``RunTrigger`` for a run.
        held: for a PENDING run, whether an agent has it; False means it is queued.
        lost: for a CRASHED run, whether it was lost to silence, so that its late end corrects it
            (say False in a CANCELLED sweep).

    Returns:
        The status afterwards: the same one where the trigger is accepted and nothing changes, and
        where a report is only recorded; ``check`` tells these apart.

    Raises:
        IllegalTransition: the table refuses it; the error lists what is allowed from here.
        InvalidValue: the status or the trigger is none.

    Example:
        >>> step(SweepStatus.RUNNING, SweepTrigger.PAUSE)
        <SweepStatus.PAUSED: 'PAUSED'>
    """
    kind = trigger.__class__
    if held and not lost and status.__class__ is not _FOREIGN.get(kind):
        try:
            return _NEXT[kind][status][trigger]
        except KeyError:
            pass
    cell = cell_of(status, trigger, held=held, lost=lost)
    if cell is _no:
        raise refusal(status, trigger, held=held, lost=lost)
    return type(status)(status) if isinstance(cell, Mark) else cell


def check(
    status: SweepStatus | RunStatus, trigger: SweepTrigger | RunTrigger, *, held: bool = True, lost: bool = False
) -> Verdict:
    """Return what the table says, without raising for a refusal.

    Args:
        status: as for ``step``.
        trigger: as for ``step``.
        held: as for ``step``.
        lost: as for ``step``.

    Returns:
        ``CHANGES``, ``NOTHING`` (its goal holds already), ``RECORDED`` (too late, kept as evidence) or ``REFUSED``.

    Raises:
        InvalidValue: the status or the trigger is none.

    Example:
        >>> check(SweepStatus.CANCELLED, SweepTrigger.RESUME)
        <Verdict.REFUSED: 'refused'>
    """
    return VERDICTS.get(cell_of(status, trigger, held=held, lost=lost), Verdict.CHANGES)


#: What each mark means to a caller; a cell that is a status changes it.
VERDICTS: Final[Mapping[object, Verdict]] = MappingProxyType(
    {_same: Verdict.NOTHING, _late: Verdict.RECORDED, _no: Verdict.REFUSED}
)


@overload
def allowed(status: SweepStatus) -> frozenset[SweepTrigger]: ...
@overload
def allowed(status: RunStatus, *, held: bool = True, lost: bool = False) -> frozenset[RunTrigger]: ...
def allowed(status: Any, *, held: bool = True, lost: bool = False) -> frozenset[Any]:
    """Return every trigger that is not refused from here, also those that change nothing.

    Args:
        status: a ``SweepStatus`` or a ``RunStatus``.
        held: as for ``step``.
        lost: as for ``step``.

    Raises:
        InvalidValue: the status is neither.

    Example:
        >>> sorted(trigger.value for trigger in allowed(SweepStatus.CANCELLED))
        ['cancel', 'reopen', 'stop']
    """
    if isinstance(status, SweepStatus):
        return frozenset(trigger for trigger, cell in SWEEP[status].items() if cell is not _no)
    if isinstance(status, RunStatus):
        cells = RUN[_ROW_OF[status, held, lost]]
        return frozenset(trigger for trigger, cell in cells.items() if cell is not _no)
    remedy = "give a member of SweepStatus or RunStatus; a plain word may be in both, and their parse() reads it"
    raise InvalidValue("status", f"{show(status)} is no member of a status enum", remedy)


def cell_of(status: Any, trigger: Any, *, held: bool = True, lost: bool = False) -> SweepCell | RunCell:
    """Return the table's cell; see ``step`` for the arguments."""
    if type(status) is _FOREIGN.get(type(trigger)):
        remedy = "a SweepTrigger moves a SweepStatus, a RunTrigger a RunStatus"
        raise InvalidValue("trigger", f"{trigger!r} does not move {status!r}", remedy)
    try:
        if isinstance(trigger, SweepTrigger):
            return SWEEP[SweepStatus(status)][trigger]
        if isinstance(trigger, RunTrigger):
            return RUN[_ROW_OF[RunStatus(status), bool(held), bool(lost)]][trigger]
    except ValueError:
        raise InvalidValue(
            "status", f"{show(status)} is none that can {trigger}", "see SweepStatus, RunStatus"
        ) from None
    raise InvalidValue("trigger", f"{show(trigger)} is no trigger", "give a SweepTrigger or a RunTrigger")


def refusal(status: Any, trigger: Any, *, held: bool = True, lost: bool = False, id: str = "") -> IllegalTransition:
    """Return the error that ``step`` raises for a refused trigger."""
    if isinstance(trigger, SweepTrigger):
        sweep = SweepStatus(status)
        return IllegalTransition("sweep", id, sweep, trigger, _askable(SWEEP[sweep]), _sweep_remedy(sweep, trigger))
    row = _ROW_OF[RunStatus(status), held, lost]
    options = _askable(RUN[row])
    return IllegalTransition("run", id, row, trigger, options, _run_remedy(row))


def _askable(cells: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return the triggers that lead somewhere, or whose goal holds already; a late report does neither."""
    return tuple(sorted(str(trigger) for trigger, cell in cells.items() if cell not in (_no, _late)))


def _sweep_remedy(status: SweepStatus, trigger: SweepTrigger) -> str:
    """Say what the caller probably wants."""
    undo: tuple[SweepTrigger, ...] = (SweepTrigger.RESUME, SweepTrigger.PAUSE)
    if trigger in undo and SWEEP[status][SweepTrigger.REOPEN] is not _no:
        return "it was ended on purpose or is complete; reopen it first"
    if trigger is SweepTrigger.REOPEN:
        return "nothing was ended on purpose; resume it"
    if trigger is SweepTrigger.PAUSE:
        return "it creates no runs as it is; resume, stop or cancel it"
    if trigger is SweepTrigger.FINISH:
        return "only a RUNNING sweep finishes"
    return "it has ended already; reopen it to run it again"


def _run_remedy(row: RunRow) -> str:
    if row is RunRow.QUEUED:
        return "nobody has it; ask for it with next_run() first"
    if row in ACTIVE_ROWS:
        return "report its end, or stop or kill it"
    return "it has ended; retry it to execute it again"


def table() -> dict[str, Any]:
    """Return the whole specification as JSON-able data.

    Returns:
        ``version`` (rises with every change of a cell), ``sweep`` and ``run`` (row -> trigger ->
        status or mark), ``kills`` (sweep status -> run row -> cause), ``ending`` (how -> manner ->
        trigger), ``marks``, and the derived ``sets``. Changing what is returned changes nothing.
    """
    return {
        "version": TABLE_VERSION,
        "marks": {mark.value: VERDICTS[mark].value for mark in Mark},
        "sweep": _plain(SWEEP),
        "run": _plain(RUN),
        "kills": _plain(KILLS),
        "ending": _plain(ENDING),
        "sets": {
            "sweep creating": sorted(CREATING),
            "sweep ended": sorted(SWEEP_ENDED),
            "sweep revivable": sorted(REVIVABLE),
            "run active": sorted(RUN_ACTIVE),
            "run ended": sorted(RUN_ENDED),
            "run retryable": sorted(RETRYABLE),
        },
    }


def _plain(rows: Mapping[Any, Mapping[Any, Any]]) -> dict[str, dict[str, str]]:
    return {str(row): {str(key): str(cell) for key, cell in cells.items()} for row, cells in rows.items()}
