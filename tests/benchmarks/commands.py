"""Every command and question once, timed, on a sweep whose size must not matter."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

import attrs

from sweepstate import Run, RunStatus, Sweep
from sweepstate.core.questions import ByIndex, InStatus
from sweepstate.hooks import Storage
from tests.benchmarks.large import LARGE

_T = TypeVar("_T")
_PAGE = 100
_FAILED = RunStatus.FAILED


@attrs.frozen
class Times:
    """The seconds that each command took, in order."""

    of: dict[str, list[float]] = attrs.field(factory=dict)

    def __call__(self, name: str, function: Callable[..., _T], *arguments: Any, **keywords: Any) -> _T:
        """Call a function, and keep how long that took."""
        start = time.perf_counter()
        value = function(*arguments, **keywords)
        self.of.setdefault(name, []).append(time.perf_counter() - start)
        return value


def round_of_commands(sweep: Sweep, storage: Storage, timed: Times) -> None:
    """Do everything once, and leave the sweep as it was but for a few more runs that have ended."""
    _commands_of_runs(sweep, timed)
    _commands_of_the_sweep(sweep, timed)
    _questions(sweep, storage, timed)


def _next(sweep: Sweep, timed: Times, name: str) -> Run:
    run = timed(name, sweep.next_run)
    assert isinstance(run, Run)
    return run


def _commands_of_runs(sweep: Sweep, timed: Times) -> None:
    run = _next(sweep, timed, "next_run")
    timed("start", run.start)
    timed("finish", run.finish, loss=1.0)
    run = _next(sweep, timed, "next_run")
    timed("start, with heartbeats", run.start, heartbeats=True)
    timed("heartbeat", run.heartbeat)
    timed("report", run.report, loss=2.0)
    timed("tick", sweep.tick)
    timed("refresh", run.refresh)
    timed("stop a run", run.stop)
    timed("interrupt", run.interrupt)
    run = _next(sweep, timed, "next_run")
    run.start()
    timed("fail", run.fail, "out of memory")
    timed("retry a run", sweep[run.index].retry)
    again = _next(sweep, timed, "next_run, one that is queued")
    assert again.index == run.index
    again.start()
    timed("kill", again.kill)
    timed("gone", again.gone)
    run = _next(sweep, timed, "next_run")
    timed("release", run.release)
    run = _next(sweep, timed, "next_run, one that is queued")
    run.start()
    timed("crash", run.crash, "segmentation fault")


def _commands_of_the_sweep(sweep: Sweep, timed: Times) -> None:
    timed("pause", sweep.pause)
    timed("resume", sweep.resume)
    timed("set_limits", sweep.set_limits, max_preemptions=9 - sweep.limits.max_preemptions)
    timed("stop", sweep.stop)
    timed("reopen with retry", sweep.reopen, retry=[_FAILED])
    run = _next(sweep, timed, "next_run, one of the backlog")
    assert run.attempt > 1
    run.start()
    run.fail("again")
    timed("cancel", sweep.cancel)
    timed("reopen", sweep.reopen)


def _questions(sweep: Sweep, storage: Storage, timed: Times) -> None:
    middle = sweep.state.created // 2
    timed("a run by its index", sweep.__getitem__, middle)
    timed("counts", lambda: sweep.refresh().counts)
    timed("best", lambda: sweep.best)
    timed("the first page of runs", lambda: list(islice(sweep.runs(), _PAGE)))
    timed("a page of runs in the middle", storage.runs, LARGE, ByIndex(), after=middle, limit=_PAGE)
    failed = InStatus(frozenset({_FAILED}))
    timed("a page of those that failed", storage.runs, LARGE, failed, limit=_PAGE // 2)
    timed("the first page of history", storage.events, LARGE, after=0, limit=_PAGE)
    timed("a page of history in the middle", storage.events, LARGE, after=sweep.state.events // 2, limit=_PAGE)
