"""The contract of storages, kept by ``SQLiteStorage``, blocking and on an event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sweepstate import SQLiteStorage, ThreadedStorage
from sweepstate.core.questions import RunQuery
from sweepstate.hooks import AsyncCatalog, AsyncHeartbeats, AsyncTurns, Catalog, Heartbeats, Storage, Timekeeper, Turns
from sweepstate.testing.storage_contract import AsyncStorageContract, StorageContract
from tests.support.sqlite import failing_write, scan


class TestSQLite(StorageContract):
    """With every commit on the disk when it returns, which is what one gets without asking."""

    shared: ClassVar[bool] = True
    durable: ClassVar[bool] = True

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[SQLiteStorage]:
        self.opened: list[SQLiteStorage] = []
        with SQLiteStorage(tmp_path / "sweeps.db") as storage:
            yield storage
        for each in self.opened:
            each.close()

    def reopen(self, storage: Any) -> SQLiteStorage:
        again = SQLiteStorage(storage.path, create=False)
        self.opened.append(again)
        return again

    def sabotage(self, storage: Any, n: int) -> AbstractContextManager[object]:
        return failing_write(storage, n)

    def scanned(self, storage: Any, sweep_id: str, query: RunQuery) -> str | None:
        return scan(storage, sweep_id, query)


class TestAsyncSQLite(AsyncStorageContract):
    """In threads, for an event loop."""

    shared: ClassVar[bool] = True
    durable: ClassVar[bool] = True
    examples: ClassVar[int] = 10

    @pytest.fixture
    def async_storage(self, tmp_path: Path) -> Iterator[Callable[[], ThreadedStorage]]:
        opened: list[SQLiteStorage] = []

        def open_() -> ThreadedStorage:
            opened.append(SQLiteStorage(tmp_path / "sweeps.db"))
            return ThreadedStorage(opened[-1])

        yield open_
        for each in opened:
            each.close()

    def sabotage(self, storage: Any, n: int) -> AbstractContextManager[object]:
        return failing_write(storage.viewed._storage, n)

    def scanned(self, storage: Any, sweep_id: str, query: RunQuery) -> str | None:
        return scan(storage.viewed._storage, sweep_id, query)


def test_it_keeps_the_protocols(tmp_path: Path) -> None:
    """Its clock is its user's."""
    with SQLiteStorage(tmp_path / "sweeps.db") as storage:
        assert all(isinstance(storage, protocol) for protocol in (Heartbeats, Catalog, Turns))
        assert not isinstance(storage, Timekeeper)
        twin = ThreadedStorage(storage)
        assert all(isinstance(twin, protocol) for protocol in (AsyncHeartbeats, AsyncCatalog, AsyncTurns))


def test_it_is_a_storage_to_type_checkers(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "sweeps.db") as storage:
        given: Storage = storage
        assert given is storage
