"""The commands: each opens the storage, does one thing with the library, and says what came of it."""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import sleep
from typing import Final

from ..agent._interrupts import TERMINATED, heard
from ..agent.slots import Slots
from ..core.errors import InvalidValue
from ..core.events import BacklogAdded, Event, RunEnded, SweepStatusChanged
from ..handles.checks import check_id
from ..sweep import Sweep
from .look import Look, look_at, plain_look, plain_sweep, sweeps_of
from .places import UsageError, open_storage
from .text import as_json, printable

#: What ``sleep`` takes on every platform, in seconds.
_LONGEST_WAIT: Final = 1e6


def say(line: str) -> None:
    """Write a line to standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


# --- sweep ----------------------------------------------------------------------------------------


def sweep(arguments: Namespace) -> None:
    """Pause, resume, stop, cancel or reopen a sweep."""
    if arguments.retry and arguments.verb != "reopen":
        raise UsageError("--retry goes with --reopen")
    with open_storage(arguments.storage) as storage:
        handle = Sweep.open(arguments.id, storage=storage)
        command = getattr(handle, arguments.verb)
        if arguments.retry:
            command = partial(command, retry=arguments.retry)
        say(outcome(handle, command(arguments.reason, actor=arguments.actor)))


def outcome(handle: Sweep, events: Sequence[Event]) -> str:
    """Return in one line what a command has brought about."""
    state = handle.state
    name = repr(printable(handle.id))
    if not events:
        return f"nothing changed: sweep {name} is {state.status} already"
    moves = [event for event in events if isinstance(event, SweepStatusChanged)]
    # What follows the first move in the same commit was not asked for, and says why.
    path = [move.status.value if n == 0 else f"then {move.status} ({move.reason})" for n, move in enumerate(moves)]
    parts = [f"sweep {name} is {', '.join(path) or state.status}"]
    if ended := sum(isinstance(event, RunEnded) for event in events):
        parts.append(f"{_runs(ended)} killed")
    for wish in events:
        if isinstance(wish, BacklogAdded):
            kinds = [*(status.value for status in wish.statuses), *(["withdrawn"] if wish.withdrawn else [])]
            parts.append(f"to be taken up again: {', '.join(kinds)} runs")
    if state.leased:
        parts.append(f"agents hold {_runs(state.leased)}")
    return printable("; ".join(parts))


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"


# --- list, status ---------------------------------------------------------------------------------


def list_(arguments: Namespace) -> None:
    """List the sweeps of a storage."""
    with open_storage(arguments.storage) as storage:
        if arguments.json:
            for state in sweeps_of(storage):
                say(as_json(plain_sweep(state)))
        else:
            from .tables import console, write_list  # noqa: PLC0415 - rich is slow to import, and JSON needs none

            write_list(console(), sweeps_of(storage))


def status(arguments: Namespace) -> None:
    """Show a sweep, once or until it is done."""
    with open_storage(arguments.storage) as storage:
        look = partial(look_at, storage, check_id(arguments.id), arguments.rows)
        if arguments.json:
            watch(look, lambda seen: say(as_json(plain_look(seen))), arguments.watch, sleep)
        else:
            _show(look, arguments.watch)


def _show(look: Callable[[], Look], seconds: float | None) -> None:
    from .tables import console, live, status_view, write  # noqa: PLC0415

    screen = console()
    if seconds is None or not screen.is_terminal or screen.is_dumb_terminal:
        watch(look, lambda seen: write(screen, status_view(seen)), seconds, sleep)
        return
    with live(screen) as view:
        watch(look, lambda seen: view.update(status_view(seen), refresh=True), seconds, sleep)


def watch(
    look: Callable[[], Look], show: Callable[[Look], object], seconds: float | None, wait: Callable[[float], object]
) -> None:
    """Show a sweep again and again, until it is done.

    Args:
        look: looks at it.
        show: shows what was seen.
        seconds: to wait in between; None to show it once.
        wait: waits for some seconds.
    """
    while True:
        seen = look()
        show(seen)
        if seconds is None or seen.sweep.done:
            return
        wait(min(seconds, _LONGEST_WAIT))


# --- agent ----------------------------------------------------------------------------------------


def agent(arguments: Namespace) -> None:
    """Execute a sweep's runs as processes of a command, until it is done."""
    if not arguments.command:
        raise UsageError("no command: write it behind --, as in: sweepstate agent ID -- python train.py")
    slots = _slots(arguments.slots, arguments.slots_per_run)
    with open_storage(arguments.storage) as storage:
        _bound(Sweep.open(arguments.id, storage=storage), arguments.max_active, slots)
        from ..agent.subprocess import SubprocessAgent  # noqa: PLC0415 - only this command needs what it imports

        workdir = _made(arguments.workdir)
        driven = SubprocessAgent(arguments.command, name=arguments.name, workdir=workdir, slots=slots)
        with heard(signal.SIGTERM, lambda _number, _frame: driven.preempt()):
            try:
                handle = Sweep.open(arguments.id, storage=storage, agent=driven)
                driven.drive(handle, count=arguments.count)
            except BaseException:
                driven.terminate()  # or what executes would have nobody who looks after it
                raise
        state = handle.refresh().state
        counts = [f"{count:,} {status.lower()}" for status, count in state.counts.items() if count]
        say(printable(f"sweep {handle.id!r} is {state.status}: {', '.join([_runs(state.created), *counts])}"))
        if driven.preempted and not state.done:
            raise SystemExit(TERMINATED)
        if not state.done and (arguments.count is None or driven.begun < arguments.count):
            # The agent has met Ctrl-C itself, and gone when its runs had ended; whoever called is to know of it.
            raise KeyboardInterrupt


def _slots(names: Sequence[str] | None, per_run: int | None) -> Slots | None:
    """Return the pool of slots that was asked for."""
    if names is None:
        if per_run is not None:
            raise UsageError("--slots-per-run goes with --slots")
        return None
    try:
        return Slots(names, per_run=1 if per_run is None else per_run)
    except InvalidValue as error:
        raise UsageError(f"{'--slots-per-run' if error.field == 'per_run' else '--slots'}: {error.problem}") from None


def _bound(handle: Sweep, most: int | None, slots: Slots | None) -> None:
    """Set how many runs may execute at once; refuse a sweep if nothing says so.

    By a handle without an agent: one that has it may begin runs with any commit, before they are looked after.
    """
    if most is not None:
        handle.set_limits(max_active=most)
    elif handle.limits.max_active is None and slots is None:
        raise UsageError(
            f"sweep {printable(handle.id)!r} does not say how many of its runs may execute at once: "
            "give --max-active N, which is kept with the sweep, or --slots"
        )


def _made(workdir: str) -> Path:
    """Return a directory, made if it is not there: where it cannot be, each run would fail for it."""
    path = Path(workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"--workdir: it cannot be used: {error}") from None
    return path
