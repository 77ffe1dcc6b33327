"""The pull side: a training process that asks a sweep for runs, executes them itself, and goes home in time.

``work`` sleeps, has a thread and handles signals, so it lives here, at the edge. What a run's end means is decided
elsewhere: a worker reports facts, and obeys what it is answered.

What each step of Ctrl-C does:

1. The current run is finished, with its heartbeats, and the worker goes home. Nothing new is claimed; a run that it
   holds and has not begun is given back, and it does not ask again, so it cannot be handed the same run.
2. The current run is asked to stop: ``run.should_stop`` is true, in whatever process looks.
3. KeyboardInterrupt is raised where the process is. A function that is hit has its run reported as interrupted.
"""

from __future__ import annotations

import copy
import logging
import os
import random as random_module
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Final

import attrs

from ..core.decide import Idle, IdleReason
from ..core.errors import AlreadyStarted, Conflict, IllegalTransition, InvalidValue, NotFound, StorageError
from ..core.events import Event
from ..core.values import check_count, check_flag, check_seconds, check_text, show
from ._beating import Beating, Pulse
from ._flapping import Flapping, Tally
from ._going import Going, GoingReason
from ._interrupts import TERMINATED, Interrupts, Notice
from ._waiting import LOG, Patience, Sleeper, Waits

if TYPE_CHECKING:
    from ..run import Run
    from ..sweep import Sweep

__all__ = ["Flapping", "Going", "GoingReason", "work"]

_FLAPPING: Final = Flapping()


def work(
    sweep: Sweep,
    function: Callable[[Run], object],
    *,
    name: str | None = None,
    count: int | None = None,
    linger: bool = True,
    flapping: Flapping | None = _FLAPPING,
    poll: float = 15.0,
    stalled: float = 600.0,
    patience: float = 600.0,
    stop_raises: bool = False,
    signals: bool = True,
    preemptible: bool = False,
    sleep: Callable[[float], object] | None = None,
    random: Callable[[], float] = random_module.random,
    monotonic: Callable[[], float] = time.monotonic,
) -> Going:
    """Execute what a sweep hands out, one run after the other, and wait while there is nothing, until it has ended.

    A thread sends heartbeats while the function computes, so a run whose process dies is found by its silence. It
    also calls ``sweep.tick()``, so that time passes without an orchestrator: all workers of a sweep together about
    every 30 s. Listeners of the sweep are called in it too.

    Args:
        sweep: what to work for; a handle without an agent.
        function: is given the run, and returns its metrics: a mapping, or a number if the sweep has an objective, or
            None. An exception fails its run, and the next one starts. It should look at ``run.should_stop``
            now and then, for a process cannot be killed from inside. Let it return its metrics rather than call
            ``run.finish``: what it returns is reported again until the storage has it.
        name: of the agent, for the leases and the history; the host's name and the process id, if it is not given.
        count: how many runs to execute at most.
        linger: whether to wait while the sweep drains, since a run may come back.
        flapping: when to give up because what is executed fails; None never does.
        poll: how long to wait at most before asking again, in seconds.
        stalled: for how many seconds to wait for a search that waits for something although nothing is active.
        patience: for how many seconds the storage may fail. Meanwhile everything is tried again, so that no end of
            a run is lost.
        stop_raises: whether ``run.report`` raises ``ShouldStop`` when the run should end; set on the handle
            that the function is given, so reports by other handles do not raise.
        signals: whether Ctrl-C is taken in three steps, in the main thread: finish the current run and leave; ask
            it to stop; leave now.
        preemptible: whether SIGTERM says that the machine is about to be taken away, in the main thread: the run is
            marked as preempting, SystemExit(143) is raised in the function, once, and then out of ``work``. It is
            not asked to stop, because then it would be KILLED and not queued again (see "How an execution ends" in the
            documentation of the lifecycle), and a loop that looks at ``run.should_stop`` and returns would have its
            run FINISHED.
        sleep: waits so many seconds; for tests. By default, a wait that a signal ends.
        random: returns a number from 0 to 1, by which workers that were sent away at once come back at different
            times.
        monotonic: returns seconds.

    Returns:
        Why it went home, and what it has done.

    Raises:
        StorageError: the storage failed for longer than ``patience``; a note says what could not be reported.
        Conflict: others came first all that time.
        SearchError: the search failed.
        KeyboardInterrupt, SystemExit: the function's, or by a signal, after the run was reported: they are about the
            whole process.
        InvalidValue: an argument cannot be used; or the function returned a number, and the sweep has no objective
            to name it.

    Afterwards:
        Nothing of this worker executes, the signals are handled as before, and it holds no run: what it has begun
        was reported, and what it had not begun was given back. (If the answer to a claim was lost and a signal came
        before it was asked for again, that run is free after ``limits.start_timeout``.)

    Example:
        >>> from sweepstate import Grid, Objective, Sweep
        >>> sweep = Sweep(Grid({"lr": [0.1, 0.01]}), objective=Objective("loss"))
        >>> print(work(sweep, lambda run: run.config["lr"] ** 2, name="gpu-7"))
        gpu-7: the sweep has ended; 2 runs, 2 finished
    """
    _check(sweep, function, flapping)
    place = f"{socket.gethostname()}:{os.getpid()}"
    for value, field in ((linger, "linger"), (stop_raises, "stop_raises"), (signals, "signals")):
        check_flag(value, field)
    worker = _Worker(
        sweep,
        function,
        place=place,
        name=place if name is None else check_text(name, "name", most=1_000),
        count=None if count is None else check_count(count, "count", least=1),
        linger=linger,
        stop_raises=stop_raises,
        stalled=check_seconds(stalled, "stalled"),
        tally=Tally(flapping, monotonic),
        waits=Waits(check_seconds(poll, "poll", zero=False), random),
        patience=check_seconds(patience, "patience"),
        sleeper=Sleeper(sleep),
        random=random,
        monotonic=monotonic,
    )
    return worker.work(sigint=signals, sigterm=check_flag(preemptible, "preemptible"))


