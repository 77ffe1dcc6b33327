"""An engine, and how the SQLAlchemy storages use it: transactions, what is tried again, forks, closing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, Final, TypeVar
from weakref import WeakSet

from sqlalchemy import Connection, MetaData, create_engine, text
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, InvalidRequestError, SQLAlchemyError
from sqlalchemy.util import await_only, greenlet_spawn

from ..core.errors import GaveWay, InvalidValue, StorageError, SweepstateError
from ._sql_errors import Explainer, Kind
from ._sql_statements import DIALECTS
from ._sql_tables import MYSQL

_T = TypeVar("_T")

#: So often a transaction gives way before that is an error. Each time another one has got on.
_PATIENCE: Final = 1_000
#: What a bare name of a database means here, whatever SQLAlchemy's default driver of the day is.
_DRIVERS: Final = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
#: The isolation levels of transactions that write, where it is not the engine's. At a stricter one PostgreSQL's locks
#: do not show what was written since the transaction began: a heartbeat that came in between would not break a silence.
#: MySQL's do, at every level. SQLAlchemy has no word for BEGIN IMMEDIATE, so on SQLite transactions are begun by hand.
_WRITING: Final = {"postgresql": "READ COMMITTED", "sqlite": "AUTOCOMMIT"}
_INSTALL: Final = "pip install 'sweepstate[sqlalchemy]' has psycopg for PostgreSQL, 'sweepstate[mysql]' has pymysql"


class Outrun(Exception):
    """The sweep is not as it was when the change was decided: changed, or deleted. Nothing was written."""


class Database:
    """One engine.

    Attributes:
        engine: the engine.
        dialect: the name of SQLAlchemy's dialect: ``postgresql``, ``mysql``, ``mariadb`` or ``sqlite``.
        place: which database that is, for a person.
        renewed: called when nothing that was remembered of the database may be relied on any more.
    """

    def __init__(self, engine: Engine, *, owned: bool) -> None:
        self.engine: Final = engine
        self.dialect: Final = engine.dialect.name
        if self.dialect not in DIALECTS:
            raise InvalidValue(
                "engine", f"{self.dialect} is not known here", "use PostgreSQL, MariaDB, MySQL or SQLite"
            )
        self._explainer: Final = Explainer(engine)
        self._driver_errors: Final = (SQLAlchemyError, engine.dialect.loaded_dbapi.Error)
        self._foreseen: Final = (*self._driver_errors, SweepstateError, Outrun)
        self.place: Final = self._explainer.place
        self.renewed: Callable[[], None] = _nothing
        self._owned: Final = owned
        self._close: Final = _close_though_cancelled if engine.dialect.is_async else Connection.close
        self._closed = False
        self._lite: Final = self.dialect == "sqlite"
        # Where the driver switches it without asking the server, a statement that is alone needs no transaction:
        # one round trip instead of three. MySQL's drivers ask.
        self._alone: Final = None if self.dialect in MYSQL else "AUTOCOMMIT"
        self._writing: Final = _WRITING.get(self.dialect)
        _DATABASES.add(self)

    # --- connections ------------------------------------------------------------------------------

    def _connect(self, level: str | None) -> Connection:
        """Return a connection at an isolation level, or as the engine gives it."""
        if self._closed:
            raise StorageError(f"{self.place}: this storage is closed; make another one")
        try:
            return self._at(level, self.engine.connect())
        except self._driver_errors as error:
            self.renewed()
            raise self._explainer.refused(error) from None
        except (TypeError, ValueError, AttributeError, LookupError) as error:  # what drivers say to odd options
            problem = self._explainer.refused(error).problem
            raise InvalidValue("database", problem, "look at the options of the URL or of the engine") from None

    def _at(self, level: str | None, connection: Connection) -> Connection:
        # Not an option of the engine: cancelled on its way to the level, SQLAlchemy would not give the connection back.
        try:
            return connection if level is None else connection.execution_options(isolation_level=level)
        except BaseException as error:
            self.leave(connection, error)
            raise

    def begin(self) -> Connection:
        """Return a connection on which a transaction has begun, for writing; ``leave`` ends it."""
        connection = self._connect(self._writing)
        try:
            if self._lite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                self._check_transactions(connection)
        except BaseException as error:
            self.leave(connection, error)
            raise
        return connection

    def _check_transactions(self, connection: Connection) -> None:
        """Refuse a connection that commits each statement by itself: a commit of ours could be torn."""
        driver: Any = connection.connection.driver_connection
        ask = getattr(driver, "get_autocommit", None)  # MySQL's drivers; PostgreSQL's have an attribute
        if getattr(driver, "autocommit", False) if ask is None else ask():
            raise StorageError(
                f"{self.place}: this engine commits each statement by itself, so that a commit could be torn; "
                "make it without isolation_level='AUTOCOMMIT' and without autocommit among its connect_args"
            )

    def commit(self, connection: Connection) -> None:
        """Commit a transaction.

        Raises:
            OutcomeUnknown: the connection was lost after COMMIT was sent.
        """
        try:
            connection.commit()
        except BaseException as error:
            # SQLAlchemy sends no ROLLBACK after a COMMIT that failed, and some databases leave the transaction open.
            connection.invalidate()
            if not isinstance(error, self._driver_errors):
                raise
            if self._explainer.explain(error).kind is Kind.LOST:
                self.renewed()
                raise self._explainer.unknown(error) from None
            raise

    def leave(self, connection: Connection, error: BaseException | None = None) -> None:
        """Give a connection back, and end its transaction. If the connection is lost, both have ended already.

        Args:
            connection: the connection; again does no harm.
            error: what was raised meanwhile. After one that nobody foresaw the connection is thrown away: psycopg,
                cancelled on its way into a pipeline, raises AssertionError and answers nothing from then on.
        """
        if error is not None and not isinstance(error, self._foreseen) and not connection.closed:
            connection.invalidate()
        try:
            self._close(connection)
        except self._driver_errors:
            self.renewed()
            if not connection.closed:
                connection.invalidate()
                connection.close()

    @contextmanager
    def _using(self, connection: Connection) -> Generator[Connection]:
        """Leave a connection at the end."""
        try:
            yield connection
        except BaseException as error:
            self.leave(connection, error)
            raise
        self.leave(connection)

    # --- work -------------------------------------------------------------------------------------

    def alone(self, work: Callable[[Connection], _T]) -> _T:
        """Do what needs no transaction: reading, or one statement that may be repeated."""

        def attempt() -> _T:
            with self._using(self._connect(self._alone)) as connection:
                value = work(connection)
                connection.commit()
                return value

        return self.repeat(attempt)

    def transact(self, work: Callable[[Connection], _T]) -> _T:
        """Do something in one transaction and commit it.

        Raises:
            OutcomeUnknown: the connection was lost after COMMIT was sent.
            StorageError: it failed; nothing was written.
        """

        def attempt() -> _T:
            with self._using(self.begin()) as connection:
                value = work(connection)
                self.commit(connection)
                return value

        return self.repeat(attempt)

    def repeat(self, attempt: Callable[[], _T]) -> _T:
        """Try something that begins anew each time and, if it raises an error of the database, has done nothing.

        A transaction that the database made give way to another one is done again: whatever was decided
        beforehand is compared again too. A connection that was lost before COMMIT was sent costs one more
        try, on a new one; so nobody notices that the server was restarted between two calls.
        """
        lost = False
        for tries in count(1):
            try:
                return attempt()
            except self._driver_errors as error:
                problem = self._explainer.explain(error)
            if problem.kind is Kind.LOST:
                self.renewed()
            if problem.kind is Kind.LOST and not lost:
                lost = True
            elif problem.kind is not Kind.GIVE_WAY or tries > _PATIENCE:
                raise problem.error
        raise AssertionError  # pragma: no cover - count() does not end

    def guard(self, sweep_id: str, connection: Connection, work: Callable[[Connection], _T]) -> _T:
        """Do something once, in a transaction that is under way and has locked a sweep.

        Raises:
            GaveWay: the transaction has to give way to another one, or its connection was lost.
            StorageError: it failed.
        """
        try:
            return work(connection)
        except self._driver_errors as error:
            problem = self._explainer.explain(error)
        except BaseException as error:
            if not isinstance(error, self._foreseen):
                self.leave(connection, error)
            raise
        if problem.kind is Kind.LOST:
            self.renewed()
        if problem.kind is not Kind.OTHER:  # a new turn, on a new connection, will tell whether the server is there
            raise GaveWay(sweep_id, -1, -1, problem.error.problem)
        raise problem.error

    # --- tables -----------------------------------------------------------------------------------

    def create(self, metadata: MetaData) -> None:
        """Create what is missing of tables and indexes, one process at a time."""
        self.repeat(lambda: self._create(metadata))

    def _create(self, metadata: MetaData) -> None:
        with self._using(self.begin()) as connection, self._one_at_a_time(connection):
            metadata.create_all(connection)
            # MySQL commits each statement by itself: whoever died in between may have left tables without indexes.
            for table in metadata.sorted_tables:
                for index in table.indexes:
                    index.create(connection, checkfirst=True)
            connection.commit()

    @contextmanager
    def _one_at_a_time(self, connection: Connection) -> Generator[None]:
        """Keep other processes from creating tables; on SQLite, the transaction does."""
        if self.dialect == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK_NUMBER})"))
            yield
        elif self.dialect in MYSQL:
            connection.execute(text(f"SELECT GET_LOCK('{_LOCK_NAME}', 60)"))
            try:
                yield
            finally:
                connection.execute(text(f"SELECT RELEASE_LOCK('{_LOCK_NAME}')"))
        else:
            yield

    # --- life -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections, if the engine was made here."""
        self._closed = True
        if self._owned:
            self.engine.dispose()

    def forking(self) -> None:
        """Let no connection to a SQLite file be inherited by a child, unless somebody uses it just now."""
        if self._lite:
            self.engine.dispose()

    def forked(self) -> None:
        """Leave the parent's connections alone, in a forked child."""
        self.engine.dispose(close=False)
        self.renewed()


