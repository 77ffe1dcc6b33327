"""Waiting that a signal ends, at intervals that spread out, and patience with a storage that fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from ..core.errors import Conflict, StorageError

_T = TypeVar("_T")
_log: Final = logging.getLogger("sweepstate")
#: The first wait, in seconds; each further one is twice as long, up to a bound.
FIRST_WAIT: Final = 1.0


class Waits:
    """How long to wait: twice as long each time, up to a bound, and shortened at random by up to a half.

    So workers that were sent away at once do not come back at once ("equal jitter", AWS Architecture Blog,
    "Exponential Backoff And Jitter").

    Args:
        most: the bound, in seconds.
        random: returns a number from 0 to 1.
    """

    def __init__(self, most: float, random: Callable[[], float]) -> None:
        self._most = most
        self._random = random
        self._next = min(FIRST_WAIT, most)

    def reset(self) -> None:
        """Begin with short waits again."""
        self._next = min(FIRST_WAIT, self._most)

    def next(self) -> float:
        """Return how long to wait now, in seconds."""
        wait, self._next = self._next, min(2 * self._next, self._most)
        return wait * (1.0 + self._random()) / 2.0


class Bell:
    """What wakes a thread that waits: an event that may be set anywhere, also in the handler of a signal.

    ``threading.Event`` may not: its lock may be held by the very code that the handler has interrupted, for
    which it would wait for ever. ``SimpleQueue.put`` is made for that ("reentrant", says its documentation).
    """

    def __init__(self) -> None:
        self._rung: Final[SimpleQueue[None]] = SimpleQueue()

    def set(self) -> None:
        """Wake whoever waits, or is about to."""
        self._rung.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until it is set, or so long; then forget how often it was."""
        try:
            self._rung.get(timeout=min(max(0.0, seconds), threading.TIMEOUT_MAX))
            while True:
                self._rung.get_nowait()
        except Empty:
            pass


class Sleeper:
    """Waits, until the time is over or somebody wakes it, which may be a signal handler.

    Args:
        sleep: waits so many seconds; without one, it is a wait that can be woken.
    """

    def __init__(self, sleep: Callable[[float], object] | None) -> None:
        self._sleep = sleep
        self._alarm = Bell()

    def wake(self) -> None:
        """End the wait, or the next one."""
        self._alarm.set()

    def wait(self, seconds: float) -> None:
        """Wait so many seconds, or until somebody wakes it."""
        (self._alarm.wait if self._sleep is None else self._sleep)(seconds)


class Patience:
    """Asks a storage again until it answers, as long as its outage is not longer than that.

    Args:
        budget: for how many seconds it may fail in a row.
        waits: how long to wait in between.
        sleeper: how to wait.
        monotonic: returns seconds.
    """

    def __init__(self, budget: float, waits: Waits, sleeper: Sleeper, monotonic: Callable[[], float]) -> None:
        self._budget = budget
        self._waits = waits
        self._sleeper = sleeper
        self._monotonic = monotonic

    def call(self, what: str, action: Callable[[], _T], *, while_: Callable[[], bool] = lambda: True) -> _T:
        """Do something until it does not fail.

        Args:
            what: is being done, for the log and for what is raised.
            action: may be repeated without harm, also if it succeeded and its answer was lost.
            while_: asked after each failure whether it is still wanted.

        Raises:
            StorageError, Conflict: the last one, with a note, when the budget is used up or nobody wants it any more.
        """
        since: float | None = None
        while True:
            try:
                value = action()
            except (StorageError, Conflict) as error:
                now = self._monotonic()
                if since is None:
                    since = now
                    self._waits.reset()
                    _log.warning("the storage failed while %s, which is tried again: %s", what, error)
                left = since + self._budget - now
                if left <= 0 or not while_():
                    error.add_note(f"sweepstate gave up {what} after {now - since:.0f} s of failures")
                    raise
                self._sleeper.wait(min(self._waits.next(), left))
                if not while_():
                    raise
            else:
                if since is not None:
                    _log.warning("the storage answers again, after %.0f s: %s", self._monotonic() - since, what)
                return value
