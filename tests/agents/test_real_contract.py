"""The contract of agents, on programs that are processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sweepstate import SubprocessAgent
from sweepstate.testing import AgentContract

PROGRAM = """
from sweepstate.agent import child
from sweepstate.testing.executions import perform, signalled

asked = signalled()
child.finish(perform(child.config(), lambda: asked() or child.should_stop()))
"""


class TestSubprocesses(AgentContract):
    """Each execution is a program.

    ``restarts`` is not declared: here the first orchestrator would be this very process, which lives, so its programs
    are left alone. What one leaves behind that has died is tried in ``test_real_orphans``.
    """

    crashes = True

    @pytest.fixture
    def agent(self, tmp_path: Path) -> SubprocessAgent:
        return SubprocessAgent([sys.executable, "-c", PROGRAM], workdir=tmp_path / "work", poll=0.2)
