"""What storages cost, side by side in one run: medians of ratios, and the bound of each.

The bounds stand in the design ("What it must cost"). This is a program, not a test: it prints and does not judge,
because a shared machine is noisy; compare ratios, not microseconds. What is compared takes turns, so that a slow moment
meets both. The time is the wall's, because much of it is spent waiting for the disk.

    python tests/benchmarks/storage.py [--quick] [--full] [--only PART ...] [--directory DIRECTORY]

The directory must be on the disk that is to be measured. Optuna is of the dependency group ``bench``; PostgreSQL is
measured if SWEEPSTATE_POSTGRESQL_URL names a database, in tables that are dropped afterwards.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import attrs

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout, so that nothing needs to be installed

from sweepstate import Random, SQLiteStorage, Sweep, replay
from sweepstate.core.questions import ByIndex
from tests.benchmarks.by_hand import ByHand
from tests.benchmarks.commands import Times, round_of_commands
from tests.benchmarks.common import SPACE, Batch, Row, installed, interleaved, ratio, show, three_calls
from tests.benchmarks.contention import (
    STUDY,
    Opener,
    Synchronous,
    contend,
    open_optuna_journal,
    open_optuna_rdb,
    open_sqlite,
)
from tests.benchmarks.large import LARGE, large_on_sqlite
from tests.benchmarks.server import Server

BOTH: tuple[Synchronous, ...] = ("FULL", "NORMAL")
SMALL = 1_000


@attrs.frozen
class Scale:
    """How much is measured."""

    batches: int
    runs: int
    rounds: int
    large: int
    seconds: float
    contests: int


QUICK = Scale(batches=7, runs=20, rounds=7, large=10_000, seconds=1.0, contests=1)
NORMAL = Scale(batches=25, runs=30, rounds=25, large=100_000, seconds=2.0, contests=3)
FULL = attrs.evolve(NORMAL, large=1_000_000)


@attrs.frozen
class Bench:
    """How much is measured, and where."""

    scale: Scale
    directory: Path
    files: dict[int, str] = attrs.field(factory=dict)

    def file(self, name: str) -> str:
        """Return a path."""
        return str(self.directory / name)

    def large(self, count: int) -> str:
        """Return the file of a sweep of so many runs, made once."""
        if count not in self.files:
            self.files[count] = self.file(f"large-{count}.db")
            start = time.perf_counter()
            large_on_sqlite(self.files[count], count)
            print(f"\n(a sweep of {count:,} runs was written in {time.perf_counter() - start:.1f} s)")
        return self.files[count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything: a smoke test of a minute")
    parser.add_argument("--full", action="store_true", help="the large sweep has 1,000,000 runs")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="where the files are made, and removed")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else FULL if arguments.full else NORMAL
    print(f"Python {platform.python_version()}, {platform.machine()}, SQLite {sqlite3.sqlite_version}")
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        bench = Bench(scale, Path(directory))
        print(f"A page written and synced in {arguments.directory}: {cost_of_sync(bench) * 1e6:.0f} us")
        rows = [row for part in arguments.only for row in PARTS[part](bench)]
    print("\nSummary\n" + "\n".join(f"  {row}" for row in rows))


def cost_of_sync(bench: Bench) -> float:
    """Return the seconds that it takes to write a page into a file and have it on the disk."""
    times = []
    with Path(bench.file("sync")).open("wb", buffering=0) as file:
        for _ in range(200):
            start = time.perf_counter()
            file.write(b"0" * 4096)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return median(times)


# --- one run's life ----------------------------------------------------------------------------------------------


@attrs.frozen
class Peer:
    """One who keeps a study that grows: what does lives in it, how many at a time, and in which file."""

    batch: Batch
    size: int
    path: str
    close: Callable[[], object]


def lives(bench: Bench) -> Iterator[Row]:
    """Hand out, start, finish, in three commits."""
    check_floor(bench)
    for synchronous in BOTH:
        peers = peers_on_sqlite(bench, synchronous)
        sizes = {name: peer.size for name, peer in peers.items()}
        times = timed_lives({name: peer.batch for name, peer in peers.items()}, bench.scale, sizes)
        show(f"One run's life on SQLite, synchronous={synchronous} (Optuna as it comes)", times, "sweepstate")
        yield from verdicts(times, synchronous)
        warmed = bench.scale.batches + 2
        print("\n  size on disk")
        for name, peer in peers.items():
            peer.close()
            print(f"  {name:<34} {size_of(peer.path) / (peer.size * warmed):>9.0f} B a run")


def size_of(path: str) -> int:
    return Path(path).stat().st_size


def check_floor(bench: Bench) -> None:
    """Check that what is written by hand is, to the byte, what ``SQLiteStorage`` writes."""
    contents = []
    for name in ("check-ours.db", "check-hand.db"):
        path = bench.file(name)
        with SQLiteStorage(path) as storage:
            sweep = Sweep(Random(SPACE), id="check", storage=storage, clock=lambda: 1e9)
            if "ours" in name:
                three_calls(sweep)(3)
            else:
                hand = ByHand(path, "FULL", lambda: 1e9, reads=False)
                hand.batch(3)
                hand.close()
        connection = sqlite3.connect(path)
        contents.append(
            [connection.execute(f"SELECT * FROM {t}").fetchall() for t in ("sweep", "run", "event", "beat")]
        )
        connection.close()
    assert contents[0] == contents[1], "the program by hand writes other rows than the storage"


def peers_on_sqlite(bench: Bench, synchronous: Synchronous) -> dict[str, Peer]:
    runs = bench.scale.runs
    path = bench.file(f"ours-{synchronous}.db")
    storage = SQLiteStorage(path, synchronous=synchronous)
    ours = three_calls(Sweep(Random(SPACE), id="ours", storage=storage))
    peers = {"sweepstate": Peer(ours, runs, path, storage.close)}
    for name, reads in (("by hand", False), ("by hand, reading", True)):
        path = bench.file(f"hand-{synchronous}-{reads}.db")
        with SQLiteStorage(path) as made:
            Sweep(Random(SPACE), id="hand", storage=made)
        hand = ByHand(path, synchronous, time.time, reads=reads)
        peers[name] = Peer(hand.batch, runs, path, hand.close)
    if installed("optuna"):
        path = bench.file(f"optuna-{synchronous}.db")
        peers["Optuna's RDB"] = Peer(open_optuna_rdb(f"sqlite:///{path}"), max(runs // 10, 1), path, int)
        path = bench.file(f"optuna-{synchronous}.log")
        peers["Optuna's journal"] = Peer(open_optuna_journal(path), runs, path, int)
    return peers


def timed_lives(batches: dict[str, Batch], scale: Scale, sizes: dict[str, int] | None = None) -> dict[str, list[float]]:
    interleaved(batches, 2, scale.runs, time.perf_counter, sizes)  # so that nobody pays for warming up
    return interleaved(batches, scale.batches, scale.runs, time.perf_counter, sizes)


def verdicts(times: dict[str, list[float]], synchronous: Synchronous) -> Iterator[Row]:
    yield Row(f"a run's life, {synchronous}: to its rows by hand", ratio(times, "sweepstate", "by hand"), 1.5)
    careful = ratio(times, "sweepstate", "by hand, reading")
    yield Row(f"a run's life, {synchronous}: to them, read beforehand", careful, 1.5)
    for peer, bound in (("Optuna's RDB", 15), ("Optuna's journal", 1)):
        if peer in times:
            faster = ratio(times, peer, "sweepstate")
            yield Row(f"a run's life, {synchronous}: {peer} to it", faster, bound, least=True)


# --- several processes -------------------------------------------------------------------------------------------


def contention(bench: Bench) -> Iterator[Row]:
    """1, 4 and 8 processes on one sweep."""
    contests: dict[str, tuple[Opener, tuple[str, ...]]] = {}
    for synchronous in BOTH:
        path = bench.file(f"contended-{synchronous}.db")
        with SQLiteStorage(path) as storage:
            Sweep(Random(SPACE), id=STUDY, storage=storage)
        contests[f"sweepstate, {synchronous}"] = (open_sqlite, (path, synchronous))
    if installed("optuna"):
        contests["Optuna's RDB"] = (open_optuna_rdb, (f"sqlite:///{bench.file('contended-optuna.db')}",))
        contests["Optuna's journal"] = (open_optuna_journal, (bench.file("contended.log"),))
        for opener, arguments in list(contests.values())[2:]:
            opener(*arguments)(1)  # so that the processes find the study
    rates = rates_of(contests, bench.scale)
    print(f"\nSeveral processes on one sweep ({os.cpu_count()} processors): lives a second, all together")
    for name, each in rates.items():
        line = "".join(f"{count:>4}: {median(rate):>7.1f}" for count, rate in each.items())
        print(f"  {name:<24}{line}   8 to 1: {shared(each):.2f}")
    for synchronous in BOTH:
        kept = shared(rates[f"sweepstate, {synchronous}"])
        yield Row(f"8 processes to one, {synchronous}: what they do together", kept, 0.5, least=True)


def rates_of(contests: dict[str, tuple[Opener, tuple[str, ...]]], scale: Scale) -> dict[str, dict[int, list[float]]]:
    """Return the lives a second of each contest, for each number of processes, one a round."""
    rates: dict[str, dict[int, list[float]]] = {name: {1: [], 4: [], 8: []} for name in contests}
    for _ in range(scale.contests):
        for name, (opener, arguments) in contests.items():
            for count, found in rates[name].items():
                done = contend(count, scale.seconds, opener, *arguments)
                found.append(sum(done) / scale.seconds)
    return rates


def shared(rates: dict[int, list[float]]) -> float:
    """Return the median of what eight do together to what one does, round by round."""
    return median(eight / one for eight, one in zip(rates[8], rates[1], strict=True))


# --- the size of the sweep ---------------------------------------------------------------------------------------


def commands(bench: Bench) -> Iterator[Row]:
    """Every command on a small and a large sweep, by turns; NORMAL, so that the disk does not hide what differs."""
    check_large(bench)
    large = bench.scale.large
    sweeps = {}
    for count in (SMALL, large):
        storage = SQLiteStorage(bench.large(count), synchronous="NORMAL")
        sweeps[count] = (Sweep.open(LARGE, storage=storage), storage, Times())
    for number in range(bench.scale.rounds + 2):
        for sweep, storage, times in sweeps.values():
            round_of_commands(sweep, storage, times)
            if number == 1:
                times.of.clear()  # so that nobody pays for warming up
    small, big = (times.of for _, _, times in sweeps.values())
    yield from compared("SQLite", small, big, large)


def compared(place: str, small: dict[str, list[float]], big: dict[str, list[float]], large: int) -> Iterator[Row]:
    """Print what each command costs in both sizes, and yield the worst: of so many medians, one is bad by chance."""
    print(f"\nCommands on {place}, in a sweep of {SMALL:,} and of {large:,} runs")
    print(f"  {'':<34}{'medians':>24} {'ratio':>9} {'of least':>9}")
    least = {}
    for name, times in small.items():
        middle = median(one / other for one, other in zip(big[name], times, strict=True))
        least[name] = min(big[name]) / min(times)
        print(
            f"  {name:<34}{median(times) * 1e6:>9.0f} us {median(big[name]) * 1e6:>9.0f} us"
            f" {middle:>7.2f} x {least[name]:>7.2f} x"
        )
    worst = max(least, key=lambda name: least[name])
    yield Row(f"{place}, {large:,} runs to {SMALL:,}, least: {worst}", least[worst], 1.5)


def check_large(bench: Bench) -> None:
    """Check that what was written in bulk is what its history says."""
    with SQLiteStorage(bench.large(30)) as storage:
        sweep = Sweep.open(LARGE, storage=storage)
        told = replay(sweep.history())
        assert told.sweep == sweep.state, "the sweep written in bulk is not what its history says"
        assert list(told.runs.values()) == list(storage.runs(LARGE, ByIndex(), limit=100)), "its runs are not"


def opening(bench: Bench) -> Iterator[Row]:
    """Opening the file and the sweep: time, and what is read from the disk or its cache."""
    large = bench.scale.large
    files = {count: bench.large(count) for count in (10, large)}
    peers: dict[str, Batch] = {f"a sweep of {count:,}": opener(path) for count, path in files.items()}
    times = interleaved(peers, 25, 1, time.perf_counter)
    small, big = peers
    show("Time to open", times, small)
    read = {count: bytes_read(opener(path)) for count, path in files.items()}
    print("  " + ", ".join(f"{each:,} B read of {count:,} runs" for count, each in read.items()))
    print(f"  size on disk: {size_of(files[large]) / large:.0f} B a run, of {large:,}")
    yield Row(f"to open {large:,} runs, to 10: bytes read", read[large] / read[10], 1.0)
    yield Row(f"to open {large:,} runs, to 10: time", ratio(times, big, small), 1.5)


def opener(path: str) -> Batch:
    def batch(count: int) -> None:
        for _ in range(count):
            with SQLiteStorage(path) as storage:
                Sweep.open(LARGE, storage=storage)

    return batch


def bytes_read(batch: Batch) -> int:
    """Return how many bytes the system gave to this process meanwhile (Linux; elsewhere nobody counts)."""
    counters = Path("/proc/self/io")
    if not counters.exists():
        return 1

    def read() -> int:
        return int(counters.read_text().split()[1])

    before = read()
    between = read()  # the file of the counters is read too
    batch(1)
    return read() - between - (between - before)


def memory(bench: Bench) -> Iterator[Row]:
    """The memory of a process: on a small and on a large sweep, and after few and after many runs."""
    large, many = bench.scale.large, bench.scale.rounds * 100
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:  # a new process for each
        small, big = (pool.apply(memory_of, (bench.large(count), 300)) for count in (SMALL, large))
        longer = pool.apply(memory_of, (bench.large(SMALL), many))
    print("\nMemory of a process that did every command and 300 lives (the most it ever had)")
    print(
        f"  in a sweep of {SMALL:,} runs {small:,} kB, of {large:,} runs {big:,} kB; after {many:,} lives {longer:,} kB"
    )
    yield Row(f"memory in a sweep of {large:,} runs to {SMALL:,}", big / small, 1.05)
    yield Row(f"memory after {many:,} lives to 300", longer / small, 1.05)


def memory_of(path: str, count: int) -> int:
    """Return the most memory this process ever had, in kB, after commands and lives."""
    with SQLiteStorage(path, synchronous="NORMAL") as storage:
        sweep = Sweep.open(LARGE, storage=storage)
        round_of_commands(sweep, storage, Times())
        three_calls(sweep)(count)
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not ru_maxrss, to which Linux counts what the parent had when it made this process.
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))


# --- a server ----------------------------------------------------------------------------------------------------


def server(bench: Bench) -> Iterator[Row]:
    """PostgreSQL, against its own single-row commits."""
    url = os.environ.get("SWEEPSTATE_POSTGRESQL_URL")
    if url is None:
        print("\n(SWEEPSTATE_POSTGRESQL_URL names no database: PostgreSQL is left out)")
        return
    scale = bench.scale
    with Server(url) as place:
        times = timed_lives(place.lives(), scale)
        show("One run's life on PostgreSQL, to three commits of one row each", times, "three bare commits")
        rates = {count: [place.contend(count, scale.seconds) for _ in range(scale.contests)] for count in (1, 4, 8)}
        line = "".join(f"{count:>4}: {median(rate):>7.1f}" for count, rate in rates.items())
        print(f"  lives a second of 1, 4 and 8 processes {line}   8 to 1: {shared(rates):.2f}")
        small, big = place.commands((SMALL, scale.large), scale.rounds)
        yield from compared("PostgreSQL", small, big, scale.large)


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "lives": lives,
    "contention": contention,
    "commands": commands,
    "opening": opening,
    "memory": memory,
    "server": server,
}


if __name__ == "__main__":
    main()
