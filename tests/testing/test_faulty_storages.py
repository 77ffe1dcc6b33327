"""The contract finds every fault, by the test that is meant to find it, and says what is wrong."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from sweepstate import MemoryStorage, Storage, SweepstateError
from sweepstate.core.questions import RunQuery
from sweepstate.testing import faulty_storages
from sweepstate.testing.contract.blocking import Loop, blocking
from sweepstate.testing.contract.plain import PlainStorage
from sweepstate.testing.faulty_storages import ASYNC_FAULTS, FAULTS, AwaitingStorage, Looking, TurningStorage
from sweepstate.testing.faulty_storages.queries import NoIndex
from sweepstate.testing.storage_contract import AsyncStorageContract, StorageContract

pytestmark = pytest.mark.breaks_storage


class InMemory(StorageContract):
    """The contract of storages without a place."""


class InAFile(StorageContract):
    """The contract of storages that processes share."""

    shared = True
    durable = True

    def reopen(self, storage: Storage) -> Storage:
        assert isinstance(storage, PlainStorage)
        return type(storage)(storage.path)

    def sabotage(self, storage: Storage, n: int) -> AbstractContextManager[object]:
        assert isinstance(storage, PlainStorage)
        return storage.failing_at(n)

    def scanned(self, storage: Storage, sweep_id: str, query: RunQuery) -> str | None:
        if not isinstance(storage, NoIndex):
            raise NotImplementedError
        return storage.plan(query)


class Awaited(AsyncStorageContract):
    """The contract of async storages."""


def names_of(contract: StorageContract) -> list[str]:
    """Return the names of its tests, in the order in which pytest runs them."""
    bases = reversed(type(contract).__mro__)
    return list(dict.fromkeys(name for base in bases for name in vars(base) if name.startswith("test_")))


def failure(fault: type[Any], test: str, place: Path) -> BaseException | None:
    """Run one test of the contract on a fresh storage; return why it fails, or None."""
    try:
        if issubclass(fault, AwaitingStorage):
            with Loop() as loop:
                getattr(Awaited(), test)(blocking(fault(), loop))
        elif issubclass(fault, PlainStorage):
            getattr(InAFile(), test)(fault(place / f"{test[:80]}.db"))
        else:
            getattr(InMemory(), test)(fault())
    except pytest.skip.Exception:
        return None
    except Exception as error:
        return error
    return None


def first_failure(fault: type[Any], place: Path) -> tuple[str, BaseException] | None:
    """Run the contract on a storage, as ``pytest -x`` does."""
    for test in names_of(Awaited() if issubclass(fault, AwaitingStorage) else InMemory()):
        error = failure(fault, test, place)
        if error is not None:
            return test, error
    return None


@pytest.fixture(scope="module")
def killed(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Which test found which fault first."""
    found: dict[str, str] = {}
    yield found
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    if capture is not None and request.config.get_verbosity() > 0:
        with capture.global_and_fixture_disabled():
            print("", *(f"{fault}: {test}" for fault, test in found.items()), sep="\n")  # noqa: T201 - for who asks with -v


@pytest.mark.parametrize("fault", [*FAULTS, *ASYNC_FAULTS], ids=lambda fault: fault.__name__)
def test_every_fault_is_found(fault: type[Any], tmp_path: Path, killed: dict[str, str]) -> None:
    """By the first test that meets it, and by the one that is meant to: as a broken promise, not as a broken test."""
    found = first_failure(fault, tmp_path)
    assert found is not None, f"{fault.__name__} passes the contract"
    apart = tmp_path / "apart"  # else a storage in a file would find what the first run left there
    apart.mkdir()
    meant = failure(fault, fault.caught_by, apart)
    assert meant is not None, f"{fault.__name__} was to be found by {fault.caught_by}, and was by {found[0]}"
    kinds = f"{type(found[1]).__name__}, {type(meant).__name__}"
    killed[fault.__name__] = f"{found[0]}, and {fault.caught_by} ({kinds})"
    for error in (found[1], meant):
        assert isinstance(error, (AssertionError, SweepstateError)), "".join(traceback.format_exception(error))


def test_every_fault_is_listed_and_explained() -> None:
    """With one sentence, and the test that is meant to find it."""
    faults = [*FAULTS, *ASYNC_FAULTS]
    names = [fault.__name__ for fault in faults]
    assert len(names) == len(set(names)) >= 24
    tests = names_of(Awaited())
    for fault in faults:
        text = vars(fault).get("__doc__")
        assert text, fault
        assert text.count("\n") == 0, fault
        assert vars(fault)["caught_by"] in tests, fault
    modules = [value for value in vars(faulty_storages).values() if inspect.ismodule(value)]
    public = {
        name
        for module in modules
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public - set(names) == {"AwaitingStorage", "Looking", "TurningStorage"}


@pytest.mark.parametrize("storage", [MemoryStorage, TurningStorage, Looking, PlainStorage, AwaitingStorage])
def test_what_the_faults_are_made_from_is_right(storage: type[Any], tmp_path: Path) -> None:
    found = first_failure(storage, tmp_path)
    assert found is None, "".join(traceback.format_exception(found[1]))
