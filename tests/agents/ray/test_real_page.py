"""The code of docs/ray.md, executed in a driver of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.agents.ray.conftest import PATIENCE
from tests.support.ray_nodes import Nodes

ROOT = Path(__file__).parents[3]

PROGRAM = """
import sys
from pathlib import Path
from tests.docs.test_docs import run_page
run_page(Path(sys.argv[1]), "ray")
"""


def test_the_code_of_the_page_runs(nodes: Nodes, tmp_path: Path) -> None:
    """And prints what it says."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(ROOT / "docs" / "ray.md")],
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": nodes.address, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "sweeps.db").exists()
