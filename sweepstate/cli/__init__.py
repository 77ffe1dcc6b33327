"""The command line, ``sweepstate``: small, and only an edge. Whatever it does, the library does.

Exit codes: 0, done; 1, refused or failed, with the library's message on
standard error; 2, the command line is wrong, or an extra is missing; 130,
interrupted by Ctrl-C; 141, nobody reads the output any more; 143, an agent was
sent SIGTERM (as a shell counts SIGINT, SIGPIPE and SIGTERM).
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from ..core.errors import InvalidValue, SweepstateError
from .places import MissingExtra, UsageError
from .text import safe

DONE: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Do what a command line says.

    Args:
        argv: its words, without the program's name; those of this process if not given.

    Returns:
        The exit code; see the module.
    """
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # here, where an error of it is met
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _write_no_more()
        return PIPE_CLOSED
    except OSError as error:
        _complain(f"{type(error).__name__}: {error}")  # the disk under a redirected output is full, and the like
        _write_no_more()
        return REFUSED
    return code


def _run(argv: Sequence[str]) -> int:
    if find_spec("rich") is None:
        _complain("the command line needs an extra: pip install 'sweepstate[cli]'")
        return USAGE
    for stream in (sys.stdout, sys.stderr):
        # An id may have signs that the terminal's encoding lacks: they are shown escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    from .parser import parse  # noqa: PLC0415 - the commands import the library, which may not be needed

    try:
        arguments = parse(argv)
        try:
            arguments.run(arguments)
        except UsageError as error:
            arguments.parser.error(str(error))
    except SystemExit as leaving:  # argparse has said why
        return leaving.code if isinstance(leaving.code, int) else USAGE
    except MissingExtra as error:
        _complain(str(error))
        return USAGE
    except SweepstateError as error:
        _complain(str(error))
        return USAGE if isinstance(error, InvalidValue) else REFUSED
    return DONE


def _complain(text: str) -> None:
    sys.stderr.write(f"sweepstate: {safe(text)}\n")


def _write_no_more() -> None:
    """Leave nothing that Python would try to write, and complain about, as it exits.

    Source: https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # no real stream, as in a test
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
