"""The shell around the core: load, decide, commit, notify. ``Sweep`` and ``Run`` are handles over it.

Data flows one way. A decision is made on what the storage holds, committed
whole, and only then are listeners and the attached agent told. Nothing here
chooses a status.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import Lock, RLock
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

from .core import decide as core
from .core.decide import Change, Decision, Draft
from .core.errors import Conflict, InvalidValue, NotFound, OutcomeUnknown, SearchError, SearchMissing, StorageError
from .core.events import Event, RunEnded
from .core.questions import ByIndex, Exhausted, LastHeard, Proposal, Question, Runs, Silent, Wait
from .core.state import RunState, SweepState
from .core.values import FrozenDict, check_number, check_text, describe_error, freeze_mapping, show
from .hooks import Agent, Clock, Ended, Heartbeats, Listener, ListenerErrorHandler, Search, Storage, Turns

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Handing out gives up after so many Conflicts in a row; every other command is decided again until it succeeds.
MAX_CONFLICTS: Final = 64
_BY_INDEX: Final = ByIndex()
_PAGE: Final = 256


# One lock for each sweep of a storage, as long as a handle of it lives in this process.
_TURNS: Final[WeakKeyDictionary[Storage, WeakValueDictionary[str, Any]]] = WeakKeyDictionary()
_TURNS_LOCK: Final = Lock()


def _turn_of(storage: Storage, sweep_id: str) -> Any:
    """Return the lock that the handles of one sweep share in this process."""
    with _TURNS_LOCK:
        try:
            turns = _TURNS.setdefault(storage, WeakValueDictionary())
        except TypeError:  # a storage that cannot be a key: its handles only share what they are copies of
            return RLock()
        turn = turns.get(sweep_id)
        if turn is None:
            turn = turns[sweep_id] = RLock()
        return turn


class Shell:
    """What the handles of one sweep share: the hooks, and the snapshot that was seen last.

    Attributes:
        sweep_id: the sweep.
        storage: where it lives.
        search: what proposes, or None.
        agent: what is ordered to execute, or None.
        clock: the time, unless the storage has a clock of its own.
        listeners: told of every event that is committed through this shell.
        state: the snapshot that was seen last; replaced whole.
    """

    def __init__(
        self,
        sweep_id: str,
        storage: Storage,
        search: Search | None,
        agent: Agent | None,
        clock: Clock,
        listeners: Sequence[Listener],
        on_listener_error: ListenerErrorHandler | None,
    ) -> None:
        self.sweep_id = sweep_id
        self.storage = storage
        self.search = search
        self.agent = agent
        self.clock: Clock = getattr(storage, "now", clock)
        self.listeners: list[Listener] = list(listeners)
        self.on_listener_error = on_listener_error
        self.heartbeats: Heartbeats | None = storage if isinstance(storage, Heartbeats) else None
        self._turns: Turns | None = storage if isinstance(storage, Turns) else None
        self._here = nullcontext(storage)
        # Threads take turns to decide and commit: outrunning each other, one of them might never win. No agent and
        # no listener is called meanwhile.
        self._turn = _turn_of(storage, sweep_id)
        #: Told of every change after the listeners; this is how an attached agent gets its orders.
        self.on_commit: Callable[[Change], None] | None = None
        self.state: SweepState = SweepState(id=sweep_id)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what another process can use: no agent, no listeners, and no search that is not plain data."""
        kept = dict(self.__dict__, agent=None, listeners=[], on_listener_error=None, on_commit=None)
        del kept["_turn"]
        if self.state.search is None:
            kept["search"] = None
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept, _turn=_turn_of(kept["storage"], kept["sweep_id"]))

    def now(self) -> float:
        """Return POSIX seconds.

        Raises:
            InvalidValue: the clock answered what is no time.
        """
        now = self.clock()
        if now.__class__ is not float:
            now = check_number(now, "clock")
        if not 0.0 <= now <= _LAST_TIME:
            raise InvalidValue("clock", f"must return POSIX seconds, not {show(now)}")
        return now

    def show(self, state: SweepState) -> None:
        """Show a snapshot from now on, unless another thread has seen a newer one."""
        if state.version >= self.state.version:
            self.state = state

    # --- load ------------------------------------------------------------------------------------

    def load(self) -> SweepState:
        """Return the newest snapshot of the sweep."""
        state = self.storage.sweep(self.sweep_id)
        self.show(state)
        return state

    def load_run(self, index: int) -> RunState | None:
        """Return the newest snapshot of a run; None if there is none of this index."""
        rows = self.storage.runs(self.sweep_id, _BY_INDEX, after=index - 1, limit=1)
        return rows[0] if rows and rows[0].index == index else None

    def answer(self, storage: Storage, question: Question) -> object:
        """Answer a question of a decision; ``Proposal`` is answered where runs are handed out."""
        if type(question) is Runs:
            query = question.query
            if self.heartbeats is None and isinstance(query, Silent):
                return ()  # without heartbeats, silence means nothing
            return storage.runs(self.sweep_id, query, after=question.after, limit=question.limit)
        if isinstance(question, LastHeard):
            if self.heartbeats is None:
                return (None,) * len(question.leases)
            return cast(Heartbeats, storage).last_heard(self.sweep_id, question.leases)
        raise SearchMissing(self.sweep_id, -1, f"no search can answer {question!r} here")

    # --- decide, commit --------------------------------------------------------------------------

    def commit(
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
        return self.decide(None, reason, actor, command, *args, **kwargs)

    def decide(
        self,
        index: int | None,
        reason: str | None,
        actor: str | None,
        command: Callable[Concatenate[Draft, _P], Decision[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> tuple[_T, Change | None]:
        """Do what ``commit`` does, for what was checked already; the run it is about is read beforehand."""
        sweep_id = self.sweep_id
        outrun = False
        while True:
            with self._turn, self._place(outrun) as storage:
                draft = Draft(storage.sweep(sweep_id), self.now(), reason, actor)
                if index is not None:
                    for run in storage.runs(sweep_id, _BY_INDEX, after=index - 1, limit=1):
                        draft.tell(run)
                value = core.drive(command(draft, *args, **kwargs), partial(self.answer, storage))
                change = draft.change()
                outrun = self._outrun(storage, draft, change)
            if not outrun:
                if change is not None:
                    self.notify(change)
                return value, change

    def _place(self, outrun: bool) -> AbstractContextManager[Storage]:  # noqa: FBT001 - whether the last try was
        """Return where to decide: on the storage; after a Conflict in a turn of its own, if it has such.

        So contention costs one Conflict and no more, and who is alone pays nothing.
        """
        if outrun and self._turns is not None:
            return self._turns.turn(self.sweep_id)
        return self._here

    def _outrun(self, storage: Storage, draft: Draft, change: Change | None) -> bool:
        """Commit what was decided, if anything; return whether somebody else came first."""
        if change is None:
            self.show(draft.base)
            return False
        try:
            storage.commit(change)
        except Conflict:
            return True
        return False

    def hand_out(self, agent: str, request_id: str | None, *, attached: bool, begin: bool) -> RunState | core.Idle:
        """Hand out a run. A proposal that met a Conflict is used again while its index is free.

        Raises:
            Conflict: others came first 64 times in a row.
            SearchError: the search raised, or proposed what cannot be used; nothing was committed.
            SearchMissing: a new run is needed and there is no search.
        """
        proposer = _Proposer(self)
        conflicts = 0
        while True:
            try:
                with self._turn:
                    proposer.fetch()
                    place = self._place(conflicts > 0)
                    value, change = self._hand_out(place, proposer, agent, request_id, attached=attached, begin=begin)
            except Conflict:
                conflicts += 1
                if conflicts >= MAX_CONFLICTS:
                    proposer.close(None)
                    raise
            except OutcomeUnknown:
                raise  # nor can anybody say whether the proposal was used
            except BaseException:
                proposer.close(None)
                raise
            else:
                proposer.close(change)
                if change is not None:
                    self.notify(change)
                return value

    def _hand_out(
        self,
        place: AbstractContextManager[Storage],
        proposer: _Proposer,
        agent: str,
        request_id: str | None,
        *,
        attached: bool,
        begin: bool,
    ) -> tuple[RunState | core.Idle, Change | None]:
        """Decide once and commit; or Conflict."""
        with place as storage:
            proposer.alone = place is not self._here
            draft = Draft(storage.sweep(self.sweep_id), self.now())
            decision = core.next_run(draft, agent, request_id, attached=attached, begin=begin)
            value = core.drive(decision, partial(proposer.answer, storage))
            change = draft.change()
            if change is None:
                self.show(draft.base)
            else:
                storage.commit(change)
            return value, change

    def elapse(self, *, deliver: bool = True) -> tuple[Event, ...]:
        """Commit one slice of what time has caused, if there is any; tell listeners and, if wanted, the agent."""
        outrun = False
        while True:
            state = self.load()
            if not state.leased and state.limits.time_limit is None:
                return ()
            with self._turn, self._place(outrun) as storage:
                draft = Draft(storage.sweep(self.sweep_id), self.now())
                core.drive(core.elapse(draft), partial(self.answer, storage))
                change = draft.change()
                outrun = self._outrun(storage, draft, change)
            if not outrun:
                if change is None:
                    return ()
                self.notify(change, deliver=deliver)
                return change.events

    # --- notify ----------------------------------------------------------------------------------

    def notify(self, change: Change, *, deliver: bool = True) -> None:
        """Tell the listeners and the attached agent what was committed."""
        self.show(change.sweep)
        for listener in self.listeners:
            for event in change.events:
                self._tell(listener, event)
        if deliver and self.on_commit is not None:
            self.on_commit(change)

    def _tell(self, listener: Listener, event: Event) -> None:
        """Tell one listener; its error never reaches somebody else's call (trio isolates instruments so)."""
        try:
            listener(event)
        except Exception as error:
            if self.on_listener_error is None:
                log_ignored(listener, error)
                return
            try:
                self.on_listener_error(listener, event, error)
            except Exception as second:
                log_ignored(self.on_listener_error, second)


_LAST_TIME: Final = 1e15


def log_ignored(source: object, error: BaseException) -> None:
    """Log an error of a hook that must not reach the caller, whose own work is done."""
    import logging  # noqa: PLC0415 - only when something went wrong: it is slow to import

    logging.getLogger("sweepstate").error("ignored an exception in %s", show(source), exc_info=error)


def check_said(reason: str | None, actor: str | None) -> None:
    """Refuse a reason or an actor that could not be stored."""
    if reason is not None:
        check_text(reason, "reason")
    if actor is not None:
        check_text(actor, "actor", most=1_000)


class _Proposer:
    """Answers a decision's questions, and keeps the search's proposal over Conflicts."""

    __slots__ = ("_config", "_index", "_shell", "_wanted", "alone")

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._index = -1
        self._config: FrozenDict | Wait | Exhausted | None = None
        # The index to be proposed for before the next turn is taken.
        self._wanted: int | None = None
        #: Whether others wait for the turn in which the decision is made.
        self.alone = False

    def answer(self, storage: Storage, question: Question) -> object:
        if type(question) is not Proposal:
            return self._shell.answer(storage, question)
        index = question.index
        if self._config is not None and index == self._index:
            return self._config
        if self.alone and not getattr(self._shell.search, "by_index", False):
            # It may take long, or never come back, and meanwhile nobody could even pause the sweep.
            self._wanted = index
            raise Conflict(self._shell.sweep_id, self._shell.state.version, -1, "the search is asked out of turn")
        return self._propose(index)

    def fetch(self) -> None:
        """Ask the search for what a turn has found to be wanted."""
        index, self._wanted = self._wanted, None
        if type(self._config) is not FrozenDict:
            self._config = None  # to wait was the answer to what others have changed since
        if index is not None:
            self._propose(index)

    def _propose(self, index: int) -> FrozenDict | Wait | Exhausted:
        self._discard()
        self._index = index
        self._config = self._ask(index)
        return self._config

    def close(self, change: Change | None) -> None:
        """Tell the search of a proposal that was not used."""
        for run in () if change is None else change.runs:
            if run.index == self._index:
                return
        self._discard()

    def _ask(self, index: int) -> FrozenDict | Wait | Exhausted:
        shell = self._shell
        search = shell.search
        if search is None:
            remedy = "pass it to Sweep.open(..., search=...)"
            raise SearchMissing(
                shell.sweep_id, index, f"a new run needs the search, which is not stored as data; {remedy}"
            )
        try:
            answer = search.propose(index, VerdictHistory(shell))
        except (StorageError, NotFound):
            raise  # of the history that the search has read
        except Exception as error:
            raise SearchError(shell.sweep_id, index, f"it raised {describe_error(error)}") from error
        if type(answer) is FrozenDict or isinstance(answer, (Wait, Exhausted)):
            return answer
        try:
            return freeze_mapping(answer, "config")
        except Exception as error:
            raise SearchError(
                shell.sweep_id, index, f"it proposed what cannot be used: {describe_error(error)}"
            ) from error

    def _discard(self) -> None:
        config, self._config = self._config, None
        discard = getattr(self._shell.search, "discard", None)
        if discard is not None and type(config) is FrozenDict:
            try:
                discard(self._index, config)
            except Exception as error:
                log_ignored(self._shell.search, error)


class VerdictHistory:
    """What an adaptive search reads: the verdicts, in the order in which they were given."""

    __slots__ = ("_shell",)

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def ended(self, *, after: int = 0, limit: int) -> Sequence[Ended]:
        """Return verdicts behind a cursor; see ``History.ended``."""
        shell = self._shell
        found: list[Ended] = []
        while len(found) < limit:
            page = shell.storage.events(shell.sweep_id, after=after, limit=_PAGE)
            if not page:
                break
            for event in page:
                if isinstance(event, RunEnded) and len(found) < limit:
                    run = shell.load_run(event.index)
                    config = FrozenDict() if run is None else run.config
                    found.append(Ended(event.number, event.index, config, event.status, event.metrics))
            after = page[-1].number
        return found
