"""Several processes on one sweep or study, each doing whole lives of runs as fast as it can, for some seconds."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from typing import Any, Literal, TypeAlias

from sweepstate import SQLiteStorage, Sweep
from sweepstate.storage.sqlalchemy import SQLAlchemyStorage
from tests.benchmarks.common import Batch, optuna_life, three_calls

Synchronous: TypeAlias = Literal["FULL", "NORMAL"]
#: Opens a sweep or a study that is there, in a process of its own, and returns what does lives in it.
Opener = Callable[..., Batch]

STUDY = "contended"


def contend(count: int, seconds: float, opener: Opener, *arguments: str) -> list[int]:
    """Return how many lives each of ``count`` processes has done."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(count), context.Queue()
    processes = [context.Process(target=_work, args=(barrier, queue, seconds, opener, arguments)) for _ in range(count)]
    for process in processes:
        process.start()
    done = [queue.get(timeout=seconds + 120) for _ in processes]
    for process in processes:
        process.join()
    return done


def _work(barrier: Barrier, queue: Queue[int], seconds: float, opener: Opener, arguments: tuple[str, ...]) -> None:
    live = opener(*arguments)
    barrier.wait()
    end, done = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        live(1)
        done += 1
    queue.put(done)


def open_sqlite(path: str, synchronous: Synchronous) -> Batch:
    return three_calls(Sweep.open(STUDY, storage=SQLiteStorage(path, synchronous=synchronous)))


def open_server(url: str, prefix: str) -> Batch:
    return three_calls(Sweep.open(STUDY, storage=SQLAlchemyStorage(url, prefix=prefix)))


def open_optuna_rdb(url: str) -> Batch:
    import optuna  # noqa: PLC0415  a peer need not be installed

    return optuna_life(_optuna_study(optuna.storages.RDBStorage(url)))


def open_optuna_journal(path: str) -> Batch:
    import optuna  # noqa: PLC0415  a peer need not be installed

    backend = optuna.storages.journal.JournalFileBackend(path)
    return optuna_life(_optuna_study(optuna.storages.JournalStorage(backend)))


def _optuna_study(storage: Any) -> Any:
    """Open a study, or make it."""
    import optuna  # noqa: PLC0415  a peer need not be installed

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(study_name=STUDY, storage=storage, sampler=sampler, load_if_exists=True)
