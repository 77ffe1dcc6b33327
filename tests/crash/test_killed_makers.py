"""Processes killed while they make the place itself: whoever comes next can make what is missing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sweepstate import SQLiteStorage, SweepNotFound
from tests.support import writers
from tests.support.acknowledged import Book, Opener, opened, quick, warm
from tests.support.conductor import Conductor, Death, Voice, moments
from tests.support.counts import SEED, Report, scaled

MAKERS = 3
#: Seconds until the last one who makes tables is killed, at most.
LONGEST = 0.4
#: Seconds within which a new handle is at work after the kills.
AT_ONCE = 20.0


def has_sweep(storage: Any) -> bool:
    try:
        storage.sweep("s")
    except SweepNotFound:
        return False
    return True


def test_a_file_whose_makers_were_killed_can_be_made(tmp_path: Path, report: Report) -> None:
    """Killed while they create the file, its tables and the sweep: all of a sweep is there, or nothing."""
    random = Random(SEED)
    rounds = scaled(30)
    found = 0
    with Conductor(partial(warm, partial(SQLiteStorage, tmp_path / "warm.db"))) as conductor:
        for number in range(rounds):
            opener = partial(SQLiteStorage, tmp_path / f"{number}.db")
            tasks = [(opener, "s", random.randrange(10**9)) for _ in range(MAKERS)]
            parts = conductor.play(writers.write_anew, tasks, moments(random, MAKERS, 0.03), unborn=True)
            book = Book()
            for part in parts:
                book.add(part.said)
            with opened(opener) as storage, quick(AT_ONCE, "opening the file after the kills"):
                found += has_sweep(storage)
                writers.create(storage, "s", exists_ok=True)
            with opened(opener) as storage:
                assert len(book.check(storage, "s")) <= 2 * MAKERS + 1  # the creation is told to nobody
    report(f"{found} of {rounds} files had their sweep")


def make(voice: Voice, opener: Opener) -> None:
    """Create tables."""
    with opened(opener) as storage:
        voice.say("ready")
        storage.create_tables()
        voice.say("made")


def made(storage: Any) -> set[str]:
    """Return the names of the tables and indexes that are there."""
    from sqlalchemy import inspect  # noqa: PLC0415 - without it, SQLite is tested all the same

    inspector = inspect(storage.database.engine)
    there = {table.name for table in storage.metadata.sorted_tables} & set(inspector.get_table_names())
    return there | {str(index["name"]) for table in there for index in inspector.get_indexes(table)}


@pytest.mark.parametrize("opener", ["postgresql", "mariadb"], indirect=True)
def test_tables_whose_makers_were_killed_can_be_made(opener: Opener, report: Report) -> None:
    """With every index, although MariaDB commits each statement by itself, and without waiting for the dead."""
    random = Random(SEED)
    rounds = scaled(8)
    acknowledged = half = 0
    with opened(opener) as storage, Conductor(partial(warm, opener)) as conductor:
        whole = made(storage)
        for _ in range(rounds):
            storage.metadata.drop_all(storage.database.engine)
            deaths = [Death(random.uniform(0.0, LONGEST)) for _ in range(MAKERS)]
            parts = conductor.play(make, [(opener,)] * MAKERS, deaths)
            told = any(["made"] in part.said for part in parts)
            acknowledged += told
            half += set() != made(storage) != whole
            assert not told or made(storage) == whole
            with opened(opener) as other, quick(AT_ONCE, "creating the tables after the kills"):
                other.create_tables()
                assert made(other) == whole
    report(f"of {rounds} times the tables were made {acknowledged} times, and half made {half} times")
