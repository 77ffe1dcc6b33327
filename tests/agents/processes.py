"""What tests with real processes share: sweeps that are driven beside the test, and a look at who executes."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sweepstate import Grid, Limits, Sweep
from sweepstate.agent._processes import stat_of, with_environment
from sweepstate.agent._workdir import directory_name
from sweepstate.agent.subprocess import SubprocessAgent

PROGRAM = str(Path(__file__).with_name("program.py"))
ROOT = str(Path(__file__).parents[2])
#: Everything here is awaited, and nothing takes this long, also on a machine that does other things.
PATIENCE = 120.0
#: How many points the sweep of ``orchestrator.py`` has.
POINTS = 6


def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain {what}"
        time.sleep(0.005)


class Stage:
    """Where programs of one test execute; each has the stage's tag in its environment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tag = secrets.token_hex(8)

    @property
    def env(self) -> dict[str, str]:
        """What tells the programs of this test from all others, and lets them find this package."""
        return {"SWEEPSTATE_TEST": self.tag, "PYTHONPATH": ROOT}

    def executing(self) -> list[int]:
        """Return the processes of this test in which something executes."""
        found = ((pid, stat_of(pid)) for pid in with_environment(f"SWEEPSTATE_TEST={self.tag}"))
        return [pid for pid, stat in found if stat is not None and not stat.over]

    def agent(self, command: list[str] | None = None, **options: Any) -> SubprocessAgent:
        """Return an agent whose programs are those of this test."""
        command = [sys.executable, PROGRAM] if command is None else command
        env = {**self.env, **options.pop("env", {})}
        return SubprocessAgent(command, workdir=self.path / "runs", env=env, **options)

    def sweep(self, agent: SubprocessAgent, space: Mapping[str, Any], **limits: Any) -> Sweep:
        """Return a sweep over a grid."""
        return Sweep(Grid(space), id="s", agent=agent, limits=Limits(**limits))

    def place(self, index: int, attempt: int = 1, sweep: str = "s") -> Path:
        """Return the directory of an attempt."""
        return self.path / "runs" / directory_name(sweep) / f"{index}.{attempt}"

    def wait_ready(self, *indexes: int) -> None:
        """Wait until the programs of these runs say that they are ready."""
        for index in indexes:
            until((self.place(index) / "ready").exists, f"for run {index}")

    def let_go(self, *indexes: int) -> None:
        """Let the programs of these runs end."""
        for index in indexes:
            (self.place(index) / "go").touch()

    @contextmanager
    def driven(self, sweep: Sweep) -> Iterator[threading.Thread]:
        """Drive a sweep in a thread; afterwards it has to come to its end."""
        failed: list[BaseException] = []

        def drive() -> None:
            try:
                sweep.agent.drive(sweep)  # type: ignore[union-attr]
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=drive)
        thread.start()
        try:
            yield thread
        except BaseException:
            sweep.cancel()
            raise
        finally:
            thread.join(PATIENCE)
        assert not thread.is_alive()
        if failed:
            raise failed[0]

    def clear(self) -> list[int]:
        """Kill what is left, and return it: a test leaves nothing."""
        left = self.executing()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep the machine busy meanwhile."""
    burning = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()
