# ruff: noqa: S101 - a contract is made of assertions
"""Events: contiguous, in order, in pages that end between two commits."""

from __future__ import annotations

from random import Random

from ...core import decide as core
from ...core.events import Event
from ...core.lifecycle import SweepTrigger
from ...hooks import Storage
from .base import Capabilities
from .world import World, all_events, text, wander


class Events(Capabilities):
    """The part of the contract about ``events``."""

    def test_events_are_numbered_without_gaps(self, storage: Storage) -> None:
        """From 1, in order, and each of the version whose commit it belongs to."""
        world = World(storage)
        wander(world, Random(2), 60)  # noqa: S311 - drawn to be the same each time
        history = all_events(storage, "s")
        assert [event.number for event in history] == list(range(1, world.sweep.events + 1))
        assert sorted({event.version for event in history}) == list(range(1, world.sweep.version + 1))
        versions = [event.version for event in history]
        assert versions == sorted(versions)

    def test_a_page_of_events_ends_between_two_commits(self, storage: Storage) -> None:
        """It has one whole commit at least, if there is one, and beyond that no more events than the limit."""
        history = _history_of_commits_of_many_sizes(storage)
        last = {event.version: event.number for event in history}
        for after in range(len(history) + 1):
            for limit in (1, 2, 3, 5, 8, len(history), len(history) + 1, 10_000):
                page = list(storage.events("s", after=after, limit=limit))
                where = f"events after {after}, at most {limit}"
                if after == len(history):
                    assert page == [], where
                    continue
                assert text(page) == text(history[after : after + len(page)]), where
                assert page, f"{where}: there are some, and none came"
                assert page[-1].number == last[page[-1].version], f"{where}: the page ends inside a commit"
                assert len(page) <= limit or page[0].version == page[-1].version, f"{where}: {len(page)} came"

    def test_reading_behind_the_last_event_finds_nothing(self, storage: Storage) -> None:
        """However far behind."""
        World(storage).take()
        for after in (2, 3, 1_000, 2**40):
            assert list(storage.events("s", after=after, limit=10)) == []

    def test_reading_on_after_a_page_skips_and_repeats_nothing(self, storage: Storage) -> None:
        """Also while others commit in between."""
        world = World(storage)
        world.take_many(3)
        found: list[Event] = []
        for turn in range(12):
            page = storage.events("s", after=len(found), limit=2)
            found += page
            if turn < 8:
                world.take_many(turn % 3 + 1)
        while page := storage.events("s", after=len(found), limit=2):
            found += page
        assert [event.number for event in found] == list(range(1, world.sweep.events + 1))
        assert text(found) == text(all_events(storage, "s"))


def _history_of_commits_of_many_sizes(storage: Storage) -> list[Event]:
    """Return the history of a sweep whose commits have 1 to 7 events."""
    world = World(storage)
    for size in (1, 3, 2):
        world.take_many(size)
    world.do(core.move, SweepTrigger.CANCEL)
    world.do(core.reopen)
    world.take_many(4)
    world.take()
    history: list[Event] = []
    while page := storage.events("s", after=len(history), limit=1_000):
        history += page
    return history
