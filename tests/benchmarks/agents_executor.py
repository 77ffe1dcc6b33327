"""What the ExecutorAgent costs: a no-op run against a bare ``submit`` and the sweep's own commits, side by side.

Run it with ``python -m tests.benchmarks.agents_executor``. The bound: at most 0.2 ms a run more than a bare
``submit``, waited for, and the same run handed out, started and finished by hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from sweepstate import ExecutorAgent, Limits, Random, Run, Sweep
from tests.benchmarks.common import SPACE, Row, interleaved, show

_BATCH = 300
_BATCHES = 15
_AT_ONCE = 4
_BOUND = 200.0


def nothing(_run: object) -> None:
    """Stand for a training run."""


def bare(pool: ThreadPoolExecutor) -> Callable[[int], object]:
    """Return what submits calls, as many at once as there are workers, and waits for them."""

    def batch(count: int) -> None:
        for _ in range(count // _AT_ONCE):
            wait([pool.submit(nothing, None) for _ in range(_AT_ONCE)])

    return batch


def by_hand(count: int) -> None:
    """Hand out, start and finish runs: what the sweep itself costs."""
    sweep = Sweep(Random(SPACE, seed=0), limits=Limits(run_cap=count))
    while isinstance(run := sweep.next_run("executor"), Run):
        run.start("execution", heartbeats=True)
        run.finish()


def by_agent(pool: ThreadPoolExecutor) -> Callable[[int], object]:
    """Return what lets the agent drive a sweep of no-op runs."""

    def batch(count: int) -> None:
        agent = ExecutorAgent(pool, nothing)
        sweep = Sweep(Random(SPACE, seed=0), agent=agent, limits=Limits(run_cap=count, max_active=_AT_ONCE))
        agent.drive(sweep)

    return batch


def executor() -> list[Row]:
    """Measure threads, the agent and its parts taking turns."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        peers = {"bare submit": bare(pool), "three commits by hand": by_hand, "ExecutorAgent": by_agent(pool)}
        interleaved(peers, 1, _BATCH)
        times = interleaved(peers, _BATCHES, _BATCH, time.perf_counter)
    show(f"no-op runs in {_AT_ONCE} threads, in memory", times, "bare submit")
    parts = zip(times["ExecutorAgent"], times["bare submit"], times["three commits by hand"], strict=True)
    more = sorted((agent - submit - commits) * 1e6 for agent, submit, commits in parts)
    return [Row("executor: a run beyond bare submit and its commits", more[len(more) // 2], _BOUND, "us")]


if __name__ == "__main__":
    print(*executor(), sep="\n")
