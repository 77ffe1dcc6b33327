"""What is plainly in the wrong place is refused before anything is created, with the remedy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sweepstate import (
    AsyncRun,
    AsyncSweep,
    Grid,
    IdleReason,
    InlineAgent,
    InvalidValue,
    MemoryStorage,
    Run,
    StorageError,
    Sweep,
    ThreadedStorage,
    events,
    health,
)

GRID = Grid({"x": [1, 2]})


class AsyncHooks:
    """An agent for an event loop."""

    name = "a"
    can_kill = True

    async def start(self, order: Any) -> None: ...

    async def stop(self, order: Any) -> None: ...

    async def kill(self, order: Any) -> None: ...


def test_a_sync_sweep_takes_no_async_hooks() -> None:
    storage: Any = ThreadedStorage(MemoryStorage())
    agent: Any = AsyncHooks()
    makers: list[Callable[[], Sweep]] = [
        lambda: Sweep(GRID, id="s", storage=storage),
        lambda: Sweep.open("s", storage=storage),
    ]
    for make in makers:
        with pytest.raises(InvalidValue, match=r"storage: .* must be awaited; use AsyncSweep, or the storage beneath"):
            make()
    memory = MemoryStorage()
    with pytest.raises(InvalidValue, match=r"agent: .* must be awaited"):
        Sweep(GRID, id="s", storage=memory, agent=agent)
    assert memory.sweeps(limit=1) == []


def test_an_async_handle_that_is_used_like_a_sync_one_names_the_remedy() -> None:
    """Python's own words would not: it says that the object is not iterable, not subscriptable, no context manager."""

    async def use() -> None:
        sweep: Any = await AsyncSweep.create(GRID, id="s")
        with pytest.raises(TypeError, match="async for run in sweep"):
            list(sweep)
        with pytest.raises(TypeError, match=r"await sweep\.run\(index\)"):
            sweep[0]
        run: Any = await sweep.next_run()
        with pytest.raises(TypeError, match="async with run"), run:
            raise AssertionError("never entered")
        assert (await run.refresh()).status == "PENDING"
        with pytest.raises(InvalidValue, match=r"must be awaited; sweepstate\.diagnosis\.diagnose\("):
            health(sweep)

    asyncio.run(use())


def test_a_function_that_does_not_fit_its_loop_executes_no_more_than_one_run() -> None:
    """An async one in a sync loop none; and a sync one on an event loop the one that shows that it is."""

    async def awaited(_run: Any) -> None: ...

    class Wrapped:
        def __call__(self, run: Any) -> Any:
            return awaited(run)

    sweep = Sweep(GRID, id="s")
    with pytest.raises(InvalidValue, match=r"function: .* must be awaited; use AsyncSweep\.execute"):
        sweep.execute(awaited)
    assert sweep.refresh().state.created == 0

    async def execute() -> None:
        plain: Any = dict
        sweep = await AsyncSweep.create(GRID, id="s")
        with pytest.raises(InvalidValue, match=r"returned \{'x': 1\}, which cannot be awaited; give an async function"):
            await sweep.execute(lambda run: plain(run.config))
        assert [str(run) async for run in sweep.runs()] == ["<AsyncRun s[0] FAILED (error): {'x': 1}>"]
        await sweep.execute(Wrapped())  # what it returns counts, not what it is
        assert (await sweep.run(1)).status == "FINISHED"

    asyncio.run(execute())


def test_a_handle_with_an_agent_executes_nothing_itself() -> None:
    """The agent would begin runs beside the loop, on the same slots."""
    driven = Sweep(GRID, agent=InlineAgent(lambda run: None))
    remedy = r"sweep: has an agent, which executes its runs; drive that"
    with pytest.raises(InvalidValue, match=remedy):
        driven.execute(lambda run: None)
    with pytest.raises(InvalidValue, match=remedy):
        next(iter(driven))

    async def misuse() -> None:
        async def train(run: AsyncRun) -> None: ...

        sweep = await AsyncSweep.create(GRID, agent=AsyncHooks())
        with pytest.raises(InvalidValue, match=remedy):
            await sweep.execute(train)
        with pytest.raises(InvalidValue, match=remedy):
            await anext(aiter(sweep))
        assert sweep.state.created == 0

    asyncio.run(misuse())
    assert driven.state.created == 0
    assert Sweep.open(driven.id, storage=driven.storage).execute(lambda run: None).reason is IdleReason.ENDED


def test_an_agent_that_executes_at_once_takes_no_async_function() -> None:
    """Nobody would await what it returns."""

    async def train(run: AsyncRun) -> None: ...

    wrong: Any = train
    with pytest.raises(InvalidValue, match=r"function: .* must be awaited"):
        InlineAgent(wrong)


def test_a_storage_is_threaded_once() -> None:
    storage: Any = ThreadedStorage(MemoryStorage())
    with pytest.raises(InvalidValue, match="is awaited already; give it to AsyncSweep as it is"):
        ThreadedStorage(storage)


def test_without_an_id_there_is_nothing_to_open() -> None:
    """It would be a new sweep each time, and look as if it went on."""
    memory = MemoryStorage()
    with pytest.raises(InvalidValue, match=r"exists_ok: without an id .*; give the sweep an id"):
        Sweep(GRID, storage=memory, exists_ok=True)
    with pytest.raises(InvalidValue, match="exists_ok"):
        asyncio.run(AsyncSweep.create(GRID, storage=ThreadedStorage(memory), exists_ok=True))
    assert memory.sweeps(limit=1) == []


def test_loops_have_the_name_that_they_are_given() -> None:
    """So that somebody who looks for the runs of a dead process finds them."""
    memory = MemoryStorage()
    sweep = Sweep(GRID, id="s", storage=memory)
    with pytest.raises(InvalidValue, match="agent"):
        sweep.execute(lambda _run: None, agent=1)  # type: ignore[arg-type]

    def train(run: Run) -> None:
        if run.index == 1:
            sweep.stop()

    sweep.execute(train, agent="gpu-7")
    created = [event.agent for event in sweep.history() if isinstance(event, events.RunCreated)]
    assert created == ["gpu-7", "gpu-7"]

    async def execute() -> None:
        async def nothing(_run: AsyncRun) -> None: ...

        twin = await AsyncSweep.create(GRID, id="t", storage=ThreadedStorage(memory, threads=0))
        await twin.execute(nothing, agent="gpu-8")

    asyncio.run(execute())
    page = memory.events("t", limit=99)
    assert {event.agent for event in page if isinstance(event, events.RunCreated)} == {"gpu-8"}


def test_a_threaded_storage_ends_its_threads_and_no_others() -> None:
    async def use(storage: ThreadedStorage) -> None:
        async with storage as inside:
            await AsyncSweep.create(GRID, storage=inside)

    mine = ThreadedStorage(MemoryStorage())
    asyncio.run(use(mine))
    with pytest.raises(StorageError, match="is closed; make another one"):
        asyncio.run(mine.sweep("s"))
    with ThreadPoolExecutor(1) as executor:
        asyncio.run(use(ThreadedStorage(MemoryStorage(), threads=executor)))
        assert executor.submit(lambda: 1).result(60) == 1
