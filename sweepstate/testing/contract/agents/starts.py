# ruff: noqa: S101 - a contract is made of assertions
"""Beginning: each order once, after the start was reported, and never where that was refused."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ....core.status import RunStatus
from ....hooks import Agent, Start
from ....run import Run
from ...executions import executing, score
from ...laws import check_laws
from .base import Agents


class Starting(Agents):
    """The part of the contract about START."""

    def test_each_run_is_executed_once(self, agent: Agent, tmp_path: Path) -> None:
        """Never more at once than there are slots; and its metrics arrive."""
        with self.stage(agent, tmp_path, *["finish"] * 5, max_active=self.slots) as stage:
            most = 0

            def look() -> bool:
                nonlocal most
                most = max(most, len(executing(tmp_path)))
                return not stage.driving

            stage.until(look, "the sweep is over")
            stage.over()
            assert most <= self.slots, f"{most} executed at once, with {self.slots} slots"
            runs = list(stage.sweep.runs())
            assert [(run.status, run.attempt) for run in runs] == [(RunStatus.FINISHED, 1)] * 5
            assert [run.metrics.get("score") for run in runs] == [score(x) for x in range(5)]
            assert [stage.began(x) for x in range(5)] == [1] * 5
            check_laws(stage.storage, "s")

    def test_an_order_that_is_delivered_again_starts_nothing(self, agent: Agent, tmp_path: Path) -> None:
        """Neither while it executes nor after its end: orders are repeated by every tick until they are obeyed."""
        with self.stage(agent, tmp_path, "wait", driven=False, max_active=1) as stage:
            run = stage.sweep.next_run(agent.name)
            assert isinstance(run, Run)
            token = run.token
            stage.drive(agent)
            stage.until(lambda: stage.began(0), "the run executes")

            def deliver_again() -> bool:
                _deliver(agent, Start(stage.sweep.run_of(token)))
                return stage.began(0) == 1

            if self.beside:
                stage.stays(deliver_again, "an order that was delivered again began a second execution")
            stage.let_go()
            stage.over()
            stage.stays(deliver_again, "an order was obeyed after the run had ended")
            assert stage.sweep[0].status is RunStatus.FINISHED

    def test_a_start_that_is_refused_executes_nothing(self, agent: Agent, tmp_path: Path) -> None:
        """Somebody else has begun the attempt: it is theirs, and two would be one too many."""
        with self.stage(agent, tmp_path, "finish", "finish", driven=False) as stage:
            run = stage.sweep.next_run(agent.name)
            assert isinstance(run, Run)
            order = Start(stage.sweep[0])
            run.start("somebody else")
            _deliver(agent, order)
            stage.stays(lambda: stage.began(0) == 0, "a run was executed whose start was refused")
            assert stage.sweep[0].status is RunStatus.RUNNING
            run.finish(score=1.0)
            stage.drive(agent)
            stage.over()
            assert stage.sweep[0].metrics == {"score": 1.0}

    def test_a_run_that_was_killed_before_it_began_is_gone(self, agent: Agent, tmp_path: Path) -> None:
        """Nothing of it executes, so its slot is free at once."""
        with self.stage(agent, tmp_path, "finish", "finish", driven=False, max_active=1) as stage:
            run = stage.sweep.next_run(agent.name)
            assert isinstance(run, Run)
            stage.sweep[0].kill()
            _deliver(agent, Start(run))
            stage.drive(agent)
            stage.over()
            assert stage.began(0) == 0, "a run was executed that had been killed before"
            assert [each.status for each in stage.sweep.runs()] == [RunStatus.KILLED, RunStatus.FINISHED]

    def test_an_order_of_an_earlier_orchestrator_is_carried_out(self, agent: Agent, tmp_path: Path) -> None:
        """Killed between commit and delivery, it has left a run in this agent's name.

        Orders follow from what is stored, and from nothing else.
        """
        with self.stage(agent, tmp_path, "finish", "finish", driven=False) as stage:
            assert isinstance(stage.sweep.next_run(agent.name), Run)
            stage.drive(agent)
            stage.over()
            assert [run.status for run in stage.sweep.runs()] == [RunStatus.FINISHED] * 2
            assert [stage.began(x) for x in range(2)] == [1, 1]


def _deliver(agent: Agent, order: Start) -> None:
    """Deliver an order; who refuses it by raising has refused it."""
    with suppress(Exception):
        agent.start(order)
