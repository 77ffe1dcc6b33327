# ruff: noqa: S101 - a contract is made of assertions
"""Troubles: hooks that raise, a storage that is away, and an orchestrator that was killed."""

from __future__ import annotations

from pathlib import Path

from ....core.events import Event
from ....core.status import RunStatus
from ....hooks import Agent, Start
from ...executions import Note, score
from ...laws import check_laws
from .base import Agents


class Troubles(Agents):
    """The part of the contract about what goes wrong around an agent."""

    def test_hooks_that_raise_end_nothing(self, agent: Agent, tmp_path: Path) -> None:
        """A START that could not be delivered is delivered by a later tick; a listener's error is nobody's."""
        start, calls = agent.start, list[int]()

        def flaky(order: Start, /) -> None:
            calls.append(order.index)
            if len(calls) == 1:
                raise RuntimeError("this hook fails once, on purpose")
            start(order)

        def broken(_event: Event) -> None:
            raise RuntimeError("this listener fails each time, on purpose")

        try:
            agent.start = flaky  # type: ignore[method-assign]
        except AttributeError:
            self.skip("the agent's methods cannot be replaced, so none can be made to fail")
        try:
            with self.stage(agent, tmp_path, "finish", "finish", max_active=1, listener=broken) as stage:
                stage.over()
                assert [run.status for run in stage.sweep.runs()] == [RunStatus.FINISHED] * 2
                assert [stage.began(x) for x in range(2)] == [1, 1]
        finally:
            agent.start = start  # type: ignore[method-assign]

    def test_an_outage_of_the_storage_loses_no_end(self, agent: Agent, tmp_path: Path) -> None:
        """What ended meanwhile is reported afterwards, with its metrics; and the sweep goes on."""
        self.needs("outlasts")
        with self.stage(agent, tmp_path, "wait", "finish", max_active=1) as stage:
            stage.until(lambda: stage.began(0), "the run executes")
            stage.storage.away = True
            stage.let_go(0)
            stage.until(lambda: stage.noted("ended", 0), "the run has ended")
            stage.stays(lambda: stage.driving, "an outage of the storage ended the agent")
            stage.storage.away = False
            stage.over()
            runs = list(stage.sweep.runs())
            assert [run.status for run in runs] == [RunStatus.FINISHED] * 2
            assert [run.metrics for run in runs] == [{"score": score(x)} for x in range(2)]
            assert stage.began(0) == 1, "a run was executed again, because its end could not be reported at once"

    def test_what_an_orchestrator_left_behind_is_taken_over(self, agent: Agent, tmp_path: Path) -> None:
        """Killed in the midst of it: what executes is gone on with, or ended; none is executed once more beside it."""
        self.needs("restarts")
        with self.stage(agent, tmp_path, "wait", "wait", "finish", max_active=2) as stage:
            stage.until(lambda: stage.began(0) and stage.began(1), "both runs execute")
            again = stage.die_and_come_back()
            assert again.name == agent.name, "orders are addressed to a name: it must be the same after a restart"
            stage.stays(lambda: _is_settled(stage.alive()), "a run is executed twice at once")
            stage.let_go()
            stage.over()
            runs = list(stage.sweep.runs())
            assert all(run.ended for run in runs)
            assert [stage.began(run.index) for run in runs] == [run.attempt for run in runs]
            check_laws(stage.storage, "s")

    def test_what_an_orchestrator_left_behind_obeys_a_cancel(self, agent: Agent, tmp_path: Path) -> None:
        """Also where the cancel came while nobody drove the sweep: the order to end it is still outstanding."""
        self.needs("restarts")
        self.needs_killing(agent)
        with self.stage(agent, tmp_path, "ignore", "ignore", max_active=2) as stage:
            stage.until(lambda: stage.began(0) and stage.began(1), "both runs execute")
            stage.die_and_come_back(meanwhile=stage.sweep.cancel)
            stage.over()
            assert not stage.alive(), "the sweep is done, and something of it still executes"
            assert [run.status for run in stage.sweep.runs()] == [RunStatus.KILLED] * 2


def _is_settled(alive: list[Note]) -> bool:
    """Return whether no configuration is executed twice at once."""
    return len({note.x for note in alive}) == len(alive)
