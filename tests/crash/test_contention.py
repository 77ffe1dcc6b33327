"""Processes that claim the points of one grid at once, while somebody pauses, stops and cancels their sweep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest

from sweepstate import IllegalTransition, RunStatus, Sweep, SweepStatus
from sweepstate.core.events import SweepStatusChanged
from sweepstate.core.lifecycle import SweepTrigger
from sweepstate.testing.contract.plain import PlainStorage
from sweepstate.testing.contract.world import all_events
from sweepstate.testing.faulty_storages.commits import VersionCheckedOutsideTheTransaction
from tests.support import workers
from tests.support.acknowledged import Book, Opener, opened, warm
from tests.support.conductor import PATIENCE, Conductor, Part
from tests.support.counts import Report, scaled

WORKERS = 8
POINTS = 2_000
#: How often somebody interferes, evenly spread over the points.
TIMES = 24


def pause_and_resume(sweep: Sweep) -> None:
    sweep.pause("lunch", actor="the ninth")
    time.sleep(0.05)
    sweep.resume()


def stop_and_reopen(sweep: Sweep) -> None:
    """What was withdrawn comes back by itself; what an earlier reopening wanted is wanted again: a stop drops that."""
    sweep.stop("enough", actor="the ninth")
    time.sleep(0.02)
    sweep.reopen("not enough", retry={RunStatus.KILLED})


def cancel_and_reopen(sweep: Sweep) -> None:
    """What executes is killed, and is wanted again when its execution has ended."""
    sweep.cancel("bad data", actor="the ninth")
    time.sleep(0.02)
    sweep.reopen(retry={RunStatus.KILLED}, actor="the ninth")


INTERFERENCES = (pause_and_resume, stop_and_reopen, pause_and_resume, cancel_and_reopen)


def interfere(sweep: Sweep, points: int, over: Callable[[], bool]) -> None:
    """Do each of these at some number of points, until all points are created.

    Raises:
        AssertionError: the workers are stuck, or what somebody did to the sweep did not last.
    """
    moments: Iterator[int] = iter(range(points // (2 * TIMES), points, max(1, points // TIMES)))
    for moment, act in zip(moments, cycle(INTERFERENCES)):
        until = time.monotonic() + PATIENCE
        while sweep.refresh().state.created < moment and not over():
            assert time.monotonic() < until, f"the workers are stuck: {sweep}"
            time.sleep(0.01)
        try:
            act(sweep)
        except IllegalTransition as error:
            if sweep.refresh().status is SweepStatus.FINISHED:
                return  # the workers were faster
            raise AssertionError(f"nobody else steers the sweep, and yet it is {sweep.status}") from error


def contend(opener: Opener, points: int, told: Book) -> list[Part]:
    """Let workers execute all points of a new sweep, and interfere; write down what anybody but them was told."""
    with opened(opener) as storage, Conductor(partial(warm, opener)) as conductor:
        workers.create(storage, "s", points)
        told.add_events(all_events(storage, "s"))
        conductor.begin(workers.work, [(opener, "s")] * WORKERS)
        with workers.told_to(told, storage, "s") as sweep:
            interfere(sweep, points, lambda: conductor.over)
        return conductor.parts()


@pytest.mark.parametrize("opener", ["sqlite", "postgresql", "mariadb"], indirect=True)
def test_contending_processes_execute_every_point_once(opener: Opener, report: Report) -> None:
    """Exactly as many points as there are, however often the sweep is paused, stopped and cancelled (wandb#8549)."""
    points = scaled(POINTS, least=100)
    told = Book()
    parts = contend(opener, points, told)
    assert workers.check(opener, "s", points, parts, told) == [], "nobody died, so everything was told to somebody"
    with opened(opener) as storage:
        history = all_events(storage, "s")
    done = [event.trigger for event in history if isinstance(event, SweepStatusChanged)]
    for trigger in (SweepTrigger.PAUSE, SweepTrigger.RESUME, SweepTrigger.STOP, SweepTrigger.CANCEL):
        assert done.count(trigger) > 1, f"{trigger} was hardly ever tried"
    shares = [sum(words[0] == "executes" for words in part.said) for part in parts]
    seconds = history[-1].at - history[0].at
    report(f"{len(told)} commits in {seconds:.1f} s; each worker executed {', '.join(map(str, shares))}")


def execute_all(kind: type[PlainStorage], path: Path) -> None:
    """Let workers contend for few points on a slow storage."""
    opener, told = partial(kind, path), Book()
    parts = contend(opener, 100, told)
    assert workers.check(opener, "s", 100, parts, told) == []


def test_a_storage_that_lets_one_commit_overtake_another_is_caught(tmp_path: Path, report: Report) -> None:
    """The same program finds it, where one that differs in that alone is right."""
    execute_all(PlainStorage, tmp_path / "right.db")
    with pytest.raises(AssertionError) as caught:
        execute_all(VersionCheckedOutsideTheTransaction, tmp_path / "wrong.db")
    report(str(caught.value)[:100])
