"""Tending: what an agent does for each of its executions, from its launch until its end is reported."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

import attrs

from ..core.decide import Answer
from ..core.errors import InvalidValue
from ..core.values import check_text
from ._beating import between_beats
from ._waiting import Bell

if TYPE_CHECKING:
    from ..run import Run

_log: Final = logging.getLogger("sweepstate")

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
        asked_at: when, by the agent's own clock.
        ended: whether it was ended abruptly, so that how it ends says nothing about the run.
        report: how it ended, once that is known.
        beat_at: when its next heartbeat is due, by the agent's own clock.
    """

    run: Run
    asked: bool = attrs.field(default=False, kw_only=True)
    ended: bool = attrs.field(default=False, kw_only=True)
    report: Report | None = attrs.field(default=None, kw_only=True)
    beat_at: float = attrs.field(default=0.0, kw_only=True)
    asked_at: float = attrs.field(default=0.0, kw_only=True)


ExecutionT = TypeVar("ExecutionT", bound=Execution)


class Tending(ABC, Generic[ExecutionT]):
    """Executions, and what is done for each: it is looked at, beaten for, asked to end, ended, and reported.

    Args:
        name: of the agent.
    """

    def __init__(self, name: str) -> None:
        self.name: str = check_text(name, "name", most=200)
        self._executions: Final[dict[Key, ExecutionT]] = {}
        self._lock: Final = threading.Lock()
        self._wake: Final = Bell()
        # When to tick next. Not each time that something has ended: the commit that reports it fills its slot.
        self._tick_at = 0.0

    # --- what a subclass says ----------------------------------------------------------------------

    @abstractmethod
    def _ask(self, execution: ExecutionT) -> None:
        """Ask an execution to end; its own handlers may run. Called once."""

    @abstractmethod
    def _end(self, execution: ExecutionT) -> None:
        """End an execution abruptly. May be called again."""

    @abstractmethod
    def _look(self, execution: ExecutionT) -> Report | None:
        """Look after an execution; return how to report its end once it has ended, else None."""

    def _has_room(self) -> bool:
        """Return whether one more run could be begun now; until then, none is asked for."""
        return True

    def _released(self, execution: ExecutionT) -> None:
        """Give back what an execution held, such as a slot; its end is reported."""

    def _now(self) -> float:
        """Return seconds of a clock that never goes back."""
        return time.monotonic()

    # --- ending -----------------------------------------------------------------------------------

    def _ask_once(self, execution: ExecutionT) -> None:
        if not execution.asked and execution.report is None:
            execution.asked = True
            execution.asked_at = self._now()
            self._ask(execution)

    def _end_abruptly(self, execution: ExecutionT) -> None:
        if execution.report is None:
            execution.ended = True
            self._end(execution)

    # --- looking ----------------------------------------------------------------------------------

    def _look_after_all(self) -> None:
        """Report what has ended, and beat for what has not."""
        for key, execution in list(self._executions.items()):
            if execution.report is None:
                execution.report = self._look(execution)
            if execution.report is not None:
                self._conclude(key, execution)
            elif self._now() >= execution.beat_at:
                execution.beat_at = self._now() + self._beat_every(execution.run)
                self._beat(execution)

    def _conclude(self, key: Key, execution: ExecutionT) -> None:
        """Report an end, once; if the storage does not take it, it is said again."""
        run, report = execution.run, execution.report
        had_room = self._has_room()
        try:
            caused = run.gone() if execution.ended or report is None else report(run)
            if not caused or not had_room:
                # It was reported elsewhere, so no commit of ours fills its slot; or the commit came too early for it.
                self._tick_at = 0.0
        except InvalidValue as error:  # of what the execution gave as its metrics
            run.fail(error)
        self._drop(key, execution)

    def _drop(self, key: Key, execution: ExecutionT) -> None:
        with self._lock:
            self._executions.pop(key, None)
        self._released(execution)

    def _beat(self, execution: ExecutionT) -> None:
        self._heed(execution, execution.run.heartbeat())

    def _heed(self, execution: ExecutionT, answer: Answer) -> None:
        """Do what a sign of life was answered."""
        execution.beat_at = self._now() + self._beat_every(execution.run)
        if answer is Answer.KILL:
            self._end_abruptly(execution)
        elif answer is Answer.STOP:
            self._ask_once(execution)
            if self._now() - execution.asked_at >= execution.run.limits.stop_grace:
                self._end_abruptly(execution)  # also one whose run is over, so that no tick makes it KILLED

    def _beat_every(self, run: Run) -> float:
        return between_beats(run.limits)

    def _forget(self, sweep_id: str) -> bool:
        """End what executes for a sweep that is not there any more; return whether all of it is gone."""
        for key, execution in list(self._executions.items()):
            if key[0] == sweep_id:
                self._end_abruptly(execution)
                if execution.report is not None or self._look(execution) is not None:
                    self._drop(key, execution)
        return not any(key[0] == sweep_id for key in self._executions)
