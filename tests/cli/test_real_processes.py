"""The command line as it is really used: as a process, in a pipe, on a terminal, interrupted."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from sweepstate import SQLiteStorage
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
