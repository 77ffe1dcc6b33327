"""Hooks for tests: a clock that is set, an agent that writes down what it is told, a storage that loses races."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from sweepstate import Change, Conflict, Grid, Idle, Kill, MemoryStorage, Run, Start, Stop, Sweep


@attrs.define
class Clock:
    """Time that passes when a test says so; picklable."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@attrs.define
class Recorder:
    """An agent that executes nothing: it notes its orders, and raises what it is told to raise."""

    name: str = "recorder"
    can_kill: bool = True
    orders: list[tuple[str, int, int]] = attrs.field(factory=list)
    failing: Callable[[], Exception] | None = None

    def start(self, order: Start) -> None:
        self._take("start", order.run)

    def stop(self, order: Stop) -> None:
        self._take("stop", order.run)

    def kill(self, order: Kill) -> None:
        self._take("kill", order.run)

    def _take(self, kind: str, run: Run) -> None:
        self.orders.append((kind, run.index, run.attempt))
        if self.failing is not None:
            raise self.failing()


class Busy(MemoryStorage):
    """A storage in which somebody else comes first, so many times in a row."""

    def __init__(self, conflicts: int = 0) -> None:
        super().__init__()
        self.conflicts = conflicts
        self.tries = 0

    def commit(self, change: Change) -> None:
        self.tries += 1
        if change.version and self.conflicts:
            self.conflicts -= 1
            raise Conflict(change.sweep_id, change.version)
        super().commit(change)


def grid(points: int) -> Grid:
    """Return a grid of so many points, ``{"x": 0}``, ``{"x": 1}``, ..."""
    return Grid({"x": list(range(points))})


def sweep_of(points: int = 3, **hooks: Any) -> tuple[Sweep, Clock]:
    """Return a sweep over a grid of so many points, and the clock that it goes by."""
    clock = Clock()
    return Sweep(hooks.pop("search", None) or grid(points), id=hooks.pop("id", "s"), clock=clock, **hooks), clock


def take(sweep: Sweep, agent: str = "worker", request_id: str | None = None, *, start: bool = True) -> Run:
    """Ask for a run, which there must be, and start it."""
    run = sweep.next_run(agent, request_id)
    assert not isinstance(run, Idle), run
    if start:
        run.start()
    return run


def names(events: tuple[Any, ...]) -> list[str]:
    """Return what kinds of events these are."""
    return [type(event).__name__ for event in events]
