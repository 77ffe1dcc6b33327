"""What tests of agents are given."""

from __future__ import annotations

import pytest

from sweepstate.agent import worker
from tests.agents.fakes import World, without_thread


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """One thread, and time that passes by waiting."""
    world = World()
    monkeypatch.setattr(worker, "Beating", without_thread(world.pulses))
    return world
