"""Sweep: a handle of one sweep; what most people use."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Concatenate, ParamSpec, Self

from .core import decide as core
from .core.decide import Decision, Draft, Idle
from .core.errors import AlreadyExists, RunNotFound, SweepNotFound
from .core.events import Event
from .core.limits import Limits, Objective
from .core.state import RunState
from .core.status import RunStatus
from .core.values import check_count, check_text
from .delivery import Pump, orders_of
from .explain import tell
from .handles.checks import (
    check_attempt,
    check_hooks,
    check_id,
    check_immediate,
    check_immediate_function,
    check_plan,
    check_request,
    check_run_index,
    check_search,
    check_unattended,
    creation,
    id_for,
    query_of,
)
from .handles.run import current_execution
from .handles.shell import check_said
from .handles.sweep import PAGE, SweepHandle, Tick
from .hooks import Agent, Clock, Listener, ListenerErrorHandler, Order, Search, Storage
from .run import Run
from .search import build_search, match_search
from .shell import Shell
from .storage.memory import MemoryStorage

_P = ParamSpec("_P")


class Sweep(SweepHandle[tuple[Event, ...], Shell]):
    """A handle of one sweep: explores configurations by runs.

    It shows the snapshot it last saw; ``refresh`` looks again, and every command is decided on what
    the storage holds, in one commit that is made whole or not at all. A handle may be used from
    several threads, and many handles may share a storage.

    Creating one creates the sweep, RUNNING; ``Sweep.open`` opens one that is there.

    Args:
        search: proposes configurations, such as ``Grid`` or ``Random``.
        id: its id, unique in the storage for ever; made up if it is not given.
        storage: where it lives; a new ``MemoryStorage`` if it is not given.
        agent: executes runs that it is ordered to; without one, runs are asked for.
        limits: what bounds it.
        objective: what it is after.
        clock: returns POSIX seconds; a storage that has a clock of its own supplies the time instead.
        listeners: called with each event that is committed through this handle, after the commit.
        on_listener_error: called with a listener, an event and what the listener raised; if it is not
            given, the error is logged as ``sweepstate``.
        exists_ok: open the sweep if it is there already, with the search it was created with; its
            limits and objective stay as they are.
        reason: why it is created, for the history.
        actor: who creates it.

    Raises:
        AlreadyExists: there is, or was, a sweep of this id.
        SearchMismatch: ``exists_ok``, and it was created with another search.
        InvalidValue: an argument cannot be used.

    Example:
        >>> from sweepstate import Grid, Sweep
        >>> sweep = Sweep(Grid({"lr": [0.1, 0.01]}), id="doc", objective=Objective("loss"))
        >>> sweep.execute(lambda run: run.config["lr"] ** 2)
        Idle(reason=<IdleReason.ENDED: 'ended'>)
        >>> print(sweep, sweep.best.config)
        <Sweep 'doc' FINISHED: 2 runs, 2 finished> {'lr': 0.01}
    """

    def __init__(
        self,
        search: Search,
        *,
        id: str | None = None,
        storage: Storage | None = None,
        agent: Agent | None = None,
        limits: Limits | None = None,
        objective: Objective | None = None,
        clock: Clock = time.time,
        listeners: Sequence[Listener] = (),
        on_listener_error: ListenerErrorHandler | None = None,
        exists_ok: bool = False,
        reason: str | None = None,
        actor: str | None = None,
    ) -> None:
        storage = MemoryStorage() if storage is None else storage
        check_hooks(storage, agent, clock, listeners, on_listener_error)
        check_immediate(storage, agent)
        check_plan(search, limits, objective)
        check_said(reason, actor)
        sweep_id = id_for(id, exists_ok=exists_ok)
        self._shell = shell = Shell(sweep_id, storage, search, agent, clock, listeners, on_listener_error)
        change = creation(sweep_id, shell.now(), search, limits, objective, reason, actor)
        try:
            shell.create(change)
        except AlreadyExists as error:
            if not exists_ok:
                raise
            try:
                state = shell.load()
            except SweepNotFound:
                raise error from None  # it was deleted, and its id stays taken
            match_search(sweep_id, state.search, search)
        self._pump = self._attach(agent)

    def _attach(self, agent: Agent | None) -> Pump | None:
        if agent is None:
            return None
        pump = Pump(self._shell, agent)
        self._shell.on_commit = pump.committed
        return pump

    @classmethod
    def open(
        cls,
        id: str,
        *,
        storage: Storage,
        search: Search | None = None,
        agent: Agent | None = None,
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
            agent: as for ``Sweep``; so are the others.

        Raises:
            SweepNotFound: there is none of this id.
            SearchMismatch: the search differs from the stored one.
        """
        sweep_id = check_id(id)
        check_hooks(storage, agent, clock, listeners, on_listener_error)
        check_immediate(storage, agent)
        if search is not None:
            check_search(search)
        self = cls.__new__(cls)
        self._shell = shell = Shell(sweep_id, storage, search, agent, clock, listeners, on_listener_error)
        state = shell.load()
        if search is None:
            shell.search = build_search(state.search)
        else:
            match_search(id, state.search, search)
        self._pump = self._attach(agent)
        return self

    # --- what it shows ---------------------------------------------------------------------------

    @property
    def storage(self) -> Storage:
        """Where it lives."""
        return self._shell.storage

    @property
    def agent(self) -> Agent | None:
        """What is ordered to execute runs, if anything is attached to this handle."""
        return self._shell.agent

    @property
    def best(self) -> Run | None:
        """The best finished run so far, by the objective; None if there is none."""
        index = self.state.best_index
        return None if index is None else self[index]

    def refresh(self) -> Self:
        """Look again; return this handle, which then shows the newest snapshot.

        Raises:
            SweepNotFound: it was deleted.
        """
        self._shell.load()
        return self

    def __getitem__(self, index: int) -> Run:
        """Return a handle of one run, at its current attempt.

        Raises:
            RunNotFound: there is none of this index.
        """
        number = check_run_index(index)
        state = self._shell.load_run(number) if number >= 0 else None
        if state is None:
            raise RunNotFound(self.id, number, self._shell.load().created)
        return self._handle(state)

    def run_of(self, token: str) -> Run:
        """Return the handle that a run's token stands for: that attempt, and that execution.

        Raises:
            InvalidValue: it is no token, or of another sweep.
            RunNotFound: there is no such run.
        """
        index, attempt, execution = self._read_token(token)
        state = self[index].state
        check_attempt(index, attempt, state.attempt)
        return Run(self._shell, state, attempt, execution, mine=True)

    def runs(self, status: RunStatus | Collection[RunStatus] | None = None) -> Iterator[Run]:
        """Yield handles of its runs, in index order, read page by page.

        Args:
            status: only runs of this status, or of one of these, at the time their page is read.
        """
        query = query_of(status)
        after = -1
        while True:
            page = self.storage.runs(self.id, query, after=after, limit=PAGE)
            for state in page:
                yield self._handle(state)
            if len(page) < PAGE:
                return
            after = page[-1].index

    def history(self, *, after: int = 0) -> Iterator[Event]:
        """Yield what happened, in order, read page by page; ``replay`` of it gives the snapshots again.

        Args:
            after: only events of a higher number.
        """
        check_count(after, "after")
        while True:
            page = self.storage.events(self.id, after=after, limit=PAGE)
            if not page:
                return
            yield from page
            after = page[-1].number

    def explain(self, run: Run | int) -> str:
        """Return a run's story in sentences, one a line. Reads the whole history.

        Raises:
            RunNotFound: there is no such run.
        """
        state = self[run.index if isinstance(run, Run) else run].state
        return tell(state, self.history())

    # --- handing out -----------------------------------------------------------------------------

    def next_run(self, agent: str = "worker", request_id: str | None = None) -> Run | Idle:
        """Ask for a run.

        First a slice of what time has caused is committed.

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
        return self._claim(agent, request_id, begin=False)

    def _claim(self, agent: str, request_id: str | None, *, begin: bool) -> Run | Idle:
        shell = self._shell
        shell.elapse(deliver=False)
        value = shell.hand_out(agent, request_id, attached=False, begin=begin)
        return value if isinstance(value, Idle) else self._handle(value, mine=True)

    def __iter__(self) -> Iterator[Run]:
        """Yield runs, each claimed and started in one commit, until there is nothing to hand out.

        It returns rather than waits. A run that was yielded and never entered is given back when the
        loop is left by ``break`` or an exception.

        Raises:
            InvalidValue: the handle has an agent, which executes the runs.
        """
        check_unattended(self.agent)
        while not isinstance(run := self._claim("worker", None, begin=True), Idle):
            try:
                yield run
            except GeneratorExit:
                if not run.entered:
                    self._give_back(run)
                raise

    def _give_back(self, run: Run) -> None:
        self._commit(None, None, core.release, run.index, run.attempt, begun=True)

    def execute(self, function: Callable[[Run], object], *, agent: str = "worker") -> Idle:
        """Execute a function for every run: the whole loop. An exception fails its run, and the next one starts.

        Args:
            function: is given the run, and returns its metrics: a mapping, or a number if there is an
                objective, or None.
            agent: whose name its runs' leases have; others of the same sweep are told apart by theirs.

        Returns:
            Why it ended; it returns rather than waits.

        Raises:
            KeyboardInterrupt: after the run it hit was reported as KILLED.
            InvalidValue: the function returned a number, and there is no objective to name it; or it is async; or the
                handle has an agent, which executes the runs.
        """
        check_immediate_function(function)
        check_unattended(self.agent)
        check_request(agent, None)
        while True:
            run = self._claim(agent, None, begin=True)
            if isinstance(run, Idle):
                return run
            run.perform(function)

    def orders(self, agent: str) -> list[Order]:
        """Return what is outstanding for the agent of this name, by index.

        Orders follow from the snapshots, so they survive a crash between a commit and its delivery;
        delivering one again is harmless.
        """
        return orders_of(self._shell, check_text(agent, "agent", most=1_000))

    def tick(self) -> Tick:
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
        events = elapse() if self._pump is None else self._pump.tick(elapse)
        next_at = self._read(core.upcoming)
        now = max(self._shell.now(), self.state.at)  # the sweep's time never runs backwards
        unfilled = self._pump is not None and self._pump.unfilled
        return Tick(events, unfilled or (next_at is not None and next_at <= now), next_at)

    # --- the shell -------------------------------------------------------------------------------

    def _commit(
        self,
        reason: str | None,
        actor: str | None,
        command: Callable[Concatenate[Draft, _P], Decision[None]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> tuple[Event, ...]:
        _, change = self._shell.commit(reason, actor, command, *args, **kwargs)
        return () if change is None else change.events

    def _read(self, question: Callable[[Draft], Decision[float | None]]) -> float | None:
        value, _ = self._shell.commit(None, None, question)
        return value

    def _handle(self, state: RunState, *, mine: bool = False) -> Run:
        return Run(self._shell, state, state.attempt, current_execution(state), mine=mine)
