"""RayAgent: each run is a task on a Ray cluster. Needs the extra ``ray``.

The tasks belong to an actor in the cluster (see ``_ray_keeper``), so that a driver that died comes back and goes
on with them. This side tells the actor what to do, and hears from it in one thread how executions go.

A start is reported when its order comes, before the task is submitted: refused if somebody else began, and
found again after a crash at any point. So a run that waits in the cluster's queue is RUNNING, with this agent's
heartbeats; a sweep with ``max_active`` at what the cluster can execute at once has none that wait.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from ..core.decide import End
from ..core.errors import IllegalTransition, InvalidValue
from ..core.lifecycle import Exit
from ..core.values import FrozenDict, check_flag, check_number, show
from ._ray_keeper import NAMESPACE, RESTARTED, Keeper, News, RayRun, actor_name, check_options, ray
from .driving import DrivenAgent, Execution, Report, Trace

if TYPE_CHECKING:
    from ..run import Run
    from ..sweep import Sweep

__all__ = ["RayAgent", "RayRun"]

_log: Final = logging.getLogger("sweepstate")
#: Seconds that an answer of the actor may take, its start included.
_ANSWER: Final = 60.0
#: Seconds for which the actor is asked to wait for news.
_LISTEN: Final = 10.0
#: Seconds after which an order of which nothing was heard is asked after; to ask costs a millisecond.
_DOUBT: Final = 5.0
#: Seconds after which the one who waits for that sees that nobody is interested any more.
_GLANCE: Final = 0.5
#: What the agent decides itself: how often a task is tried, and what comes back.
_OURS: Final = frozenset({"max_retries", "num_returns", "retry_exceptions"})

Options: TypeAlias = Callable[[FrozenDict], Mapping[str, Any]]


@attrs.define(eq=False, slots=False)
class RayExecution(Execution):
    """A task.

    Attributes:
        life: of the actor that it was given to; in another life of it, it is gone.
        order: what becomes of the actor's order to begin, until that is known.
        doubted_at: when to ask for that, by the agent's own clock.
        said: how many of its reports are committed.
        preempting: whether it is committed that it is preempting.
    """

    life: str
    order: Any = None
    doubted_at: float = 0.0
    said: int = 0
    preempting: bool = False


class _Link:
    """The agent's actor, as this process knows it."""

    def __init__(self, actor: Any, birth: str, life: str) -> None:
        self.actor = actor
        self.birth = birth
        self.life = life
        self.listener: threading.Thread | None = None


