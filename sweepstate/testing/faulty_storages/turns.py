# ruff: noqa: ARG002, D102 - what a method does is the storage's promise; how it breaks it, its class says
"""Faults of turns."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Self

import attrs

from ...core.decide import Change
from ...hooks import Storage
from .base import TurningStorage, fault
from .commits import NoVersionCheck


@fault("test_nobody_else_commits_during_a_turn")
class TurnExcludesNobody(TurningStorage):
    """A turn is a promise that nobody keeps."""

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Self]:
        yield self


@fault("test_the_version_is_compared_in_a_turn_too")
class TurnTrusted(TurningStorage):
    """In a turn the version is not compared, as nobody else can commit; but it was decided before (optuna#4002)."""

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Any]:
        with self._turns:
            trusting = NoVersionCheck()
            trusting._shelves, trusting._lock = self._shelves, threading.Lock()  # noqa: SLF001
            yield trusting


@fault("test_a_first_heartbeat_during_a_turn_breaks_a_silence")
class TurnComparesOldSigns(TurningStorage):
    """In a turn, a run that was never heard when it began stays so: a transaction sees what was before it."""

    def __init__(self) -> None:
        super().__init__()
        self._heard: set[int] | None = None

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Self]:
        with super().turn(sweep_id) as inside:
            self._heard = set(self._shelf(sweep_id).beats)
            try:
                yield inside
            finally:
                self._heard = None

    def commit(self, change: Change) -> None:
        heard = self._heard
        if heard is not None:
            known = tuple(silence for silence in change.silences if silence.index in heard)
            change = attrs.evolve(change, silences=known)
        super().commit(change)


@fault("test_a_turn_without_a_commit_writes_nothing")
class TurnTakesAVersion(TurningStorage):
    """A turn is taken by a write, which stays if nothing else comes."""

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Self]:
        with self._turns:
            before = self.sweep(sweep_id).version
            yield self
            shelf = self._shelf(sweep_id)
            if shelf.sweep.version == before:
                shelf.sweep = attrs.evolve(shelf.sweep, version=before + 1)


@fault("test_an_exception_after_the_commit_leaves_it_whole_or_absent")
class TurnUndoesTheSweepOnly(TurningStorage):
    """An exception in a turn takes back the snapshot, and not the runs and events."""

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Self]:
        with self._turns:
            before = self._shelf(sweep_id).sweep
            try:
                yield self
            except BaseException:
                self._shelf(sweep_id).sweep = before
                raise


@fault("test_what_is_read_in_a_turn_is_current")
class TurnWithoutHeartbeats(TurningStorage):
    """What a turn gives has no heartbeats, so in a turn nobody is ever heard."""

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Any]:
        with self._turns:
            yield _Four(self)


class _Four:
    """The four methods of a storage, and no more."""

    def __init__(self, storage: Storage) -> None:
        self.sweep, self.runs, self.commit, self.events = storage.sweep, storage.runs, storage.commit, storage.events
