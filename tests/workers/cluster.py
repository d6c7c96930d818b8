"""A Ray cluster of nodes on this machine, on the loopback address alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

OBJECT_STORE_BYTES = 100 * 2**20  # Ray requires at least 75 MiB


class TwoNodes:
    """Two nodes of one core each, and a way to lose one of them."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "node_ip_address": "127.0.0.1"}
        self._cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
        self._second: Any = self._cluster.add_node(**node)
        self.address: str = self._cluster.address

    def lose_one(self) -> None:
        """End the second node at once, with everything that runs on it."""
        raylet = psutil.Process(self._second.all_processes["raylet"][0].process.pid)
        for process in [raylet, *raylet.children(recursive=True)]:
            process.send_signal(signal.SIGKILL)

    def end(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # A lost node is detected after 1.5 s instead of 15 s.
        patch.setenv("RAY_health_check_initial_delay_ms", "0")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        patch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        nodes = TwoNodes()
        try:
            yield nodes
        finally:
            nodes.end()
