"""Writers killed by SIGKILL at random moments: what was acknowledged is there, nothing is half there (optuna#5138)."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random

import attrs
import pytest

from sweepstate import Event, RunStatus, Sweep, SweepStatus
from sweepstate.hooks import Storage
from sweepstate.testing.contract.plain import PlainStorage
from sweepstate.testing.faulty_storages.commits import AcknowledgedTooEarly, EachWriteByItself, RunsBeforeTheSweep
from tests.support import writers
from tests.support.acknowledged import Book, Opener, opened, quick, warm
from tests.support.conductor import Conductor, Doing, Part, moments
from tests.support.counts import SEED, Report, scaled

WRITERS = 3
#: A sweep lives for so many rounds; then the next one begins, so that what is checked stays small.
ROUNDS = 5
#: Seconds until the last writer of a round is killed, at most.
LONGEST = 0.15
#: Seconds within which a new handle has committed after the kills. SQLite gives up after 30 s, MariaDB after 50 s.
AT_ONCE = 20.0


@attrs.define
class Tally:
    """What the kills have hit.

    Attributes:
        rounds: how many rounds there were.
        calls: how many writers were killed within a call.
        commits: how many of them in the middle of a commit.
        made: how many commits were made and not acknowledged any more.
        acknowledged: how many were.
        slowest: how many seconds a new handle took to go on after the kills, at most.
    """

    rounds: int = 0
    calls: int = 0
    commits: int = 0
    made: int = 0
    acknowledged: int = 0
    slowest: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds, {self.acknowledged} acknowledged commits; kills within a call: {self.calls}, "
            f"within a commit: {self.commits}; commits that were made and not acknowledged: {self.made}; "
            f"a new handle went on after {self.slowest:.2f} s, at most"
        )

    def count(self, parts: Sequence[Part]) -> None:
        self.rounds += 1
        self.calls += sum(part.doing is not Doing.NOTHING for part in parts)
        self.commits += sum(part.doing is Doing.COMMITTING for part in parts)


class Life:
    """One sweep, whose writers are killed round by round."""

    def __init__(self, opener: Opener, sweep_id: str) -> None:
        self._opener = opener
        self._id = sweep_id
        self._book = Book()
        self._unknown: list[int] = []
        with opened(opener) as storage:
            self._book.add_events(writers.create(storage, sweep_id).history())

    def round(self, conductor: Conductor, random: Random, tally: Tally) -> None:
        """Let writers be killed, go on with a new handle at once, and look at everything."""
        tasks = [(self._opener, self._id, random.randrange(10**9)) for _ in range(WRITERS)]
        parts = conductor.play(writers.write, tasks, moments(random, WRITERS, LONGEST))
        tally.count(parts)
        before = len(self._book)
        for part in parts:
            self._book.add(part.said)
        tally.acknowledged += len(self._book) - before
        with opened(self._opener) as storage, quick(AT_ONCE, "the first commit after the kills"):
            # A server may have received the COMMIT of a process that is dead. Whoever commits now comes after it.
            began = time.monotonic()
            self._go_on(storage, random)
            tally.slowest = max(tally.slowest, time.monotonic() - began)
        with opened(self._opener) as storage:
            unknown = self._book.check(storage, self._id)
        made = len(unknown) - len(self._unknown)
        assert made <= 2 * WRITERS, f"versions {unknown} are there; a call makes two commits, at most"
        tally.made += made
        self._unknown = unknown

    def _go_on(self, storage: Storage, random: Random) -> None:
        told: list[Event] = []
        sweep = Sweep.open(self._id, storage=storage, listeners=[told.append])
        sweep.set_limits(max_active=random.randint(41, 10**6))
        sweep.set_limits(max_active=40)
        if sweep.status is SweepStatus.PAUSED:
            sweep.resume()
        elif sweep.ended:
            sweep.reopen(retry={RunStatus.KILLED})
        self._book.add_events(told)


def survive(opener: Opener, rounds: int, random: Random) -> Tally:
    """Let writers be killed round after round.

    Raises:
        AssertionError: something was lost, or half there, or somebody was stuck.
    """
    tally = Tally()
    with Conductor(partial(warm, opener)) as conductor:
        lives = [Life(opener, f"s{number}") for number in range(-(-rounds // ROUNDS))]
        for number in range(rounds):
            try:
                lives[number // ROUNDS].round(conductor, random, tally)
            except BaseException as error:
                error.add_note(f"in round {number} of {rounds}, with seed {SEED}; {tally}")
                raise
    return tally


@pytest.mark.parametrize(
    ("opener", "rounds"), [("sqlite", 100), ("postgresql", 30), ("mariadb", 30)], indirect=["opener"]
)
def test_what_killed_writers_were_told_is_there_and_nothing_is_half_there(
    opener: Opener, rounds: int, report: Report
) -> None:
    """Replay equals snapshots, the laws hold, and a new handle goes on at once."""
    tally = survive(opener, scaled(rounds), Random(SEED))
    report(str(tally))
    assert tally.commits, "nobody was killed in the middle of a commit"


def test_a_plain_storage_survives(tmp_path: Path, report: Report) -> None:
    """So that what is found in those below is their own fault."""
    tally = survive(partial(PlainStorage, tmp_path / "sweeps.db"), scaled(10), Random(SEED))
    report(str(tally))


class HeartbeatsBehind(PlainStorage):
    """A heartbeat is written when the next one is sent."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._behind: list[tuple[str, int, int, float, Mapping[str, float] | None]] = []

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        while self._behind:
            super().beat(*self._behind.pop())
        self._behind.append((sweep_id, index, attempt, at, metrics))


@pytest.mark.parametrize("kind", [EachWriteByItself, RunsBeforeTheSweep, AcknowledgedTooEarly, HeartbeatsBehind])
def test_a_storage_that_tears_or_loses_something_is_caught(
    kind: type[PlainStorage], tmp_path: Path, report: Report
) -> None:
    """The same program finds it, within the rounds that a right storage survives."""
    with pytest.raises(AssertionError) as caught:
        survive(partial(kind, tmp_path / "sweeps.db"), 100, Random(SEED))
    report(f"{str(caught.value)[:60]}... {caught.value.__notes__[-1]}")


@pytest.mark.parametrize("opener", ["sqlite"], indirect=True)
def test_the_file_is_sound(opener: Opener, tmp_path: Path) -> None:
    """SQLite's own check finds nothing after the kills."""
    survive(opener, scaled(5), Random(SEED + 1))
    with closing(sqlite3.connect(tmp_path / "sweeps.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
