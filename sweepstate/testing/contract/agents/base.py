# ruff: noqa: S101 - a contract is made of assertions
"""What an agent under test says about itself: what it can do, and how it is driven."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final, Never

from ....core.errors import AgentError
from ....hooks import Agent, Listener, Storage
from ....storage.memory import MemoryStorage
from ....sweep import Sweep
from ... import executions
from ...executions import Note
from .stage import Stage

#: Seconds between two ticks, for an agent that cannot drive.
_STEP: Final = 0.01


class Agents:
    """What is declared about the agent under test; that it can kill, it says itself.

    Whatever is not declared is not tried: the tests that need it are skipped, and say so. What the attributes mean
    stands where users find it, in ``AgentContract``.
    """

    slots: ClassVar[int] = 2
    beside: ClassVar[bool] = True
    asks: ClassVar[bool] = True
    beats: ClassVar[bool] = True
    crashes: ClassVar[bool] = False
    outlasts: ClassVar[bool] = True
    restarts: ClassVar[bool] = False
    patience: ClassVar[float] = 60.0

    def storage(self, place: Path) -> Storage:  # noqa: ARG002 - for who overrides it
        """Return a fresh storage with heartbeats; override it if executions report from other processes.

        Args:
            place: an empty directory.
        """
        return MemoryStorage()

    def drive(self, agent: Agent, sweep: Sweep) -> None:
        """Drive a sweep until it is done; by ``agent.drive(sweep)``, or else by ticking.

        Args:
            agent: what the fixture gave, or ``again``.
            sweep: one that it is attached to.
        """
        drive: Callable[[Sweep], object] | None = getattr(agent, "drive", None)
        if drive is not None:
            drive(sweep)
            return
        while not sweep.refresh().done:
            with suppress(AgentError):  # its orders stay outstanding, and are counted
                sweep.tick()
            time.sleep(_STEP)

    def again(self, agent: Agent) -> Agent:
        """Return the agent that a second orchestrator would make after the first was killed: of the same name.

        Override it, and set ``restarts``. The first agent is not used any more; nobody has told it.

        Args:
            agent: the first one.
        """
        raise NotImplementedError("`restarts` needs `again(agent)`: the agent of a second orchestrator")

    def alive(self, agent: Agent, place: Path) -> list[Note]:  # noqa: ARG002 - for who overrides it
        """Return which executions there are now; by their notes and processes.

        Args:
            agent: the agent.
            place: where they leave their notes.
        """
        return executions.executing(place)

    # --- what the tests ask ----------------------------------------------------------------------

    def skip(self, reason: str) -> Never:
        """Leave the test out, visibly."""
        import pytest  # noqa: PLC0415 - so that whoever imports this package need not have pytest

        pytest.skip(reason)

    def needs(self, capability: str) -> None:
        """Skip if a capability is not declared."""
        if not getattr(self, capability):
            self.skip(f"it is not declared what this needs: set `{capability}`")

    def needs_killing(self, agent: Agent) -> None:
        """Skip if the agent cannot end an execution."""
        if not agent.can_kill:
            self.skip("the agent cannot end an execution (can_kill is False)")

    @contextmanager
    def stage(
        self,
        agent: Agent,
        place: Path,
        *does: str,
        driven: bool = True,
        listener: Listener | None = None,
        **limits: Any,
    ) -> Generator[Stage]:
        """Have the agent drive a sweep; leave nothing behind that executes.

        Args:
            agent: the agent.
            place: an empty directory, for what executions note.
            does: what each run does, in the words of ``sweepstate.testing.executions``; one run for each.
            driven: whether it is driven at once, and not only by ``Stage.drive``.
            listener: is told of what the agent commits.
            limits: of the sweep; ``max_active`` is ``slots`` if it is not given.
        """
        stage = Stage(self, agent, place, does, limits, listener)
        if driven:
            stage.drive(agent)
        try:
            yield stage
        finally:
            stage.close()
        left = self.alive(agent, place)
        assert not left, f"when the sweep was over, these still executed: {left}"
