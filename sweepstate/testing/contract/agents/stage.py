# ruff: noqa: S101 - a contract is made of assertions
"""The stage on which an agent under test is watched: a sweep that it drives, and a storage that can be away."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from ....core.decide import Change
from ....core.errors import StorageError, SweepstateError
from ....core.events import Event
from ....core.limits import Limits, Objective
from ....core.questions import RunQuery
from ....core.state import RunState, SweepState
from ....hooks import Agent, History, Listener
from ....sweep import Sweep
from ... import executions
from ...executions import Note
from ..world import Beating

if TYPE_CHECKING:
    from .base import Agents

#: Seconds that an agent is given to do what it must not; no correct agent needs them.
TEMPTATION: Final = 0.3
_STEP: Final = 0.01


class DeadError(BaseException):
    """Stands for the death of an orchestrator: what drives a sweep is ended by it, wherever it is."""


class Points:
    """A search that proposes what a test wants executed, in that order."""

    by_index = True

    def __init__(self, points: Sequence[Mapping[str, Any]]) -> None:
        self.points = points

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.points)

    def propose(self, index: int, _history: History, /) -> Mapping[str, Any]:
        """Return one."""
        return self.points[index]


class Outage:
    """A storage that can be away; and that can end whoever calls it.

    Attributes:
        away: it does not answer now.
        deadly: whoever calls it is ended, as by the death of its process.
    """

    def __init__(self, storage: Beating) -> None:
        self.storage = storage
        self.away: bool = False
        self.deadly: bool = False

    def _reached(self) -> Beating:
        if self.deadly:
            raise DeadError
        if self.away:
            raise StorageError("the storage is away, on purpose; nothing was written")
        return self.storage

    def sweep(self, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot; see ``Storage.sweep``."""
        return self._reached().sweep(sweep_id)

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return runs that a query means; see ``Storage.runs``."""
        return self._reached().runs(sweep_id, query, after=after, limit=limit)

    def commit(self, change: Change) -> None:
        """Write a change; see ``Storage.commit``."""
        self._reached().commit(change)

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        """Return a page of history; see ``Storage.events``."""
        return self._reached().events(sweep_id, after=after, limit=limit)

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        """Keep a sign of life; see ``Heartbeats.beat``."""
        self._reached().beat(sweep_id, index, attempt, at, metrics)

    def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        """Return when attempts were last heard; see ``Heartbeats.last_heard``."""
        return self._reached().last_heard(sweep_id, leases)

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        """Return what was last reported on the way; see ``Heartbeats.last_metrics``."""
        return self._reached().last_metrics(sweep_id, index)


class Stage:
    """A sweep whose runs write down what happens to them, and the thread that drives it.

    Attributes:
        place: the directory that they write to.
        storage: where the sweep lives, as the agent sees it.
        sweep: a handle that the agent is not attached to, as in another process.
    """

    def __init__(
        self,
        contract: Agents,
        agent: Agent,
        place: Path,
        does: Sequence[str],
        limits: Mapping[str, Any],
        listener: Listener | None,
    ) -> None:
        self._contract = contract
        self._agent = agent
        self.place: Path = place
        storage: Any = contract.storage(place)
        self.storage: Outage = Outage(storage)
        self._inner: Beating = storage
        bounds: dict[str, Any] = {"max_active": contract.slots, **limits}
        points = [{"x": x, "do": do, "place": str(place)} for x, do in enumerate(does)]
        self._search = Points(points)
        self._driven = Sweep(
            self._search,
            id="s",
            storage=self.storage,
            agent=agent,
            limits=Limits(**bounds),
            objective=Objective("score"),
            listeners=() if listener is None else (listener,),
            on_listener_error=_ignore,
        )
        self.sweep: Sweep = Sweep.open("s", storage=storage, search=self._search)
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def drive(self, agent: Agent) -> None:
        """Have an agent drive the sweep, in a thread."""

        def work() -> None:
            try:
                self._contract.drive(agent, self._driven)
            except BaseException as error:
                self._error = error

        self._thread = Thread(target=work, name="contract", daemon=True)
        self._thread.start()

    def die_and_come_back(self, meanwhile: Callable[[], object] = lambda: None) -> Agent:
        """End the orchestrator in the midst of it, and begin another one; return its agent.

        Args:
            meanwhile: what happens while there is none.
        """
        self.storage.deadly = True
        self._joined("an orchestrator whose storage raises what ends it")
        assert isinstance(self._error, DeadError), f"the agent swallowed what was to end it: {self._error!r}"
        self._error = None
        meanwhile()
        self.storage = Outage(self._inner)
        self._agent = self._contract.again(self._agent)
        self._driven = Sweep.open("s", storage=self.storage, search=self._search, agent=self._agent)
        self.drive(self._agent)
        return self._agent

    @property
    def driving(self) -> bool:
        """Whether it is being driven."""
        return self._thread is not None and self._thread.is_alive()

    # --- what is seen --------------------------------------------------------------------------------

    def began(self, x: int | None = None) -> int:
        """Return how many executions have begun, of one configuration or of all."""
        return sum(note.what == "began" and x in (None, note.x) for note in executions.notes(self.place))

    def noted(self, what: str, x: int) -> bool:
        """Return whether an execution has written something down."""
        return any((note.what, note.x) == (what, x) for note in executions.notes(self.place))

    def alive(self) -> list[Note]:
        """Return which executions there are."""
        return self._contract.alive(self._agent, self.place)

    def let_go(self, x: int | None = None) -> None:
        """Let those end that wait, or one of them."""
        executions.let_go(self.place, x)

    # --- waiting -------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition.

        Args:
            condition: is asked again and again.
            what: completes "waited in vain until ...".

        Raises:
            AssertionError: it does not come to be, or the agent raised meanwhile.
        """
        end = time.monotonic() + self._contract.patience
        while not condition():
            self._check()
            assert time.monotonic() < end, f"waited in vain until {what}; {self._seen()}"
            time.sleep(_STEP)

    def over(self) -> None:
        """Wait until the agent has driven the sweep to its end.

        Raises:
            AssertionError: it does not come back, raised, or came back while the sweep was not done.
        """
        self._joined("the sweep to be driven to its end")
        self._check()
        assert self.sweep.refresh().done, f"the agent went home, and the sweep is not done; {self._seen()}"

    def stays(self, condition: Callable[[], object], what: str) -> None:
        """Look for a while whether something that must not change does.

        Args:
            condition: what has to hold all the while.
            what: is said if it does not.

        Raises:
            AssertionError: it did not hold, or the agent raised meanwhile.
        """
        end = time.monotonic() + TEMPTATION
        while time.monotonic() < end:
            assert condition(), f"{what}; {self._seen()}"
            time.sleep(_STEP)
        self._check()

    def close(self) -> None:
        """Let everything end, whatever the test has seen."""
        self.storage.away = False
        self.let_go()
        with suppress(SweepstateError):
            self.sweep.cancel()
        if self._thread is not None:
            self._thread.join(self._contract.patience)
            self.storage.deadly = True  # or an agent that never comes back would go on beside all later tests
        end = time.monotonic() + self._contract.patience
        while self.alive() and time.monotonic() < end:
            time.sleep(_STEP)

    def _joined(self, what: str) -> None:
        assert self._thread is not None
        self._thread.join(self._contract.patience)
        assert not self._thread.is_alive(), f"waited in vain for {what}; {self._seen()}"

    def _check(self) -> None:
        if self._error is not None:
            raise AssertionError(f"driving the sweep raised {self._error!r}") from self._error

    def _seen(self) -> str:
        try:
            runs = ", ".join(f"{run!r}" for run in self.sweep.refresh().runs())
            return f"{self.sweep!r}: {runs}; executing: {self.alive()}"
        except SweepstateError as error:
            return f"and the storage says {error}"


def _ignore(_listener: Listener, _event: Event, _error: Exception) -> None:
    """Let a listener's error be."""
