"""RayAgent on a real cluster: how runs end, and what commands, dying workers, nodes and drivers come to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sweepstate import (
    Cause,
    Grid,
    InvalidValue,
    Limits,
    Objective,
    Run,
    RunStatus,
    SQLiteStorage,
    Sweep,
    SweepStatus,
)
from sweepstate.agent.ray import RayAgent, RayRun
from sweepstate.core.events import RunEnded, RunRequeued
from tests.agents.ray.conftest import PATIENCE, driven, eventually
from tests.support.ray_nodes import Nodes

pytestmark = pytest.mark.usefixtures("nodes")

SLICE = 0.02


def sweep_of(agent: RayAgent, points: int, **limits: Any) -> Sweep:
    return Sweep(Grid({"x": list(range(points))}), agent=agent, objective=Objective("loss"), limits=Limits(**limits))


def until_told(notes: Path) -> Callable[[RayRun], object]:
    """Return a function that says who it is, and goes on until there is a file named ``go``."""

    def train(run: RayRun) -> Mapping[str, float]:
        (notes / f"{run.index}.{run.attempt}").write_text(str(os.getpid()))
        while not (notes / "go").exists():
            time.sleep(SLICE)
        return {"loss": float(run.config["x"])}

    return train


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def pids(notes: Path) -> list[int]:
    return [int(text) for path in notes.glob("*.*") if (text := path.read_text())]


def actors() -> list[str]:
    """Return the names of all actors in the cluster; one that is ended is among them for a moment."""
    list_named_actors: Any = import_module("ray.util").list_named_actors
    return [each["name"] for each in list_named_actors(all_namespaces=True)]


def end_actor(agent: RayAgent) -> None:
    """Kill the actor of an agent, which Ray does not start again then."""
    ray: Any = import_module("ray")
    ray.kill(ray.get_actor(f"agent:{agent.name}", namespace="sweepstate"))


# --- how runs end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("carried", [0, 200_000])
def test_each_point_is_executed_once_and_its_metrics_return(carried: int) -> None:
    """Whether the function is small, and travels with each task, or large, and is fetched by each worker."""
    blob = bytes(carried)
    agent = RayAgent(lambda run: run.config["x"] * 2.0 + len(blob) - carried, name="points")
    sweep = sweep_of(agent, 20, max_active=4)
    agent.drive(sweep)
    assert (sweep.status, sweep.done) == (SweepStatus.FINISHED, True)
    assert [run.metrics["loss"] for run in sweep.runs()] == [2.0 * x for x in range(20)]
    assert {run.attempt for run in sweep.runs()} == {1}


def test_every_end_is_reported_as_what_it_was() -> None:
    """By the table of lifecycle.md, A4."""

    def train(run: RayRun) -> object:
        match run.config["x"]:
            case 0:
                raise ValueError("no such layer")
            case 1:
                sys.exit(3)
            case 2:
                sys.exit()
            case 3:
                raise KeyboardInterrupt
            case 4:
                os.kill(os.getpid(), signal.SIGKILL)
            case 5:
                return {"loss": "low"}
            case 6:
                run.mark_preempting()
                if run.attempt == 1:
                    raise ValueError("the machine is going away")
            case _:
                os._exit(1)
        return {"loss": 1.0}

    agent = RayAgent(train, name="ends")
    sweep = sweep_of(agent, 8, max_active=4)
    agent.drive(sweep)
    runs = list(sweep.runs())
    failed, crashed = (RunStatus.FAILED, Cause.ERROR), (RunStatus.CRASHED, Cause.SIGNAL)
    assert [(run.status, run.cause) for run in runs[:3]] == [failed, failed, (RunStatus.FINISHED, Cause.SUCCESS)]
    assert runs[3].status is RunStatus.KILLED
    assert (runs[4].status, runs[4].cause) == crashed
    assert runs[5].status is RunStatus.FAILED
    assert (runs[6].status, runs[6].attempt) == (RunStatus.FINISHED, 2)
    assert (runs[7].status, runs[7].cause) == crashed
    assert "ValueError: no such layer (at " in str(runs[0].message)
    assert runs[1].state.exit_code == 3
    assert "worker" in str(runs[4].message).lower()
    assert sweep.done


def test_ends_that_are_odd_are_those_of_every_agent() -> None:
    """An exit by something that is no code, and a result of which only a part are metrics."""

    def train(run: RayRun) -> object:
        return {"loss": 0.5, "note": "a text"} if run.config["x"] else sys.exit(True)

    agent = RayAgent(train, name="odd")
    sweep = sweep_of(agent, 2, max_active=2)
    agent.drive(sweep)
    assert [(run.status, run.cause) for run in sweep.runs()] == [(RunStatus.FAILED, Cause.ERROR)] * 2
    assert (sweep[0].state.exit_code, sweep[1].metrics) == (1, {"loss": 0.5})


def test_a_number_without_an_objective_ends_the_drive_and_nothing_remains() -> None:
    """Each run would fail for it; those that were begun are reported, and no more are."""
    agent = RayAgent(lambda run: float(run.config["x"]), name="number")
    sweep = Sweep(Grid({"x": list(range(20))}), agent=agent, limits=Limits(max_active=2))
    with pytest.raises(InvalidValue, match="has no name"):
        agent.drive(sweep)
    assert sweep.counts[RunStatus.FAILED] == sweep.state.created <= 2
    eventually(lambda: "agent:number" not in actors())


def test_so_many_runs_as_are_counted(notes: Path) -> None:
    """And no more; another drive goes on."""
    (notes / "go").touch()
    agent = RayAgent(until_told(notes), name="count")
    sweep = sweep_of(agent, 5, max_active=2)
    assert not agent.drive(sweep, count=3)
    assert (sweep.counts[RunStatus.FINISHED], agent.begun) == (3, 3)
    assert agent.drive(sweep)
    assert sweep.counts[RunStatus.FINISHED] == 5


def test_what_executes_can_be_ended_without_the_storage(notes: Path) -> None:
    """By who leaves for good: asked first, and ended after the grace."""
    agent = RayAgent(until_told(notes), name="terminate", interrupts=False, poll=0.1)
    sweep = sweep_of(agent, 2, max_active=2, stop_grace=0.5)
    sweep.tick()
    eventually(lambda: len(pids(notes)) == 2)
    running = pids(notes)
    assert agent.terminate()
    eventually(lambda: not any(alive(pid) for pid in running))
    assert [run.status for run in sweep.runs()] == [RunStatus.CRASHED] * 2
    assert agent.close()
    eventually(lambda: "agent:terminate" not in actors())


def test_retries_are_those_of_the_limits(notes: Path) -> None:
    """Ray makes none, also of a worker that dies."""

    def train(run: RayRun) -> None:
        (notes / f"{run.index}.{run.attempt}.{time.time_ns()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    agent = RayAgent(train, name="retries")
    sweep = sweep_of(agent, 1, retries=2)
    agent.drive(sweep)
    assert (sweep[0].status, sweep[0].attempt) == (RunStatus.CRASHED, 3)
    assert sorted(path.name.split(".")[1] for path in notes.iterdir()) == ["1", "2", "3"]


def test_reports_on_the_way_arrive(notes: Path) -> None:
    """While it executes, by the agent, so that workers need no storage."""

    def train(run: RayRun) -> Mapping[str, float]:
        for epoch in range(3):
            run.report(epoch=epoch, loss=1.0)
        while not (notes / "go").exists():
            time.sleep(SLICE)
        return {"loss": 0.5}

    agent = RayAgent(train, name="reports")
    sweep = sweep_of(agent, 1)
    with driven(agent, sweep):
        eventually(lambda: sweep.refresh().state.created and sweep[0].metrics.get("epoch") == 2)
        assert sweep[0].status is RunStatus.RUNNING
        (notes / "go").touch()
    assert sweep[0].metrics == {"loss": 0.5}


def test_resources_may_depend_on_the_configuration(notes: Path) -> None:
    """Two runs of two processors each do not fit beside each other on a node of three; small ones do."""

    def train(run: RayRun) -> Mapping[str, float]:
        mine = notes / str(run.index)
        mine.touch()
        until = time.monotonic() + 30
        small = run.config["x"] >= 2
        most = 1
        while time.monotonic() < until and (small and most < 3):
            most = max(most, len(list(notes.iterdir())))
            time.sleep(SLICE)
        if not small:
            time.sleep(0.3)
            most = len(list(notes.iterdir()))
        time.sleep(0.3)
        mine.unlink()
        return {"loss": float(most)}

    def resources(config: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"num_cpus": 2 if config["x"] < 2 else 1}

    agent = RayAgent(train, name="resources", options=resources)
    sweep = sweep_of(agent, 2)
    agent.drive(sweep)
    assert [run.metrics["loss"] for run in sweep.runs()] == [1.0, 1.0]


def test_options_that_cannot_be_end_their_run_as_not_launched() -> None:
    """The others go on."""

    def options(config: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"max_retries": 3} if config["x"] == 0 else {"num_cpus": -1 if config["x"] == 1 else 1}

    agent = RayAgent(lambda _: {"loss": 1.0}, name="options", options=options, poll=0.1)
    sweep = sweep_of(agent, 3)
    agent.drive(sweep)
    first, second, third = sweep.runs()
    assert (first.cause, second.cause, third.status) == (Cause.NOT_LAUNCHED, Cause.NOT_LAUNCHED, RunStatus.FINISHED)
    assert "max_retries: decided by the agent" in str(first.message)


class Unreadable(str):
    """A text that is pickled, and cannot be read again."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


