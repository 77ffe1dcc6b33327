"""An async storage that can be cancelled at every await, to see that nothing is left half done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from sweepstate import Change, Event, MemoryStorage, RunState, SweepState
from sweepstate.core.questions import RunQuery
from sweepstate.hooks import AsyncStorage


class Waypoints:
    """Memory storage with an await before and after each call; ``hit`` is called at the ``at``-th of them."""

    def __init__(self, memory: MemoryStorage | None = None) -> None:
        self.memory = MemoryStorage() if memory is None else memory
        self.passed = 0
        self.at: int | None = None
        self.hit: Callable[[], object] = lambda: None

    def arm(self, at: int, hit: Callable[[], object]) -> None:
        """From now on count, and call ``hit`` at this point."""
        self.passed, self.at, self.hit = 0, at, hit

    @property
    def fired(self) -> bool:
        return self.at is not None and self.passed >= self.at

    async def point(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            self.hit()
        await asyncio.sleep(0)

    async def sweep(self, sweep_id: str) -> SweepState:
        await self.point()
        state = self.memory.sweep(sweep_id)
        await self.point()
        return state

    async def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        await self.point()
        return self.memory.runs(sweep_id, query, after=after, limit=limit)

    async def commit(self, change: Change) -> None:
        await self.point()
        self.memory.commit(change)
        await self.point()

    async def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        await self.point()
        return self.memory.events(sweep_id, after=after, limit=limit)

    async def beat(
        self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None
    ) -> None:
        await self.point()
        self.memory.beat(sweep_id, index, attempt, at, metrics)

    async def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        await self.point()
        return self.memory.last_heard(sweep_id, leases)

    async def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        await self.point()
        return self.memory.last_metrics(sweep_id, index)


class Turning(Waypoints):
    """One with turns, which counts those that are open, and those that were taken."""

    def __init__(self, memory: MemoryStorage | None = None) -> None:
        super().__init__(memory)
        self.open = 0
        self.taken = 0

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[AsyncStorage, None]:
        await self.point()
        self.open += 1
        self.taken += 1
        try:
            yield self
        finally:
            self.open -= 1
            await self.point()

    def turn(self, sweep_id: str) -> AbstractAsyncContextManager[AsyncStorage]:
        return self._turn()
