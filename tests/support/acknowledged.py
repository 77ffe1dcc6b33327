"""What processes were told to have happened, and whether a storage has it: all, as it was told, and nothing half."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, cast

import attrs

from sweepstate import Event, Idle, Run, Sweep, SweepstateError, to_dict
from sweepstate.core.decide import Change
from sweepstate.core.questions import ByIndex, RunQuery
from sweepstate.core.state import RunState, SweepState
from sweepstate.hooks import Heartbeats, Storage
from sweepstate.testing.contract.world import all_events, assert_whole
from sweepstate.testing.laws import check_laws
from tests.support.conductor import Doing, Voice

_BY_INDEX: Final = ByIndex()
#: Opens a storage; it pickles, while an open storage would be opened wherever it is unpickled.
Opener = Callable[[], Any]


@contextmanager
def opened(opener: Opener) -> Generator[Any]:
    """Give a new handle of a storage, and close it."""
    storage = opener()
    try:
        yield storage
    finally:
        close = getattr(storage, "close", None)
        if close is not None:
            close()


def warm(opener: Opener) -> None:
    """Import and build what opening a storage takes, so that no actor spends its short life on that."""
    with opened(opener) as storage, suppress(SweepstateError):
        storage.sweep("nobody's")


# --- in an actor ----------------------------------------------------------------------------------


class Noting:
    """A storage as it is, that notes down when it is in the middle of a commit, and which heartbeats it has kept."""

    def __init__(self, storage: Any, voice: Voice) -> None:
        self._storage = storage
        self._voice = voice
        self.beats: list[tuple[int, int, float, Mapping[str, float] | None]] = []

    def sweep(self, sweep_id: str) -> SweepState:
        return cast(SweepState, self._storage.sweep(sweep_id))

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        return cast(Sequence[RunState], self._storage.runs(sweep_id, query, after=after, limit=limit))

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        return cast(Sequence[Event], self._storage.events(sweep_id, after=after, limit=limit))

    def commit(self, change: Change) -> None:
        self._voice.note(Doing.COMMITTING)
        try:
            self._storage.commit(change)
        finally:
            self._voice.note(Doing.CALLING)

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        self._storage.beat(sweep_id, index, attempt, at, metrics)
        self.beats.append((index, attempt, at, None if metrics is None else dict(metrics)))

    def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        return cast(Sequence[float | None], self._storage.last_heard(sweep_id, leases))

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        return cast(Mapping[str, float] | None, self._storage.last_metrics(sweep_id, index))

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Storage]:
        with self._storage.turn(sweep_id) as turn:
            yield Noting(turn, self._voice)


class Witness:
    """A sweep whose every call is acknowledged: what it has committed is said when it has returned, and not before.

    Args:
        voice: where it is said.
        storage: where the sweep lives.
        open_sweep: opens it, given a storage.
    """

    def __init__(self, voice: Voice, storage: Any, open_sweep: Callable[[Noting], Sweep]) -> None:
        self.voice: Final = voice
        self._storage = Noting(storage, voice)
        self._events: list[Event] = []
        self.sweep: Final = open_sweep(self._storage)
        self.sweep.listen(self._events.append)

    @contextmanager
    def call(self) -> Generator[None]:
        """Acknowledge what is called within, whatever comes of it: what a listener is told has been committed."""
        self.voice.note(Doing.CALLING)
        try:
            yield
        finally:
            self.voice.note(Doing.NOTHING)
            if self._events or self._storage.beats:
                self.voice.say("did", [(event.version, text(event)) for event in self._events], self._storage.beats)
            self._events.clear()
            self._storage.beats.clear()

    def claim(self, name: str, request_id: str | None = None) -> Run | Idle:
        """Ask for a run."""
        with self.call():
            return self.sweep.next_run(name, request_id)


def text(event: Event) -> str:
    """Return an event to the byte."""
    return json.dumps(to_dict(event))


# --- the book of it -------------------------------------------------------------------------------


@attrs.define
class _Sign:
    """The newest heartbeat of a run that was acknowledged, and the metrics that came last with any of that attempt."""

    attempt: int
    at: float
    metrics: Mapping[str, float] | None

    def follow(self, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        if attempt > self.attempt:
            self.attempt, self.at, self.metrics = attempt, at, metrics
        elif attempt == self.attempt:
            self.at = max(self.at, at)
            self.metrics = metrics or self.metrics


class Book:
    """Everything of one sweep that anybody was told to have happened."""

    def __init__(self) -> None:
        self._commits: dict[int, list[str]] = {}
        self._signs: dict[int, _Sign] = {}

    def __len__(self) -> int:
        return len(self._commits)

    def add(self, said: Iterable[Sequence[Any]]) -> None:
        """Write down what one process said.

        Raises:
            AssertionError: two were told to have made the same commit.
        """
        for kind, *words in said:
            if kind == "did":
                events, beats = words
                self._add_commits(events)
                for index, attempt, at, metrics in beats:
                    self._signs.setdefault(index, _Sign(0, 0.0, None)).follow(attempt, at, metrics)

    def add_events(self, events: Iterable[Event]) -> None:
        """Write down what a listener was told."""
        self._add_commits([(event.version, text(event)) for event in events])

    def _add_commits(self, events: Iterable[tuple[int, str]]) -> None:
        made: dict[int, list[str]] = {}
        for version, event in events:
            made.setdefault(version, []).append(event)
        for version, commit in made.items():
            assert version not in self._commits, f"version {version} was acknowledged twice"
            self._commits[version] = commit

    def check(self, storage: Any, sweep_id: str) -> list[int]:
        """Assert that everything is there as it was told, that nothing is half there, and that the laws hold.

        Returns:
            The versions that are there and were told to nobody.

        Raises:
            AssertionError: it is not so.
        """
        check_laws(storage, sweep_id)
        assert_whole(storage, sweep_id)
        found: dict[int, list[str]] = {}
        for event in all_events(storage, sweep_id):
            found.setdefault(event.version, []).append(text(event))
        for version, commit in self._commits.items():
            there = found.get(version)
            assert there == commit, f"version {version} was acknowledged as {commit}, and there is {there}"
        if isinstance(storage, Heartbeats):
            for index, sign in self._signs.items():
                _check_sign(storage, sweep_id, index, sign)
        return [version for version in found if version not in self._commits]


def _check_sign(storage: Heartbeats, sweep_id: str, index: int, sign: _Sign) -> None:
    """Assert that a heartbeat is there, or a later one."""
    (heard,) = storage.last_heard(sweep_id, [(index, sign.attempt)])
    if heard is None:
        later = cast(Storage, storage).runs(sweep_id, _BY_INDEX, after=index - 1, limit=1)[0].attempt > sign.attempt
        assert later, f"the heartbeat {sign} of run {index} was acknowledged, and is lost"
        return  # a later attempt was heard, whoever heard it did not live to tell
    assert heard >= sign.at, f"run {index} was last heard at {heard}, and {sign} was acknowledged"
    metrics = storage.last_metrics(sweep_id, index)
    if sign.metrics is not None:
        assert metrics is not None, f"the metrics of {sign} of run {index} were acknowledged, and are lost"
        assert metrics["step"] >= sign.metrics["step"], f"run {index} has {metrics}, and {sign} was acknowledged"


@contextmanager
def quick(seconds: float, what: str) -> Generator[None]:
    """Assert that something takes less than so long; far longer than it ever needs, and short of a lock's timeout."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"{what} took {took:.1f} s"
