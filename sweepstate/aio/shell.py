"""The shell of the async handles: ``sweepstate.shell`` with every question awaited, and safe to cancel.

Each operation runs in a task of its own (``outlast``). Until it commits, cancelling the caller ends it,
and nothing has happened; from there on it is finished, listeners and the agent are told, and then the
cancellation goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from functools import partial
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from ..core import decide as core
from ..core.decide import Change, Decision, Draft
from ..core.errors import AlreadyExists, Conflict, GaveWay, NotFound, OutcomeUnknown, SearchMissing, StorageError
from ..core.events import Event
from ..core.questions import ByIndex, LastHeard, Question, Runs, Silent
from ..core.state import RunState, SweepState
from ..handles.shell import LAST_TIME, MAX_CONFLICTS, CommonShell, Locks, check_said, check_time, is_in, is_unmistakable
from ..hooks import (
    AsyncAgent,
    AsyncHeartbeats,
    AsyncStorage,
    AsyncTimekeeper,
    AsyncTurns,
    Clock,
    Listener,
    ListenerErrorHandler,
    Search,
)
from ..outlast import Point, go_on, outlast
from .search import Proposer

_P = ParamSpec("_P")
_T = TypeVar("_T")

_BY_INDEX: Final = ByIndex()
_PAGE: Final = 256


class _Turns:
    """What the tasks of one event loop take turns by, for one sweep of a storage.

    Attributes:
        deciding: to decide and commit: outrunning each other, one of them might never win.
        asking: to ask a search that takes its time, while the others go on.
    """

    __slots__ = ("__weakref__", "asking", "deciding")

    def __init__(self) -> None:
        self.deciding: asyncio.Lock = asyncio.Lock()
        self.asking: asyncio.Lock = asyncio.Lock()


def _of_a_loop() -> Locks[_Turns]:
    return Locks(_Turns)


# Those of each event loop, since a lock belongs to one.
_LOOPS: Final[Locks[Locks[_Turns]]] = Locks(_of_a_loop)


class AsyncShell(CommonShell[AsyncStorage, AsyncAgent]):
    """The shell of the async handles; a storage that has a clock of its own supplies the time."""

    def __init__(
        self,
        sweep_id: str,
        storage: AsyncStorage,
        search: Search | None,
        agent: AsyncAgent | None,
        clock: Clock,
        listeners: Sequence[Listener],
        on_listener_error: ListenerErrorHandler | None,
    ) -> None:
        super().__init__(sweep_id, storage, search, agent, clock, listeners, on_listener_error)
        self.heartbeats: AsyncHeartbeats | None = storage if isinstance(storage, AsyncHeartbeats) else None
        self._timekeeper: AsyncTimekeeper | None = storage if isinstance(storage, AsyncTimekeeper) else None
        self._taking_turns: AsyncTurns | None = storage if isinstance(storage, AsyncTurns) else None
        self._here = nullcontext(storage)
        #: Delivers what ``on_commit`` has noted; told whether it is a cancellation's last deed.
        self.deliver: Callable[[bool], Coroutine[Any, Any, None]] | None = None
        # Of the loop that it was used in last; a handle may see several, one after the other.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._of_loop: Locks[_Turns] | None = None
        self._turns: _Turns | None = None

    def __getstate__(self) -> dict[str, Any]:
        return dict(super().__getstate__(), deliver=None, _loop=None, _of_loop=None, _turns=None)

    def turns(self) -> _Turns:
        """Return what the tasks of this loop take turns by."""
        loop = asyncio.get_running_loop()
        if self._turns is None or self._loop is not loop:
            self._loop = loop
            self._of_loop = _LOOPS.of(loop, "")
            self._turns = self._of_loop.of(self.storage, self.sweep_id)
        return self._turns

    async def now(self) -> float:
        """Return POSIX seconds.

        Raises:
            InvalidValue: the clock answered what is no time.
        """
        now = self.clock() if self._timekeeper is None else await self._timekeeper.now()
        return now if now.__class__ is float and 0.0 <= now <= LAST_TIME else check_time(now)

    async def now_in(self, place: AsyncStorage) -> float:
        """Return POSIX seconds; see ``Shell.now_in``."""
        if place is self.storage or not isinstance(place, AsyncTimekeeper):
            return await self.now()
        return check_time(await place.now())

    # --- load ------------------------------------------------------------------------------------

    async def load(self) -> SweepState:
        """Return the newest snapshot of the sweep."""
        state = await self.storage.sweep(self.sweep_id)
        self.show(state)
        return state

    async def load_run(self, index: int) -> RunState | None:
        """Return the newest snapshot of a run; None if there is none of this index."""
        rows = await self.storage.runs(self.sweep_id, _BY_INDEX, after=index - 1, limit=1)
        return rows[0] if rows and rows[0].index == index else None

    async def answer(self, storage: AsyncStorage, question: Question) -> object:
        """Answer a question of a decision; ``Proposal`` is answered where runs are handed out."""
        if type(question) is Runs:
            query = question.query
            if not self.keeps_beats and isinstance(query, Silent):
                return ()  # without heartbeats, silence means nothing
            return await storage.runs(self.sweep_id, query, after=question.after, limit=question.limit)
        if isinstance(question, LastHeard):
            if not self.keeps_beats:
                return (None,) * len(question.leases)
            return await cast(AsyncHeartbeats, storage).last_heard(self.sweep_id, question.leases)
        raise SearchMissing(self.sweep_id, -1, f"no search can answer {question!r} here")

    # --- decide, commit, notify ------------------------------------------------------------------

    async def create(self, change: Change) -> None:
        """Commit the creation of the sweep."""

        async def work(point: Point) -> None:
            try:
                await self._write(point, self.storage, change)
            except OutcomeUnknown as unknown:
                if not await self._settled(point, change, unknown):
                    raise AlreadyExists(change.sweep_id) from None
            self.notify(change)

        await self._whole(work)

    async def commit(
        self,
        reason: str | None,
        actor: str | None,
        command: Callable[Concatenate[Draft, _P], Decision[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> tuple[_T, Change | None]:
        """Decide a command on what the storage holds and commit it, again until nobody came first.

        Returns:
            What the decision returned, and what was committed, if anything changed.
        """
        check_said(reason, actor)
        return await self.decide(None, reason, actor, None, command, *args, **kwargs)

    async def decide(
        self,
        index: int | None,
        reason: str | None,
        actor: str | None,
        seen: Callable[[Change | None], object] | None,
        command: Callable[Concatenate[Draft, _P], Decision[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> tuple[_T, Change | None]:
        """Do what ``commit`` does, for what was checked already.

        Args:
            index: the run it is about, which is read beforehand.
            reason: why.
            actor: who.
            seen: told of the outcome even if the caller is cancelled and does not get it.
            command: what is decided.
            args: of the command.
            kwargs: of the command.
        """

        def decision(draft: Draft) -> Decision[_T]:
            return command(draft, *args, **kwargs)

        async def work(point: Point) -> tuple[_T, Change | None]:
            value, change = await self._decide(point, decision, index, reason, actor)
            if seen is not None:
                seen(change)
            if change is not None:
                self.notify(change)
            return value, change

        return await self._whole(work)

    async def _decide(
        self,
        point: Point,
        command: Callable[[Draft], Decision[_T]],
        index: int | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> tuple[_T, Change | None]:
        """Decide and commit, again until nobody came first; nobody is told yet."""
        outrun = False
        while True:
            outcome: tuple[_T, Change | None] | None = None
            try:
                with suppress(GaveWay), point:
                    async with self.turns().deciding, self._place(outrun) as storage:
                        draft = Draft(await storage.sweep(self.sweep_id), await self.now_in(storage), reason, actor)
                        if index is not None:
                            for run in await storage.runs(self.sweep_id, _BY_INDEX, after=index - 1, limit=1):
                                draft.tell(run)
                        value = await drive(command(draft), partial(self.answer, storage))
                        change = draft.change()
                        outcome = value, change
                        outrun = await self._outrun(point, storage, draft, change)
            except OutcomeUnknown as unknown:
                if outcome is None or outcome[1] is None:
                    raise
                outrun = not await self._settled(point, outcome[1], unknown)
            if outcome is not None and not outrun:
                return outcome

    async def _outrun(self, point: Point, storage: AsyncStorage, draft: Draft, change: Change | None) -> bool:
        """Commit what was decided, if anything; return whether somebody else came first."""
        if change is None:
            self.show(draft.base)
            return False
        try:
            await self._write(point, storage, change)
        except Conflict:
            return True
        return False

    async def _settled(self, point: Point, change: Change, unknown: OutcomeUnknown) -> bool:
        """Find out what became of a commit by making it again; see ``Shell._settled``."""
        pages: list[Sequence[Event]] = []

        async def settle() -> None:
            try:
                await self.storage.commit(change)
            except (Conflict, AlreadyExists):
                pages.append(await self._page(change))
            else:
                pages.append(change.events)

        with suppress(StorageError, NotFound), point:
            # It is begun, so it is finished, also if an asyncio.run that ends cancels this very task.
            await outlast(settle)
        if not pages:
            raise unknown
        page = pages[-1]
        if page is change.events:
            return True
        if not is_in(change, page):
            point.retreat()
            return False
        if is_unmistakable(change):
            return True
        raise unknown

    async def _page(self, change: Change) -> Sequence[Event]:
        """Return the page of history that begins where a change would."""
        return await self.storage.events(self.sweep_id, after=change.events[0].number - 1, limit=1)

    async def elapse(self, *, deliver: bool = True) -> tuple[Event, ...]:
        """Commit one slice of what time has caused, if there is any; tell listeners and, if wanted, the agent."""

        async def work(point: Point) -> tuple[Event, ...]:
            state = await self.load()
            if not state.leased and state.limits.time_limit is None:
                return ()
            _, change = await self._decide(point, core.elapse)
            if change is None:
                return ()
            self.notify(change, deliver=deliver)
            return change.events

        return await self._whole(work)

    async def hand_out(
        self, agent: str, request_id: str | None, *, attached: bool, begin: bool
    ) -> RunState | core.Idle:
        """Hand out a run. A proposal that met a Conflict is used again while its index is free.

        A run that a cancelled caller does not get is given back, unless an attached agent is ordered to start it.

        Raises:
            Conflict: others came first 64 times in a row.
            SearchError: the search raised, or proposed what cannot be used; nothing was committed.
            SearchMissing: a new run is needed and there is no search.
        """

        def decide(draft: Draft) -> Decision[RunState | core.Idle]:
            return core.next_run(draft, agent, request_id, attached=attached, begin=begin)

        async def work(point: Point) -> tuple[RunState | core.Idle, Change | None]:
            async with AsyncExitStack() as turn:
                return await self._hand_out(point, decide, turn)

        value, _ = await self._whole(work, None if attached else self._give_back)
        return value

    async def _hand_out(
        self, point: Point, decide: Callable[[Draft], Decision[RunState | core.Idle]], turn: AsyncExitStack
    ) -> tuple[RunState | core.Idle, Change | None]:
        """Hand out; ``turn`` holds the turn to ask the search, once that is needed."""
        proposer = Proposer(self, turn)
        conflicts = 0
        while True:
            try:
                await proposer.fetch()
                value, change = await self._hand_out_once(point, self._place(conflicts > 0), proposer, decide)
            except Conflict:
                conflicts += proposer.outrun
                if conflicts >= MAX_CONFLICTS:
                    await proposer.close(None)
                    raise
            except OutcomeUnknown:
                raise  # nor can anybody say whether the proposal was used
            except BaseException:
                await proposer.close(None)
                raise
            else:
                with point:
                    await proposer.close(change)
                if change is not None:
                    self.notify(change)
                return value, change

    async def _hand_out_once(
        self,
        point: Point,
        place: AbstractAsyncContextManager[AsyncStorage],
        proposer: Proposer,
        decide: Callable[[Draft], Decision[RunState | core.Idle]],
    ) -> tuple[RunState | core.Idle, Change | None]:
        """Decide once and commit; or Conflict."""
        outcome: tuple[RunState | core.Idle, Change | None] | None = None
        try:
            with point:
                async with self.turns().deciding, place as storage:
                    draft = Draft(await storage.sweep(self.sweep_id), await self.now_in(storage))
                    value = await drive(decide(draft), partial(proposer.answer, storage))
                    change = draft.change()
                    outcome = value, change
                    if change is None:
                        self.show(draft.base)
                    else:
                        await self._write(point, storage, change)
        except OutcomeUnknown as unknown:
            if outcome is None or outcome[1] is None:
                raise
            if not await self._settled(point, outcome[1], unknown):
                raise Conflict(self.sweep_id, outcome[1].version) from None
        return cast("tuple[RunState | core.Idle, Change | None]", outcome)  # what leaves no outcome is raised

    async def _give_back(self, handed: tuple[RunState | core.Idle, Change | None]) -> None:
        """Give back what a call has handed out; but not a run that it found handed out to the same request before."""
        run, change = handed
        if isinstance(run, RunState) and change is not None:
            await self.commit(None, None, core.release, run.index, run.attempt, begun=True)

    def _place(self, outrun: bool) -> AbstractAsyncContextManager[AsyncStorage]:  # noqa: FBT001 - see Shell
        """Return where to decide: on the storage, or in a turn; see ``Shell._place``."""
        if self._taking_turns is not None and self.crowded(outrun=outrun):
            return self._taking_turns.turn(self.sweep_id)
        return self._here

    async def _write(self, point: Point, storage: AsyncStorage, change: Change) -> None:
        """Commit; from here on the work is finished, unless somebody else came first."""
        point.passed = True
        try:
            await storage.commit(change)
        except Conflict:
            point.retreat()
            raise
        except asyncio.CancelledError:
            # This very task was cancelled; then the commit is whole, or did nothing.
            try:
                page = await self._page(change)
            except (StorageError, NotFound):
                page = ()
            if not is_in(change, page):
                point.passed = False
                raise

    async def _whole(
        self,
        work: Callable[[Point], Coroutine[Any, Any, _T]],
        undo: Callable[[_T], Coroutine[Any, Any, object]] | None = None,
    ) -> _T:
        """Do a piece of work in a task of its own, then deliver orders; see the top of this page."""
        point = Point()
        try:
            value = await outlast(partial(work, point), until=point, undo=undo)
        except asyncio.CancelledError as cancelled:
            if self.deliver is not None:
                await go_on(cancelled, partial(self.deliver, True))
            raise
        if self.deliver is not None:
            try:
                await self.deliver(False)
            except asyncio.CancelledError as cancelled:
                if undo is not None:
                    await go_on(cancelled, partial(undo, value))
                raise
        return value


async def drive(decision: Decision[_T], answer: Callable[[Question], Coroutine[Any, Any, object]]) -> _T:
    """Run a decision to its end, awaiting the answers to its questions; see ``core.decide.drive``."""
    given: object = None
    while True:
        try:
            question = decision.send(given)
        except StopIteration as end:
            return cast(_T, end.value)
        given = await answer(question)
