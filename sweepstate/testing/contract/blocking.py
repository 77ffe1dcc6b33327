"""An async storage seen as a blocking one, so that one contract serves for both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from threading import Thread
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import attrs

from ...hooks import AsyncStorage, Storage, Timekeeper
from .together import PATIENCE
from .views import View, capable

_T = TypeVar("_T")
_Value = TypeVar("_Value")


class Loop:
    """An event loop in a thread of its own. Also a context, which ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="sweepstate-contract", daemon=True)
        self._thread.start()

    def run(self, awaitable: Awaitable[_T]) -> _T:
        """Await something in the loop, and return what it returns.

        Raises:
            TimeoutError: it does not come back.
            BaseException: what it raises.
        """

        async def wait() -> _T:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(PATIENCE)

    @contextmanager
    def hold(self, context: AbstractAsyncContextManager[_Value]) -> Generator[Held[_Value]]:
        """Enter an async context and leave it, in one task, since what it holds may be the task's."""
        held: Held[_Value] = Held(self._loop)
        task = asyncio.run_coroutine_threadsafe(held.keep(context), self._loop)
        held.entered.result(PATIENCE)
        try:
            yield held
        except BaseException as error:
            held.end(error)
            task.result(PATIENCE)
            raise
        held.end(None)
        task.result(PATIENCE)

    def close(self) -> None:
        """End the loop, and whatever still runs in it."""
        self.run(_cancel_the_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _cancel_the_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()


class Held(Generic[_Value]):
    """An async context that a task is in, and what the task is given to do there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: asyncio.Queue[Callable[[], Awaitable[None]] | None] = asyncio.Queue()
        #: What the context gave.
        self.entered: Future[_Value] = Future()

    async def keep(self, context: AbstractAsyncContextManager[_Value]) -> None:
        """Enter the context, do the jobs, and leave it when there are no more."""
        try:
            async with context as value:
                self.entered.set_result(value)
                while (job := await self._jobs.get()) is not None:
                    await job()
        except BaseException as error:
            if not self.entered.done():
                self.entered.set_exception(error)
                return
            raise

    def run(self, awaitable: Awaitable[_T]) -> _T:
        """Await something in the task, and return what it returns."""
        result: Future[_T] = Future()

        async def job() -> None:
            try:
                result.set_result(await awaitable)
            except BaseException as error:
                result.set_exception(error)

        self._loop.call_soon_threadsafe(self._jobs.put_nowait, job)
        return result.result(PATIENCE)

    def end(self, error: BaseException | None) -> None:
        """Leave the context, by an exception if there is one."""

        async def hurt() -> None:
            assert error is not None  # noqa: S101 - for the type checkers
            raise error

        self._loop.call_soon_threadsafe(self._jobs.put_nowait, None if error is None else hurt)


class Blocking(View):
    """An async storage, each of whose methods is awaited in an event loop; made by ``blocking``.

    Attributes:
        viewed: the async storage.
    """

    def __init__(self, storage: AsyncStorage, loop: Loop) -> None:
        super().__init__(storage)
        self.loop = loop

    def __reduce__(self) -> tuple[Any, ...]:
        return (_blocking_elsewhere, (self.viewed,))

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        return self.loop.run(getattr(self.viewed, method)(*arguments, **named))

    @contextmanager
    def _turn(self, sweep_id: str) -> Generator[Storage]:
        with self.loop.hold(self.viewed.turn(sweep_id)) as held:
            inside: Any = held.entered.result()
            yield capable(_Inside, inside, but=Timekeeper)(_InTurn(inside, held))


class _Inside(View):
    """The inside of a turn: whatever is asked is awaited in the task that has the turn."""

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        viewed: _InTurn = self.viewed
        return viewed.held.run(getattr(viewed.storage, method)(*arguments, **named))


@attrs.frozen
class _InTurn:
    """What a turn gave, and the task that has it."""

    storage: Any
    held: Held[Any]


def blocking(storage: AsyncStorage, loop: Loop) -> Blocking:
    """Return an async storage as a blocking one, with exactly the capabilities that it has.

    Args:
        storage: what is awaited.
        loop: the event loop that it lives in. A pickled copy gets a loop of its own where it is unpickled.
    """
    cls: Any = capable(Blocking, storage)
    made: Blocking = cls(storage, loop)
    return made


def _blocking_elsewhere(storage: AsyncStorage) -> Blocking:
    return blocking(storage, Loop())
