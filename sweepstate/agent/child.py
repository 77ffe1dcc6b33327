"""What a program says to the agent that started it, and asks of it; harmless when it is run by hand.

It needs neither a storage nor the rest of the package: standard modules only, so that
the file may be copied to where sweepstate is not installed.

    import signal

    from sweepstate.agent import child

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a stop sends it; here should_stop() below is what ends the program
    config = {"lr": 0.1, **child.config()}
    for epoch in range(50):
        child.report(loss=train_one_epoch(**config))
        if child.should_stop():
            break
    child.finish(loss=evaluate())

It speaks over a socket that the agent gives it, one JSON object a line, so a program in another
language can do the same: write ``{"report": {"loss": 0.1}}``, ``{"finish": {"loss": 0.1}}`` or
``{"preempting": true}`` to the descriptor that ``SWEEPSTATE_CHANNEL`` names, and read ``{"stop": true}``
from it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import stat
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, cast

#: Waiting for the agent to read what must not be lost takes no longer than this, in seconds.
_PATIENCE: Final = 5.0
#: So many bytes of what the agent says are kept until its line is whole.
_LONGEST_LINE: Final = 65_536


class _Channel:
    """This process's end of the socket."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pid = os.getpid()
        # Reentrant: the handler of a signal may speak while what it interrupted speaks.
        self._lock = threading.RLock()
        self._sending = False
        self._sure: list[bytes] = []
        self._metrics: bytes | None = None
        self._rest = b""
        self._heard = b""
        self._open = True
        self.stop = False

    @property
    def ours(self) -> bool:
        """Whether it can be used: a fork of this process has a copy of it, whose words would mix with ours."""
        return self._open and os.getpid() == self._pid

    def say(self, message: dict[str, Any], *, surely: bool) -> None:
        """Send a message: surely, or unless a newer one of its kind comes first."""
        if not self.ours:
            return
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            if surely:
                self._sure.append(line)
            else:
                self._metrics = line
        self.flush(_PATIENCE if surely else 0.0)

    def flush(self, patience: float) -> None:
        """Send what is to be sent, waiting no longer than ``patience`` seconds for the agent."""
        until = time.monotonic() + patience
        with self._lock:
            if self._sending:
                return  # a signal's handler: what it has interrupted goes on with what was added, or ``end`` does
            self._sending = True
            try:
                while self.ours and self._next():
                    self._send(until)
            except BlockingIOError:
                pass  # tried again with the next message, and in the end
            except OSError:
                self._open = False  # nobody listens any more
            finally:
                self._sending = False

    def end(self) -> None:
        """Send what is left, as this process ends."""
        with self._lock:
            # A handler that has raised between two lines of ``flush`` has kept it from saying that it is over.
            self._sending = False
        self.flush(_PATIENCE)

    def _next(self) -> bool:
        """Have something to send in ``_rest``, whole lines one after the other; what must not be lost comes first."""
        if not self._rest:
            if self._sure:
                self._rest = self._sure.pop(0)
            elif self._metrics is not None:
                self._rest, self._metrics = self._metrics, None
        return bool(self._rest)

    def _send(self, until: float) -> None:
        try:
            sent = os.write(self._descriptor, self._rest)
        except BlockingIOError:
            left = until - time.monotonic()
            if left <= 0:
                raise
            select.select([], [self._descriptor], [], left)
            return
        self._rest = self._rest[sent:]

    def listen(self) -> None:
        """Read what the agent has said, without waiting."""
        with self._lock:
            while self.ours and not self.stop:
                try:
                    read = os.read(self._descriptor, 4096)
                except BlockingIOError:
                    return
                except OSError:
                    read = b""
                if not read:
                    self._open = False
                    return
                *lines, self._heard = (self._heard + read).split(b"\n")
                self._heard = self._heard[-_LONGEST_LINE:]
                self.stop = any(_means_stop(line) for line in lines)


def _means_stop(line: bytes) -> bool:
    try:
        said: object = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and bool(cast("dict[str, object]", said).get("stop"))


def _connect() -> _Channel | None:
    """Take the socket that the agent gave to this process or to one that started it, if it is there."""
    # Taken away, so that no program started from here takes another descriptor of this number for it.
    given = os.environ.pop("SWEEPSTATE_CHANNEL", "")
    inode = os.environ.pop("SWEEPSTATE_CHANNEL_INODE", "")
    try:
        descriptor = int(given)
        found = os.fstat(descriptor)
    except (ValueError, OverflowError, OSError):
        return None
    # Whoever started this program may have closed it and opened something else, which must not be written to.
    if not stat.S_ISSOCK(found.st_mode) or str(found.st_ino) != inode:
        return None
    os.set_inheritable(descriptor, False)
    os.set_blocking(descriptor, False)
    channel = _Channel(descriptor)
    atexit.register(channel.end)
    return channel


_channel: Final = _connect()


def config() -> dict[str, Any]:
    """Return the configuration of this run; an empty one if nothing started this program as a run.

    Raises:
        OSError: it is too long for an environment, and the file that has it cannot be read.
    """
    path = os.environ.get("SWEEPSTATE_CONFIG_FILE")
    text = os.environ.get("SWEEPSTATE_CONFIG")
    if text is None and path:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib would be imported for this alone
            text = file.read()
    return cast("dict[str, Any]", json.loads(text)) if text else {}


def report(metrics: Mapping[str, float] | None = None, /, **named: float) -> None:
    """Report metrics on the way, for watching; never waits, and if the agent is slow, the newest win.

    Args:
        metrics: names and numbers.
        named: further ones, where the name is an identifier.

    Raises:
        TypeError: a value is not a number, also when run by hand.
    """
    _say("report", metrics, named, surely=False)


def finish(metrics: Mapping[str, float] | None = None, /, **named: float) -> None:
    """Say what the run ends with, which is what decides about the objective; the run ends when the program does.

    Args:
        metrics: names and numbers. Said again, they replace those said before.
        named: further ones, where the name is an identifier.

    Raises:
        TypeError: a value is not a number, also when run by hand.
    """
    _say("finish", metrics, named, surely=True)


def mark_preempting() -> None:
    """Say that the machine is about to be taken away: whatever ends the run now queues it again.

    Unless it ends with exit code 0, or was asked to stop.
    """
    if _channel is not None:
        _channel.say({"preempting": True}, surely=True)


def should_stop() -> bool:
    """Return whether the agent has asked this run to end.

    It sends SIGTERM too; so a program that would rather ask has a handler for that signal, or ignores it.
    """
    if _channel is None:
        return False
    with contextlib.suppress(OSError):
        _channel.listen()
    return _channel.stop


def _say(kind: str, metrics: Mapping[str, float] | None, named: dict[str, float], *, surely: bool) -> None:
    numbers = {str(name): _number(name, value) for name, value in {**(metrics or {}), **named}.items()}
    if _channel is not None:
        _channel.say({kind: numbers}, surely=surely)


def _number(name: str, value: object) -> float:
    """Return a number as a plain one; array scalars have ``item()``."""
    item = getattr(value, "item", None)
    plain: object = item() if callable(item) else value
    if isinstance(plain, bool) or not isinstance(plain, (int, float)):
        raise TypeError(f"{name} must be a number, not {plain!r}")
    return int(plain) if isinstance(plain, int) else float(plain)
