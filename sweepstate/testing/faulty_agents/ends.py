# ruff: noqa: D102 - what a method does, its base says; how it breaks it, its class says
"""Faults of reports: ends that are not what happened, or not of what it happened to; and no signs of life."""

from __future__ import annotations

from ...agent.driving import Key, Report
from ...run import Run
from ...sweep import Sweep
from .base import PretendingAgent, Process, Running, fault


@fault("test_a_failure_is_a_failure_and_ends_its_run_only")
class FailureIsAFinish(PretendingAgent):
    """The exit code of a wrapper is reported, and the wrapper ended well (optuna#485)."""

    def _say(self, process: Process, run: Run) -> object:
        return run.finish(process.metrics)


@fault("test_a_failure_is_a_failure_and_ends_its_run_only")
class FailureWithoutReason(PretendingAgent):
    """That it failed is all that is kept of it."""

    def _say(self, process: Process, run: Run) -> object:
        return run.exited(1) if process.error is not None else super()._say(process, run)


@fault("test_a_failure_is_a_failure_and_ends_its_run_only")
class AFailureEndsTheLoop(PretendingAgent):
    """An exception of a run is raised in what drives the others (optuna#5470)."""

    def _conclude(self, key: Key, execution: Running) -> None:
        super()._conclude(key, execution)
        if execution.process.error is not None:
            raise execution.process.error


@fault("test_a_crash_is_a_crash")
class CrashIsAFailure(PretendingAgent):
    """128 and a signal, as a shell says it: out of memory looks like an error of the program (Ax#329)."""

    def _say(self, process: Process, run: Run) -> object:
        return super()._say(process, run) if process.signal is None else run.exited(128 + process.signal)


@fault("test_a_crash_is_a_crash")
class CrashIsNeverNoticed(PretendingAgent):
    """Only ends that the program announces are known; a process that is killed says nothing (optuna#485)."""

    def _look(self, execution: Running) -> Report | None:
        return None if execution.process.signal == 11 else super()._look(execution)


@fault("test_each_run_is_executed_once")
class ForgetsMetrics(PretendingAgent):
    """The end is reported, and not what it ended with."""

    def _say(self, process: Process, run: Run) -> object:
        return super()._say(process, run) if process.signal or process.error else run.exited(0)


@fault("test_metrics_that_are_none_fail_their_run")
class DiesOfBadMetrics(PretendingAgent):
    """What a program returns is trusted, and the refusal of it ends the agent."""

    def _conclude(self, key: Key, execution: Running) -> None:
        self._say(execution.process, execution.run)
        super()._conclude(key, execution)


@fault("test_an_execution_beats")
class NeverPromisesHeartbeats(PretendingAgent):
    """Its machine may die, and the run stays RUNNING for weeks (wandb#6779)."""

    def _start(self, key: Key, run: Run) -> None:
        run.start(self._execution_name())
        self._executions[key] = self._launch(run, None)

    def _beat(self, execution: Running) -> None:
        pass


@fault("test_an_execution_beats")
class NeverBeats(PretendingAgent):
    """Heartbeats are promised and not sent, so whatever takes longer than silence may last is lost (wandb#3599)."""

    def _beat(self, execution: Running) -> None:
        pass


@fault("test_the_end_of_an_old_attempt_is_not_the_new_ones")
class ReportsForTheNewestAttempt(PretendingAgent):
    """An end is reported by the run's number, for whichever attempt it has by then (airflow#52754)."""

    def drive(self, sweep: Sweep, *, signals: bool = True, count: int | None = None) -> bool:
        self._sweep = sweep
        return super().drive(sweep, signals=signals, count=count)

    def _conclude(self, key: Key, execution: Running) -> None:
        execution.run = self._sweep[execution.run.index]
        super()._conclude(key, execution)


@fault("test_the_end_of_an_old_attempt_is_not_the_new_ones")
class KeepsTheOldProcess(PretendingAgent):
    """Executions are kept by the run's number, so that a retried run looks as if it were executing already."""

    def __init__(self) -> None:
        super().__init__()
        self._known: set[tuple[str, int]] = set()

    def _start(self, key: Key, run: Run) -> None:
        if key[:2] not in self._known:
            self._known.add((key[0], key[1]))
            super()._start(key, run)
