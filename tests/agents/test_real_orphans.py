"""An orchestrator that is killed and comes back: what it left is ended, nothing else is, and each point counts once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO

import attrs
import pytest

from sweepstate import Grid, Limits, MemoryStorage, Run, RunStatus, Slots, SQLiteStorage, Sweep, SweepStatus
from sweepstate.agent._processes import Identity, machine, members
from sweepstate.agent._programs import TOKEN, Orphan
from sweepstate.agent._workdir import Record
from sweepstate.agent.driving import Trace
from sweepstate.hooks import Kill
from sweepstate.testing.laws import check_laws
from tests.agents.processes import PATIENCE, POINTS, ROOT, Stage, until

ORCHESTRATOR = str(Path(__file__).with_name("orchestrator.py"))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Whatever a test starts is gone after it."""
    stage = Stage(tmp_path)
    yield stage
    assert stage.clear() == []


def orchestrate(stage: Stage, crash: str = "", stderr: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    arguments = [str(stage.path / "sweeps.db"), str(stage.path / "runs"), stage.tag, crash]
    command = [sys.executable, ORCHESTRATOR, *arguments]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ROOT}, stderr=stderr)


def finish(stage: Stage) -> None:
    """Come back, and go on to the end."""
    assert orchestrate(stage).wait(PATIENCE) == 0


def check_whole(stage: Stage) -> None:
    """Each point is one run, and it finished; no two attempts of one executed at once."""
    with closing(SQLiteStorage(str(stage.path / "sweeps.db"))) as storage:
        sweep = Sweep.open("s", storage=storage)
        assert (sweep.status, sweep.done) == (SweepStatus.FINISHED, True)
        runs = list(sweep.runs())
        assert [(run.config["x"], run.status) for run in runs] == [(x, RunStatus.FINISHED) for x in range(POINTS)]
        check_laws(storage, "s")
    assert not (stage.place(0).parent / "overlap").exists()
    assert not list(stage.path.rglob("process.json*"))


@pytest.mark.parametrize("crash", ["handed out", "started", "launched", "ended"])
def test_whenever_it_is_killed_each_point_is_executed_and_counts_once(stage: Stage, crash: str) -> None:
    """Between a commit and its delivery, or between what the world has seen and what is written down of it."""
    assert orchestrate(stage, crash).wait(PATIENCE) == -signal.SIGKILL
    finish(stage)
    check_whole(stage)


def test_what_executes_when_it_is_killed_is_ended_when_it_comes_back(stage: Stage) -> None:
    """The runs of orphans crash, since nobody can say how they would have ended, and are tried again."""
    process = orchestrate(stage, "running")
    stage.wait_ready(0, 1)
    process.kill()
    process.wait()
    finish(stage)
    check_whole(stage)


@pytest.mark.parametrize("crash", ["running", "delivering"])
def test_an_order_to_kill_survives_its_orchestrator(stage: Stage, crash: str) -> None:
    """It was committed and not delivered; whoever comes back delivers it, grandchildren included."""
    process = orchestrate(stage, f"stubborn, {crash}")
    stage.wait_ready(0, 1)
    with closing(SQLiteStorage(str(stage.path / "sweeps.db"))) as storage:
        if crash == "running":
            process.kill()
        Sweep.open("s", storage=storage).cancel()
        assert process.wait(PATIENCE) == -signal.SIGKILL
        assert len(stage.executing()) >= 6
        finish(stage)
        assert stage.executing() == []
        assert Sweep.open("s", storage=storage).done


def test_interrupts_end_what_executes_and_are_told_truthfully(stage: Stage) -> None:
    """They reach the orchestrator only: programs are not of its terminal's group."""
    log = stage.path / "log"
    with log.open("wb") as file:
        process = orchestrate(stage, "running", stderr=file)
    stage.wait_ready(0, 1)
    process.send_signal(signal.SIGINT)
    until(lambda: "no more runs" in log.read_text())
    assert process.poll() is None
    assert len(stage.executing()) == 2  # what executes goes on
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    assert "what executes is asked to stop: 2" in log.read_text()
    with closing(SQLiteStorage(str(stage.path / "sweeps.db"))) as storage:
        sweep = Sweep.open("s", storage=storage)
        assert [(run.status, run.state.lease) for run in sweep.runs()] == [(RunStatus.KILLED, None)] * 2
        assert sweep.status is SweepStatus.RUNNING


# --- who is ended, and who is not -----------------------------------------------------------------


def begun_by(stage: Stage, execution: str) -> Run:
    """Return a run that an orchestrator, which is no more, has begun as an execution of this name."""
    sweep = Sweep(Grid({"x": [1]}), id="s", storage=MemoryStorage(), limits=Limits(max_active=1))
    run = sweep.next_run("orchestrator")
    assert isinstance(run, Run)
    run.start(execution)
    stage.place(0).mkdir(parents=True)
    return run


def name_of(origin: Identity) -> str:
    return f"host:{origin.pid}:{origin.began}:{origin.machine}:nonce:execution"


@pytest.fixture
def dead() -> Identity:
    """A process that is no more."""
    process = subprocess.Popen(["true"])
    identity = Identity.of(process.pid)
    process.wait()
    assert identity is not None
    return identity


