"""Bugs of the field about handing out: repeated, skipped, forgotten and raced-for configurations.

The numbers are those of shared/design/field-bugs.md; each docstring says what happened there, and the trace what
must hold here.
"""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from sweepstate import (
    Change,
    Event,
    Exhausted,
    GoingReason,
    Grid,
    History,
    Idle,
    IdleReason,
    Limits,
    MemoryStorage,
    Random,
    Run,
    RunState,
    RunStatus,
    Sweep,
    SweepStatus,
    Wait,
    health,
    work,
)
from sweepstate.core.questions import ByIndex, RunQuery
from sweepstate.search.distributions import Uniform
from tests.fakes import Busy, Clock, grid, sweep_of, take


def in_parallel(agents: int, work: Callable[[int], None]) -> None:
    """Run a function in so many threads that begin at once, and raise what one of them raised."""
    barrier = threading.Barrier(agents)
    errors: list[BaseException] = []

    def body(number: int) -> None:
        try:
            barrier.wait(30)
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(number,), daemon=True) for number in range(agents)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "an agent hangs"
    if errors:
        raise errors[0]


def explore_in_parallel(sweep: Sweep, agents: int) -> list[tuple[int, int]]:
    """Let agents ask until they are sent home; return (agent, x) for each run executed."""
    done: list[tuple[int, int]] = []

    def work(number: int) -> None:
        handle = Sweep.open(sweep.id, storage=sweep.storage)
        while run := handle.next_run(f"agent-{number}"):
            assert isinstance(run, Run)
            run.start(f"host-{number}")
            done.append((number, run.config["x"]))
            run.finish()

    in_parallel(agents, work)
    return done


def test_01_parallel_agents_never_repeat_a_grid_point() -> None:
    """wandb/wandb#8549, #10105: a grid of 13,020 points made 17,961 runs when agents asked in parallel."""
    # given a grid and agents that ask at once, each with a handle of its own
    sweep = Sweep(Grid({"x": range(400)}), storage=MemoryStorage())
    # when they ask until there is nothing more
    done = explore_in_parallel(sweep, agents=6)
    # then every point was executed exactly once
    assert sorted(x for _, x in done) == list(range(400))
    assert sweep.refresh().counts[RunStatus.FINISHED] == 400
    assert sweep.status is SweepStatus.FINISHED


def test_02_a_grid_ends_after_its_last_point_and_not_before() -> None:
    """wandb/wandb#2376: a grid ended after 20 of 36 points."""
    # given a grid of 36 points, of which every third fails and some are withdrawn from, killed and tried again
    sweep, _ = sweep_of(search=Grid({"a": range(6), "b": range(6)}), limits=Limits(retries={RunStatus.FAILED: 1}))
    # when agents ask until they are told that it has ended
    points = set()
    while run := sweep.next_run():
        assert isinstance(run, Run)
        points.add((run.config["a"], run.config["b"]))
        if run.index % 3 == 0:
            run.start()
            run.fail("no")
        elif run.index % 7 == 0 and run.attempt == 1:
            run.release()
        else:
            run.start()
            run.finish()
    # then all 36 were proposed: exhaustion comes from the space, not from a count of runs or of ends
    assert len(points) == 36
    assert sweep.state.created == 36
    assert run == Idle(IdleReason.ENDED)


def test_03_the_cursor_does_not_depend_on_how_many_runs_a_listing_shows() -> None:
    """wandb/wandb#5247: "seen" was derived from a listing cut at 500 runs, so points repeated."""

    class Stingy(MemoryStorage):
        """Answers no more than three rows, whatever the limit."""

        def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
            return super().runs(sweep_id, query, after=after, limit=min(limit, 3))

    # given a storage whose listings are cut at three runs
    sweep, _ = sweep_of(600, storage=Stingy())
    # when more than 500 runs were created
    seen = [take(sweep).config["x"] for _ in range(600)]
    # then none repeats, because the cursor is part of the sweep's snapshot
    assert seen == list(range(600))
    assert sweep.state.created == 600


