"""AsyncRun: a handle of one run, for those who execute it on an event loop, and those who watch it there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from inspect import isawaitable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Never, ParamSpec, Self, final

from ..core import decide as core
from ..core.decide import Answer, Decision, Draft
from ..core.errors import AlreadyStarted, IllegalTransition, InvalidValue, RunNotFound
from ..core.events import Event, OrderKind
from ..core.status import RunStatus
from ..core.values import EMPTY, FrozenDict, show
from ..handles.reports import end_of
from ..handles.run import RunHandle
from ..outlast import go_on, outlast
from .shell import AsyncShell

_P = ParamSpec("_P")


@final
class AsyncRun(RunHandle[Coroutine[Any, Any, tuple[Event, ...]], Coroutine[Any, Any, Answer], AsyncShell]):
    """A handle of one run, at one attempt; ``Run`` for an event loop.

    Every command and report is that of ``Run``, and awaited.

    Handles come from ``await sweep.next_run()``, ``async for run in sweep``, ``await sweep.run(index)`` and
    ``async for run in sweep.runs()``.

    Attributes:
        attempt: the attempt that this handle reports for.
        execution: which execution it reports for, if that was said.
        stop_raises: whether ``report`` raises ``ShouldStop`` when the execution should end; False
            unless it is set.
    """

    __slots__ = ()

    _interrupts: ClassVar[tuple[type[BaseException], ...]] = (KeyboardInterrupt, asyncio.CancelledError)

    # --- what it shows ---------------------------------------------------------------------------

    async def metrics(self) -> Mapping[str, float]:
        """Return what it reported with its end, as last seen; before that, what it last reported on the way."""
        if self._state.metrics or self.ended or self._shell.heartbeats is None:
            return self._state.metrics
        return await self._shell.heartbeats.last_metrics(self.sweep_id, self.index) or EMPTY

    async def should_stop(self) -> bool:
        """Return whether its execution should end: it was asked to, or was killed, or has reported its end.

        Also if the run was handed on. False for a run that was lost to silence: its end is still wanted.
        Looks at the storage each time; it is no heartbeat.
        """
        await self.refresh()
        return self._no_say() or core.order_for(await self._shell.load(), self._state) in _ENDING

    async def refresh(self) -> Self:
        """Look again; return this handle, which then shows the newest snapshot.

        Raises:
            SweepNotFound: the sweep was deleted.
            RunNotFound: the storage has lost the run.
        """
        state = await self._shell.load_run(self.index)
        if state is None:
            raise RunNotFound(self.sweep_id, self.index, (await self._shell.load()).created)
        self._state = state
        return self

    # --- executing -------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # see AsyncSweep.__iter__

        def __enter__(self) -> Never:
            raise TypeError("an AsyncRun is executed by `async with run:`")

        def __exit__(self, *_error: object) -> None:
            """Be there, since Python looks for both before it calls either."""

    async def __aenter__(self) -> Self:
        """Begin, if it has not begun.

        A run that may not begin any more, because it was killed or handed on meanwhile, is reported
        as gone: nothing of it executes, so its slot is free at once. A run whose beginning is cancelled
        is given back.

        Raises:
            StaleAttempt: the run was handed on.
            AlreadyStarted: somebody else is executing it.
            IllegalTransition: nobody has the run, or it has ended.
        """
        self._take_on()
        if self._mine and self._state.status is RunStatus.RUNNING:
            return self
        try:
            begun = await self.start()
        except AlreadyStarted:
            raise
        except IllegalTransition:
            if self._mine:
                await outlast(self.gone)
            raise
        except asyncio.CancelledError as cancelled:
            if self._mine:  # also if it was not before: then it has begun, and will never be executed
                await go_on(cancelled, self._give_back)
            raise
        if not begun:
            raise self._begun_elsewhere()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Report the end, if the body has not: finish, or what the exception means. Nothing is swallowed.

        A task that is cancelled interrupts its run: KILLED, or queued again if it was preempting.
        """
        if self._over:
            return
        leave = partial(self._left, error)
        if isinstance(error, asyncio.CancelledError):
            await go_on(error, leave)
        await outlast(leave)

    async def _left(self, error: BaseException | None) -> tuple[Event, ...]:
        return () if self._over else await self._leave(error)

    async def _give_back(self) -> None:
        await self._report(core.release, self.index, self.attempt, begun=True)

    async def perform(self, function: Callable[[AsyncRun], Awaitable[object]]) -> None:
        """Begin, execute a function as this run, and report its end.

        Args:
            function: an async function that is given this handle. What it returns are the metrics: a mapping, or
                a number if the sweep has an objective, or None. An exception fails the run and is kept there.

        Raises:
            IllegalTransition: it may not begin; see ``async with run:``.
            CancelledError: after the run was reported as interrupted.
            KeyboardInterrupt, SystemExit: the function's, after it was reported: they are about the
                whole process.
            InvalidValue: it returned a number, and the sweep has no objective to name it; or something that cannot
                be awaited, as it is no async function. After the run was reported as failed.

        Afterwards:
            The run has ended, whatever the function did.
        """
        await self.__aenter__()
        wrong: InvalidValue | None = None
        try:
            returned: object = function(self)
            if not isawaitable(returned):
                problem = f"{show(function)} returned {show(returned)}, which cannot be awaited"
                remedy = "give an async function, and within it: await asyncio.to_thread(...) of one that blocks"
                wrong = InvalidValue("function", problem, remedy)
                raise wrong  # noqa: TRY301 - it is reported as the function's own errors are
            result = await returned
        except Exception as error:
            await self.conclude(error=error)
            if error is wrong:
                raise
        except BaseException as error:
            await self.conclude(error=error)
            raise
        else:
            await self.conclude(result)

    async def conclude(self, result: object = None, *, error: BaseException | None = None) -> tuple[Event, ...]:
        """Report the end that a function's result means, or its exception, unless the end was reported already.

        See ``Run.conclude``.

        Args:
            result: what the function returned: a mapping of metrics, a number if the sweep has an
                objective, or None.
            error: what it raised instead.

        Returns:
            The events it caused, as from ``finish``; none if the end was reported through this handle before.

        Raises:
            InvalidValue: the result is a number, and the sweep has no objective to name it; after the run
                was reported as failed.
            CancelledError: it is the error, and was reported as an interruption; so that the task goes on to end.

        Afterwards:
            The run has ended, or is queued again; its slot is free.
        """
        if self._over:
            return ()
        if isinstance(error, asyncio.CancelledError):
            await go_on(error, partial(self._left, error))
        if error is not None:
            return await outlast(partial(self._left, error))
        report, wrong = end_of(result, self._shell.state.objective)
        events = await outlast(partial(self._end, report))
        if wrong is not None:
            raise wrong
        return events

    # --- the shell -------------------------------------------------------------------------------

    async def _commit(
        self,
        reason: str | None,
        actor: str | None,
        command: Callable[Concatenate[Draft, _P], Decision[None]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> tuple[Event, ...]:
        _, change = await self._shell.commit(reason, actor, command, *args, **kwargs)
        if not self._note(command, change):
            await self._look()
        return () if change is None else change.events

    async def _report(
        self, command: Callable[Concatenate[Draft, _P], Decision[None]], *args: _P.args, **kwargs: _P.kwargs
    ) -> tuple[Event, ...]:
        self._take_on()
        note = partial(self._note, command)
        _, change = await self._shell.decide(self._state.index, None, None, note, command, *args, **kwargs)
        if change is None or all(run.index != self.index for run in change.runs):
            await self._look()
        return () if change is None else change.events

    async def _sign(self, metrics: FrozenDict | None, *, promise: bool) -> Answer:
        shell = self._shell
        self._take_on()
        promised = promise and shell.keeps_beats
        sign, change = await shell.commit(
            None, None, core.heartbeat, self.index, self.attempt, self.execution, promise=promised
        )
        if sign.keep and shell.heartbeats is not None:
            await shell.heartbeats.beat(shell.sweep_id, self.index, self.attempt, await shell.now(), metrics)
        if not self._note(core.heartbeat, change):
            await self._look()
        return self._answered(sign.answer, promise=promise)

    async def _look(self) -> None:
        """Show the run as the storage holds it."""
        state = await self._shell.load_run(self._state.index)
        if state is not None:
            self._state = state


_ENDING = (OrderKind.STOP, OrderKind.KILL)
