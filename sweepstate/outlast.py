"""Cancellation that leaves nothing half done: what was begun is finished, and only then does the cancellation go on.

A task is cancelled at whatever it awaits. So what must not be torn runs in a
task of its own, and the one who was cancelled waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import copy_context
from functools import partial
from typing import Any, NoReturn, TypeVar

_T = TypeVar("_T")


class Point:
    """The point in a piece of work from which on a cancellation does not end it any more.

    Attributes:
        passed: whether the work is beyond it.
        cancelled: whether the one who waits for the work was cancelled.
    """

    __slots__ = ("cancelled", "passed")

    def __init__(self) -> None:
        self.passed: bool = False
        self.cancelled: bool = False

    def retreat(self) -> None:
        """Begin again, unless a cancellation came meanwhile, which ends the work now.

        Raises:
            CancelledError: it came.
        """
        self.passed = False
        if self.cancelled:
            raise asyncio.CancelledError

    def __enter__(self) -> None:
        """Begin what a cancellation of this very task does not end either, beyond the point.

        As ``asyncio.run`` cancels every task in the end, also the one that does the work.
        """

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: object) -> bool:
        return self.passed and kind is asyncio.CancelledError

    def cancel(self, task: asyncio.Future[Any]) -> None:
        """Cancel the work if that may be; once, since its cleaning up must not be cancelled either."""
        self.cancelled = True
        if not self.passed:
            task.cancel()


async def outlast(
    work: Callable[[], Coroutine[Any, Any, _T]],
    *,
    until: Point | None = None,
    undo: Callable[[_T], Coroutine[Any, Any, object]] | None = None,
) -> _T:
    """Do a piece of work that a cancellation does not end in the middle.

    Args:
        work: begins it. It is begun a second time if its own task was cancelled from outside, as ``asyncio.run``
            does with all tasks in the end; so doing it twice must be harmless, where there is no ``until``.
        until: before this point a cancellation ends the work as usual; without it, never.
        undo: given what the work has returned, if a cancellation keeps the caller from getting it.

    Raises:
        CancelledError: after everything is done; its cause is what the work raised, if it did.
    """
    task = asyncio.ensure_future(work())
    cancelled = await _wait(task, None if until is None else partial(until.cancel, task))
    if until is None and task.cancelled():
        task = asyncio.ensure_future(work())
        again = await _wait(task)
        cancelled = cancelled or again
    if cancelled is None:
        return task.result()
    error = None if task.cancelled() else task.exception()
    if error is not None:
        raise cancelled from error
    if undo is not None and not task.cancelled():
        await go_on(cancelled, partial(undo, task.result()))
    raise cancelled


async def go_on(cancelled: asyncio.CancelledError, work: Callable[[], Coroutine[Any, Any, object]]) -> NoReturn:
    """Do what a cancellation has left to be done, then let it go on; if that fails, with the error as its cause."""
    try:
        await outlast(work)
    except asyncio.CancelledError:
        raise cancelled from cancelled.__cause__
    except Exception as error:
        raise cancelled from error
    raise cancelled


async def in_thread(executor: Executor | None, function: Callable[[], _T]) -> _T:
    """Call a function in a thread, and wait until it returns, cancelled or not: a thread cannot be interrupted.

    Args:
        executor: whose thread; None is the loop's own.
        function: is called in the context of the caller.
    """
    future = asyncio.get_running_loop().run_in_executor(executor, copy_context().run, function)
    cancelled = await _wait(future)
    if cancelled is not None:
        raise cancelled from future.exception()
    return future.result()


async def _wait(
    future: asyncio.Future[Any], cancel: Callable[[], object] | None = None
) -> asyncio.CancelledError | None:
    """Wait for a future, however often that is cancelled; return the first cancellation, which calls ``cancel``."""
    first: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            if first is None:
                first = error
                if cancel is not None:
                    cancel()
    return first
