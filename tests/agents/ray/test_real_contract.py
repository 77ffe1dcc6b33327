"""The contract of agents, on Ray."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest

from sweepstate import Agent
from sweepstate.agent.ray import RayAgent, RayRun
from sweepstate.testing import AgentContract
from sweepstate.testing.executions import perform

pytestmark = pytest.mark.usefixtures("nodes")


def execute(run: RayRun) -> Mapping[str, Any]:
    """Do what the configuration says, and look whether to stop."""
    return perform(run.config, partial(getattr, run, "should_stop"))


class TestRay(AgentContract):
    """Each execution is a task, of an actor that survives its orchestrator."""

    crashes = True
    restarts = True

    @pytest.fixture
    def agent(self) -> RayAgent:
        return RayAgent(execute, interrupts=False, poll=0.1)

    def again(self, agent: Agent) -> RayAgent:
        return RayAgent(execute, name=agent.name, interrupts=False, poll=0.1)
