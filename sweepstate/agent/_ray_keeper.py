"""What of a RayAgent lives in the cluster: the actor that owns its tasks, and what a task is given.

Ray ends the tasks of an owner that dies, so a driver that is to come back may not own them. A detached
actor does: one for each name of an agent, on the head node, whose death ends the cluster anyway. It submits,
cancels, and keeps how each execution ended until that is committed. One actor and not one for each run: an
actor is a process of its own that takes a second to begin, while tasks share workers.

Nothing here knows a storage: workers need not reach it, nor have its password.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, Final

import attrs

from ..core.decide import Answer, End
from ..core.lifecycle import Exit
from ..core.limits import Objective
from ..core.values import FrozenDict
from ..handles.reports import describe, end_of, join

#: The namespace of the actors, whatever the driver's own is: a driver that comes back may have another.
NAMESPACE: Final = "sweepstate"
#: Bytes up to which a function travels with its task, as Ray does it, instead of being fetched by the worker.
_SMALL: Final = 50_000
#: How what executed ended with its owner.
RESTARTED: Final = "the agent's actor died, and Ray ends the tasks of an owner that dies"


def ray() -> Any:
    """Return the module ``ray``, imported when it is first needed.

    By name, because it has no types worth following, and need not be there where types are checked.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ModuleNotFoundError("RayAgent needs Ray: pip install 'sweepstate[ray]'", name="ray") from None


def actor_name(agent: str) -> str:
    """Return the name of an agent's actor, by which tasks and drivers find it."""
    return f"agent:{agent}"


@attrs.frozen
class News:
    """What an agent is told of an execution.

    Attributes:
        execution: which one.
        end: how it ended, once it has.
        metrics: what it reported last on the way.
        said: how often it has reported.
        preempting: whether it said that its machine is about to be taken away.
    """

    execution: str
    end: End | None
    metrics: FrozenDict | None
    said: int
    preempting: bool


class RayRun:
    """A run, as the function of a ``RayAgent`` sees it in the cluster.

    Attributes:
        sweep_id: the id of its sweep.
        index: its number in the sweep, from 0.
        attempt: 1, 2, 3, ...
        config: its configuration.
        objective: what its sweep optimizes, if that was said.
    """

    __slots__ = ("_actor", "_agent", "_execution", "attempt", "config", "index", "objective", "sweep_id")

    def __init__(
        self,
        place: tuple[str, int, int],
        config: FrozenDict,
        *,
        agent: str,
        execution: str,
        objective: Objective | None,
    ) -> None:
        self.sweep_id: str = place[0]
        self.index: int = place[1]
        self.attempt: int = place[2]
        self.config: FrozenDict = config
        self._agent = agent
        self._execution = execution
        self.objective: Objective | None = objective
        self._actor: Any = None

    @property
    def should_stop(self) -> bool:
        """Whether it was asked to end. Asks the agent's actor each time."""
        return self.heartbeat() is Answer.STOP

    def report(self, metrics: Mapping[str, float] | None = None, /, **named: float) -> Answer:
        """Report metrics on the way, for watching and early stopping; the agent commits the newest of them.

        Args:
            metrics: names and numbers; they replace those reported before.
            named: further ones, where the name is an identifier.

        Returns:
            ``STOP`` if it was asked to end, else ``CONTINUE``.

        Raises:
            InvalidValue: a value is not a number.
        """
        return self._say(join(metrics, named))

    def heartbeat(self) -> Answer:
        """Return ``STOP`` if it was asked to end, else ``CONTINUE``. Its agent sends the signs of life."""
        return self._say()

    def mark_preempting(self) -> None:
        """Report that the machine is about to be taken away: whatever ends the run now queues it again."""
        self._say(preempting=True)

    def __repr__(self) -> str:
        return f"<RayRun {self.sweep_id}[{self.index}], attempt {self.attempt}>"

    def _say(self, metrics: FrozenDict | None = None, *, preempting: bool = False) -> Answer:
        if self._actor is None:
            self._actor = ray().get_actor(actor_name(self._agent), namespace=NAMESPACE)
        # Waited for, so that a function that reports in every step cannot run away from the actor.
        asked = ray().get(self._actor.say.remote(self._execution, metrics, preempting))
        return Answer.STOP if asked else Answer.CONTINUE

    def __reduce__(self) -> tuple[object, ...]:
        place = (self.sweep_id, self.index, self.attempt)
        return _run_of, (place, self.config, self._agent, self._execution, self.objective)