def test_11_one_preempted_run_goes_to_one_agent() -> None:
    """W&B docs, signal handling, known limitation: two agents raced for one preempted run."""
    for _ in range(20):
        # given a run that was preempted and waits to be handed out again
        sweep, _ = sweep_of(2)
        run = take(sweep)
        run.mark_preempting()
        run.exited(143)
        assert sweep[0].status is RunStatus.PENDING
        # when two agents ask at once
        got: list[Run | Idle] = []
        in_parallel(2, lambda number, sweep=sweep, got=got: got.append(sweep.next_run(f"agent-{number}")))  # type: ignore[misc]
        # then one has it, as its second attempt, and the other has something else
        assert sorted((run.index, run.attempt) for run in got if isinstance(run, Run)) == [(0, 2), (1, 1)]


def test_17_a_worker_stops_itself_when_it_flaps() -> None:
    """wandb/wandb#5088, #1655: one bad machine burned hundreds of configurations."""
    sweep, _ = sweep_of(200)

    def burn(run: Run) -> None:
        raise OSError("no GPU")

    # given a machine on which every run fails at once, and one on which they take their time
    # when the bad one works until it goes home
    going = work(sweep, burn, name="bad")
    # then it went by itself, says why, and has burned three configurations and no more
    assert (going.reason, going.counts) == (GoingReason.FLAPPING, {RunStatus.FAILED: 3})
    assert "3 runs failed in the first 60 s" in str(going)
    # and health names it, with the evidence
    (agent,) = health(sweep).agents
    assert (agent.agent, agent.evidence.failed, agent.evidence.of) == ("bad", 3, 3)
    # and the sweep goes on without it: the others execute the rest, and can make up for what was burned
    assert sweep.refresh().status is SweepStatus.RUNNING
    sweep.retry({RunStatus.FAILED})
    assert work(sweep, lambda run: None, name="good").counts == {RunStatus.FINISHED: 200}
    (agent,) = health(sweep).agents
    assert (agent.agent, agent.suspect, agent.evidence.others_failed, agent.evidence.others) == ("bad", True, 0, 200)


def test_19_the_cap_is_exact_over_all_agents() -> None:
    """optuna/optuna#3518, #2907: the cap callback gave n+m trials; the cap was per process."""
    # given a cap of 50 and a search that never ends
    sweep = Sweep(Random({"x": [1, 2, 3]}), storage=MemoryStorage(), limits=Limits(run_cap=50))
    # when several agents ask until they are sent home
    done = explore_in_parallel(sweep, agents=6)
    # then 50 runs were created, exactly; and a retry is not a new run
    assert len(done) == sweep.refresh().state.created == 50
    sweep, _ = sweep_of(search=Random({"x": [1, 2, 3]}), limits=Limits(run_cap=2, retries=1))
    for _ in range(4):
        take(sweep).fail("no")
    assert sweep.next_run() == Idle(IdleReason.ENDED)
    assert [run.attempt for run in sweep.runs()] == [2, 2]


def test_20_the_order_in_which_agents_finish_repeats_no_point() -> None:
    """optuna/optuna#4627, #5139, #5489: the grid sampler repeated points in parallel, as it looked at what was done."""
    # given agents that all hold runs of which none has ended
    sweep, _ = sweep_of(search=Grid({"a": ["x", True, 1, None], "b": [0.1, float("nan")]}))
    runs = [take(sweep, f"agent-{n}") for n in range(8)]
    # when they end in another order, and somebody asks again
    for run in reversed(runs):
        run.finish()
    # then each has its own point, also where values compare equal (True and 1) or not even to themselves (NaN)
    assert len({repr(dict(run.config)) for run in runs}) == 8
    assert sweep.next_run() == Idle(IdleReason.ENDED)


