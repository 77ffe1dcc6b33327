"""ExecutorAgent on real threads, processes and jobs; what it does with time and answers is in test_driving.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import pytest

from sweepstate import (
    AgentError,
    Cause,
    Grid,
    InvalidValue,
    Limits,
    MemoryStorage,
    Objective,
    Random,
    Run,
    RunStatus,
    SQLiteStorage,
    Storage,
    Sweep,
    SweepStatus,
    Uniform,
)
from sweepstate.agent.executor import ExecutorAgent
from sweepstate.testing import check_laws

PATIENCE = 60.0


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.01)


def is_gone(process: str) -> bool:
    """Return whether a process is not there any more, or is a zombie, which waits for its parent only."""
    try:
        return Path("/proc", process, "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def sweep_of(agent: ExecutorAgent, points: int = 3, storage: Storage | None = None, **limits: Any) -> Sweep:
    limits.setdefault("max_active", 2)
    search = Grid({"x": list(range(points))})
    return Sweep(search, id="s", agent=agent, storage=storage, limits=Limits(**limits), objective=Objective("loss"))


def driven(agent: ExecutorAgent, sweep: Sweep) -> threading.Thread:
    thread = threading.Thread(target=agent.drive, args=(sweep,), daemon=True)
    thread.start()
    return thread


def joined(thread: threading.Thread) -> None:
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the agent still drives"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture
def shared(tmp_path: Path) -> SQLiteStorage:
    return SQLiteStorage(tmp_path / "sweeps.db")


# --- functions of this module, so that other processes find them ----------------------------------


def doubled(run: Run) -> float:
    run.report(seen=1.0)
    return float(run.config["x"]) * 2.0


def doubled_config(config: Mapping[str, Any]) -> dict[str, float]:
    assert type(config) is dict
    return {"loss": config["x"] * 2.0}


class Unpicklable(Exception):
    """One that a pool of processes cannot read."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("a text")


def by_config(config: Mapping[str, Any]) -> object:
    """Do what the point says."""
    match config["x"]:
        case 0:
            raise Unpicklable(1, 2)
        case 1:
            raise KeyboardInterrupt
        case 2:
            sys.exit(3)
        case 3:
            sys.exit(0)
        case 4:
            return {"loss": "low"}
        case 5:
            return {"a set"}
        case _:
            return 0.5


