"""The contract of a storage, as tests: subclass it, give it your storage, and run pytest.

A storage of your own is proved by one class with one fixture, which gives a
fresh and empty storage to each test::

    import pytest
    from sweepstate.testing import StorageContract

    class TestMyStorage(StorageContract):
        @pytest.fixture
        def storage(self, tmp_path):
            return MyStorage(tmp_path / "sweeps")

What runs is decided by what the storage can do. Heartbeats, a catalog and turns
are found by their methods (``hooks.Heartbeats``, ``Catalog``, ``Turns``). What
cannot be seen from outside is declared; until it is, its tests are skipped and
say what is missing::

    class TestMyStorage(StorageContract):
        shared = True                       # a pickled copy reaches the same place from another process
        durable = True                      # and so does a second handle:
        def reopen(self, storage):
            return MyStorage(storage.path)

        def sabotage(self, storage, n):     # the n-th write from now on fails
            return storage.failing_at(n)

        def scanned(self, storage, sweep_id, query):  # the query plan, if it goes through all rows
            ...

An async storage is proved in the same way, by ``AsyncStorageContract`` and a
fixture ``async_storage``, which gives a function that opens it::

    class TestMyAsyncStorage(AsyncStorageContract):
        @pytest.fixture
        def async_storage(self, tmp_path):
            return lambda: MyAsyncStorage(tmp_path / "sweeps")

Nothing here imports pytest or hypothesis until a test needs them.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import Any, TypeAlias

from ..hooks import AsyncStorage, Storage
from .contract.blocking import Loop, blocking
from .contract.cancelling import Cancelling
from .contract.catalog import Catalogs
from .contract.commits import Commits
from .contract.events import Events
from .contract.heartbeats import Beats
from .contract.places import Places
from .contract.queries import Queries
from .contract.turns import TurnsTaken
from .contract.whole import Whole


class StorageContract(Whole, Places, TurnsTaken, Catalogs, Beats, Events, Queries, Commits):
    """What every storage has to keep. Subclass it with a fixture ``storage``; see the module's docstring.

    Attributes:
        shared: a pickled copy of the storage reaches the same place in another process.
        durable: ``reopen`` gives a second handle of the same place.
        examples: how many ways of using it hypothesis compares with ``MemoryStorage``.
        steps: how many steps each of them has, at most.
    """


#: Opens an async storage: gives it, or an awaitable of it, or an async context manager of it.
Opening: TypeAlias = Callable[[], AsyncStorage | Awaitable[AsyncStorage] | AbstractAsyncContextManager[AsyncStorage]]


class AsyncStorageContract(Cancelling, StorageContract):
    """What every async storage has to keep: the same, awaited, and that it can be cancelled wherever it waits.

    Subclass it with a fixture ``async_storage`` that returns a function. That is called within the event
    loop that the storage is going to live in, and gives the storage, or an awaitable or an async context
    manager of it, which is left after the test. What it opens is fresh and empty for each test; opened
    again (if ``durable``), it is the same place.

    The fixture ``storage`` is made from it: the same storage, with the same capabilities, for callers that
    wait. Its attribute ``viewed`` is the async one, for ``sabotage`` and ``scanned``.

    Attributes:
        shared: a pickled copy of the async storage reaches the same place in another process.
        durable: ``async_storage()``, called again, gives a second handle of the same place.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Give a class of somebody's tests its fixture; who makes one has pytest."""
        super().__init_subclass__(**options)
        if not hasattr(cls, "storage"):
            import pytest  # noqa: PLC0415 - so that whoever imports this package need not have pytest

            type.__setattr__(cls, "storage", pytest.fixture(_storage))

    def reopen(self, storage: Storage) -> Storage:  # noqa: ARG002 - what is asked is what opened it
        """Return a second, fresh handle: what ``async_storage`` opens, opened again.

        Args:
            storage: what the fixture gave.
        """
        return self._open()

    def _open(self) -> Storage:
        """Open the storage in its loop; it is closed after the test."""
        held = self._stack.enter_context(self._loop.hold(_opened(self._opening)))
        return blocking(held.entered.result(), self._loop)

    _stack: ExitStack
    _loop: Loop
    _opening: Opening


def _storage(self: Any, async_storage: Opening) -> Iterator[Storage]:
    """Open an async storage as a blocking one; a fixture."""
    with Loop() as loop, ExitStack() as stack:
        self._stack, self._loop, self._opening = stack, loop, async_storage
        yield self._open()


@asynccontextmanager
async def _opened(opening: Opening) -> AsyncGenerator[AsyncStorage]:
    if not callable(opening):
        raise TypeError("the fixture `async_storage` gives a function that opens the storage, not the storage")
    given = opening()
    if inspect.isawaitable(given):
        given = await given
    if isinstance(given, AbstractAsyncContextManager):
        async with given as storage:
            yield storage
    else:
        yield given
