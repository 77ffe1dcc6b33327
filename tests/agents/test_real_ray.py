"""The tests of RayAgent (tests/agents/ray), run where Ray can reach nothing: see tests/support/lone.py."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ray_nodes
from tests.support.lone import permitted

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: .ci/run does that apart")
def test_ray_in_a_network_of_its_own() -> None:
    """Two nodes, in a namespace that has nothing but a loopback; all that is there passes."""
    if not permitted():
        reason = "this user may not have a network namespace, and Ray is started nowhere else"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    # What Ray's own launcher leaves open for its processes (seen with 2.49) is no fault of ours.
    options = ["-p", "no:cacheprovider", "--color=no", "-W", "ignore:unclosed file:ResourceWarning"]
    pytest_ = [sys.executable, "-m", "pytest", *options, "tests/agents/ray"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.lone", *pytest_],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, "nothing was collected"
    assert "skipped" not in done.stdout


def test_ray_is_not_started_where_it_could_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests and the benchmark start it in one place, which looks first."""
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    with pytest.raises(RuntimeError, match="would listen"), ray_nodes.started():
        pytest.fail("it was started")