def dying_at_one(config: Mapping[str, Any]) -> float:
    if config["x"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def jobs(config: Mapping[str, Any]) -> float:
    if config["x"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if config["x"] == 2:
        raise ValueError("a text")
    return 0.5


def deaf(run: Run) -> None:
    """Go on whatever is asked, also after an interrupt."""
    Path(str(run.config["place"]), f"process.{os.getpid()}").touch()
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            continue


def dying_first(config: Mapping[str, Any]) -> float:
    """Take the pool down, when another call waits in it."""
    if config["x"] == 0:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def dying_beside(config: Mapping[str, Any]) -> float:
    """Die, while another call goes on for long."""
    if config["x"] == 0:
        time.sleep(PATIENCE)
    if config["x"] == 1:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def until_stopped(run: Run) -> dict[str, float]:
    (Path(str(run.config["place"])) / f"began.{run.index}").touch()
    while not run.should_stop:
        time.sleep(0.01)
    return {"loss": 1.0}


def finishing_by_itself(run: Run) -> None:
    if run.index == 0:
        run.fail("by hand")
    else:
        run.finish(loss=3.0)


ENDS = [
    (RunStatus.FAILED, Cause.ERROR, None),
    (RunStatus.KILLED, Cause.KILLED, None),
    (RunStatus.FAILED, Cause.ERROR, 3),
    (RunStatus.FINISHED, Cause.SUCCESS, None),
    (RunStatus.FAILED, Cause.ERROR, None),
    (RunStatus.FAILED, Cause.ERROR, None),
    (RunStatus.FINISHED, Cause.SUCCESS, None),
]


# --- threads --------------------------------------------------------------------------------------


def test_threads_execute_a_sweep(threads: ThreadPoolExecutor) -> None:
    """With the run's handle, in memory."""
    agent = ExecutorAgent(threads, doubled)
    sweep = sweep_of(agent, 20)
    agent.drive(sweep)
    assert (sweep.status, sweep.done, sweep.counts[RunStatus.FINISHED]) == (SweepStatus.FINISHED, True, 20)
    assert [run.metrics["loss"] for run in sweep.runs()] == [2.0 * x for x in range(20)]
    assert {run.attempt for run in sweep.runs()} == {1}
    check_laws(sweep.storage, "s")


def ends_of(sweep: Sweep) -> list[tuple[RunStatus, Cause | None, int | None]]:
    return [(run.status, run.cause, run.state.exit_code) for run in sweep.runs()]


def test_each_end_is_what_a_run_of_ones_own_would_say(threads: ThreadPoolExecutor) -> None:
    """As from ``with run`` and ``perform``: the same statuses, causes, codes and texts."""
    agent = ExecutorAgent(threads, by_config, gives="config")
    sweep = sweep_of(agent, 7)
    agent.drive(sweep)
    apart = Sweep(Grid({"x": list(range(7))}), id="apart", objective=Objective("loss"))
    for run in apart:
        with suppress(KeyboardInterrupt, SystemExit):
            run.perform(lambda run: by_config(dict(run.config)))
    assert ends_of(sweep) == ends_of(apart)
    assert [run.message for run in sweep.runs()] == [run.message for run in apart.runs()]
    assert "a text (at" in str(sweep[0].message)
    assert "test_real_executor.py" in str(sweep[0].message)


def test_a_function_may_report_its_end_itself(threads: ThreadPoolExecutor) -> None:
    """Then nothing is reported after it."""
    agent = ExecutorAgent(threads, finishing_by_itself)
    sweep = sweep_of(agent, 2)
    agent.drive(sweep)
    assert [run.status for run in sweep.runs()] == [RunStatus.FAILED, RunStatus.FINISHED]
    assert not [event for event in sweep.history() if type(event).__name__ == "LateReport"]


def test_stopping_one_run_in_a_thread_starts_the_next(threads: ThreadPoolExecutor, tmp_path: Path) -> None:
    """Its function sees it; its metrics are kept as evidence or verdict, and the next one begins."""
    agent = ExecutorAgent(threads, until_stopped)
    search = Grid({"x": [0, 1], "place": [str(tmp_path)]})
    sweep = Sweep(search, id="s", agent=agent, limits=Limits(max_active=1), objective=Objective("loss"))
    thread = driven(agent, sweep)
    for index in range(2):
        until((tmp_path / f"began.{index}").exists, f"run {index} executes")
        sweep[index].stop()
    joined(thread)
    assert sweep.done
    assert {run.cause for run in sweep.runs()} <= {Cause.SUCCESS, Cause.STOPPED}


def test_what_waits_in_the_pool_is_cancelled(tmp_path: Path) -> None:
    """A call that has not begun never does; it is told at once, and the others go on."""
    with ThreadPoolExecutor(1) as pool:
        agent = ExecutorAgent(pool, until_stopped)
        search = Grid({"x": [0, 1], "place": [str(tmp_path)]})
        sweep = Sweep(search, id="s", agent=agent, limits=Limits(max_active=2))
        thread = driven(agent, sweep)
        until((tmp_path / "began.0").exists, "the first executes")
        until(lambda: len(list(sweep.runs())) == 2 and sweep[1].status is RunStatus.RUNNING, "the second waits")
        sweep[1].stop()
        until(lambda: sweep[1].status is RunStatus.KILLED, "the second is over")
        assert sweep[0].status is RunStatus.RUNNING
        sweep.cancel()
        joined(thread)
    assert sweep.done
    assert not (tmp_path / "began.1").exists()


def test_a_cancelled_sweep_is_done_when_its_threads_have_noticed(threads: ThreadPoolExecutor, tmp_path: Path) -> None:
    agent = ExecutorAgent(threads, until_stopped)
    search = Grid({"x": list(range(5)), "place": [str(tmp_path)]})
    sweep = Sweep(search, id="s", agent=agent, limits=Limits(max_active=2))
    thread = driven(agent, sweep)
    until(lambda: (tmp_path / "began.0").exists() and (tmp_path / "began.1").exists(), "both execute")
    sweep.cancel()
    joined(thread)
    assert (sweep.status, sweep.done, sweep.refresh().state.created) == (SweepStatus.CANCELLED, True, 2)


def test_of_an_orchestrator_that_is_gone_no_thread_executes(threads: ThreadPoolExecutor) -> None:
    """So its runs are told at once, and not after minutes of silence."""
    agent = ExecutorAgent(threads, doubled)
    sweep = sweep_of(agent, 1, retries={RunStatus.CRASHED: 1})
    run = Sweep.open("s", storage=sweep.storage).next_run(agent.name)
    assert isinstance(run, Run)
    process = get_context("spawn").Process(target=int)
    process.start()
    process.join()
    run.start(f"{socket.gethostname()}:{process.pid}:abcd", heartbeats=True)
    agent.drive(sweep)
    assert (sweep[0].status, sweep[0].attempt) == (RunStatus.FINISHED, 2)


def one(_: object) -> float:
    """Return what has no name without an objective."""
    return 1.0


def check_no_objective(agent: ExecutorAgent, storage: Storage | None = None) -> None:
    sweep = Sweep(Grid({"x": list(range(50))}), storage=storage, agent=agent, limits=Limits(max_active=2))
    with pytest.raises(InvalidValue, match="give the sweep an objective"):
        agent.drive(sweep)
    runs = list(sweep.refresh().runs())
    assert len(runs) < 10
    assert {run.status for run in runs} == {RunStatus.FAILED}
    assert "has no name" in str(runs[0].message)


@pytest.mark.parametrize("gives", ["run", "config"])
def test_a_number_without_an_objective_is_raised_as_every_run_would_fail(
    threads: ThreadPoolExecutor, gives: Literal["run", "config"]
) -> None:
    """As ``work`` and ``execute`` do; after it is reported, and nothing else is begun."""
    check_no_objective(ExecutorAgent(threads, one, gives=gives))


@pytest.mark.parametrize("gives", ["run", "config"])
def test_a_number_without_an_objective_is_known_of_other_processes_too(
    processes: ProcessPoolExecutor, shared: SQLiteStorage, gives: Literal["run", "config"]
) -> None:
    """Also if they report their own end."""
    check_no_objective(ExecutorAgent(processes, one, gives=gives), shared)


def test_the_name_is_one_of_this_machine_and_the_same_after_a_restart(threads: ThreadPoolExecutor) -> None:
    """So agents of two machines take no orders of each other, and one that comes back finds its own."""
    names = {ExecutorAgent(threads, doubled).name for _ in range(2)}
    assert names == {f"executor@{socket.gethostname()}"}
    assert ExecutorAgent(threads, doubled, name="gpu-7").name == "gpu-7"


def test_two_agents_of_one_name_at_once_execute_each_run_once(threads: ThreadPoolExecutor) -> None:
    """Which nobody should do: what one has begun, the other leaves alone, and does not take for left behind."""
    storage = MemoryStorage()
    first = ExecutorAgent(threads, doubled)
    sweep = sweep_of(first, 40, storage)
    second = ExecutorAgent(threads, doubled)
    other = driven(second, Sweep.open("s", storage=storage, agent=second))
    first.drive(sweep)
    joined(other)
    assert [(run.status, run.attempt) for run in sweep.runs()] == [(RunStatus.FINISHED, 1)] * 40


def test_an_executor_that_was_shut_down_ends_no_runs() -> None:
    """One is lost to it, nothing further is handed out, and the error says what to do."""
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    agent = ExecutorAgent(pool, doubled)
    sweep = sweep_of(agent, 20, max_active=1)
    with pytest.raises(AgentError, match=r"shutdown.*make another agent"):
        agent.drive(sweep)
    assert sweep.refresh().state.created == 1
    assert sweep[0].status is RunStatus.CRASHED
    with pytest.raises(AgentError, match="make another agent"):
        agent.drive(sweep)


def test_what_is_no_executor_is_refused(threads: ThreadPoolExecutor) -> None:
    """With the field, and what to give instead."""
    with pytest.raises(InvalidValue, match=r"executor: 3 is no executor; e.g. ThreadPoolExecutor"):
        ExecutorAgent(3, doubled)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match=r"executor: .* has no submit\(\)"):
        ExecutorAgent(dict, doubled)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match=r"function: 3 cannot be called"):
        ExecutorAgent(threads, 3)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match=r"gives: must be 'run' or 'config', not 'both'"):
        ExecutorAgent(threads, doubled, gives="both")  # type: ignore[arg-type]


