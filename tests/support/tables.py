"""The tables of the specification (lifecycle.md), typed from the page, as the page prints them.

Nothing here is derived from the code under test. ``=`` accepted, nothing changes; ``.`` recorded, the
verdict stands; ``-`` refused; ``lost?`` holds only for a run that was lost to silence in a sweep that is
not CANCELLED, else ``.``.
"""

from __future__ import annotations

from typing import Final

Table = dict[str, dict[str, str]]

A1: Final = """
| from \\ trigger | pause | resume | stop | cancel | reopen | finish | fail | crash |
|---|---|---|---|---|---|---|---|---|
| RUNNING   | PAUSED | = | STOPPED | CANCELLED | = | FINISHED | FAILED | CRASHED |
| PAUSED    | = | RUNNING | STOPPED | CANCELLED | - | - | FAILED | CRASHED |
| STOPPED   | - | - | = | CANCELLED | RUNNING | - | - | - |
| CANCELLED | - | - | = | = | RUNNING | - | - | - |
| FINISHED  | - | - | = | = | RUNNING | = | - | - |
| FAILED    | - | - | = | CANCELLED | RUNNING | - | = | - |
| CRASHED   | - | RUNNING | STOPPED | CANCELLED | - | - | FAILED | = |
"""

A2: Final = """
| from \\ trigger | start | finish | fail | crash | lose | kill | requeue |
|---|---|---|---|---|---|---|---|
| PENDING, queued | - | - | - | - | - | KILLED | = |
| PENDING, held   | RUNNING | FINISHED | FAILED | CRASHED | - | KILLED | PENDING, queued |
| RUNNING         | = | FINISHED | FAILED | CRASHED | CRASHED | KILLED | PENDING, queued |
| FINISHED        | - | = | . | . | - | = | - |
| FAILED          | - | . | = | . | - | = | PENDING, queued |
| CRASHED         | - | FINISHED lost? | FAILED lost? | = | - | = | PENDING, queued |
| KILLED          | - | . | . | . | - | = | PENDING, queued |
"""

A3: Final = """
| the sweep becomes | queued | held PENDING | RUNNING |
|---|---|---|---|
| PAUSED, CRASHED | kept | may start | goes on |
| STOPPED, FAILED | KILLED, withdrawn | KILLED, withdrawn | goes on |
| CANCELLED | KILLED | KILLED | KILLED |
| FINISHED | there is none | there is none | there is none |
"""

A4: Final = """
| execution ended by | plain | marked as preempting | asked to stop (wins) |
|---|---|---|---|
| exit 0 | finish | finish | finish |
| exit other than 0, an exception | fail | requeue | kill |
| SIGINT, KeyboardInterrupt | kill | requeue | kill |
| another signal; its agent says that it is gone (of a held PENDING run that is a release) | crash | requeue | kill |
| silence | lose | requeue | kill |
"""

F: Final = """
| sweep is | a preempted run | retry by limit | `retry(run)`, `retry({statuses})` |
|---|---|---|---|
| RUNNING, PAUSED, CRASHED | queued | queued | yes |
| STOPPED, FAILED | KILLED, withdrawn | not made | refused: reopen first |
| CANCELLED, FINISHED | there is none | not made | refused: reopen first |
"""


def _read(text: str) -> Table:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]
    head, _rule, *rows = lines
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def _each(table: Table) -> Table:
    """Give every status of a row that names several its own row."""
    return {status: dict(cells) for names, cells in table.items() for status in names.split(", ")}


#: Sweep status -> trigger -> status or mark.
SWEEP: Final = _read(A1)

_RUN: Final = _read(A2)
#: Run situation -> trigger -> status or mark. The row "CRASHED, lost" is CRASHED where ``lost?`` holds.
RUN: Final[Table] = {
    **{row: {name: "." if "lost?" in cell else cell for name, cell in cells.items()} for row, cells in _RUN.items()},
    "CRASHED, lost": {trigger: cell.removesuffix(" lost?") for trigger, cell in _RUN["CRASHED"].items()},
}

_A3: Final = _each(_read(A3))
#: What the sweep becomes -> run situation -> the cause of its end, or "" where it goes on.
KILLS: Final[Table] = {
    status: {
        row: ("withdrawn" if "withdrawn" in cell else "cancelled") if "KILLED" in cell else ""
        for row, cell in zip(("PENDING, queued", "PENDING, held", "RUNNING"), cells.values(), strict=True)
    }
    for status, cells in _A3.items()
}

EXITS: Final = ("exit 0", "error", "interrupt", "signal", "silence")
MANNERS: Final = ("plain", "preempting", "asked")
#: How an execution ended -> what was going on with it -> trigger.
ENDING: Final[Table] = {
    how: dict(zip(MANNERS, cells.values(), strict=True)) for how, cells in zip(EXITS, _read(A4).values(), strict=True)
}

#: Sweep status -> what becomes of a preempted run, of a retry by limit, and of a person's retry.
CHANCES: Final[Table] = {
    status: dict(zip(("preempted", "limit", "retry"), cells.values(), strict=True))
    for status, cells in _each(_read(F)).items()
}

SWEEP_STATUSES: Final = tuple(SWEEP)
RUN_ROWS: Final = tuple(RUN)
SWEEP_TRIGGERS: Final = tuple(SWEEP["RUNNING"])
RUN_TRIGGERS: Final = tuple(RUN["RUNNING"])
#: Situations of runs that have not ended.
ACTIVE: Final = ("PENDING, queued", "PENDING, held", "RUNNING")
#: Where a run of each situation can be: what A3 and the meaning of FINISHED leave.
REACHABLE: Final[dict[str, tuple[str, ...]]] = {
    "RUNNING": RUN_ROWS,
    "PAUSED": RUN_ROWS,
    "CRASHED": RUN_ROWS,
    "STOPPED": tuple(row for row in RUN_ROWS if not row.startswith("PENDING")),
    "FAILED": tuple(row for row in RUN_ROWS if not row.startswith("PENDING")),
    "CANCELLED": tuple(row for row in RUN_ROWS if row not in ACTIVE),
    "FINISHED": tuple(row for row in RUN_ROWS if row not in ACTIVE),
}