def test_21_a_resumed_random_search_goes_on_with_new_samples() -> None:
    """optuna/optuna#3255: a resumed study repeated its first samples."""
    # given a random search, as it would go without interruption
    search = Random({"lr": Uniform(0.0, 1.0)}, seed=3)
    whole, _ = sweep_of(search=search, limits=Limits(run_cap=10))
    expected = [take(whole).config["lr"] for _ in range(10)]
    # when another process opens the sweep after every single run
    storage = MemoryStorage()
    sweep_of(search=search, limits=Limits(run_cap=10), storage=storage)
    resumed = [take(Sweep.open("s", storage=storage, clock=Clock())).config["lr"] for _ in range(10)]
    # then the samples are the same, and none repeats: they depend on seed and index only
    assert resumed == expected
    assert len(set(resumed)) == 10


def test_22_a_failed_cell_is_visited_visible_and_can_be_retried() -> None:
    """optuna/optuna#3256: a failed cell counted as visited, and the grid was called complete."""
    # given a grid whose one cell failed
    sweep, _ = sweep_of(3)
    sweep.execute(lambda run: 1 / run.config["x"] and None)
    # then the sweep has FINISHED, and says what failed, and why
    assert sweep.status is SweepStatus.FINISHED
    (failed,) = sweep.runs(status=RunStatus.FAILED)
    assert failed.config["x"] == 0
    assert str(failed.message).startswith("ZeroDivisionError: division by zero (at ")
    # when it is reopened for the failed ones
    sweep.reopen(retry={RunStatus.FAILED})
    sweep.execute(lambda run: None)
    # then exactly that cell is executed again
    assert [(run.index, run.attempt, run.status) for run in sweep.runs()] == [
        (0, 2, RunStatus.FINISHED),
        (1, 1, RunStatus.FINISHED),
        (2, 1, RunStatus.FINISHED),
    ]


def test_23_two_workers_never_have_the_same_waiting_run() -> None:
    """optuna/optuna#4002, PR#1014: two workers popped the same waiting trial. (Processes: test_storage.py.)"""
    # given 100 runs that wait in the queue
    sweep, _ = sweep_of(100, storage=MemoryStorage())
    for run in [take(sweep, start=False) for _ in range(100)]:
        run.release()
    assert sweep.state.pending == 100
    # when workers ask at once for all of them
    done = explore_in_parallel(sweep, agents=6)
    # then each went to one of them
    assert sorted(x for _, x in done) == list(range(100))
    assert {run.attempt for run in sweep.runs()} == {2}


def test_26_neither_claiming_nor_listing_reads_all_runs() -> None:
    """optuna/optuna#763, #5948: listing, and claiming, cost time proportional to all trials."""

    class Counting(MemoryStorage):
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
        storage = Counting()
        sweep, clock = sweep_of(runs + 10, storage=storage, limits=Limits(max_active=4, retries=1))
        for _ in range(runs):
            take(sweep).finish()
        read: Counter[str] = Counter()

        def measure(what: str, work: Callable[[], object]) -> None:
            before = storage.rows
            work()
            read[what] = storage.rows - before

        held: list[Run] = []
        measure("claim", lambda: held.append(take(sweep)))
        measure("finish", held[0].finish)
        measure("fail and retry", lambda: take(sweep).fail())
        held.append(take(sweep))
        measure("beat", held[1].heartbeat)
        clock.wait(1_000)
        measure("tick", sweep.tick)
        measure("pause and resume", lambda: (sweep.pause(), sweep.resume()))
        measure("first of a listing", lambda: next(sweep.runs(status=RunStatus.RUNNING)))
        measure("stop", sweep.stop)
        measure("retry all", lambda: sweep.reopen(retry={RunStatus.FAILED, RunStatus.KILLED}))
        measure("cancel", sweep.cancel)
        return read

    # given a sweep of 20 runs, and one of 400
    few, many = rows_read(20), rows_read(400)
    # then every command reads the same few rows in both
    assert few == many
    assert max(many.values()) < 12


