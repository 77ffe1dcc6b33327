"""Tending: what an agent does for each of its executions, from its launch until its end is reported.

What a subclass says about one execution may raise. That is about this one: it is logged, with its run, the others are
tended as before, and it is tried again in the next round. Only what the storage raises is about all of them.

An execution that cannot be looked at is sent no heartbeats. So it is not RUNNING for ever because nobody can tell
that it has ended: by ``limits.heartbeat_timeout`` it is lost to silence, like one whose agent has died, and if it can
be looked at later, its end corrects that.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

import attrs

from ..core.decide import Answer
from ..core.errors import Conflict, IllegalTransition, InvalidValue, StorageError, SweepNotFound, SweepstateError
from ..core.values import check_text, describe_error
from ._beating import between_beats
from ._waiting import Bell

if TYPE_CHECKING:
    from ..run import Run

_log: Final = logging.getLogger("sweepstate")
#: What is no fault of the subclass, though it comes out of it: the storage's, through which it reports.
OF_STORAGE: Final = (StorageError, Conflict, SweepNotFound)

#: Which attempt: sweep, run and attempt.
Key: TypeAlias = tuple[str, int, int]
#: Reports how an execution ended, through the handle of its run; returns the events that it caused.
Report: TypeAlias = Callable[["Run"], object]


@attrs.define(eq=False, slots=False)
class Execution:
    """One execution of an attempt; an agent keeps what it needs in a subclass.

    Attributes:
        run: the handle to report through.
        asked: whether it was asked to end.
        asked_at: when that was first tried, by the agent's own clock.
        ended: whether it was ended abruptly, so that how it ends says nothing about the run.
        report: how it ended, once that is known.
        beat_at: when its next heartbeat is due, by the agent's own clock.
        unseen: whether the last look at it has raised, so that nobody knows whether it executes.
        systematic: an error that every run of its sweep would have, if its end is one; it goes to whoever drives.
        preempting: whether it is committed that its machine is about to be taken away.
    """

    run: Run
    asked: bool = attrs.field(default=False, kw_only=True)
    ended: bool = attrs.field(default=False, kw_only=True)
    report: Report | None = attrs.field(default=None, kw_only=True)
    beat_at: float = attrs.field(default=0.0, kw_only=True)
    asked_at: float | None = attrs.field(default=None, kw_only=True)
    unseen: bool = attrs.field(default=False, kw_only=True)
    systematic: SweepstateError | None = attrs.field(default=None, kw_only=True)
    preempting: bool = attrs.field(default=False, kw_only=True)


ExecutionT = TypeVar("ExecutionT", bound=Execution)


class Tending(ABC, Generic[ExecutionT]):
    """Executions, and what is done for each: it is looked at, beaten for, asked to end, ended, and reported.

    Args:
        name: of the agent.
    """

    def __init__(self, name: str) -> None:
        self.name: str = check_text(name, "name", most=1_000)
        self._executions: Final[dict[Key, ExecutionT]] = {}
        self._lock: Final = threading.Lock()
        self._wake: Final = Bell()
        # When to tick next. Not each time that something has ended: the commit that reports it fills its slot.
        self._tick_at = 0.0
        # Whether a run was given back for want of room; then none is asked for until the next tick.
        self._full = False
        # Why no more runs are begun: an error that each of them would have, too.
        self._failure: SweepstateError | None = None

    # --- what a subclass says ----------------------------------------------------------------------

    @abstractmethod
    def _ask(self, execution: ExecutionT) -> None:
        """Ask an execution to end; its own handlers may run. Called once, and again only if it raised."""

    @abstractmethod
    def _end(self, execution: ExecutionT) -> None:
        """End an execution abruptly. May be called again."""

    @abstractmethod
    def _look(self, execution: ExecutionT) -> Report | None:
        """Look after an execution; return how to report its end once it has ended, else None.

        While this raises, the execution is sent no heartbeats, so that silence tells in the end; see the module.
        """

    def _hear(self) -> None:
        """Take in what is told of all executions at once; called before they are looked at. May raise OSError."""

    def _has_room(self) -> bool:
        """Return whether one more run could be begun now; until then, none is asked for."""
        return True

    def _released(self, execution: ExecutionT) -> None:
        """Give back what an execution held, such as a slot; its end is reported. Called once, also if it raises."""

    def _now(self) -> float:
        """Return seconds of a clock that never goes back."""
        return time.monotonic()

    # --- ending -----------------------------------------------------------------------------------

    def _ask_once(self, execution: ExecutionT) -> None:
        """Ask an execution to end, unless it was; what the subclass raises is raised, and it was not asked then."""
        if execution.asked or execution.report is not None:
            return
        if execution.asked_at is None:
            execution.asked_at = self._now()
        execution.asked = True  # before it is, or another thread would ask too
        try:
            self._ask(execution)
        except BaseException:
            execution.asked = False
            raise

    def _end_abruptly(self, execution: ExecutionT) -> None:
        """End an execution, perhaps again; what the subclass raises is raised, and it was not ended then."""
        if execution.report is not None:
            return
        before, execution.ended = execution.ended, True
        try:
            self._end(execution)
        except BaseException:
            execution.ended = before
            raise

    def _hasten(self, execution: ExecutionT) -> None:
        """Ask an execution to end, if it was not, and end it once its grace is over."""
        self._try_to_ask(execution)
        if self._is_overdue(execution):
            self._try_to_end(execution)

    def _mark_preempting(self, execution: ExecutionT) -> None:
        """Report, once, that the machine of an execution is about to be taken away."""
        if not execution.preempting:
            with suppress(IllegalTransition):  # killed or handed on since: it has no say any more
                execution.run.mark_preempting()
            execution.preempting = True

    def _try(self, action: Callable[[ExecutionT], object], execution: ExecutionT, what: str) -> None:
        """Do something for one execution; what it raises is logged, as it is no business of the others."""
        try:
            action(execution)
        except OF_STORAGE:
            raise
        except Exception as error:
            self._complain(what, execution.run, error)

    def _complain(self, what: str, run: Run, error: Exception) -> None:
        _log.error("agent %r: %r %s: %s", self.name, run, what, describe_error(error), exc_info=error)

    def _try_to_ask(self, execution: ExecutionT) -> None:
        self._try(self._ask_once, execution, "could not be asked to end")

    def _try_to_end(self, execution: ExecutionT) -> None:
        self._try(self._end_abruptly, execution, "could not be ended")

    # --- looking ----------------------------------------------------------------------------------

    def _look_after_all(self) -> None:
        """Report what has ended, and beat for what has not."""
        self._hear()
        for key, execution in list(self._executions.items()):
            self._look_at(execution)
            if execution.report is not None:
                self._conclude(key, execution)
            elif self._is_beating(execution) and self._now() >= execution.beat_at:
                execution.beat_at = self._now() + between_beats(execution.run.limits)
                self._beat(execution)

    def _look_at(self, execution: ExecutionT) -> None:
        """Note how an execution has ended, if it has, or that this cannot be found out."""
        if execution.report is not None:
            return
        try:
            report = self._look(execution)
        except OF_STORAGE:
            raise
        except Exception as error:
            if not execution.unseen:  # once, and not in each round
                self._complain("cannot be looked at, and is sent no heartbeats until it can", execution.run, error)
            execution.unseen = True
            return
        if execution.unseen:
            _log.warning("agent %r: %r can be looked at again", self.name, execution.run)
        execution.unseen = False
        execution.report = report

    def _is_beating(self, execution: ExecutionT) -> bool:
        """Return whether an execution is sent heartbeats: while it is known to be there."""
        return execution.report is None and not execution.unseen

    def _conclude(self, key: Key, execution: ExecutionT) -> None:
        """Report an end, once; if the storage does not take it, it is said again."""
        run, report = execution.run, execution.report
        if execution.systematic is not None:
            self._give_up(execution.systematic)  # first, or the commit that reports it would fill its slot
        had_room = self._has_room() and not self._full
        try:
            caused = run.gone() if execution.ended or report is None else report(run)
            if not caused or not had_room:
                # It was reported elsewhere, so no commit of ours fills its slot; or the commit came too early for it.
                self._tick_at = 0.0
        except (*OF_STORAGE, OSError):
            raise
        except InvalidValue as error:  # of what the execution gave as its metrics
            run.fail(error)
        except Exception as error:
            self._complain("has ended, and how could not be reported", run, error)
            run.fail(error)
        self._drop(key, execution)

    def _give_up(self, error: SweepstateError) -> None:
        """Begin no more runs, for an error that each would have; whoever drives gets it when nothing executes."""
        if self._failure is None:
            self._failure = error
            executing = sum(execution.report is None for execution in list(self._executions.values()))
            if executing:  # or it is raised at once
                text = "agent %r: no more runs are begun, executing still: %d; what is wrong: %s"
                _log.error(text, self.name, executing, error)

    def _drop(self, key: Key, execution: ExecutionT) -> None:
        with self._lock:
            self._executions.pop(key, None)
        self._try(self._released, execution, "could not give back what it held")

    def _beat(self, execution: ExecutionT) -> None:
        self._heed(execution, execution.run.heartbeat())

    def _heed(self, execution: ExecutionT, answer: Answer) -> None:
        """Do what a sign of life was answered."""
        execution.beat_at = self._now() + between_beats(execution.run.limits)
        if answer is Answer.KILL:
            self._try_to_end(execution)
        elif answer is Answer.STOP:
            self._hasten(execution)  # also one whose run is over, so that no tick makes it KILLED

    def _is_overdue(self, execution: ExecutionT) -> bool:
        """Return whether an execution was asked to end, and its grace is over."""
        return self._now() >= self._overdue_at(execution)

    def _overdue_at(self, execution: ExecutionT) -> float:
        """Return when the grace of an execution is over; never, if it was not asked to end."""
        return math.inf if execution.asked_at is None else execution.asked_at + execution.run.limits.stop_grace

    def _forget(self, sweep_id: str) -> bool:
        """End what executes for a sweep that is not there any more; return whether all of it is gone."""
        theirs = [(key, execution) for key, execution in list(self._executions.items()) if key[0] == sweep_id]
        for key, execution in theirs:
            self._try_to_end(execution)
            with suppress(SweepNotFound):  # of what it has to report on the way
                self._look_at(execution)
            if execution.report is not None:
                self._drop(key, execution)
        # What cannot be looked at is waited for by nobody.
        return not any(key in self._executions and not execution.unseen for key, execution in theirs)
