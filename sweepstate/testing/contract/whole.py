# ruff: noqa: S101 - a contract is made of assertions
"""The whole of it: a sweep through the handles, as in memory; and agreement with memory in whatever order."""

from __future__ import annotations

from typing import ClassVar

from ...core.events import Event
from ...core.limits import Limits, Objective
from ...core.status import RunStatus
from ...hooks import Heartbeats, Storage
from ...run import Run
from ...search.grid import Grid
from ...storage.memory import MemoryStorage
from ...sweep import Sweep
from ..agreement import check_agreement
from ..clock import ManualClock
from ..laws import check_laws
from .base import Capabilities
from .views import View, capable, without_clock
from .world import DAWN, all_events, all_runs, text


class Whole(Capabilities):
    """The part of the contract that uses a storage as people do.

    Attributes:
        examples: how many ways of using it are compared with ``MemoryStorage``.
        steps: how many steps each of them has, at most.
    """

    examples: ClassVar[int] = 25
    steps: ClassVar[int] = 30

    def test_a_sweep_has_the_same_history_as_in_memory(self, storage: Storage) -> None:
        """Retries, preemption, silence, a stop, a cancel and a reopening, through handles, by the same clock."""
        here = _little_sweep(without_clock(storage))
        memory = MemoryStorage()
        same = isinstance(storage, Heartbeats)
        there = _little_sweep(memory if same else capable(View, memory, but=Heartbeats)(memory))
        assert [type(event).__name__ for event in here] == [type(event).__name__ for event in there]
        assert text(here) == text(there)
        check_laws(storage, "little")

    def test_it_agrees_with_memory(self, storage: Storage) -> None:
        """Every answer, whatever was done before it; hypothesis looks for a difference."""
        try:
            import hypothesis  # noqa: F401, PLC0415  # pyright: ignore[reportUnusedImport] - is it there?
        except ImportError:
            self.skip("hypothesis is not installed")
        check_agreement(storage, examples=self.examples, steps=self.steps)


def _little_sweep(storage: Storage) -> list[Event]:
    """Return the history of a sweep in which much happens."""
    clock = ManualClock(DAWN)
    sweep = Sweep(
        Grid({"lr": [0.1, 0.01, 1e-05], "layers": [2, 4]}),
        id="little",
        storage=storage,
        clock=clock,
        objective=Objective("loss"),
        limits=Limits(max_active=4, retries={RunStatus.FAILED: 1}, heartbeat_timeout=100, suspicion=50),
        reason="to begin with",
        actor="ada",
    )
    _second_chances(sweep, clock)
    loud = _silence(sweep, clock)
    _stops(sweep, clock, loud)
    sweep.execute(lambda run: {"loss": float(run.index)})
    while sweep.tick().more:
        pass
    assert sweep.best is not None
    events = all_events(storage, "little")
    assert events == list(sweep.history())
    assert [run.state for run in sweep.runs()] == all_runs(storage, "little")
    return events


def _ask(sweep: Sweep, clock: ManualClock, agent: str, request: str | None = None) -> Run:
    clock.advance(1.1)
    run = sweep.next_run(agent, request)
    assert isinstance(run, Run), f"there was to be a run, and the answer is {run}"
    assert request is None or sweep.next_run(agent, request) == run, "asking again gave another run"
    return run


def _second_chances(sweep: Sweep, clock: ManualClock) -> None:
    """A run fails and is queued again, is preempted and queued again, and finishes."""
    failing = _ask(sweep, clock, "ada", "r1")
    failing.start("host-1")
    failing.fail("boom", exit_code=3)
    again = _ask(sweep, clock, "bob", "r1")
    assert (again.index, again.attempt) == (failing.index, 2)
    again.start()
    again.report(loss=0.75)
    again.mark_preempting()
    again.crash("the machine went away", signal=9)
    third = _ask(sweep, clock, "bob", "r2")
    assert (third.index, third.attempt) == (failing.index, 3)
    third.finish(loss=0.5)


def _silence(sweep: Sweep, clock: ManualClock) -> Run:
    """Of two that promised heartbeats, one falls silent, and finishes after all; return the other one."""
    silent, loud = _ask(sweep, clock, "cyn"), _ask(sweep, clock, "dan")
    silent.start(heartbeats=True)
    loud.start(heartbeats=True)
    for seconds in (99, 50, 51):
        clock.advance(seconds)
        loud.heartbeat()
        sweep.tick()
    silent.finish(loss=0.25)
    return loud


def _stops(sweep: Sweep, clock: ManualClock, loud: Run) -> None:
    """A pause, a stop that is not heeded, a run given back, a cancel, and a reopening."""
    sweep.pause("lunch", actor="ada")
    assert not sweep.next_run("eve")
    sweep.resume()
    stopped = _ask(sweep, clock, "eve")
    stopped.start()
    stopped.stop("enough")
    clock.advance(31)
    sweep.tick()
    loud.exited(0, "done", {"loss": 0.125})
    _ask(sweep, clock, "fay")
    _ask(sweep, clock, "gil").release()
    sweep.cancel("bad data", actor="ada")
    stopped.gone()
    sweep.reopen(retry={RunStatus.KILLED}, actor="bob")
    clock.advance(400)
    sweep.tick()
