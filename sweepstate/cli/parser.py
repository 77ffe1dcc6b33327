"""What may stand on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TypeVar

from ..core.status import RunStatus
from ..core.values import check_count, check_seconds
from . import commands
from .places import VARIABLE
from .text import safe

_T = TypeVar("_T")
_WATCH: Final = 2.0
_ROWS: Final = 20
_WORKDIR: Final = "sweepstate-runs"
_SWEEP: Final = {
    "pause": "create no runs for now; executing ones go on",
    "resume": "undo a pause, or an interruption (CRASHED)",
    "stop": "end it gracefully: executing runs go on to their end",
    "cancel": "end it abruptly: every active run is killed",
    "reopen": "undo a deliberate end",
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors can be shown, whatever was typed."""

    def error(self, message: str) -> NoReturn:
        """Say how the command is used, and what is wrong; exit 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {safe(message)}\n")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return what was asked for: ``run`` is the command, ``parser`` the parser that knows its usage.

    Raises:
        SystemExit: it cannot be understood (2), or help was asked for (0); it is said already.
    """
    words, command = list(argv), list[str]()
    # By hand, because the program's own options stand behind the first --, and a second one is the program's.
    if words[:1] == ["agent"] and "--" in words:
        at = words.index("--")
        words, command = words[:at], words[at + 1 :]
    # Not parse_args: of words too many it complains with the usage of all commands, rather than of this one.
    arguments, others = build_parser().parse_known_args(words)
    if others:
        arguments.parser.error(_unknown(others, arguments))
    arguments.command = command
    return arguments


def _unknown(words: list[str], arguments: argparse.Namespace) -> str:
    """Return what to say of words that are not understood."""
    if arguments.run is commands.agent and not words[0].startswith("-"):
        return f"the program and its arguments stand behind --: sweepstate agent {arguments.id} -- {' '.join(words)}"
    return f"unrecognized arguments: {' '.join(words)}"


def build_parser() -> Parser:
    """Return the parser."""
    parser = Parser(
        prog="sweepstate",
        description="Look at hyperparameter sweeps, steer them, and execute their runs.",
        epilog=f"Each command needs --storage PATH_OR_URL, or {VARIABLE} in the environment.",
        allow_abbrev=False,
    )
    kinds = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str, usage: str | None = None) -> Parser:
        made = kinds.add_parser(name, help=text, description=text, usage=usage, allow_abbrev=False)
        made.add_argument(
            "--storage", metavar="PATH_OR_URL", help=f"a file of SQLiteStorage, or a database's URL; else {VARIABLE}"
        )
        made.set_defaults(run=run, parser=made)
        return made

    _add_sweep(add("sweep", commands.sweep, "Pause, resume, stop, cancel or reopen a sweep."))
    listing = add("list", commands.list_, "List the sweeps of a storage.")
    listing.add_argument("--json", action="store_true", help="one object of JSON for each sweep, a line each")
    _add_status(add("status", commands.status, "Show a sweep: its counts, its active runs, its health."))
    usage = "sweepstate agent [OPTION ...] ID -- COMMAND [ARGUMENT ...]"
    _add_agent(add("agent", commands.agent, "Execute a sweep's runs as processes, until it is done.", usage))
    return parser


def _add_sweep(parser: Parser) -> None:
    verbs = parser.add_mutually_exclusive_group(required=True)
    for verb, text in _SWEEP.items():
        verbs.add_argument(f"--{verb}", dest="verb", action="store_const", const=verb, help=text)
    parser.add_argument(
        "--retry",
        metavar="STATUS[,STATUS]",
        type=_checked(_statuses),
        help="with --reopen: take up again the runs that ended in one of these",
    )
    parser.add_argument("--reason", help="why, for the history")
    parser.add_argument("--actor", help="who, for the history")
    _add_id(parser)


def _add_status(parser: Parser) -> None:
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        const=_WATCH,
        type=_checked(_seconds),
        help=f"look again after so many seconds ({_WATCH:g}), until the sweep is done",
    )
    parser.add_argument(
        "--rows", metavar="N", default=_ROWS, type=_checked(_rows), help=f"show so many active runs ({_ROWS})"
    )
    parser.add_argument(
        "--json", action="store_true", help="an object of JSON on one line; with --watch, one each time"
    )
    _add_id(parser)


def _add_agent(parser: Parser) -> None:
    parser.add_argument(
        "--name",
        help="the agent's name, the same when it is started again, and no other's (subprocess@ and the machine's name)",
    )
    parser.add_argument(
        "--max-active",
        metavar="N",
        type=_checked(_positive),
        help="set the sweep's limit of runs at once, over all its agents",
    )
    parser.add_argument(
        "--count", metavar="N", type=_checked(_positive), help="leave when N runs have been executed, if not before"
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        default=_WORKDIR,
        help=f"where outputs and configurations go, the same when it is started again ({_WORKDIR})",
    )
    parser.add_argument(
        "--slots",
        metavar="SLOT[,SLOT]",
        type=_names,
        help="GPUs, of which each run gets its own by CUDA_VISIBLE_DEVICES; no more runs at once than they serve",
    )
    parser.add_argument(
        "--slots-per-run", metavar="N", type=_checked(_positive), help="with --slots: how many each run gets (1)"
    )
    _add_id(parser)


def _add_id(parser: Parser) -> None:
    parser.add_argument("id", metavar="ID", help="the sweep's id")


# --- values ---------------------------------------------------------------------------------------


def _checked(read: Callable[[str], _T]) -> Callable[[str], _T]:
    """Return a reader whose complaint argparse shows; it would hide that of any other error."""

    def checked(text: str) -> _T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _statuses(text: str) -> tuple[RunStatus, ...]:
    return tuple(RunStatus.parse(word) for word in text.split(","))


def _seconds(text: str) -> float:
    try:
        return check_seconds(float(text), "SECONDS", zero=False)
    except ValueError as error:
        raise ValueError(f"{text!r} is no number of seconds above 0; the sweep's id stands before --watch") from error


def _rows(text: str) -> int:
    return check_count(_whole(text), "N", most=10_000)


def _positive(text: str) -> int:
    return check_count(_whole(text), "N", least=1)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]
