"""What ``look`` has seen, as tables drawn by rich: plain where the output is no terminal, and ids are never cut."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..core.state import SweepState
from ..core.status import RunStatus
from ..core.values import show
from .look import ActiveRun, Look, Vitals
from .text import ago, date, printable

_CONFIG: Final = 80
#: Wider than any line, so that what reads a file or a pipe finds each row on one.
_UNBOUNDED: Final = 100_000
_COLOURS: Final = {"RUNNING": "green", "FAILED": "red", "CRASHED": "red", "PAUSED": "yellow", "PENDING": "yellow"}


def console() -> Console:
    """Return what writes to standard output, as it is now.

    ``FORCE_COLOR`` is not asked, since what reads a pipe would get control sequences; ``NO_COLOR`` is, by rich.
    """
    terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout,
        force_terminal=terminal,
        force_jupyter=False,
        width=None if terminal else _UNBOUNDED,
        markup=False,
        highlight=False,
        emoji=False,
    )


def live(screen: Console) -> Live:
    """Return a live view that is drawn only when it is given something."""
    return Live(console=screen, auto_refresh=False)


def write(screen: Console, *parts: RenderableType) -> None:
    """Write to standard output.

    Not by the console: that one ends the process if the pipe is closed, and ends lines with blanks. Lines of
    text are folded by the terminal, which gives an id back whole to whoever copies it; cells are folded here.
    """
    with screen.capture() as captured:
        screen.print(*parts, sep="\n", soft_wrap=True)
    lines = captured.get().split("\n")
    sys.stdout.write("\n".join(line.rstrip() for line in lines))
    sys.stdout.flush()


def write_list(screen: Console, sweeps: Iterable[SweepState]) -> None:
    """Write a table of sweeps. On a narrow terminal its rows are folded by that, rather than that an id is cut."""
    table = _table("ID", "STATUS", "RUNS", *RunStatus, "CREATED")
    for sweep in sweeps:
        counts = [_number(count) for count in sweep.counts.values()]
        table.add_row(
            _plain(sweep.id), _status(sweep.status), _number(sweep.created), *counts, _plain(date(sweep.created_at))
        )
    screen.width = _UNBOUNDED
    write(screen, table)


def status_view(look: Look) -> RenderableType:
    """Return everything of a look."""
    parts = [*_head(look), Text(), _counts(look.sweep)]
    if look.active:
        parts += [Text(), Text("active runs", "bold"), _runs(look)]
    if look.more:
        parts.append(Text(f"and {look.more:,} more"))
    return Group(*parts, Text(), Text("health", "bold"), _health(look.health))


def _head(look: Look) -> list[RenderableType]:
    sweep = look.sweep
    title = Text.assemble(("sweep ", "bold"), (printable(sweep.id), "bold"), "  ", _status(sweep.status))
    if sweep.ended and not sweep.done:
        title.append(f"  (not done yet: agents hold {sweep.leased})")
    about = [f"created {date(sweep.created_at)}"]
    if sweep.search is not None:
        points = "" if sweep.size is None else f" of {sweep.size:,} points"
        about.append(f"search {printable(str(sweep.search.get('name')))}{points}")
    if sweep.objective is not None and sweep.best_index is not None:
        about.append(f"best run {sweep.best_index}: {printable(sweep.objective.metric)} = {sweep.best_value}")
    return [title, Text("; ".join(about))]


def _counts(sweep: SweepState) -> Table:
    table = _table("RUNS", *RunStatus)
    table.add_row(_number(sweep.created), *(_number(count) for count in sweep.counts.values()))
    return table


def _runs(look: Look) -> Table:
    table = _table("RUN", "STATUS", "ATTEMPT", "AGENT", "LAST HEARD", "CONFIG")
    for each in look.active:
        run = each.state
        table.add_row(
            _number(run.index),
            _row(each),
            _number(run.attempt),
            _plain(run.lease.agent if run.held and run.lease is not None else "-"),
            _plain("-" if each.heard is None else ago(look.now - each.heard)),
            _plain(show(dict(run.config), _CONFIG)),
        )
    return table


def _row(each: ActiveRun) -> Text:
    run = each.state
    text = _plain(run.row.value)
    if run.lease is not None and run.held and run.lease.stop_at is not None:
        text.append(", asked to stop")
    return text


def _health(found: Vitals) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    rate = "" if found.failure_rate is None else f" ({found.failure_rate:.1%})"
    table.add_row("failures", f"{found.failed:,} of {found.ended:,} ended runs{rate}, {found.streak:,} in a row")
    if found.trips:
        table.add_row("failure rule", Text(f"trips: {found.trips}", "red"))
    for use in found.limits:
        unit = " s" if use.name == "time_limit" else ""
        reached = ", reached" if use.reached else ""
        table.add_row(
            use.name, Text(f"{use.used:,.0f} of {use.limit:,.0f}{unit}{reached}", "yellow" if reached else "")
        )
    silent = ", ".join(str(index) for index in found.silent)
    table.add_row("silent runs", Text(silent, "red") if silent else "none")
    for group in found.newest.causes:
        runs = ", ".join(str(index) for index in group.runs) + (", ..." if group.count > len(group.runs) else "")
        said = f": {printable(show(group.message, _CONFIG))}" if group.message else ""
        table.add_row(f"{group.count:,} {group.status}", f"{group.cause}, runs {runs}{said}")
    for each in found.newest.agents:
        mark = "; look at its machine" if each.suspect else ""
        table.add_row(f"agent {printable(each.agent)}", Text(f"{each.evidence}{mark}", "red" if mark else ""))
    for suspect in found.newest.suspects:
        table.add_row(printable(suspect.parameter), Text(f"{printable(suspect.value)}: {suspect.evidence}", "red"))
    return table


# --- cells ----------------------------------------------------------------------------------------


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    words = {"ID", "STATUS", "CREATED", "AGENT", "LAST HEARD", "CONFIG"}
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right", overflow="fold")
    return table


def _plain(text: str) -> Text:
    return Text(printable(text))


def _number(number: int) -> Text:
    return Text(str(number))


def _status(status: str) -> Text:
    return Text(str(status), _COLOURS.get(status, ""))
