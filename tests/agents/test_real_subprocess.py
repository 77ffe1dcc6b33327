"""SubprocessAgent with real programs: how they end, how they are ended, what they say, and what is left of them."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from sweepstate import (
    Cause,
    Grid,
    Limits,
    MemoryStorage,
    Objective,
    Run,
    RunStatus,
    Slots,
    StorageError,
    Sweep,
    SweepState,
    SweepStatus,
)
from sweepstate.agent import child
from sweepstate.agent._workdir import Place, Record
from sweepstate.core.events import RunEnded, RunRequeued
from tests.agents.processes import Stage, busy, until


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Whatever a test starts is gone after it."""
    stage = Stage(tmp_path)
    yield stage
    assert stage.clear() == []


# --- how a run ends (layer A4) --------------------------------------------------------------------

ENDS = ("0", "1", "SIGINT", "SIGSEGV", "SIGKILL")

#: The table of lifecycle.md, A4: what each end means plain, marked as preempting, and asked to stop, which wins.
TABLE: dict[str, tuple[RunStatus | None, RunStatus | None, RunStatus | None]] = {
    "0": (RunStatus.FINISHED, RunStatus.FINISHED, RunStatus.FINISHED),
    "1": (RunStatus.FAILED, None, RunStatus.KILLED),
    "SIGINT": (RunStatus.KILLED, None, RunStatus.KILLED),
    "SIGSEGV": (RunStatus.CRASHED, None, RunStatus.KILLED),
    "SIGKILL": (RunStatus.CRASHED, None, RunStatus.KILLED),
}


def test_each_end_of_a_program_means_what_the_table_says(stage: Stage) -> None:
    """Cell by cell: five ends, with and without a mark of preemption and the wish that it stop."""
    agent = stage.agent(poll=0.05)
    space = {"do": ["obey_the_table"], "end": list(ENDS), "mark": [False, True], "ask": [False, True]}
    sweep = stage.sweep(agent, space, max_active=4, stop_grace=3600.0)
    asked: set[int] = set()

    def ask_whoever_is_to_be_asked() -> bool:
        for run in sweep.runs(RunStatus.RUNNING):
            if run.config["ask"] and run.index not in asked and (stage.place(run.index) / "ready").exists():
                run.stop()
                asked.add(run.index)
        return sweep.refresh().done

    with stage.driven(sweep):
        until(ask_whoever_is_to_be_asked)
    ended = {e.index: e.status for e in sweep.history() if isinstance(e, RunEnded) and e.attempt == 1}
    requeued = {e.index: None for e in sweep.history() if isinstance(e, RunRequeued)}
    cells = {
        (run.config["end"], run.config["mark"], run.config["ask"]): (ended | requeued)[run.index]
        for run in sweep.runs()
    }
    column = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 2}
    expected = {
        (end, mark, ask): TABLE[end][column[mark, ask]]
        for end, mark, ask in product(ENDS, (False, True), (False, True))
    }
    assert cells == expected
    assert {run.status for run in sweep.runs() if run.index in requeued} == {RunStatus.FINISHED}
    by_code = {run.config["end"]: run.state for run in sweep.runs() if not run.config["mark"] and not run.config["ask"]}
    assert by_code["1"].exit_code == 1
    assert by_code["SIGSEGV"].signal == signal.SIGSEGV


def test_a_program_that_is_not_there_is_not_launched(stage: Stage) -> None:
    """The message says which."""
    sweep = stage.sweep(stage.agent(["no-such-program-anywhere"], poll=0.01), {"x": [1]})
    with stage.driven(sweep):
        pass
    assert (sweep[0].status, sweep[0].cause) == (RunStatus.FAILED, Cause.NOT_LAUNCHED)
    assert "no-such-program-anywhere" in str(sweep[0].message)


