"""What users test with: a clock, the laws, and the explorer.

``ManualClock`` is a clock that a test moves. ``check_laws`` checks what a storage
holds against the twelve laws of the lifecycle. ``explore`` enumerates everything
that can happen to a small sweep with limits of yours.
"""

from __future__ import annotations

from .clock import ManualClock
from .explorer import CoreError, Exploration, explore
from .laws import LAWS, LawViolation, check_commit, check_laws, check_state

__all__ = [
    "LAWS",
    "CoreError",
    "Exploration",
    "LawViolation",
    "ManualClock",
    "check_commit",
    "check_laws",
    "check_state",
    "explore",
]
