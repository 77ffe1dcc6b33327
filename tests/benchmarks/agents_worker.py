"""What the worker costs: a run that does nothing, beside the same by hand; and a worker that waits.

A part of ``agents.py``. Without a bound: the figures are for the notes.
"""

from __future__ import annotations

import threading
import time
from functools import partial

from sweepstate import Grid, Limits, MemoryStorage, Random, Run, Sweep, SweepState, work
from tests.benchmarks.common import SPACE, Batch, Row, interleaved, show

_BATCH = 300
_BATCHES = 15
_WAITING = 10.0


class Counted(MemoryStorage):
    """Counts how often it is asked."""

    asked = 0

    def sweep(self, sweep_id: str) -> SweepState:
        self.asked += 1
        return super().sweep(sweep_id)


def worker() -> list[Row]:
    """Measure a no-op run of the loop, and the idle cost of a worker whose sweep is paused."""
    peers: dict[str, Batch] = {
        "next_run, start, finish by hand": _by_hand,
        "sweep.execute": _execute,
        "work": _work,
    }
    interleaved(peers, 1, _BATCH)
    show("a no-op run in memory", interleaved(peers, _BATCHES, _BATCH), "next_run, start, finish by hand")
    _idle()
    return []


def _sweep(count: int) -> Sweep:
    return Sweep(Random(SPACE, seed=0), limits=Limits(run_cap=count))


def _by_hand(count: int) -> None:
    sweep = _sweep(count)
    while isinstance(run := sweep.next_run(), Run):
        run.start("execution", heartbeats=True)
        run.finish()


def _execute(count: int) -> None:
    _sweep(count).execute(_nothing)


def _work(count: int) -> None:
    work(_sweep(count), _nothing, signals=False)


def _nothing(_run: Run) -> None:
    """Stand for a training run."""


def _idle() -> None:
    storage = Counted()
    sweep = Sweep(Grid({"x": [1]}), storage=storage)
    sweep.pause()
    thread = threading.Thread(target=partial(work, Sweep.open(sweep.id, storage=storage), _nothing))
    before, asked = time.process_time(), storage.asked
    thread.start()
    time.sleep(_WAITING)
    used, asked = time.process_time() - before, storage.asked - asked
    sweep.stop()
    print(
        f"\na worker of a paused sweep, in its first {_WAITING:g} s: {used * 1e3:.1f} ms of processor, "
        f"{asked} looks at the storage"
    )
    thread.join()
