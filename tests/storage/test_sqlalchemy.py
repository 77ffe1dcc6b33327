"""The contract of storages, on each server and at each isolation level."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any, ClassVar, cast

import pytest

pytest.importorskip("sqlalchemy")

from psycopg import AsyncConnection
from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from sweepstate import ThreadedStorage
from sweepstate.core.questions import RunQuery
from sweepstate.hooks import Storage
from sweepstate.storage.sqlalchemy import AsyncSQLAlchemyStorage, SQLAlchemyStorage
from sweepstate.testing.contract.blocking import Loop, blocking
from sweepstate.testing.contract.cancelling import Cancelling
from sweepstate.testing.storage_contract import AsyncStorageContract, Opening, StorageContract
from tests.support.databases import (
    bad_steps,
    empty,
    failing_write,
    new_prefix,
    plan,
    tables_of_its_own,
    url_of,
)


class Contract(StorageContract):
    """The contract, on tables that are emptied after each test."""

    shared: ClassVar[bool] = True
    durable: ClassVar[bool] = True
    examples: ClassVar[int] = 8
    steps: ClassVar[int] = 25

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQLAlchemyStorage]:
        raise NotImplementedError

    @pytest.fixture
    def storage(self, place: SQLAlchemyStorage) -> Iterator[SQLAlchemyStorage]:
        opened: list[SQLAlchemyStorage] = []
        self.opened = opened
        yield place
        for each in opened:
            each.close()
        empty(place)

    def reopen(self, storage: Any) -> SQLAlchemyStorage:
        again = storage.__reduce__()
        made: SQLAlchemyStorage = again[0](*again[1])
        self.opened.append(made)
        return made

    def sabotage(self, storage: Any, n: int) -> AbstractContextManager[object]:
        return failing_write(storage.database.engine, n)

    def scanned(self, storage: Any, sweep_id: str, query: RunQuery) -> str | None:
        steps = plan(storage, sweep_id, query, force=True)
        return "\n".join(steps) if bad_steps(storage, query, steps) else None


class TestPostgreSQLReadCommitted(Contract):
    """At the server's default level."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Iterator[SQLAlchemyStorage]:
        with SQLAlchemyStorage(url_of("postgresql"), prefix=new_prefix()) as storage, tables_of_its_own(storage):
            yield storage


class TestPostgreSQLRepeatableRead(Contract):
    """Where whoever comes second is told by SQLSTATE 40001."""

    level: ClassVar[str] = "repeatable\\ read"

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Iterator[SQLAlchemyStorage]:
        url = f"{url_of('postgresql')}?options=-c default_transaction_isolation={cls.level}"
        with SQLAlchemyStorage(url, prefix=new_prefix()) as storage, tables_of_its_own(storage):
            yield storage


class TestPostgreSQLSerializable(TestPostgreSQLRepeatableRead):
    """Where that may come as late as with COMMIT."""

    level: ClassVar[str] = "serializable"


class TestMariaDBReadCommitted(Contract):
    """At the level that a storage made from a URL chooses."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Iterator[SQLAlchemyStorage]:
        with SQLAlchemyStorage(url_of("mariadb"), prefix=new_prefix()) as storage, tables_of_its_own(storage):
            yield storage


class TestMariaDBRepeatableRead(Contract):
    """At the server's default level, with an engine of the user's."""

    shared: ClassVar[bool] = False

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Iterator[SQLAlchemyStorage]:
        engine = create_engine(url_of("mariadb"), isolation_level="REPEATABLE READ")
        with SQLAlchemyStorage(engine, prefix=new_prefix()) as storage, tables_of_its_own(storage):
            yield storage
        engine.dispose()

    def reopen(self, storage: Any) -> SQLAlchemyStorage:
        return SQLAlchemyStorage(storage.database.engine, prefix=storage.metadata.sorted_tables[0].name[:14])


class TestSQLite(Contract):
    """As a check; ``SQLiteStorage`` is made for it."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQLAlchemyStorage]:
        file = tmp_path_factory.mktemp("sqlite") / "sweeps.db"
        with SQLAlchemyStorage(f"sqlite:///{file}") as storage, tables_of_its_own(storage):
            yield storage


#: A connection that is cancelled while it is made or given back is left to the garbage collector by SQLAlchemy.
left_to_the_collector = pytest.mark.filterwarnings(
    "ignore:.*was deleted while still open",
    "ignore:.*The garbage collector is trying",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@left_to_the_collector
class TestAsyncPostgreSQL(AsyncStorageContract):
    """By psycopg's asynchronous driver, on tables that are emptied after each test."""

    shared: ClassVar[bool] = True
    durable: ClassVar[bool] = True
    examples: ClassVar[int] = 5
    steps: ClassVar[int] = 25

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Iterator[SQLAlchemyStorage]:
        with SQLAlchemyStorage(url_of("postgresql"), prefix=new_prefix()) as storage, tables_of_its_own(storage):
            yield storage

    @pytest.fixture
    def async_storage(self, place: SQLAlchemyStorage) -> Iterator[Opening]:
        yield lambda: AsyncSQLAlchemyStorage(url_of("postgresql"), prefix=place._made_of[1])
        empty(place)

    def sabotage(self, storage: Any, n: int) -> AbstractContextManager[object]:
        return failing_write(storage.viewed._storage.database.engine, n)


@left_to_the_collector
class TestCancellingBesideABusyLoop(Cancelling):
    """Where psycopg lets others run at every step, and is cancelled there too, which it does not always take well."""

    @pytest.fixture
    def storage(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
        monkeypatch.setattr("psycopg.waiting.MAX_BUSY_TIME", -1.0, raising=False)
        with SQLAlchemyStorage(url_of("postgresql"), prefix=new_prefix()) as place, tables_of_its_own(place):
            with Loop() as loop:
                storage = AsyncSQLAlchemyStorage(url_of("postgresql"), prefix=place._made_of[1])
                yield blocking(storage, loop)
                pool = cast(QueuePool, storage._storage.database.engine.pool)
                assert pool.checkedout() == 0, "a connection was not given back"
                loop.run(storage.close())
            del storage
            gc.collect()


class TestCancellingADriverThatGoesOn(TestCancellingBesideABusyLoop):
    """Where a cancellation is lost in the driver, as in ``asyncio.wait_for`` up to Python 3.11 (cpython#86296)."""

    @pytest.fixture(autouse=True)
    def _deaf(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wait = AsyncConnection.wait

        async def wait_on(connection: AsyncConnection, *arguments: Any, **named: Any) -> object:
            waiting = asyncio.ensure_future(wait(connection, *arguments, **named))
            while not waiting.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([waiting])
            return waiting.result()

        monkeypatch.setattr(AsyncConnection, "wait", wait_on)


class TestThreadedMariaDB(AsyncStorageContract):
    """What has no asynchronous storage of its own is called in threads."""

    shared: ClassVar[bool] = True
    durable: ClassVar[bool] = True
    examples: ClassVar[int] = 5
    steps: ClassVar[int] = 25

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Iterator[SQLAlchemyStorage]:
        with SQLAlchemyStorage(url_of("mariadb"), prefix=new_prefix()) as storage, tables_of_its_own(storage):
            yield storage

    @pytest.fixture
    def async_storage(self, place: SQLAlchemyStorage) -> Iterator[Opening]:
        yield lambda: ThreadedStorage(place)
        empty(place)
