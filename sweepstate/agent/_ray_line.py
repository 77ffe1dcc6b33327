"""What a driver and its agent's actor in the cluster say to each other; see ``_ray_keeper``.

Orders are gathered, and sent together in one call, whose answer is what is new of the executions. Of the calls that
are under way one waits for news, so that there always is somebody to tell. Nobody waits for it here: Ray says when
an answer has come, and the driver is woken.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

import attrs

from ..core.errors import InvalidValue
from ._ray_keeper import Begin, Keeper, KeeperOrder, News
from ._ray_run import NAMESPACE, actor_name, ray

_log: Final = logging.getLogger("sweepstate")
#: Seconds that an answer of the actor may take, its start included.
_ANSWER: Final = 60.0
#: Seconds for which the actor is asked to wait for news.
_LISTEN: Final = 10.0


@attrs.frozen(eq=False)
class _Call:
    """A call that is under way.

    Attributes:
        orders: what it carries.
        waits: whether it waits for news.
        until: when it is given up, by the agent's clock.
    """

    orders: list[KeeperOrder]
    waits: bool
    until: float


class Line:
    """A driver's line to its agent's actor, which is made if there is none.

    It is of one connection to a cluster, and of no use after ``ray.shutdown()``.

    Args:
        agent: the name of the agent.
        code: its function, pickled.
        wake: called in a thread of Ray when an answer has come.
        now: the agent's clock, in seconds; it never goes back.
        before: the line of an earlier connection, if there was one. What may not have arrived by it is said again.

    Attributes:
        birth: names the actor and no other ever.
        births: of all actors that were met, thus in this cluster; but for the last, they are gone, and their tasks too.
        digest: of the function.
        doubts: how often orders may have been lost, or the actor has begun another life: of what was begun before and
            not heard of since, it is not known whether it is there.

    Raises:
        InvalidValue: this process is not connected to a cluster.
        ConnectionError: the actor does not answer.
    """

    def __init__(
        self,
        agent: str,
        code: bytes,
        wake: Callable[[], None],
        now: Callable[[], float],
        *,
        before: Line | None = None,
    ) -> None:
        self._agent: Final = agent
        self._code: Final = code
        self.digest: Final = hashlib.sha256(code).hexdigest()
        self._wake: Final = wake
        self._now: Final = now
        self.doubts: int = 0 if before is None else before.doubts
        self._lock: Final = threading.Lock()
        self._orders: list[KeeperOrder] = [] if before is None else before.unconfirmed()
        self._calls: Final[set[_Call]] = set()
        self._answers: Final[SimpleQueue[tuple[_Call, Future[Any]]]] = SimpleQueue()
        self._fresh: list[News] = []
        self._after = 0
        self._connection: Final = _connection()
        self._actor: Any
        self.birth: str
        self.births: Final[set[str]] = set()
        self._life: str
        self._lost = True
        self._meet()

    @property
    def connected(self) -> bool:
        """Whether this process is connected to the cluster still, and has not been connected anew since."""
        return _is_connected() and _connection() == self._connection

    def say(self, order: KeeperOrder) -> None:
        """Give an order, with the next call."""
        with self._lock:
            self._orders.append(order)

    def send(self) -> None:
        """Send the orders that were given; also if there are none, unless a call waits for news already.

        While the actor has to be met again, nothing is sent: that it fails at once would wake the driver each time.
        """
        with self._lock:
            waited_for = any(call.waits for call in self._calls)
            if self._lost or (waited_for and not self._orders):
                return
            call = _Call(self._orders, not waited_for, self._now() + _LISTEN + _ANSWER)
            self._orders = []
            self._calls.add(call)
            answer: Future[Any]
            try:
                answer = self._actor.exchange.remote(call.orders, self._after, _LISTEN if call.waits else 0).future()
            except Exception as error:  # heard with the answers
                answer = Future()
                answer.set_exception(error)
        answer.add_done_callback(partial(self._answered, call))

    def _answered(self, call: _Call, answer: Future[Any]) -> None:
        self._answers.put((call, answer))
        self._wake()

    def hear(self) -> list[News]:
        """Return what is new, the oldest first. Never waits for it, but for an actor that has to be met again.

        Raises:
            InvalidValue, ConnectionError: as for the class.
        """
        while answered := self._next_answer():
            self._take(*answered)
        for call in self._overdue():
            self._lose(call, f"no answer within {_LISTEN + _ANSWER:.0f} s")
        if self._lost:
            self._meet()
        fresh, self._fresh = self._fresh, []  # not before: if it cannot be met now, they are heard the next time
        return fresh

    def _next_answer(self) -> tuple[_Call, Future[Any]] | None:
        try:
            return self._answers.get_nowait()
        except Empty:
            return None

    def _overdue(self) -> list[_Call]:
        with self._lock:
            return [call for call in self._calls if self._now() > call.until]

    def _take(self, call: _Call, answer: Future[Any]) -> None:
        error = answer.exception()
        if error is not None:
            self._lose(call, error)
            return
        with self._lock:
            self._calls.discard(call)
        life, changes, news = answer.result()
        if life != self._life:
            self._lost = True
        elif changes > self._after:  # else another answer has said it all
            self._after = changes
            self._fresh += news

    def _lose(self, call: _Call, why: object) -> None:
        """Give a call up: say once more what it has ordered, unless that was done before."""
        with self._lock:
            if call not in self._calls:
                return
            self._calls.discard(call)
            self._orders[:0] = _repeatable(call.orders)
            self._lost = True
        _log.warning("agent %r: its actor does not answer: %s", self._agent, why)

    def unconfirmed(self) -> list[KeeperOrder]:
        """Return the orders that are not known to have arrived, and may be given again."""
        with self._lock:
            # Also those that are under way: nobody says in which order two calls arrive.
            return _repeatable([order for call in self._calls for order in call.orders] + self._orders)

    def find(self, execution: str) -> bool:
        """Return whether an execution is at the actor; if not, it never will be.

        Raises:
            ConnectionError: the actor does not answer.
        """
        found: bool = _answer_to(self._actor.find.remote(execution))
        return found

    def leave(self, sweep_id: str | None) -> bool:
        """End the actor if it holds nothing, but of a sweep of which nothing is wanted; return whether it was ended.

        Raises:
            ConnectionError: the actor does not answer.
        """
        try:
            left: bool = _answer_to(self._actor.leave.remote(self.unconfirmed(), sweep_id))
        except ConnectionError as error:
            if not isinstance(error.__cause__, _errors().ActorDiedError):
                raise
            left = True
        if left:
            ray().kill(self._actor)
        return left

    def _meet(self) -> None:
        """Find the actor, make one if there is none, or find it again after a restart."""
        module = ray()
        until = time.monotonic() + _ANSWER
        while True:
            actor = _actor(self._agent)
            try:
                met: tuple[str, str] | None = _answer_to(actor.hello.remote(self.digest, self._code))
            except ConnectionError as error:
                if not isinstance(error.__cause__, _errors().ActorDiedError) or time.monotonic() > until:
                    raise
                time.sleep(0.05)  # its name is not free yet
                continue
            if met is not None:
                break
            module.kill(actor)  # left by a driver that died before it could do this
        self._actor, (self.birth, self._life) = actor, met
        self.births.add(self.birth)
        self._after = 0
        self._lost = False
        self.doubts += 1


def _repeatable(orders: list[KeeperOrder]) -> list[KeeperOrder]:
    """Return orders that may be given again: not those to begin, as their executions may be over already."""
    return [order for order in orders if not isinstance(order, Begin)]


def _is_connected() -> bool:
    connected: bool = ray().is_initialized()
    return connected


def _connection() -> tuple[str, str]:
    """Return what names this process's connection to a cluster, and no other ever: its job, on a node.

    Raises:
        InvalidValue: there is none.
    """
    if not _is_connected():
        remedy = "call ray.init(address=...) first: the agent does not start Ray"
        raise InvalidValue("ray", "this process is not connected to a cluster", remedy)
    context = ray().get_runtime_context()
    return context.get_node_id(), context.get_job_id()


def _answer_to(ref: Any) -> Any:
    """Return what the actor answers.

    Raises:
        ConnectionError: it does not; the cause says why.
    """
    try:
        return ray().get(ref, timeout=_ANSWER)
    except _errors().RayError as error:
        raise ConnectionError(f"the agent's actor does not answer: {error}") from error


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
