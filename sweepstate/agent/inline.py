"""InlineAgent: executes each run in the call that orders it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.errors import AlreadyStarted, IllegalTransition
from ..core.values import check_text
from ..handles.checks import check_immediate_function
from ..hooks import Kill, Start, Stop

if TYPE_CHECKING:
    from ..run import Run


class InlineAgent:
    """Calls a function for each run, one after the other, inside the sweep's ``tick``.

    For unit tests, notebooks and small searches. It cannot kill: a run learns that it should stop
    from ``run.should_stop``, or from what ``run.report`` returns.

    Args:
        function: is given the run, and returns its metrics: a mapping, or a number if the sweep has an
            objective, or None. An exception fails the run.
        name: stable over restarts; orders are addressed to it.

    Attributes:
        function: as it was given.
        name: as it was given.
        can_kill: False.

    Raises:
        InvalidValue: the function cannot be called, or must be awaited, or the name is no string.
    """

    can_kill: bool = False

    def __init__(self, function: Callable[[Run], object], *, name: str = "inline") -> None:
        check_immediate_function(function)
        self.function: Callable[[Run], object] = function
        self.name: str = check_text(name, "name", most=1_000)

    def __repr__(self) -> str:
        return f"InlineAgent({self.function!r}, name={self.name!r})"

    def start(self, order: Start) -> None:
        """Execute the run and report its end, unless it has begun already or may not begin any more."""
        run = order.run
        try:
            begun = run.start()
        except AlreadyStarted:
            return
        except IllegalTransition:
            run.gone()  # killed or handed on since it was ordered: nothing executes
            return
        if begun:
            run.perform(self.function)

    def stop(self, _order: Stop) -> None:
        """Do nothing: the function sees ``run.should_stop``."""

    def kill(self, _order: Kill) -> None:
        """Do nothing: what executes in this very thread cannot be ended from it."""