def _check(sweep: object, function: object, flapping: object) -> None:
    if not all(callable(getattr(sweep, method, None)) for method in ("next_run", "tick")):
        raise InvalidValue("sweep", f"{show(sweep)} is no sweep", "give a Sweep")
    if iscoroutinefunction(getattr(sweep, "next_run", None)):
        raise InvalidValue("sweep", f"{show(sweep)} must be awaited", "use AsyncSweep.execute on an event loop")
    if getattr(sweep, "agent", None) is not None:
        raise InvalidValue("sweep", "has an agent, which executes its runs", "open it without one: Sweep.open(...)")
    if not callable(function):
        raise InvalidValue("function", f"{show(function)} cannot be called", "give a function of a run")
    if iscoroutinefunction(function):
        raise InvalidValue("function", f"{show(function)} must be awaited", "use AsyncSweep.execute on an event loop")
    if flapping is not None and not isinstance(flapping, Flapping):
        raise InvalidValue("flapping", f"must be a Flapping, not {show(flapping)}", "e.g. Flapping(failures=10)")


@attrs.frozen
class _Outcome:
    """What a function has left behind."""

    result: object = None
    error: BaseException | None = None

    def __str__(self) -> str:
        return f"returned {show(self.result, 500)}" if self.error is None else f"raised {show(self.error, 500)}"