def test_a_file_that_cannot_be_executed_after_all_fails_its_run(stage: Stage, tmp_path: Path) -> None:
    """Its start was reported, so its end is."""
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    sweep = stage.sweep(stage.agent([str(script)], poll=0.01), {"x": [1]})
    with stage.driven(sweep):
        pass
    assert sweep[0].status is RunStatus.FAILED
    assert "FileNotFoundError" in str(sweep[0].message)
    assert not list(stage.place(0).glob("process.json*"))


# --- ending runs ----------------------------------------------------------------------------------


def test_who_ignores_sigterm_is_killed_after_the_grace_and_the_next_one_starts(stage: Stage) -> None:
    """Stopping one run never touches the sweep."""
    agent = stage.agent(poll=0.05)
    sweep = stage.sweep(agent, {"do": ["ignore_sigterm", "once"], "x": [0]}, max_active=1, stop_grace=0.3)
    with stage.driven(sweep):
        stage.wait_ready(0)
        sweep[0].stop()
    assert (sweep[0].status, sweep[0].cause) == (RunStatus.KILLED, Cause.STOPPED)
    assert (sweep[1].status, sweep.status) == (RunStatus.FINISHED, SweepStatus.FINISHED)


def test_a_stop_reaches_the_whole_group(stage: Stage) -> None:
    """What ends by SIGTERM ends at once, long before the grace is over."""
    agent = stage.agent(["sh", "-c", "sleep 300 & touch $(dirname $SWEEPSTATE_CONFIG_FILE)/ready; wait"], poll=0.05)
    sweep = stage.sweep(agent, {"x": [0]}, stop_grace=3600.0)
    with stage.driven(sweep):
        stage.wait_ready(0)
        sweep[0].stop()
    assert sweep[0].cause is Cause.STOPPED


def test_no_grandchild_outlives_its_run(stage: Stage) -> None:
    """What a program leaves in its group is killed before its end is reported, whatever it ignores."""
    agent = stage.agent(poll=0.05)
    sweep = stage.sweep(agent, {"do": ["have_grandchildren"], "leave": [True], "x": [0, 1]}, max_active=1)
    alive: list[list[int]] = []
    sweep.listen(lambda event: alive.append(stage.executing()) if isinstance(event, RunEnded) else None)
    with stage.driven(sweep):
        pass
    assert sweep.counts[RunStatus.FINISHED] == 2
    assert alive[-1] == []


def test_a_daemon_that_keeps_all_that_is_open_keeps_no_end_from_being_seen(stage: Stage) -> None:
    """It is of no group of ours, so it goes on; the run has ended with its program."""
    sweep = stage.sweep(stage.agent(poll=60.0), {"do": ["leave_a_daemon"], "x": [0]})
    began = time.monotonic()
    with stage.driven(sweep):
        pass
    assert time.monotonic() - began < 50.0
    assert sweep[0].status is RunStatus.FINISHED
    assert len(stage.executing()) == 1
    stage.let_go(0)
    until(lambda: not stage.executing())


def test_cancel_ends_every_process_of_every_group_under_load(stage: Stage) -> None:
    """Twenty programs with grandchildren that ignore SIGTERM: within 2 s none of them executes."""
    script = 'trap "" TERM; sleep 300 & sh -c \'trap "" TERM; sleep 300 & wait\' & wait'
    agent = stage.agent(["sh", "-c", script], poll=0.05)
    sweep = stage.sweep(agent, {"x": list(range(40))}, max_active=20)
    with stage.driven(sweep):
        until(lambda: len(stage.executing()) >= 20 * 4)
        with busy(2):
            began = time.monotonic()
            sweep.cancel()
            until(lambda: not stage.executing())
            took = time.monotonic() - began
    assert took < 2.0
    assert (sweep.status, sweep.done, sweep.state.created) == (SweepStatus.CANCELLED, True, 20)
    assert {run.cause for run in sweep.runs()} == {Cause.CANCELLED}


