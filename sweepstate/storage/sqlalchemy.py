"""Storages on a database server: PostgreSQL, MariaDB or MySQL, through SQLAlchemy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

try:
    from sqlalchemy import Engine, MetaData
    from sqlalchemy.engine import URL
    from sqlalchemy.util import greenlet_spawn
except ImportError as _error:  # pragma: no cover - a test has it in a process of its own
    raise ImportError("this storage needs SQLAlchemy: pip install 'sweepstate[sqlalchemy]'") from _error

from ..core.decide import Change
from ..core.errors import InvalidValue, StorageError
from ..core.events import Event
from ..core.questions import RunQuery
from ..core.state import RunState, SweepState
from ..hooks import AsyncStorage
from ._sql_database import Database, engine_for, parse
from ._sql_storage import Desk, SQLStorage, Turn
from ._sql_tables import tables

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["AsyncSQLAlchemyStorage", "SQLAlchemyStorage", "tables"]

_T = TypeVar("_T")


class SQLAlchemyStorage(SQLStorage):
    """Keeps sweeps on PostgreSQL, MariaDB or MySQL, for many processes on many machines.

    Commits are correct at every isolation level from READ COMMITTED on. It may be used by several
    threads, and after a fork. A connection that turns out to be lost before COMMIT was sent is replaced,
    once; whatever else a database refuses is a ``StorageError`` that says what to do. No error and no
    ``repr`` shows a password.

    It pickles if it was made from a URL; the password is then in the pickle.

    Attributes:
        metadata: its tables, as SQLAlchemy describes them; see ``tables``.

    Args:
        database: a URL (``postgresql+psycopg://user:password@host/name``, ``mysql+pymysql://...``), or
            an engine, which is used as it is, with its pool and its isolation level, and not disposed of.
            ``sqlite:///sweeps.db`` works too, but ``SQLiteStorage`` is made for it, and faster.
        prefix: what the names of the tables begin with.
        schema: the schema they are in; None is the connection's default.
        server_clock: whether the time of its sweeps is the server's, whatever the clocks of your machines
            say. Each look at it asks the server.

    Raises:
        InvalidValue: the URL cannot be read, or names what is not known here.
        StorageError: the driver is not installed.

    Example:
        >>> import os, tempfile
        >>> file = os.path.join(tempfile.mkdtemp(), "sweeps.db")
        >>> with SQLAlchemyStorage(f"sqlite:///{file}") as storage:
        ...     storage.create_tables()
        ...     storage.sweeps(limit=10)
        []
    """

    def __init__(
        self,
        database: str | URL | Engine,
        *,
        prefix: str = "sweepstate_",
        schema: str | None = None,
        server_clock: bool = False,
    ) -> None:
        opened, url = _open(database, asynchronous=False)
        super().__init__(opened, prefix, schema, server_clock=server_clock)
        self._made_of = (url, prefix, schema, server_clock)

    def __repr__(self) -> str:
        return f"<SQLAlchemyStorage on {self.database.place}>"

    def __reduce__(self) -> tuple[object, ...]:
        return (_remake, (type(self), *_portable(*self._made_of)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless the engine is yours. Afterwards the storage cannot be used."""
        self.database.close()


def _open(database: object, *, asynchronous: bool) -> tuple[Database, URL | None]:
    """Return a database, and the URL if it was made from one."""
    if isinstance(database, Engine):
        if database.dialect.is_async is not asynchronous:
            raise InvalidValue("database", *_WRONG_ENGINE[asynchronous])
        return Database(database, owned=False), None
    if not isinstance(database, (str, URL)):
        raise InvalidValue("database", f"must be a URL or an engine, not {type(database).__name__}")
    url = parse(database)
    if asynchronous and url.drivername != "postgresql+psycopg":  # before its driver is looked for
        raise InvalidValue("database", f"{url.drivername} is no driver that is known to be cancelled safely", _TWIN)
    return Database(engine_for(url, asynchronous=asynchronous), owned=True), url


_TWIN = "use postgresql+psycopg, or ThreadedStorage(SQLAlchemyStorage(...)), or ThreadedStorage(SQLiteStorage(...))"
_WRONG_ENGINE = {
    False: ("is an engine of an asynchronous driver", "give it to AsyncSQLAlchemyStorage, or make another one"),
    True: ("is no engine of an asynchronous driver", "make it with create_async_engine"),
}


def _portable(url: URL | None, *rest: object) -> tuple[object, ...]:
    """Return what makes a storage anew in another process.

    Raises:
        StorageError: it was made of an engine.
    """
    if url is None:
        raise StorageError("a storage that was made of an engine cannot be pickled: make it from a URL")
    return (url.render_as_string(hide_password=False), *rest)


def _remake(
    kind: Callable[..., _T],
    url: str,
    prefix: str,
    schema: str | None,
    server_clock: bool,  # noqa: FBT001
) -> _T:
    return kind(url, prefix=prefix, schema=schema, server_clock=server_clock)


# --- for an event loop ----------------------------------------------------------------------------


async def _awaited(function: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
    """Call a function, whose driver waits in the event loop.

    A task that is cancelled meanwhile gets ``CancelledError``, whatever its driver makes of it: another error
    (psycopg#1005), or none, as ``asyncio.wait_for`` does up to Python 3.11 (cpython#86296).
    """
    before = _cancellations()
    try:
        result = await greenlet_spawn(function, *arguments, **named)
    except Exception as error:
        if _cancellations() > before:
            raise asyncio.CancelledError from error
        raise
    if _cancellations() > before:
        raise asyncio.CancelledError
    return result


def _cancellations() -> int:
    """Return how often the current task was asked to be cancelled."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class _AsyncDesk:
    """The questions of a desk, awaited.

    What SQLAlchemy's asyncio does in each of its methods is done once around a whole operation here: it
    runs in a greenlet, which is left while the driver waits. So there is one text of each operation.
    """

    _desk: Desk

    async def sweep(self, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot; see ``Storage.sweep``."""
        return await _awaited(self._desk.sweep, sweep_id)

    async def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return runs that a query means; see ``Storage.runs``."""
        return await _awaited(self._desk.runs, sweep_id, query, after=after, limit=limit)

    async def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        """Return events in order, ending at a commit boundary; see ``Storage.events``."""
        return await _awaited(self._desk.events, sweep_id, after=after, limit=limit)

    async def beat(
        self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None
    ) -> None:
        """Keep a sign of life; see ``Heartbeats.beat``."""
        await _awaited(self._desk.beat, sweep_id, index, attempt, at, metrics)

    async def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        """Return when each attempt was last heard; see ``Heartbeats.last_heard``."""
        return await _awaited(self._desk.last_heard, sweep_id, leases)

    async def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        """Return what a run last reported on the way; see ``Heartbeats.last_metrics``."""
        return await _awaited(self._desk.last_metrics, sweep_id, index)


class AsyncSQLAlchemyStorage(_AsyncDesk):
    """``SQLAlchemyStorage`` for an event loop, by psycopg's asynchronous driver; the tables are the same.

    A call that is cancelled is whole or did nothing. Its connections belong to the event loop that it is
    first used in: make one for each loop.

    For any other database, ``ThreadedStorage(SQLAlchemyStorage(...))`` does the same in threads.

    Args:
        database: a URL (``postgresql+psycopg://user:password@host/name``), or the ``AsyncEngine`` of yours
            with that driver, which is used as it is and not disposed of.
        prefix: what the names of the tables begin with.
        schema: the schema they are in; None is the connection's default.
        server_clock: whether the time of its sweeps is the server's; see ``SQLAlchemyStorage``.

    Raises:
        InvalidValue: the URL cannot be read, or names what is not known here, or another driver than psycopg.
        StorageError: the driver is not installed.
    """

    def __init__(
        self,
        database: str | URL | AsyncEngine,
        *,
        prefix: str = "sweepstate_",
        schema: str | None = None,
        server_clock: bool = False,
    ) -> None:
        opened, url = _open(getattr(database, "sync_engine", database), asynchronous=True)
        driver = opened.engine.dialect.driver
        if driver != "psycopg":
            # How a driver takes a cancellation decides whether a call is whole; of the others that is not known.
            raise InvalidValue("database", f"{driver} is no driver that is known to be cancelled safely", _TWIN)
        self._desk = self._storage = SQLStorage(opened, prefix, schema, server_clock=server_clock)
        self._made_of = (url, prefix, schema, server_clock)
        if server_clock:
            self.now: Callable[[], Coroutine[Any, Any, float]] = self._now

    def __repr__(self) -> str:
        return f"<AsyncSQLAlchemyStorage on {self._storage.database.place}>"

    def __reduce__(self) -> tuple[object, ...]:
        return (_remake, (type(self), *_portable(*self._made_of)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_raised: object) -> None:
        await self.close()

    @property
    def metadata(self) -> MetaData:
        """The tables; see ``tables``."""
        return self._storage.metadata

    async def commit(self, change: Change) -> None:
        """Write a change, all or nothing; see ``Storage.commit``."""
        await _awaited(self._storage.commit, change)

    @asynccontextmanager
    async def turn(self, sweep_id: str) -> AsyncGenerator[AsyncStorage]:
        """Keep everybody else from committing to a sweep while the context is open; see ``Turns.turn``."""
        context = self._storage.turn(sweep_id)
        turns: list[Turn] = []
        try:
            await _awaited(lambda: turns.append(cast(Turn, context.__enter__())))
            yield _AsyncTurn(turns[0])
        finally:
            if turns:
                # Also if this task is cancelled again meanwhile: the lock must go, and the connection back to its pool.
                await asyncio.shield(_awaited(context.__exit__, None, None, None))

    async def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        """Return sweeps by id; see ``Catalog.sweeps``."""
        return await _awaited(self._storage.sweeps, after=after, limit=limit)

    async def delete(self, sweep_id: str) -> None:
        """Forget a sweep; see ``Catalog.delete``."""
        await _awaited(self._storage.delete, sweep_id)

    async def create_tables(self) -> None:
        """Create the tables and indexes that are missing; see ``SQLAlchemyStorage.create_tables``."""
        await _awaited(self._storage.create_tables)

    async def close(self) -> None:
        """Close the connections, unless the engine is yours. Afterwards the storage cannot be used."""
        await _awaited(self._storage.database.close)

    async def _now(self) -> float:
        """Return the server's time in POSIX seconds."""
        return await _awaited(self._storage.now)


class _AsyncTurn(_AsyncDesk):
    """A turn, awaited."""

    def __init__(self, turn: Turn) -> None:
        self._desk = self._turn = turn
        if self._turn.has_clock:
            self.now: Callable[[], Coroutine[Any, Any, float]] = self._now

    async def _now(self) -> float:
        """Return the server's time in POSIX seconds."""
        return await _awaited(self._turn.now)

    async def commit(self, change: Change) -> None:
        """Write a change and end the turn, whatever comes of it; see ``Storage.commit``."""
        await _awaited(self._turn.commit, change)
