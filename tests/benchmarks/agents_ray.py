"""What a run costs on a Ray cluster: RayAgent, bare tasks, and Ray Tune, side by side.

``python -m tests.support.lone python -m tests.benchmarks.agents_ray [runs]``; needs the group "bench".

All execute the same points with the same number at a time. The bare loop is what somebody writes who must
look at each result before submitting the next task: ``ray.wait`` for one, submit one. It keeps nothing, and its tasks
end with it. Those of an actor do not; a bare one shows what that costs by itself. Tune's trials are actors, each
a process; it is given reuse of them, as it recommends for short trials.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from sweepstate import Grid, Limits, MemoryStorage, Objective, RunStatus, SQLiteStorage, Sweep
from sweepstate.agent.ray import RayAgent
from sweepstate.hooks import Storage
from tests.benchmarks.common import Batch, Row, interleaved, ratio, show
from tests.support.ray_nodes import started

ROUNDS = 7
SLOTS = 4
#: That the cluster believes to have: as many workers may idle without being ended.
CPUS = 3 * SLOTS


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


class Owner:
    """Submits tasks for a driver, which they outlive; says in one call what has ended, and takes what comes next."""

    def __init__(self) -> None:
        ray: Any = import_module("ray")
        self._task = ray.remote(max_retries=0)(lambda x: {"loss": x * 1.0})
        self._watches: set[asyncio.Future[None]] = set()
        self._ended: list[float] = []
        self._rung = asyncio.Event()

    async def exchange(self, points: list[int]) -> list[float]:
        """Submit tasks, wait for the end of some, and return their results."""
        self._watches |= {asyncio.ensure_future(self._watch(self._task.remote(x))) for x in points}
        while not self._ended:
            self._rung.clear()
            await self._rung.wait()
        ended, self._ended = self._ended, []
        return ended

    async def _watch(self, task: Any) -> None:
        result: dict[str, float] = await task
        self._ended.append(result["loss"])
        self._rung.set()


def outliving(stack: contextlib.ExitStack) -> Batch:
    """Return what executes bare tasks of an actor, ``SLOTS`` at a time."""
    ray: Any = import_module("ray")
    owner = ray.remote(Owner).options(num_cpus=0, max_concurrency=1_000, lifetime="detached").remote()
    stack.callback(ray.kill, owner)

    def batch(count: int) -> None:
        points = iter(range(count))
        results: list[float] = []
        begun = list(islice(points, SLOTS))
        while len(results) < count:
            ended = ray.get(owner.exchange.remote(begun))
            results += ended
            begun = list(islice(points, len(ended)))
        assert sorted(results) == [x * 1.0 for x in range(count)]

    return batch


class Warm(RayAgent):
    """Stays in the cluster between sweeps, so that a batch does not begin with the start of processes."""

    def _leave(self, sweep_id: str | None) -> bool:
        return sweep_id is None and super()._leave(None)


def warm(stack: contextlib.ExitStack) -> Warm:
    """Return an agent for all rows of its own: its workers are no other's, and Ray ends those that idle."""

    def function(run: Any) -> dict[str, float]:
        time.sleep(run.config["seconds"])
        return {"loss": run.config["x"] * 1.0}

    agent = Warm(function, name="warm")
    stack.callback(agent.close)
    return agent


def driven(agent: RayAgent, seconds: float, storage: Callable[[], Storage]) -> Batch:
    """Return what drives a sweep, ``SLOTS`` runs at a time."""

    def batch(count: int) -> None:
        sweep = Sweep(
            Grid({"x": list(range(count)), "seconds": [seconds]}),
            storage=storage(),
            agent=agent,
            objective=Objective("loss"),
            limits=Limits(max_active=SLOTS),
        )
        agent.drive(sweep)
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


def rehearsed(peers: dict[str, Batch], rounds: int, count: int) -> dict[str, list[float]]:
    """Return the seconds an item of each batch, the peers taking turns, each after a batch that is not timed.

    Ray takes the workers of one owner of tasks for another one's, and then starts new ones for the first.
    """
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, batch in peers.items():
            batch(count)
            for each, measured in interleaved({name: batch}, 1, count, time.perf_counter).items():
                times[each] += measured
    return times


def main(count: int) -> None:
    """Print the figures."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as directory, started(CPUS), contextlib.ExitStack() as stack:

        def sqlite() -> Storage:
            sqlite.made += 1  # type: ignore[attr-defined]
            path = Path(directory) / f"{sqlite.made}.db"  # type: ignore[attr-defined]
            return stack.enter_context(SQLiteStorage(path))

        sqlite.made = 0  # type: ignore[attr-defined]
        agent = warm(stack)
        peers = {
            "bare tasks": bare(0.0),
            "bare tasks of an actor": outliving(stack),
            "RayAgent, in memory": driven(agent, 0.0, MemoryStorage),
            "RayAgent": driven(agent, 0.0, sqlite),
        }
        longer = {"bare tasks": bare(0.05), "RayAgent": driven(agent, 0.05, sqlite)}
        times = rehearsed(peers, ROUNDS, count)
        times_longer = rehearsed(longer, 3, count)
        tuned = interleaved({"ray.tune.Tuner": tuner(Path(directory))}, 1, count, time.perf_counter)
    show(f"no-op, {SLOTS} at a time", times | tuned, "bare tasks")
    show(f"runs of 50 ms, {SLOTS} at a time", times_longer, "bare tasks")
    print()
    print(Row("RayAgent against bare tasks, no-op, memory", ratio(times, "RayAgent, in memory", "bare tasks"), 1.3))
    print(f"  of that the actor alone: {ratio(times, 'bare tasks of an actor', 'bare tasks'):.2f} x")
    print(Row("RayAgent against bare tasks, no-op", ratio(times, "RayAgent", "bare tasks"), 1.3))
    print(Row("RayAgent against bare tasks, 50 ms", ratio(times_longer, "RayAgent", "bare tasks"), 1.3))
    print(Row("RayAgent against Tune, no-op", times["RayAgent"][-1] / tuned["ray.tune.Tuner"][0], 1.0))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
