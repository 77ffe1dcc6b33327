"""What a driver and its actor say to each other, with an actor that only pretends, and answers when it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from sweepstate.agent import _ray_line
from sweepstate.agent._ray_keeper import Ask, Begin, Forget, KeeperOrder, News
from sweepstate.agent._ray_line import Line
from sweepstate.testing.clock import ManualClock


class RayError(Exception):
    """An error of Ray's."""


class ActorDiedError(RayError):
    """An actor is gone."""


@attrs.define
class Pretended:
    """An actor: one object stands for its methods, for what they return, and for the module that it is of.

    Attributes:
        life: of it.
        job: the connection that this process has.
        away: what it answers to those who want to meet it, instead of doing so.
        calls: its orders, and its answer, for each exchange.
    """

    life: str = "life 1"
    job: str | None = "job 1"
    away: Exception | None = None
    calls: list[tuple[Sequence[KeeperOrder], Future[Any]]] = attrs.field(factory=list)

    def module(self) -> Any:
        context = SimpleNamespace(get_node_id=lambda: "node", get_job_id=lambda: self.job)
        return SimpleNamespace(
            is_initialized=lambda: self.job is not None,
            get_runtime_context=lambda: context,
            get=self.get,
            exceptions=SimpleNamespace(RayError=RayError, ActorDiedError=ActorDiedError),
        )

    def actor(self, _agent: str) -> Any:
        return SimpleNamespace(
            hello=SimpleNamespace(remote=lambda *_: ("birth", self.life)),
            exchange=SimpleNamespace(remote=self.exchange),
        )

    def get(self, answer: object, timeout: float) -> object:
        assert timeout > 0
        if self.away is not None:
            raise self.away
        return answer

    def exchange(self, orders: Sequence[KeeperOrder], _after: int, _seconds: float) -> Any:
        answer: Future[Any] = Future()
        self.calls.append((orders, answer))
        return SimpleNamespace(future=lambda: answer)

    @property
    def orders(self) -> list[KeeperOrder]:
        """Whatever was ordered."""
        return [order for orders, _ in self.calls for order in orders]


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    actor = Pretended()
    monkeypatch.setattr(_ray_line, "ray", actor.module)
    monkeypatch.setattr(_ray_line, "_actor", actor.actor)
    return actor


def line_of(clock: ManualClock, *, before: Line | None = None) -> Line:
    return Line("agent", b"code", lambda: None, clock, before=before)


def news_of(execution: str) -> News:
    return News(execution, None, None, 0, preempting=False)


BEGIN = Begin("a", "s", "digest", b"run", b"options")


def test_news_outlast_that_the_actor_cannot_be_met_again(actor: Pretended) -> None:
    """They came before, and nobody will say them again if its next life knows nothing of them."""
    line = line_of(ManualClock())
    line.say(BEGIN)
    line.send()
    line.say(Ask("b", interrupts=True))
    line.send()
    (_, first), (_, second) = actor.calls
    first.set_result(("life 1", 1, [news_of("a")]))
    second.set_exception(RayError("gone"))
    actor.away = RayError("not there yet")
    with pytest.raises(ConnectionError):
        line.hear()
    actor.away, actor.life = None, "life 2"
    assert line.hear() == [news_of("a")]


def test_nothing_is_sent_while_the_actor_has_to_be_met_again(actor: Pretended) -> None:
    """It would fail at once, and wake the driver, which would send again."""
    line = line_of(ManualClock())
    line.send()
    actor.calls[0][1].set_exception(RayError("gone"))
    actor.away = RayError("not there yet")
    with pytest.raises(ConnectionError):
        line.hear()
    line.say(Forget("a"))
    line.send()
    assert len(actor.calls) == 1
    actor.away = None
    line.hear()
    line.send()
    assert actor.orders == [Forget("a")]


def test_a_call_that_is_never_answered_is_given_up_and_said_again(actor: Pretended) -> None:
    """But for what it has begun, of which nobody knows whether it is over."""
    clock = ManualClock()
    line = line_of(clock)
    line.say(BEGIN)
    line.say(Ask("b", interrupts=True))
    line.send()
    doubts = line.doubts
    clock.advance(60.0)
    assert (line.hear(), line.doubts) == ([], doubts)  # it waits for news for a while, and may then be late
    clock.advance(60.0)
    assert (line.hear(), line.doubts) == ([], doubts + 1)
    line.send()
    assert actor.orders == [BEGIN, Ask("b", interrupts=True), Ask("b", interrupts=True)]
    actor.calls[0][1].set_result(("life 1", 1, [news_of("b")]))  # after all
    assert (line.hear(), line.doubts) == ([news_of("b")], doubts + 1)


def test_a_line_of_a_new_connection_says_again_what_may_be_lost(actor: Pretended) -> None:
    """What was begun by the one before is in doubt."""
    clock = ManualClock()
    line = line_of(clock)
    line.say(BEGIN)
    line.say(Forget("b"))
    line.send()
    line.say(Ask("c", interrupts=True))
    seen: list[bool] = []
    for actor.job in ("job 1", None, "job 2"):
        seen.append(line.connected)
    assert seen == [True, False, False]
    again = line_of(clock, before=line)
    again.send()
    assert (again.connected, again.doubts > line.doubts) == (True, True)
    assert actor.orders == [BEGIN, Forget("b"), Forget("b"), Ask("c", interrupts=True)]
