"""An agent of your own: a process for each run, which is given its configuration as JSON. For POSIX systems."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Any

import attrs

from sweepstate import Run
from sweepstate.agent.driving import DrivenAgent, Execution, Report


@attrs.define(eq=False, slots=False)
class Running(Execution):
    """An execution, with the process that it is, and the file that it writes to."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]


class CommandAgent(DrivenAgent[IO[bytes], Running]):
    """Adds a run's configuration to a command, as its last argument; its last line of output are its metrics."""

    def __init__(self, command: Sequence[str], *, name: str = "command") -> None:
        super().__init__(name, poll=0.1)
        self.command = list(command)

    def _prepare(self, run: Run) -> IO[bytes]:  # whatever may fail fails best here, before the run has begun
        return tempfile.TemporaryFile(prefix=f"run-{run.index}-")

    def _discard(self, prepared: IO[bytes]) -> None:  # the run is not begun after all
        prepared.close()

    def _launch(self, run: Run, prepared: IO[bytes]) -> Running:  # its start is reported, and it is ours alone
        command = [*self.command, json.dumps(run.config)]
        # A session, and so a group of processes, of its own: Ctrl-C does not reach it, and it can be ended as a whole.
        process = subprocess.Popen(  # noqa: S603 - the command is yours
            command, stdout=prepared, stderr=subprocess.STDOUT, start_new_session=True
        )
        return Running(run, process, prepared)

    def _ask(self, execution: Running) -> None:
        execution.process.terminate()  # does nothing once it was waited for, so no other process is hit

    def _end(self, execution: Running) -> None:
        if execution.process.poll() is None:
            os.killpg(execution.process.pid, signal.SIGKILL)

    def _look(self, execution: Running) -> Report | None:
        code = execution.process.poll()
        if code is None:
            return None
        execution.output.seek(0)
        lines = execution.output.read().decode(errors="replace").splitlines()
        metrics: Any = None
        if code == 0 and lines:
            try:
                metrics = json.loads(lines[-1])
            except ValueError as error:
                message = f"its last line are no metrics: {error}"
                return lambda run: run.fail(message)
        return lambda run: run.exited(code, "\n".join(lines[-20:]), metrics)

    def _released(self, execution: Running) -> None:  # its end is reported
        execution.output.close()
