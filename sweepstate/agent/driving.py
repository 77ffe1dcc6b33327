"""DrivenAgent: what agents have in common whose executions go on beside them. Here, at the edge, something waits.

A subclass says how an execution is prepared, launched, asked to end, ended and
looked after; this class does the rest, in one loop: orders, heartbeats, reports,
second starts, interrupts, outages of the storage, what an earlier orchestrator
of the same name has left behind, and what the subclass raises (see ``_tending``).

The order in which a start happens is what keeps two executions of one attempt
from counting: *prepare* (whatever may fail, fails here, and the order stays
outstanding), *report the start* (which is refused if somebody else began),
and only then *launch*.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from abc import abstractmethod
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from enum import Enum
from types import FrameType
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from ..core.errors import (
    AgentError,
    AlreadyStarted,
    Conflict,
    IllegalTransition,
    InvalidValue,
    StorageError,
    SweepNotFound,
)
from ..core.questions import Leased
from ..core.state import RunState
from ..core.values import check_seconds
from ..handles.reports import make_token
from ..hooks import Kill, Start, Stop
from ._interrupts import counted
from ._tending import OF_STORAGE, Execution, ExecutionT, Key, Report, Tending

if TYPE_CHECKING:
    from ..run import Run
    from ..sweep import Sweep

__all__ = ["DrivenAgent", "Execution", "Key", "NoRoom", "Report", "Trace"]

_log: Final = logging.getLogger("sweepstate")
_PAGE: Final = 256
#: How often Ctrl-C means something more.
_PRESSES: Final = 3
#: Between two looks at a storage that does not answer, in seconds.
_LONGEST_PAUSE: Final = 30.0


class Trace(Enum):
    """What is found of an execution that this agent does not know.

    Attributes:
        GONE: nothing of it executes any more.
        UNKNOWN: nobody can say; it is left alone.
    """

    GONE = "gone"
    UNKNOWN = "unknown"


PreparedT = TypeVar("PreparedT")


class NoRoom(Exception):
    """A run cannot be begun now, through no fault of its own: another one has taken the room that there was."""


class DrivenAgent(Tending[ExecutionT], Generic[PreparedT, ExecutionT]):
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
        self._leaving = False
        self._poll: Final = check_seconds(poll, "poll", zero=False)
        self._patience: Final = check_seconds(patience, "patience")
        # Attempts that a thread is about to begin, or looks for: neither ours yet nor left behind by anybody.
        self._launching: Final[set[Key]] = set()
        # Executions that may have begun and that nobody executes, until that is reported; with what a launch raised.
        self._unbegun: Final[dict[str, BaseException | None]] = {}
        # Attempts for which looking has raised: that is said once.
        self._unfound: Final[set[Key]] = set()
        self._driving: Final = threading.Lock()
        self._interrupts = 0
        self._obeyed = 0
        # Whether it is not known of every begun attempt of ours who executes it.
        self._unsettled = True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {len(self._executions)} executing>"

    @property
    def accepting(self) -> bool:
        """Whether it wants more runs: not from the first interrupt of ``drive`` until it is driven again."""
        return not self._leaving and self._has_room()

    # --- what a subclass says ----------------------------------------------------------------------

    @abstractmethod
    def _prepare(self, run: Run) -> PreparedT:
        """Get ready for a run; nothing is begun yet.

        What this raises counts as a launch that failed; ``NoRoom`` gives the run back, and counts as nothing.
        """

    def _discard(self, prepared: PreparedT) -> None:
        """Undo ``_prepare``: the run is not begun after all."""

    @abstractmethod
    def _launch(self, run: Run, prepared: PreparedT) -> ExecutionT:
        """Begin executing; the start is reported already. What this raises fails the run."""

    def _find(self, _run: Run) -> ExecutionT | Trace:
        """Look for an execution that an earlier orchestrator began; return it to go on with it, or what is known."""
        return Trace.UNKNOWN

    def _wait(self, seconds: float) -> None:
        """Wait until something happens, or so long."""
        self._wake.wait(seconds)

    def _execution_name(self) -> str:
        """Return what names one more execution of this process, and no other ever."""
        return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}"

    # --- orders -----------------------------------------------------------------------------------

    def start(self, order: Start) -> None:
        """Begin executing a run, unless it was begun; see ``Agent.start``."""
        key = _key_of(order.run)
        with self._claimed(key) as ours:
            if ours:
                self._start(key, order.run)

    @contextmanager
    def _claimed(self, key: Key) -> Generator[bool]:
        """Tell whether an attempt is at nobody's hands here; if so, it is at this thread's until this is left.

        Orders are delivered in any thread that commits, so two may come to the same attempt at once. Whoever comes
        second leaves it alone: what is ordered is ordered again.
        """
        with self._lock:
            ours = key not in self._executions and key not in self._launching
            if ours:
                self._launching.add(key)
        try:
            yield ours
        finally:
            if ours:
                with self._lock:
                    self._launching.discard(key)

    def _start(self, key: Key, run: Run) -> None:
        if not self.accepting:
            _give_back(run)
            return
        try:
            prepared = self._prepare(run)
        except NoRoom:
            _give_back(run)
            return
        name = self._execution_name()
        try:
            begun = run.start(name, heartbeats=True)
        except AlreadyStarted:
            begun = ()
        except IllegalTransition:
            self._discard(prepared)
            run.gone()  # killed or handed on since it was ordered: nothing executes
            return
        except StorageError as error:
            # It may have begun, and is launched by nobody. If it has not, its order is outstanding still: that the
            # storage does not answer is no launch that failed.
            _log.warning("agent %r: the start of %r could not be reported: %s", self.name, run, error)
            self._unbegun[name] = None
            self._unsettled = True
            begun = ()
        except BaseException:
            self._unbegun[name] = None
            self._unsettled = True
            self._discard(prepared)
            raise
        if not begun:
            self._discard(prepared)
            return
        try:
            execution = self._launch(run, prepared)
            execution.beat_at = self._now() + self._beat_every(run)
        except BaseException as error:
            self._discard(prepared)
            self._unbegun[name] = error  # until the storage has it
            self._unsettled = True
            run.fail(error)
            self._unbegun.pop(name, None)
            if not isinstance(error, Exception):
                raise
            return
        with self._lock:
            self._executions[key] = execution
        self._wake.set()

    def stop(self, order: Stop) -> None:
        """Ask the execution of a run to end, once; see ``Agent.stop``."""
        execution = self._executions.get(_key_of(order.run))
        if execution is not None:
            self._ask_once(execution)

    def kill(self, order: Kill) -> None:
        """End the execution of a run abruptly; that it is gone is said when it is. See ``Agent.kill``."""
        key = _key_of(order.run)
        execution = self._executions.get(key)
        if execution is not None:
            self._end_abruptly(execution)
        else:
            self._settle(key, order.run, kill=True)
        self._wake.set()

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

    # --- what was left behind ---------------------------------------------------------------------

    def _recover(self, sweep: Sweep) -> None:
        """Settle what has this agent's name and was begun by an orchestrator that is gone."""
        after = -1
        while True:
            page = sweep.storage.runs(sweep.id, Leased(self.name), after=after, limit=_PAGE)
            for state in page:
                self._recover_run(sweep, state)
            if len(page) < _PAGE:
                return
            after = page[-1].index

    def _recover_run(self, sweep: Sweep, state: RunState) -> None:
        lease = state.lease
        if lease is None or not lease.began:
            return
        run = sweep.run_of(make_token(sweep.id, state.index, lease.attempt, lease.execution))
        try:
            self._settle(_key_of(run), run)
        except OF_STORAGE:
            raise
        except Exception as error:
            # It is sent no heartbeats meanwhile: like what cannot be looked at, it is lost to silence in the end.
            if _key_of(run) not in self._unfound:
                self._complain("was begun, and could not be looked for", run, error)
            self._unfound.add(_key_of(run))
            self._unsettled = True

    def _settle(self, key: Key, run: Run, *, kill: bool = False) -> None:
        """Find out who executes a begun attempt, unless that is known, or another thread is at it."""
        with self._claimed(key) as ours:
            if ours:
                self._settle_claimed(key, run, kill=kill)

    def _settle_claimed(self, key: Key, run: Run, *, kill: bool) -> None:
        if run.execution in self._unbegun:
            self._report_unbegun(run, self._unbegun[run.execution])
            self._unbegun.pop(run.execution, None)
            return
        found = self._find(run)
        if isinstance(found, Execution):
            with self._lock:
                self._executions[key] = found
            if kill:
                self._end_abruptly(found)
        elif found is Trace.GONE:
            run.gone()

    def _report_unbegun(self, run: Run, error: BaseException | None) -> None:
        if error is None:
            run.gone()
        else:
            run.fail(error)

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


def _key_of(run: Run) -> Key:
    return run.sweep_id, run.index, run.attempt


def _give_back(run: Run) -> None:
    """Give a run back that has not begun; whatever was decided about it meanwhile stands."""
    try:
        run.release()
    except IllegalTransition:
        run.gone()
