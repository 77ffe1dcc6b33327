"""Sweeps to test with: a clock that is set, a search that is told what to say, and every situation by real commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from sweepstate import (
    Change,
    Conflict,
    Exhausted,
    History,
    Idle,
    IdleReason,
    Kill,
    Limits,
    MemoryStorage,
    Run,
    RunState,
    Start,
    Stop,
    Sweep,
    Wait,
    to_dict,
)
from sweepstate.core.questions import ByIndex, Leased

START_OF_TIME: Final = 1_000_000.0


class Clock:
    """POSIX seconds that pass only when told to."""

    def __init__(self, now: float = START_OF_TIME) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Points:
    """A search that proposes ``{"x": index}``, waits, or is exhausted, as it is told."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size
        self.waiting = False
        self.exhausted = False
        self.asked: list[int] = []
        self.discarded: list[int] = []

    def propose(self, index: int, _history: History) -> Mapping[str, Any] | Wait | Exhausted:
        self.asked.append(index)
        if self.exhausted:
            return Exhausted()
        return Wait() if self.waiting else {"x": index}

    def discard(self, index: int, _config: Mapping[str, Any]) -> None:
        self.discarded.append(index)


class FlakyStorage(MemoryStorage):
    """Memory storage where others come first: it can refuse commits, or let a foreign one slip in before."""

    def __init__(self) -> None:
        super().__init__()
        self.conflicts = 0
        self.foreign: Callable[[], object] | None = None

    def commit(self, change: Change) -> None:
        if self.conflicts:
            self.conflicts -= 1
            raise Conflict(change.sweep_id, change.version, what="injected by the test")
        if self.foreign is not None:
            foreign, self.foreign = self.foreign, None
            foreign()
        super().commit(change)


class Crew:
    """An attached agent that notes its orders and executes nothing; it raises where it is told to."""

    can_kill = True

    def __init__(self, name: str = "crew") -> None:
        self.name = name
        self.orders: list[Start | Stop | Kill] = []
        self.broken = False

    @property
    def log(self) -> list[tuple[str, int, int]]:
        return [(order.kind.value, order.index, order.attempt) for order in self.orders]

    def _take(self, order: Start | Stop | Kill) -> None:
        self.orders.append(order)
        if self.broken:
            raise RuntimeError("no machine")

    def start(self, order: Start) -> None:
        self._take(order)

    def stop(self, order: Stop) -> None:
        self._take(order)

    def kill(self, order: Kill) -> None:
        self._take(order)


@attrs.define
class World:
    """A sweep, and what it lives on."""

    clock: Clock
    search: Points
    storage: FlakyStorage
    sweep: Sweep

    def take(self, agent: str = "worker", request_id: str | None = None) -> Run:
        """Ask for a run, and get one."""
        run = self.sweep.next_run(agent, request_id)
        assert isinstance(run, Run), run
        return run

    def idle(self, agent: str = "worker", request_id: str | None = None) -> IdleReason:
        """Ask for a run, and get none."""
        answer = self.sweep.next_run(agent, request_id)
        assert isinstance(answer, Idle), answer
        return answer.reason

    def begin(self, agent: str = "worker", execution: str | None = None, *, heartbeats: bool = False) -> Run:
        """Ask for a run, and start it."""
        run = self.take(agent)
        run.start(execution, heartbeats=heartbeats)
        return run

    def pass_by(self, seconds: float) -> None:
        """Let time pass, then tick until nothing more is due."""
        self.clock.advance(seconds)
        while self.sweep.tick().more:
            pass

    def lose(self, run: Run) -> None:
        """Let a RUNNING run that promised heartbeats be suspected, and then lost."""
        limits = self.sweep.limits
        self.pass_by(limits.heartbeat_timeout)
        assert run.refresh().state.lease is not None
        self.pass_by(limits.suspicion)

    def state(self, index: int) -> RunState:
        """Return a run's snapshot."""
        return self.sweep[index].state

    def rows(self) -> list[str]:
        """Return the situation of every run."""
        return [str(run.state.row) for run in self.sweep.runs()]


def make(limits: Limits | None = None, *, size: int | None = None, agent: Crew | None = None, **options: Any) -> World:
    """Return a world with one RUNNING sweep."""
    clock, search, storage = Clock(), Points(size), FlakyStorage()
    sweep = Sweep(search, id="s", storage=storage, clock=clock, limits=limits, agent=agent, **options)
    return World(clock, search, storage, sweep)


