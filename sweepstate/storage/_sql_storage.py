"""A storage over a ``Database``, call by call. The public classes of ``sqlalchemy.py`` are this, or await it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from ..core.decide import Change
from ..core.errors import Conflict, GaveWay, StorageError
from ..core.events import Event
from ..core.questions import RunQuery
from ..core.state import RunState, SweepState
from ..hooks import Storage
from ._sql_database import Database, Outrun
from ._sql_operations import Known, Operations
from ._sql_statements import Statements
from ._sql_tables import Tables, describe

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

_T = TypeVar("_T")


class Desk:
    """What a storage and a turn are both asked, on connections that each gets in its own way."""

    _operations: Operations

    def _do(self, work: Callable[[Connection], _T]) -> _T:
        """Do what needs no transaction, or is part of the one that is under way."""
        raise NotImplementedError

    def sweep(self, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot; see ``Storage.sweep``."""
        return self._do(lambda connection: self._operations.sweep(connection, sweep_id))

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return runs that a query means; see ``Storage.runs``."""
        return self._do(lambda connection: self._operations.runs(connection, sweep_id, query, after, limit))

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        """Return events in order, ending at a commit boundary; see ``Storage.events``."""
        return self._do(lambda connection: self._operations.events(connection, sweep_id, after, limit))

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        """Keep a sign of life; see ``Heartbeats.beat``."""
        self._do(lambda connection: self._operations.beat(connection, sweep_id, index, attempt, at, metrics))

    def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        """Return when each attempt was last heard; see ``Heartbeats.last_heard``."""
        return self._do(lambda connection: self._operations.last_heard(connection, sweep_id, leases))

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        """Return what a run last reported on the way; see ``Heartbeats.last_metrics``."""
        return self._do(lambda connection: self._operations.last_metrics(connection, sweep_id, index))


class SQLStorage(Desk):
    """Every method of a storage, on tables of one prefix and schema."""

    def __init__(self, database: Database, prefix: str, schema: str | None, *, server_clock: bool) -> None:
        described: tuple[MetaData, Tables] = describe(prefix, schema)
        self.metadata: MetaData = described[0]
        self.database: Final = database
        self._operations = Operations(Statements(described[1], database.dialect))
        database.renewed = self._operations.forget
        self.has_clock: bool = server_clock
        if server_clock:
            self.now: Callable[[], float] = self._now

    def _do(self, work: Callable[[Connection], _T]) -> _T:
        return self.database.alone(work)

    def commit(self, change: Change) -> None:
        """Write a change, all or nothing; see ``Storage.commit``."""
        operations = self._operations
        try:
            written = self.database.transact(lambda connection: operations.write(connection, change))
        except Outrun:
            # Looked up when the transaction has ended: at some isolation levels, it sees what was before.
            raise Conflict(change.sweep_id, change.version, self.sweep(change.sweep_id).version) from None
        operations.remember(written)

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Storage]:
        """Keep everybody else from committing to a sweep while the context is open; see ``Turns.turn``.

        It is a transaction that has locked the sweep's row. It cannot be used any more after its commit.

        Raises:
            SweepNotFound: there is no such sweep.
            StorageError: others held the row for longer than the database lets one wait.
        """
        turn = self.database.repeat(lambda: self._take(sweep_id))
        try:
            yield turn
        finally:
            turn.leave()

    def _take(self, sweep_id: str) -> Turn:
        connection = self.database.begin()
        try:
            self._operations.lock(connection, sweep_id)
        except BaseException as error:
            self.database.leave(connection, error)
            raise
        return Turn(self, self._operations, connection, sweep_id)

    def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        """Return sweeps by id; see ``Catalog.sweeps``."""
        return self._do(lambda connection: self._operations.sweeps(connection, after, limit))

    def delete(self, sweep_id: str) -> None:
        """Forget a sweep; see ``Catalog.delete``."""
        self.database.transact(lambda connection: self._operations.delete(connection, sweep_id))

    def create_tables(self) -> None:
        """Create the tables and indexes that are missing; those that are there are left as they are.

        Many processes may do so at once. Whoever has migrations uses ``metadata`` instead.
        """
        self.database.create(self.metadata)

    def _now(self) -> float:
        """Return the server's time in POSIX seconds."""
        return self._do(self._operations.now)


class Turn(Desk):
    """One transaction that holds a sweep's row: to be read from, and committed to once.

    Heartbeats that are sent to it are part of it: they are kept if it is committed.
    """

    def __init__(self, storage: SQLStorage, operations: Operations, connection: Connection, sweep_id: str) -> None:
        self._storage = storage
        self._sweep_id = sweep_id
        self._operations = operations
        self._connection = connection
        self._over = False
        self.has_clock: bool = storage.has_clock
        if storage.has_clock:  # on its own connection: all others may be held by those who wait for this turn
            self.now: Callable[[], float] = partial(self._do, operations.now)

    def _do(self, work: Callable[[Connection], _T]) -> _T:
        if self._over:
            raise StorageError("this turn is over: it was left, or has been committed to; take another one")
        return self._storage.database.guard(self._sweep_id, self._connection, work)

    def commit(self, change: Change) -> None:
        """Write a change and end the transaction, whatever comes of it; see ``Storage.commit``."""
        try:
            written = self._do(lambda connection: self._write(connection, change))
        except (GaveWay, Outrun):
            # The turn is lost. First, because whatever follows takes another connection, which might wait for this one.
            self.leave()
            self._storage.commit(change)
            return
        finally:
            self.leave()
        self._operations.remember(written)

    def _write(self, connection: Connection, change: Change) -> Known:
        written = self._operations.write(connection, change)
        self._storage.database.commit(connection)
        return written

    def leave(self) -> None:
        """End the transaction; what was not committed is undone. Again does no harm."""
        self._over = True
        self._storage.database.leave(self._connection)