#: What two processes that create tables at the same time have in common; the number spells "sweepsta".
_LOCK_NAME: Final = "sweepstate.create_tables"
_LOCK_NUMBER: Final = 0x7377656570737461


def _nothing() -> None:
    """Do nothing."""


def _close_though_cancelled(connection: Connection) -> None:
    """Close a connection of an event loop; if its task is cancelled meanwhile, that goes on, as SQLAlchemy's own does.

    Cancelled in it, SQLAlchemy would never give the connection's place in the pool to anybody else (sqlalchemy#6652).
    """
    await_only(asyncio.shield(greenlet_spawn(connection.close)))


# --- engines --------------------------------------------------------------------------------------


def parse(url: str | URL) -> URL:
    """Return a URL with the driver that a bare ``postgresql://`` means here.

    Raises:
        InvalidValue: it is none, or it names what cannot be used. It is not shown: it may have a password.
    """
    if isinstance(url, str) and not url.startswith("sqlite") and url.count("@") > 1:
        raise InvalidValue("url", "has more than one @ (it is not shown, as it has a password)", _ESCAPE)
    made = None
    with suppress(ArgumentError, ValueError):  # not raised from there: what they say may be the password
        made = make_url(url)
    if made is None:
        raise InvalidValue("url", "cannot be read (it is not shown, as it may have a password)", _ESCAPE)
    made = made.set(drivername=_DRIVERS.get(made.drivername, made.drivername))
    if made.get_backend_name() not in DIALECTS:
        raise InvalidValue("url", f"{made.drivername} is not known here", "use postgresql, mariadb, mysql or sqlite")
    if made.get_backend_name() == "sqlite" and made.database in (None, "", ":memory:"):
        raise InvalidValue("url", "SQLite's memory is another one for each connection", "use MemoryStorage()")
    return made


