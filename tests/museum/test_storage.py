"""Bugs of the field on a real storage: a file, several handles of it, and processes that race and die.

What these traces show in memory is in the other files; here it is shown where it really happened. What another
process does is in ``elsewhere.py``.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sweepstate import (
    Answer,
    Cause,
    Event,
    FailureRule,
    Grid,
    Idle,
    IdleReason,
    Limits,
    MemoryStorage,
    Random,
    Run,
    RunState,
    RunStatus,
    SQLiteStorage,
    StaleAttempt,
    StorageError,
    Sweep,
    SweepNotFound,
    SweepstateError,
    SweepStatus,
)
from sweepstate.core.questions import Leased, RunQuery
from sweepstate.search.distributions import Uniform
from sweepstate.testing import StorageContract, check_laws
from sweepstate.testing.contract.together import Child, in_processes
from tests.fakes import grid, names, sweep_of, take
from tests.museum import elsewhere
from tests.museum.test_silence import lose


@pytest.fixture
def storage(tmp_path: Path) -> SQLiteStorage:
    return SQLiteStorage(tmp_path / "sweeps.db", synchronous="NORMAL")


def again(storage: SQLiteStorage, **hooks: Any) -> Sweep:
    """Open the sweep anew, as another process would: nothing is left but the file."""
    return Sweep.open("s", storage=SQLiteStorage(storage.path, create=False), **hooks)


def in_parallel(storage: SQLiteStorage, *agents: str) -> list[list[Any]]:
    """Let agents in processes of their own ask at once until they are sent home; return what each executed."""
    return in_processes(elsewhere.explore, *((storage, agent) for agent in agents))


# --- processes that ask at once -------------------------------------------------------------------


def test_01_parallel_processes_never_repeat_a_grid_point(storage: SQLiteStorage) -> None:
    """wandb/wandb#8549, #10105: a grid of 13,020 points made 17,961 runs when agents asked in parallel."""
    # given a grid in a file, and agents in processes of their own
    sweep = Sweep(grid(60), id="s", storage=storage)
    # when they ask until there is nothing more
    done = in_parallel(storage, "one", "two", "three")
    # then every point was executed exactly once, and the sweep has ended by itself
    assert sorted(point for each in done for point in each) == list(range(60))
    assert sweep.refresh().counts[RunStatus.FINISHED] == sweep.state.created == 60
    assert sweep.status is SweepStatus.FINISHED
    check_laws(storage, "s")


def test_19_the_cap_is_exact_over_all_processes(storage: SQLiteStorage) -> None:
    """optuna/optuna#3518, #2907: the cap callback gave n+m trials; the cap was per process."""
    # given a cap of 25 and a search that never ends
    sweep = Sweep(Random({"x": [1, 2, 3]}), id="s", storage=storage, limits=Limits(run_cap=25))
    # when processes ask until they are sent home
    done = in_parallel(storage, "one", "two")
    # then 25 runs were created, exactly
    assert sum(len(each) for each in done) == sweep.refresh().state.created == 25
    check_laws(storage, "s")


def test_23_two_processes_never_have_the_same_waiting_run(storage: SQLiteStorage) -> None:
    """optuna/optuna#4002, PR#1014: two workers popped the same waiting trial; on SQLite, 12 to 15 of 100 still."""
    # given 50 runs that wait in the queue
    sweep = Sweep(grid(50), id="s", storage=storage)
    for run in [take(sweep, start=False) for _ in range(50)]:
        run.release()
    assert sweep.state.pending == 50
    # when processes ask at once for all of them
    done = in_parallel(storage, "one", "two", "three")
    # then each went to one of them
    assert sorted(point for each in done for point in each) == list(range(50))
    assert {run.attempt for run in sweep.runs()} == {2}
    check_laws(storage, "s")


