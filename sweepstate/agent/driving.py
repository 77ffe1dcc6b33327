"""DrivenAgent: what agents have in common whose executions go on beside them. Here, at the edge, something waits.

A subclass says how an execution is prepared, launched, asked to end, ended and
looked after; this class does the rest, in one loop: orders, heartbeats, reports,
second starts, interrupts, outages of the storage, what an earlier orchestrator
of the same name has left behind, and what the subclass raises.

How orders are obeyed stands in ``_obeying``, and what is done for each execution in ``_tending``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Final

from ..core.errors import AgentError, Conflict, InvalidValue, StorageError, SweepNotFound
from ..core.values import check_seconds
from ._interrupts import counted
from ._obeying import NoRoom, Obeying, PreparedT, Trace
from ._tending import Execution, ExecutionT, Key, Report

if TYPE_CHECKING:
    from ..sweep import Sweep

__all__ = ["DrivenAgent", "Execution", "Key", "NoRoom", "Report", "Trace"]

_log: Final = logging.getLogger("sweepstate")
#: How often Ctrl-C means something more.
_PRESSES: Final = 3
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

    def drive(self, sweep: Sweep, *, signals: bool = True) -> bool:
        """Drive a sweep until it is done: tick, keep slots filled, look after executions. Blocks.

        A sweep that is paused is waited for. An outage of the storage is waited out, for ``patience`` seconds;
        meanwhile executions go on, and their ends are reported afterwards. If the sweep is deleted, what
        executes is ended.

        Args:
            sweep: one that this agent is attached to.
            signals: in the main thread, let Ctrl-C (SIGINT) mean: the first time, take no more runs, wait
                for those that execute, and return; the second time, ask them to stop; the third
                time, end them abruptly.

        Returns:
            Whether the sweep is done: False if it was interrupted, or deleted, before.

        Raises:
            InvalidValue: the sweep has another agent, or it is being driven in another thread.
            StorageError: the storage was away for too long. What executes goes on; call it again.
            SearchError: the search failed. What executes goes on; call it again.
        """
        if sweep.agent is not self:
            remedy = "give it this one: Sweep(..., agent=agent), or Sweep.open(..., agent=agent)"
            raise InvalidValue("sweep", f"{sweep!r} has another agent, or none", remedy)
        if not self._driving.acquire(blocking=False):
            raise InvalidValue("drive", "this agent is being driven already", "make an agent for each thread")
        try:
            self._leaving = False
            with self._listening(signals=signals):
                self._drive(sweep)
        finally:
            self._driving.release()
        return sweep.done

    def _drive(self, sweep: Sweep) -> None:
        away: float | None = None  # since when the storage has not answered
        self._unsettled = True
        self._tick_at = 0.0
        while True:
            try:
                self._obey_interrupts()
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
        try:
            tick = sweep.tick()
        except AgentError as error:
            # Committed, outstanding, and counted: a start that keeps failing ends its run as not launched.
            _log.warning("%s", error)
            return self._poll
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
        return not any(self._is_awaited(each) for each in executions) and (self._leaving or sweep.done)

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

    # --- interrupts -------------------------------------------------------------------------------

    @contextmanager
    def _listening(self, *, signals: bool) -> Generator[None]:
        """Count interrupts instead of raising them, in the main thread."""
        self._interrupts = self._obeyed = 0
        with counted(self._interrupted) if signals else nullcontext():
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
            self._obey(self._obeyed + 1)
            self._obeyed += 1  # not before: what the storage did not take is said again

    def _obey(self, which: int) -> None:
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
