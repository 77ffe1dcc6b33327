"""What of a RayAgent lives in the cluster: the actor that owns its tasks.

Ray ends the tasks of an owner that dies, so a driver that is to come back may not own them. A detached
actor does: one for each name of an agent, on the head node, whose death ends the cluster anyway. It submits,
cancels, and keeps how each execution ended until that is committed. One actor and not one for each run: an
actor is a process of its own that takes a second to begin, while tasks share workers.
"""

from __future__ import annotations

import asyncio
import pickle
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, Final, NamedTuple, TypeAlias

import attrs

from ..core.decide import End
from ..core.lifecycle import Exit
from ..core.values import FrozenDict
from ..handles.reports import describe
from ._calls import Outcome
from ._ray_run import execute, ray

#: Bytes up to which a function travels with its task, as Ray does it, instead of being fetched by the worker.
_SMALL: Final = 50_000
#: Seconds for which an answer waits for more of what it tells: an answer costs as much as half a short task.
_GATHER: Final = 0.002
#: How what executed ended with its owner.
RESTARTED: Final = "the agent's actor died, and Ray ends the tasks of an owner that dies"


class Begin(NamedTuple):
    """An order: submit an execution, once, and never one that was said not to be here.

    Attributes:
        execution: what names it.
        sweep_id: the id of its sweep.
        digest: of the function, which the actor was given when it was met.
        run: a ``RayRun``, pickled: the actor only hands it on.
        options: of Ray, for the task; pickled too, so that what cannot be read there is about this execution alone.
    """

    execution: str
    sweep_id: str
    digest: str
    run: bytes
    options: bytes


class Ask(NamedTuple):
    """An order: ask an execution to end, once; KeyboardInterrupt is raised in it, if it may be."""

    execution: str
    interrupts: bool


class Abort(NamedTuple):
    """An order: end an execution abruptly, its worker with it; one that is not here may not begin any more."""

    execution: str


class Forget(NamedTuple):
    """An order: forget an execution, whose end is committed."""

    execution: str


#: What an actor is told. Each may arrive more than once, in the same life of the actor, and acts once.
KeeperOrder: TypeAlias = Begin | Ask | Abort | Forget


@attrs.frozen
class News:
    """What an agent is told of an execution.

    Attributes:
        execution: which one.
        outcome: how it ended, once it has.
        metrics: what it reported last on the way.
        said: how often it has reported.
        preempting: whether it said that its machine is about to be taken away.
    """

    execution: str
    outcome: Outcome | None
    metrics: FrozenDict | None
    said: int
    preempting: bool


# --- the actor ------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Held:
    """An execution that the actor owns, or whose end it keeps."""

    sweep_id: str
    ref: Any = None
    watch: asyncio.Future[None] | None = None
    outcome: Outcome | None = None
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

    async def exchange(self, orders: Sequence[KeeperOrder], after: int, seconds: float) -> tuple[str, int, list[News]]:
        """Obey orders, then wait until there is something new; return this life, a cursor to go on from, and the news.

        One call for all that is said at a time: on a no-op task, each further call would show.

        Args:
            orders: in the order in which they were given.
            after: the cursor; 0 for all that is here.
            seconds: how long to wait at most.
        """
        for order in orders:
            self._obey(order)
        if self._changes <= after and seconds:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
                await asyncio.sleep(_GATHER)
        fresh = [
            News(name, held.outcome, held.metrics, held.said, held.preempting)
            for name, held in self._held.items()
            if held.changed > after
        ]
        return self._life, self._changes, fresh

    async def say(self, execution: str, metrics: FrozenDict | None, preempting: bool) -> bool:  # noqa: FBT001 - by RayRun alone
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

    async def leave(self, orders: Sequence[KeeperOrder], sweep_id: str | None) -> bool:
        """Return whether nothing is held here, and take nothing any more if so: then it may be ended.

        Args:
            orders: the last ones.
            sweep_id: a sweep of which nothing is wanted any more: what its driver has not claimed by now was
                concluded by an earlier driver that could not say so, or is of an attempt that was given up.
        """
        for order in orders:
            self._obey(order)
        for execution, held in list(self._held.items()):
            if held.sweep_id == sweep_id:
                self._obey(Abort(execution))
                self._obey(Forget(execution))
        self._left = not self._held
        return self._left

    def _obey(self, order: KeeperOrder) -> None:
        held = self._held.get(order.execution)
        match order:
            case Begin():
                if held is None and not self._left and order.execution not in self._denied:
                    self._begin(order)
            case Ask():
                if held is not None and not held.asked:
                    held.asked = True
                    if order.interrupts and held.outcome is None:
                        ray().cancel(held.ref)
            case Abort():
                if held is None:
                    self._denied.add(order.execution)
                elif held.outcome is None:
                    ray().cancel(held.ref, force=True)
            case Forget():
                self._held.pop(order.execution, None)

    def _begin(self, order: Begin) -> None:
        held = self._held[order.execution] = _Held(order.sweep_id)
        code = self._codes.get(order.digest)
        if code is None:  # given to an earlier life
            self._conclude(held, Outcome(End(Exit.SIGNAL, RESTARTED)))
            return
        try:
            options: Mapping[str, Any] = pickle.loads(order.options)  # noqa: S301 - the agent pickled them
            held.ref = _task(options).remote(code, order.run)
        except Exception as error:
            self._conclude(held, Outcome(End(Exit.ERROR, describe(error))))
        else:
            held.watch = asyncio.ensure_future(self._watch(held))

    async def _watch(self, held: _Held) -> None:
        """Wait for the end of an execution, and keep it."""
        try:
            outcome: Outcome = await held.ref
        except Exception as error:
            outcome = Outcome(_end_of_ray(error))
        self._conclude(held, outcome)

    def _conclude(self, held: _Held, outcome: Outcome) -> None:
        held.outcome = outcome
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
