"""What both shells around the core do alike: keep the hooks and the snapshot, ask the search, tell the listeners."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from ..core.as_json import to_json
from ..core.decide import Change
from ..core.errors import Conflict, InvalidValue, NotFound, SearchError, SearchMissing, StorageError
from ..core.events import Event, RunCreated, RunHandedOut, RunStarted
from ..core.questions import Exhausted, Wait
from ..core.state import SweepState
from ..core.values import FrozenDict, check_number, check_text, describe_error, freeze_mapping, show
from ..hooks import Clock, Heartbeats, History, Listener, ListenerErrorHandler, Search

StorageT = TypeVar("StorageT")
AgentT = TypeVar("AgentT")
LockT = TypeVar("LockT")

#: Handing out gives up after so many Conflicts in a row; every other command is decided again until it succeeds.
MAX_CONFLICTS: Final = 64
#: So many commands after one that was outrun take their turn beforehand: where many commit at once, each would be
#: outrun, and decide and wait twice. Then one tries without it, as whoever is alone pays nothing.
_CROWDED: Final = 16
#: No clock shows more.
LAST_TIME: Final = 1e15


def is_in(change: Change, page: Sequence[Event]) -> bool:
    """Return whether a page of history begins with what a change wrote, to the byte: NaN does not equal itself."""
    return [to_json(event) for event in page[: len(change.events)]] == [to_json(event) for event in change.events]


def is_unmistakable(change: Change) -> bool:
    """Return whether nobody else can have written the very same events.

    Whoever takes a run without a request id, or begins one without saying which execution it is, may be one of many who
    do so, by clocks that show the same; of anything else it makes no difference who did it.
    """
    claims = [event for event in change.events if isinstance(event, (RunCreated, RunHandedOut))]
    begins = [event for event in change.events if isinstance(event, RunStarted)]
    if claims:
        return all(event.request_id is not None for event in claims)
    return all(event.execution is not None for event in begins)


class CommonShell(Generic[StorageT, AgentT]):
    """What the handles of one sweep share: the hooks, and the snapshot that was seen last.

    Attributes:
        sweep_id: the sweep.
        storage: where it lives.
        search: what proposes, or None.
        agent: what is ordered to execute, or None.
        listeners: told of every event that is committed through this shell.
        keeps_beats: whether the storage keeps heartbeats; without them, silence means nothing.
        state: the snapshot that was seen last; replaced whole.
    """

    def __init__(
        self,
        sweep_id: str,
        storage: StorageT,
        search: Search | None,
        agent: AgentT | None,
        clock: Clock,
        listeners: Sequence[Listener],
        on_listener_error: ListenerErrorHandler | None,
    ) -> None:
        self.sweep_id = sweep_id
        self.storage = storage
        self.search = search
        self.agent = agent
        self.clock = clock
        self.listeners: list[Listener] = list(listeners)
        self.on_listener_error = on_listener_error
        self.keeps_beats: bool = isinstance(storage, Heartbeats)
        self._crowded = 0
        #: Told of every change after the listeners; this is how an attached agent gets its orders.
        self.on_commit: Callable[[Change], None] | None = None
        self.state: SweepState = SweepState(id=sweep_id)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what another process can use: no agent, no listeners, and no search that is not plain data."""
        kept = dict(self.__dict__, agent=None, listeners=[], on_listener_error=None, on_commit=None)
        if self.state.search is None:
            kept["search"] = None
        return kept

    def crowded(self, *, outrun: bool) -> bool:
        """Return whether a command is to be decided in a turn, if there are turns.

        Args:
            outrun: whether it has just met a Conflict.
        """
        self._crowded = _CROWDED if outrun else max(0, self._crowded - 1)
        return self._crowded > 0

    def show(self, state: SweepState) -> None:
        """Show a snapshot from now on, unless somebody else has seen a newer one."""
        if state.version >= self.state.version:
            self.state = state

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


ShellT = TypeVar("ShellT", bound=CommonShell[Any, Any])


