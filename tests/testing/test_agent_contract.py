"""The contract accepts the agents that are right."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from sweepstate import ExecutorAgent, InlineAgent, SQLiteStorage
from sweepstate.testing import AgentContract
from sweepstate.testing.executions import execute


class TestInlineAgent(AgentContract):
    """Which executes within its hooks, one run after the other, and so can do little meanwhile."""

    slots = 1
    beside = beats = outlasts = False

    @pytest.fixture
    def agent(self) -> InlineAgent:
        return InlineAgent(execute)


class TestThreads(AgentContract):
    @pytest.fixture
    def agent(self) -> Iterator[ExecutorAgent]:
        with ThreadPoolExecutor(2) as pool:
            yield ExecutorAgent(pool, execute, poll=0.1)


class TestProcesses(AgentContract):
    """Whose executions report to a storage that they share."""

    crashes = True

    @pytest.fixture
    def agent(self) -> ExecutorAgent:
        return ExecutorAgent(_two_processes, execute, poll=0.1)

    def storage(self, place: Path) -> SQLiteStorage:
        return SQLiteStorage(place / "sweeps.db")


def _two_processes() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))
