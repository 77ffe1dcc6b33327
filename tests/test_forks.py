"""Handles in a forked child: what the parent's threads hold there, nobody in it will ever release."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from sweepstate import AsyncSweep, Grid, SQLiteStorage, Sweep, SweepStatus, ThreadedStorage

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
#: Seconds after which a child is stuck.
PATIENCE = 60


def in_a_child(work: Callable[[], object]) -> int:
    """Do something in a forked child, and return how it ended."""
    child = os.fork()
    if child == 0:
        threading.Timer(PATIENCE, os._exit, [9]).start()
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_takes_turns_by_locks_of_its_own(tmp_path: Path) -> None:
    """Also if it is forked while another thread is in the middle of a command."""
    with SQLiteStorage(tmp_path / "sweeps.db") as storage:
        sweep = Sweep(Grid({"x": list(range(100_000))}), id="s", storage=storage)
        over = threading.Event()

        def claim() -> None:
            while not over.is_set():
                sweep.next_run("parent")

        thread = threading.Thread(target=claim)
        thread.start()
        try:
            for _ in range(5):
                assert in_a_child(lambda: sweep.next_run("child")) == 0
        finally:
            over.set()
            thread.join()
        agents = [run.state.lease.agent for run in sweep.runs() if run.state.lease is not None]
        assert agents.count("child") == 5


def test_a_threaded_storage_has_threads_of_its_own_in_a_child(tmp_path: Path) -> None:
    """The parent's are not there."""

    async def create() -> None:
        await AsyncSweep.create(Grid({"x": [1]}), id="s", storage=storage)

    async def stop() -> None:
        sweep = await AsyncSweep.open("s", storage=storage)
        await sweep.stop()

    beneath = SQLiteStorage(tmp_path / "sweeps.db")
    storage = ThreadedStorage(beneath)
    asyncio.run(create())
    assert in_a_child(lambda: asyncio.run(stop())) == 0
    assert beneath.sweep("s").status is SweepStatus.STOPPED
    asyncio.run(storage.close())
    beneath.close()
