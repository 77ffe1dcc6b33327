"""Explore from a shell: ``python -m sweepstate.testing.explorer --runs 2 --max-active 1``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ...core.limits import FailureRule, Limits, Objective
from ...core.status import RunStatus
from .moves import all_cells
from .search import explore


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    whole = argparse.ArgumentParser(
        prog="python -m sweepstate.testing.explorer",
        description="Enumerate everything that can happen to a small sweep, and check the laws at every step.",
    )
    add = whole.add_argument
    add("--runs", type=int, default=2, help="how many runs the search has")
    add("--attempts", type=int, help="follow no more attempts of a run; default: any number of them")
    add("--size", type=int, help="how many runs the search says that it has; default: it does not know")
    add("--run-cap", type=int)
    add("--max-active", type=int)
    add("--max-preemptions", type=int, default=1)
    add("--launch-attempts", type=int, default=1)
    add("--retries", type=int, default=0, help="how often a failed or crashed run is queued again by itself")
    add("--streak", type=int, help="fail when so many runs in a row failed")
    add("--within", type=int, help="fail when so many runs failed in the first unit of time")
    add("--time-limit", action="store_true", help="stop after two units of time")
    add("--target", action="store_true", help="a run may reach the objective's target")
    add(
        "--retry",
        action="append",
        metavar="STATUSES",
        help="a set that retry() and reopen() are tried with: FAILED,KILLED",
    )
    add("--no-executions", action="store_true", help="executions do not say who they are")
    add("--no-attached", action="store_true", help="only workers ask for runs")
    add("--symmetric", action="store_true", help="take states that differ in the order of their runs as one")
    add("--max-states", type=int)
    add("--max-seconds", type=float)
    add("--cells", action="store_true", help="also list the cells of the tables that were not asked for")
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Explore as the arguments say, and print the figures."""
    given = parser().parse_args(arguments)
    rule = None
    if given.streak is not None or given.within is not None:
        rule = FailureRule(streak=given.streak, within=None if given.within is None else (given.within, 1.0))
    limits = Limits(
        run_cap=given.run_cap,
        max_active=given.max_active,
        max_preemptions=given.max_preemptions,
        launch_attempts=given.launch_attempts,
        retries=given.retries,
        time_limit=1.0 if given.time_limit else None,
        failure=rule,
    )
    sets = given.retry or ["FAILED,CRASHED,KILLED"]
    exploration = explore(
        limits,
        runs=given.runs,
        attempts=given.attempts,
        size=given.size,
        objective=Objective("loss", "minimize", 0.0) if given.target else None,
        retries=[[RunStatus.parse(word) for word in each.split(",") if word] for each in sets if each],
        executions=not given.no_executions,
        attached=not given.no_attached,
        symmetric=given.symmetric,
        max_states=given.max_states,
        max_seconds=given.max_seconds,
    )
    sys.stdout.write(f"{exploration}\n")
    if given.cells:
        missing = sorted(all_cells() - exploration.cells)
        sys.stdout.write("".join(f"not asked for: {' | '.join(cell)}\n" for cell in missing))
    return 0


if __name__ == "__main__":
    sys.exit(main())