# --- processes ------------------------------------------------------------------------------------


def test_processes_execute_configurations(processes: ProcessPoolExecutor) -> None:
    """Of a sweep in memory, too."""
    agent = ExecutorAgent(processes, doubled_config, gives="config")
    sweep = sweep_of(agent, 6)
    agent.drive(sweep)
    assert [run.metrics["loss"] for run in sweep.runs()] == [2.0 * x for x in range(6)]


def test_processes_report_for_themselves(processes: ProcessPoolExecutor, shared: SQLiteStorage) -> None:
    """To a storage that they share; each end once."""
    agent = ExecutorAgent(processes, doubled)
    sweep = sweep_of(agent, 4, shared)
    agent.drive(sweep)
    assert [run.metrics["loss"] for run in sweep.runs()] == [0.0, 2.0, 4.0, 6.0]
    assert not [event for event in sweep.history() if type(event).__name__ == "LateReport"]
    check_laws(shared, "s")


def test_a_run_in_another_process_sees_that_it_should_stop(
    processes: ProcessPoolExecutor, shared: SQLiteStorage, tmp_path: Path
) -> None:
    agent = ExecutorAgent(processes, until_stopped)
    search = Grid({"x": [0, 1], "place": [str(tmp_path)]})
    sweep = Sweep(search, id="s", agent=agent, storage=shared, limits=Limits(max_active=1))
    thread = driven(agent, sweep)
    for index in range(2):
        until((tmp_path / f"began.{index}").exists, f"run {index} executes")
        sweep[index].stop()
    joined(thread)
    assert sweep.done


