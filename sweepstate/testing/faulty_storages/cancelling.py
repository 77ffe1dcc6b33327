# ruff: noqa: ARG002, D102 - what a method does is the storage's promise; how it breaks it, its class says
"""Faults that only an async storage can have: of being cancelled, and of what comes in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs

from ...core.decide import Change
from ...core.errors import Conflict, StorageError
from ...core.events import Event
from ...core.questions import RunQuery
from ...core.state import RunState, SweepState
from ...hooks import AsyncStorage
from ...storage.memory import MemoryStorage
from .base import fault


class _Open(MemoryStorage):
    """Memory storage that shows what it has."""

    def shelf(self, sweep_id: str) -> Any:
        """Return what is stored of a sweep."""
        return self._shelf(sweep_id)


class AwaitingStorage:
    """An async storage over memory that waits before and after everything: right, and cancelled without harm."""

    def __init__(self) -> None:
        self.memory: _Open = _Open()
        self.lock: asyncio.Lock = asyncio.Lock()

    async def sweep(self, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot."""
        await asyncio.sleep(0)
        return self.memory.sweep(sweep_id)

    async def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return runs that a query means."""
        await asyncio.sleep(0)
        return self.memory.runs(sweep_id, query, after=after, limit=limit)

    async def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        """Return events in order."""
        await asyncio.sleep(0)
        return self.memory.events(sweep_id, after=after, limit=limit)

    async def commit(self, change: Change) -> None:
        """Write a change, between two waits."""
        async with self.lock:
            await self.write(change)

    async def write(self, change: Change) -> None:
        """Write a change, by whoever has the lock."""
        await asyncio.sleep(0)
        self.memory.commit(change)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def turn(self, sweep_id: str) -> AsyncGenerator[AsyncStorage]:
        """Keep every other task from committing."""
        async with self.lock:
            yield _InsideATurn(self)


class _InsideATurn:
    """An ``AwaitingStorage`` for the task that has its turn."""

    def __init__(self, storage: AwaitingStorage) -> None:
        self.sweep, self.runs, self.commit, self.events = storage.sweep, storage.runs, storage.write, storage.events


@fault("test_a_commit_that_is_cancelled_is_whole_or_absent")
class CancelledHalfWay(AwaitingStorage):
    """The runs are written, then it waits, then the sweep: who is cancelled in between leaves half (optuna#5138)."""

    async def write(self, change: Change) -> None:
        if change.version and self.memory.sweep(change.sweep_id).version == change.version:
            shelf = self.memory.shelf(change.sweep_id)
            for run in change.runs:
                shelf.unfiled.setdefault(run.index, shelf.runs[run.index] if run.index < len(shelf.runs) else None)
                shelf.runs[run.index : run.index + 1] = [run]
            await asyncio.sleep(0)
        await super().write(change)


@fault("test_a_commit_that_is_cancelled_is_whole_or_absent")
class CancelledAndStillWriting(AwaitingStorage):
    """Who is cancelled is told so, and the commit goes on behind his back, to be seen later."""

    async def commit(self, change: Change) -> None:
        async def later() -> None:
            for _ in range(20):
                await asyncio.sleep(0)
            await super(CancelledAndStillWriting, self).commit(change)

        self.task: asyncio.Task[None] = asyncio.ensure_future(later())
        await asyncio.shield(self.task)


@fault("test_a_turn_that_is_cancelled_is_over")
class CancelledTurnIsKept(AwaitingStorage):
    """Who is cancelled while he has the turn never gives it back, and nobody commits any more (wandb#3961)."""

    @asynccontextmanager
    async def turn(self, sweep_id: str) -> AsyncGenerator[AsyncStorage]:
        try:
            await asyncio.wait_for(self.lock.acquire(), 1.0)
        except TimeoutError:
            raise StorageError("the turn is not given back") from None
        try:
            yield _InsideATurn(self)
        except Exception:
            self.lock.release()
            raise
        self.lock.release()

    async def commit(self, change: Change) -> None:
        try:
            await asyncio.wait_for(self.lock.acquire(), 1.0)
        except TimeoutError:
            raise StorageError("the turn is not given back") from None
        try:
            await self.write(change)
        finally:
            self.lock.release()


@fault("test_tasks_that_commit_on_one_version_have_one_winner")
class ComparedBeforeTheWait(AwaitingStorage):
    """The version is compared, and written after a wait: on one thread, and yet two win (optuna#4002)."""

    async def commit(self, change: Change) -> None:
        found = (await self.sweep(change.sweep_id)).version if change.version else 0
        if found != change.version:
            raise Conflict(change.sweep_id, change.version, found)
        await asyncio.sleep(0)
        if change.version:
            change = attrs.evolve(change, version=self.memory.sweep(change.sweep_id).version)
        self.memory.commit(change)