class Unsendable(str):
    """A text that cannot be pickled."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        raise ValueError("not sent")


def test_options_that_cannot_travel_end_their_run_and_no_other() -> None:
    """Though they are told to the actor together."""

    def options(config: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"name": {0: Unsendable("a"), 1: Unreadable("b")}.get(config["x"], "c")}

    agent = RayAgent(lambda _: {"loss": 1.0}, name="travels", options=options, poll=0.1)
    sweep = sweep_of(agent, 3, max_active=3)
    agent.drive(sweep)
    unsendable, unreadable, good = sweep.runs()
    assert (unsendable.cause, unreadable.cause, good.status) == (Cause.NOT_LAUNCHED, Cause.ERROR, RunStatus.FINISHED)
    assert "options: cannot be pickled: not sent" in str(unsendable.message)
    assert "not a number" in str(unreadable.message)


def test_a_function_that_workers_cannot_load_fails_its_runs() -> None:
    """With what Ray says about it."""

    class Unloadable:
        def __reduce__(self) -> tuple[Any, ...]:
            return int, ("not a number",)

        def __call__(self, _run: RayRun) -> None: ...

    agent = RayAgent(Unloadable(), name="unloadable")
    sweep = sweep_of(agent, 1)
    agent.drive(sweep)
    assert sweep[0].status is RunStatus.FAILED
    assert "not a number" in str(sweep[0].message)


# --- commands -------------------------------------------------------------------------------------


def test_cancel_under_load_leaves_no_task_two_seconds_later(notes: Path) -> None:
    """Not one of those that execute, and none that waited in the cluster's queue begins."""
    agent = RayAgent(until_told(notes), name="cancel", poll=0.2)
    sweep = sweep_of(agent, 40, max_active=20)
    with driven(agent, sweep):
        eventually(lambda: len(pids(notes)) == 3)
        running = pids(notes)
        Sweep.open(sweep.id, storage=sweep.storage).cancel()
        time.sleep(2.0)
        assert not [pid for pid in running if alive(pid)]
        assert len(pids(notes)) == 3
    assert (sweep.refresh().status, sweep.done) == (SweepStatus.CANCELLED, True)
    assert sweep.counts[RunStatus.KILLED] == 20


