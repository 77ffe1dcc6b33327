"""The example of an agent of one's own keeps the contract, is as short as the page says, and stands on it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sweepstate.testing import AgentContract

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "command_agent.py"
sys.path.insert(0, str(EXAMPLE.parent))  # examples are scripts

from command_agent import CommandAgent  # noqa: E402

PROGRAM = """
import json, sys
from sweepstate.testing.executions import perform, signalled
print(json.dumps(perform(json.loads(sys.argv[1]), signalled())))
"""


class TestCommandAgent(AgentContract):
    """Real processes: they die alone, and are ended as groups."""

    crashes = True

    @pytest.fixture
    def agent(self) -> CommandAgent:
        return CommandAgent([sys.executable, "-c", PROGRAM])


def test_it_is_as_short_as_the_page_says_and_stands_on_it() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    page = (DOCS / "write-an-agent.md").read_text(encoding="utf-8")
    assert f"```python\n{text}```\n" in page, "docs/write-an-agent.md shows another text than the example has"