@pytest.mark.parametrize("command", ["pause", "stop"])
def test_executing_runs_go_on_to_their_end_and_none_is_handed_out(stage: Stage, command: str) -> None:
    """After a pause, until it is resumed; after a stop the sweep is done."""
    agent = stage.agent(poll=0.05)
    sweep = stage.sweep(agent, {"do": ["wait_to_be_let_go"], "x": list(range(4))}, max_active=2)
    with stage.driven(sweep):
        stage.wait_ready(0, 1)
        getattr(sweep, command)()
        stage.let_go(0, 1)
        until(lambda: sweep.refresh().counts[RunStatus.FINISHED] == 2)
        assert sweep.state.created == 2
        if command == "pause":
            sweep.tick()
            assert sweep.refresh().state.created == 2
            sweep.resume()
            stage.wait_ready(2, 3)
            stage.let_go(2, 3)
    assert sweep.done
    assert sweep.status is (SweepStatus.FINISHED if command == "pause" else SweepStatus.STOPPED)


def test_what_is_killed_has_no_chance_for_its_handlers(stage: Stage) -> None:
    """Its run is KILLED at once, and its lease lasts until nothing of it executes."""
    agent = stage.agent(poll=0.05)
    sweep = stage.sweep(agent, {"do": ["have_grandchildren"], "x": [0]})
    with stage.driven(sweep):
        stage.wait_ready(0)
        sweep[0].kill()
        assert sweep[0].status is RunStatus.KILLED
        until(lambda: sweep[0].state.lease is None)
        assert stage.executing() == []


# --- output and surroundings ----------------------------------------------------------------------


def test_a_flood_of_output_costs_no_memory_and_its_end_is_the_message(stage: Stage) -> None:
    """It goes to a file, so that no pipe fills up; bytes that are no text do no harm."""
    sweep = stage.sweep(stage.agent(poll=0.05), {"do": ["flood"], "megabytes": [64]})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with stage.driven(sweep):
        pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # kB
    output = stage.place(0) / "output.log"
    assert output.stat().st_size > 64 * 2**20
    output.write_bytes(b"")
    state = sweep[0].state
    assert (state.status, state.exit_code) == (RunStatus.FAILED, 3)
    assert "the last \ufffd line" in str(state.message)
    assert len(str(state.message)) < 6_000


def test_a_program_finds_its_configuration_everywhere(stage: Stage, tmp_path: Path) -> None:
    """In its arguments, its environment and a file; with the variables and the directory that were asked for."""
    agent = stage.agent(cwd=tmp_path, env={"SHOWN": "yes"}, slots=Slots(["a", "b"], per_run=2), poll=0.05)
    sweep = stage.sweep(agent, {"do": ["show_surroundings"], "o": [{"lr": 0.1, "on": [1, True]}]})
    with stage.driven(sweep):
        pass
    shown = json.loads((stage.place(0) / "shown.json").read_text())
    config = {"do": "show_surroundings", "o": {"lr": 0.1, "on": [1, True]}}
    assert shown["argv"] == ["--do=show_surroundings", "--o.lr=0.1", "--o.on=[1, True]"]
    env = shown["env"]
    assert json.loads(env["SWEEPSTATE_CONFIG"]) == config
    assert json.loads(Path(env["SWEEPSTATE_CONFIG_FILE"]).read_text()) == config
    assert (env["SWEEPSTATE_SWEEP"], env["SWEEPSTATE_INDEX"], env["SWEEPSTATE_ATTEMPT"]) == ("s", "0", "1")
    assert (env["SHOWN"], env["CUDA_VISIBLE_DEVICES"], shown["cwd"]) == ("yes", "a,b", str(tmp_path))
    assert sweep.run_of(env["SWEEPSTATE_RUN"]).index == 0


