"""The list of faults, and the right agent that they are made from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import attrs

from ...agent.driving import DrivenAgent, Execution, Report, Trace
from ...run import Run
from ..executions import perform

_Class = TypeVar("_Class", bound=type)

#: Every fault, in the order of the modules.
FAULTS: Final[list[type[PretendingAgent]]] = []


def fault(caught_by: str) -> Callable[[_Class], _Class]:
    """List a fault, and say which test of the contract finds it."""

    def add(cls: _Class) -> _Class:
        cls.caught_by = caught_by  # type: ignore[attr-defined]
        faults: list[Any] = FAULTS
        faults.append(cls)
        return cls

    return add


class _KilledError(BaseException):
    """Raised where a pretended process is when it is killed; nothing of the program catches it."""


class Process:
    """A process that a thread pretends to be: asked, it may end by itself; killed, it ends wherever it waits.

    Attributes:
        asked: whether it was asked to end.
        killed: whether it was killed.
        signal: what ended it, if a signal did.
        error: what its program raised.
        metrics: what its program returned.
    """

    def __init__(self, config: Mapping[str, Any], ended: Callable[[], object]) -> None:
        self.asked: threading.Event = threading.Event()
        self.killed: threading.Event = threading.Event()
        self.signal: int | None = None
        self.error: Exception | None = None
        self.metrics: Mapping[str, Any] = {}
        self._config = config
        self._ended = ended
        self._thread = threading.Thread(target=self._work, name="pretended process", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it is there."""
        return self._thread.is_alive()

    def _work(self) -> None:
        try:
            self.metrics = perform(self._config, self.asked.is_set, pause=self._pause, die=self._die)
        except _KilledError:
            self.signal = self.signal or 9
        except Exception as error:
            self.error = error
        self._ended()

    def _pause(self, seconds: float) -> None:
        if self.killed.wait(seconds):
            raise _KilledError

    def _die(self) -> None:
        self.signal = 11
        raise _KilledError


#: The processes of a pretended machine, by the executions that they are: an orchestrator's end ends none of them.
Machine: TypeAlias = dict[str, Process]


@attrs.define(eq=False, slots=False)
class Running(Execution):
    """An execution, and its process."""

    process: Process


class PretendingAgent(DrivenAgent[None, Running]):
    """An agent that does what is right, with processes that are pretended.

    Args:
        machine: what executes already; empty, if it is not given.
    """

    #: The test that finds the fault.
    caught_by: str = ""

    def __init__(self, machine: Machine | None = None) -> None:
        super().__init__("pretending", poll=0.05)
        self.machine: Machine = {} if machine is None else machine

    def _prepare(self, run: Run) -> None:
        """Nothing is needed."""

    def _launch(self, run: Run, prepared: None) -> Running:  # noqa: ARG002 - nothing was needed
        process = self.machine[str(run.execution)] = Process(run.config, self._wake.set)
        return Running(run, process)

    def _ask(self, execution: Running) -> None:
        execution.process.asked.set()

    def _end(self, execution: Running) -> None:
        execution.process.killed.set()

    def _look(self, execution: Running) -> Report | None:
        process = execution.process
        return None if process.alive else lambda run: self._say(process, run)

    def _say(self, process: Process, run: Run) -> object:
        """Report how a process ended."""
        if process.signal is not None:
            return run.exited(-process.signal)
        if process.error is not None:
            return run.fail(process.error)
        return run.finish(process.metrics)

    def _find(self, run: Run) -> Running | Trace:
        process = self.machine.get(str(run.execution))
        return Trace.GONE if process is None else Running(run, process)
