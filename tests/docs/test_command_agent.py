"""The example of an agent of one's own keeps the contract, is as short as the page says, and stands on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sweepstate.testing import AgentContract
from tests.docs.test_docs import blocks_of

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "write-an-agent.md").read_text(encoding="utf-8")
EXAMPLE = DOCS / "examples" / "command_agent.py"
sys.path.insert(0, str(EXAMPLE.parent))  # examples are scripts

from command_agent import CommandAgent  # noqa: E402

#: What the page proves it by, as it stands there: real processes, which die alone, and are ended as groups.
(PROOF,) = (block.code for block in blocks_of(PAGE) if "(AgentContract)" in block.code)
NAMES: dict[str, Any] = {"__name__": __name__, "sys": sys, "CommandAgent": CommandAgent}
exec(compile(PROOF, "write-an-agent.md", "exec", dont_inherit=True), NAMES)
TestCommandAgent: type[AgentContract] = NAMES["TestCommandAgent"]


def test_it_is_as_short_as_the_page_says_and_stands_on_it() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    assert f"```python\n{text}```\n" in PAGE, "docs/write-an-agent.md shows another text than the example has"