def _run_of(
    place: tuple[str, int, int], config: FrozenDict, agent: str, execution: str, objective: Objective | None
) -> RayRun:
    return RayRun(place, config, agent=agent, execution=execution, objective=objective)


# --- in a worker of the cluster --------------------------------------------------------------------


@cache
def _function_of(code: bytes) -> Callable[[RayRun], object]:
    """Return a function, made once in each worker, as Ray does with functions of its own."""
    function: Callable[[RayRun], object] = ray().cloudpickle.loads(code)
    return function


def execute(code: bytes, run: RayRun) -> End:
    """Execute a run, as a task; say how it ended, whatever it did.

    Exceptions are caught here: they may not pickle, and a SystemExit would take the worker along.
    """
    try:
        return end_of(_function_of(code)(run), run.objective)[0]
    except SystemExit as error:
        return _end_of_exit(error)
    except KeyboardInterrupt:
        return End(Exit.INTERRUPT, "KeyboardInterrupt")
    except BaseException as error:
        return End(Exit.ERROR, describe(error))


def _end_of_exit(error: SystemExit) -> End:
    """Return what ``sys.exit`` means, as for a process of its own."""
    code = error.code
    if code is None or code == 0:
        return End(Exit.SUCCESS)
    return End(Exit.ERROR, describe(str(code)), code if isinstance(code, int) and 0 < code < 2**31 else 1)


# --- the actor ------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Held:
    """An execution that the actor owns, or whose end it keeps."""

    sweep_id: str
    ref: Any = None
    watch: asyncio.Future[None] | None = None
    end: End | None = None
    asked: bool = False
    metrics: FrozenDict | None = None
    said: int = 0
    preempting: bool = False
    changed: int = 0


