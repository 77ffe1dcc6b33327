"""What other processes do in the museum; functions of a module, so that they are found there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sweepstate import Change, Idle, SQLiteStorage, Sweep
from tests.fakes import Clock

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def explore(line: Connection, storage: SQLiteStorage, agent: str) -> None:
    """Execute all that is handed out, until there is nothing more; say which points those were."""
    sweep = Sweep.open("s", storage=storage)
    line.send("ready")
    line.recv()
    done: list[object] = []
    while run := sweep.next_run(agent):
        run.start(agent)
        done.append(run.config["x"])
        run.finish()
    line.send(done)


def promise_and_wait(line: Connection, storage: SQLiteStorage, clock: Clock) -> None:
    """Begin a run with a promise of heartbeats, say its token, and wait to be killed."""
    run = Sweep.open("s", storage=storage, clock=clock).next_run("vanishing")
    assert not isinstance(run, Idle)
    run.start("job-1", heartbeats=True)
    line.send(run.token)
    line.recv()


def train(line: Connection, storage: SQLiteStorage) -> None:
    """Execute one run, epoch by epoch, each when it is told to, until it should stop; say what became of it."""
    sweep = Sweep.open("s", storage=storage)
    run = sweep.next_run("trainer")
    assert not isinstance(run, Idle)
    with run:
        epochs = 0
        while not run.should_stop:
            epochs += 1
            line.send(epochs)
            line.recv()
        run.fail("was asked to stop")
    line.send((epochs, run.refresh().status.value, sweep.refresh().status.value))


def die_while_handing_out(line: Connection, path: Path, moment: str) -> None:
    """Die right before, or right after, the commit that hands a run out."""

    class Dying(SQLiteStorage):
        def commit(self, change: Change) -> None:
            if moment == "after":
                super().commit(change)
            line.close()
            os._exit(9)

    Sweep.open("s", storage=Dying(path)).next_run("agent", "req-1")
