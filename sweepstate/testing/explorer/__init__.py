"""The explorer: everything that can happen to a small sweep, with the laws checked at every step.

``explore(limits)`` enumerates every reachable state of a sweep with a few runs,
under all commands, facts, reports (also late and stale ones), failed deliveries
and steps of time. It proves, for your own limits, that no order of events breaks
a law, and that the sweep always comes to an end. From a shell::

    python -m sweepstate.testing.explorer --runs 2 --max-active 1
"""

from __future__ import annotations

from .moves import Cell, all_cells
from .search import CoreError, Exploration, explore

__all__ = ["Cell", "CoreError", "Exploration", "all_cells", "explore"]