def everything(sweep: Sweep) -> str:
    """Return all that is known of a sweep as JSON: snapshot, runs, history, signs of life, orders of all agents."""
    storage = sweep.storage
    assert isinstance(storage, MemoryStorage)
    runs = list(storage.runs(sweep.id, ByIndex(), limit=10_000))
    leased = [(run.index, run.lease) for run in storage.runs(sweep.id, Leased(), limit=10_000)]
    agents = sorted({lease.agent for _, lease in leased if lease is not None})
    signs = storage.last_heard(sweep.id, [(index, lease.attempt) for index, lease in leased if lease is not None])
    return json.dumps(
        {
            "sweep": to_dict(storage.sweep(sweep.id)),
            "runs": [to_dict(run) for run in runs],
            "history": [to_dict(event) for event in storage.events(sweep.id, limit=100_000)],
            "signs": list(signs),
            "orders": {agent: orders(sweep, agent) for agent in agents},
        }
    )


def orders(sweep: Sweep, agent: str) -> list[tuple[str, int, int]]:
    """Return the outstanding orders of an agent: kind, run, attempt."""
    return [(order.kind.value, order.index, order.attempt) for order in sweep.orders(agent)]


# --- every situation, by real commands -----------------------------------------------------------


def _queued(world: World) -> Run:
    run = world.take()
    run.release()
    return world.sweep[run.index]


def _lost(world: World) -> Run:
    run = world.begin(heartbeats=True)
    world.lose(run)
    return run.refresh()


def _ended(how: Callable[[Run], object]) -> Callable[[World], Run]:
    def reach(world: World) -> Run:
        run = world.begin()
        how(run)
        return run.refresh()

    return reach


#: How a run gets into each situation, in a RUNNING sweep.
SITUATIONS: Final[dict[str, Callable[[World], Run]]] = {
    "CRASHED, lost": _lost,  # first, because time passes on the way
    "PENDING, held": World.take,
    "RUNNING": World.begin,
    "FINISHED": _ended(Run.finish),
    "FAILED": _ended(lambda run: run.fail("boom", exit_code=1)),
    "CRASHED": _ended(lambda run: run.crash("boom", signal=9)),
    "KILLED": _ended(Run.kill),
    "PENDING, queued": _queued,  # last, because a queued run is handed out before a new one
}

#: How a sweep gets into each status, from RUNNING; to be FINISHED it must be drained.
STATUSES: Final[dict[str, Callable[[Sweep], object]]] = {
    "RUNNING": lambda _sweep: (),
    "PAUSED": Sweep.pause,
    "STOPPED": Sweep.stop,
    "CANCELLED": Sweep.cancel,
    "FINISHED": Sweep.complete,
    "FAILED": Sweep.fail,
    "CRASHED": Sweep.crash,
}


def reach(status: str, *rows: str, limits: Limits | None = None, **options: Any) -> tuple[World, dict[str, Run]]:
    """Return a sweep of a status that has a run in each of these situations, by real commands alone.

    What an earlier run needs must not disturb a later one, so the runs come in the order of ``SITUATIONS``.
    """
    world = make(limits, **options)
    handles = {row: bring(world) for row, bring in SITUATIONS.items() if row in rows}
    STATUSES[status](world.sweep)
    assert world.sweep.refresh().status == status, (world.sweep, status)
    for row, handle in handles.items():
        assert handle.refresh().state.row == row, (handle, row)
    return world, handles


#: What asks each trigger of a run through its handle, as long as that is possible at all.
def ask(run: Run, trigger: str) -> object:
    """Apply a trigger to a run through its public handle; ``lose`` cannot be asked, only time does it."""
    if trigger == "requeue":
        row = run.refresh().state.row
        if row == "PENDING, held":
            return run.release()
        if row == "RUNNING":
            run.mark_preempting()
            return run.fail("the machine went away")
        return run.retry()
    reports: dict[str, Callable[[], object]] = {
        "start": run.start,
        "finish": run.finish,
        "fail": lambda: run.fail("boom"),
        "crash": lambda: run.crash("boom", signal=11),
        "kill": run.kill,
    }
    return reports[trigger]()
