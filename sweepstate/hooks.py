"""Every hook on one page: what a user may plug in, and what it has to keep.

A hook is a Protocol; nothing needs to be inherited. ``sweepstate.testing``
has what proves an implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import attrs

from .core.decide import Change
from .core.events import Event, OrderKind
from .core.questions import Exhausted, RunQuery, Wait
from .core.state import RunState, SweepState
from .core.status import RunStatus
from .core.values import FrozenDict

if TYPE_CHECKING:
    from .aio.run import AsyncRun
    from .handles.run import RunHandle
    from .run import Run

#: Told after the commit, at most once, in the process that committed.
Listener: TypeAlias = Callable[[Event], None]
#: Told that a listener raised: the listener, the event, and what was raised.
ListenerErrorHandler: TypeAlias = Callable[[Listener, Event, Exception], None]
#: Returns POSIX seconds.
Clock: TypeAlias = Callable[[], float]


class Storage(Protocol):
    """Keeps sweeps, runs and events. It knows versions and indexes, and no rule of the lifecycle.

    What is read is at least as fresh as any version read before, and reads are values: changing what
    was returned changes nothing stored. No method returns everything; every limit is mandatory.
    """

    def sweep(self, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot.

        Raises:
            SweepNotFound: there is none of this id, or it was deleted.
        """
        ...

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return at most ``limit`` runs that a query means, each kind of query answered by an index.

        They come in index order, from the first index above ``after``; for ``Due`` and ``Silent`` by
        time and then index, from the first.

        Raises:
            SweepNotFound: there is no such sweep.
        """
        ...

    def commit(self, change: Change) -> None:
        """Write a change, all or nothing. Version 0 creates the sweep.

        Raises:
            Conflict: the sweep is not at ``change.version``, or something newer was heard of one of
                ``change.silences``. Nothing was written.
            AlreadyExists: a sweep of that id is there, or was.
            SweepNotFound: it was deleted.
            StorageError: it failed, and nothing was written; the text says where, what and what to do.
            OutcomeUnknown: nobody can say whether it was written.
        """
        ...

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        """Return the events numbered above ``after``, in order, ending at a commit boundary.

        At least one whole commit, if there is one, and beyond that no more than ``limit`` events.

        Raises:
            SweepNotFound: there is no such sweep.
        """
        ...


@runtime_checkable
class Heartbeats(Protocol):
    """What a storage adds so that lost runs are found. Signs of life are no commits."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        """Keep a sign of life: the time only rises, and metrics replace those that are there as they arrive.

        One of an older attempt changes nothing.

        Args:
            sweep_id: the sweep.
            index: the run.
            attempt: the attempt that is alive.
            at: POSIX seconds.
            metrics: what it reported on the way, kept for watching; None leaves what was there.
        """
        ...

    def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        """Return when each attempt, given as index and attempt, was last heard, in the same order."""
        ...

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        """Return the metrics that a run's newest attempt last reported on the way, or None."""
        ...


@runtime_checkable
class Catalog(Protocol):
    """What a storage adds for people who list and tidy up."""

    def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        """Return at most ``limit`` sweeps, by id, from the first id above ``after``."""
        ...

    def delete(self, sweep_id: str) -> None:
        """Forget a sweep with all it has; its id stays taken.

        Raises:
            SweepNotFound: there is no such sweep.
        """
        ...


@runtime_checkable
class Timekeeper(Protocol):
    """What a storage adds if it has a clock of its own, which then is the sweep's."""

    def now(self) -> float:
        """Return POSIX seconds."""
        ...


@runtime_checkable
class Turns(Protocol):
    """What a storage adds so that processes contending for a sweep take turns, instead of outrunning each other.

    No promise rests on it: a commit is checked against its version all the same.
    """

    def turn(self, sweep_id: str) -> AbstractContextManager[Storage]:
        """Keep everybody else from committing to a sweep while the context is open.

        Its value is a storage to read from and to commit to once, with heartbeats if this storage has them; and
        with a clock, if the storage's is asked in a turn without waiting for others.
        Leaving it without a commit writes nothing. No stranger's code is called meanwhile.
        """
        ...


