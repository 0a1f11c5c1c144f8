"""Ray's fractional GPUs: a task says which part of a GPU it takes while it runs.

As its documentation has it: ``ray.init(num_gpus=1)`` and ``@ray.remote(num_gpus=…)``; here the whole, so that one
runs at a time. Ray does not look at the card: the fraction is a number. By default it starts a process for each task
that takes a GPU; tasks that do nothing are run with ``max_calls=0``, in one that stays, as RQ's ``SimpleWorker`` does.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from benchmarks.peer import job


class RayGpus:
    """A node on this machine with one GPU, which need not be there."""

    def __init__(self, url: str) -> None:
        """Start it."""
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        import ray

        self.url, self._ray = url, ray
        ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        self._nothing = ray.remote(num_gpus=1, num_cpus=0, max_calls=0)(job.nothing)
        self._hold = ray.remote(num_gpus=1, num_cpus=0)(job.hold)
        self._held: list[Any] = []
        self.burst(5)

    def each(self, count: int) -> list[float]:
        """Microseconds of each of so many tasks that do nothing, sent and waited for one after the other."""
        spans = []
        for _ in range(count):
            begun = time.perf_counter()
            self._ray.get(self._nothing.remote())
            spans.append((time.perf_counter() - begun) * 1e6)
        return spans

    def burst(self, count: int) -> float:
        """Seconds by task of a batch."""
        begun = time.perf_counter()
        self._ray.get([self._nothing.remote() for _ in range(count)])
        return (time.perf_counter() - begun) / count

    def start(self) -> None:
        """Everything runs already."""

    def submit(self, key: str, tag: str) -> None:
        """Send a task that holds."""
        self._held.append(self._hold.remote(self.url, key, tag))

    def close(self) -> None:
        """End the node."""
        self._ray.shutdown()


opened = RayGpus
