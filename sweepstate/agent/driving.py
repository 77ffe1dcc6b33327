"""DrivenAgent: what agents have in common whose executions go on beside them. Here, at the edge, something waits.

A subclass says how an execution is prepared, launched, asked to end, ended and
looked after; this class does the rest, in one loop: orders, heartbeats, reports,
second starts, interrupts, outages of the storage, what an earlier orchestrator
of the same name has left behind, and what the subclass raises.

How orders are obeyed stands in ``_obeying``, and what is done for each execution in ``_tending``.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import TYPE_CHECKING, Final

from ..core.errors import AgentError, Conflict, InvalidValue, SearchError, StorageError, SweepNotFound
from ..core.values import check_count, check_seconds
from ._interrupts import heard
from ._obeying import NoRoom, Obeying, PreparedT, Trace
from ._tending import OF_STORAGE, Execution, ExecutionT, Key, Report

if TYPE_CHECKING:
    from ..sweep import Sweep

__all__ = ["DrivenAgent", "Execution", "Key", "NoRoom", "Report", "Trace"]

_log: Final = logging.getLogger("sweepstate")
#: How often Ctrl-C means something more.
_PRESSES: Final = 3
#: Seconds in which what was ended is gone, if it can be ended at all.
_FAREWELL: Final = 10.0
#: Between two looks at a storage that does not answer, in seconds.
_LONGEST_PAUSE: Final = 30.0


class DrivenAgent(Obeying[PreparedT, ExecutionT]):
    """An agent whose executions go on beside it; see the module.

    Attributes:
        name: stable over restarts; orders are addressed to it.
        can_kill: whether ``kill`` really ends an execution.

    Args:
        name: its name.
        poll: seconds between two looks at what others have done to the sweep.
        patience: seconds for which the storage may be away before ``drive`` gives up.

    Raises:
        InvalidValue: the name is no text, or too long, or a number is out of its range.
    """

    can_kill: bool = True

    def __init__(self, name: str, *, poll: float = 1.0, patience: float = 600.0) -> None:
        super().__init__(name)
        self._poll: Final = check_seconds(poll, "poll", zero=False)
        self._patience: Final = check_seconds(patience, "patience")
        self._driving: Final = threading.Lock()
        self._interrupts = 0
        self._obeyed = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {len(self._executions)} executing>"

    # --- what a subclass says ----------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Wait until something happens, or so long."""
        self._wake.wait(seconds)

    # --- driving ----------------------------------------------------------------------------------

    def drive(self, sweep: Sweep, *, signals: bool = True, count: int | None = None) -> bool:
        """Drive a sweep until it is done: tick, keep slots filled, look after executions. Blocks.

        A sweep that is paused is waited for. An outage of the storage is waited out, for ``patience`` seconds;
        meanwhile executions go on, and their ends are reported afterwards. If the sweep is deleted, what
        executes is ended. For an error that every further run would have, no more runs are begun, what executes is
        looked after until it has ended, and then it is raised.

        Args:
            sweep: one that this agent is attached to.
            signals: in the main thread, let Ctrl-C (SIGINT) mean: the first time, take no more runs, wait
                for those that execute, and return; the second time, ask them to stop; the third
                time, end them abruptly.
            count: how many runs to execute at most, from 1; any number, if it is not given. One that is tried again
                counts again. It returns when these have ended.

        Returns:
            Whether the sweep is done: not if it was interrupted, preempted or deleted, or ``count`` runs have ended,
            before. ``begun`` says how many runs were begun.

        Raises:
            InvalidValue: the sweep has another agent, or it is being driven in another thread, or the count is none. Or
                an execution returned a number, and the sweep has no objective to name it; nothing executes any more.
            SearchError: the search failed; nothing executes any more.
            StorageError: the storage was away for too long. What executes goes on, without heartbeats: call it again,
                or ``terminate``. The same holds for whatever else is raised.
        """
        most = None if count is None else check_count(count, "count", least=1)
        if sweep.agent is not self:
            remedy = "give it this one: Sweep(..., agent=agent), or Sweep.open(..., agent=agent)"
            raise InvalidValue("sweep", f"{sweep!r} has another agent, or none", remedy)
        with self._alone("drive"):
            self._leaving, self._failure = False, None
            self._begun, self._most = 0, most
            with self._listening(signals=signals):
                self._drive(sweep)
            if self._failure is not None:
                raise self._failure
        return sweep.done

    @contextmanager
    def _alone(self, what: str) -> Generator[None]:
        if not self._driving.acquire(blocking=False):
            raise InvalidValue(what, "this agent is being driven already", "make an agent for each thread")
        try:
            yield
        finally:
            self._driving.release()

    def _drive(self, sweep: Sweep) -> None:
        away: float | None = None  # since when the storage has not answered
        self._unsettled = True
        self._tick_at = 0.0
        while True:
            try:
                self._obey_interrupts()
                self._obey_preemption()
                if self._unsettled:
                    self._unsettled = False
                    self._recover(sweep)
                self._look_after_all()
                if self._now() >= self._tick_at:
                    self._tick_at = self._now() + self._tick(sweep)
                if self._is_over(sweep):
                    return
                away = None
                pause = self._until_due()
            except SweepNotFound as error:
                if self._forget(error.sweep_id) and error.sweep_id == sweep.id:
                    return
                pause = self._poll
            except (StorageError, Conflict, OSError) as error:
                now = self._now()
                away = now if away is None else away
                if now - away > self._patience:
                    raise
                _log.warning("agent %r: trying again: %s", self.name, error)
                self._unsettled = True
                self._tick_at = 0.0
                pause = max(self._poll, min(_LONGEST_PAUSE, (now - away) / 4))
            if pause > 0:
                self._wait(pause)

    def _tick(self, sweep: Sweep) -> float:
        """Let time act, deliver orders, and have slots filled; return after how many seconds to do so again."""
        self._full = False
        try:
            tick = sweep.tick()
        except AgentError as error:
            # Committed, outstanding, and counted: a start that keeps failing ends its run as not launched.
            _log.warning("%s", error)
            return self._poll
        except SearchError as error:
            self._give_up(error)
            return 0.0  # what else is due was not done, and is without asking the search again
        return 0.0 if tick.more else self._poll

    def _until_due(self) -> float:
        """Return for how many seconds nothing is to be done: until the next tick, or the next heartbeat."""
        due = [each.beat_at for each in list(self._executions.values()) if self._is_beating(each)]
        return max(0.0, min([self._tick_at, *due]) - self._now())

    def _is_over(self, sweep: Sweep) -> bool:
        with self._lock:
            if any(key[0] == sweep.id for key in self._launching):
                return False
            executions = [execution for key, execution in self._executions.items() if key[0] == sweep.id]
        return not any(self._is_awaited(each) for each in executions) and (self._is_going() or sweep.done)

    def _is_awaited(self, execution: ExecutionT) -> bool:
        """Return whether the end of an execution is waited for.

        Not of one that cannot be looked at, once it is given up as lost: nobody can say whether it ever ends. Nor, of
        these, for whoever has pressed Ctrl-C three times.
        """
        if not execution.unseen:
            return True
        lease = execution.run.refresh().state.lease
        held = lease is not None and lease.attempt == execution.run.attempt and not lease.lost
        return held and self._obeyed < _PRESSES

    # --- leaving ----------------------------------------------------------------------------------

    def terminate(self, *, signals: bool = True) -> bool:
        """Ask what executes to end, and end what has not after its grace; the storage need not answer. Blocks.

        For whoever leaves for good after ``drive`` has raised: what executes then has nobody who looks after it. Its
        grace is ``limits.stop_grace`` of its sweep. An agent that cannot end an execution waits for it that long, and
        10 seconds more.

        Args:
            signals: in the main thread, let Ctrl-C (SIGINT) mean that the grace is over.

        Returns:
            Whether nothing executes any more, as far as that can be seen.

        Raises:
            InvalidValue: it is being driven in another thread.

        Afterwards:
            No more runs are begun. How executions have ended is reported, if the storage takes it: an exit as what it
            is, and what was ended as gone, thus CRASHED. What it does not take is reported if this agent is
            driven again; else it is found by the next agent of its name, or lost to silence.
        """
        with self._alone("terminate"), self._listening(signals=signals):
            self._leaving = True
            if self._executions:
                _log.warning("agent %r: what executes is asked to end: %d", self.name, len(self._executions))
            self._end_all()
            self._report_once()
        executions = list(self._executions.values())
        return not self._launching and all(each.report is not None for each in executions)

    def _end_all(self) -> None:
        """Ask all executions to end, and end them; return when they are gone, or it makes no sense to wait."""
        over_at = self._now()  # when no grace is left
        while (executions := self._not_seen_gone()) or self._launching:  # another thread may be about to begin one
            for execution in executions:
                with suppress(*OF_STORAGE):
                    self._hasten(execution)
                    if self._interrupts:
                        self._try_to_end(execution)
            if self._interrupts:
                over_at = min(over_at, self._now())
            else:
                over_at = max([over_at, *map(self._overdue_at, executions)])
            if self._now() >= over_at + _FAREWELL:
                return
            self._wait(self._poll)

    def _not_seen_gone(self) -> list[ExecutionT]:
        with suppress(OSError):
            self._hear()
        executions = list(self._executions.values())
        for execution in executions:
            with suppress(*OF_STORAGE):  # to which it has something to report on the way
                self._look_at(execution)
        return [each for each in executions if each.report is None]

    def _report_once(self) -> None:
        """Report what has ended; if that fails for one, the others are not tried: each could take as long."""
        for key, execution in list(self._executions.items()):
            if execution.report is not None:
                try:
                    self._conclude(key, execution)
                except Exception as error:  # whatever it is, the agent is leaving
                    _log.warning("agent %r: the end of %r could not be reported: %s", self.name, execution.run, error)
                    return

    # --- preemption -------------------------------------------------------------------------------

    def preempt(self) -> None:
        """Note that this machine is about to be taken away. Any thread may call this, and the handler of a signal.

        From then on this agent begins no runs. ``drive`` marks those that execute as preempting, asks them to end,
        ends them after ``limits.stop_grace``, and returns. They are queued again, but for those that exit with 0. What
        can be neither asked nor ended, such as a function in a thread, is waited for.

        Example:
            >>> import signal
            >>> from sweepstate import SubprocessAgent
            >>> agent = SubprocessAgent(["python", "train.py"])
            >>> before = signal.signal(signal.SIGTERM, lambda *_: agent.preempt())
            >>> _ = signal.signal(signal.SIGTERM, before)
        """
        self._preempted = True
        self._wake.set()

    @property
    def preempted(self) -> bool:
        """Whether ``preempt`` was called."""
        return self._preempted

    def _obey_preemption(self) -> None:
        """Mark what executes as preempting, so that it is queued again, and have it end while there is time."""
        if not self._preempted:
            return
        executions = [each for each in list(self._executions.values()) if each.report is None]
        if not self._leaving:
            text = "agent %r: its machine is about to be taken away; what executes is asked to end: %d"
            _log.warning(text, self.name, len(executions))
            self._leaving = True
        for execution in executions:  # first what needs no storage
            self._hasten(execution)
        for execution in executions:
            self._mark_preempting(execution)

    # --- interrupts -------------------------------------------------------------------------------

    @contextmanager
    def _listening(self, *, signals: bool) -> Generator[None]:
        """Count interrupts instead of raising them, in the main thread."""
        self._interrupts = self._obeyed = 0
        with heard(signal.SIGINT, self._interrupted) if signals else nullcontext():
            yield

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        # Only noted: a handler that called the storage might wait for the very thread that it interrupted.
        self._interrupts += 1
        self._wake.set()

    def _obey_interrupts(self) -> None:
        """Take no more runs; then ask what executes to stop; then end it."""
        presses = min(self._interrupts, _PRESSES)
        if presses > max(self._obeyed, 1):
            for execution in list(self._executions.values()):  # first what needs no storage
                if presses == 2:
                    self._try_to_ask(execution)
                else:
                    self._try_to_end(execution)
        while self._obeyed < presses:
            self._obey_press(self._obeyed + 1)
            self._obeyed += 1  # not before: what the storage did not take is said again

    def _obey_press(self, which: int) -> None:
        executions = list(self._executions.values())
        if which == 1:
            text = "agent %r: no more runs are begun, executing still: %d; Ctrl-C again asks these to stop"
            _log.warning(text, self.name, len(executions))
            self._leaving = True
        elif which == 2:
            text = "agent %r: what executes is asked to stop: %d; Ctrl-C again ends it"
            _log.warning(text, self.name, len(executions))
            for execution in executions:
                execution.run.stop("interrupted", actor=self.name)
        else:
            _log.warning("agent %r: what executes is ended: %d", self.name, len(executions))
            for execution in executions:
                execution.run.kill("interrupted", actor=self.name)
