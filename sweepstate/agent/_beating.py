"""Heartbeats: how often an agent beats; and, of a worker, what is done beside its function, in a thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

import attrs

from ..core.decide import Answer
from ..core.errors import Conflict, NotFound, StorageError
from ..core.limits import Limits
from ..core.values import show
from ._interrupts import Notice
from ._waiting import FIRST_WAIT

if TYPE_CHECKING:
    from ..run import Run
    from ..sweep import Sweep

_log: Final = logging.getLogger("sweepstate")
#: A heartbeat comes at least so often, in seconds, however long silence is allowed.
_MOST_BETWEEN_BEATS: Final = 30.0
#: So many heartbeats are due before silence is suspected.
_BEATS_IN_TIMEOUT: Final = 5
#: And at most so often, however short that is.
_LEAST_BETWEEN_BEATS: Final = 0.05
#: About so often, in seconds, one of all workers of a sweep ticks.
BETWEEN_TICKS: Final = 30.0
#: How long to wait for the thread to end, in seconds: it may hang in a storage, and then nobody needs it.
_FAREWELL: Final = 2.0


def between_beats(limits: Limits) -> float:
    """Return how many seconds to wait between two heartbeats, of whatever agent."""
    return max(_LEAST_BETWEEN_BEATS, min(limits.heartbeat_timeout / _BEATS_IN_TIMEOUT, _MOST_BETWEEN_BEATS))


@attrs.define(eq=False)
class InHand:
    """The run that is being executed, and what was said about it.

    Attributes:
        run: a handle of its own, so that what it shows is not mixed up with what the function's handle shows.
        beat_at: when to beat next, by the monotonic clock.
        stop: whether it is to be asked to stop, still.
        preempt: whether it is to be marked as preempting, still.
        answer: the last answer to a heartbeat.
    """

    run: Run
    beat_at: float
    stop: bool = False
    preempt: bool = False
    answer: Answer = Answer.CONTINUE

    def __str__(self) -> str:
        return f"{self.run.sweep_id}[{self.run.index}]"


class Pulse:
    """What is due beside the function: heartbeats, what a person has signalled, and a tick now and then.

    While workers wait, time passes by their asking: ``next_run`` does what is due. While all of them compute, nobody
    asks. So a worker ticks too, the less often the more executions the sweep has: all of them together about every
    30 s.

    Args:
        sweep: the sweep.
        actor: who asks a run to stop, for the history.
        monotonic: returns seconds.
        random: returns a number from 0 to 1.
    """

    def __init__(self, sweep: Sweep, actor: str, monotonic: Callable[[], float], random: Callable[[], float]) -> None:
        self._sweep = sweep
        self._actor = actor
        self._monotonic = monotonic
        self._random = random
        self._retry = FIRST_WAIT
        self._ill = False
        self._tick_at = monotonic() + self._until_tick()
        #: Replaced whole by the worker, and read once in each round: no lock is held while a storage is asked.
        self.in_hand: InHand | None = None

    def watch(self, run: Run) -> None:
        """Beat for a run from now on; the report of its start was the first sign of life."""
        self.in_hand = InHand(run, self._monotonic() + self._interval())

    def hear(self, notice: Notice) -> None:
        """Note what a signal means for the run in hand, and tell the person who sent it."""
        held = self.in_hand
        if notice is Notice.FINISH:
            what = "leaves" if held is None else f"finishes {held} and leaves; Ctrl-C again asks that run to stop"
            _log.warning("%s: %s", self._actor, what)
        elif notice is Notice.STOP:
            what = "leaves" if held is None else f"asks {held} to stop"
            _log.warning("%s: %s; Ctrl-C again leaves now", self._actor, what)
            if held is not None:
                held.stop = True
        elif notice is Notice.PREEMPT:
            _log.warning("%s: SIGTERM, so the machine is about to be taken away", self._actor)
            if held is not None:
                held.preempt = True
        else:
            _log.warning("%s: leaves now", self._actor)

    def act(self) -> float:
        """Do what is due; return after how many seconds to act again. Never raises."""
        held = self.in_hand
        if held is None:
            self._ill, self._retry = False, FIRST_WAIT
            return self._interval()  # whatever is taken on meanwhile is due after that
        try:
            self._attend(held)
        except NotFound:
            # The sweep was deleted: the function learns it when it looks, the worker when it reports.
            if self.in_hand is held:
                self.in_hand = None
            return self._interval()
        except Exception as error:
            # The storage failed, or a clock, or the storage is not right: whoever beats must not die of it.
            return self._failed(held, error)
        else:
            self._recovered()
        return max(0.0, min(held.beat_at, self._tick_at) - self._monotonic())

    def _attend(self, held: InHand) -> None:
        if held.stop:
            held.run.stop("Ctrl-C, twice", actor=self._actor)
            held.stop = False
        if held.preempt:
            held.run.mark_preempting()
            held.preempt = False
        now = self._monotonic()
        if now >= held.beat_at:
            answer = held.run.heartbeat()
            held.beat_at = now + self._interval()
            if answer is not held.answer and held is self.in_hand:
                held.answer = answer
                self._tell(held, answer)
        if now >= self._tick_at:
            self._tick_at = now + self._until_tick()
            self._sweep.tick()

    def _tell(self, held: InHand, answer: Answer) -> None:
        if answer is Answer.STOP:
            _log.info("%s was asked to stop", held)
        elif answer is Answer.KILL:
            _log.warning("%s was killed or handed on: what its function still does counts for nothing", held)

    def _failed(self, held: InHand, error: Exception) -> float:
        """Return after how many seconds to try again: soon, then more rarely. It is said once for each outage."""
        if not self._ill:
            trace = None if isinstance(error, (StorageError, Conflict)) else error
            _log.warning("a sign of life of %s failed, and is tried again: %s", held, show(error, 200), exc_info=trace)
        self._ill = True
        wait, self._retry = self._retry, 2 * self._retry
        return min(wait, self._interval())

    def _recovered(self) -> None:
        if self._ill:
            _log.warning("signs of life arrive again")
        self._ill, self._retry = False, FIRST_WAIT

    def _interval(self) -> float:
        """Return how long to wait between heartbeats, by the limits as they are now."""
        return between_beats(self._sweep.limits)

    def _until_tick(self) -> float:
        """Return how long to wait between ticks: on average, 30 s for each execution of the sweep."""
        return BETWEEN_TICKS * max(1, self._sweep.state.leased) * (0.5 + self._random())


class Beating:
    """The thread in which a pulse acts: one for a worker, a daemon.

    Args:
        pulse: what it does.
    """

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._inbox: SimpleQueue[Notice | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, notice: Notice) -> None:
        """Pass on what a signal means; may be called by its handler."""
        self._inbox.put(notice)

    def begin(self) -> None:
        """Begin, if it has not begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="sweepstate worker", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """End, when what it is doing is done; but do not wait for that for long."""
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join(_FAREWELL)

    def _beat(self) -> None:
        wait = self._pulse.act()
        while True:
            try:
                notice = self._inbox.get(timeout=wait)
            except Empty:
                pass
            else:
                if notice is None:
                    return
                self._pulse.hear(notice)
            wait = self._pulse.act()
