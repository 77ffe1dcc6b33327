"""Views of a storage that have its capabilities and no other, so that asking for a protocol stays truthful.

``isinstance`` with a hook's protocol looks for methods, so a view cannot have
them all and pass on what is there: its class is put together for the storage.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, cast

from ...core.decide import Change
from ...core.events import Event
from ...core.questions import RunQuery
from ...core.state import RunState, SweepState
from ...hooks import Catalog, Heartbeats, Storage, Timekeeper, Turns


class View:
    """The four methods of a storage, passed on.

    Args:
        storage: what is viewed.
    """

    def __init__(self, storage: Any) -> None:
        self.viewed = storage

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Call a method of what is viewed."""
        return getattr(self.viewed, method)(*arguments, **named)

    @contextmanager
    def _turn(self, sweep_id: str) -> Generator[Storage]:
        """Take a turn in what is viewed."""
        with self.viewed.turn(sweep_id) as inside:
            yield capable(View, inside, but=Timekeeper)(inside)

    def sweep(self, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot; see ``Storage.sweep``."""
        return cast(SweepState, self._ask("sweep", sweep_id))

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return runs that a query means; see ``Storage.runs``."""
        return cast("Sequence[RunState]", self._ask("runs", sweep_id, query, after=after, limit=limit))

    def commit(self, change: Change) -> None:
        """Write a change; see ``Storage.commit``."""
        self._ask("commit", change)

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        """Return events in order; see ``Storage.events``."""
        return cast("Sequence[Event]", self._ask("events", sweep_id, after=after, limit=limit))


class _Beating(View):
    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        self._ask("beat", sweep_id, index, attempt, at, metrics)

    def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        return cast("Sequence[float | None]", self._ask("last_heard", sweep_id, leases))

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        return cast("Mapping[str, float] | None", self._ask("last_metrics", sweep_id, index))


class _Listing(View):
    def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        return cast("Sequence[SweepState]", self._ask("sweeps", after=after, limit=limit))

    def delete(self, sweep_id: str) -> None:
        self._ask("delete", sweep_id)


class _Timing(View):
    def now(self) -> float:
        return cast(float, self._ask("now"))


class _Turning(View):
    def turn(self, sweep_id: str) -> AbstractContextManager[Storage]:
        return self._turn(sweep_id)


_PARTS: Final[dict[type, type[View]]] = {Heartbeats: _Beating, Catalog: _Listing, Timekeeper: _Timing, Turns: _Turning}


def capable(kind: type[View], storage: object, *, but: type | None = None) -> type[View]:
    """Return a class of view with exactly the capabilities of a storage, or of an async one.

    Args:
        kind: how methods are passed on.
        storage: what is to be viewed.
        but: a protocol that is left out.
    """
    parts = [part for protocol, part in _PARTS.items() if protocol is not but and isinstance(storage, protocol)]
    return type(kind.__name__, (*parts, kind), {})


def without_clock(storage: Storage) -> Storage:
    """Return a storage whose sweeps go by the clock that they are given."""
    return capable(View, storage, but=Timekeeper)(storage) if isinstance(storage, Timekeeper) else storage
