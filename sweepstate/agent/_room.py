"""Room: how many runs an agent has at once where neither the sweep nor the user says it."""

from __future__ import annotations

from collections.abc import Collection

from ._tending import Execution


def has_room(executions: Collection[Execution], at_once: int) -> bool:
    """Return whether one more run may begin, as far as it is for the agent to say.

    The sweep says it by ``limits.max_active``, and hands out no more. Where it bounds nothing, an endless search
    would be begun whole.

    Args:
        executions: what executes.
        at_once: how many may, where the sweep bounds nothing.
    """
    return len(executions) < at_once or all(each.run.limits.max_active is not None for each in executions)
