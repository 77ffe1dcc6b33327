"""How much the crash and contention programs do, and by which random numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

#: Says, at the end of the session, what a program has seen.
Report = Callable[[str], None]

#: What the counts are multiplied by.
FACTOR: Final = float(os.environ.get("SWEEPSTATE_CRASH_ROUNDS", "1"))
#: What the random numbers begin with. Which moment a kill hits differs all the same.
SEED: Final = int(os.environ.get("SWEEPSTATE_CRASH_SEED", "1"))


def scaled(count: int, least: int = 1) -> int:
    """Return a count, multiplied as the environment says."""
    return max(least, round(count * FACTOR))
