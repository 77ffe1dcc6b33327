"""RayAgent: each run is a task on a Ray cluster. Needs the extra ``ray``.

The tasks belong to an actor in the cluster (see ``_ray_keeper``), so that a driver that died comes back and goes
on with them. This side tells the actor what to do, and is told by it how executions go (see ``_ray_line``).

A start is reported when its order comes, before the task is submitted: refused if somebody else began, and
found again after a crash at any point. So a run that waits in the cluster's queue is RUNNING, with this agent's
heartbeats; a sweep with ``max_active`` at what the cluster can execute at once has none that wait.
"""

from __future__ import annotations

import pickle
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from ..core.errors import InvalidValue
from ..core.values import FrozenDict, check_flag, check_number, show
from ..handles.checks import check_immediate_function
from ._calls import Outcome, tell
from ._obeying import name_here
from ._ray_keeper import RESTARTED, Abort, Ask, Begin, Forget, KeeperOrder, News, check_options
from ._ray_line import Line
from ._ray_run import RayRun, ray
from .driving import DrivenAgent, Execution, Report, Trace

if TYPE_CHECKING:
    from ..run import Run
    from ..sweep import Sweep

__all__ = ["RayAgent", "RayRun"]

#: What the agent decides itself: how often a task is tried, and what comes back.
_OURS: Final = frozenset({"max_retries", "num_returns", "retry_exceptions"})

Options: TypeAlias = Callable[[FrozenDict], Mapping[str, Any]]


@attrs.define(eq=False, slots=False)
class RayExecution(Execution):
    """A task.

    Attributes:
        doubts: those of the agent's line at which it was known that the actor has it.
        said: how many of its reports are committed.
    """

    doubts: int
    said: int = 0


