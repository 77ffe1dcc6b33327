# ruff: noqa: S101 - a contract is made of assertions
"""Stopping: asked, an execution may end by itself; ended, it is not asked; and what was ended is gone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from ....core.status import Cause, RunStatus, SweepStatus
from ....hooks import Agent
from .base import Agents
from .stage import Stage

#: Of a run that is to end by itself: nobody waits so long.
_LONG: Final = 600.0


class Stopping(Agents):
    """The part of the contract about STOP and KILL, and about a sweep that is paused, stopped or cancelled."""

    def test_a_stop_asks_and_the_next_run_starts(self, agent: Agent, tmp_path: Path) -> None:
        """Within its grace an execution ends by itself, and its agent gets another run; the sweep goes on."""
        self.needs("asks")
        with self.stage(agent, tmp_path, "obey", "finish", max_active=1, stop_grace=_LONG) as stage:
            stage.until(lambda: stage.began(0), "the run executes")
            stage.sweep[0].stop()
            stage.until(lambda: stage.noted("asked", 0), "the execution learns that it was asked to end")
            stage.over()
            assert stage.noted("ended", 0), "it was asked, and was not left the time to end by itself"
            assert [run.status for run in stage.sweep.runs()][1:] == [RunStatus.FINISHED]
            # One that sees the question in time may even finish: that it was asked makes no failure of it.
            assert stage.sweep[0].cause in {Cause.STOPPED, Cause.SUCCESS}

    def test_what_ignores_the_question_is_ended_after_its_grace(self, agent: Agent, tmp_path: Path) -> None:
        """By the tick that kills it; nobody waits for it for ever."""
        self.needs_killing(agent)
        with self.stage(agent, tmp_path, "ignore", "finish", max_active=1, stop_grace=0.5) as stage:
            stage.until(lambda: stage.began(0), "the run executes")
            stage.sweep[0].stop()
            _await_gone(stage)
            stage.over()
            assert [run.status for run in stage.sweep.runs()] == [RunStatus.KILLED, RunStatus.FINISHED]

    def test_a_kill_ends_abruptly_and_gone_is_said_when_it_is(self, agent: Agent, tmp_path: Path) -> None:
        """What would obey a question is not asked; and no slot is free while anything of the run still executes."""
        self.needs_killing(agent)
        with self.stage(agent, tmp_path, "ignore", "obey", max_active=2) as stage:
            for x in range(2):
                stage.until(partial(stage.began, x), f"run {x} executes")
                stage.sweep[x].kill()
                _await_gone(stage, x)
            stage.over()
            assert [run.status for run in stage.sweep.runs()] == [RunStatus.KILLED] * 2
            assert not stage.noted("asked", 1), "an execution that was to be ended abruptly was asked first"

    def test_a_cancelled_sweep_is_done_and_nothing_is_left(self, agent: Agent, tmp_path: Path) -> None:
        """Whoever drives it comes back when all of it is gone, and not when all of it has its verdict."""
        if not agent.can_kill:
            self.needs("asks")
        does = "ignore" if agent.can_kill else "obey"
        with self.stage(agent, tmp_path, *[does] * 4, max_active=self.slots) as stage:
            stage.until(lambda: len(stage.alive()) == self.slots, "all slots are taken")
            stage.sweep.cancel()
            stage.over()
            assert not stage.alive(), "the sweep is done, and something of it still executes"
            assert stage.sweep.status is SweepStatus.CANCELLED
            assert stage.began() == self.slots, "a cancelled sweep went on to start runs"

    def test_a_paused_sweep_is_waited_for(self, agent: Agent, tmp_path: Path) -> None:
        """What executes goes on to its end, nothing is started, and after a resume all goes on."""
        with self.stage(agent, tmp_path, "wait", "wait", "wait", max_active=1) as stage:
            stage.until(lambda: stage.began(0), "the run executes")
            stage.sweep.pause()
            stage.stays(lambda: len(stage.alive()) == 1, "a pause ended what executed")
            stage.let_go(0)
            stage.until(lambda: stage.sweep[0].ended, "the run has ended")
            stage.stays(lambda: stage.began() == 1, "a run was started while the sweep was paused")
            assert stage.driving, "the agent took a paused sweep for one that is over"
            assert stage.sweep[0].status is RunStatus.FINISHED
            stage.let_go()
            stage.sweep.resume()
            stage.over()
            assert [run.status for run in stage.sweep.runs()] == [RunStatus.FINISHED] * 3

    def test_a_stopped_sweep_lets_what_executes_end(self, agent: Agent, tmp_path: Path) -> None:
        """Only a cancel ends it; nothing is started any more, and then the sweep is done."""
        with self.stage(agent, tmp_path, "wait", "wait", "wait", max_active=1) as stage:
            stage.until(lambda: stage.began(0), "the run executes")
            stage.sweep.stop()
            stage.stays(lambda: len(stage.alive()) == 1, "a stop of the sweep ended what executed")
            stage.let_go()
            stage.over()
            assert stage.sweep[0].status is RunStatus.FINISHED
            assert stage.began() == 1, "a stopped sweep went on to start runs"


def _await_gone(stage: Stage, x: int = 0) -> None:
    """Wait until the slot of a run is free, and see that nothing of it executes then."""
    stage.until(lambda: stage.sweep[x].state.lease is None, f"it is said that nothing of run {x} executes any more")
    assert x not in {note.x for note in stage.alive()}, "it was said that the run is gone, and it executes"
