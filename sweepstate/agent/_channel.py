"""The agent's end of the socket over which a program reports: one JSON object a line, of which nothing is trusted."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from threading import Lock
from typing import Any, Final, cast

from ..core.errors import InvalidValue
from ..core.values import FrozenDict, freeze_metrics

#: A line of more bytes is dropped, whatever it says.
LONGEST_LINE: Final = 256 * 1024
#: So many bytes are read by one call, so many each time that somebody looks, and so many when the program has ended.
_PIECE: Final = 64 * 1024
_MOST_AT_ONCE: Final = 1024 * 1024
_MOST_IN_THE_END: Final = 16 * 1024 * 1024


class Channel:
    """What a program has said, in bounded memory: the newest metrics, those that it ends with, and a mark.

    Attributes:
        finished: what it said that it ends with.
        preempting: whether it said that its machine is being taken away.
    """

    def __init__(self) -> None:
        self._socket, self._theirs = socket.socketpair()
        self._socket.setblocking(False)
        self._lock: Final = Lock()
        self._line = bytearray()
        self._skipping = False
        self._newest: FrozenDict | None = None
        self.finished: FrozenDict | None = None
        self.preempting: bool = False

    # --- its ends ---------------------------------------------------------------------------------

    @property
    def descriptor(self) -> int:
        """Our end, to be watched."""
        return self._socket.fileno()

    @property
    def theirs(self) -> int:
        """The program's end."""
        return self._theirs.fileno()

    def variables(self) -> dict[str, str]:
        """Return how the program finds its end, and knows it from any other file that may have its number."""
        return {"SWEEPSTATE_CHANNEL": str(self.theirs), "SWEEPSTATE_CHANNEL_INODE": str(os.fstat(self.theirs).st_ino)}

    def handed_over(self) -> None:
        """Close the program's end here: it has it now."""
        self._theirs.close()

    def close(self) -> None:
        """Close both ends."""
        with self._lock:
            self._theirs.close()
            self._socket.close()

    # --- hearing ----------------------------------------------------------------------------------

    def hear(self, *, in_the_end: bool = False) -> bool:
        """Read what was said, without waiting; return whether more may come.

        Args:
            in_the_end: the program has ended, so all that is there is read; a process of its own that it has
                left somewhere may go on talking, so this is bounded as well.
        """
        left = _MOST_IN_THE_END if in_the_end else _MOST_AT_ONCE
        with self._lock:
            while left > 0:
                try:
                    piece = self._socket.recv(_PIECE)
                except BlockingIOError:
                    return True
                except OSError:  # closed, or reset
                    return False
                if not piece:
                    return False
                left -= len(piece)
                self._feed(piece)
        return True

    def _feed(self, piece: bytes) -> None:
        *lines, rest = piece.split(b"\n")
        for line in lines:
            self._add(line)
            if not self._skipping:
                self._understand(bytes(self._line))
            self._line.clear()
            self._skipping = False
        self._add(rest)

    def _add(self, piece: bytes) -> None:
        if len(self._line) + len(piece) > LONGEST_LINE:
            self._skipping = True
            self._line.clear()
        elif not self._skipping:
            self._line += piece

    def _understand(self, line: bytes) -> None:
        """Take in what a line says; whatever else it is is no message."""
        try:
            said: object = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(said, dict):
            return
        message = cast("dict[str, Any]", said)
        with contextlib.suppress(InvalidValue):
            if "report" in message:
                self._newest = freeze_metrics(message["report"])
            if "finish" in message:
                self.finished = freeze_metrics(message["finish"])
        if message.get("preempting") is True:
            self.preempting = True

    def take_newest(self) -> FrozenDict | None:
        """Return metrics that were reported since this was asked last: the newest, or None."""
        with self._lock:
            newest, self._newest = self._newest, None
            return newest

    def keep_newest(self, metrics: FrozenDict) -> None:
        """Take back metrics that could not be passed on, unless newer ones have come."""
        with self._lock:
            self._newest = metrics if self._newest is None else self._newest

    # --- saying -----------------------------------------------------------------------------------

    def ask_to_stop(self) -> None:
        """Tell the program to end, if it listens; never waits."""
        with contextlib.suppress(OSError):
            self._socket.send(b'{"stop": true}\n')