def test_each_end_is_the_same_in_another_process(processes: ProcessPoolExecutor) -> None:
    """Also of an exception that does not pickle: it breaks no pool."""
    agent = ExecutorAgent(processes, by_config, gives="config")
    sweep = sweep_of(agent, 7)
    agent.drive(sweep)
    assert ends_of(sweep) == ENDS
    assert "Unpicklable: a text (at" in str(sweep[0].message)


def test_a_run_in_memory_is_not_given_to_another_process(processes: ProcessPoolExecutor) -> None:
    """Which could not report; it is refused before any run fails for it."""
    agent = ExecutorAgent(processes, doubled)
    sweep = sweep_of(agent)
    with pytest.raises(InvalidValue, match=r"gives: a run of a sweep in memory .*SQLiteStorage, or set gives='config'"):
        agent.drive(sweep)
    assert sweep.refresh().state.created == 0


def test_a_function_that_no_process_finds_is_refused(processes: ProcessPoolExecutor) -> None:
    with pytest.raises(InvalidValue, match=r"function: cannot be sent to another process .*top level"):
        ExecutorAgent(processes, lambda _: 1.0)


def test_handles_that_do_not_pickle_are_refused(processes: ProcessPoolExecutor, tmp_path: Path) -> None:
    """As with a clock that is a lambda; the message says what must pickle."""
    agent = ExecutorAgent(processes, doubled)
    storage = SQLiteStorage(tmp_path / "sweeps.db")
    sweep = Sweep(Grid({"x": [0]}), id="s", agent=agent, storage=storage, clock=lambda: time.time())  # noqa: PLW0108 - it is what does not pickle
    with pytest.raises(InvalidValue, match=r"gives: .*cannot be sent .*storage, clock and search must pickle"):
        agent.drive(sweep)
    assert sweep.refresh().state.created == 0