class RayAgent(DrivenAgent[Mapping[str, Any], RayExecution]):
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
        name: stable over restarts; orders are addressed to it.
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
        name: str = "ray",
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        options: Options | None = None,
        interrupts: bool = True,
        poll: float = 1.0,
        patience: float = 600.0,
    ) -> None:
        super().__init__(name, poll=poll, patience=patience)
        if not callable(function):
            raise InvalidValue("function", f"{show(function)} cannot be called", "give a function of a run")
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
        try:
            self._code: Final[bytes] = ray().cloudpickle.dumps(function)
        except Exception as error:
            raise InvalidValue("function", f"cannot be pickled: {error}", "let it make what it needs") from error
        self._digest: Final = hashlib.sha256(self._code).hexdigest()
        self._link: _Link | None = None
        self._linking: Final = threading.Lock()
        self._news: Final[dict[str, News]] = {}
        #: Executions whose end is committed, of which the actor has not been told yet.
        self._done: Final[list[str]] = []

    def drive(self, sweep: Sweep, *, signals: bool = True) -> bool:
        """Drive a sweep until it is done; see ``DrivenAgent.drive``. Leaves the cluster if nothing executes there."""
        done = super().drive(sweep, signals=signals)
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
        with self._linking:
            link, self._link = self._link, None
        if link is None:
            return True
        try:
            left: bool = ray().get(link.actor.leave.remote(self._done[:], sweep_id), timeout=_ANSWER)
        except _errors().RayActorError:
            left = True
        if left:
            ray().kill(link.actor)
        self._stop_listening(link)
        self._done.clear()
        self._news.clear()
        return left

    # --- what DrivenAgent asks ---------------------------------------------------------------------

    def _prepare(self, run: Run) -> Mapping[str, Any]:
        options = {"name": f"{run.sweep_id}[{run.index}]", **self._options}
        if self._options_for is not None:
            options |= self._options_for(run.config)
            _check("options", options)
        self._connect()
        return options

    def _execution_name(self) -> str:
        return f"ray:{self._connect().birth}:{secrets.token_hex(8)}"

    def _launch(self, run: Run, prepared: Mapping[str, Any]) -> RayExecution:
        link = self._connect()
        name = _name(run)
        place = (run.sweep_id, run.index, run.attempt)
        task = RayRun(place, run.config, agent=self.name, execution=name, objective=run.objective)
        order = link.actor.begin.remote(self._digest, name, task, prepared)
        return RayExecution(run, link.life, order, self._now() + _DOUBT)

    def _ask(self, execution: RayExecution) -> None:
        self._connect().actor.ask.remote(_name(execution.run), self._interrupt)

    def _end(self, execution: RayExecution) -> None:
        self._connect().actor.end.remote(_name(execution.run))

    def _look(self, execution: RayExecution) -> Report | None:
        run = execution.run
        news = self._news.get(_name(run))
        if news is None:
            return self._missing(execution)
        if news.preempting and not execution.preempting:
            with suppress(IllegalTransition):  # it has nobody any more: its verdict stands
                run.mark_preempting()
            execution.preempting = True
        if news.metrics is not None and news.said > execution.said:
            run.report(news.metrics)
            execution.said = news.said
        return None if news.end is None else _report_of(news.end)

    def _find(self, run: Run) -> RayExecution | Trace:
        name = run.execution or ""
        if not name.startswith("ray:"):
            return Trace.UNKNOWN
        link = self._connect()
        if ray().get(link.actor.find.remote(name), timeout=_ANSWER):
            return RayExecution(run, link.life)
        return Trace.GONE if name.split(":")[1] == link.birth else Trace.UNKNOWN

    def _released(self, execution: RayExecution) -> None:
        name = _name(execution.run)
        self._done.append(name)
        self._news.pop(name, None)

    # --- the actor --------------------------------------------------------------------------------

    def _missing(self, execution: RayExecution) -> Report | None:
        """Look after an execution of which the actor has said nothing yet."""
        link = self._connect()
        if execution.life == link.life and not self._is_lost(execution):
            return None
        # The actor that owned it is gone, or never had it; and if this one has not got it, it never will.
        if ray().get(link.actor.find.remote(_name(execution.run)), timeout=_ANSWER):
            execution.life = link.life
            return None
        return _report_of(End(Exit.SIGNAL, RESTARTED))

    def _is_lost(self, execution: RayExecution) -> bool:
        """Return whether the order to begin did not reach the actor."""
        if execution.order is None or self._now() < execution.doubted_at:
            return False
        if not ray().wait([execution.order], timeout=0)[0]:
            execution.doubted_at += _DOUBT
            return False
        order, execution.order = execution.order, None
        try:
            ray().get(order)
        except _errors().RayActorError:
            return True
        return False

    def _connect(self) -> _Link:
        link = self._link
        if link is not None:
            return link
        with self._linking:
            if self._link is None:
                link = self._link = _Link(*self._meet())
                link.listener = threading.Thread(
                    target=self._listen, args=(link,), name=f"sweepstate agent {self.name}", daemon=True
                )
                link.listener.start()
                # Ray leaves when the interpreter exits, and ends a process whose threads still ask it with status 1.
                # What is registered last is called first.
                atexit.register(self._stop_listening, link)
            return self._link

    def _stop_listening(self, link: _Link) -> None:
        atexit.unregister(self._stop_listening)
        if self._link is link:
            self._link = None
        if link.listener is not None:
            link.listener.join(_ANSWER)

    def _meet(self) -> tuple[Any, str, str]:
        """Return the agent's actor, made if there is none, and which birth and life of it."""
        module = ray()
        if not module.is_initialized():
            remedy = "call ray.init(address=...) first: the agent does not start Ray"
            raise InvalidValue("ray", "this process is not connected to a cluster", remedy)
        until = time.monotonic() + _ANSWER
        while True:
            actor = _actor(self.name)
            try:
                met: tuple[str, str] | None = module.get(actor.hello.remote(self._digest, self._code), timeout=_ANSWER)
            except _errors().ActorDiedError:  # its name is not free yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
                continue
            if met is not None:
                return actor, *met
            module.kill(actor)  # left by a driver that died before it could do this

    def _listen(self, link: _Link) -> None:
        """Hear from the actor, in a thread of its own, until it is left."""
        after = 0
        while self._is_heard(link):
            done = self._done[:]
            try:
                answer = link.actor.news.remote(after, done, _LISTEN)
                while not ray().wait([answer], timeout=_GLANCE)[0]:
                    if not self._is_heard(link):
                        return
                life, after, fresh = ray().get(answer)
            except (
                Exception,
                SystemExit,
            ) as error:  # Ray raises SystemExit too, which would end this thread in silence
                if not self._is_heard(link):
                    return
                _log.warning("agent %r: its actor does not answer: %s", self.name, error)
                after = self._meet_again(link)
                continue
            if life != link.life:
                after = self._meet_again(link)
                continue
            del self._done[: len(done)]
            for news in fresh:
                self._news[news.execution] = news
            if fresh:
                self._wake.set()

    def _is_heard(self, link: _Link) -> bool:
        # To ask Ray after its shutdown ends the process.
        return self._link is link and bool(ray().is_initialized())

    def _meet_again(self, link: _Link) -> int:
        """Find the actor after a restart, or have another; return the cursor to begin with."""
        try:
            link.actor, link.birth, link.life = self._meet()
        except Exception as error:
            _log.warning("agent %r: no actor in the cluster: %s", self.name, error)
            time.sleep(1.0)
        else:
            for name, news in list(self._news.items()):
                if news.end is None:  # of an earlier life
                    self._news.pop(name, None)
        self._wake.set()
        return 0


def _name(run: Run) -> str:
    """Return what names the execution of a run whose start is reported."""
    return run.execution or ""


def _report_of(end: End) -> Report:
    text = end.message or ""
    match end.how:
        case Exit.SUCCESS:
            return lambda run: run.finish(end.metrics)
        case Exit.ERROR:
            return lambda run: run.fail(text, exit_code=end.exit_code)
        case Exit.INTERRUPT:
            return lambda run: run.interrupt(text)
        case _:
            return lambda run: run.crash(text)


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


def _errors() -> Any:
    return ray().exceptions


def _actor(agent: str) -> Any:
    """Return an agent's actor, made if there is none: on the head node, whose death ends the cluster anyway."""
    kind = ray().remote(Keeper)
    return kind.options(
        name=actor_name(agent),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        resources={"node:__internal_head__": 0.0001},
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=10_000,
    ).remote(secrets.token_hex(8))