class AsyncStorage(Protocol):
    """``Storage`` for an event loop: the same promises, awaited. A cancelled call is whole or did nothing."""

    async def sweep(self, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot; see ``Storage.sweep``."""
        ...

    async def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return at most ``limit`` runs that a query means; see ``Storage.runs``."""
        ...

    async def commit(self, change: Change) -> None:
        """Write a change, all or nothing; see ``Storage.commit``."""
        ...

    async def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        """Return the events numbered above ``after``; see ``Storage.events``."""
        ...


@runtime_checkable
class AsyncHeartbeats(Protocol):
    """``Heartbeats`` for an event loop."""

    async def beat(
        self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None
    ) -> None:
        """Keep a sign of life; see ``Heartbeats.beat``."""
        ...

    async def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        """Return when each attempt was last heard; see ``Heartbeats.last_heard``."""
        ...

    async def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        """Return what a run last reported on the way; see ``Heartbeats.last_metrics``."""
        ...


@runtime_checkable
class AsyncCatalog(Protocol):
    """``Catalog`` for an event loop."""

    async def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        """Return at most ``limit`` sweeps, by id; see ``Catalog.sweeps``."""
        ...

    async def delete(self, sweep_id: str) -> None:
        """Forget a sweep; see ``Catalog.delete``."""
        ...


@runtime_checkable
class AsyncTimekeeper(Protocol):
    """``Timekeeper`` for an event loop."""

    async def now(self) -> float:
        """Return POSIX seconds."""
        ...


@runtime_checkable
class AsyncTurns(Protocol):
    """``Turns`` for an event loop."""

    def turn(self, sweep_id: str) -> AbstractAsyncContextManager[AsyncStorage]:
        """Keep everybody else from committing to a sweep while the context is open; see ``Turns.turn``."""
        ...


@attrs.frozen
class Ended:
    """A run that got its verdict, as a search sees it.

    Attributes:
        cursor: pass it as ``after`` to go on behind it.
        index: the run.
        config: its configuration.
        status: the verdict that it got then.
        metrics: what it reported with its end.
    """

    cursor: int
    index: int
    config: FrozenDict
    status: RunStatus
    metrics: FrozenDict


class History(Protocol):
    """What an adaptive search may read."""

    def ended(self, *, after: int = 0, limit: int) -> Sequence[Ended]:
        """Return at most ``limit`` verdicts in the order in which they were given, behind a cursor."""
        ...


class Search(Protocol):
    """Proposes configurations.

    A search that is plain data (``name`` and ``settings()``) is stored with its sweep, so that any
    process can hand out runs; see ``sweepstate.search``. A ``discard(index, config)`` method, if there
    is one, is told of proposals that were not used. An attribute ``by_index = True`` says that what it
    proposes depends on the index alone and is there at once, as with ``Grid`` and ``Random``: then it
    is asked while others wait for their turn, and on an event loop without a thread.
    """

    @property
    def size(self) -> int | None:
        """How many points there are, where that is known."""
        ...

    def propose(self, index: int, history: History, /) -> Mapping[str, Any] | Wait | Exhausted:
        """Return the configuration of run ``index``, or that there is none now, or none any more.

        Args:
            index: 0, 1, 2, ...; asked again for an index, it may answer the same or another configuration.
            history: verdicts so far.
        """
        ...


@attrs.frozen
class AnyOrder:
    """An ``Order``, or an ``AsyncOrder``.

    Attributes:
        run: a handle of the run at the order's attempt.
        kind: what it is.
    """

    kind: ClassVar[OrderKind]
    run: RunHandle[Any, Any, Any]

    @property
    def index(self) -> int:
        """The run."""
        return self.run.index

    @property
    def attempt(self) -> int:
        """The attempt."""
        return self.run.attempt


@attrs.frozen
class Order(AnyOrder):
    """What an agent is to do.

    Attributes:
        run: a handle of the run at the order's attempt; report through it.
        kind: what it is.
    """

    run: Run


@attrs.frozen
class Start(Order):
    """Begin executing; do nothing if it has begun already."""

    kind: ClassVar[OrderKind] = OrderKind.START


@attrs.frozen
class Stop(Order):
    """Ask the execution to end; its own handlers may run."""

    kind: ClassVar[OrderKind] = OrderKind.STOP


@attrs.frozen
class Kill(Order):
    """End the execution abruptly, with no chance for its handlers, then say ``gone``."""

    kind: ClassVar[OrderKind] = OrderKind.KILL

    def gone(self) -> tuple[Event, ...]:
        """Report that nothing of this attempt is executing; return what that caused."""
        return self.run.gone()


@attrs.frozen
class AsyncOrder(AnyOrder):
    """What an async agent is to do; see ``Order``."""

    run: AsyncRun


@attrs.frozen
class AsyncStart(AsyncOrder):
    """Begin executing; see ``Start``."""

    kind: ClassVar[OrderKind] = OrderKind.START


@attrs.frozen
class AsyncStop(AsyncOrder):
    """Ask the execution to end; see ``Stop``."""

    kind: ClassVar[OrderKind] = OrderKind.STOP


@attrs.frozen
class AsyncKill(AsyncOrder):
    """End the execution abruptly, then say ``gone``; see ``Kill``."""

    kind: ClassVar[OrderKind] = OrderKind.KILL

    async def gone(self) -> tuple[Event, ...]:
        """Report that nothing of this attempt is executing; return what that caused."""
        return await self.run.gone()


#: The order of each kind.
ORDERS: dict[OrderKind, type[Order]] = {OrderKind.START: Start, OrderKind.STOP: Stop, OrderKind.KILL: Kill}
ASYNC_ORDERS: dict[OrderKind, type[AsyncOrder]] = {
    OrderKind.START: AsyncStart,
    OrderKind.STOP: AsyncStop,
    OrderKind.KILL: AsyncKill,
}


class Agent(Protocol):
    """Executes runs that it is ordered to. Every hook may be called again for the same order, harmlessly.

    An attribute ``accepting``, if there is one, says whether it wants more runs: while it is False, none is
    handed to it.
    """

    @property
    def name(self) -> str:
        """Stable over restarts: orders are addressed to it."""
        ...

    @property
    def can_kill(self) -> bool:
        """Whether ``kill`` really ends an execution; if not, runs learn it from their heartbeats."""
        ...

    def start(self, order: Start, /) -> None:
        """Begin executing; report the start, heartbeats and the end through ``order.run``."""
        ...

    def stop(self, order: Stop, /) -> None:
        """Ask the execution to end."""
        ...

    def kill(self, order: Kill, /) -> None:
        """End the execution abruptly, then say ``order.gone()``."""
        ...


class AsyncAgent(Protocol):
    """``Agent`` for an event loop: the same promises, awaited. What executes may be a task of the loop.

    A hook that is cancelled leaves its order outstanding, and is called again by a later tick.
    ``accepting`` is as for ``Agent``.
    """

    @property
    def name(self) -> str:
        """Stable over restarts: orders are addressed to it."""
        ...

    @property
    def can_kill(self) -> bool:
        """Whether ``kill`` really ends an execution; if not, runs learn it from their heartbeats."""
        ...

    async def start(self, order: AsyncStart, /) -> None:
        """Begin executing; see ``Agent.start``."""
        ...

    async def stop(self, order: AsyncStop, /) -> None:
        """Ask the execution to end."""
        ...

    async def kill(self, order: AsyncKill, /) -> None:
        """End the execution abruptly, then say ``await order.gone()``."""
        ...
