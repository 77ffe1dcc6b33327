"""Hooks of one's own, without inheriting anything; checked, and not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, assert_type

import attrs

from sweepstate import (
    Agent,
    Catalog,
    Change,
    Clock,
    Event,
    Exhausted,
    Grid,
    Heartbeats,
    History,
    InlineAgent,
    Kill,
    Listener,
    MemoryStorage,
    Random,
    RunState,
    RunStatus,
    Search,
    Start,
    Stop,
    Storage,
    SubprocessAgent,
    Sweep,
    SweepNotFound,
    SweepState,
    Wait,
)
from sweepstate.core.questions import RunQuery
from sweepstate.search import PlainSearch


class MyStorage:
    """Four methods make a storage."""

    def sweep(self, sweep_id: str) -> SweepState:
        raise SweepNotFound(sweep_id)

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        return []

    def commit(self, change: Change) -> None:
        assert_type(change.version, int)
        assert_type(change.runs, tuple[RunState, ...])
        assert_type(change.events, tuple[Event, ...])

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> list[Event]:
        return []


class MyHeartbeats:
    """What a storage adds so that lost runs are found."""

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None: ...

    def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        return [None for _ in leases]

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        return None


class MyAgent:
    """Plain attributes are enough for what a protocol only reads."""

    name = "mine"
    can_kill = True

    def start(self, order: Start) -> None:
        order.run.start("job-1")

    def stop(self, order: Stop) -> None:
        assert_type(order.attempt, int)

    def kill(self, order: Kill) -> None:
        order.gone()


@attrs.frozen
class FrozenAgent:
    """So are the fields of a frozen class."""

    name: str
    can_kill: bool = False

    def start(self, order: Start) -> None: ...

    def stop(self, order: Stop) -> None: ...

    def kill(self, order: Kill) -> None: ...


class MySearch:
    """A mapping, or that there is nothing now, or nothing any more."""

    size: int | None = None

    def __init__(self) -> None:
        self.cursor = 0

    def propose(self, index: int, history: History) -> dict[str, float] | Wait | Exhausted:
        if index >= 9:
            return Exhausted()
        page = history.ended(after=self.cursor, limit=10)
        if index and not page:
            return Wait()
        for ended in page:
            self.cursor = ended.cursor
            assert_type(ended.status, RunStatus)
        return {"x": 0.5}


class Sized:
    """A search that knows its size, and is plain data."""

    size = 4
    name = "sized"

    def propose(self, index: int, history: History) -> Mapping[str, Any]:
        return {"x": index}

    def settings(self) -> Mapping[str, Any]:
        return {}


class MyClock:
    """Anything that can be called."""

    def __call__(self) -> float:
        return 0.0


def listen(event: Event) -> None:
    assert_type(event.reason, str | None)


storages: list[Storage] = [MyStorage(), MemoryStorage()]
heartbeats: list[Heartbeats] = [MyHeartbeats(), MemoryStorage()]
catalogs: list[Catalog] = [MemoryStorage()]
agents: list[Agent] = [MyAgent(), FrozenAgent("frozen"), InlineAgent(lambda run: None), SubprocessAgent(["train"])]
searches: list[Search] = [MySearch(), Sized(), Grid({"x": [1]}), Random({"x": [1, 2]})]
plain_searches: list[PlainSearch] = [Sized()]
clocks: list[Clock] = [MyClock(), lambda: 0.0]
heard: list[Event] = []
listeners: list[Listener] = [listen, heard.append, lambda event: None]

sweep = Sweep(MySearch(), storage=MyStorage(), agent=MyAgent(), clock=MyClock(), listeners=[listen])


class NoStorage:
    """What lacks a method is none."""

    def sweep(self, sweep_id: str) -> SweepState:
        raise SweepNotFound(sweep_id)


class NoAgent(MyAgent):
    """What takes other arguments is none."""

    def start(self) -> None: ...  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]


wrong_storage: Storage = NoStorage()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
wrong_agent: Agent = NoAgent()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
wrong_search: Search = MyAgent()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
wrong_clock: Clock = lambda: "now"  # type: ignore[assignment, return-value]  # pyright: ignore[reportAssignmentType, reportReturnType]  # noqa: E731