class Keeper:
    """The actor of an agent; see the module. Its methods run one after the other, but where they wait.

    Args:
        birth: what names this actor and no other ever; the same after a restart by Ray, which calls
            the constructor again with the same argument.
    """

    def __init__(self, birth: str) -> None:
        self._birth = birth
        #: Differs after a restart: what was executing before is gone, because its owner was.
        self._life = secrets.token_hex(8)
        self._held: dict[str, _Held] = {}
        self._codes: dict[str, Any] = {}
        #: Executions that somebody was told are not here: were their order to arrive late, they may not begin.
        self._denied: set[str] = set()
        self._left = False
        self._changes = 0
        self._changed = asyncio.Event()

    async def hello(self, digest: str, code: bytes) -> tuple[str, str] | None:
        """Take a function, once; return which actor this is, and which life of it; None if it is to be ended."""
        if self._left:
            return None
        if digest not in self._codes:
            self._codes[digest] = code if len(code) <= _SMALL else ray().put(code)
        return self._birth, self._life

    async def begin(self, digest: str, execution: str, run: RayRun, options: Mapping[str, Any]) -> None:
        """Submit an execution, once, and never one that was said not to be here."""
        if self._left or execution in self._held or execution in self._denied:
            return
        held = self._held[execution] = _Held(run.sweep_id)
        try:
            held.ref = _task(options).remote(self._codes[digest], run)
        except KeyError:
            self._conclude(held, End(Exit.SIGNAL, RESTARTED))
        except Exception as error:
            self._conclude(held, End(Exit.ERROR, describe(error)))
        else:
            held.watch = asyncio.ensure_future(self._watch(held))

    async def ask(self, execution: str, interrupt: bool) -> None:  # noqa: FBT001 - remote calls read best short
        """Ask an execution to end: KeyboardInterrupt is raised in it, if it may be."""
        held = self._held.get(execution)
        if held is not None:
            held.asked = True
            if interrupt and held.end is None:
                ray().cancel(held.ref)

    async def end(self, execution: str) -> None:
        """End an execution abruptly: its worker exits."""
        held = self._held.get(execution)
        if held is not None and held.end is None:
            ray().cancel(held.ref, force=True)

    async def say(self, execution: str, metrics: FrozenDict | None, preempting: bool) -> bool:  # noqa: FBT001 - same
        """Keep what an execution says; return whether it was asked to end."""
        held = self._held.get(execution)
        if held is None:
            return True  # its agent has done with it
        if metrics is not None or preempting:
            if metrics is not None:
                held.metrics = metrics
                held.said += 1
            held.preempting |= preempting
            self._change(held)
        return held.asked

    async def find(self, execution: str) -> bool:
        """Return whether an execution is here; if not, it never will be."""
        if execution in self._held:
            return True
        self._denied.add(execution)
        return False

    async def news(self, after: int, done: Sequence[str], seconds: float) -> tuple[str, int, list[News]]:
        """Wait until there is something new; return this life, a cursor to go on from, and what is new.

        Args:
            after: the cursor; 0 for all that is here.
            done: executions whose end is committed: they are forgotten.
            seconds: how long to wait at most.
        """
        self._forget(done)
        if self._changes <= after:
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)
        fresh = [
            News(name, held.end, held.metrics, held.said, held.preempting)
            for name, held in self._held.items()
            if held.changed > after
        ]
        return self._life, self._changes, fresh

    async def leave(self, done: Sequence[str], sweep_id: str | None) -> bool:
        """Return whether nothing is held here, and take nothing any more if so: then it may be ended.

        Args:
            done: executions whose end is committed.
            sweep_id: a sweep of which nothing is wanted any more: what its driver has not claimed by now was
                concluded by an earlier driver that could not say so, or is of an attempt that was given up.
        """
        self._forget(done)
        for execution, held in list(self._held.items()):
            if held.sweep_id == sweep_id:
                await self.end(execution)
                self._forget([execution])
        self._left = not self._held
        return self._left

    def _forget(self, done: Sequence[str]) -> None:
        for execution in done:
            self._held.pop(execution, None)

    async def _watch(self, held: _Held) -> None:
        """Wait for the end of an execution, and keep it."""
        try:
            end: End = await held.ref
        except Exception as error:
            end = _end_of_ray(error)
        self._conclude(held, end)

    def _conclude(self, held: _Held, end: End) -> None:
        held.end = end
        held.ref = held.watch = None
        self._change(held)

    def _change(self, held: _Held) -> None:
        self._changes += 1
        held.changed = self._changes
        self._changed.set()


def _end_of_ray(error: Exception) -> End:
    """Return what it means that a task has no result; see ``ray.exceptions``."""
    errors = import_module("ray.exceptions")
    text = describe(error)
    if isinstance(error, errors.TaskCancelledError):
        return End(Exit.INTERRUPT, text)
    # A function that a worker cannot load, an environment that cannot be made, resources that cannot be had:
    # all of them would be so again.
    refused = (
        errors.RayTaskError,
        errors.RuntimeEnvSetupError,
        errors.TaskUnschedulableError,
        errors.TaskPlacementGroupRemoved,
    )
    if isinstance(error, refused) or not isinstance(error, errors.RayError):
        return End(Exit.ERROR, text)
    # A worker, its node, its raylet or its memory: nobody sent that on purpose.
    return End(Exit.SIGNAL, text)


@cache
def _remote() -> Any:
    return ray().remote(max_retries=0)(execute)


def _task(options: Mapping[str, Any]) -> Any:
    """Return the task with its options; retries are ours, counted, and not Ray's."""
    return _remote().options(**options, max_retries=0)


def check_options(options: Mapping[str, Any]) -> None:
    """Let Ray look at options, without submitting anything.

    Raises:
        ValueError, TypeError: of Ray.
    """
    _task(options)
