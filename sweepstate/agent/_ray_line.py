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
    """

    orders: list[KeeperOrder]
    waits: bool


class Line:
    """A driver's line to its agent's actor, which is made if there is none.

    Args:
        agent: the name of the agent.
        code: its function, pickled.
        wake: called in a thread of Ray when an answer has come.

    Attributes:
        birth: names the actor and no other ever.
        digest: of the function.
        doubts: how often orders may have been lost, or the actor has begun another life: of what was begun before and
            not heard of since, it is not known whether it is there.

    Raises:
        InvalidValue: this process is not connected to a cluster.
        ConnectionError: the actor does not answer.
    """

    def __init__(self, agent: str, code: bytes, wake: Callable[[], None]) -> None:
        self._agent: Final = agent
        self._code: Final = code
        self.digest: Final = hashlib.sha256(code).hexdigest()
        self._wake: Final = wake
        self.doubts = 0
        self._lock: Final = threading.Lock()
        self._orders: list[KeeperOrder] = []
        self._calls: Final[set[_Call]] = set()
        self._answers: Final[SimpleQueue[tuple[_Call, Future[Any]]]] = SimpleQueue()
        self._after = 0
        self._actor: Any
        self.birth: str
        self._life: str
        self._lost = True
        self._meet()

    def say(self, order: KeeperOrder) -> None:
        """Give an order, with the next call."""
        with self._lock:
            self._orders.append(order)

    def send(self) -> None:
        """Send the orders that were given; also if there are none, unless a call waits for news already."""
        with self._lock:
            waited_for = any(call.waits for call in self._calls)
            if waited_for and not self._orders:
                return
            call = _Call(self._orders, not waited_for)
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
        fresh: list[News] = []
        while answered := self._next_answer():
            call, answer = answered
            error = answer.exception()
            if error is not None:
                _log.warning("agent %r: its actor does not answer: %s", self._agent, error)
                self._lost = True
                self._say_again(call)
                continue
            life, changes, news = answer.result()
            if life != self._life:
                self._lost = True
            elif changes > self._after:  # else another answer has said it all
                self._after = changes
                fresh += news
        if self._lost:
            self._meet()
        return fresh

    def _next_answer(self) -> tuple[_Call, Future[Any]] | None:
        try:
            call, answer = self._answers.get_nowait()
        except Empty:
            return None
        with self._lock:
            self._calls.discard(call)
        return call, answer

    def _say_again(self, call: _Call) -> None:
        """Give the orders of a failed call once more, but for those to begin: their executions may be over already."""
        with self._lock:
            self._orders[:0] = _without_begins(call.orders)

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
        with self._lock:
            # Also those that are under way: nobody says in which order two calls arrive.
            said = [order for call in self._calls for order in call.orders] + self._orders
        try:
            left: bool = _answer_to(self._actor.leave.remote(_without_begins(said), sweep_id))
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
        if not module.is_initialized():
            remedy = "call ray.init(address=...) first: the agent does not start Ray"
            raise InvalidValue("ray", "this process is not connected to a cluster", remedy)
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
        self._after = 0
        self._lost = False
        self.doubts += 1


def _without_begins(orders: list[KeeperOrder]) -> list[KeeperOrder]:
    return [order for order in orders if not isinstance(order, Begin)]


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
