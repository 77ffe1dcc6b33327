"""Signals while a worker works or an agent drives: Ctrl-C in steps, and SIGTERM as the notice of a preemption."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

from ..core.status import Word

#: From this press of Ctrl-C on, KeyboardInterrupt is raised where the process is.
LEAVE_NOW: Final = 3
#: What a process exits with that SIGTERM has ended, as shells say it.
TERMINATED: Final = 128 + int(signal.SIGTERM)


class Notice(Word):
    """What a signal means."""

    FINISH = "finish the current run and leave"
    STOP = "ask the current run to stop"
    LEAVE = "leave now"
    PREEMPT = "the machine is about to be taken away"


class Interrupts:
    """Counts what a person, or a cluster, has signalled. A context: the handlers are restored when it is left.

    Python calls a handler between any two instructions of the main thread, also within a commit, or while a lock is
    held. So the handler only counts, tells by what may be called there (``SimpleQueue.put``, which its documentation
    calls reentrant), and raises; it neither logs nor reports.

    Args:
        tell: told of each notice, from inside the handler.
        sigint: whether to listen for Ctrl-C.
        sigterm: whether to listen for SIGTERM.
    """

    def __init__(self, tell: Callable[[Notice], None], *, sigint: bool, sigterm: bool) -> None:
        self._tell = tell
        self._wanted = [number for number, wanted in ((signal.SIGINT, sigint), (signal.SIGTERM, sigterm)) if wanted]
        self._before: dict[signal.Signals, Any] = {}
        self._pid = 0
        self._presses = 0
        self._executing = False
        #: Whether SIGTERM has come.
        self.preempted: bool = False

    @property
    def leaving(self) -> bool:
        """Whether nothing new is to be begun."""
        return self._presses > 0 or self.preempted

    def __enter__(self) -> Self:
        """Install the handlers, if this is the main thread: Python allows it nowhere else."""
        self._pid = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in self._wanted:
                before = signal.getsignal(number)
                # Ignored signals stay ignored (nohup, `&` in a script); what C has installed could not be restored.
                if before is not None and before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._on_signal)
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: object) -> None:
        """Restore the handlers, but for those that somebody else has replaced meanwhile."""
        for number, before in self._before.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, before)

    @contextmanager
    def executing(self) -> Generator[None]:
        """Say that the function is executing: SIGTERM leaves it by SystemExit, once.

        Raises:
            SystemExit: it has come already.
        """
        self._executing = True
        try:
            if self.preempted:
                raise SystemExit(TERMINATED)
            yield
        finally:
            self._executing = False

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            self._in_a_child(number)
        elif number == signal.SIGTERM:
            if not self.preempted:  # a second one must not tear the checkpoint that is being written
                self.preempted = True
                self._tell(Notice.PREEMPT)
                if self._executing:
                    raise SystemExit(TERMINATED)
        else:
            self._presses += 1
            self._tell({1: Notice.FINISH, 2: Notice.STOP}.get(self._presses, Notice.LEAVE))
            if self._presses >= LEAVE_NOW:
                raise KeyboardInterrupt

    def _in_a_child(self, number: int) -> None:
        """Handle a signal in a process that the training has forked, where no thread of the worker's exists.

        A terminal sends Ctrl-C to all of them. Loaders of data that died of the first one would take the current
        run with them, which is to be finished. SIGTERM is meant for the child alone, as ``Process.terminate`` sends it.
        """
        if number == signal.SIGTERM:
            signal.signal(number, self._before[signal.SIGTERM])
            os.kill(os.getpid(), number)
            return
        self._presses += 1
        if self._presses >= LEAVE_NOW:
            raise KeyboardInterrupt


@contextmanager
def heard(number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> Generator[None]:
    """Have a signal heard instead of raised, if this is the main thread; what is ignored stays ignored.

    Args:
        number: of the signal.
        handler: hears it meanwhile.
    """
    before = signal.getsignal(number)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield  # what is ignored, in the background of a script say, stays ignored
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
