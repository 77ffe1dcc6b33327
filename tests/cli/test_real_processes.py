"""The command line as it is really used: as a process, in a pipe, on a terminal, interrupted."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from sweepstate import Limits, RunStatus, SQLiteStorage, Sweep
from sweepstate.hooks import History
from tests.agents.processes import PROGRAM, Stage, until
from tests.support.sqlite import new_sweep

ROOT = Path(__file__).parents[2]
#: A loaded machine is slow; nothing here waits for so long unless it is broken.
PATIENCE = 120
COMMAND = [sys.executable, "-W", "error", "-m", "sweepstate"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Give an environment that names a storage of a few hundred sweeps, more than a pipe holds."""
    with SQLiteStorage(tmp_path / "sweeps.db", synchronous="NORMAL") as storage:
        for number in range(300):
            new_sweep(storage, id=f"s{number:03}")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Unbuffered, argparse writes its help at once, and does not say that it could not.
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "NO_COLOR")}
    return {**inherited, "PYTHONPATH": path, "SWEEPSTATE_STORAGE": str(tmp_path / "sweeps.db"), "TERM": "xterm"}


@contextmanager
def started(words: list[str], environment: dict[str, str], stdout: int) -> Iterator[subprocess.Popen[str]]:
    """Start a command, and leave nothing of it."""
    process = subprocess.Popen([*COMMAND, *words], env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process; return its exit code and what it complained of."""
    assert process.stderr is not None
    code = process.wait(PATIENCE)
    return code, process.stderr.read()


def test_it_is_a_module_that_can_be_run(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [*COMMAND, "sweep", "--pause", "s001"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "sweep 's001' is PAUSED\n", "")


def test_ctrl_c_ends_a_watch_without_a_traceback(environment: dict[str, str]) -> None:
    with started(["status", "s001", "--watch", "0.05", "--json"], environment, subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["id"] == "s001"
        process.send_signal(signal.SIGINT)
        assert ended(process) == (130, "")


@pytest.mark.parametrize("words", [["list", "--json"], ["list"], ["status", "s001"], ["--help"]], ids=" ".join)
def test_a_pipe_that_nobody_reads_is_no_traceback(environment: dict[str, str], words: list[str]) -> None:
    """As in ``sweepstate list | head -1``; here it is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with started(words, environment, writing) as process:
            assert ended(process) == (141, "")
    finally:
        os.close(writing)


def test_a_pipe_that_is_closed_in_the_middle_is_none_either(environment: dict[str, str]) -> None:
    with started(["list", "--json"], environment, subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["id"] == "s000"
        process.stdout.close()
        assert ended(process) == (141, "")


# --- an agent that cannot go on -------------------------------------------------------------------

#: The command line, with a storage that does not answer while there is a file, and an agent that has no patience.
OUTAGE = """
import sys
from pathlib import Path
from sweepstate import SQLiteStorage, StorageError
from sweepstate.agent.subprocess import SubprocessAgent
from sweepstate.cli import main

def outage(method):
    def called(*args, **kwargs):
        if Path(sys.argv[1]).exists():
            raise StorageError("the storage is away, on purpose")
        return method(*args, **kwargs)
    return called

for name in ("sweep", "runs", "commit", "beat"):
    setattr(SQLiteStorage, name, outage(getattr(SQLiteStorage, name)))
SubprocessAgent.__init__.__kwdefaults__.update(patience=0.1, poll=0.05)
sys.exit(main(sys.argv[2:]))
"""


class Once:
    """A search that knows two points, has no plain form, and so cannot be asked by the command line."""

    size = 2

    def propose(self, index: int, _history: History, /) -> dict[str, int]:
        return {"x": index}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Whatever a test starts is gone after it."""
    stage = Stage(tmp_path)
    yield stage
    assert stage.clear() == []


@contextmanager
def agent_of(
    stage: Stage, do: str, *options: str, command: Sequence[str] = COMMAND
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start an agent of the sweep "s"; give also the file of what it complains of."""
    words = ["agent", "s", "--workdir", str(stage.path / "runs"), *options, "--", sys.executable, PROGRAM, do]
    environment = {**os.environ, **stage.env, "SWEEPSTATE_STORAGE": str(stage.path / "s.db")}
    errors = stage.path / "errors"
    with errors.open("w") as file:
        process = subprocess.Popen([*command, *words], env=environment, stderr=file, text=True)
    try:
        yield process, errors
    finally:
        process.kill()
        process.wait()


def test_an_agent_whose_search_fails_waits_for_its_runs_and_exits_1(stage: Stage) -> None:
    """They are looked after until they have ended, and reported."""
    with SQLiteStorage(stage.path / "s.db", synchronous="NORMAL") as storage:
        sweep = Sweep(Once(), id="s", storage=storage, limits=Limits(max_active=2))
        run = sweep.next_run("somebody")
        assert run
        run.release()
        with agent_of(stage, "wait_to_be_let_go") as (process, errors):
            until((stage.place(0, 2) / "ready").exists)
            until(lambda: "no more runs are begun, executing still: 1" in errors.read_text())
            assert process.poll() is None
            (stage.place(0, 2) / "go").touch()
            assert process.wait(PATIENCE) == 1
        assert "sweepstate: sweep 's': a new run needs the search" in errors.read_text()
        assert [run.status for run in sweep.runs()] == [RunStatus.FINISHED]


def test_an_agent_whose_storage_stays_away_ends_its_programs_and_exits_1(stage: Stage) -> None:
    """Whatever they do about it; the next agent of its name finds that they are gone."""
    away = stage.path / "away"
    with SQLiteStorage(stage.path / "s.db", synchronous="NORMAL") as storage:
        sweep = new_sweep(storage, points=2, max_active=2, stop_grace=0.2)
        with agent_of(stage, "ignore_sigterm", command=[sys.executable, "-c", OUTAGE, str(away)]) as (process, errors):
            stage.wait_ready(0, 1)
            away.touch()
            assert process.wait(PATIENCE) == 1
            assert stage.executing() == []
        assert "sweepstate: the storage is away, on purpose" in errors.read_text()
        assert [run.status for run in sweep.runs()] == [RunStatus.RUNNING] * 2
        with agent_of(stage, "once") as (process, _):
            assert process.wait(PATIENCE) == 0
        assert [run.status for run in sweep.runs()] == [RunStatus.CRASHED] * 2


def test_an_agent_that_is_terminated_ends_its_programs_which_are_queued_again(stage: Stage) -> None:
    """As by systemd, Kubernetes or Slurm, which kill a while later; the next one does the work."""
    with SQLiteStorage(stage.path / "s.db", synchronous="NORMAL") as storage:
        sweep = new_sweep(storage, points=3, max_active=2, stop_grace=0.2)
        with agent_of(stage, "ignore_sigterm") as (process, _):
            stage.wait_ready(0, 1)
            process.terminate()
            assert process.wait(PATIENCE) == 143
            assert stage.executing() == []
        assert [(run.status, run.attempt) for run in sweep.runs()] == [(RunStatus.PENDING, 2)] * 2
        with agent_of(stage, "once") as (process, _):
            assert process.wait(PATIENCE) == 0
        assert [(run.status, run.attempt) for run in sweep.runs()] == [
            (RunStatus.FINISHED, 2),
            (RunStatus.FINISHED, 2),
            (RunStatus.FINISHED, 1),
        ]


def test_an_agent_leaves_after_so_many_runs_each_with_its_slot(stage: Stage) -> None:
    """The sweep need not bound how many execute at once, as the slots do."""
    with SQLiteStorage(stage.path / "s.db", synchronous="NORMAL") as storage:
        sweep = new_sweep(storage, points=9)
        with agent_of(stage, "show_surroundings", "--count", "3", "--slots", "5,6") as (process, _):
            assert process.wait(PATIENCE) == 0
        assert [run.status for run in sweep.runs()] == [RunStatus.FINISHED] * 3
    shown = [json.loads((stage.place(index) / "shown.json").read_text())["env"] for index in range(3)]
    assert {env["CUDA_VISIBLE_DEVICES"] for env in shown} <= {"5", "6"}


def read_until(terminal: int, word: bytes) -> bytes:
    """Return what a terminal was written until a word came."""
    seen, deadline = b"", time.monotonic() + PATIENCE
    while word not in seen:
        assert time.monotonic() < deadline, seen
        seen += os.read(terminal, 65_536)
    return seen


def read_rest(terminal: int) -> bytes:
    seen = b""
    os.set_blocking(terminal, False)
    try:
        while chunk := os.read(terminal, 65_536):
            seen += chunk
    except OSError:  # nothing more (Linux reports a terminal that nobody has open as EIO)
        pass
    return seen


@contextmanager
def on_a_terminal(words: list[str], environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a command whose output is a terminal."""
    ours, theirs = pty.openpty()
    ends = closing(os.fdopen(ours, "rb", 0)), closing(os.fdopen(theirs, "wb", 0))
    with ends[0], ends[1], started(words, environment, theirs) as process:
        yield process, ours


def test_on_a_terminal_a_watch_is_redrawn_and_leaves_the_cursor_visible(environment: dict[str, str]) -> None:
    with on_a_terminal(["status", "s001", "--watch", "0.05"], environment) as (process, terminal):
        seen = read_until(terminal, b"silent runs")
        with SQLiteStorage(environment["SWEEPSTATE_STORAGE"]) as storage:
            sweep = new_sweep(storage, id="other")
            sweep.open("s001", storage=storage).pause()
        seen += read_until(terminal, b"PAUSED")
        process.send_signal(signal.SIGINT)
        assert ended(process) == (130, "")
        seen += read_rest(terminal)
    assert b"\x1b[?25l" in seen  # the cursor is hidden
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")  # and shown again
    assert b"Traceback" not in seen


def test_a_watch_on_a_terminal_ends_when_the_sweep_is_done(environment: dict[str, str]) -> None:
    with SQLiteStorage(environment["SWEEPSTATE_STORAGE"]) as storage:
        storage_sweep = new_sweep(storage, id="brief", points=1)
        storage_sweep.execute(lambda run: None)
    with on_a_terminal(["status", "brief", "--watch"], environment) as (process, terminal):
        seen = read_until(terminal, b"silent runs")
        assert ended(process) == (0, "")
    assert b"FINISHED" in seen


def test_on_a_narrow_terminal_ids_are_not_cut(environment: dict[str, str]) -> None:
    """The terminal folds the rows."""
    with SQLiteStorage(environment["SWEEPSTATE_STORAGE"]) as storage:
        new_sweep(storage, id="resnet-50/" * 9)
    for words in (["list"], ["status", "resnet-50/" * 9]):
        with on_a_terminal(words, {**environment, "COLUMNS": "40"}) as (process, terminal):
            seen = read_until(terminal, b"s299" if words == ["list"] else b"silent runs")
            assert ended(process) == (0, "")
        assert b"resnet-50/" * 9 in seen


@pytest.mark.parametrize(("variables", "colours"), [({}, 1), ({"NO_COLOR": "1"}, 0)])
def test_a_terminal_has_colours_unless_they_are_not_wanted(
    environment: dict[str, str], variables: dict[str, str], colours: int
) -> None:
    """https://no-color.org"""
    with on_a_terminal(["status", "s001"], {**environment, **variables}) as (process, terminal):
        seen = read_until(terminal, b"silent runs")
        assert ended(process) == (0, "")
    assert seen.count(b"\x1b[32mRUNNING\x1b[0m") == colours


def test_what_is_no_terminal_gets_no_control_sequences_whatever_the_environment_says(
    environment: dict[str, str],
) -> None:
    done = subprocess.run(
        [*COMMAND, "status", "s001"],
        env={**environment, "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "COLUMNS": "20"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert "\x1b" not in done.stdout
    assert "created " in done.stdout