def test_stopping_one_run_lets_its_handlers_run_and_starts_the_next(notes: Path) -> None:
    """KeyboardInterrupt is raised in it."""

    def train(run: RayRun) -> None:
        try:
            until_told(notes)(run)
        finally:
            (notes / f"handled {run.index}").touch()

    agent = RayAgent(train, name="stop one", poll=0.1)
    sweep = sweep_of(agent, 2, max_active=1)
    with driven(agent, sweep):
        eventually((notes / "0.1").exists)
        sweep[0].stop()
        eventually((notes / "1.1").exists)
        (notes / "go").touch()
    assert [(run.status, run.cause) for run in sweep.runs()] == [
        (RunStatus.KILLED, Cause.STOPPED),
        (RunStatus.FINISHED, Cause.SUCCESS),
    ]
    assert (notes / "handled 0").exists()


def test_a_run_that_is_asked_and_ends_well_is_finished(notes: Path) -> None:
    """With what its handler returned."""

    def train(run: RayRun) -> Mapping[str, float]:
        try:
            until_told(notes)(run)
        except KeyboardInterrupt:
            return {"loss": 7.0}
        return {}

    agent = RayAgent(train, name="ends well", poll=0.1)
    sweep = sweep_of(agent, 1)
    with driven(agent, sweep):
        eventually((notes / "0.1").exists)
        sweep[0].stop()
    assert (sweep[0].status, sweep[0].metrics) == (RunStatus.FINISHED, {"loss": 7.0})


