"""What an agent under test executes: it does what its configuration says, and writes down what happens to it.

The contract of an agent asks for executions that end well, fail, die, go on until they are asked to
end, or whatever they are asked. Which of these one is stands in its configuration, so an
agent is made once, to execute ``execute`` (it is given the run), ``execute_config`` (it is given
the configuration), or a program that calls ``perform``::

    from sweepstate.agent import child
    from sweepstate.testing.executions import perform, signalled

    asked = signalled()
    child.finish(perform(child.config(), lambda: asked() or child.should_stop()))

The contract learns from the notes in a file which executions there were, and whether they still are.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from ..core.status import RunStatus

if TYPE_CHECKING:
    from ..run import Run

#: Seconds after which an execution that nobody ended ends by itself, so that a test that was killed leaves none.
_LIFETIME: Final = 300.0
_STEP: Final = 0.01
_NOTES: Final = "notes"
_GO: Final = "go"
#: What a failure says.
FAILURE: Final = "this execution fails on purpose"


def execute(run: Run) -> Mapping[str, Any]:
    """Do what a run's configuration says; for agents whose executions have the run's handle."""
    return perform(run.config, partial(_asked, run))


def execute_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Do what a configuration says; for agents whose executions are given no more, and cannot be asked to end."""
    return perform(config)


class UnwantedError(Exception):
    """Raised in an execution that sees that its run was killed: nobody has asked it, and nobody waits for it."""


def _asked(run: Run) -> bool:
    """Return whether a run was asked to end."""
    if not run.should_stop:
        return False
    if run.status is not RunStatus.RUNNING:
        raise UnwantedError(f"{run!r} was killed")
    return True


def signalled(number: int = signal.SIGTERM) -> Callable[[], bool]:
    """Note a signal from now on, instead of dying of it; return what tells whether it has come."""
    seen: list[int] = []

    def note(received: int, _frame: object) -> None:
        seen.append(received)

    signal.signal(number, note)
    return lambda: bool(seen)


def die() -> None:
    """Die by a signal that nobody sent on purpose."""
    os.kill(os.getpid(), signal.SIGKILL)


def perform(
    config: Mapping[str, Any],
    asked: Callable[[], bool] = lambda: False,
    *,
    pause: Callable[[float], object] = time.sleep,
    die: Callable[[], object] = die,
) -> dict[str, Any]:
    """Do what a configuration says.

    Args:
        config: ``x``, which one it is; ``do``, what it does; ``place``, where it leaves its notes.
        asked: tells whether it was asked to end.
        pause: waits for so many seconds.
        die: ends this execution as by a signal.

    Returns:
        Its metrics; what it ended with, if it was asked to end.
    """
    me = _Diary(Path(config["place"]), config["x"])
    me.note("began")
    try:
        match config["do"]:
            case "fail":
                raise RuntimeError(FAILURE)
            case "crash":
                die()
            case "nonsense":
                return {"score": "high"}
            case "wait" | "ignore":
                me.wait(lambda: False, pause)
            case "obey":
                if me.wait(asked, pause):
                    me.note("asked")
            case _:
                pass
        return {"score": score(config["x"])}
    finally:
        me.note("ended")


def score(x: int) -> float:
    """Return the metric that an execution ends with."""
    return x + 0.5


@attrs.frozen
class Note:
    """One line of the notes.

    Attributes:
        x: which configuration.
        execution: which execution of it.
        process: in which process.
        what: ``began``, ``asked`` or ``ended``.
    """

    x: int
    execution: str
    process: int
    what: str


@attrs.frozen
class _Diary:
    place: Path
    x: int
    execution: str = attrs.field(factory=lambda: secrets.token_hex(8))

    def note(self, what: str) -> None:
        line = json.dumps([self.x, self.execution, os.getpid(), what]) + "\n"
        file = os.open(self.place / _NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode())  # at once, so that no other's line comes in between
        finally:
            os.close(file)

    def wait(self, asked: Callable[[], bool], pause: Callable[[float], object]) -> bool:
        """Wait until it is let go, or asked to end; return whether it was asked."""
        end = time.monotonic() + _LIFETIME
        gates = [self.place / _GO, self.place / f"{_GO}.{self.x}"]
        while time.monotonic() < end and not any(gate.exists() for gate in gates):
            if asked():
                return True
            pause(_STEP)
        return False


def let_go(place: Path, x: int | None = None) -> None:
    """Let those end that wait, or one of them.

    Args:
        place: where they have their notes.
        x: which one; all of them, if it is not given.
    """
    (place / (_GO if x is None else f"{_GO}.{x}")).touch()


def notes(place: Path) -> list[Note]:
    """Return what executions have written down so far, in order."""
    try:
        lines = (place / _NOTES).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [Note(*cast("tuple[int, str, int, str]", tuple(json.loads(line)))) for line in lines]


def executing(place: Path) -> list[Note]:
    """Return how those began that execute now: they have not written of their end, and their process is there."""
    seen = notes(place)
    ended = {note.execution for note in seen if note.what == "ended"}
    return [note for note in seen if note.what == "began" and note.execution not in ended and _lives(note.process)]


def _lives(process: int) -> bool:
    """Return whether a process is there, and is no zombie, which only waits for its parent."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        if Path("/proc/self/stat").exists():
            return False
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True