def test_nothing_is_taken_for_its_own_of_a_run_that_it_is_part_of(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orchestrator may be a program of another one; its programs see their own configuration only."""
    for name in ("SWEEPSTATE_CONFIG", "SWEEPSTATE_CONFIG_FILE", "SWEEPSTATE_RUN", "SWEEPSTATE_CHANNEL"):
        monkeypatch.setenv(name, "outer")
    program = "import os, sys; sys.exit('outer' in os.environ.values())"
    agent = stage.agent([sys.executable, "-S", "-c", program], arguments=False, poll=0.05)
    sweep = stage.sweep(agent, {"text": ["x" * 300_000]})
    with stage.driven(sweep):
        pass
    assert sweep[0].status is RunStatus.FINISHED


def test_arguments_may_name_what_is_known_only_when_a_run_begins(stage: Stage) -> None:
    """Its token, with the execution that it stands for."""
    script = 'test "$1" = "$SWEEPSTATE_RUN" && test "$2" = 0.1'
    where = "${envvar:SWEEPSTATE_INDEX}.${envvar:SWEEPSTATE_ATTEMPT}"
    agent = stage.agent(["sh", "-c", script, "sh", "${envvar:SWEEPSTATE_RUN}", where], arguments=False, poll=0.05)
    sweep = stage.sweep(agent, {"x": [0]})
    with stage.driven(sweep):
        pass
    assert sweep[0].status is RunStatus.FINISHED


def test_a_configuration_that_is_too_long_for_a_variable_is_in_the_file(stage: Stage) -> None:
    """Linux takes no more than 128 KiB in one; the child side finds it all the same."""
    program = "from sweepstate.agent import child; child.finish(n=len(child.config()['text']))"
    agent = stage.agent([sys.executable, "-c", program], arguments=False, poll=0.05)
    sweep = stage.sweep(agent, {"text": ["x" * 300_000]})
    with stage.driven(sweep):
        pass
    assert sweep[0].metrics == {"n": 300_000}


def test_arguments_that_are_too_long_fail_their_run(stage: Stage) -> None:
    """The error is that of the system."""
    sweep = stage.sweep(stage.agent(["true"], poll=0.05), {"text": ["x" * 300_000]})
    with stage.driven(sweep):
        pass
    assert sweep[0].status is RunStatus.FAILED
    assert "Argument list too long" in str(sweep[0].message)


def test_secrets_stay_where_they_were_given(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """In no log, no message, no file, and nothing that is shown."""
    caplog.set_level(logging.DEBUG)
    command = ["sh", "-c", 'test "$1" = "$KEY" && test ${#KEY} = 7 && exit 3', "sh", "${envvar:KEY}"]
    agent = stage.agent(command, arguments=False, env={"KEY": "hunter2"}, poll=0.05)
    sweep = stage.sweep(agent, {"x": [0]})
    with stage.driven(sweep):
        pass
    assert sweep[0].state.exit_code == 3
    shown = [caplog.text, repr(agent), repr(agent._command), *map(repr, sweep.history())]
    shown += [path.read_text() for path in stage.path.rglob("*") if path.is_file()]
    assert not any("hunter2" in text for text in shown)


def test_no_slot_is_given_to_two_at_once_and_no_launch_fails_for_want_of_one(stage: Stage) -> None:
    """Two sweeps share three slots, and each would like to execute everything at once."""
    slots = Slots([0, 1, 2], variable="SLOT")
    script = "set -C; cd $(dirname $SWEEPSTATE_CONFIG_FILE)/../..; : > used-$SLOT && sleep 0.05 && rm used-$SLOT"
    sweeps = [
        Sweep(
            Grid({"x": list(range(8))}),
            id=name,
            agent=stage.agent(["sh", "-c", script], name=name, slots=slots, poll=0.02),
        )
        for name in ("one", "two")
    ]
    with stage.driven(sweeps[0]), stage.driven(sweeps[1]):
        pass
    for sweep in sweeps:
        assert sweep.counts[RunStatus.FINISHED] == 8, [run.message for run in sweep.runs()]
        assert {run.attempt for run in sweep.runs()} <= {1, 2, 3}
    assert slots.free == 3


def test_without_a_limit_there_is_one_program_for_each_cpu(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep over ten thousand points does not start ten thousand programs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    agent = stage.agent(["sleep", "300"], arguments=False, poll=0.05)
    sweep = stage.sweep(agent, {"x": list(range(10_000))})
    with stage.driven(sweep):
        until(lambda: len(stage.executing()) == 3)
        sweep.tick()
        assert sweep.refresh().state.created == 3
        sweep[0].kill()
        until(lambda: sweep.refresh().state.created == 4)
        sweep.cancel()


def test_a_program_that_cannot_be_supervised_is_not_left_executing(stage: Stage) -> None:
    """The disk is full when it is to be written down which process it is."""
    agent = stage.agent(["sleep", "300"], arguments=False, poll=0.05)
    written: list[object] = []

    def write(self: Place, record: Record) -> None:
        written.append(record)
        if record.leader is not None:
            raise OSError(errno.ENOSPC, "no space left on device")

    sweep = stage.sweep(agent, {"x": [0]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Place, "write_record", write)
        with stage.driven(sweep):
            pass
    assert len(written) == 2
    assert stage.executing() == []
    assert sweep[0].status is RunStatus.FAILED
    assert "no space left" in str(sweep[0].message)


def test_signals_are_forwarded_on_request(stage: Stage) -> None:
    """To every program, while ``drive`` is in the main thread."""
    agent = stage.agent(forward=[signal.SIGUSR1], poll=0.05)
    sweep = stage.sweep(agent, {"do": ["note_signals"], "x": [0, 1]}, max_active=2)

    def send() -> None:
        stage.wait_ready(0, 1)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.getsignal(signal.SIGUSR1)
    thread = threading.Thread(target=send)
    thread.start()
    agent.drive(sweep)
    thread.join()
    assert sweep.counts[RunStatus.FINISHED] == 2
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_child_that_somebody_else_has_waited_for_is_gone(stage: Stage) -> None:
    """Nobody knows how it ended, so nothing is made up."""
    agent = stage.agent(["true"], arguments=False, poll=0.05)
    launch = agent._launch

    def launch_and_wait(run: Run, prepared: Any) -> Any:
        execution = launch(run, prepared)
        os.waitpid(execution.group.pid, 0)
        return execution

    agent._launch = launch_and_wait  # type: ignore[method-assign]
    sweep = stage.sweep(agent, {"x": [0]})
    with stage.driven(sweep):
        pass
    assert sweep[0].status is RunStatus.CRASHED
    assert sweep[0].state.exit_code is None


# --- the child side -------------------------------------------------------------------------------


def test_what_a_program_reports_arrives_and_nonsense_does_no_harm(stage: Stage) -> None:
    """The newest metrics while it executes; those of ``finish`` with its end, and they decide."""
    agent = stage.agent(poll=0.02)
    space = {"do": ["talk"], "finish": [True, False]}
    sweep = stage.sweep(agent, space, max_active=2)
    with stage.driven(sweep):
        stage.wait_ready(0, 1)
        until(lambda: sweep[0].metrics.get("step") == 199)
        stage.let_go(0, 1)
    assert [dict(run.metrics) for run in sweep.runs()] == [{"loss": 0.25}, {}]
    assert sweep.counts[RunStatus.FINISHED] == 2


@pytest.mark.parametrize(
    "script",
    [
        # Not every shell: dash knows descriptors of one digit only.
        """exec 9>&$SWEEPSTATE_CHANNEL; echo '{"report": {"loss": 2}}' >&9; echo '{"finish": {"loss": 1}}' >&9""",
        """"$PYTHON" -c 'from sweepstate.agent import child; child.finish(loss=1)'; exit $?""",
    ],
    ids=["a shell", "a program that a shell has started"],
)
def test_any_language_can_speak_and_a_shell_may_be_in_between(stage: Stage, script: str) -> None:
    """It is a descriptor, and a line."""
    agent = stage.agent(["bash", "-c", script], arguments=False, env={"PYTHON": sys.executable}, poll=0.05)
    sweep = stage.sweep(agent, {"x": [0]})
    with stage.driven(sweep):
        pass
    assert (sweep[0].status, sweep[0].metrics) == (RunStatus.FINISHED, {"loss": 1})


class Away(MemoryStorage):
    """Does not answer while it is away."""

    away = False

    def sweep(self, sweep_id: str) -> SweepState:
        if self.away:
            raise StorageError("away")
        return super().sweep(sweep_id)


def test_who_leaves_in_an_outage_leaves_no_program_behind(stage: Stage) -> None:
    """One ends when it is asked, with metrics that nobody takes; one ignores it, with grandchildren, and is killed."""
    storage = Away()
    agent = stage.agent(poll=0.02, patience=0.0)
    search = Grid({"do": ["talk", "have_grandchildren", "ignore_sigterm"], "finish": [True]})
    sweep = Sweep(search, id="s", agent=agent, storage=storage, limits=Limits(max_active=3, stop_grace=0.5))
    sweep.tick()
    stage.wait_ready(0, 1, 2)
    storage.away = True
    with pytest.raises(StorageError):
        agent.drive(sweep)
    assert len(stage.executing()) >= 3
    assert agent.terminate()
    assert stage.executing() == []
    storage.away = False
    sweep.stop()
    assert agent.drive(sweep)
    assert {run.status for run in sweep.runs()} == {RunStatus.CRASHED}


def test_an_outage_of_the_storage_loses_neither_metrics_nor_the_end(stage: Stage) -> None:
    """What was said meanwhile is said again."""
    agent = stage.agent(poll=0.02)
    storage = Away()
    space = {"do": ["talk"], "finish": [True]}
    sweep = Sweep(Grid(space), id="s", agent=agent, storage=storage)
    with stage.driven(sweep):
        until(stage.executing)
        storage.away = True
        stage.wait_ready(0)
        time.sleep(0.1)
        storage.away = False
        until(lambda: sweep[0].metrics.get("step") == 199)
        storage.away = True
        stage.let_go(0)
        until(lambda: not stage.executing())
        storage.away = False
    assert sweep[0].metrics == {"loss": 0.25}


def test_finish_decides_about_the_objective(stage: Stage) -> None:
    program = "from sweepstate.agent import child; x = child.config()['x']; child.report(loss=-9); child.finish(loss=x)"
    agent = stage.agent([sys.executable, "-c", program], arguments=False, poll=0.05)
    sweep = Sweep(Grid({"x": [3, 1, 2]}), id="best", agent=agent, objective=Objective("loss", "minimize"))
    with stage.driven(sweep):
        pass
    assert sweep.best is not None
    assert (sweep.best.config["x"], sweep.best.metrics["loss"]) == (1, 1)


def test_a_slow_agent_never_holds_up_training(stage: Stage) -> None:
    """Nobody reads what it reports, and it does not wait; the newest metrics are read in the end."""
    program = """
import time
from sweepstate.agent import child
from sweepstate.agent._workdir import Place, Record
began = time.monotonic()
for step in range(20_000):
    child.report(step=step, text=1e300)
assert time.monotonic() - began < 30
open(child.config()["done"], "w").close()
"""
    done = stage.path / "done"
    agent = stage.agent([sys.executable, "-c", program], arguments=False)
    agent._watcher.watch_channel = lambda channel: None  # type: ignore[method-assign]
    sweep = stage.sweep(agent, {"done": [str(done)]})
    sweep.tick()  # launched, and nobody listens
    until(done.exists)
    agent.drive(sweep)
    assert sweep[0].status is RunStatus.FINISHED
    assert sweep.storage.last_metrics("s", 0)["step"] == 19_999  # type: ignore[attr-defined]


def run_by_hand(program: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program that uses the child side, which it imports from its file alone."""
    begin = f"import sys; sys.path.insert(0, {str(Path(child.__file__).parent)!r}); import child\n"
    bare = {name: value for name, value in os.environ.items() if not name.startswith("SWEEPSTATE_")}
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", begin + program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**bare, **env},
    )


