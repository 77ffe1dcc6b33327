# ruff: noqa: D102 - what a method does, its base says; how it breaks it, its class says
"""Faults of obeying orders: beginning too often or too early, not ending, ending otherwise."""

from __future__ import annotations

from contextlib import suppress

from ...core.errors import AlreadyStarted, IllegalTransition
from ...core.status import SweepStatus
from ...hooks import Kill, Start
from ...run import Run
from ...sweep import Sweep
from .base import PretendingAgent, Process, Running, fault


@fault("test_an_order_that_is_delivered_again_starts_nothing")
class StartsTwice(PretendingAgent):
    """An order is taken for a command: each delivery launches a process (airflow#39717)."""

    def start(self, order: Start) -> None:
        if self.machine:
            self._launch(order.run, None)
        else:
            super().start(order)


@fault("test_a_start_that_is_refused_executes_nothing")
class LaunchesThoughRefused(PretendingAgent):
    """The start is reported when the process is there already, and the refusal comes too late (apscheduler#1116)."""

    def start(self, order: Start) -> None:
        process = Process(order.run.config, self._wake.set)
        execution = self._execution_name()
        try:
            order.run.start(execution, heartbeats=True)
        except AlreadyStarted:
            return
        self.machine[execution] = process
        self._executions[order.run.sweep_id, order.index, order.attempt] = Running(order.run, process)


@fault("test_a_run_that_was_killed_before_it_began_is_gone")
class NeverSaysThatNothingBegan(PretendingAgent):
    """A refused start is only logged: the slot of a run that was killed before stays taken for ever."""

    def start(self, order: Start) -> None:
        if order.run.refresh().ended:
            return
        super().start(order)

    def kill(self, order: Kill) -> None:
        if (order.run.sweep_id, order.index, order.attempt) in self._executions:
            super().kill(order)


@fault("test_an_order_of_an_earlier_orchestrator_is_carried_out")
class BeginsOnlyWhatItSawCreated(PretendingAgent):
    """What is to be started is kept in memory, and forgotten with its process (ray#12347)."""

    def drive(self, sweep: Sweep, *, signals: bool = True, count: int | None = None) -> bool:
        self._known = sweep.refresh().state.created
        return super().drive(sweep, signals=signals, count=count)

    def start(self, order: Start) -> None:
        if order.index >= self._known:
            super().start(order)


@fault("test_a_stop_asks_and_the_next_run_starts")
class IgnoresStop(PretendingAgent):
    """A stop is a word that nobody passes on (wandb#3506: "stopping" for hours)."""

    def _ask(self, execution: Running) -> None:
        pass


@fault("test_a_stop_asks_and_the_next_run_starts")
class StopIsKill(PretendingAgent):
    """Whoever is asked to stop is ended at once, and saves no checkpoint."""

    def _ask(self, execution: Running) -> None:
        execution.process.killed.set()


@fault("test_a_kill_ends_abruptly_and_gone_is_said_when_it_is")
class KillOnlyAsks(PretendingAgent):
    """A kill is SIGTERM, and whoever handles it goes on (Determined PR#5655: not killed for an hour)."""

    def _end(self, execution: Running) -> None:
        execution.process.asked.set()


@fault("test_a_kill_ends_abruptly_and_gone_is_said_when_it_is")
class SaysGoneWhileItExecutes(PretendingAgent):
    """That the signal was sent is taken for the end of the process; the slot is free and the GPU is not."""

    def kill(self, order: Kill) -> None:
        execution = self._executions.pop((order.run.sweep_id, order.index, order.attempt), None)
        order.gone()
        if execution is not None:
            self._end_later(execution)

    def _end_later(self, execution: Running) -> None:
        """Have it end, by what takes a while."""


@fault("test_what_ignores_the_question_is_ended_after_its_grace")
class AsksAgainAndAgain(PretendingAgent):
    """After a stop, a kill is taken for the same order, which was obeyed."""

    def _end(self, execution: Running) -> None:
        if not execution.asked:
            super()._end(execution)


@fault("test_a_cancelled_sweep_is_done_and_nothing_is_left")
class GoesHomeWhenDrained(PretendingAgent):
    """Verdicts are taken for ends: it comes back while what was killed still executes."""

    def _is_over(self, sweep: Sweep) -> bool:
        return sweep.refresh().state.active == 0 and sweep.status is not SweepStatus.RUNNING

    def _end(self, execution: Running) -> None:
        pass  # it would come to that in the next round


@fault("test_a_paused_sweep_is_waited_for")
class GoesHomeWhenPaused(PretendingAgent):
    """Not RUNNING is taken for over (W&B's local controller)."""

    def _is_over(self, sweep: Sweep) -> bool:
        return not self._executions and sweep.refresh().status is not SweepStatus.RUNNING


@fault("test_a_paused_sweep_is_waited_for")
class PauseEndsRuns(PretendingAgent):
    """A pause is passed on to what executes."""

    def _tick(self, sweep: Sweep) -> float:
        if sweep.refresh().status is SweepStatus.PAUSED:
            for execution in self._executions.values():
                execution.process.killed.set()
        return super()._tick(sweep)


@fault("test_a_stopped_sweep_lets_what_executes_end")
class StopOfASweepEndsRuns(PretendingAgent):
    """A graceful end of the sweep is taken for a cancel (katib#855)."""

    def _tick(self, sweep: Sweep) -> float:
        if sweep.refresh().status is SweepStatus.STOPPED:
            for execution in self._executions.values():
                self._end_abruptly(execution)
        return super()._tick(sweep)


@fault("test_each_run_is_executed_once")
class TakesMoreThanThereIsRoomFor(PretendingAgent):
    """It asks for runs on its own account too, by handles that know of no slots that it has left."""

    def _start(self, key: tuple[str, int, int], run: Run) -> None:
        super()._start(key, run)
        with suppress(IllegalTransition):
            self._launch(run, None)
