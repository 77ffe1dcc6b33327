"""InlineAgent: executes each run in the call that orders it."""

from __future__ import annotations

from collections.abc import Callable

from ..hooks import Kill, Start, Stop
from ..run import Run


class InlineAgent:
    """Calls a function for each run, one after the other, inside the sweep's ``tick``.

    For unit tests, notebooks and small searches. It cannot kill: a run learns that it should stop
    from ``run.should_stop``, or from what ``run.report`` returns.

    Args:
        function: is given the run, and returns its metrics: a mapping, or a number if the sweep has an
            objective, or None. An exception fails the run.
        name: stable over restarts; orders are addressed to it.
    """

    can_kill = False

    def __init__(self, function: Callable[[Run], object], *, name: str = "inline") -> None:
        self.function = function
        self.name = name

    def __repr__(self) -> str:
        return f"InlineAgent({self.function!r}, name={self.name!r})"

    def start(self, order: Start) -> None:
        """Execute the run and report its end, unless it has begun already."""
        if order.run.start():
            order.run.perform(self.function)

    def stop(self, _order: Stop) -> None:
        """Do nothing: the function sees ``run.should_stop``."""

    def kill(self, _order: Kill) -> None:
        """Do nothing: what executes in this very thread cannot be ended from it."""
