"""Delivering orders to an attached agent, and keeping its slots filled."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final, TypeVar

from .core import decide as core
from .core.decide import Change
from .core.errors import AgentError
from .core.questions import Leased
from .core.state import RunState
from .core.status import SweepStatus
from .handles.delivery import SLICE, Deliveries
from .handles.shell import log_ignored
from .hooks import ORDERS, Agent, Order
from .run import Run
from .shell import Shell

_T = TypeVar("_T")
_PAGE: Final = 256


class Pump(Deliveries):
    """Delivers orders to the attached agent and keeps its slots filled.

    One caller at a time does it, the outermost: an agent that executes inline reports the end of a
    run from inside ``start``, and that report must not start the next run inside itself.
    """

    def __init__(self, shell: Shell, agent: Agent) -> None:
        super().__init__()
        self._shell = shell
        self._agent = agent
        self._lock = Lock()

    def committed(self, change: Change) -> None:
        """Act on a commit: an edge. No error of a hook reaches this caller; the next tick meets it again."""
        self._note(change, busy=self._lock.locked())
        self._drain(raising=False)

    def tick(self, work: Callable[[], _T]) -> _T:
        """Do ``work``, deliver everything outstanding, each order once, and fill free slots: the level.

        Another tick, or a hook that ticks, may be at it already: then that one delivers.

        Returns:
            What ``work`` returned.

        Raises:
            AgentError: hooks raised; the orders stay outstanding.
        """
        outermost = self._lock.acquire(blocking=False)
        try:
            if outermost:
                self._delivered.clear()  # by another, each order of a round would be delivered again in the same round
            value = work()  # what it commits finds the lock taken, and is left to what follows here
        finally:
            if outermost:
                self._lock.release()
        self._concerned.extend(order.index for order in orders_of(self._shell, self._agent.name))
        self._budget = max(self._budget, SLICE)
        failures = self._drain(raising=True)
        if failures:
            raise AgentError(self._agent.name, tuple(failures))
        return value

    def _drain(self, *, raising: bool) -> list[str]:
        """Deliver and fill until nothing is left to do; return what the agent's hooks raised."""
        failures: list[str] = []
        while self._concerned or self._budget > 0:
            if not self._lock.acquire(blocking=False):
                break  # whoever holds it looks again before leaving
            try:
                self._work()
            except Exception as error:
                if raising:
                    raise
                # The caller's own commit has succeeded; the next tick meets this again.
                log_ignored(self._agent, error)
                break
            finally:
                failures += self._failures
                self._failures.clear()
                self._lock.release()
        return failures

    def _work(self) -> None:
        while True:
            if self._concerned:
                self._deliver(self._concerned.popleft())
            elif self._budget > 0:
                self._fill()
            else:
                return

    def _fill(self) -> None:
        """Hand one run to the agent; when there is none, this round hands out no more."""
        budget = self._spend(self._agent)
        if budget >= 0 and self._shell.load().status is SweepStatus.RUNNING:
            value = self._shell.hand_out(self._agent.name, None, attached=True, begin=False)
            if isinstance(value, RunState):
                self._filled(budget)

    def _deliver(self, index: int) -> None:
        """Call the agent's hook for a run's order, if one is outstanding and was not delivered in this round."""
        order = order_of(self._shell, index, self._agent.name)
        if not self._deliverable(index, order, can_kill=self._agent.can_kill) or order is None:
            return
        try:
            getattr(self._agent, order.kind.value)(order)
        except Exception as error:
            message = self._failed(order, error)
            self._shell.commit(None, None, core.order_failed, index, order.attempt, order.kind, message)


def order_of(shell: Shell, index: int, agent: str) -> Order | None:
    """Return the outstanding order for a run, if it is this agent's."""
    run = shell.load_run(index)
    if run is None or run.lease is None or run.lease.agent != agent:
        return None
    return make_order(shell, run)


def make_order(shell: Shell, run: RunState) -> Order | None:
    """Return the order that follows from a run's newest snapshot, or None."""
    kind = core.order_for(shell.state, run)
    if kind is None or run.lease is None:
        return None
    return ORDERS[kind](Run(shell, run, run.lease.attempt, run.lease.execution, mine=True))


def orders_of(shell: Shell, agent: str) -> list[Order]:
    """Return everything that is outstanding for an agent, by index."""
    # Only a cancelled sweep wants something of runs that are CRASHED by silence.
    query = Leased(agent, presumed=shell.load().status is SweepStatus.CANCELLED)
    found: list[Order] = []
    after = -1
    while True:
        page = shell.storage.runs(shell.sweep_id, query, after=after, limit=_PAGE)
        found += [order for order in (make_order(shell, run) for run in page) if order is not None]
        if len(page) < _PAGE:
            return found
        after = page[-1].index