def test_29_cursor_and_run_move_together() -> None:
    """ray-project/ray#30861, #14667: resuming restored the wrong or an incoherent search state."""

    class Dying(MemoryStorage):
        """Dies right before, or right after, a commit is written."""

        dies: str = ""

        def commit(self, change: Change) -> None:
            if self.dies == "before":
                raise OSError("power cut")
            super().commit(change)
            if self.dies == "after":
                raise OSError("power cut")

    for moment in ("before", "after"):
        # given a process that dies while it hands out run 1
        storage = Dying()
        sweep, _ = sweep_of(3, storage=storage)
        take(sweep)
        storage.dies = moment
        with pytest.raises(OSError, match="power cut"):
            sweep.next_run("agent", "req-1")
        storage.dies = ""
        # when another process resumes, and the agent asks again with the same request
        resumed = Sweep.open("s", storage=storage, clock=Clock())
        run = take(resumed, "agent", "req-1", start=False)
        # then neither is a configuration lost nor handed out twice, whenever the process died
        assert (run.index, run.config["x"]) == (1, 1)
        assert [take(resumed).config["x"] for _ in range(1)] == [2]
        assert resumed.state.created == 3


def test_30_queued_runs_are_still_queued_after_a_restart() -> None:
    """ray-project/ray#12347: queued trials were forgotten on resume."""
    # given a run that is queued again, in a sweep that is paused
    storage = MemoryStorage()
    sweep, _ = sweep_of(3, storage=storage)
    take(sweep)
    take(sweep, start=False).release()
    sweep.pause()
    # when everything but the storage is gone, and somebody resumes
    del sweep
    sweep = Sweep.open("s", storage=storage, clock=Clock())
    assert sweep.next_run() == Idle(IdleReason.PAUSED)
    sweep.resume()
    # then the queued run comes first, with its configuration
    run = take(sweep)
    assert (run.index, run.attempt, run.config["x"]) == (1, 2, 1)


def test_39_no_answer_is_a_bare_boolean() -> None:
    """mlflow#25830: a storage returned the wrong boolean, and queued trials were never run."""

    class Confused(MemoryStorage):
        """Commits, and answers nonsense."""

        def commit(self, change: Change) -> None:
            super().commit(change)
            return False  # type: ignore[return-value]

    # given a storage whose commit returns False although it succeeded
    sweep, _ = sweep_of(2, storage=Confused())
    take(sweep, start=False).release()
    # when an agent asks
    runs = [take(sweep), take(sweep)]
    # then it has the queued run and the next one: a commit says no by raising, and only so
    assert [(run.index, run.attempt) for run in runs] == [(0, 2), (1, 1)]
    # and "nothing" is not a boolean either: it says why
    assert repr(sweep.next_run()) == "Idle(reason=<IdleReason.DRAINING: 'draining'>)"


def test_a_proposal_that_lost_a_race_is_used_again() -> None:
    """Of 29: a search that remembers what it proposed is neither asked twice for an index, nor out of step."""

    class Sequential:
        """Proposes 0, 1, 2, ... by how often it was asked, and keeps what was discarded."""

        size: int | None = None

        def __init__(self) -> None:
            self.asked = 0
            self.discarded: list[Mapping[str, Any]] = []

        def propose(self, index: int, history: History) -> Mapping[str, Any] | Wait | Exhausted:
            self.asked += 1
            return {"x": self.asked - 1}

        def discard(self, index: int, config: Mapping[str, Any]) -> None:
            self.discarded.append(config)

    # given a storage in which ten others come first
    search, storage = Sequential(), Busy(10)
    sweep, _ = sweep_of(search=search, storage=storage, limits=Limits(run_cap=2))
    # when a run is asked for
    run = take(sweep, start=False)
    # then the search was asked once, and its proposal was used
    assert (run.config["x"], search.asked, search.discarded) == (0, 1, [])


def test_pickled_handles_share_the_storage_of_their_process() -> None:
    """Of 19: two copies of a storage would each hand out the same runs; there is never a copy."""
    sweep = Sweep(grid(4), storage=MemoryStorage())
    copy = pickle.loads(pickle.dumps(sweep))
    assert [take(handle).config["x"] for handle in (sweep, copy, sweep, copy)] == [0, 1, 2, 3]
    rows = sweep.storage.runs(sweep.id, ByIndex(), limit=10)
    assert [row.config["x"] for row in rows] == [0, 1, 2, 3]
