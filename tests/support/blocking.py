"""``AsyncSweep`` and ``AsyncRun`` as ``Sweep`` and ``Run`` look, so that one test can hold both to the same."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Self

from sweepstate import AsyncRun, AsyncSweep, MemoryStorage, Run, Storage, Sweep, ThreadedStorage
from sweepstate.hooks import Agent, AsyncKill, AsyncOrder, AsyncStart, AsyncStop

#: What is called otherwise on the async handles, or is awaited there and is none here.
AWAITED = {"best", "metrics", "should_stop"}


class Loop:
    """Runs what is awaited, one after the other."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def __call__(self, work: Coroutine[Any, Any, Any]) -> Any:
        return wrap(self, self.loop.run_until_complete(work))

    def iterate(self, runs: AsyncIterator[Any]) -> Iterator[Any]:
        """Go through an async iterator, and close it where it is left."""
        try:
            while True:
                try:
                    yield self(anext(runs))  # type: ignore[arg-type]
                except StopAsyncIteration:
                    return
        finally:
            self.loop.run_until_complete(runs.aclose())  # type: ignore[attr-defined]

    def close(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


def wrap(loop: Loop, value: Any) -> Any:
    """Return a value as the sync handles would give it."""
    if isinstance(value, AsyncRun):
        return BlockingRun(loop, value)
    if isinstance(value, AsyncSweep):
        return BlockingSweep(loop, value)
    if isinstance(value, AsyncOrder):
        return type(value)(BlockingRun(loop, value.run))  # type: ignore[arg-type]
    return [wrap(loop, item) for item in value] if isinstance(value, list) else value


class _View:
    """A handle whose coroutines are run, and whose async iterators are gone through."""

    def __init__(self, loop: Loop, handle: Any) -> None:
        self.__dict__.update(_loop=loop, handle=handle)

    def __getattr__(self, name: str) -> Any:
        loop, found = self._loop, getattr(self.handle, name)
        if name in AWAITED:
            return loop(found())
        if not callable(found):
            return found

        @wraps(found)
        def call(*args: Any, **kwargs: Any) -> Any:
            answer = found(*[_bare(arg) for arg in args], **kwargs)
            if inspect.isasyncgen(answer):
                return loop.iterate(answer)
            return loop(answer) if inspect.iscoroutine(answer) else wrap(loop, answer)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.handle, name, value)

    def __repr__(self) -> str:
        return repr(self.handle).replace("<Async", "<")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _View) and bool(self.handle == other.handle)

    def __hash__(self) -> int:
        return hash(self.handle)


class BlockingRun(_View):
    """An ``AsyncRun`` that looks like a ``Run``."""

    def __enter__(self) -> Self:
        self._loop(self.handle.__aenter__())
        return self

    def __exit__(self, *left: object) -> None:
        self._loop(self.handle.__aexit__(*left))

    def perform(self, function: Callable[[Any], object]) -> None:
        self._loop(self.handle.perform(_awaited(function)))


class BlockingSweep(_View):
    """An ``AsyncSweep`` that looks like a ``Sweep``."""

    def __getitem__(self, index: int) -> Any:
        return self._loop(self.handle.run(index))

    def __iter__(self) -> Iterator[Any]:
        yield from self._loop.iterate(aiter(self.handle))

    def __contains__(self, item: object) -> bool:
        return _bare(item) in self.handle

    def execute(self, function: Any) -> Any:
        return self._loop(self.handle.execute(_awaited(function) if callable(function) else function))


def _bare(value: Any) -> Any:
    return value.handle if isinstance(value, _View) else value


def _awaited(function: Callable[[Any], object]) -> Callable[[AsyncRun], Coroutine[Any, Any, object]]:
    async def call(run: AsyncRun) -> object:
        result = function(run)
        return await result if inspect.isawaitable(result) else result

    return call


class AsyncOf:
    """A sync agent's hooks as an async one's; each order's run looks like a ``Run`` to it."""

    def __init__(self, loop: Loop, agent: Any) -> None:
        self._loop, self.agent = loop, agent

    @property
    def name(self) -> str:
        return str(self.agent.name)

    @property
    def can_kill(self) -> bool:
        return bool(self.agent.can_kill)

    async def start(self, order: AsyncStart) -> None:
        self.agent.start(wrap(self._loop, order))

    async def stop(self, order: AsyncStop) -> None:
        self.agent.stop(wrap(self._loop, order))

    async def kill(self, order: AsyncKill) -> None:
        self.agent.kill(wrap(self._loop, order))


class Blocking:
    """Makes sweeps that are async inside, with the arguments of ``Sweep``."""

    def __init__(self, threads: int = 0) -> None:
        self.loop = Loop()
        self.threads = threads

    def _hooks(self, storage: Storage | None = None, agent: Agent | None = None, **hooks: Any) -> dict[str, Any]:
        hooks["storage"] = ThreadedStorage(MemoryStorage() if storage is None else storage, threads=self.threads)
        hooks["agent"] = None if agent is None else AsyncOf(self.loop, agent)
        return hooks

    def create(self, search: Any, **hooks: Any) -> Any:
        return self.loop(AsyncSweep.create(search, **self._hooks(**hooks)))

    def open(self, id: str, **hooks: Any) -> Any:
        return self.loop(AsyncSweep.open(id, **self._hooks(**hooks)))

    def close(self) -> None:
        self.loop.close()


class Plain:
    """Makes sync sweeps, by the names that ``Blocking`` has."""

    create = Sweep
    open = Sweep.open
    run = Run

    def close(self) -> None: ...