@pytest.fixture
def stranger(stage: Stage) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any run."""
    process = subprocess.Popen(["sleep", "300"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_a_number_that_was_given_to_another_is_never_hit(
    stage: Stage, dead: Identity, stranger: subprocess.Popen[bytes]
) -> None:
    """The record has the number of a process that is there, and it is not the one."""
    run = begun_by(stage, name_of(dead))
    there = Identity.of(stranger.pid)
    assert there is not None
    agent = stage.agent(name="orchestrator")
    place = agent._workdir.place("s", 0, 1)
    for wrong in (attrs.evolve(there, began=there.began - 1), attrs.evolve(there, machine="another boot/1")):
        place.write_record(Record(run.token, (), wrong))
        assert agent._find(run) is Trace.GONE
    place.write_record(Record("the token of a sweep of this id elsewhere", (), there))
    assert agent._find(run) is Trace.GONE
    assert stranger.poll() is None


#: One that has emptied its environment is known only by the record; it goes on starting others.
EMPTIED = "exec env -i sh -c 'for n in 1 2 3 4 5 6 7 8 9; do sleep 30 & sleep 0.002; done; sleep 30'"


@pytest.mark.parametrize("written", [True, False])
def test_an_orphan_is_found_by_its_record_or_by_its_environment(stage: Stage, dead: Identity, *, written: bool) -> None:
    """With all that it has started; its slots are taken until it is gone."""
    run = begun_by(stage, name_of(dead))
    slots = Slots([0, 1])
    agent = stage.agent(name="orchestrator", slots=slots)
    env = {**os.environ, **stage.env} if written else {**os.environ, **stage.env, TOKEN: run.token}
    script = EMPTIED if written else "sleep 30 & sleep 30"
    leader = subprocess.Popen(["sh", "-c", script], env=env, start_new_session=True)
    try:
        until(lambda: len(members(leader.pid)) >= 2)
        identity = Identity.of(leader.pid) if written else None
        agent._workdir.place("s", 0, 1).write_record(Record(run.token, ("1",), identity))
        found = agent._find(run)
        assert isinstance(found, Orphan)
        assert found.ended
        assert slots.free == 1
        assert leader.wait(PATIENCE) == -signal.SIGKILL
        until(lambda: agent._look(found) is not None)
        agent._released(found)
        assert stage.executing() == members(leader.pid) == []
    finally:
        with suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()
    assert slots.free == 2
    assert agent._workdir.place("s", 0, 1).read_record() is None


def test_an_order_to_kill_an_orphan_ends_it(stage: Stage, dead: Identity) -> None:
    """Though it is delivered before the sweep is driven again."""
    run = begun_by(stage, name_of(dead))
    agent = stage.agent(name="orchestrator")
    orphan = subprocess.Popen(["sleep", "300"], env={**os.environ, **stage.env, TOKEN: run.token})
    until(lambda: len(stage.executing()) == 1)
    run.kill()
    agent.kill(Kill(run))
    assert orphan.wait(PATIENCE) == -signal.SIGKILL

    def over() -> bool:
        agent._look_after_all()
        return run.refresh().state.lease is None

    until(over)


def test_slots_of_an_orphan_that_two_threads_find_at_once_are_not_lost(
    stage: Stage, dead: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finds none that are free; if it took the place of the first, nobody would give these back."""
    run = begun_by(stage, name_of(dead))
    run.kill()
    left = [os.getpid()]  # what is found of it, until the test says that it is gone
    meeting = threading.Barrier(2)

    def end(_: Orphan) -> list[int]:
        if threading.current_thread() is finder:
            meeting.wait(PATIENCE)  # it has been found, and its slots are not reserved yet
            meeting.wait(PATIENCE)
        return left[:]

    monkeypatch.setattr(Orphan, "end", end)
    slots = Slots([0, 1])
    agent = stage.agent(name="orchestrator", slots=slots)
    agent._workdir.place("s", 0, 1).write_record(Record(run.token, ("1",), None))
    finder = threading.Thread(target=agent.kill, args=(Kill(run),))
    finder.start()
    meeting.wait(PATIENCE)
    agent.kill(Kill(run))
    meeting.wait(PATIENCE)
    finder.join(PATIENCE)
    assert slots.free == 1
    left.clear()
    agent._look_after_all()
    assert (slots.free, run.refresh().state.lease) == (2, None)


def test_what_an_orchestrator_that_lives_executes_is_left_alone(
    stage: Stage, stranger: subprocess.Popen[bytes]
) -> None:
    """Two of the same name do not end each other's runs."""
    alive = Identity.of(stranger.pid)
    assert alive is not None
    run = begun_by(stage, name_of(alive))
    assert stage.agent(name="orchestrator")._find(run) is Trace.UNKNOWN


@pytest.mark.parametrize(
    "execution", ["somebody", "host:1:2:another boot/3:nonce:execution", "host:x:y:{machine}:nonce:execution"]
)
def test_what_began_elsewhere_is_not_known(stage: Stage, execution: str) -> None:
    """Nothing is presumed of another machine; silence tells."""
    run = begun_by(stage, execution.format(machine=machine()))
    assert stage.agent(name="orchestrator")._find(run) is Trace.UNKNOWN


def test_what_this_agent_itself_began_and_does_not_execute_is_gone(stage: Stage) -> None:
    """The answer to its start was lost, so it was not launched."""
    agent = stage.agent(name="orchestrator")
    assert agent._find(begun_by(stage, agent._execution_name())) is Trace.GONE