def test_without_interrupts_a_run_learns_from_what_it_asks(notes: Path) -> None:
    """By ``should_stop`` and by what ``report`` returns; one that does not look is killed when its grace is over."""

    def train(run: RayRun) -> Mapping[str, float]:
        (notes / f"{run.index}.1").write_text(str(os.getpid()))
        if run.config["x"] == 2:
            time.sleep(1_000)
        while not (run.should_stop if run.config["x"] else run.report(loss=1.0).value == "stop"):
            time.sleep(SLICE)
        return {"loss": 3.0}

    agent = RayAgent(train, name="asks", interrupts=False, poll=0.1)
    sweep = sweep_of(agent, 3, stop_grace=1.0)
    with driven(agent, sweep):
        eventually(lambda: len(pids(notes)) == 3)
        for run in sweep.runs():
            run.stop()
    assert [run.status for run in sweep.runs()] == [RunStatus.FINISHED, RunStatus.FINISHED, RunStatus.KILLED]
    assert not alive(int((notes / "2.1").read_text()))


@pytest.mark.parametrize("command", ["pause", "stop"])
def test_after_a_pause_or_a_stop_runs_end_and_none_is_handed_out(notes: Path, command: str) -> None:
    """A stopped sweep is done then; a paused one goes on when it is resumed."""
    agent = RayAgent(until_told(notes), name=command, poll=0.1)
    sweep = sweep_of(agent, 6, max_active=3)
    other = Sweep.open(sweep.id, storage=sweep.storage)
    with driven(agent, sweep):
        eventually(lambda: len(pids(notes)) == 3)
        getattr(other, command)()
        (notes / "go").touch()
        eventually(lambda: other.refresh().counts[RunStatus.FINISHED] == 3)
        if command == "pause":
            time.sleep(0.5)
            assert other.refresh().state.created == 3
            other.resume()
    status, finished = (SweepStatus.FINISHED, 6) if command == "pause" else (SweepStatus.STOPPED, 3)
    assert (sweep.refresh().status, sweep.counts[RunStatus.FINISHED], sweep.done) == (status, finished, True)


# --- what dies ------------------------------------------------------------------------------------


def test_a_node_that_dies_under_load_costs_its_runs_an_attempt(nodes: Nodes, notes: Path) -> None:
    """They are CRASHED, and executed again on the other node, once each; the others never notice."""
    second = nodes.add()
    agent = RayAgent(until_told(notes), name="node", poll=0.2)
    sweep = sweep_of(agent, 12, max_active=6, retries=1)
    with driven(agent, sweep):
        eventually(lambda: len(pids(notes)) == 6)
        nodes.kill(second)
        eventually(lambda: sum(alive(pid) for pid in pids(notes)) == 3)
        eventually(lambda: sum(isinstance(event, RunRequeued) for event in sweep.history()) == 3)
        (notes / "go").touch()
    assert sweep.refresh().status is SweepStatus.FINISHED
    assert sorted(run.attempt for run in sweep.runs()) == [1] * 9 + [2] * 3
    assert len(list(notes.glob("*.*"))) == 15