class RayAgent(DrivenAgent[bytes, RayExecution]):
    """Executes each run as a task on a Ray cluster.

    Connect first: ``ray.init(address=...)``; the agent never starts Ray. Then ``agent.drive(sweep)``. The function is
    pickled by ``cloudpickle`` and given a ``RayRun``: ``config``, ``report``, ``should_stop``, ``mark_preempting``.
    It returns its metrics: a mapping, or a number if the sweep has an objective, or None. Workers need this
    package, and not the storage.

    A stop raises KeyboardInterrupt in the function (``ray.cancel``), whose handlers may run; what it returns
    then counts. A kill ends the worker. A worker, a node or a memory that gave out make the run CRASHED; Ray
    is never asked to retry, ``limits.retries`` is.

    If the driver dies, what executes goes on. Start it again with the same name on the same cluster, and it
    goes on with its runs, those that ended meanwhile included. After another cluster was started, they are
    left to silence (``heartbeat_timeout``): nobody can say whether the first one is gone.

    Raises:
        InvalidValue: an argument cannot be.
        ModuleNotFoundError: Ray is not installed: ``pip install 'sweepstate[ray]'``.

    Args:
        function: is given a ``RayRun``.
        name: stable over restarts, and different for agents that drive the same sweep at once. "ray@HOST" if it is
            not given; give one if the driver may come back on another machine.
        num_cpus: that each run takes.
        num_gpus: that each run takes; parts of one are possible.
        resources: custom ones that each run takes.
        options: is given a configuration and returns what differs for it, as ``ray.remote`` takes it: ``num_gpus``,
            ``memory``, ``runtime_env``, ``scheduling_strategy`` and so on.
        interrupts: whether a stop raises KeyboardInterrupt; if not, the function learns it from ``run.should_stop``
            and from what ``run.report`` returns, and is killed after ``limits.stop_grace``.
        poll: seconds between two looks at what others have done to the sweep.
        patience: seconds for which the storage may be away before ``drive`` gives up.
    """

    def __init__(
        self,
        function: Callable[[RayRun], object],
        *,
        name: str | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        options: Options | None = None,
        interrupts: bool = True,
        poll: float = 1.0,
        patience: float = 600.0,
    ) -> None:
        super().__init__(name_here("ray") if name is None else name, poll=poll, patience=patience)
        check_immediate_function(function)
        if options is not None and not callable(options):
            raise InvalidValue("options", f"{show(options)} cannot be called", "give a function of a configuration")
        self._options: Final[dict[str, Any]] = {
            "num_cpus": check_number(num_cpus, "num_cpus"),
            "num_gpus": check_number(num_gpus, "num_gpus"),
            "resources": dict(resources or {}),
        }
        for field, value in self._options.items():
            _check(field, {field: value})
        self._options_for: Final = options
        self._interrupt: Final = check_flag(interrupts, "interrupts")
        self._code: Final = _pickled("function", function)
        self._line: Line | None = None
        self._connecting: Final = threading.Lock()
        self._driver: int | None = None  # the thread that drives
        self._news: Final[dict[str, News]] = {}

    def drive(self, sweep: Sweep, *, signals: bool = True, count: int | None = None) -> bool:
        """Drive a sweep until it is done; see ``DrivenAgent.drive``. Leaves the cluster if nothing executes there.

        Returns:
            Whether the sweep is done.

        Raises:
            InvalidValue: as there; or this process is not connected to a cluster.
            SearchError, StorageError: as there.
            ConnectionError: the agent's actor did not answer for too long, or when it was to be ended.
        """
        try:
            self._connect()  # here, or each run would fail for a cluster that is not there
            done = super().drive(sweep, signals=signals, count=count)
        except BaseException:
            with suppress(OSError):
                self._leave(None)
            raise
        self._leave(sweep.id)
        return done

    def close(self) -> bool:
        """End the agent's actor in the cluster, if it has nothing left; return whether it has not.

        What executes is not touched. ``drive`` does this in the end; it is of use to those who tick.
        """
        return self._leave(None)

    def _leave(self, sweep_id: str | None) -> bool:
        if self._executions or self._launching:
            return False
        with self._connecting:
            line, self._line = self._line, None
        self._news.clear()
        return line is None or (line.connected and line.leave(sweep_id))

    # --- what DrivenAgent asks ---------------------------------------------------------------------

    def _prepare(self, run: Run) -> bytes:
        options = {"name": f"{run.sweep_id}[{run.index}]", **self._options}
        if self._options_for is not None:
            options |= self._options_for(run.config)
            _check("options", options)
        self._connect()
        return _pickled("options", options)

    def _execution_name(self) -> str:
        return f"ray:{self._connect().birth}:{secrets.token_hex(8)}"

    def _launch(self, run: Run, prepared: bytes) -> RayExecution:
        line = self._connect()
        name = _name(run)
        place = (run.sweep_id, run.index, run.attempt)
        task = RayRun(place, run.config, agent=self.name, execution=name, objective=run.objective)
        self._say(Begin(name, run.sweep_id, line.digest, pickle.dumps(task), prepared))
        return RayExecution(run, line.doubts)

    def _ask(self, execution: RayExecution) -> None:
        self._say(Ask(_name(execution.run), self._interrupt))

    def _end(self, execution: RayExecution) -> None:
        self._say(Abort(_name(execution.run)))

    def _released(self, execution: RayExecution) -> None:
        name = _name(execution.run)
        self._say(Forget(name))
        self._news.pop(name, None)

    def _hear(self) -> None:
        if self._line is not None:
            for news in self._connect().hear():
                self._news[news.execution] = news

    def _look(self, execution: RayExecution) -> Report | None:
        run, line = execution.run, self._line or self._connect()
        news = self._news.get(_name(run))
        if news is not None and news.outcome is not None:
            execution.systematic = news.outcome.systematic
            return partial(self._report, execution, news, news.outcome)
        if execution.doubts != line.doubts:
            match self._sought(_name(run), line):
                case Trace.GONE:
                    return lambda run: run.crash(RESTARTED)
                case Trace.UNKNOWN:
                    raise ConnectionError("it was begun in a cluster of which nobody can say whether it is gone")
                case None:
                    execution.doubts = line.doubts
        if news is not None:
            self._pass_on(execution, news)
        return None

    def _report(self, execution: RayExecution, news: News, outcome: Outcome, run: Run) -> object:
        self._pass_on(execution, news)
        return run.gone() if outcome.end is None else tell(outcome.end, run)

    def _pass_on(self, execution: RayExecution, news: News) -> None:
        """Commit what an execution has said on the way."""
        run = execution.run
        if news.preempting:
            self._mark_preempting(execution)
        if news.metrics is not None and news.said > execution.said:
            run.report(news.metrics)
            execution.said = news.said

    def _find(self, run: Run) -> RayExecution | Trace:
        name = run.execution or ""
        if not name.startswith("ray:"):
            return Trace.UNKNOWN
        line = self._connect()
        return self._sought(name, line) or RayExecution(run, line.doubts)

    def _sought(self, name: str, line: Line) -> Trace | None:
        """Return None for an execution that is at the actor, else what is known: what another cluster has is not."""
        if line.find(name):
            return None
        return Trace.GONE if name.split(":")[1] in line.births else Trace.UNKNOWN

    # --- the actor --------------------------------------------------------------------------------

    def _drive(self, sweep: Sweep) -> None:
        self._driver = threading.get_ident()
        try:
            super()._drive(sweep)
        finally:
            self._driver = None
            self._send()

    def _wait(self, seconds: float) -> None:
        self._send()
        super()._wait(seconds)

    def _send(self) -> None:
        if self._line is not None:
            self._line.send()

    def _say(self, order: KeeperOrder) -> None:
        """Give the actor an order: in the thread that drives with all others of its round, else at once."""
        line = self._connect()
        line.say(order)
        if threading.get_ident() != self._driver:
            line.send()

    def _connect(self) -> Line:
        line = self._line
        if line is not None and line.connected:
            return line
        with self._connecting:
            if self._line is None or not self._line.connected:
                self._line = Line(self.name, self._code, self._wake.set, self._now, before=self._line)
            return self._line


def _name(run: Run) -> str:
    """Return what names the execution of a run whose start is reported."""
    return run.execution or ""


def _pickled(field: str, value: object) -> bytes:
    """Return what the cluster is given of an argument.

    Raises:
        InvalidValue: it cannot be pickled.
    """
    try:
        pickled: bytes = ray().cloudpickle.dumps(value)
    except Exception as error:
        raise InvalidValue(field, f"cannot be pickled: {error}", "let the function make what it needs") from error
    return pickled


def _check(field: str, options: Mapping[str, Any]) -> None:
    """Let Ray say whether it takes options.

    Raises:
        InvalidValue: it does not.
    """
    if ours := sorted(_OURS & set(options)):
        raise InvalidValue(field, f"{', '.join(ours)}: decided by the agent", "use Limits(retries=...) for retries")
    try:
        check_options(options)
    except (TypeError, ValueError) as error:
        raise InvalidValue(field, str(error), "see ray.remote for what there is") from error
