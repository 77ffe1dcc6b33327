"""What both pumps keep in mind: whom commits concerned, what was delivered, and how much may still be handed out."""

from __future__ import annotations

from collections import deque
from typing import Final

from ..core.decide import Change
from ..core.events import OrderKind, RunEnded
from ..core.values import describe_error
from ..hooks import AnyOrder

#: How many runs one round hands out, beyond those that replace a run that ended in it.
SLICE: Final = 64


class Deliveries:
    """The rules of delivering orders and filling slots; a pump does what they say."""

    def __init__(self) -> None:
        # Runs that a commit concerned, oldest first: their orders are delivered, if they have any. Appending and
        # taking are atomic, since commits of other threads come in between.
        self._concerned: deque[int] = deque()
        # What was delivered in this round; a failure is tried again by the next tick, not at once.
        self._delivered: dict[int, tuple[int, OrderKind]] = {}
        self._failures: list[str] = []
        # How many runs this round may still hand out, so that no call goes on for ever.
        self._budget = 0
        #: Whether the last round ended because it had handed out its share, and not because there was nothing.
        self.unfilled: bool = False

    def _note(self, change: Change, *, busy: bool) -> None:
        """Note what a commit concerned, and what it makes room for."""
        self._concerned.extend(run.index for run in change.runs)
        # A run that ended makes room for one other. What else frees slots (a resume, other limits) fills a slice
        # of them where they are bounded; but not what this round commits itself, or it would go on for ever.
        if change.sweep.limits.max_active is not None and not busy:
            self._budget = max(self._budget, SLICE)
        else:
            self._budget += sum(isinstance(event, RunEnded) for event in change.events)

    def _spend(self, agent: object) -> int:
        """Return what may be handed out besides one run, or -1 for none; until it is given back, nothing is left of it.

        An agent that is going away is handed nothing: it would be given what it has just given back.
        """
        budget, self._budget = self._budget - 1, 0
        self.unfilled = False
        return budget if getattr(agent, "accepting", True) else -1

    def _filled(self, budget: int) -> None:
        """Give back what may be handed out after a run that was."""
        self._budget += budget
        self.unfilled = self._budget <= 0

    def _deliverable(self, index: int, order: AnyOrder | None, *, can_kill: bool) -> bool:
        """Return whether a run's order is to be delivered, and if so note that it was."""
        if order is None:
            self._delivered.pop(index, None)
            return False
        mark = (order.attempt, order.kind)
        if self._delivered.get(index) == mark or (order.kind is OrderKind.KILL and not can_kill):
            return False
        self._delivered[index] = mark
        return True

    def _failed(self, order: AnyOrder, error: Exception) -> str:
        """Note that a hook raised; return what to keep of its error."""
        message = describe_error(error)[:10_000].encode(errors="replace").decode()
        self._failures.append(f"{order.kind.value} {order.run!r}: {message}")
        return message
