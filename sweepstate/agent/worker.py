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
from ..handles.checks import check_immediate_function, check_unattended
from ._beating import Beating, Pulse
from ._flapping import Flapping, Tally
from ._going import Going, GoingReason
from ._interrupts import TERMINATED, Interrupts, Notice
from ._waiting import Patience, Sleeper, Waits

if TYPE_CHECKING:
    from ..run import Run
    from ..sweep import Sweep

__all__ = ["Flapping", "Going", "GoingReason", "work"]

_log: Final = logging.getLogger("sweepstate")
_FLAPPING: Final = Flapping()
#: Between two tries with a storage that fails, in seconds at most.
_LONGEST_PAUSE: Final = 30.0
#: What nobody would expect of a worker, so that it is seen without configuring the log.
_TO_BE_SEEN: Final = {GoingReason.STALLED, GoingReason.DELETED, GoingReason.FLAPPING}


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
    flags = ((linger, "linger"), (stop_raises, "stop_raises"), (signals, "signals"), (preemptible, "preemptible"))
    for value, field in flags:
        check_flag(value, field)
    place = f"{socket.gethostname()}:{os.getpid()}"
    called = place if name is None else check_text(name, "name", most=1_000)
    sleeper = Sleeper(sleep)
    pulse = Pulse(sweep, called, monotonic, random)
    beating = Beating(pulse)

    def tell(notice: Notice) -> None:
        beating.tell(notice)
        sleeper.wake()

    return _Worker(
        sweep=sweep,
        function=function,
        place=place,
        name=called,
        count=None if count is None else check_count(count, "count", least=1),
        linger=linger,
        stop_raises=stop_raises,
        stalled=check_seconds(stalled, "stalled"),
        tally=Tally(flapping, monotonic),
        waits=Waits(check_seconds(poll, "poll", zero=False), random),
        patience=Patience(check_seconds(patience, "patience"), Waits(_LONGEST_PAUSE, random), sleeper, monotonic),
        sleeper=sleeper,
        pulse=pulse,
        beating=beating,
        interrupts=Interrupts(tell, sigint=signals, sigterm=preemptible),
        monotonic=monotonic,
    ).work()


def _check(sweep: object, function: object, flapping: object) -> None:
    if not all(callable(getattr(sweep, method, None)) for method in ("next_run", "tick")):
        raise InvalidValue("sweep", f"{show(sweep)} is no sweep", "give a Sweep")
    if iscoroutinefunction(getattr(sweep, "next_run", None)):
        raise InvalidValue("sweep", f"{show(sweep)} must be awaited", "use AsyncSweep.execute on an event loop")
    check_unattended(getattr(sweep, "agent", None))
    check_immediate_function(function)
    if flapping is not None and not isinstance(flapping, Flapping):
        raise InvalidValue("flapping", f"must be a Flapping, not {show(flapping)}", "e.g. Flapping(failures=10)")


@attrs.frozen
class _Outcome:
    """What a function has left behind."""

    result: object = None
    error: BaseException | None = None

    def __str__(self) -> str:
        return f"returned {show(self.result, 500)}" if self.error is None else f"raised {show(self.error, 500)}"


