"""AsyncSweep: a handle of one sweep on an event loop."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Never, ParamSpec, Self

from ..core import decide as core
from ..core.decide import Decision, Draft, Idle
from ..core.errors import AlreadyExists, InvalidValue, RunNotFound, SweepNotFound
from ..core.events import Event
from ..core.limits import Limits, Objective
from ..core.state import RunState
from ..core.status import RunStatus
from ..core.values import check_count, check_text, show
from ..explain import tell
from ..handles.checks import (
    check_attempt,
    check_awaitable,
    check_hooks,
    check_id,
    check_plan,
    check_request,
    check_run_index,
    check_search,
    check_unattended,
    creation,
    id_for,
    query_of,
)
from ..handles.run import current_execution
from ..handles.shell import check_said
from ..handles.sweep import PAGE, SweepHandle, Tick
from ..hooks import AsyncAgent, AsyncOrder, AsyncStorage, Clock, Listener, ListenerErrorHandler, Search
from ..outlast import outlast
from ..search import build_search, match_search
from ..storage.memory import MemoryStorage
from ..storage.threaded import ThreadedStorage
from .delivery import AsyncPump, orders_of
from .run import AsyncRun
from .shell import AsyncShell

_P = ParamSpec("_P")


class AsyncSweep(SweepHandle[Coroutine[Any, Any, tuple[Event, ...]], AsyncShell]):
    """A handle of one sweep on an event loop; ``Sweep`` with everything awaited.

    It decides as ``Sweep`` does, on an ``AsyncStorage``; any ``Storage`` is one by ``ThreadedStorage``.
    ``sweepstate.aio`` says what is called otherwise here, and what becomes of a task that is cancelled.
    A handle may be used by many tasks of one loop at a time; several sweeps, handles and loops may share
    a storage.

    ``await AsyncSweep.create(...)`` creates a sweep, ``await AsyncSweep.open(...)`` opens one that is there.

    Example:
        >>> import asyncio
        >>> from sweepstate import AsyncSweep, Grid, Objective
        >>> async def train(run):
        ...     return run.config["lr"] ** 2
        >>> async def main():
        ...     sweep = await AsyncSweep.create(Grid({"lr": [0.1, 0.01]}), id="doc", objective=Objective("loss"))
        ...     await sweep.execute(train)
        ...     print(sweep, (await sweep.best()).config)
        >>> asyncio.run(main())
        <AsyncSweep 'doc' FINISHED: 2 runs, 2 finished> {'lr': 0.01}
    """

    _pump: AsyncPump | None

    def __init__(self, *_args: Never, **_hooks: Never) -> None:
        """Refuse: what creates or opens a sweep must await its storage.

        Raises:
            TypeError: always.
        """
        raise TypeError("await AsyncSweep.create(...) or await AsyncSweep.open(...)")

    if not TYPE_CHECKING:  # whose users are told by their type checker; Python itself would name no remedy

        def __iter__(self) -> Never:
            raise TypeError("an AsyncSweep is looped over by `async for run in sweep:`")

        def __getitem__(self, index: object) -> Never:
            raise TypeError("an AsyncSweep has no [index]: await sweep.run(index)")

    @classmethod
    async def create(
        cls,
        search: Search,
        *,
        id: str | None = None,
        storage: AsyncStorage | None = None,
        agent: AsyncAgent | None = None,
        limits: Limits | None = None,
        objective: Objective | None = None,
        clock: Clock = time.time,
        listeners: Sequence[Listener] = (),
        on_listener_error: ListenerErrorHandler | None = None,
        exists_ok: bool = False,
        reason: str | None = None,
        actor: str | None = None,
    ) -> Self:
        """Create a sweep, RUNNING.

        Args:
            search: proposes configurations. One that says ``by_index`` is asked on the loop, any other in a
                thread, one call at a time.
            id: its id, unique in the storage for ever; made up if it is not given.
            storage: where it lives; a new ``MemoryStorage`` if it is not given.
            agent: executes runs that it is ordered to; without one, runs are asked for.
            limits: as for ``Sweep``; so are the others.
            objective: what it is after.
            clock: returns POSIX seconds.
            listeners: called with each event, after the commit, on the loop; so they must not block.
            on_listener_error: called with a listener, an event and what the listener raised.
            exists_ok: open the sweep if it is there already, with the search it was created with.
            reason: why it is created, for the history.
            actor: who creates it.

        Raises:
            AlreadyExists: there is, or was, a sweep of this id.
            SearchMismatch: ``exists_ok``, and it was created with another search.
            InvalidValue: an argument cannot be used.
        """
        storage = ThreadedStorage(MemoryStorage(), threads=0) if storage is None else storage
        check_hooks(storage, agent, clock, listeners, on_listener_error)
        check_awaitable(storage, agent)
        check_plan(search, limits, objective)
        check_said(reason, actor)
        sweep_id = id_for(id, exists_ok=exists_ok)
        shell = AsyncShell(sweep_id, storage, search, agent, clock, listeners, on_listener_error)
        change = creation(sweep_id, await shell.now(), search, limits, objective, reason, actor)
        try:
            await shell.create(change)
        except AlreadyExists as error:
            if not exists_ok:
                raise
            try:
                state = await shell.load()
            except SweepNotFound:
                raise error from None  # it was deleted, and its id stays taken
            match_search(sweep_id, state.search, search)
        return cls._of(shell)

    @classmethod
    async def open(
        cls,
        id: str,
        *,
        storage: AsyncStorage,
        search: Search | None = None,
        agent: AsyncAgent | None = None,
        clock: Clock = time.time,
        listeners: Sequence[Listener] = (),
        on_listener_error: ListenerErrorHandler | None = None,
    ) -> Self:
        """Open a sweep that is there.

        Args:
            id: its id.
            storage: where it lives.
            search: needed to hand out new runs if the search is not stored as plain data; every other
                command works without. It must be the one the sweep was created with.
            agent: as for ``create``; so are the others.

        Raises:
            SweepNotFound: there is none of this id.
            SearchMismatch: the search differs from the stored one.
        """
        sweep_id = check_id(id)
        check_hooks(storage, agent, clock, listeners, on_listener_error)
        check_awaitable(storage, agent)
        if search is not None:
            check_search(search)
        shell = AsyncShell(sweep_id, storage, search, agent, clock, listeners, on_listener_error)
        state = await shell.load()
        if search is None:
            shell.search = build_search(state.search)
        else:
            match_search(id, state.search, search)
        return cls._of(shell)

    @classmethod
    def _of(cls, shell: AsyncShell) -> Self:
        self = cls.__new__(cls)
        self._shell = shell
        self._pump = None
        if shell.agent is not None:
            self._pump = pump = AsyncPump(shell, shell.agent)
            shell.on_commit, shell.deliver = pump.committed, pump.deliver
        return self

    # --- what it shows ---------------------------------------------------------------------------

    @property
    def storage(self) -> AsyncStorage:
        """Where it lives."""
        return self._shell.storage

    @property
    def agent(self) -> AsyncAgent | None:
        """What is ordered to execute runs, if anything is attached to this handle."""
        return self._shell.agent

    async def best(self) -> AsyncRun | None:
        """Return the best finished run so far, by the objective; None if there is none."""
        index = self.state.best_index
        return None if index is None else await self.run(index)

    async def refresh(self) -> Self:
        """Look again; return this handle, which then shows the newest snapshot.

        Raises:
            SweepNotFound: it was deleted.
        """
        await self._shell.load()
        return self

    async def run(self, index: int) -> AsyncRun:
        """Return a handle of one run, at its current attempt.

        Raises:
            RunNotFound: there is none of this index.
        """
        number = check_run_index(index)
        state = await self._shell.load_run(number) if number >= 0 else None
        if state is None:
            raise RunNotFound(self.id, number, (await self._shell.load()).created)
        return self._handle(state)

    async def run_of(self, token: str) -> AsyncRun:
        """Return the handle that a run's token stands for: that attempt, and that execution.

        Raises:
            InvalidValue: it is no token, or of another sweep.
            RunNotFound: there is no such run.
        """
        index, attempt, execution = self._read_token(token)
        state = (await self.run(index)).state
        check_attempt(index, attempt, state.attempt)
        return AsyncRun(self._shell, state, attempt, execution, mine=True)

    async def runs(self, status: RunStatus | Collection[RunStatus] | None = None) -> AsyncGenerator[AsyncRun, None]:
        """Yield handles of its runs, in index order, read page by page.

        Args:
            status: only runs of this status, or of one of these, at the time their page is read.
        """
        query = query_of(status)
        after = -1
        while True:
            page = await self.storage.runs(self.id, query, after=after, limit=PAGE)
            for state in page:
                yield self._handle(state)
            if len(page) < PAGE:
                return
            after = page[-1].index

    async def history(self, *, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield what happened, in order, read page by page; ``replay`` of it gives the snapshots again.

        Args:
            after: only events of a higher number.
        """
        check_count(after, "after")
        while True:
            page = await self.storage.events(self.id, after=after, limit=PAGE)
            if not page:
                return
            for event in page:
                yield event
            after = page[-1].number

    async def explain(self, run: AsyncRun | int) -> str:
        """Return a run's story in sentences, one a line. Reads the whole history.

        Raises:
            RunNotFound: there is no such run.
        """
        state = (await self.run(run.index if isinstance(run, AsyncRun) else run)).state
        return tell(state, [event async for event in self.history() if getattr(event, "index", None) == state.index])

    # --- handing out -----------------------------------------------------------------------------

    async def next_run(self, agent: str = "worker", request_id: str | None = None) -> AsyncRun | Idle:
        """Ask for a run.

        First a slice of what time has caused is committed. If the caller is cancelled, no run is held for it.

        Args:
            agent: who asks.
            request_id: names this request: asking again with it, after a lost reply, gives the same
                run as long as its lease lasts.

        Returns:
            A run that is held, PENDING; or ``Idle``, which is falsy and says why there is none.

        Raises:
            SearchError: the search failed; nothing was committed.
            SearchMissing: a new run is needed, and this handle has no search.
            Conflict: others came first 64 times in a row.
        """
        check_request(agent, request_id)
        return await self._claim(agent, request_id, begin=False)

    async def _claim(self, agent: str, request_id: str | None, *, begin: bool) -> AsyncRun | Idle:
        shell = self._shell
        await shell.elapse(deliver=False)
        value = await shell.hand_out(agent, request_id, attached=False, begin=begin)
        return value if isinstance(value, Idle) else self._handle(value, mine=True)

    async def __aiter__(self) -> AsyncGenerator[AsyncRun, None]:
        """Yield runs, each claimed and started in one commit, until there is nothing to hand out.

        It returns rather than waits. A run that was yielded and never entered is given back when the
        loop is left by ``break`` or an exception: soon, as Python then closes an async iterator when the event
        loop comes to it; at once within ``async with contextlib.aclosing(aiter(sweep)) as runs``.

        Raises:
            InvalidValue: the handle has an agent, which executes the runs.
        """
        check_unattended(self.agent)
        while not isinstance(run := await self._claim("worker", None, begin=True), Idle):
            try:
                yield run
            except BaseException:  # GeneratorExit; or CancelledError, from an asyncio.run that ends
                if not run.entered:
                    await outlast(partial(self._give_back, run))
                raise

    async def _give_back(self, run: AsyncRun) -> None:
        await self._commit(None, None, core.release, run.index, run.attempt, begun=True)

    async def execute(self, function: Callable[[AsyncRun], Awaitable[object]], *, agent: str = "worker") -> Idle:
        """Execute a function for every run: the whole loop. An exception fails its run, and the next one starts.

        One run after the other; for more at a time, let several tasks call it.

        Args:
            function: an async function that is given the run, and returns its metrics: a mapping, or a number
                if there is an objective, or None.
            agent: whose name its runs' leases have; others of the same sweep are told apart by theirs.

        Returns:
            Why it ended; it returns rather than waits.

        Raises:
            CancelledError: after the run it hit was reported as interrupted.
            InvalidValue: the function returned a number, and there is no objective to name it; or something that
                cannot be awaited, as it is no async function: after its run was reported as failed. Or the handle has
                an agent, which executes the runs.
        """
        if not callable(function):
            raise InvalidValue("function", f"{show(function)} cannot be called", "give an async function of a run")
        check_unattended(self.agent)
        check_request(agent, None)
        while True:
            run = await self._claim(agent, None, begin=True)
            if isinstance(run, Idle):
                return run
            await run.perform(function)

    async def orders(self, agent: str) -> list[AsyncOrder]:
        """Return what is outstanding for the agent of this name, by index.

        Orders follow from the snapshots, so they survive a crash between a commit and its delivery;
        delivering one again is harmless.
        """
        return await orders_of(self._shell, check_text(agent, "agent", most=1_000))

    async def tick(self) -> Tick:
        """Do what time causes, fill free slots of the attached agent, and deliver its orders.

        Anybody may call it, any number of times, also at once. It works in bounded slices; but a run that
        ends in it is replaced by the next one, so an agent that executes inline finishes the sweep inside,
        and never returns from a search without an end.

        Returns:
            What time caused, whether more is due now, and when next.

        Raises:
            AgentError: hooks of the agent raised; everything is committed and the orders are outstanding.
            SearchError: the search failed.
        """
        elapse = self._shell.elapse
        events = await (elapse() if self._pump is None else self._pump.tick(elapse))
        next_at, _ = await self._shell.commit(None, None, core.upcoming)
        now = max(await self._shell.now(), self.state.at)  # the sweep's time never runs backwards
        unfilled = self._pump is not None and self._pump.unfilled
        return Tick(events, unfilled or (next_at is not None and next_at <= now), next_at)

    # --- the shell -------------------------------------------------------------------------------

    async def _commit(
        self,
        reason: str | None,
        actor: str | None,
        command: Callable[Concatenate[Draft, _P], Decision[None]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> tuple[Event, ...]:
        _, change = await self._shell.commit(reason, actor, command, *args, **kwargs)
        return () if change is None else change.events

    def _handle(self, state: RunState, *, mine: bool = False) -> AsyncRun:
        return AsyncRun(self._shell, state, state.attempt, current_execution(state), mine=mine)