class _Worker:
    """A worker while it works."""

    def __init__(
        self,
        sweep: Sweep,
        function: Callable[[Run], object],
        *,
        place: str,
        name: str,
        count: int | None,
        linger: bool,
        stop_raises: bool,
        stalled: float,
        tally: Tally,
        waits: Waits,
        patience: float,
        sleeper: Sleeper,
        random: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._sweep = sweep
        self._function = function
        self._place = place
        self._name = name
        self._count = count
        self._linger = linger
        self._stop_raises = stop_raises
        self._stalled = stalled
        self._tally = tally
        self._waits = waits
        self._sleeper = sleeper
        self._monotonic = monotonic
        self._patience = Patience(patience, Waits(30.0, random), sleeper, monotonic)
        self._pulse = Pulse(sweep, name, monotonic, random)
        self._beating = Beating(self._pulse)
        self._interrupts = Interrupts(self._tell, sigint=False, sigterm=False)
        self._request = ""
        self._idle: IdleReason | None = None
        self._idle_since = 0.0
        self._going = Going(GoingReason.ENDED, "")

    def work(self, *, sigint: bool, sigterm: bool) -> Going:
        self._interrupts = Interrupts(self._tell, sigint=sigint, sigterm=sigterm)
        with self._interrupts:
            self._beating.begin()
            try:
                reason = self._until_home()
            except NotFound:
                reason = GoingReason.DELETED
            finally:
                self._beating.end()
        if self._interrupts.preempted:
            raise SystemExit(TERMINATED)
        why = self._tally.flapping() if reason is GoingReason.FLAPPING else None
        message = f"{self._name}: {reason}" + ("" if why is None else f": {why}")
        going = attrs.evolve(self._going, reason=reason, message=message)
        LOG.log(logging.WARNING if reason in _TO_BE_SEEN else logging.INFO, "went home: %s", going)
        return going

    def _tell(self, notice: Notice) -> None:
        self._beating.tell(notice)
        self._sleeper.wake()

    def _staying(self) -> bool:
        return not self._interrupts.leaving

    # --- asking ----------------------------------------------------------------------------------

    def _until_home(self) -> GoingReason:
        while True:
            if self._interrupts.leaving:
                return GoingReason.INTERRUPTED
            if self._tally.flapping() is not None:
                return GoingReason.FLAPPING
            if self._count is not None and self._going.runs >= self._count:
                return GoingReason.COUNT
            answer = self._ask()
            if isinstance(answer, Idle):
                reason = self._wait(answer.reason)
                if reason is not None:
                    return reason
            elif answer is not None:
                self._idle = None
                self._execute_whole(answer)

    def _ask(self) -> Run | Idle | None:
        """Ask for a run; None if a signal came while the storage failed.

        A request keeps its id until it is answered, so asking again after a lost reply gives the run that is held.
        """
        self._request = uuid.uuid4().hex
        try:
            return self._patience.call(
                "asking for a run",
                lambda: self._sweep.next_run(agent=self._name, request_id=self._request),
                while_=self._staying,
            )
        except (StorageError, Conflict):
            if self._staying():
                raise
            return None

    def _wait(self, idle: IdleReason) -> GoingReason | None:
        """Wait until it makes sense to ask again; or return why to go home."""
        if idle is IdleReason.ENDED:
            return GoingReason.ENDED
        if idle is IdleReason.DRAINING and not self._linger:
            return GoingReason.DRAINING
        now = self._monotonic()
        if idle is not self._idle:
            self._idle, self._idle_since = idle, now
            self._waits.reset()
            if idle is IdleReason.STALLED:
                LOG.warning(
                    "%s: the search waits although nothing is active; complete() the sweep, or stop it", self._name
                )
            else:
                LOG.info("%s: waits, as the sweep is %s", self._name, idle)
        elif idle is IdleReason.STALLED and now - self._idle_since >= self._stalled:
            return GoingReason.STALLED
        self._sleeper.wait(self._waits.next())
        return None

    # --- executing -------------------------------------------------------------------------------

    def _execute_whole(self, run: Run) -> None:
        """Begin a run, execute it and report its end; or give it back."""
        outcome: _Outcome | None = None
        try:
            if not self._begin(run):
                return
            run.stop_raises = self._stop_raises
            self._pulse.watch(copy.copy(run))
            outcome = self._execute(run)
            self._note(run, self._report_end(run, outcome))
        except (KeyboardInterrupt, SystemExit) as leaving:  # outside of the function: its own are its outcome
            self._last_words(run, outcome, leaving)
            raise
        finally:
            self._pulse.in_hand = None
        if outcome.error is not None and not isinstance(outcome.error, Exception) and not self._interrupts.preempted:
            raise outcome.error

    def _begin(self, run: Run) -> bool:
        """Report the start; return whether the function is to be called."""
        if self._interrupts.leaving:
            self._patience.call("giving a run back", run.release)
            return False
        # Of this request alone, so that a start that is repeated after a lost reply is known to be its own.
        execution = f"{self._place}:{self._request}"
        try:
            self._patience.call("reporting a start", lambda: run.start(execution, heartbeats=True))
        except AlreadyStarted as error:
            LOG.warning("%s: left to whoever is executing it: %s", self._name, error)
            return False
        except IllegalTransition as error:
            LOG.info("%s: a run may not begin any more: %s", self._name, error)
            self._patience.call("saying that a run is gone", run.gone)
            return False
        return True

    def _execute(self, run: Run) -> _Outcome:
        try:
            with self._interrupts.executing():
                result = self._function(run)
        except BaseException as error:  # whatever it is, it is reported first
            return _Outcome(error=error)
        return _Outcome(result)

    def _report_end(self, run: Run, outcome: _Outcome) -> tuple[Event, ...]:
        """Report the end until the storage has it: what was computed must not be lost."""
        try:
            if self._interrupts.preempted and outcome.error is not None:
                self._patience.call("marking a run as preempting", run.mark_preempting)
            return self._patience.call(
                f"reporting the end of run {run.index}", lambda: run.conclude(outcome.result, error=outcome.error)
            )
        except (StorageError, Conflict) as error:
            error.add_note(f"the end of run {run.index} of sweep {run.sweep_id!r} was not stored: it {outcome}")
            raise

    def _note(self, run: Run, events: tuple[Event, ...]) -> None:
        self._going, verdict = self._going.after(run, events)
        if verdict is not None:
            self._tally.note(verdict)

    def _last_words(self, run: Run, outcome: _Outcome | None, leaving: BaseException) -> None:
        """Report the truth once more before leaving now: it is not repeated, since somebody has pressed Ctrl-C."""
        told = _Outcome(error=leaving) if outcome is None else outcome
        try:
            if outcome is None:
                with suppress(IllegalTransition):  # it has begun, though its function was not reached
                    run.release()
                    return
            run.conclude(told.result, error=told.error)
        except (StorageError, Conflict, NotFound) as error:
            LOG.warning("the end of run %d was not stored (it %s): %s", run.index, told, error)


#: What nobody would expect of a worker, so that it is seen without configuring the log.
_TO_BE_SEEN: Final = {GoingReason.STALLED, GoingReason.DELETED, GoingReason.FLAPPING}