def test_the_child_side_is_harmless_by_hand_and_needs_nothing() -> None:
    """No storage, no third party, not even the rest of the package."""
    done = run_by_hand(
        "child.report(loss=1.0); child.finish({'a': 1}); child.mark_preempting()\n"
        "print(child.config(), child.should_stop(), [name for name in sys.modules if 'sweepstate' in name])\n"
        "print(sorted({'attrs', 'attr', 'socket', 'logging', 'subprocess', 'asyncio', 'pathlib'} & set(sys.modules)))"
    )
    assert done.stdout == "{} False []\n[]\n", done.stderr


def test_a_metric_that_is_no_number_is_told_at_once() -> None:
    """By hand too, so that it is found before the sweep is started."""
    assert "TypeError: loss must be a number" in run_by_hand("child.report(loss='low')").stderr


def test_the_child_side_writes_to_no_file_that_is_not_its_socket(tmp_path: Path) -> None:
    """A program in between may have closed the socket and opened something else under its number."""
    file = tmp_path / "precious"
    file.touch()
    program = f"""
import os
mine = os.open({str(file)!r}, os.O_RDWR)
os.dup2(mine, 77)
os.environ["SWEEPSTATE_CHANNEL"], os.environ["SWEEPSTATE_CHANNEL_INODE"] = "77", str(os.fstat(77).st_ino)
import importlib
child = importlib.reload(child)
child.finish(loss=1)
"""
    done = run_by_hand(program)
    assert (done.returncode, done.stderr, file.read_bytes()) == (0, "", b"")


