"""What a storage under test says about itself, and how a test leaves out what it cannot do."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import ClassVar, Never, cast

from ...core.questions import RunQuery
from ...hooks import Catalog, Heartbeats, Storage, Turns
from .world import Beating


class Capabilities:
    """What is declared about the storage under test; what a protocol tells (heartbeats, turns, ...) is not.

    Whatever is not declared is not tried: the tests that need it are skipped, and say so.

    Attributes:
        shared: a pickled copy of the storage reaches the same place in another process.
        durable: ``reopen`` gives a second handle of the same place.
    """

    shared: ClassVar[bool] = False
    durable: ClassVar[bool] = False

    def reopen(self, storage: Storage) -> Storage:
        """Return a second, fresh handle of the place that a storage keeps its sweeps in.

        Override it, and set ``durable``. The first handle stays in use.

        Args:
            storage: what the fixture gave.
        """
        raise NotImplementedError("`durable` needs `reopen(storage)`: a second handle of the same place")

    def sabotage(self, storage: Storage, n: int) -> AbstractContextManager[object]:
        """Return a context in which the ``n``-th write statement from now on fails; n = 1 is the first.

        Override it, so that all or nothing is tried at every single write. Of a storage that writes a
        change by one statement, that is one. What ends the transaction counts as one if it can fail.

        Args:
            storage: what the fixture gave.
            n: which write fails. If there are fewer, none does.
        """
        raise NotImplementedError

    def scanned(self, storage: Storage, sweep_id: str, query: RunQuery) -> str | None:
        """Return how a query would be answered if not by an index, such as the plan that says so; None if by one.

        Override it, by asking the database for its query plan: with an index, a sweep of a million
        runs costs what one of ten does.

        Args:
            storage: what the fixture gave.
            sweep_id: a sweep with some hundred runs.
            query: what is asked of it.
        """
        raise NotImplementedError

    # --- what the tests ask ----------------------------------------------------------------------

    def skip(self, reason: str) -> Never:
        """Leave the test out, visibly."""
        import pytest  # noqa: PLC0415 - so that whoever imports this package need not have pytest

        pytest.skip(reason)

    def beating(self, storage: Storage) -> Beating:
        """Return the storage as one with heartbeats; skip if it has none."""
        if not isinstance(storage, Heartbeats):
            self.skip("the storage has no heartbeats (hooks.Heartbeats)")
        return cast(Beating, storage)

    def catalog(self, storage: Storage) -> Catalog:
        """Return the storage as a catalog; skip if it is none."""
        if not isinstance(storage, Catalog):
            self.skip("the storage has no catalog (hooks.Catalog)")
        return storage

    def turns(self, storage: Storage) -> Turns:
        """Return the storage as one that lets others take turns; skip if it does not."""
        if not isinstance(storage, Turns):
            self.skip("the storage has no turns (hooks.Turns)")
        return storage

    def again(self, storage: Storage) -> Storage:
        """Return a second handle; skip if there can be none."""
        self.needs_durability()
        return self.reopen(storage)

    def needs_processes(self) -> None:
        """Skip if other processes cannot reach the storage."""
        if not self.shared:
            self.skip("the storage is not shared between processes: set `shared`")

    def needs_sabotage(self, storage: Storage) -> None:
        """Skip if no write can be made to fail."""
        try:
            with self.sabotage(storage, 1):
                pass
        except NotImplementedError:
            self.skip("no write can be made to fail: override `sabotage`")

    def needs_durability(self) -> None:
        """Skip if the storage cannot be opened a second time."""
        if not self.durable:
            self.skip("the storage is not durable: set `durable`, and override `reopen`")
