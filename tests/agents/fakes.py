"""What tests of agents share: time that passes by waiting, and a storage that fails when it is told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from sweepstate import Change, Event, MemoryStorage, RunState, Sweep, SweepState
from sweepstate.agent import worker
from sweepstate.agent._beating import Beating, Pulse
from sweepstate.agent._interrupts import Notice
from sweepstate.agent.worker import Going
from sweepstate.core.questions import RunQuery
from tests.fakes import Clock, sweep_of


@attrs.define
class World:
    """A sweep and a worker in one thread: waiting lets time pass, and nothing beats unless the test says so.

    Attributes:
        clock: of the sweep; it moves with the worker's.
        now: of the worker's monotonic clock.
        waited: how long each wait was.
        meanwhile: called in each wait, with its number from 0.
        pulses: of the workers that were made, so that a test can let them beat.
    """

    clock: Clock = attrs.field(factory=Clock)
    now: float = 50.0
    waited: list[float] = attrs.field(factory=list)
    meanwhile: Callable[[int], object] = lambda number: None
    pulses: list[Pulse] = attrs.field(factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        number = len(self.waited)
        assert number < 2_000, "it waits for ever"
        self.waited.append(seconds)
        self.wait(seconds)
        self.meanwhile(number)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.clock.wait(seconds)

    def sweep(self, points: int = 3, **hooks: Any) -> Sweep:
        sweep, self.clock = sweep_of(points, **hooks)
        return sweep

    def work(self, sweep: Sweep, function: Callable[..., object] = lambda run: None, **options: Any) -> Going:
        options = {"name": "w", "signals": False, "random": lambda: 1.0, **options}
        return worker.work(sweep, function, sleep=self.sleep, monotonic=self.monotonic, **options)

    @property
    def pulse(self) -> Pulse:
        """Of the worker that works now."""
        return self.pulses[-1]


def without_thread(pulses: list[Pulse]) -> type[Beating]:
    """Return what beats only when the test lets it, and hears at once what a signal means; its pulses are listed."""

    class NoThread(Beating):
        def __init__(self, pulse: Pulse) -> None:
            super().__init__(pulse)
            self._beside = pulse
            pulses.append(pulse)

        def tell(self, notice: Notice) -> None:
            self._beside.hear(notice)

        def begin(self) -> None:
            """Begin nothing."""

        def end(self) -> None:
            """End nothing."""

    return NoThread


class Shaky(MemoryStorage):
    """A storage that asks ``trouble`` before each call, and after each commit, what to raise.

    Attributes:
        trouble: given the name of a method, or "committed", and what is asked; returns what to raise, or None.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Callable[[str, Any], BaseException | None] = lambda method, asked: None

    def _meet(self, method: str, asked: Any) -> None:
        error = self.trouble(method, asked)
        if error is not None:
            raise error

    def sweep(self, sweep_id: str) -> SweepState:
        self._meet("sweep", sweep_id)
        return super().sweep(sweep_id)

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        self._meet("runs", query)
        return super().runs(sweep_id, query, after=after, limit=limit)

    def commit(self, change: Change) -> None:
        self._meet("commit", change)
        super().commit(change)
        self._meet("committed", change)

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        self._meet("events", after)
        return super().events(sweep_id, after=after, limit=limit)


class FourMethods:
    """A storage that is nothing but that: no heartbeats."""

    def __init__(self) -> None:
        inner = MemoryStorage()
        self.sweep = inner.sweep
        self.runs = inner.runs
        self.commit = inner.commit
        self.events = inner.events