@attrs.define(eq=False, kw_only=True)
class _Worker:
    """A worker while it works: what ``work`` was given, and what is done beside the function and around it.

    Attributes:
        place: the host and the process, for the names of executions.
        tally: what has become of its runs, as far as that tells whether it should go home.
        waits: between two questions for a run.
        patience: with a storage that fails.
        request: the id of the last question for a run.
        idle: why it was given none the last time; None if it was given one.
        idle_since: when that was first said, by the monotonic clock.
        going: what has become of its runs, for its answer.
    """

    sweep: Sweep
    function: Callable[[Run], object]
    place: str
    name: str
    count: int | None
    linger: bool
    stop_raises: bool
    stalled: float
    tally: Tally
    waits: Waits
    patience: Patience
    sleeper: Sleeper
    pulse: Pulse
    beating: Beating
    interrupts: Interrupts
    monotonic: Callable[[], float]
    request: str = attrs.field(default="", init=False)
    idle: IdleReason | None = attrs.field(default=None, init=False)
    idle_since: float = attrs.field(default=0.0, init=False)
    going: Going = attrs.field(default=Going(GoingReason.ENDED, ""), init=False)

    def work(self) -> Going:
        with self.interrupts:
            self.beating.begin()
            try:
                reason = self._until_home()
            except NotFound:
                reason = GoingReason.DELETED
            finally:
                self.beating.end()
        if self.interrupts.preempted:
            raise SystemExit(TERMINATED)
        why = self.tally.flapping() if reason is GoingReason.FLAPPING else None
        message = f"{self.name}: {reason}" + ("" if why is None else f": {why}")
        going = attrs.evolve(self.going, reason=reason, message=message)
        _log.log(logging.WARNING if reason in _TO_BE_SEEN else logging.INFO, "went home: %s", going)
        return going

    def _staying(self) -> bool:
        return not self.interrupts.leaving

    # --- asking ----------------------------------------------------------------------------------

    def _until_home(self) -> GoingReason:
        while True:
            if self.interrupts.leaving:
                return GoingReason.INTERRUPTED
            if self.tally.flapping() is not None:
                return GoingReason.FLAPPING
            if self.count is not None and self.going.runs >= self.count:
                return GoingReason.COUNT
            answer = self._ask()
            if isinstance(answer, Idle):
                reason = self._wait(answer.reason)
                if reason is not None:
                    return reason
            elif answer is not None:
                self.idle = None
                self._execute_whole(answer)

    def _ask(self) -> Run | Idle | None:
        """Ask for a run; None if a signal came while the storage failed.

        A request keeps its id until it is answered, so asking again after a lost reply gives the run that is held.
        """
        self.request = uuid.uuid4().hex
        try:
            return self.patience.call(
                "asking for a run",
                lambda: self.sweep.next_run(agent=self.name, request_id=self.request),
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
        if idle is IdleReason.DRAINING and not self.linger:
            return GoingReason.DRAINING
        now = self.monotonic()
        if idle is not self.idle:
            self.idle, self.idle_since = idle, now
            self.waits.reset()
            if idle is IdleReason.STALLED:
                _log.warning(
                    "%s: the search waits although nothing is active; complete() the sweep, or stop it", self.name
                )
            else:
                _log.info("%s: waits, as the sweep is %s", self.name, idle)
        elif idle is IdleReason.STALLED and now - self.idle_since >= self.stalled:
            return GoingReason.STALLED
        self.sleeper.wait(self.waits.next())
        return None

    # --- executing -------------------------------------------------------------------------------

    def _execute_whole(self, run: Run) -> None:
        """Begin a run, execute it and report its end; or give it back."""
        outcome: _Outcome | None = None
        try:
            if not self._begin(run):
                return
            run.stop_raises = self.stop_raises
            self.pulse.watch(copy.copy(run))
            outcome = self._execute(run)
            self._note(run, self._report_end(run, outcome))
        except (KeyboardInterrupt, SystemExit) as leaving:  # outside of the function: its own are its outcome
            self._last_words(run, outcome, leaving)
            raise
        finally:
            self.pulse.in_hand = None
        if outcome.error is not None and not isinstance(outcome.error, Exception) and not self.interrupts.preempted:
            raise outcome.error

    def _begin(self, run: Run) -> bool:
        """Report the start; return whether the function is to be called."""
        if self.interrupts.leaving:
            self.patience.call("giving a run back", run.release)
            return False
        # Of this request alone, so that a start that is repeated after a lost reply is known to be its own.
        execution = f"{self.place}:{self.request}"
        try:
            self.patience.call("reporting a start", lambda: run.start(execution, heartbeats=True))
        except AlreadyStarted as error:
            _log.warning("%s: left to whoever is executing it: %s", self.name, error)
            return False
        except IllegalTransition as error:
            _log.info("%s: a run may not begin any more: %s", self.name, error)
            self.patience.call("saying that a run is gone", run.gone)
            return False
        return True

    def _execute(self, run: Run) -> _Outcome:
        try:
            with self.interrupts.executing():
                result = self.function(run)
        except BaseException as error:  # whatever it is, it is reported first
            return _Outcome(error=error)
        return _Outcome(result)

    def _report_end(self, run: Run, outcome: _Outcome) -> tuple[Event, ...]:
        """Report the end until the storage has it: what was computed must not be lost."""
        try:
            if self.interrupts.preempted and outcome.error is not None:
                self.patience.call("marking a run as preempting", run.mark_preempting)
            return self.patience.call(
                f"reporting the end of run {run.index}", lambda: run.conclude(outcome.result, error=outcome.error)
            )
        except (StorageError, Conflict) as error:
            error.add_note(f"the end of run {run.index} of sweep {run.sweep_id!r} was not stored: it {outcome}")
            raise

    def _note(self, run: Run, events: tuple[Event, ...]) -> None:
        self.going, verdict = self.going.after(run, events)
        if verdict is not None:
            self.tally.note(verdict)

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
            _log.warning("the end of run %d was not stored (it %s): %s", run.index, told, error)
