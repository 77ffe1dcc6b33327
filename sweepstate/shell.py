"""The shell around the core: load, decide, commit, notify. ``Sweep`` and ``Run`` are handles over it.

Data flows one way. A decision is made on what the storage holds, committed
whole, and only then are listeners and the attached agent told. Nothing here
chooses a status.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import RLock
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast
from weakref import WeakSet

from .core import decide as core
from .core.decide import Change, Decision, Draft
from .core.errors import AlreadyExists, Conflict, GaveWay, NotFound, OutcomeUnknown, SearchMissing, StorageError
from .core.events import Event, RunEnded
from .core.questions import ByIndex, LastHeard, Proposal, Question, Runs, Silent
from .core.state import RunState, SweepState
from .core.values import FrozenDict
from .handles.shell import (
    LAST_TIME,
    MAX_CONFLICTS,
    CommonShell,
    Locks,
    Proposals,
    check_said,
    check_time,
    is_in,
    is_unmistakable,
)
from .hooks import (
    Agent,
    Clock,
    Ended,
    Heartbeats,
    History,
    Listener,
    ListenerErrorHandler,
    Search,
    Storage,
    Timekeeper,
    Turns,
)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_BY_INDEX: Final = ByIndex()
_PAGE: Final = 256
_TURNS: Final[Locks[Any]] = Locks(RLock)
_ASKING: Final[Locks[Any]] = Locks(RLock)
_SHELLS: Final[WeakSet[Shell]] = WeakSet()


def _renew_turns() -> None:
    """Let the handles of a forked child take turns among themselves: what the parent's threads hold stays held."""
    _TURNS.renew()
    _ASKING.renew()
    for shell in list(_SHELLS):
        shell.renew_turn()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_turns)


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
        #: Who asks the search, unless that is there at once: so that it is not asked in vain, nor by two at once.
        self.asking: Any = _ASKING.of(storage, sweep_id)
        _SHELLS.add(self)

    def renew_turn(self) -> None:
        """Take turns by another lock."""
        self._turn = _TURNS.of(self.storage, self.sweep_id)
        self.asking = _ASKING.of(self.storage, self.sweep_id)

    def __getstate__(self) -> dict[str, Any]:
        kept = super().__getstate__()
        del kept["_turn"], kept["asking"]
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept)
        self.renew_turn()
        _SHELLS.add(self)

    def now(self) -> float:
        """Return POSIX seconds.

        Raises:
            InvalidValue: the clock answered what is no time.
        """
        now = self.clock()
        return now if now.__class__ is float and 0.0 <= now <= LAST_TIME else check_time(now)

    def now_in(self, place: Storage) -> float:
        """Return POSIX seconds, where a turn has the storage's clock by that."""
        if place is self.storage or not isinstance(place, Timekeeper):
            return self.now()
        return check_time(place.now())

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
                    draft = Draft(storage.sweep(sweep_id), self.now_in(storage), reason, actor)
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
            OutcomeUnknown: the storage cannot answer this either, or what is there may as well be somebody else's.
        """
        try:
            try:
                self.storage.commit(change)
            except (Conflict, AlreadyExists):
                page = self.storage.events(self.sweep_id, after=change.events[0].number - 1, limit=1)
            else:
                return True
        except (StorageError, NotFound):
            raise unknown from None
        if not is_in(change, page):
            return False
        if is_unmistakable(change):
            return True
        raise unknown

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
        try:
            return self._hand_out_by(proposer, agent, request_id, attached=attached, begin=begin)
        finally:
            proposer.release()

    def _hand_out_by(
        self, proposer: _Proposer, agent: str, request_id: str | None, *, attached: bool, begin: bool
    ) -> RunState | core.Idle:
        """Decide again until nobody came first, and ask the search in between."""
        conflicts = 0
        while True:
            try:
                proposer.fetch()
                with self._turn:
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
                proposer.release()  # before an agent that executes inline is told, or nobody else asks for so long
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
                draft = Draft(storage.sweep(self.sweep_id), self.now_in(storage))
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
    """Answers the questions of handing out; a search that may take its time is asked out of turn, by one at a time."""

    __slots__ = ("_asking",)

    def __init__(self, shell: Shell, history: History) -> None:
        super().__init__(shell, history)
        self.alone = True  # every other thread would wait
        # Held while it is its turn to ask the search.
        self._asking: Any = None

    def answer(self, storage: Storage, question: Question) -> object:
        if type(question) is not Proposal:
            return self._shell.answer(storage, question)
        kept = self.kept(question.index)
        return self.ask(question.index) if kept is None else kept  # by_index

    def fetch(self) -> None:
        """Ask the search for what a decision has found to be wanted, if it is its turn; else wait for that.

        After waiting, another index may be wanted, or none, so it is decided again.
        """
        index = self.wanted()
        if index is None:
            return
        if self._asking is not None:
            self.ask(index)
        else:
            asking = self._shell.asking
            asking.acquire()
            self._asking = asking

    def release(self) -> None:
        """Let others ask the search. Again does no harm."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.release()

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
