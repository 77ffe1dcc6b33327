# ruff: noqa: S101 - a contract is made of assertions
"""What only an async storage has to keep: it can be cancelled wherever it waits, and many tasks use it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import count
from types import coroutine
from typing import Any, Final, TypeVar, cast

from ...core import decide as core
from ...core.decide import Change, Decision, Draft
from ...core.errors import Conflict
from ...core.questions import ByIndex, LastHeard, Question, Queued, Runs
from ...core.state import RunState
from ...core.values import FrozenDict
from ...hooks import AsyncHeartbeats, AsyncStorage, AsyncTurns, Storage
from .base import Capabilities
from .blocking import Blocking
from .together import in_threads
from .world import DAWN, World, all_runs, assert_whole, everything

_T = TypeVar("_T")

#: Seconds that a task which a storage has begun, and left to itself, is given to show what it does.
_LEFT_BEHIND: Final = 1.0
#: Nothing that a storage does waits so often; if it does, cancelling it everywhere is given up.
_MOST_WAITS: Final = 300


class Cancelling(Capabilities):
    """The part of the contract about cancellation and tasks; its storage is a ``Blocking`` one."""

    def test_a_commit_that_is_cancelled_is_whole_or_absent(self, storage: Storage) -> None:
        """Wherever it was waiting; and the next commit finds nothing locked and nothing half."""
        world = World(storage)

        def try_(n: int) -> bool:
            before = everything(storage, "s")
            change = _change_of_three(world)
            reached = self._cancel(storage, lambda inside: inside.commit(change), n)
            _assert_whole_or_absent(storage, change, before)
            return reached

        self._everywhere(try_)
        _assert_usable(world)

    def test_whatever_is_cancelled_the_storage_goes_on(self, storage: Storage) -> None:
        """Reading, and heartbeats."""
        world = World(storage)
        world.take_many(3)
        calls: list[Callable[[AsyncStorage], Awaitable[object]]] = [
            lambda inside: inside.sweep("s"),
            lambda inside: inside.runs("s", ByIndex(), limit=2),
            lambda inside: inside.runs("s", Queued(), limit=2),
            lambda inside: inside.events("s", limit=2),
            lambda inside: _if_beating(inside, lambda beating: beating.beat("s", 0, 1, DAWN, {"loss": 0.5})),
            lambda inside: _if_beating(inside, lambda beating: beating.last_heard("s", [(0, 1)])),
        ]
        for call in calls:
            self._everywhere(partial(self._cancel, storage, call))
            _assert_usable(world)

    def test_a_turn_that_is_cancelled_is_over(self, storage: Storage) -> None:
        """Wherever its task was waiting: to get it, within it, or to leave it."""
        self.turns(storage)
        world = World(storage)

        def try_(n: int) -> bool:
            before = everything(storage, "s")
            change = _change_of_three(world)

            async def take(inside: AsyncStorage) -> None:
                async with cast(AsyncTurns, inside).turn("s") as turn:
                    await turn.sweep("s")
                    await turn.commit(change)

            reached = self._cancel(storage, take, n)
            _assert_whole_or_absent(storage, change, before)
            return reached

        self._everywhere(try_)
        _assert_usable(world)

    def test_who_waits_for_a_turn_can_be_cancelled(self, storage: Storage) -> None:
        """And leaves nothing to whoever has it, or comes after."""
        self.turns(storage)
        world = World(storage)

        async def contend(inside: AsyncStorage, pause: float) -> None:
            async def wait() -> None:
                async with _turn(inside, "s"):
                    raise AssertionError("a turn was begun though its task was cancelled, or two at once")

            async with _turn(inside, "s"):
                waiting = asyncio.ensure_future(wait())
                await asyncio.sleep(pause)
                waiting.cancel()
                # Where to wait for a turn cannot be interrupted, the cancellation counts when the turn comes.
                await asyncio.wait([waiting], timeout=0.2)
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                await waiting

        for pause in (0.0, 0.001, 0.05):  # the later ones on a connection that is there already, so in the lock
            self._run(storage, partial(contend, pause=pause))
        _assert_usable(world)

    def test_tasks_that_commit_on_one_version_have_one_winner(self, storage: Storage) -> None:
        """All the others meet a Conflict."""
        world = World(storage)
        for turn in range(5):
            changes = [world.change(core.next_run, f"agent {n}") for n in range(8)]

            async def compete(inside: AsyncStorage, changes: list[Change] = changes) -> list[object]:
                return await asyncio.gather(*(inside.commit(change) for change in changes), return_exceptions=True)

            answers = self._run(storage, compete)
            assert answers.count(None) == 1, f"{answers.count(None)} commits on version {turn + 1} were accepted"
            assert sum(isinstance(answer, Conflict) for answer in answers) == 7, answers
            assert storage.sweep("s") == changes[answers.index(None)].sweep
        assert_whole(storage, "s")

    def test_tasks_claim_every_point_once(self, storage: Storage) -> None:
        """However many of them ask at once (wandb#8549)."""
        points = 30
        World(storage, size=points)

        async def claim(inside: AsyncStorage, name: str) -> list[int]:
            claimed: list[int] = []
            while len(claimed) <= points:
                draft = Draft(await inside.sweep("s"), DAWN)
                run = await _drive(inside, core.next_run(draft, name))
                change = draft.change()
                if not isinstance(run, RunState) or change is None:
                    break
                try:
                    await inside.commit(change)
                except Conflict:
                    continue
                claimed.append(run.index)
            return claimed

        async def all_at_once(inside: AsyncStorage) -> list[list[int]]:
            return await asyncio.gather(*(claim(inside, f"task {n}") for n in range(6)))

        claimed = self._run(storage, all_at_once)
        assert sorted(index for each in claimed for index in each) == list(range(points))
        assert len(all_runs(storage, "s")) == points
        assert_whole(storage, "s")

    # --- running and cancelling ------------------------------------------------------------------

    def _run(self, storage: Storage, call: Callable[[AsyncStorage], Coroutine[Any, Any, _T]]) -> _T:
        """Await what a function makes of the async storage, in its loop."""
        assert isinstance(storage, Blocking), "the fixture `storage` is made from `async_storage`"
        return storage.loop.run(call(storage.viewed))

    def _cancel(self, storage: Storage, call: Callable[[AsyncStorage], Awaitable[object]], n: int) -> bool:
        """Cancel a call where it waits for the n-th time; return whether it ever did."""
        reached: list[bool] = []

        async def run(inside: AsyncStorage) -> None:
            before = asyncio.all_tasks()
            task = asyncio.ensure_future(_cancelled_at(call(inside), n, reached))
            await asyncio.wait([task])
            version = (await inside.sweep("s")).version
            left = asyncio.all_tasks() - before - {task}
            if left:
                await asyncio.wait(left, timeout=_LEFT_BEHIND)
            found = (await inside.sweep("s")).version
            assert found == version, "a call that was cancelled, and is over, went on behind its caller's back"
            if not task.cancelled():
                task.result()  # it was over already, or finished what it had begun

        self._run(storage, run)
        return bool(reached)

    def _everywhere(self, try_: Callable[[int], bool]) -> None:
        """Cancel at the first wait, at the second, and so on, until there are no more."""
        for n in count(1):
            if not try_(n):
                return
            assert n < _MOST_WAITS, f"a call that was cancelled waited {n} times"


@coroutine
def _cancelled_at(awaitable: Awaitable[object], n: int, reached: list[bool]) -> Generator[Any, None, object]:
    """Await something, and cancel the task that does at the n-th thing that it waits for."""
    waiting: Any = awaitable.__await__()
    error: BaseException | None = None
    while True:
        try:
            what = waiting.send(None) if error is None else waiting.throw(error)
        except StopIteration as end:
            return end.value
        n -= 1
        task = asyncio.current_task()
        if n == 0 and task is not None:
            reached.append(True)
            task.cancel()
        error = None
        try:
            yield what
        except BaseException as raised:
            error = raised


def _turn(storage: AsyncStorage, sweep_id: str) -> AbstractAsyncContextManager[AsyncStorage]:
    return cast(AsyncTurns, storage).turn(sweep_id)


async def _if_beating(storage: AsyncStorage, call: Callable[[AsyncHeartbeats], Awaitable[object]]) -> None:
    if isinstance(storage, AsyncHeartbeats):
        await call(storage)


async def _drive(storage: AsyncStorage, decision: Decision[_T]) -> _T:
    """Answer the questions of a decision from an async storage."""
    given: object = None
    while True:
        try:
            question: Question = decision.send(given)
        except StopIteration as end:
            return cast(_T, end.value)
        if isinstance(question, Runs):
            given = await storage.runs("s", question.query, after=question.after, limit=question.limit)
        elif isinstance(question, LastHeard):
            given = (None,) * len(question.leases)
        else:
            given = FrozenDict(x=question.index)


def _change_of_three(world: World) -> Change:
    """Return a change with several runs, which ended in this world are few."""
    draft = Draft(world.sweep, world.clock())
    for _ in range(3):
        draft.create(FrozenDict(x=draft.sweep.created), "worker", None, attached=False)
    change = draft.change()
    assert change is not None
    return change


def _assert_whole_or_absent(storage: Storage, change: Change, before: str) -> None:
    if storage.sweep("s").version == change.version:
        assert everything(storage, "s") == before, "something of a cancelled commit is there, and its version is not"
    else:
        assert storage.sweep("s") == change.sweep, "a part of a cancelled commit is there"
        assert_whole(storage, "s")


def _assert_usable(world: World) -> None:
    """Assert that the next command finds nothing locked, also in another thread."""
    version = world.sweep.version
    world.take("afterwards")
    in_threads(lambda: world.take("elsewhere"))
    assert world.sweep.version == version + 2
