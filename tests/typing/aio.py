"""How people use it on an event loop, as type checkers see it: checked by mypy and pyright, and not run."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, assert_type

from sweepstate import (
    Answer,
    AsyncRun,
    AsyncSweep,
    Change,
    Event,
    Grid,
    Idle,
    IdleReason,
    MemoryStorage,
    RunState,
    RunStatus,
    SweepNotFound,
    SweepState,
    ThreadedStorage,
    Tick,
)
from sweepstate.core.questions import RunQuery
from sweepstate.hooks import AsyncAgent, AsyncKill, AsyncOrder, AsyncStart, AsyncStop, AsyncStorage


class MyStorage:
    """Four methods make a storage here too."""

    async def sweep(self, sweep_id: str) -> SweepState:
        raise SweepNotFound(sweep_id)

    async def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        return []

    async def commit(self, change: Change) -> None: ...

    async def events(self, sweep_id: str, *, after: int = 0, limit: int) -> list[Event]:
        return []


class MyAgent:
    """Its orders carry async handles."""

    name = "mine"
    can_kill = True

    async def start(self, order: AsyncStart) -> None:
        assert_type(order.run, AsyncRun)
        await order.run.start("job-1")

    async def stop(self, order: AsyncStop) -> None:
        assert_type(order.attempt, int)

    async def kill(self, order: AsyncKill) -> None:
        assert_type(await order.gone(), tuple[Event, ...])


storages: list[AsyncStorage] = [
    MyStorage(),
    ThreadedStorage(MemoryStorage()),
    ThreadedStorage(MemoryStorage(), threads=0),
]
agents: list[AsyncAgent] = [MyAgent()]
wrong_storage: AsyncStorage = MemoryStorage()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


async def train(run: AsyncRun) -> float:
    assert_type(await run.report(loss=1.0), Answer)
    assert_type(await run.should_stop(), bool)
    assert_type(await run.metrics(), Mapping[str, float])
    return 0.5


async def the_whole_loop() -> None:
    sweep = await AsyncSweep.create(Grid({"lr": [0.1]}), storage=MyStorage(), agent=MyAgent())
    assert_type(sweep, AsyncSweep)
    assert_type(await sweep.execute(train), Idle)
    assert_type(await sweep.best(), AsyncRun | None)
    assert_type(await sweep.run(3), AsyncRun)
    assert_type(await sweep.tick(), Tick)
    assert_type(await sweep.orders("mine"), list[AsyncOrder])
    assert_type(sweep.storage, AsyncStorage)
    assert_type(sweep.agent, AsyncAgent | None)
    async for run in sweep:
        async with run as same:
            assert_type(same, AsyncRun)
            assert_type(await run.finish(loss=0.5), tuple[Event, ...])
    async for run in sweep.runs(RunStatus.FAILED):
        assert_type(await run.retry(), tuple[Event, ...])
    async for event in sweep.history():
        assert_type(event, Event)


async def commands(sweep: AsyncSweep) -> str | None:
    pausing: Coroutine[Any, Any, tuple[Event, ...]] = sweep.pause()
    assert_type(await pausing, tuple[Event, ...])
    assert_type(await sweep.set_limits(run_cap=3), tuple[Event, ...])
    match await sweep.next_run(agent="gpu-7"):
        case AsyncRun() as run:
            return run.token
        case Idle(reason=why):
            assert_type(why, IdleReason)
            return None


async def refused_by_type_checkers(sweep: AsyncSweep) -> None:
    AsyncSweep(Grid({"lr": [0.1]}))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await sweep.execute(lambda run: 1.0)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType, reportReturnType]
    with await sweep.run(0):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]
        pass
