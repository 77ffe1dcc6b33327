"""A Ray cluster on this machine for tests and benchmarks, in a network namespace that has nothing but a loopback.

Ray listens on every interface and looks for a public address when it starts, so it is refused to start elsewhere.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import attrs

from tests.support.lone import is_lone

SIZE = 3
NODE: dict[str, Any] = {
    "object_store_memory": 80_000_000,
    "node_ip_address": "127.0.0.1",
    "include_dashboard": False,
}


@attrs.frozen
class Nodes:
    """A cluster.

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
        """Kill a node, with no chance for anything; return when the cluster knows, or a driver might join it there."""
        before = alive()
        self.cluster.remove_node(node, allow_graceful=False)
        until = time.monotonic() + 60.0
        while alive() >= before:
            assert time.monotonic() < until, "the cluster does not know that a node is dead"
            time.sleep(0.05)


def alive() -> int:
    """Return how many nodes the cluster believes to be alive."""
    ray: Any = import_module("ray")
    return sum(node["Alive"] for node in ray.nodes())


@contextmanager
def started(size: int = SIZE) -> Iterator[Nodes]:
    """Start a cluster of one node, which may be added to, and connect this process; end it all afterwards.

    Raises:
        RuntimeError: this process can reach more than itself.
    """
    if not is_lone():
        raise RuntimeError("Ray would listen on this machine's interfaces: python -m tests.support.lone COMMAND")
    directory = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: its sockets have at most 107 bytes of path
    with patch.dict(os.environ, RAY_TMPDIR=directory, RAY_USAGE_STATS_ENABLED="0"):
        ray: Any = import_module("ray")  # now: it reads its settings when it is imported
        cluster = import_module("ray.cluster_utils").Cluster(
            initialize_head=True, head_node_args={"num_cpus": size, **NODE}
        )
        try:
            ray.init(address=cluster.address, log_to_driver=False, _node_ip_address="127.0.0.1")
            yield Nodes(cluster, size)
        finally:
            ray.shutdown()
            cluster.shutdown()
            shutil.rmtree(directory, ignore_errors=True)