def test_the_child_side_takes_no_other_socket_for_its_own() -> None:
    """Nor does what it starts itself: the variables are gone once they were read."""
    program = """
import importlib, os, socket
ours, theirs = socket.socketpair()
name = {"SWEEPSTATE_CHANNEL": str(theirs.fileno()), "SWEEPSTATE_CHANNEL_INODE": str(os.fstat(theirs.fileno()).st_ino)}
ours.setblocking(False)
for inode in ("1", name["SWEEPSTATE_CHANNEL_INODE"]):
    os.environ.update(name, SWEEPSTATE_CHANNEL_INODE=inode)
    importlib.reload(child).finish(loss=1)
    assert not {*name} & {*os.environ}
    try:
        print(ours.recv(100))
    except BlockingIOError:
        print("nothing")
"""
    done = run_by_hand(program)
    assert done.stdout == 'nothing\nb\'{"finish": {"loss": 1}}\\n\'\n', done.stderr


def test_a_signal_handler_may_speak_while_the_program_does(stage: Stage) -> None:
    """A notice of preemption comes at any moment."""
    program = """
import os, signal, sys, time
from sweepstate.agent import child
from sweepstate.agent._workdir import Place, Record
def notice(*_):
    child.mark_preempting()
    sys.exit(1)
signal.signal(signal.SIGALRM, notice)
if os.environ["SWEEPSTATE_ATTEMPT"] == "1":
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    while True:
        child.report(a=1)
"""
    agent = stage.agent([sys.executable, "-c", program], arguments=False, poll=0.05)
    sweep = stage.sweep(agent, {"x": [0, 1, 2]}, max_active=1)
    with stage.driven(sweep):
        pass
    ends = [(run.status, run.attempt) for run in sweep.runs()]
    assert ends == [(RunStatus.FINISHED, 2)] * 3, [run.message for run in sweep.runs()]
