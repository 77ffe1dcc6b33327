"""A Ray cluster of two nodes on this machine, in a network namespace that has nothing but a loopback.

Ray listens on every interface and looks for a public address when it starts. So these tests are collected only
where there is nothing to listen on: tests/agents/test_real_ray.py begins such a place and runs them there.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sweepstate import Sweep
from sweepstate.agent.ray import RayAgent
from tests.support.lone import is_lone
from tests.support.ray_nodes import Nodes, started

collect_ignore_glob = [] if is_lone() and importlib.util.find_spec("ray") else ["test_*.py"]

#: Generous: the machine may be busy with other things.
PATIENCE = 60.0


def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for a condition."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {condition}"
        time.sleep(0.02)


@contextmanager
def driven(agent: RayAgent, sweep: Sweep) -> Iterator[None]:
    """Drive a sweep in a thread while the body does things to it; then wait until it is done."""
    errors: list[BaseException] = []

    def drive() -> None:
        try:
            agent.drive(sweep)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=drive, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        Sweep.open(sweep.id, storage=sweep.storage).cancel("the test failed")
        thread.join(PATIENCE)
        raise
    thread.join(PATIENCE)
    assert not thread.is_alive(), sweep.refresh()
    if errors:
        raise errors[0]


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """Return a cluster of one node, which each test may add to, with this process connected."""
    with started() as cluster:
        yield cluster


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Return a directory in which executions leave what they want to be known."""
    directory = tmp_path / "notes"
    directory.mkdir()
    return directory