def test_an_actor_that_dies_costs_what_executes_an_attempt(notes: Path) -> None:
    """Ray ends its tasks with it; it is restarted, and the sweep goes on."""
    ray: Any = import_module("ray")
    agent = RayAgent(until_told(notes), name="actor", poll=0.2)
    sweep = sweep_of(agent, 4, max_active=2, retries=1)
    with driven(agent, sweep):
        eventually(lambda: len(pids(notes)) == 2)
        before = pids(notes)
        ray.kill(ray.get_actor("agent:actor", namespace="sweepstate"), no_restart=False)
        eventually(lambda: not any(alive(pid) for pid in before))
        (notes / "go").touch()
    assert sweep.refresh().status is SweepStatus.FINISHED
    assert [run.attempt for run in sweep.runs()] == [2, 2, 1, 1]


DRIVER = """
import os, sys, time
from pathlib import Path
import ray
from sweepstate import *
from sweepstate.agent.ray import RayAgent

address, database, notes = sys.argv[1], sys.argv[2], Path(sys.argv[3])

def train(run):
    with (notes / f"{run.index}.{run.attempt}").open("a") as note:
        note.write("begun\\n")
    time.sleep(0.2)
    if run.index < 2:
        while not (notes / "go").exists():
            time.sleep(0.02)
    return {"loss": float(run.index)}

ray.init(address=address, log_to_driver=False, _node_ip_address="127.0.0.1")
agent = RayAgent(train, name="driver", poll=0.1)
sweep = Sweep(Grid({"x": list(range(12))}), id="s", storage=SQLiteStorage(database), agent=agent,
              objective=Objective("loss"), limits=Limits(max_active=5, retries=1), exists_ok=True)
agent.drive(sweep)
"""


