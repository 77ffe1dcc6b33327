"""Obeying: what an agent does when it is given orders, and with what an earlier agent of its name has left behind.

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
from abc import abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from ..core.errors import AlreadyStarted, IllegalTransition, StorageError
from ..core.questions import Leased
from ..core.state import RunState
from ..handles.reports import make_token
from ..hooks import Kill, Start, Stop
from ._beating import between_beats
from ._tending import OF_STORAGE, Execution, ExecutionT, Key, Tending

if TYPE_CHECKING:
    from ..run import Run
    from ..sweep import Sweep

_log: Final = logging.getLogger("sweepstate")
_PAGE: Final = 256

PreparedT = TypeVar("PreparedT")


class Trace(Enum):
    """What is found of an execution that this agent does not know.

    Attributes:
        GONE: nothing of it executes any more.
        UNKNOWN: nobody can say; it is left alone.
    """

    GONE = "gone"
    UNKNOWN = "unknown"


class NoRoom(Exception):
    """A run cannot be begun now, through no fault of its own: another one has taken the room that there was."""


def name_here(kind: str) -> str:
    """Return the name of an agent that was given none: its own on each machine, and the same after a restart."""
    return f"{kind}@{socket.gethostname()}"


class Obeying(Tending[ExecutionT], Generic[PreparedT, ExecutionT]):
    """Orders, and what it takes to obey each once, in whatever threads they come.

    Args:
        name: of the agent.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._leaving = False
        # Whether its machine is about to be taken away; it never forgets that.
        self._preempted = False
        # How many runs it has begun since it was last driven, and how many it is to begin; None for any number.
        self._begun = 0
        self._most: int | None = None
        # Attempts that a thread is about to begin, or looks for: neither ours yet nor left behind by anybody.
        self._launching: Final[set[Key]] = set()
        # Executions that may have begun and that nobody executes, until that is reported; with what a launch raised.
        self._unbegun: Final[dict[str, BaseException | None]] = {}
        # Attempts for which looking has raised: that is said once.
        self._unfound: Final[set[Key]] = set()
        # Whether it is not known of every begun attempt of ours who executes it.
        self._unsettled = True

    @property
    def accepting(self) -> bool:
        """Whether it wants more runs: not when it is about to leave, until it is driven again.

        It is after the first interrupt of ``drive``, when it has begun as many runs as it was to, after an error that
        ``drive`` will raise, and after ``terminate``. After ``preempt`` it never is again.
        """
        return self._wants_more() and self._has_room() and not self._full

    @property
    def begun(self) -> int:
        """How many runs it has begun since it was last driven; one that is tried again counts again."""
        return self._begun

    def _wants_more(self, besides: Key | None = None) -> bool:
        """Return whether it would begin one more run if there was room, besides those that are about to begin."""
        with self._lock:
            others = len(self._launching - {besides})
            return not self._is_going() and (self._most is None or self._begun + others < self._most)

    def _is_going(self) -> bool:
        """Return whether it begins nothing more, and leaves when nothing executes."""
        enough = self._most is not None and self._begun >= self._most
        return self._leaving or self._preempted or self._failure is not None or enough

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
        """Tell whether an attempt is in nobody's hands here; if so, it is in this thread's until this is left.

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
        if not (self._wants_more(key) and self._has_room()):
            _give_back(run)
            return
        try:
            prepared = self._prepare(run)
        except NoRoom:
            self._full = True  # first, or the commit that gives it back would hand out another
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
        with self._lock:
            self._begun += 1
        try:
            execution = self._launch(run, prepared)
            execution.beat_at = self._now() + between_beats(run.limits)
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


def _key_of(run: Run) -> Key:
    return run.sweep_id, run.index, run.attempt


def _give_back(run: Run) -> None:
    """Give a run back that has not begun; whatever was decided about it meanwhile stands."""
    try:
        run.release()
    except IllegalTransition:
        run.gone()
