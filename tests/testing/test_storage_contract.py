"""The contract accepts the storages that are right."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import sweepstate.testing
from sweepstate import MemoryStorage, Storage
from sweepstate.hooks import AsyncStorage, Catalog, Heartbeats, Timekeeper, Turns
from sweepstate.storage.threaded import ThreadedStorage
from sweepstate.testing import AsyncStorageContract, ManualClock, StorageContract
from sweepstate.testing.contract.blocking import Loop, blocking
from sweepstate.testing.contract.plain import PlainStorage
from sweepstate.testing.contract.views import View
from sweepstate.testing.faulty_storages import AwaitingStorage, TurningStorage


class TestMemoryStorage(StorageContract):
    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage()


class TestMemoryStorageWithAClock(StorageContract):
    """Whose sweeps would go by its clock, and not by the contract's."""

    @pytest.fixture
    def storage(self) -> MemoryStorage:
        return MemoryStorage(clock=ManualClock(5.0))


class TestFourMethods(StorageContract):
    """A storage that can do nothing else: no heartbeats, no catalog, no turns."""

    @pytest.fixture
    def storage(self) -> View:
        return View(MemoryStorage())


class TestPlainStorage(StorageContract):
    """A file that processes share."""

    shared = True
    durable = True

    @pytest.fixture
    def storage(self, tmp_path: Path) -> PlainStorage:
        return PlainStorage(tmp_path / "sweeps.db")

    def reopen(self, storage: Storage) -> Storage:
        assert isinstance(storage, PlainStorage)
        return PlainStorage(storage.path)

    def sabotage(self, storage: Storage, n: int) -> AbstractContextManager[object]:
        assert isinstance(storage, PlainStorage)
        return storage.failing_at(n)


class TestThreadedMemory(AsyncStorageContract):
    """Whose threads take turns too."""

    @pytest.fixture
    def async_storage(self) -> Callable[[], AsyncStorage]:
        return lambda: ThreadedStorage(TurningStorage())


class TestThreadedFile(AsyncStorageContract):
    """An async storage that processes share."""

    shared = True
    durable = True

    @pytest.fixture
    def async_storage(self, tmp_path: Path) -> Callable[[], AsyncStorage]:
        return lambda: ThreadedStorage(PlainStorage(tmp_path / "sweeps.db"))


class TestAwaitingStorage(AsyncStorageContract):
    """One with four methods and turns, which waits on the event loop itself."""

    @pytest.fixture
    def async_storage(self) -> Callable[[], AsyncStorage]:
        return AwaitingStorage


@pytest.mark.parametrize("hook", [Heartbeats, Catalog, Turns, Timekeeper])
def test_a_blocking_storage_can_do_what_the_async_one_can(hook: type) -> None:
    """So that what is found by its methods is found truthfully."""
    clock = ManualClock(5.0)
    with Loop() as loop:
        for storage in (MemoryStorage(), MemoryStorage(clock=clock), TurningStorage(), View(MemoryStorage())):
            threaded = ThreadedStorage(storage)
            assert isinstance(blocking(threaded, loop), hook) is isinstance(storage, hook)


def test_nothing_of_it_is_loaded_before_it_is_asked_for() -> None:
    """Importing the package, or what else there is to test with, needs neither pytest nor hypothesis."""
    program = (
        "import sys, sweepstate; assert not any('testing' in name for name in sys.modules if 'sweepstate' in name);"
        "import sweepstate.testing; assert 'sweepstate.testing.storage_contract' not in sys.modules;"
        "from sweepstate.testing import *; assert StorageContract.__name__ == 'StorageContract';"
        "assert not {'pytest', 'hypothesis'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sweepstate.testing.nothing
