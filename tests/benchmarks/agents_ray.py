"""What a run costs on a Ray cluster: RayAgent, bare tasks, and Ray Tune, side by side.

``python -m tests.support.lone python -m tests.benchmarks.agents_ray [runs]``; needs the group "bench".

All three execute the same points with the same number at a time. The bare loop is what somebody writes who must
look at each result before submitting the next task: ``ray.wait`` for one, submit one. It keeps nothing. Tune's
trials are actors, each a process; it is given reuse of them, as it recommends for short trials.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from sweepstate import Grid, Limits, MemoryStorage, Objective, RunStatus, SQLiteStorage, Sweep
from sweepstate.agent.ray import RayAgent
from sweepstate.hooks import Storage
from tests.benchmarks.common import Batch, Row, interleaved, ratio, show
from tests.support.ray_nodes import started

ROUNDS = 7
SLOTS = 4


def bare(seconds: float) -> Batch:
    """Return what executes bare tasks, ``SLOTS`` at a time."""
    ray: Any = import_module("ray")

    def function(x: int) -> dict[str, float]:
        time.sleep(seconds)
        return {"loss": x * 1.0}

    task = ray.remote(max_retries=0)(function)

    def batch(count: int) -> None:
        results: list[float] = []
        waiting: list[Any] = []
        for x in range(count):
            if len(waiting) == SLOTS:
                ended, waiting = ray.wait(waiting)
                results += [each["loss"] for each in ray.get(ended)]
            waiting.append(task.remote(x))
        results += [each["loss"] for each in ray.get(waiting)]
        assert sorted(results) == [x * 1.0 for x in range(count)]

    return batch


class Warm(RayAgent):
    """Stays in the cluster between sweeps, so that a batch does not begin with the start of processes."""

    def _leave(self, sweep_id: str | None) -> bool:
        return sweep_id is None and super()._leave(None)


def agent(stack: contextlib.ExitStack, seconds: float, storage: Callable[[], Storage]) -> Batch:
    """Return what drives a sweep, ``SLOTS`` runs at a time."""

    def function(run: Any) -> dict[str, float]:
        time.sleep(seconds)
        return {"loss": run.config["x"] * 1.0}

    warm = Warm(function, name=f"warm {seconds} {storage}")
    stack.callback(warm.close)

    def batch(count: int) -> None:
        sweep = Sweep(
            Grid({"x": list(range(count))}),
            storage=storage(),
            agent=warm,
            objective=Objective("loss"),
            limits=Limits(max_active=SLOTS),
        )
        warm.drive(sweep)
        assert sweep.counts[RunStatus.FINISHED] == count

    return batch


def tuner(directory: Path) -> Batch:
    """Return what Ray Tune makes of the same points, without output."""
    tune: Any = import_module("ray.tune")

    def trainable(config: dict[str, Any]) -> dict[str, float]:
        return {"loss": config["x"] * 1.0}

    def batch(count: int) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            grid = tune.Tuner(
                trainable,
                param_space={"x": tune.grid_search(list(range(count)))},
                tune_config=tune.TuneConfig(max_concurrent_trials=SLOTS, reuse_actors=True),
                run_config=tune.RunConfig(storage_path=str(directory), verbose=0),
            ).fit()
        assert len(grid) == count
        assert not grid.errors

    return batch


def main(count: int) -> None:
    """Print the figures."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as directory, started(SLOTS), contextlib.ExitStack() as stack:

        def sqlite() -> Storage:
            sqlite.made += 1  # type: ignore[attr-defined]
            path = Path(directory) / f"{sqlite.made}.db"  # type: ignore[attr-defined]
            return stack.enter_context(SQLiteStorage(path))

        sqlite.made = 0  # type: ignore[attr-defined]
        peers = {
            "bare tasks": bare(0.0),
            "RayAgent, in memory": agent(stack, 0.0, MemoryStorage),
            "RayAgent": agent(stack, 0.0, sqlite),
        }
        longer = {"bare tasks": bare(0.05), "RayAgent": agent(stack, 0.05, sqlite)}
        for batch in (*peers.values(), *longer.values()):
            batch(2 * SLOTS)  # starts processes
        times = interleaved(peers, ROUNDS, count, time.perf_counter)
        times_longer = interleaved(longer, 3, count, time.perf_counter)
        tuned = interleaved({"ray.tune.Tuner": tuner(Path(directory))}, 1, count, time.perf_counter)
    show(f"no-op, {SLOTS} at a time", times | tuned, "bare tasks")
    show(f"runs of 50 ms, {SLOTS} at a time", times_longer, "bare tasks")
    print()
    print(Row("RayAgent against bare tasks, no-op", ratio(times, "RayAgent", "bare tasks"), 1.3))
    print(Row("RayAgent against bare tasks, 50 ms", ratio(times_longer, "RayAgent", "bare tasks"), 1.3))
    print(Row("RayAgent against Tune, no-op", times["RayAgent"][-1] / tuned["ray.tune.Tuner"][0], 1.0))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