def test_20_points_that_compare_equal_come_once_also_from_a_file(storage: SQLiteStorage) -> None:
    """optuna/optuna#4627, #5139, #5489: the grid sampler repeated points in parallel, as it looked at what was done."""
    # given points that compare equal (True and 1), or not even to themselves (NaN), and agents that know only the file
    Sweep(Grid({"a": ["x", True, 1, None], "b": [0.1, float("nan")]}), id="s", storage=storage)
    # when each takes one before any has ended, and they end in another order
    runs = [take(again(storage), f"agent-{n}") for n in range(8)]
    for run in reversed(runs):
        run.finish()
    # then each had its own, and there are no more
    assert len({repr(dict(run.config)) for run in runs}) == 8
    assert again(storage).next_run() == Idle(IdleReason.ENDED)


# --- what is not derived from a listing -----------------------------------------------------------


def test_03_the_cursor_is_in_the_file_and_not_in_a_listing(storage: SQLiteStorage) -> None:
    """wandb/wandb#5247: "seen" was derived from a listing cut at 500 runs, so points repeated."""

    class Stingy(SQLiteStorage):
        """Answers no more than three rows, whatever the limit."""

        def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
            return super().runs(sweep_id, query, after=after, limit=min(limit, 3))

    # given a storage whose listings are cut at three runs, and more than 500 runs
    Sweep(grid(520), id="s", storage=storage)
    seen: list[int] = []
    # when the process is another one after every 130 of them
    for _ in range(4):
        sweep = Sweep.open("s", storage=Stingy(storage.path, synchronous="NORMAL"))
        seen += [take(sweep, start=False).config["x"] for _ in range(130)]
    # then none repeats, because the cursor is part of the sweep's snapshot
    assert seen == list(range(520))
    assert again(storage).state.created == 520


def test_21_a_random_search_goes_on_in_the_next_process(storage: SQLiteStorage) -> None:
    """optuna/optuna#3255: a resumed study repeated its first samples."""
    # given a random search, as it would go without interruption
    search = Random({"lr": Uniform(0.0, 1.0)}, seed=3)
    whole, _ = sweep_of(search=search, limits=Limits(run_cap=6))
    expected = [take(whole).config["lr"] for _ in range(6)]
    # when it lives in a file, and is opened anew for every run, with the search that is stored there
    Sweep(search, id="s", storage=storage, limits=Limits(run_cap=6))
    resumed = [take(again(storage)).config["lr"] for _ in range(6)]
    # then the samples are the same, and none repeats
    assert resumed == expected
    assert len(set(resumed)) == 6


def test_26_neither_claiming_nor_listing_reads_all_rows_of_a_file(tmp_path: Path) -> None:
    """optuna/optuna#763, #5948: listing, and claiming, cost time proportional to all trials."""

    class Counting(SQLiteStorage):
        """Counts the rows that it returns."""

        rows = 0

        def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
            found = super().runs(sweep_id, query, after=after, limit=limit)
            self.rows += len(found)
            return found

        def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
            found = super().events(sweep_id, after=after, limit=limit)
            self.rows += len(found)
            return found

    def rows_read(runs: int) -> Counter[str]:
        storage = Counting(tmp_path / f"{runs}.db", synchronous="NORMAL")
        sweep, clock = sweep_of(runs + 10, storage=storage, limits=Limits(max_active=4, retries=1))
        for _ in range(runs):
            take(sweep, start=False).finish()
        read: Counter[str] = Counter()

        def measure(what: str, work: Callable[[], object]) -> None:
            before = storage.rows
            work()
            read[what] = storage.rows - before

        held: list[Run] = []
        measure("claim", lambda: held.append(take(sweep)))
        measure("beat", held[0].heartbeat)
        measure("finish", held[0].finish)
        measure("fail and retry", lambda: take(sweep).fail())
        held.append(take(sweep))
        clock.wait(1_000)
        measure("tick", sweep.tick)
        measure("first of a listing", lambda: next(sweep.runs(status=RunStatus.RUNNING)))
        measure("stop", sweep.stop)
        measure("retry all", lambda: sweep.reopen(retry={RunStatus.FAILED, RunStatus.KILLED}))
        measure("cancel", sweep.cancel)
        return read

    # given a file with a sweep of 20 runs, and one with a sweep of 300
    few, many = rows_read(20), rows_read(300)
    # then every command reads the same few rows in both
    assert few == many
    assert max(many.values()) < 12


