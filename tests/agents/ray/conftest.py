"""A Ray cluster of two nodes on this machine, in a network namespace that has nothing but a loopback.

Ray listens on every interface and looks for a public address when it starts. So these tests are collected only
where there is nothing to listen on: tests/agents/test_real_ray.py begins such a place and runs them there.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
import pytest

from sweepstate import Sweep
from sweepstate.agent.ray import RayAgent
from tests.support.lone import is_lone

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


@attrs.frozen
class Nodes:
    """The cluster of the tests.

    Attributes:
        cluster: Ray's own, for tests.
        size: of each node, in processors that it believes to have.
    """

    cluster: Any
    size: int

    @property
    def address(self) -> str:
        address: str = self.cluster.address
        return address

    def add(self) -> Any:
        """Start one more node, and return it."""
        node = self.cluster.add_node(num_cpus=self.size, **NODE)
        self.cluster.wait_for_nodes()
        return node

    def kill(self, node: Any) -> None:
        """Kill a node, with no chance for anything."""
        self.cluster.remove_node(node, allow_graceful=False)


SIZE = 3
NODE: dict[str, Any] = {"object_store_memory": 80_000_000, "node_ip_address": "127.0.0.1", "include_dashboard": False}


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """Return a cluster of one node, which each test may add to, with this process connected."""
    if not is_lone():
        pytest.fail("Ray would listen on interfaces of this machine: it is started in a namespace of its own only")
    directory = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: its sockets have at most 107 bytes of path
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", directory)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray: Any = import_module("ray")  # now: it reads its settings when it is imported
        cluster = import_module("ray.cluster_utils").Cluster(
            initialize_head=True, head_node_args={"num_cpus": SIZE, **NODE}
        )
        try:
            ray.init(address=cluster.address, log_to_driver=False, _node_ip_address="127.0.0.1")
            yield Nodes(cluster, SIZE)
        finally:
            ray.shutdown()
            cluster.shutdown()
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Return a directory in which executions leave what they want to be known."""
    directory = tmp_path / "notes"
    directory.mkdir()
    return directory