class Proposals(Generic[ShellT]):
    """Asks the search, and keeps what it proposed over Conflicts."""

    __slots__ = ("_config", "_history", "_index", "_shell", "_wanted", "alone")

    def __init__(self, shell: ShellT, history: History) -> None:
        self._shell = shell
        self._history = history
        self._index = -1
        self._config: FrozenDict | Wait | Exhausted | None = None
        # The index to be proposed for before the next turn is taken.
        self._wanted: int | None = None
        #: Whether others wait for the turn in which the decision is made.
        self.alone: bool = False

    @property
    def by_index(self) -> bool:
        """Whether what is proposed depends on the index alone, and is there at once."""
        return getattr(self._shell.search, "by_index", False)

    @property
    def outrun(self) -> bool:
        """Whether a Conflict says that others came first, and not only that the search is to be asked now."""
        return self._wanted is None or self._config is not None

    def kept(self, index: int) -> FrozenDict | Wait | Exhausted | None:
        """Return what was proposed for an index before; None if the search is to be asked now.

        Raises:
            Conflict: it is to be asked before the turn is taken again.
        """
        if index == self._index and self._config is not None:
            return self._config
        if self.alone and not self.by_index:
            # It may take long, or never come back, and meanwhile nobody could even pause the sweep.
            self._wanted = index
            raise Conflict(self._shell.sweep_id, self._shell.state.version, -1, "the search is asked out of turn")
        return None

    def wanted(self) -> int | None:
        """Return the index that a turn has found to be wanted, once, and forget what others may have changed since."""
        if type(self._config) is not FrozenDict:
            self._config = None  # to wait was the answer to what was there then
        index, self._wanted = self._wanted, None
        return index

    def ask(self, index: int) -> FrozenDict | Wait | Exhausted:
        """Ask the search, and keep its answer."""
        if self._config is not None:
            self.discard()
        self._index = index
        self._config = answer = self._ask(index)
        return answer

    def unused(self, change: Change | None) -> bool:
        """Return whether there is a proposal that a commit, if there was one, did not use."""
        for run in () if change is None else change.runs:
            if run.index == self._index:
                return False
        return self._config is not None

    def discard(self) -> None:
        """Tell the search of a proposal that was not used."""
        config, self._config = self._config, None
        discard = getattr(self._shell.search, "discard", None)
        if discard is not None and type(config) is FrozenDict:
            try:
                discard(self._index, config)
            except Exception as error:
                log_ignored(self._shell.search, error)

    def _ask(self, index: int) -> FrozenDict | Wait | Exhausted:
        sweep_id, search = self._shell.sweep_id, self._shell.search
        if search is None:
            remedy = "pass it to Sweep.open(..., search=...)"
            raise SearchMissing(sweep_id, index, f"a new run needs the search, which is not stored as data; {remedy}")
        try:
            answer: Mapping[str, Any] | Wait | Exhausted = search.propose(index, self._history)
        except (StorageError, NotFound):
            raise  # of the history that the search has read
        except Exception as error:
            raise SearchError(sweep_id, index, f"it raised {describe_error(error)}") from error
        if type(answer) is FrozenDict or isinstance(answer, (Wait, Exhausted)):
            return answer
        try:
            return freeze_mapping(answer, "config")
        except Exception as error:
            raise SearchError(sweep_id, index, f"it proposed what cannot be used: {describe_error(error)}") from error


class Locks(Generic[LockT]):
    """One lock for each sweep of a storage, as long as a handle of it lives.

    Args:
        make: makes a lock.
    """

    def __init__(self, make: Callable[[], LockT]) -> None:
        self._make = make
        self._guard = Lock()
        # Any is a storage and then a lock: whether they are hashed and referred to weakly, only trying tells.
        self._locks: WeakKeyDictionary[Any, WeakValueDictionary[str, Any]] = WeakKeyDictionary()

    def renew(self) -> None:
        """Forget every lock, in a forked child: a thread that does not exist there may hold it for ever."""
        self._guard = Lock()
        self._locks = WeakKeyDictionary()

    def of(self, storage: object, sweep_id: str) -> LockT:
        """Return the lock that the handles of one sweep share."""
        with self._guard:
            try:
                locks = self._locks.setdefault(storage, WeakValueDictionary())
            except TypeError:  # a storage that cannot be a key: its handles only share what they are copies of
                return self._make()
            lock: LockT | None = locks.get(sweep_id)
            if lock is None:
                lock = locks[sweep_id] = self._make()
            return lock


def check_time(now: object) -> float:
    """Return a clock's answer as POSIX seconds.

    Raises:
        InvalidValue: it is no time.
    """
    seconds = check_number(now, "clock")
    if not 0.0 <= seconds <= LAST_TIME:
        raise InvalidValue("clock", f"must return POSIX seconds, not {show(seconds)}")
    return seconds


def check_said(reason: str | None, actor: str | None) -> None:
    """Refuse a reason or an actor that could not be stored."""
    if reason is not None:
        check_text(reason, "reason")
    if actor is not None:
        check_text(actor, "actor", most=1_000)


def log_ignored(source: object, error: BaseException) -> None:
    """Log an error of a hook that must not reach the caller, whose own work is done."""
    import logging  # noqa: PLC0415 - only when something went wrong: it is slow to import

    logging.getLogger("sweepstate").error("ignored an exception in %s", show(source), exc_info=error)
