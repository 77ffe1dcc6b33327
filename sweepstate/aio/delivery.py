"""Delivering orders to an attached async agent, and keeping its slots filled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ..core import decide as core
from ..core.decide import Change
from ..core.errors import AgentError
from ..core.questions import Leased
from ..core.state import RunState
from ..core.status import SweepStatus
from ..handles.delivery import SLICE, Deliveries
from ..handles.shell import log_ignored
from ..hooks import ASYNC_ORDERS, AsyncAgent, AsyncOrder
from .run import AsyncRun
from .shell import AsyncShell

_T = TypeVar("_T")
_PAGE: Final = 256


class AsyncPump(Deliveries):
    """Delivers orders to the attached agent and keeps its slots filled; see ``delivery.Pump``.

    A cancellation reaches the hook that is being awaited, whose order stays outstanding. What else is outstanding
    is still delivered, since other tasks may have left it to this one; but nothing is handed out any more.
    """

    def __init__(self, shell: AsyncShell, agent: AsyncAgent) -> None:
        super().__init__()
        self._shell = shell
        self._agent = agent
        self._busy = False

    def committed(self, change: Change) -> None:
        """Note a commit: an edge. ``deliver`` acts on it."""
        self._note(change, busy=self._busy)

    async def deliver(self, last: bool) -> None:  # noqa: FBT001 - called by the shell, which has no names for it
        """Act on what was noted. No error of a hook reaches this caller; the next tick meets it again.

        Args:
            last: whether the caller is cancelled, so that nothing more is to be handed out.
        """
        if last:
            self._budget = 0
        await self._drain(raising=False)

    async def tick(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do ``work``, deliver everything outstanding, each order once, and fill free slots: the level.

        Another tick, or a hook that ticks, may be at it already: then that one delivers.

        Returns:
            What ``work`` returned.

        Raises:
            AgentError: hooks raised; the orders stay outstanding.
        """
        outermost = not self._busy
        if outermost:
            self._busy = True
            self._delivered.clear()  # by another, each order of a round would be delivered again in the same round
        try:
            try:
                value = await work()  # what it commits finds the pump busy, and is left to what follows here
            finally:
                if outermost:
                    self._busy = False
            orders = await orders_of(self._shell, self._agent.name)
        except asyncio.CancelledError:
            await self.deliver(last=True)
            raise
        self._concerned.extend(order.index for order in orders)
        self._budget = max(self._budget, SLICE)
        failures = await self._drain(raising=True)
        if failures:
            raise AgentError(self._agent.name, tuple(failures))
        return value

    async def _drain(self, *, raising: bool) -> list[str]:
        """Deliver and fill until nothing is left to do; return what the agent's hooks raised."""
        failures: list[str] = []
        cancelled: asyncio.CancelledError | None = None
        while (self._concerned or self._budget > 0) and not self._busy:  # who is busy looks again before leaving
            self._busy = True
            try:
                await self._work()
            except asyncio.CancelledError as error:
                cancelled = cancelled or error
                self._budget = 0
            except Exception as error:
                if raising and cancelled is None:
                    raise
                # The caller's own commit has succeeded; the next tick meets this again.
                log_ignored(self._agent, error)
                break
            finally:
                failures += self._failures
                self._failures.clear()
                self._busy = False
        if cancelled is not None:
            raise cancelled
        return failures

    async def _work(self) -> None:
        while True:
            if self._concerned:
                index = self._concerned.popleft()
                try:
                    await self._deliver(index)
                except asyncio.CancelledError:
                    self._concerned.appendleft(index)  # perhaps its hook was not called yet
                    raise
            elif self._budget > 0:
                await self._fill()
            else:
                return

    async def _fill(self) -> None:
        """Hand one run to the agent; when there is none, this round hands out no more."""
        budget = self._spend(self._agent)
        if budget >= 0 and (await self._shell.load()).status is SweepStatus.RUNNING:
            value = await self._shell.hand_out(self._agent.name, None, attached=True, begin=False)
            if isinstance(value, RunState):
                self._filled(budget)

    async def _deliver(self, index: int) -> None:
        """Call the agent's hook for a run's order, if one is outstanding and was not delivered in this round."""
        order = await order_of(self._shell, index, self._agent.name)
        if not self._deliverable(index, order, can_kill=self._agent.can_kill) or order is None:
            return
        try:
            await getattr(self._agent, order.kind.value)(order)
        except Exception as error:
            message = self._failed(order, error)
            await self._shell.commit(None, None, core.order_failed, index, order.attempt, order.kind, message)


async def order_of(shell: AsyncShell, index: int, agent: str) -> AsyncOrder | None:
    """Return the outstanding order for a run, if it is this agent's."""
    run = await shell.load_run(index)
    if run is None or run.lease is None or run.lease.agent != agent:
        return None
    return make_order(shell, run)


def make_order(shell: AsyncShell, run: RunState) -> AsyncOrder | None:
    """Return the order that follows from a run's newest snapshot, or None."""
    kind = core.order_for(shell.state, run)
    if kind is None or run.lease is None:
        return None
    return ASYNC_ORDERS[kind](AsyncRun(shell, run, run.lease.attempt, run.lease.execution, mine=True))


async def orders_of(shell: AsyncShell, agent: str) -> list[AsyncOrder]:
    """Return everything that is outstanding for an agent, by index."""
    # Only a cancelled sweep wants something of runs that are CRASHED by silence.
    query = Leased(agent, presumed=(await shell.load()).status is SweepStatus.CANCELLED)
    found: list[AsyncOrder] = []
    after = -1
    while True:
        page = await shell.storage.runs(shell.sweep_id, query, after=after, limit=_PAGE)
        found += [order for order in (make_order(shell, run) for run in page) if order is not None]
        if len(page) < _PAGE:
            return found
        after = page[-1].index