# --- files that were torn -------------------------------------------------------------------------


def test_25_a_commit_is_whole_or_absent_wherever_a_file_was_cut(storage: SQLiteStorage, tmp_path: Path) -> None:
    """optuna/optuna#5138: half-written lines on a network disk made the study unreadable."""
    # given a file, and the end of its log as if its writer had died, or the power had gone, at any point
    sweep = Sweep(grid(9), id="s", storage=storage)
    take(sweep)
    take(sweep).finish()
    cut = tmp_path / "cut.db"
    shutil.copy(storage.path, cut)
    log = Path(f"{storage.path}-wal").read_bytes()
    found = set()
    for length in range(0, len(log), 997):
        for left in tmp_path.glob("cut.db-*"):
            left.unlink()
        Path(f"{cut}-wal").write_bytes(log[:length])
        # when it is opened
        with SQLiteStorage(cut) as opened:
            try:
                found.add(opened.sweep("s").version)
            except SweepNotFound:
                found.add(0)
            else:
                # then what is there is whole, and goes on
                check_laws(opened, "s")
                assert Sweep.open("s", storage=opened).next_run()
        shutil.copy(storage.path, cut)
    assert found >= set(range(storage.sweep("s").version)), "every version was met, and nothing in between"


def _overwritten(path: Path) -> None:
    path.write_bytes(b"half a line" * 400)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 100])


