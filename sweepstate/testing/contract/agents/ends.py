# ruff: noqa: S101 - a contract is made of assertions
"""Ends: what is reported is what happened, of the attempt that it happened to; and until then, signs of life."""

from __future__ import annotations

from pathlib import Path

from ....core.events import Event, HeartbeatsPromised, RunStarted
from ....core.status import Cause, RunStatus
from ....hooks import Agent
from ...executions import FAILURE, score
from ...laws import check_laws
from .base import Agents


class Ending(Agents):
    """The part of the contract about how runs end, and about heartbeats."""

    def test_a_failure_is_a_failure_and_ends_its_run_only(self, agent: Agent, tmp_path: Path) -> None:
        """With what there is to say about it; the runs after it are executed like those before."""
        with self.stage(agent, tmp_path, "finish", "fail", "finish", "fail", "finish") as stage:
            stage.over()
            finished, failed = RunStatus.FINISHED, RunStatus.FAILED
            runs = list(stage.sweep.runs())
            assert [run.status for run in runs] == [finished, failed, finished, failed, finished]
            assert [runs[index].cause for index in (1, 3)] == [Cause.ERROR] * 2
            for index in (1, 3):
                assert FAILURE in str(runs[index].message), f"a failure without its reason: {runs[index].message!r}"

    def test_metrics_that_are_none_fail_their_run(self, agent: Agent, tmp_path: Path) -> None:
        """A text is no number; the runs after it are executed all the same."""
        with self.stage(agent, tmp_path, "nonsense", "finish", max_active=1) as stage:
            stage.over()
            assert [run.status for run in stage.sweep.runs()] == [RunStatus.FAILED, RunStatus.FINISHED]
            assert stage.sweep[1].metrics == {"score": score(1)}

    def test_a_crash_is_a_crash(self, agent: Agent, tmp_path: Path) -> None:
        """An execution that dies by a signal nobody sent on purpose has not failed, and surely has not finished."""
        self.needs("crashes")
        with self.stage(agent, tmp_path, "crash", "finish", max_active=1) as stage:
            stage.over()
            assert [run.status for run in stage.sweep.runs()] == [RunStatus.CRASHED, RunStatus.FINISHED]
            assert stage.sweep[0].cause is Cause.SIGNAL

    def test_an_execution_beats(self, agent: Agent, tmp_path: Path) -> None:
        """Heartbeats are promised at the start and come again and again, or a dead machine would never be noticed.

        Who declares that none come must not promise any, or every run that takes long would be given up.
        """
        if not self.beats:
            self._promises_nothing(agent, tmp_path)
            self.needs("beats")
        with self.stage(agent, tmp_path, "wait", heartbeat_timeout=1.0, suspicion=60.0) as stage:
            stage.until(lambda: stage.began(0), "the run executes")
            lease = stage.sweep[0].state.lease
            assert lease is not None
            assert lease.beats, "no heartbeats were promised: report run.start(..., heartbeats=True)"
            heard: set[float | None] = {None}

            def listen() -> bool:
                heard.update(stage.storage.last_heard("s", [(0, 1)]))
                return len(heard) > 3

            stage.until(listen, "three heartbeats have come, of which one is due in each second (heartbeat_timeout)")
            stage.let_go()
            stage.over()
            assert stage.sweep[0].status is RunStatus.FINISHED

    def test_the_end_of_an_old_attempt_is_not_the_new_ones(self, agent: Agent, tmp_path: Path) -> None:
        """Killed and retried while it executes, a run has two attempts: each is reported by its own handle.

        The second begins when the first is gone, and what is heard of the first changes nothing of it.
        """
        # With a slot to spare, so that not the want of one keeps the second attempt back.
        with self.stage(agent, tmp_path, "wait", "wait", max_active=3) as stage:
            stage.until(lambda: stage.began(0), "the run executes")
            stage.sweep[0].kill()
            stage.sweep[0].retry()
            if not agent.can_kill:
                stage.let_go(0)
            stage.until(lambda: stage.began(0) == 2, "the second attempt executes, since the first is gone")
            assert sum(note.x == 0 for note in stage.alive()) < 2, "two attempts of one run execute at once"
            stage.let_go()
            stage.over()
            run = stage.sweep[0]
            assert (run.attempt, run.status, run.metrics) == (2, RunStatus.FINISHED, {"score": score(0)})
            assert stage.began(0) == 2
            check_laws(stage.storage, "s")

    def _promises_nothing(self, agent: Agent, place: Path) -> None:
        promises: list[Event] = []

        def note(event: Event) -> None:
            if isinstance(event, HeartbeatsPromised) or (isinstance(event, RunStarted) and event.heartbeats):
                promises.append(event)

        with self.stage(agent, place, "finish", listener=note) as stage:
            stage.over()
        assert not promises, "heartbeats were promised, and `beats` says that none come"