def test_a_worker_that_is_killed_is_a_crash_and_the_sweep_goes_on() -> None:
    """With a function that makes pools. What the pool had then is CRASHED, and nothing else."""
    agent = ExecutorAgent(lambda: ProcessPoolExecutor(1, mp_context=get_context("spawn")), dying_at_one, gives="config")
    sweep = sweep_of(agent, 4, max_active=1)
    agent.drive(sweep)
    assert [run.status for run in sweep.runs()] == [
        RunStatus.FINISHED,
        RunStatus.CRASHED,
        RunStatus.FINISHED,
        RunStatus.FINISHED,
    ]
    assert (sweep[1].cause, sweep.done) == (Cause.SIGNAL, True)
    assert "BrokenProcessPool" in str(sweep[1].message)


def test_one_pool_that_breaks_is_replaced_once() -> None:
    """However many calls it had: one executes, and one waits."""
    made: list[ProcessPoolExecutor] = []

    def make() -> ProcessPoolExecutor:
        made.append(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        return made[-1]

    agent = ExecutorAgent(make, dying_first, gives="config")
    sweep = sweep_of(agent, 6)
    agent.drive(sweep)
    assert [run.status for run in sweep.runs()] == [RunStatus.CRASHED] * 2 + [RunStatus.FINISHED] * 4
    assert len(made) == 2


def test_a_death_is_noticed_while_other_calls_go_on() -> None:
    """Also of the worker that was started last."""
    agent = ExecutorAgent(lambda: ProcessPoolExecutor(2, mp_context=get_context("spawn")), dying_beside, gives="config")
    sweep = sweep_of(agent, 3)
    began = time.monotonic()
    agent.drive(sweep)
    assert [run.status for run in sweep.runs()] == [RunStatus.CRASHED] * 2 + [RunStatus.FINISHED]
    assert time.monotonic() - began < PATIENCE


def test_without_a_limit_a_pool_has_as_many_as_it_works_on(threads: ThreadPoolExecutor) -> None:
    """An endless search is not submitted whole."""
    most = 0

    def count(run: Run) -> float:
        nonlocal most
        most = max(most, len(list(sweep.runs(status=RunStatus.RUNNING))))
        return float(run.config["x"])

    agent = ExecutorAgent(threads, count)
    sweep = Sweep(Random({"x": Uniform(0.0, 1.0)}), agent=agent, limits=Limits(run_cap=50), objective=Objective("loss"))
    agent.drive(sweep)
    assert sweep.counts[RunStatus.FINISHED] == 50
    assert most <= 2


def test_a_pool_that_broke_and_cannot_be_replaced_hands_out_nothing(processes: ProcessPoolExecutor) -> None:
    """What it had is CRASHED; the rest is left for a better agent, and nothing hangs."""
    agent = ExecutorAgent(processes, dying_at_one, gives="config")
    sweep = sweep_of(agent, 10, max_active=1)
    with pytest.raises(AgentError, match=r"BrokenProcessPool.*function that makes executors"):
        agent.drive(sweep)
    assert sweep[1].status is RunStatus.CRASHED
    assert sweep.counts[RunStatus.FINISHED] == 1
    assert sweep.refresh().state.active == 0


# --- executors of others --------------------------------------------------------------------------


LOKY = """
import os, signal
import loky
from sweepstate import AgentError, ExecutorAgent, Grid, Limits, Sweep

def swept(function):
    agent = ExecutorAgent(pool, function, gives="config")
    sweep = Sweep(Grid({"x": [0, 1, 2]}), agent=agent, limits=Limits(max_active=1))
    try:
        agent.drive(sweep)
    except AgentError as error:
        print("function that makes executors" in str(error))
    print([str(run.status) for run in sweep.runs()], [dict(run.metrics) for run in sweep.runs()])

pool = loky.ProcessPoolExecutor(1)
swept(lambda config: {"loss": config["x"] * 2.0})
swept(lambda config: os.kill(os.getpid(), signal.SIGKILL) if config["x"] == 1 else None)
pool.shutdown(kill_workers=True)
"""


def test_loky_executes_what_pickle_cannot_send() -> None:
    """Lambdas, too; and a worker that dies is a crash.

    In a process of its own: loky's semaphores, collected at a bad moment, warn (resource_tracker of Python 3.12).
    """
    pytest.importorskip("loky")
    done = subprocess.run([sys.executable, "-c", LOKY], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout.splitlines() == [
        "['FINISHED', 'FINISHED', 'FINISHED'] [{'loss': 0.0}, {'loss': 2.0}, {'loss': 4.0}]",
        "True",
        "['FINISHED', 'CRASHED'] [{}, {}]",
    ], done.stderr


def test_dask_executes_a_sweep() -> None:
    """By its own executor; its cancel() is not believed, as what executes goes on."""
    distributed = pytest.importorskip("distributed")
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        agent = ExecutorAgent(client.get_executor(pure=False), doubled_config, gives="config")
        assert (agent.can_kill, agent._cancels) == (False, False)
        sweep = sweep_of(agent, 5)
        agent.drive(sweep)
    assert [run.metrics["loss"] for run in sweep.runs()] == [2.0 * x for x in range(5)]


class Untold:
    """Stands for a future that tells nobody, as submitit's: only ``done``, ``cancel`` and ``result``."""

    def __init__(self, future: Future[Any]) -> None:
        self.done, self.cancel, self.result = future.done, future.cancel, future.result


class Telling:
    """An executor whose futures tell nobody."""

    def __init__(self, pool: Executor) -> None:
        self.pool = pool

    def submit(self, fn: Callable[[], Any], /) -> Untold:
        return Untold(self.pool.submit(fn))


def test_submitit_executes_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run is a job; one whose process is killed is a crash, and one that raises a failure with its place."""
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit.LocalJob, "_results_timeout_s", 1)  # how long it waits for what a dead job has written
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="local")
    executor.update_parameters(timeout_min=5)
    agent = ExecutorAgent(executor, jobs, gives="config", poll=0.1)
    assert agent.can_kill
    sweep = sweep_of(agent, 3, max_active=3)
    agent.drive(sweep)
    assert [run.status for run in sweep.runs()] == [RunStatus.FINISHED, RunStatus.CRASHED, RunStatus.FAILED]
    assert "ValueError: a text (at" in str(sweep[2].message)
    assert (sweep[0].metrics["loss"], sweep.done) == (0.5, True)


def test_submitit_reports_to_a_shared_storage_and_is_cancelled(tmp_path: Path, shared: SQLiteStorage) -> None:
    """A job is ended though it ignores what is asked, and none of its processes is left."""
    submitit = pytest.importorskip("submitit")
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="local")
    executor.update_parameters(timeout_min=5)
    agent = ExecutorAgent(executor, deaf, poll=0.1)
    search = Grid({"x": [0, 1], "place": [str(tmp_path)]})
    sweep = Sweep(search, id="s", agent=agent, storage=shared, limits=Limits(max_active=2))
    thread = driven(agent, sweep)
    until(lambda: len(list(tmp_path.glob("process.*"))) == 2, "both jobs execute")
    sweep.cancel()
    joined(thread)
    assert (sweep.status, sweep.done) == (SweepStatus.CANCELLED, True)
    for path in tmp_path.glob("process.*"):
        until(partial(is_gone, path.suffix[1:]), "the job's process is gone")


def test_futures_that_tell_nobody_are_looked_at(threads: ThreadPoolExecutor) -> None:
    """Every ``poll`` seconds."""
    agent = ExecutorAgent(Telling(threads), doubled_config, gives="config", poll=0.01)
    sweep = sweep_of(agent, 5)
    agent.drive(sweep)
    assert sweep.counts[RunStatus.FINISHED] == 5
