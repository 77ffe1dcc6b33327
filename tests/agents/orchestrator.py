"""An orchestrator that dies where it is told to: ``orchestrator.py DATABASE WORKDIR TAG CRASH``.

It is killed by SIGKILL, by itself, at one moment; run again with ``CRASH`` empty, it goes on to the end.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from sweepstate import Grid, Limits, RunStatus, SQLiteStorage, Sweep
from sweepstate.agent import _programs
from sweepstate.agent._workdir import Record
from sweepstate.agent.subprocess import SubprocessAgent
from tests.agents.processes import POINTS


def die(*_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def dying_after(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """Return a function that dies instead of being called once more."""
    left = [calls]

    def called(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        return die() if left[0] < 0 else function(*args, **kwargs)

    return called


def main(database: str, workdir: str, tag: str, crash: str) -> None:
    work = 120.0 if crash in ("running", "launched") else 0.05  # of the first attempt of the first two
    agent = SubprocessAgent(
        [sys.executable, str(Path(__file__).with_name("program.py"))],
        name="orchestrator",
        workdir=workdir,
        env={"SWEEPSTATE_TEST": tag},
        poll=0.05,
    )
    limits = Limits(max_active=2, retries={RunStatus.CRASHED: 9})
    do = "have_grandchildren" if crash.startswith("stubborn") else "once"
    search = Grid({"do": [do], "x": list(range(POINTS)), "work": [work]})
    again = Path(database).exists()
    storage = SQLiteStorage(database)
    if again:
        sweep = Sweep.open("s", storage=storage, agent=agent)
    else:
        sweep = Sweep(search, id="s", storage=storage, agent=agent, limits=limits)
    hooks = vars(agent)
    match crash:
        case "handed out":  # between the commit that hands out, and the order's delivery
            hooks["_prepare"] = die
        case "started":  # between the report of the start, and the program's start
            hooks["_launch"] = die
        case "launched":  # between the program's start, and the note of which process it is
            _programs.__dict__["Record"] = dying_after(Record, 3)
        case "ended":  # between the program's end, and the report of it
            hooks["_look"] = lambda child: die() if child.group.poll() else None
        case "stubborn, delivering":  # between the commit of a cancel, and the order to kill
            hooks["_end"] = die
    agent.drive(sweep)


if __name__ == "__main__":
    main(*sys.argv[1:])
