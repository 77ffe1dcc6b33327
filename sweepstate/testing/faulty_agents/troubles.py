# ruff: noqa: ARG002, D102 - what a method does, its base says; how it breaks it, its class says
"""Faults in trouble: agents that die of what others do wrong, and forget what they have begun."""

from __future__ import annotations

from ...agent.driving import Key, Trace
from ...core.errors import StorageError
from ...hooks import Kill
from ...run import Run
from ...sweep import Sweep
from .base import PretendingAgent, Running, fault


@fault("test_hooks_that_raise_end_nothing")
class DiesOfAHookError(PretendingAgent):
    """One order that could not be delivered ends the loop, and with it all the others."""

    def _tick(self, sweep: Sweep) -> float:
        sweep.tick()
        return self._poll


@fault("test_an_outage_of_the_storage_loses_no_end")
class DiesOfAnOutage(PretendingAgent):
    """A storage that does not answer once ends the loop, and hours of work are reported by nobody (wandb#1526)."""

    def __init__(self) -> None:
        super().__init__()
        self._patience = 0.0  # type: ignore[misc]


@fault("test_an_outage_of_the_storage_loses_no_end")
class LosesEndsInAnOutage(PretendingAgent):
    """An end is reported once, whether it arrives or not."""

    def _conclude(self, key: Key, execution: Running) -> None:
        try:
            super()._conclude(key, execution)
        except StorageError:
            self._executions.pop(key, None)

    def _recover(self, sweep: Sweep) -> None:
        pass


@fault("test_what_an_orchestrator_left_behind_is_taken_over")
class BeginsAgainWhatIsThere(PretendingAgent):
    """Whatever it does not know is taken to be gone, and begun once more beside what executes (optuna#4002)."""

    def _find(self, run: Run) -> Running | Trace:
        found = super()._find(run)
        if isinstance(found, Running):
            self.machine[f"{run.execution} again"] = self._launch(run, None).process
        return found


@fault("test_what_an_orchestrator_left_behind_obeys_a_cancel")
class SaysGoneOfWhatItDoesNotKnow(PretendingAgent):
    """A killed run that it has not begun itself is said to be gone, and executes on."""

    def _find(self, run: Run) -> Running | Trace:
        return Trace.GONE


@fault("test_what_an_orchestrator_left_behind_obeys_a_cancel")
class IgnoresOrdersForWhatItDoesNotKnow(PretendingAgent):
    """Only what it has begun itself can be killed; the rest is never done (optuna#4627)."""

    def kill(self, order: Kill) -> None:
        if (order.run.sweep_id, order.index, order.attempt) in self._executions:
            super().kill(order)

    def _find(self, run: Run) -> Running | Trace:
        return Trace.UNKNOWN