@contextmanager
def saying(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the body looks at what it does; if that is not what it should be, show what it said."""
    with tempfile.TemporaryFile() as said:
        program = subprocess.Popen(command, stderr=said)
        try:
            yield program
        except BaseException:
            said.seek(0)
            sys.stderr.write(f"exit code {program.poll()}, it said:\n{said.read().decode(errors='replace')}")
            raise
        finally:
            program.kill()
            program.wait()


def test_a_driver_that_is_killed_comes_back_and_finds_its_runs(nodes: Nodes, notes: Path, tmp_path: Path) -> None:
    """Those that execute, and those that ended meanwhile: each point is executed once, and the sweep finishes."""
    database = tmp_path / "sweeps.db"
    command = [sys.executable, "-c", DRIVER, nodes.address, str(database), str(notes)]
    with saying(command) as first:
        eventually(lambda: len(list(notes.glob("*.*"))) >= 5)
        first.kill()
        first.wait()
    time.sleep(0.5)  # whatever it was doing, and whoever would miss it
    with saying(command) as second:
        time.sleep(0.5)
        (notes / "go").touch()
        assert second.wait(PATIENCE) == 0
    sweep = Sweep.open("s", storage=SQLiteStorage(database))
    assert (sweep.status, sweep.done) == (SweepStatus.FINISHED, True)
    assert [run.metrics["loss"] for run in sweep.runs()] == [float(x) for x in range(12)]
    # A run that was begun and not launched in the moment of the kill is executed as its second attempt only.
    assert [path.read_text() for path in notes.glob("*.*")] == ["begun\n"] * 12
    ended = [event for event in sweep.history() if isinstance(event, RunEnded)]
    assert len({event.index for event in ended}) == 12


def test_a_driver_that_connects_anew_goes_on_with_its_runs(nodes: Nodes, notes: Path) -> None:
    """What it had asked the actor for by the first connection is never answered."""
    ray: Any = import_module("ray")
    agent = RayAgent(until_told(notes), name="anew", poll=0.2)
    sweep = sweep_of(agent, 4, max_active=2)
    sweep.tick()
    eventually(lambda: len(pids(notes)) == 2)
    ray.shutdown()
    try:
        assert agent.close() is False
        with pytest.raises(InvalidValue, match=r"call ray\.init"):
            agent.drive(sweep)
    finally:
        ray.init(address=nodes.address, log_to_driver=False, _node_ip_address="127.0.0.1")
    (notes / "go").touch()
    assert agent.drive(sweep)
    assert [(run.status, run.attempt) for run in sweep.runs()] == [(RunStatus.FINISHED, 1)] * 4
    assert actors() == []


def test_a_driver_that_connects_anew_and_finds_no_actor_leaves_its_runs_to_silence(nodes: Nodes, notes: Path) -> None:
    """It may be another cluster, and they may execute in the first one."""
    ray: Any = import_module("ray")
    agent = RayAgent(until_told(notes), name="silent", poll=0.2)
    sweep = sweep_of(agent, 1, max_active=1, heartbeat_timeout=1.0, suspicion=0.5)
    sweep.tick()
    eventually(lambda: len(pids(notes)) == 1)
    end_actor(agent)
    ray.shutdown()
    ray.init(address=nodes.address, log_to_driver=False, _node_ip_address="127.0.0.1")
    assert agent.drive(sweep)
    assert (sweep[0].status, sweep[0].cause) == (RunStatus.CRASHED, Cause.LOST)
    end_actor(agent)


def test_what_another_cluster_may_be_executing_is_left_alone() -> None:
    """Nobody can say whether it is gone: it is lost when nothing is heard of it."""
    agent = RayAgent(lambda _: {"loss": 1.0}, name="elsewhere", poll=0.1)
    sweep = sweep_of(agent, 1, heartbeat_timeout=0.5, suspicion=0.5, retries=1)
    run = Sweep.open(sweep.id, storage=sweep.storage).next_run("elsewhere")
    assert isinstance(run, Run)
    run.start("ray:another:one", heartbeats=True)
    agent.drive(sweep)
    assert (sweep[0].status, sweep[0].attempt) == (RunStatus.FINISHED, 2)
    lost = [event.cause for event in sweep.history() if isinstance(event, RunEnded)]
    assert Cause.SUCCESS in lost


def test_nothing_of_an_agent_remains_in_the_cluster() -> None:
    """Its actor is ended with the sweep, and made again for the next one."""
    agent = RayAgent(lambda _: {"loss": 1.0}, name="remains")
    for _ in range(2):
        agent.drive(sweep_of(agent, 2))
        eventually(lambda: "agent:remains" not in actors())
    assert agent.close()


def test_without_a_cluster_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each run would fail for it."""
    agent = RayAgent(lambda _: {"loss": 1.0}, name="nowhere")
    sweep = sweep_of(agent, 2)
    with monkeypatch.context() as patch:
        patch.setattr("ray.is_initialized", lambda: False)
        with pytest.raises(InvalidValue, match=r"call ray\.init\(address=\.\.\.\) first"):
            agent.drive(sweep)
    assert sweep.state.created == 0
    assert agent.drive(sweep)


def test_arguments_that_cannot_be_are_refused() -> None:
    """With the field and what is wrong."""
    function = lambda _: None  # noqa: E731 - shorter
    with pytest.raises(InvalidValue, match="num_gpus"):
        RayAgent(function, num_gpus=-1)
    with pytest.raises(InvalidValue, match="resources"):
        RayAgent(function, resources={"CPU": 1})
    with pytest.raises(InvalidValue, match="function: 3 cannot be called"):
        RayAgent(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="options"):
        RayAgent(function, options={"num_cpus": 1})  # type: ignore[arg-type]
    lock = threading.Lock()
    with pytest.raises(InvalidValue, match="cannot be pickled"):
        RayAgent(lambda _: lock)
