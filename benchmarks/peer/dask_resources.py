"""Dask's worker resources: a worker says how much it has of a name, a task how much it takes while it runs.

As its documentation has it: a worker with ``resources={"GPU": 1}`` (two threads, so that the resource is what limits)
under a nanny, and ``client.submit(f, resources={"GPU": 1})``. The numbers are the worker's own word.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peer import job


class DaskResources:
    """A cluster on this machine, whose only worker has one GPU to give."""

    def __init__(self, url: str) -> None:
        """Start it."""
        import distributed

        library: Any = distributed

        self.url = url
        self._cluster: Any = library.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=True, resources={"GPU": 1}, dashboard_address=None
        )
        self._client: Any = library.Client(self._cluster)
        self._held: list[Any] = []
        self.burst(5)

    def each(self, count: int) -> list[float]:
        """Microseconds of each of so many tasks that do nothing, sent and waited for one after the other."""
        spans = []
        for _ in range(count):
            begun = time.perf_counter()
            self._send(job.nothing).result()
            spans.append((time.perf_counter() - begun) * 1e6)
        return spans

    def burst(self, count: int) -> float:
        """Seconds by task of a batch."""
        begun = time.perf_counter()
        self._client.gather([self._send(job.nothing) for _ in range(count)])
        return (time.perf_counter() - begun) / count

    def start(self) -> None:
        """Everything runs already."""

    def submit(self, key: str, tag: str) -> None:
        """Send a task that holds."""
        # One that nobody asks for is forgotten; one that is over and still asked for runs again if its worker dies.
        self._held = [one for one in self._held if not one.done()]
        self._held.append(self._send(job.hold, self.url, key, tag))

    def close(self) -> None:
        """End the cluster."""
        self._client.close()
        self._cluster.close()

    def _send(self, *work: Any) -> Any:
        return self._client.submit(*work, resources={"GPU": 1}, pure=False)


opened = DaskResources
