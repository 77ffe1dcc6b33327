"""``work`` in real processes, with a real thread that beats, and real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweepstate import (
    Cause,
    GoingReason,
    Grid,
    Limits,
    MemoryStorage,
    Run,
    RunStatus,
    SQLiteStorage,
    Sweep,
    work,
)

SCRIPT = Path(__file__).parent / "worker_script.py"
ROOT = Path(__file__).parents[2]
LIMITS = Limits(heartbeat_timeout=1.0, suspicion=1.0, retries={RunStatus.CRASHED: 1})


def wait_for(condition: Callable[[], object], what: str, seconds: float = 90.0) -> None:
    """Wait until something is true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.01)


class Script:
    """The training script, in a session of its own."""

    def __init__(self, mode: str, folder: Path) -> None:
        self.go = folder / "go"
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), mode, str(folder / "sweeps.db"), str(self.go)],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.rstrip())

    def wait_for(self, text: str) -> None:
        """Wait until it says something."""
        wait_for(
            lambda: any(text in line for line in self.said) or self.process.poll() is not None, f"{text!r}: {self.said}"
        )
        self._settle()
        assert any(text in line for line in self.said), self.said

    def _settle(self) -> None:
        if self.process.poll() is not None:
            self._reader.join(60)

    def press(self, text: str) -> None:
        """Press Ctrl-C, as a terminal sends it to the whole group, and wait until that is heard."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.wait_for(text)

    def end(self) -> int:
        """Wait until it ends; return how."""
        code = self.process.wait(90)
        self._settle()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(90)
        self._reader.join(60)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    storage = SQLiteStorage(tmp_path / "sweeps.db")
    yield Sweep(Grid({"x": list(range(4))}), id="s", storage=storage, limits=LIMITS)
    storage.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Script]]:
    """Starts the script, and ends it in the end."""
    started: list[Script] = []

    def begin(mode: str) -> Script:
        started.append(Script(mode, tmp_path))
        return started[-1]

    yield begin
    for script in started:
        script.close()


def heard(sweep: Sweep) -> float | None:
    storage = sweep.storage
    assert isinstance(storage, (SQLiteStorage, MemoryStorage))
    return storage.last_heard("s", [(0, 1)])[0]


def test_ctrl_c_once_finishes_the_run_and_leaves(sweep: Sweep, start: Callable[[str], Script]) -> None:
    """With its heartbeats, and nothing new is claimed."""
    script = start("finish")
    script.wait_for("began 0")
    script.press("finishes s[0] and leaves")
    before = heard(sweep)
    wait_for(lambda: heard(sweep) != before, "a heartbeat after the first Ctrl-C")
    assert sweep[0].status is RunStatus.RUNNING
    script.go.touch()
    assert script.end() == 0
    assert "home: INTERRUPTED" in script.said
    assert (sweep[0].status, sweep[0].metrics) == (RunStatus.FINISHED, {"loss": 0.5})
    assert sweep.refresh().state.created == 1


def test_ctrl_c_twice_asks_the_run_to_stop(sweep: Sweep, start: Callable[[str], Script]) -> None:
    script = start("obey")
    script.wait_for("began 0")
    script.press("finishes s[0] and leaves")
    script.press("asks s[0] to stop")
    assert script.end() == 0
    assert (sweep[0].status, sweep[0].cause) == (RunStatus.KILLED, Cause.STOPPED)
    assert (sweep.refresh().state.created, sweep.state.leased) == (1, 0)


def test_ctrl_c_thrice_leaves_now(sweep: Sweep, start: Callable[[str], Script]) -> None:
    """As a process ends by Ctrl-C, with the run reported as interrupted."""
    script = start("ignore")
    script.wait_for("began 0")
    script.press("finishes s[0] and leaves")
    script.press("asks s[0] to stop")
    os.killpg(script.process.pid, signal.SIGINT)
    assert script.end() == -signal.SIGINT
    assert sweep[0].status is RunStatus.KILLED
    assert sweep[0].message == "KeyboardInterrupt"
    assert (sweep.refresh().state.created, sweep.state.leased) == (1, 0)


def test_ctrl_c_ends_a_long_wait(sweep: Sweep, start: Callable[[str], Script]) -> None:
    """Long before the hour is over after which it would ask again."""
    sweep.pause()
    script = start("finish")
    script.wait_for("waits, as the sweep is paused")
    script.press("script: leaves")
    assert script.end() == 0
    assert "home: INTERRUPTED" in script.said


def test_what_the_training_has_forked_outlives_the_first_ctrl_c(sweep: Sweep, start: Callable[[str], Script]) -> None:
    """Loaders of data that died would take the run with them; SIGTERM ends them as ever."""
    script = start("fork")
    script.wait_for("began 0")
    script.press("finishes s[0] and leaves")
    script.go.touch()
    assert script.end() == 0
    assert sweep[0].metrics == {"loader": 7, "other": -signal.SIGTERM}


def test_sigterm_queues_the_run_again(sweep: Sweep, start: Callable[[str], Script]) -> None:
    """And the process ends as one that SIGTERM has ended."""
    script = start("ignore")
    script.wait_for("began 0")
    script.process.send_signal(signal.SIGTERM)
    assert script.end() == 143
    assert (sweep[0].status, sweep[0].attempt) == (RunStatus.PENDING, 2)
    assert sweep.refresh().state.created == 1


def test_another_worker_takes_up_the_run_of_one_that_was_killed(sweep: Sweep, start: Callable[[str], Script]) -> None:
    """SIGKILL: nobody reports, silence tells, and the run is tried again."""
    script = start("ignore")
    script.wait_for("began 0")
    os.killpg(script.process.pid, signal.SIGKILL)
    script.end()
    going = work(sweep, lambda run: {"attempt": run.attempt}, poll=0.1, signals=False)
    assert (going.reason, going.runs) == (GoingReason.ENDED, 4)
    assert sweep[0].metrics == {"attempt": 2}


def workers() -> int:
    return sum(thread.name == "sweepstate worker" for thread in threading.enumerate())


def test_a_thread_beats_while_the_function_computes_and_ends_with_the_worker() -> None:
    """Without the function's help, one thread for all runs of a worker."""
    sweep = Sweep(Grid({"x": [0, 1]}), id="s", storage=MemoryStorage(), limits=Limits(heartbeat_timeout=0.25))
    beats: set[float | None] = set()
    threads: list[int] = []

    def often_enough() -> bool:
        beats.add(heard(sweep))
        return len(beats) > 3

    def train(run: Run) -> None:
        threads.append(workers())
        if run.index == 0:
            wait_for(often_enough, "three heartbeats")

    before = workers()
    assert work(sweep, train).counts == {RunStatus.FINISHED: 2}
    assert threads == [before + 1] * 2
    assert workers() == before


def test_many_workers_of_one_process_share_a_sweep() -> None:
    """Each with a thread of its own; every run is executed once."""
    sweep = Sweep(Grid({"x": list(range(60))}), storage=MemoryStorage())
    seen: list[int] = []
    going: list[int] = []

    def one() -> None:
        handle = Sweep.open(sweep.id, storage=sweep.storage)
        going.append(work(handle, lambda run: seen.append(run.index), poll=0.1).runs)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(seen) == list(range(60))
    assert sum(going) == 60
    assert sweep.refresh().done
