"""The shell around the core: load, decide, commit, notify. ``Sweep`` and ``Run`` are handles over it.

Data flows one way. A decision is made on what the storage holds, committed
whole, and only then are listeners and the attached agent told. Nothing here
chooses a status.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import RLock
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from .core import decide as core
from .core.decide import Change, Decision, Draft
from .core.errors import AlreadyExists, Conflict, GaveWay, OutcomeUnknown, SearchMissing, StorageError
from .core.events import Event, RunEnded
from .core.questions import ByIndex, LastHeard, Proposal, Question, Runs, Silent
from .core.state import RunState, SweepState
from .core.values import FrozenDict
from .handles.shell import LAST_TIME, MAX_CONFLICTS, CommonShell, Locks, Proposals, check_said, check_time, is_in
from .hooks import Agent, Clock, Ended, Heartbeats, Listener, ListenerErrorHandler, Search, Storage, Turns

_P = ParamSpec("_P")
_T = TypeVar("_T")

_BY_INDEX: Final = ByIndex()
_PAGE: Final = 256
_TURNS: Final[Locks[Any]] = Locks(RLock)


class Shell(CommonShell[Storage, Agent]):
    """The shell of the sync handles; a storage that has a clock of its own supplies the time."""

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
        clock = getattr(storage, "now", clock)
        super().__init__(sweep_id, storage, search, agent, clock, listeners, on_listener_error)
        self.heartbeats: Heartbeats | None = storage if isinstance(storage, Heartbeats) else None
        self._turns: Turns | None = storage if isinstance(storage, Turns) else None
        self._here = nullcontext(storage)
        # Threads take turns to decide and commit: outrunning each other, one of them might never win. No agent and
        # no listener is called meanwhile.
        self._turn = _TURNS.of(storage, sweep_id)

    def __getstate__(self) -> dict[str, Any]:
        kept = super().__getstate__()
        del kept["_turn"]
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept, _turn=_TURNS.of(kept["storage"], kept["sweep_id"]))

    def now(self) -> float:
        """Return POSIX seconds.

        Raises:
            InvalidValue: the clock answered what is no time.
        """
        now = self.clock()
        return now if now.__class__ is float and 0.0 <= now <= LAST_TIME else check_time(now)

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
            if not self.keeps_beats and isinstance(query, Silent):
                return ()  # without heartbeats, silence means nothing
            return storage.runs(self.sweep_id, query, after=question.after, limit=question.limit)
        if isinstance(question, LastHeard):
            if not self.keeps_beats:
                return (None,) * len(question.leases)
            return cast(Heartbeats, storage).last_heard(self.sweep_id, question.leases)
        raise SearchMissing(self.sweep_id, -1, f"no search can answer {question!r} here")

    # --- decide, commit --------------------------------------------------------------------------

    def create(self, change: Change) -> None:
        """Commit the creation of the sweep, and tell listeners.

        Raises:
            AlreadyExists: it is, or was, there.
        """
        try:
            self.storage.commit(change)
        except OutcomeUnknown as unknown:
            if not self._settled(change, unknown):
                raise AlreadyExists(change.sweep_id) from None
        self.notify(change)

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
        value, change = self._decide(index, reason, actor, command, *args, **kwargs)
        if change is not None:
            self.notify(change)
        return value, change

    def _decide(
        self,
        index: int | None,
        reason: str | None,
        actor: str | None,
        command: Callable[Concatenate[Draft, _P], Decision[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> tuple[_T, Change | None]:
        """Decide and commit, again until nobody came first; nobody is told yet."""
        sweep_id = self.sweep_id
        outrun = False
        while True:
            outcome: tuple[_T, Change | None] | None = None
            try:
                with self._turn, self._place(outrun) as storage:
                    draft = Draft(storage.sweep(sweep_id), self.now(), reason, actor)
                    if index is not None:
                        for run in storage.runs(sweep_id, _BY_INDEX, after=index - 1, limit=1):
                            draft.tell(run)
                    value = core.drive(command(draft, *args, **kwargs), partial(self.answer, storage))
                    change = draft.change()
                    outcome = value, change
                    outrun = self._outrun(storage, draft, change)
            except GaveWay:
                continue
            except OutcomeUnknown as unknown:
                if outcome is None or outcome[1] is None:
                    raise
                outrun = not self._settled(outcome[1], unknown)
            if not outrun:
                return outcome

    def _settled(self, change: Change, unknown: OutcomeUnknown) -> bool:
        """Find out what became of a commit by making it again; return whether it is made, or others came first.

        What was written before cannot be written twice, as its version is gone.

        Raises:
            OutcomeUnknown: the storage cannot answer this either.
        """
        try:
            self.storage.commit(change)
        except (Conflict, AlreadyExists):
            return is_in(change, self.storage.events(self.sweep_id, after=change.events[0].number - 1, limit=1))
        except StorageError:
            raise unknown from None
        return True

    def _place(self, outrun: bool) -> AbstractContextManager[Storage]:  # noqa: FBT001 - whether the last try was
        """Return where to decide: on the storage; after a Conflict, and for a while then, in a turn, if it has such.

        So contention costs a Conflict now and then, and who is alone pays nothing.
        """
        if self._turns is not None and self.crowded(outrun=outrun):
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
        proposer = _Proposer(self, VerdictHistory(self))
        conflicts = 0
        while True:
            try:
                with self._turn:
                    proposer.fetch()
                    place = self._place(conflicts > 0)
                    value, change = self._hand_out(place, proposer, agent, request_id, attached=attached, begin=begin)
            except Conflict:
                conflicts += proposer.outrun
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
        outcome: tuple[RunState | core.Idle, Change | None] | None = None
        try:
            with place as storage:
                proposer.alone = place is not self._here
                draft = Draft(storage.sweep(self.sweep_id), self.now())
                decision = core.next_run(draft, agent, request_id, attached=attached, begin=begin)
                value = core.drive(decision, partial(proposer.answer, storage))
                change = draft.change()
                outcome = value, change
                if change is None:
                    self.show(draft.base)
                else:
                    storage.commit(change)
        except OutcomeUnknown as unknown:
            if outcome is None or outcome[1] is None:
                raise
            if not self._settled(outcome[1], unknown):
                raise Conflict(self.sweep_id, outcome[1].version) from None
        return outcome

    def elapse(self, *, deliver: bool = True) -> tuple[Event, ...]:
        """Commit one slice of what time has caused, if there is any; tell listeners and, if wanted, the agent."""
        state = self.load()
        if not state.leased and state.limits.time_limit is None:
            return ()
        _, change = self._decide(None, None, None, core.elapse)
        if change is None:
            return ()
        self.notify(change, deliver=deliver)
        return change.events


class _Proposer(Proposals[Shell]):
    """Answers the questions of handing out."""

    __slots__ = ()

    def answer(self, storage: Storage, question: Question) -> object:
        if type(question) is not Proposal:
            return self._shell.answer(storage, question)
        kept = self.kept(question.index)
        return self.ask(question.index) if kept is None else kept

    def fetch(self) -> None:
        """Ask the search for what a turn has found to be wanted."""
        index = self.wanted()
        if index is not None:
            self.ask(index)

    def close(self, change: Change | None) -> None:
        """Tell the search of a proposal that was not used."""
        if self.unused(change):
            self.discard()


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
