"""ThreadedStorage: any storage on an event loop, by calling it in threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import cache, partial
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

from ..core.decide import Change
from ..core.errors import InvalidValue, StorageError
from ..core.events import Event
from ..core.questions import RunQuery
from ..core.state import RunState, SweepState
from ..core.values import check_count, show
from ..hooks import AsyncStorage, Catalog, Heartbeats, Storage, Timekeeper, Turns
from ..outlast import go_on, in_thread

_T = TypeVar("_T")


class ThreadedStorage:
    """An ``AsyncStorage`` over any ``Storage``, which is called in threads of its own.

    It can do what the storage can: it keeps heartbeats, is a catalog, has a clock or lets processes take
    turns if, and only if, the storage does. A call that is cancelled waits for its thread, so it is whole.
    It is an async context manager that ends its threads.

    Args:
        storage: must be safe to use from several threads, unless there is one.
        threads: how many calls may be made at the same time, or the executor that makes them. 0 makes them on the
            event loop itself: for a storage that never waits, such as ``MemoryStorage``.

    Raises:
        InvalidValue: the number of threads is none, or the storage is an async one.

    Example:
        >>> from sweepstate import MemoryStorage
        >>> from sweepstate.hooks import AsyncHeartbeats, AsyncTurns
        >>> storage = ThreadedStorage(MemoryStorage())
        >>> isinstance(storage, AsyncHeartbeats), isinstance(storage, AsyncTurns)
        (True, False)
    """

    def __new__(cls, storage: Storage, *, threads: int | Executor = 4) -> Self:  # noqa: ARG004 - for __init__
        """Make one that can do what the storage can."""
        parts = (part for hook, part in _PARTS if isinstance(storage, hook))
        return cast(Self, object.__new__(_composed((*parts, cls))))

    def __init__(self, storage: Storage, *, threads: int | Executor = 4) -> None:
        if any(iscoroutinefunction(getattr(storage, name, None)) for name in ("sweep", "runs", "commit", "events")):
            raise InvalidValue("storage", f"{show(storage)} is awaited already", "give it to AsyncSweep as it is")
        self._storage: Any = storage
        self._threads = threads if isinstance(threads, Executor) else check_count(threads, "threads", most=1_000)
        self._executor = self._make_executor()
        self._process = os.getpid()
        self._closed = False

    def _make_executor(self) -> Executor | None:
        if isinstance(self._threads, Executor):
            return self._threads
        # Not the loop's own threads: a search that is asked in one of them may wait for what is read here.
        return ThreadPoolExecutor(self._threads, thread_name_prefix="sweepstate") if self._threads else None

    def __repr__(self) -> str:
        return f"ThreadedStorage({self._storage!r}, threads={self._threads})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (partial(ThreadedStorage, threads=self._threads), (self._storage,))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_raised: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the threads, unless they are an executor's of yours. To close the storage beneath is yours too.

        Afterwards it cannot be used.
        """
        self._closed = True
        if isinstance(self._executor, ThreadPoolExecutor) and self._executor is not self._threads:
            await in_thread(None, self._executor.shutdown)

    async def _call(self, function: Callable[[], _T]) -> _T:
        if self._closed:
            raise StorageError("this ThreadedStorage is closed; make another one")
        if self._process != os.getpid():  # a forked child has none of the threads that the executor knows
            self._executor, self._process = self._make_executor(), os.getpid()
        return function() if self._executor is None else await in_thread(self._executor, function)

    async def sweep(self, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot; see ``Storage.sweep``."""
        return await self._call(partial(self._storage.sweep, sweep_id))

    async def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return runs that a query means; see ``Storage.runs``."""
        return await self._call(partial(self._storage.runs, sweep_id, query, after=after, limit=limit))

    async def commit(self, change: Change) -> None:
        """Write a change, all or nothing; see ``Storage.commit``."""
        await self._call(partial(self._storage.commit, change))

    async def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        """Return events in order, ending at a commit boundary; see ``Storage.events``."""
        return await self._call(partial(self._storage.events, sweep_id, after=after, limit=limit))


# What is added for each capability; as classes, since Python 3.12 an isinstance() of a protocol looks at those.


class _Beating(ThreadedStorage):
    async def beat(
        self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None
    ) -> None:
        """Keep a sign of life; see ``Heartbeats.beat``."""
        await self._call(partial(self._storage.beat, sweep_id, index, attempt, at, metrics))

    async def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        """Return when each attempt was last heard; see ``Heartbeats.last_heard``."""
        return await self._call(partial(self._storage.last_heard, sweep_id, leases))

    async def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        """Return what a run last reported on the way; see ``Heartbeats.last_metrics``."""
        return await self._call(partial(self._storage.last_metrics, sweep_id, index))


class _Listing(ThreadedStorage):
    async def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        """Return sweeps by id; see ``Catalog.sweeps``."""
        return await self._call(partial(self._storage.sweeps, after=after, limit=limit))

    async def delete(self, sweep_id: str) -> None:
        """Forget a sweep; see ``Catalog.delete``."""
        await self._call(partial(self._storage.delete, sweep_id))


class _Timed(ThreadedStorage):
    async def now(self) -> float:
        """Return POSIX seconds."""
        return await self._call(self._storage.now)


class _Turning(ThreadedStorage):
    def turn(self, sweep_id: str) -> AbstractAsyncContextManager[AsyncStorage]:
        """Keep everybody else from committing to a sweep while the context is open; see ``Turns.turn``."""
        return _Turn(self._storage.turn(sweep_id), threaded=self._executor is not None)


class _Turn(AbstractAsyncContextManager[AsyncStorage]):
    """A turn in one thread from beginning to end, since it may hold a connection that is bound to it."""

    def __init__(self, turn: AbstractContextManager[Storage], *, threaded: bool) -> None:
        self._turn = turn
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="sweepstate-turn") if threaded else None
        self._entered: Storage | None = None

    async def __aenter__(self) -> AsyncStorage:
        try:
            await self._call(self._enter)
        except asyncio.CancelledError as cancelled:
            await go_on(cancelled, partial(self.__aexit__, None, None, None))
        except BaseException:
            self._close()
            raise
        return ThreadedStorage(cast(Storage, self._entered), threads=self._executor or 0)

    def _enter(self) -> None:
        self._entered = self._turn.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            if self._entered is None:
                return None
            return await self._call(partial(self._turn.__exit__, kind, error, trace))
        finally:
            self._close()

    async def _call(self, function: Callable[[], _T]) -> _T:
        return function() if self._executor is None else await in_thread(self._executor, function)

    def _close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False)


_PARTS: Final[tuple[tuple[type, type[ThreadedStorage]], ...]] = (
    (Heartbeats, _Beating),
    (Catalog, _Listing),
    (Timekeeper, _Timed),
    (Turns, _Turning),
)


@cache
def _composed(parts: tuple[type[ThreadedStorage], ...]) -> type[ThreadedStorage]:
    """Return a class of these parts, which goes by the name of the last one."""
    *added, cls = parts
    return type(cls.__name__, parts, {"__module__": cls.__module__, "__doc__": cls.__doc__}) if added else cls