def _shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def _body_torn(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE run SET body = substr(body, 1, length(body) / 2)")
        connection.commit()


def _snapshot_torn(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE sweep SET body = substr(body, 1, length(body) / 2)")
        connection.commit()


@pytest.mark.parametrize("tear", [_overwritten, _cut, _shortened, _body_torn, _snapshot_torn])
def test_25_a_torn_file_is_a_clear_error_that_names_it(tmp_path: Path, tear: Callable[[Path], None]) -> None:
    """As above: and never a sweep that lacks what it had."""
    # given a file that was torn while nobody had it open
    path = tmp_path / "sweeps.db"
    with SQLiteStorage(path) as storage:
        sweep = Sweep(grid(300), id="s", storage=storage)
        for _ in range(40):
            take(sweep, start=False)
    tear(path)
    # when it is read
    with pytest.raises(StorageError) as refused, SQLiteStorage(path) as opened:
        check_laws(opened, "s")
    # then the error names the file, and what to do
    assert str(path) in str(refused.value)
    assert "backup" in str(refused.value)


# --- processes that die ---------------------------------------------------------------------------


def test_18_a_killed_process_does_not_leave_its_run_running_for_ever(storage: SQLiteStorage) -> None:
    """optuna/optuna#485, hyperopt/hyperopt#270: a killed process left its trial running for ever."""
    # given a process that has begun a run, in a sweep of one slot, and is killed
    sweep, clock = sweep_of(3, storage=storage, limits=Limits(max_active=1))
    child = Child(elsewhere.promise_and_wait, storage, clock)
    try:
        token = child.hear()
        child.kill()
    finally:
        child.close()
    run = sweep.run_of(token)
    assert (run.status, sweep.next_run("other")) == (RunStatus.RUNNING, Idle(IdleReason.AT_CAPACITY))
    # when time passes, and anybody ticks
    lose(sweep, clock)
    # then it is CRASHED, with its cause, and its slot is free
    assert (run.refresh().status, run.cause) == (RunStatus.CRASHED, Cause.LOST)
    assert take(sweep, "other").index == 1
    check_laws(storage, "s")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_29_cursor_and_run_move_together_when_a_process_dies(storage: SQLiteStorage, moment: str) -> None:
    """ray-project/ray#30861, #14667: resuming restored the wrong or an incoherent search state."""
    # given a process that dies right before, or right after, its commit, while it hands out run 1
    sweep = Sweep(grid(3), id="s", storage=storage)
    take(sweep)
    child = Child(elsewhere.die_while_handing_out, storage.path, moment)
    with pytest.raises(EOFError):
        child.hear()
    child.close()
    assert storage.sweep("s").created == (2 if moment == "after" else 1)
    # when another process resumes, and the agent asks again with the same request
    resumed = again(storage)
    run = take(resumed, "agent", "req-1", start=False)
    # then neither is a configuration lost nor handed out twice, whenever it died
    assert (run.index, run.config["x"]) == (1, 1)
    assert take(resumed).config["x"] == 2
    assert resumed.state.created == 3
    check_laws(storage, "s")


def test_30_queued_runs_are_still_queued_in_the_next_process(storage: SQLiteStorage) -> None:
    """ray-project/ray#12347: queued trials were forgotten on resume."""
    # given a run that is queued again, in a sweep that is paused, and nothing else left of its process
    with storage:
        sweep = Sweep(grid(3), id="s", storage=storage)
        take(sweep)
        take(sweep, start=False).release()
        sweep.pause()
    # when somebody resumes it
    sweep = again(storage)
    assert sweep.next_run() == Idle(IdleReason.PAUSED)
    again(storage).resume()
    # then the queued run comes first, with its configuration
    run = take(sweep)
    assert (run.index, run.attempt, run.config["x"]) == (1, 2, 1)


# --- several handles of one sweep -----------------------------------------------------------------


def test_28_a_sweep_is_stopped_from_another_process(storage: SQLiteStorage) -> None:
    """optuna/optuna#966, #3154: a study could be stopped only from inside its loop."""
    # given a process in the middle of its training
    sweep = Sweep(grid(3), id="s", storage=storage)
    child = Child(elsewhere.train, storage)
    try:
        assert child.hear() == 1
        child.say("go on")
        assert child.hear() == 2
        # when somebody here stops its run, and then the sweep
        sweep[0].stop("enough", actor="ada")
        sweep.stop("enough", actor="ada")
        child.say("go on")
        # then the training is told, and ends
        assert child.hear() == (2, "KILLED", "STOPPED")
    finally:
        child.close()
    assert (sweep[0].cause, sweep.refresh().done) == (Cause.STOPPED, True)


@pytest.mark.parametrize("fate", ["kill", "lose", "lose and retry", "cancel"])
def test_24_a_worker_survives_what_others_did_to_its_run(storage: SQLiteStorage, fate: str) -> None:
    """optuna/optuna#5470: a worker died of an exception in user code, as its trial had been marked failed."""
    # given a worker, and another process that decides about its run while it computes
    sweep, clock = sweep_of(2, storage=storage)
    run = take(sweep)
    run.heartbeat()
    with run:
        other = again(storage, clock=clock)
        if fate.startswith("lose"):
            lose(other, clock)
        else:
            getattr(other if fate == "cancel" else other[0], fate)()
        if fate.endswith("retry"):
            other[0].retry()
        verdict = other[0].status
    # when it ends well, then nothing is raised; the report settled a presumption, or was recorded
    assert other[0].status is (RunStatus.FINISHED if fate == "lose" else verdict)
    assert ("LateReport" in names(tuple(other.history()))) is (fate != "lose")
    check_laws(storage, "s")


def test_37_an_old_attempt_cannot_start_through_any_handle(storage: SQLiteStorage) -> None:
    """apache/airflow#39717, #52754: executor and database disagreed about who runs a task."""
    # given an executor that was too slow to begin, so that another process handed the run on
    sweep, clock = sweep_of(1, storage=storage, limits=Limits(start_timeout=60))
    old = sweep.next_run("slow")
    assert not isinstance(old, Idle)
    clock.wait(60)
    new = take(again(storage, clock=clock), "quick")
    assert (new.index, new.attempt) == (0, 2)
    # when the slow one begins after all, through the handle that it has
    with pytest.raises(StaleAttempt) as refused:
        old.start()
    # then it is refused, told why, and what it says about an end is kept as evidence
    assert (refused.value.attempt, refused.value.current) == (1, 2)
    assert old.heartbeat() is Answer.KILL
    assert names(old.finish(loss=0.0)) == ["LateReport"]
    new.finish(loss=1.0)
    assert dict(sweep[0].metrics) == {"loss": 1.0}
    check_laws(storage, "s")


def test_38_a_late_release_does_not_break_the_counters_in_a_file(storage: SQLiteStorage) -> None:
    """apscheduler#1116: a lease expired, a job ran twice, and its late release broke the counters for good."""
    # given a run whose lease expired and that another process executes, in a sweep of one slot
    sweep, clock = sweep_of(2, storage=storage, limits=Limits(max_active=1))
    first = take(sweep, "first", start=False)
    clock.wait(300)
    second = take(again(storage, clock=clock), "second")
    assert (second.index, second.attempt) == (0, 2)
    # when the first one releases, says that it is gone, and reports its end, twice each
    for _ in range(2):
        first.release()
        first.gone()
        first.finish()
    # then the counts are those of the rows, and the slot is taken once
    assert sweep.refresh().state.leased == len(storage.runs("s", Leased(), limit=9)) == 1
    assert sweep.counts[RunStatus.RUNNING] == 1
    assert sweep.next_run("third") == Idle(IdleReason.AT_CAPACITY)
    second.finish()
    assert again(storage).state.leased == 0
    check_laws(storage, "s")


# --- what a storage says, and what it cannot say --------------------------------------------------


def test_39_a_storage_that_says_no_by_a_boolean_does_not_pass_the_contract(storage: SQLiteStorage) -> None:
    """mlflow#25830: a storage returned the wrong boolean, and queued trials were never run."""

    class Refusing(MemoryStorage):
        """Hands nothing out, and says so by a boolean that nobody reads."""

        def commit(self, change: Any) -> None:
            if change.version == 0:
                super().commit(change)
                return None
            return False  # type: ignore[return-value]

    # given a storage that says no by a boolean, and what the contract tries of claiming
    contract = StorageContract()
    claims = [
        contract.test_what_was_committed_is_there,
        contract.test_queued_runs_come_by_index,
        contract.test_threads_claim_every_point_once,
    ]
    # when they are tried, then they fail: a commit says no by raising, and only so
    for number, test in enumerate(claims):
        with pytest.raises((AssertionError, SweepstateError)):
            test(Refusing())
        # and the storage of this library passes
        test(SQLiteStorage(storage.path.with_name(f"{number}.db"), synchronous="NORMAL"))


def test_43_an_outage_of_the_storage_costs_nothing(tmp_path: Path) -> None:
    """Found in review: an outage of the storage made every run look silent, and the failure limit ended the sweep."""
    # given runs that beat, a failure rule, and somebody who locks the file for a day
    storage = SQLiteStorage(tmp_path / "sweeps.db", timeout=0.01)
    sweep, clock = sweep_of(30, storage=storage, limits=Limits(failure=FailureRule(streak=3)))
    runs = [take(sweep, f"agent-{n}") for n in range(6)]
    for run in runs:
        run.heartbeat()
    with closing(sqlite3.connect(storage.path, isolation_level=None)) as intruder:
        intruder.execute("BEGIN IMMEDIATE")
        clock.wait(86_400)
        for act in (*(run.heartbeat for run in runs), sweep.tick):
            with pytest.raises(StorageError, match="was locked by others"):
                act()
    # when it is over, and the first thing afterwards is a tick
    assert set(names(sweep.tick().events)) == {"RunSuspected"}
    # then there is a second look only after they could be heard again
    clock.wait(30)
    for run in runs:
        run.heartbeat()
    clock.wait(30)
    assert set(names(sweep.tick().events)) == {"SuspicionLifted"}
    assert sweep.refresh().counts[RunStatus.RUNNING] == 6
    assert sweep.status is SweepStatus.RUNNING
    check_laws(storage, "s")