_ESCAPE: Final = (
    "write postgresql+psycopg://user:password@host:5432/database, and in the password every sign that is no letter and "
    "no digit as %XX (urllib.parse.quote does), or give sqlalchemy.URL.create(...)"
)


def engine_for(url: URL, *, asynchronous: bool) -> Engine:
    """Return an engine of our own.

    Raises:
        StorageError: the driver is not installed.
        InvalidValue: there is no such driver.
    """
    backend = url.get_backend_name()
    options: dict[str, Any] = {}
    if backend == "postgresql" and "connect_timeout" not in url.query:
        options["connect_args"] = {"connect_timeout": 10}  # psycopg waits for more than two minutes
    elif backend == "sqlite":
        options["connect_args"] = {"timeout": 30}
    elif backend in MYSQL:
        # Its default, REPEATABLE READ, locks the gaps between rows too, so that strangers wait for each other.
        options["isolation_level"] = "READ COMMITTED"
    try:
        if not asynchronous:
            return create_engine(url, **options)
        from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - it needs greenlet, which not all have

        return create_async_engine(url, **options).sync_engine
    except ImportError as error:
        raise StorageError(f"the driver of {url.drivername} cannot be loaded ({error}); {_INSTALL}") from None
    except (ArgumentError, InvalidRequestError) as error:
        raise InvalidValue("url", f"{url.drivername} cannot be used: {error}", _INSTALL) from None


# --- forks ----------------------------------------------------------------------------------------

_DATABASES: Final[WeakSet[Database]] = WeakSet()


def _close_files() -> None:
    """Close what nobody uses of SQLite, before a fork; see ``_sqlite_forks``."""
    for database in list(_DATABASES):
        database.forking()


def _leave_to_parent() -> None:
    """Give each engine new connections in a forked child: two processes on one socket would read each other's rows."""
    for database in list(_DATABASES):
        database.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_files, after_in_child=_leave_to_parent)
