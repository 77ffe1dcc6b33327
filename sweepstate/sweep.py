"""Sweep: a handle of one sweep; what most people use."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Concatenate, Final, ParamSpec, Self, Unpack

import attrs

from .core import decide as core
from .core.decide import Decision, Draft, Idle
from .core.errors import AlreadyExists, InvalidValue, RunNotFound, SweepNotFound
from .core.events import Event
from .core.lifecycle import SweepTrigger, Verdict, check
from .core.limits import LimitChanges, Limits, Objective
from .core.questions import ByIndex, InStatus, RunQuery
from .core.state import RunState, SweepState
from .core.status import RunStatus, SweepStatus
from .core.values import MAX_BITS, check_collection, check_count, check_flag, check_text, show
from .delivery import Pump, orders_of
from .explain import tell
from .hooks import Agent, Clock, Listener, ListenerErrorHandler, Order, Search, Storage
from .run import Run, read_token
from .search import build_search, describe_search, match_search
from .shell import Shell, check_said
from .storage.memory import MemoryStorage

_P = ParamSpec("_P")
_PAGE: Final = 256
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # 32 signs; none that is easily misread


@attrs.frozen
class Tick:
    """What a tick did.

    Attributes:
        events: what time caused in this slice.
        more: whether something is due already, or slots may be free still, so that another tick now has work.
        next_at: when time acts next, in POSIX seconds; None if never, as things stand.
    """

    events: tuple[Event, ...]
    more: bool
    next_at: float | None


class Sweep:
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
        _check_hooks(storage, agent, clock, listeners, on_listener_error)
        _check_plan(search, limits, objective)
        check_said(reason, actor)
        sweep_id = _new_id() if id is None else _check_id(id)
        self._shell = shell = Shell(sweep_id, storage, search, agent, clock, listeners, on_listener_error)
        change = core.create(
            sweep_id,
            shell.now(),
            search=describe_search(search),
            size=None if search.size is None else check_count(search.size, "search.size", most=2**MAX_BITS),
            limits=Limits() if limits is None else limits,
            objective=objective,
            reason=reason,
            actor=actor,
        )
        try:
            storage.commit(change)
        except AlreadyExists as error:
            if not exists_ok:
                raise
            try:
                state = shell.load()
            except SweepNotFound:
                raise error from None  # it was deleted, and its id stays taken
            match_search(sweep_id, state.search, search)
        else:
            shell.notify(change)
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
        sweep_id = _check_id(id)
        _check_hooks(storage, agent, clock, listeners, on_listener_error)
        if search is not None:
            _check_search(search)
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
    def state(self) -> SweepState:
        """The snapshot that was seen last."""
        return self._shell.state

    @property
    def id(self) -> str:
        """Its id."""
        return self._shell.sweep_id

    @property
    def status(self) -> SweepStatus:
        """Its status, as last seen."""
        return self.state.status

    @property
    def counts(self) -> dict[RunStatus, int]:
        """How many runs have each status, as last seen."""
        return self.state.counts

    @property
    def limits(self) -> Limits:
        """What bounds it, as last seen."""
        return self.state.limits

    @property
    def objective(self) -> Objective | None:
        """What it is after."""
        return self.state.objective

    @property
    def ended(self) -> bool:
        """Whether it was neither RUNNING nor PAUSED, as last seen."""
        return self.state.ended

    @property
    def done(self) -> bool:
        """Whether it had ended, and nothing of it was executing any more, as last seen."""
        return self.state.done

    @property
    def storage(self) -> Storage:
        """Where it lives."""
        return self._shell.storage

    @property
    def search(self) -> Search | None:
        """What proposes configurations, if this handle has it."""
        return self._shell.search

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
        number = check_count(index, "index", least=-(2**64), most=2**64)
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
        sweep_id, index, attempt, execution = read_token(token)
        if sweep_id != self.id:
            raise InvalidValue("token", f"is of a run of sweep {sweep_id!r}, not of {self.id!r}", "open that sweep")
        state = self[index].state
        if attempt > state.attempt:
            raise InvalidValue("token", f"names attempt {attempt} of run {index}, whose attempt is {state.attempt}")
        return Run(self._shell, state, attempt, execution, mine=True)

    def runs(self, status: RunStatus | Collection[RunStatus] | None = None) -> Iterator[Run]:
        """Yield handles of its runs, in index order, read page by page.

        Args:
            status: only runs of this status, or of one of these, at the time their page is read.
        """
        query: RunQuery = ByIndex()
        if status is not None:
            wanted = (status,) if isinstance(status, str) else check_collection(status, "status")
            query = InStatus(frozenset(RunStatus.parse(each) for each in wanted))
        after = -1
        while True:
            page = self.storage.runs(self.id, query, after=after, limit=_PAGE)
            for state in page:
                yield self._handle(state)
            if len(page) < _PAGE:
                return
            after = page[-1].index

    def history(self, *, after: int = 0) -> Iterator[Event]:
        """Yield what happened, in order, read page by page; ``replay`` of it gives the snapshots again.

        Args:
            after: only events of a higher number.
        """
        check_count(after, "after")
        while True:
            page = self.storage.events(self.id, after=after, limit=_PAGE)
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

    def listen(self, listener: Listener) -> None:
        """Call a listener with each event that is committed through this handle from now on.

        Args:
            listener: told after the commit. What other handles and processes commit is in ``history``.
        """
        if not callable(listener):
            raise InvalidValue("listener", f"{show(listener)} cannot be called", "give a function of an event")
        self._shell.listeners.append(listener)

    def check(self, trigger: SweepTrigger) -> Verdict:
        """Return what the lifecycle says to a trigger, from the status that was seen last.

        Args:
            trigger: such as ``SweepTrigger.PAUSE``.
        """
        return check(self.status, trigger)

    def can(self, trigger: SweepTrigger) -> bool:
        """Return whether the lifecycle accepts a trigger, from the status that was seen last."""
        return self.check(trigger) is not Verdict.REFUSED

    # --- commands --------------------------------------------------------------------------------

    def pause(
        self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None
    ) -> tuple[Event, ...]:
        """Create no runs for now; executing ones go on.

        Args:
            reason: why, for the history.
            actor: who, for the history.
            if_version: refuse if the status has changed since this version, so that a delayed command
                cannot hit a sweep that was reopened meanwhile.

        Returns:
            The events it caused; none if it was paused already.

        Raises:
            IllegalTransition: it has ended.
            Conflict: the status has changed since ``if_version``.

        Afterwards:
            It is PAUSED. A run that an agent already holds may start.
        """
        return self._move(SweepTrigger.PAUSE, reason, actor, if_version)

    def resume(
        self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None
    ) -> tuple[Event, ...]:
        """Undo a pause, or an interruption (CRASHED); see ``pause`` for the arguments.

        Raises:
            IllegalTransition: it was ended on purpose or has finished; ``reopen`` it.
            Conflict: the status has changed since ``if_version``.

        Afterwards:
            It is RUNNING, or what its limits make of that: FINISHED, if all is done.
        """
        return self._move(SweepTrigger.RESUME, reason, actor, if_version)

    def stop(
        self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None
    ) -> tuple[Event, ...]:
        """End it gracefully; see ``pause`` for the arguments. Nothing changes if it has ended already.

        Afterwards:
            It is STOPPED: executing runs go on to their end, PENDING ones are KILLED, withdrawn.
        """
        return self._move(SweepTrigger.STOP, reason, actor, if_version)

    def cancel(
        self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None
    ) -> tuple[Event, ...]:
        """End it abruptly, also one that was stopped and still drains; see ``pause`` for the arguments.

        Afterwards:
            It is CANCELLED, every active run is KILLED, and agents are ordered to end what executes.
            No run's status changes any more, until it is reopened. A FINISHED sweep stays so.
        """
        return self._move(SweepTrigger.CANCEL, reason, actor, if_version)

    def fail(
        self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None
    ) -> tuple[Event, ...]:
        """Declare it failed; see ``pause`` for the arguments.

        Raises:
            IllegalTransition: it has ended otherwise.

        Afterwards:
            It is FAILED: executing runs go on to their end, PENDING ones are KILLED, withdrawn.
        """
        return self._move(SweepTrigger.FAIL, reason, actor, if_version)

    def crash(
        self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None
    ) -> tuple[Event, ...]:
        """Report that what was driving it died; see ``pause`` for the arguments.

        Raises:
            IllegalTransition: it has ended otherwise.

        Afterwards:
            It is CRASHED, and ``resume`` undoes that; runs go on.
        """
        return self._move(SweepTrigger.CRASH, reason, actor, if_version)

    def reopen(
        self,
        reason: str | None = None,
        *,
        retry: Collection[RunStatus] = (),
        actor: str | None = None,
        if_version: int | None = None,
    ) -> tuple[Event, ...]:
        """Undo a deliberate end; see ``pause`` for the other arguments.

        Args:
            retry: runs that ended in one of these statuses are taken up again, as agents ask;
                withdrawn ones always are.

        Raises:
            IllegalTransition: it is PAUSED or CRASHED (``resume`` it), or RUNNING with something to retry.
            InvalidValue: a status cannot be retried.

        Afterwards:
            It is RUNNING; the time limit and the failure rule begin afresh. If the search is complete
            and there is nothing to take up, it is FINISHED in the same commit.
        """
        return self._commit(reason, actor, core.reopen, retry, if_version)

    def retry(
        self,
        statuses: Collection[RunStatus],
        reason: str | None = None,
        *,
        actor: str | None = None,
        if_version: int | None = None,
    ) -> tuple[Event, ...]:
        """Take up again all runs that ended in some statuses; see ``pause`` for the other arguments.

        Args:
            statuses: of FAILED, CRASHED and KILLED. One run is retried by ``sweep[index].retry()``.

        Raises:
            IllegalTransition: it was ended; ``reopen(retry=...)`` it.
            InvalidValue: no status, or one that cannot be retried.

        Afterwards:
            The wish is in the backlog. Runs are taken up one by one, as agents ask; those whose status
            changes before that are left out.
        """
        return self._commit(reason, actor, core.retry_statuses, statuses, if_version)

    def complete(
        self, reason: str | None = None, *, actor: str | None = None, if_version: int | None = None
    ) -> tuple[Event, ...]:
        """Declare that the search has proposed enough; see ``pause`` for the arguments.

        Raises:
            IllegalTransition: it has ended otherwise.

        Afterwards:
            Nothing is created or queued again, and what was queued is withdrawn; it is FINISHED as
            soon as the last run ends.
        """
        return self._commit(reason, actor, core.complete, if_version)

    def set_limits(
        self,
        reason: str | None = None,
        *,
        actor: str | None = None,
        if_version: int | None = None,
        **changes: Unpack[LimitChanges],
    ) -> tuple[Event, ...]:
        """Change limits, at any time; see ``pause`` for the other arguments.

        Args:
            changes: names and new values of ``Limits``.

        Raises:
            InvalidValue: a name is no limit, or a value is out of its range.

        Afterwards:
            They hold, and what they reach has happened in the same commit.
        """
        return self._commit(reason, actor, core.set_limits, changes, if_version)

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
        check_text(agent, "agent", most=1_000)
        if request_id is not None:
            check_text(request_id, "request_id", most=1_000)
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
        """
        while not isinstance(run := self._claim("worker", None, begin=True), Idle):
            try:
                yield run
            except GeneratorExit:
                if not run.entered:
                    self._give_back(run)
                raise

    def _give_back(self, run: Run) -> None:
        self._commit(None, None, core.release, run.index, run.attempt, begun=True)

    def execute(self, function: Callable[[Run], object]) -> Idle:
        """Execute a function for every run: the whole loop. An exception fails its run, and the next one starts.

        Args:
            function: is given the run, and returns its metrics: a mapping, or a number if there is an
                objective, or None.

        Returns:
            Why it ended; it returns rather than waits.

        Raises:
            KeyboardInterrupt: after the run it hit was reported as KILLED.
            InvalidValue: the function returned a number, and there is no objective to name it.
        """
        if not callable(function):
            raise InvalidValue("function", f"{show(function)} cannot be called", "give a function of a run")
        while True:
            run = self._claim("worker", None, begin=True)
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

    def _move(
        self, trigger: SweepTrigger, reason: str | None, actor: str | None, if_version: int | None
    ) -> tuple[Event, ...]:
        return self._commit(reason, actor, core.move, trigger, if_version)

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
        lease, attempt = state.lease, state.attempt
        execution = lease.execution if lease is not None and lease.attempt == attempt else None
        return Run(self._shell, state, attempt, execution, mine=mine)

    def __contains__(self, item: object) -> bool:
        """Return whether a handle is of one of its runs; asking starts nothing, unlike iterating."""
        return isinstance(item, Run) and item.sweep_id == self.id

    def __repr__(self) -> str:
        state = self.state
        counts = [f"{count} {status.lower()}" for status, count in state.counts.items() if count]
        runs = f"{state.created} run" + ("" if state.created == 1 else "s")
        return f"<Sweep {self.id!r} {state.status}: {', '.join([runs, *counts])}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sweep):
            return NotImplemented
        return self.id == other.id and self.storage is other.storage

    def __hash__(self) -> int:
        return hash(self.id)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what another process can use; an agent stays with this one."""
        return {"_shell": self._shell, "_pump": None}


def _new_id() -> str:
    """Return eight signs that nobody has used: 40 bits, and creating checks them."""
    return "".join(_ALPHABET[byte & 31] for byte in os.urandom(8))


def _check_id(value: str) -> str:
    sweep_id = check_text(value, "id", most=200)
    if not sweep_id or not sweep_id.isprintable():
        raise InvalidValue("id", f"{show(value)} cannot be an id", "use printable characters, at least one")
    return sweep_id


def _check_hooks(storage: object, agent: object, clock: object, listeners: object, handler: object) -> None:
    """Refuse what is plainly in the wrong place, before anything is created."""
    if not all(callable(getattr(storage, name, None)) for name in ("sweep", "runs", "commit", "events")):
        raise InvalidValue("storage", f"{show(storage)} is no storage", "e.g. MemoryStorage()")
    if agent is not None:
        if not all(callable(getattr(agent, name, None)) for name in ("start", "stop", "kill")):
            raise InvalidValue("agent", f"{show(agent)} is no agent", "it has name, can_kill, start, stop and kill")
        check_text(getattr(agent, "name", None), "agent.name", most=1_000)
        check_flag(getattr(agent, "can_kill", None), "agent.can_kill")
    if not callable(clock):
        raise InvalidValue("clock", f"{show(clock)} is no clock", "give a function that returns POSIX seconds")
    for number, listener in enumerate(check_collection(listeners, "listeners")):
        if not callable(listener):
            raise InvalidValue(f"listeners[{number}]", f"{show(listener)} cannot be called", "it is given each event")
    if handler is not None and not callable(handler):
        raise InvalidValue("on_listener_error", f"{show(handler)} cannot be called")


def _check_search(search: object) -> None:
    if isinstance(search, type) or not callable(getattr(search, "propose", None)) or not hasattr(search, "size"):
        raise InvalidValue("search", f"{show(search)} is no search", "e.g. Grid({'lr': [0.1, 0.01]})")


def _check_plan(search: object, limits: object, objective: object) -> None:
    _check_search(search)
    if limits is not None and not isinstance(limits, Limits):
        raise InvalidValue("limits", f"must be Limits, not {show(limits)}", "e.g. Limits(run_cap=100)")
    if objective is not None and not isinstance(objective, Objective):
        raise InvalidValue("objective", f"must be an Objective, not {show(objective)}", "e.g. Objective('loss')")
