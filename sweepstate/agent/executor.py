"""ExecutorAgent: each run is a call in an executor: threads, processes, loky, Dask, or Slurm by submitit.

What the agent asks of an executor is ``submit``, and of what that returns ``done``,
``cancel`` and ``result``; with ``add_done_callback`` it is told of ends, and without
it looks every ``poll`` seconds. Nothing here imports any of these libraries.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import attrs

from ..core.decide import End
from ..core.errors import AgentError, InvalidValue
from ..core.lifecycle import Exit
from ..core.values import describe_error, show
from ..handles.checks import check_immediate_function
from ..handles.reports import describe, end_by
from ..storage.memory import MemoryStorage
from ._calls import Call, Outcome, packed, tell
from ._executors import (
    Submits,
    cancel,
    check_sendable,
    comes_from,
    has_died,
    is_broken,
    keeps_cancelled,
    shares_memory,
    submit,
    usable,
    workers,
)
from ._obeying import name_here
from ._room import has_room
from .driving import DrivenAgent, Execution, Report, Trace

if TYPE_CHECKING:
    from ..run import Run
    from ..sweep import Sweep

#: What a function is given: the run's handle, or its configuration alone.
Gives: TypeAlias = Literal["run", "config"]
#: Seconds after which a job that is still there is cancelled once more; Slurm itself waits for 30 s (KillWait).
_AGAIN: Final = 60.0


@attrs.define(eq=False, slots=False)
class Submitted(Execution):
    """A call that was submitted.

    Attributes:
        future: what stands for it; None if it could not be submitted.
        executor: where it was submitted.
        waited_for: whether a thread waits for its result.
        found: how it ended, as that thread has found.
        cancelled_at: when a job was last cancelled, by the agent's clock.
    """

    future: Any
    executor: Submits | None = None
    waited_for: bool = False
    found: Report | None = None
    cancelled_at: float | None = None


class ExecutorAgent(DrivenAgent[Call, Submitted]):
    """Executes runs in an executor: threads, processes, loky, Dask's ``client.get_executor()``, submitit's.

    The start of a run is reported when it is submitted, also if the executor has it wait: whoever reports it
    first is the only one who executes it. So give the sweep ``Limits(max_active=...)`` of as many as the
    executor works on at once; on a cluster, of as many as may wait in its queue. Without such a limit there are as many
    as a pool has workers, or this machine CPUs.

    In threads the function has the run's handle, and ends when it sees ``run.should_stop`` or is told by
    ``run.report``, also by an exception if it has set ``run.stop_raises``. In another process it has a copy of
    the handle, which reports to the same storage; so the sweep needs one that processes share, such as
    ``SQLiteStorage``. With ``gives="config"`` the function is
    given the configuration and nothing else; that needs no storage, and such a call cannot be asked to end.

    An exception fails its run. ``SystemExit`` and ``KeyboardInterrupt`` are reported as by ``with run:``; the
    worker of the pool goes on. A call whose process died is CRASHED, and so are all that a pool of processes had then.

    Args:
        executor: an executor, which stays its maker's to shut down. Or a function that makes one: it
            is called now, and again after the executor broke; what it made is shut down when ``drive`` returns.
        function: is given what ``gives`` says, and returns metrics: a mapping, or a number if the
            sweep has an objective, or None. For a pool of processes, one of a module's top level.
        name: stable over restarts, and different for agents that drive the same sweep at once: runs are handed to the
            name, and whoever has it begins them. "executor@HOST" if it is not given; give one if several drive on
            this machine, or if its name is another one after a restart, as a container's often is.
        gives: ``"run"``: the run's handle; ``"config"``: a dictionary.
        can_kill: whether ``cancel()`` ends a call that is being executed. Known for submitit (it cancels the job);
            threads, pools of processes and Dask cannot end one alone: there a call that has not
            begun is cancelled where that is safe (not in a pool of processes before Python 3.12, nor in
            Dask), and another one learns it from ``run.should_stop``.
        poll: seconds between two looks at what others have done to the sweep, and at calls that tell nobody of
            their end.
        patience: seconds for which the storage may be away before ``drive`` gives up.

    Attributes:
        function: as it was given.
        gives: as it was given.
        can_kill: whether a call that is being executed can be ended, as given or as known of the executor.

    Raises:
        InvalidValue: there is no executor or function in its place, or the function cannot be sent to another process.
    """

    def __init__(
        self,
        executor: Submits | Callable[[], Submits],
        function: Callable[..., object],
        *,
        name: str | None = None,
        gives: Gives = "run",
        can_kill: bool | None = None,
        poll: float = 1.0,
        patience: float = 600.0,
    ) -> None:
        super().__init__(name_here("executor") if name is None else name, poll=poll, patience=patience)
        check_immediate_function(function)
        if gives not in ("run", "config"):
            raise InvalidValue("gives", f"must be 'run' or 'config', not {show(gives)}")
        self.function: Callable[..., object] = function
        self.gives: Gives = gives
        made = isinstance(executor, type) or not hasattr(executor, "submit")
        self._make: Callable[[], Submits] | None = _maker(executor) if made else None
        self._executor: Submits | None = _made(self._make) if self._make is not None else usable(executor)
        check_sendable(self._executor, function)
        if can_kill is None:
            can_kill = comes_from(self._executor, "submitit")
        self.can_kill: bool = can_kill
        # Whether a call that has not begun can be cancelled without harm to others.
        self._cancels: bool = can_kill or keeps_cancelled(self._executor)
        # Whether calls execute in threads of this process.
        self._here: bool = shares_memory(self._executor)
        self._workers: int = workers(self._executor)
        # Why nothing can be submitted any more.
        self._broken: str | None = None

    def drive(self, sweep: Sweep, *, signals: bool = True, count: int | None = None) -> bool:
        """Drive a sweep until it is done; see ``DrivenAgent.drive``.

        Returns:
            Whether the sweep is done.

        Raises:
            InvalidValue: as there; or the sweep's handles cannot be sent to another process.
            SearchError, StorageError: as there.
            AgentError: the executor broke, or was shut down, and there is no function that makes another. What it
                had is reported; no further run was handed out.
        """
        self._check_handles(sweep)
        self._check_working()
        try:
            done = super().drive(sweep, signals=signals, count=count)
        finally:
            if self._make is not None and not self._executions:
                self._shut_down()
        self._check_working()
        return done

    def _check_working(self) -> None:
        if self._broken is not None:
            remedy = "make another agent, or give this one a function that makes executors"
            raise AgentError(self.name, (f"start: the executor takes no calls any more ({self._broken}); {remedy}",))

    def _check_handles(self, sweep: Sweep) -> None:
        """Refuse a sweep whose handles cannot be sent, before each of its runs fails for it."""
        if not self._sends:
            return
        if isinstance(sweep.storage, MemoryStorage):
            remedy = "give the sweep a storage that processes share, such as SQLiteStorage, or set gives='config'"
            raise InvalidValue("gives", "a run of a sweep in memory cannot be given to another process", remedy)
        packed(sweep)

    @property
    def _sends(self) -> bool:
        """Whether a run's handle goes to another process."""
        return self.gives == "run" and not self._here

    def _has_room(self) -> bool:
        return has_room(list(self._executions.values()), self._workers)

    # --- what DrivenAgent asks ----------------------------------------------------------------------

    def _prepare(self, run: Run) -> Call:
        # The sweep's objective, as the handle has seen it.
        objective = run.objective
        if self.gives == "config":
            return Call(self.function, dict(run.config), objective)
        return Call(self.function, run, objective)

    def _launch(self, run: Run, prepared: Call) -> Submitted:
        call = prepared
        if self._sends:
            call = attrs.evolve(call, given=packed(run))
        try:
            future = self._submit(call)
        except Exception as error:
            if not is_broken(error):
                raise
            self._note_broken(error, self._executor)
            return Submitted(run, None, report=partial(tell, _crash(error)))
        told = getattr(future, "add_done_callback", None)
        if told is not None:
            told(self._woken)
        return Submitted(run, future, self._executor)

    def _submit(self, call: Call) -> Any:
        """Submit a call; once more if the executor is found broken and there is another."""
        try:
            return submit(self._working(), call)
        except Exception as error:
            if self._make is None or not is_broken(error):
                raise
        self._shut_down()
        return submit(self._working(), call)

    def _woken(self, _future: object) -> None:
        self._wake.set()

    def _ask(self, execution: Submitted) -> None:
        if not self.can_kill and self._cancels:  # of a pool: what has not begun is cancelled, and nothing else
            cancel(execution.future)

    def _end(self, execution: Submitted) -> None:
        if self.can_kill:
            # Not each time that it is asked for: a second signal would interrupt submitit while it ends the job's
            # processes (submitit/local/local.py, Controller.kill_tasks), and they would stay.
            if execution.cancelled_at is None or self._now() - execution.cancelled_at > _AGAIN:
                execution.cancelled_at = self._now()
                cancel(execution.future)
        else:
            # How it ends is of interest unless it never began.
            execution.ended = self._cancels and cancel(execution.future)

    def _look(self, execution: Submitted) -> Report | None:
        future = execution.future
        if future is None or not future.done():
            return None
        if execution.ended:
            return _gone
        if hasattr(future, "add_done_callback"):
            return self._report_of(execution)
        if not execution.waited_for:
            # submitit waits for a file of the result, up to 15 s if the job has died (submitit/core/core.py).
            execution.waited_for = True
            threading.Thread(target=self._collect, args=(execution,), name="sweepstate-result", daemon=True).start()
        return execution.found

    def _collect(self, execution: Submitted) -> None:
        execution.found = self._report_of(execution)
        self._wake.set()

    def _report_of(self, execution: Submitted) -> Report:
        """Return what a call that is over says about its run."""
        try:
            outcome: Outcome = execution.future.result()
        except CancelledError:
            return _gone
        except BaseException as error:  # of the executor: the call itself returns how it ended
            if isinstance(error, BrokenExecutor):
                self._note_broken(error, execution.executor)
            return partial(tell, _crash(error) if has_died(error) else end_by(error))
        execution.systematic = outcome.systematic
        return _gone if outcome.end is None else partial(tell, outcome.end)

    def _find(self, run: Run) -> Trace:
        """Threads end with their process, so of one that is not there any more nothing executes."""
        if self._here and run.execution is not None and os.name == "posix":
            # As ``_execution_name`` puts it together: host, process, digits.
            host, _, process = run.execution.rpartition(":")[0].rpartition(":")
            if host == socket.gethostname() and process.isdigit() and not _lives(int(process)):
                return Trace.GONE
        return Trace.UNKNOWN

    # --- the executor -------------------------------------------------------------------------------

    def _working(self) -> Submits:
        """Return the executor; make another one if the last is gone."""
        if self._executor is None:
            assert self._make is not None  # noqa: S101 - an executor that was given stays
            self._executor = _made(self._make)
        return self._executor

    def _note_broken(self, error: BaseException, executor: Submits | None) -> None:
        """Get another executor where that can be; else take no more runs, each of which would fail."""
        if self._make is not None:
            if executor is self._executor:  # and not one that was made since
                self._shut_down()
        else:
            self._broken = describe_error(error)
            self._leaving = True

    def _shut_down(self) -> None:
        executor, self._executor = self._executor, None
        if isinstance(executor, Executor):
            executor.shutdown(wait=False)


def _gone(run: Run) -> object:
    """Report that nothing executes; that changes nothing if the end was reported already."""
    return run.gone()


def _crash(error: BaseException) -> End:
    return End(Exit.SIGNAL, describe(error))


def _lives(process: int) -> bool:
    """Return whether there is a process of this number; perhaps another one by now."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _maker(make: Any) -> Callable[[], Submits]:
    if not callable(make):
        raise InvalidValue("executor", f"{show(make)} is no executor", "e.g. ThreadPoolExecutor(4)")
    return make  # type: ignore[no-any-return]


def _made(make: Callable[[], Submits]) -> Submits:
    return usable(make())
