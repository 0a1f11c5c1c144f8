"""``GpuSpawnWorker`` itself, whose first lease is taken away between the grant and the horse's start.

Patched and not inherited from: the horse of a class of one's own is of that class, and this is about the small one.
"""

from __future__ import annotations

from rq.job import Job
from rq.queue import Queue

from worker_hooks.worker import GpuSpawnWorker

_fork = GpuSpawnWorker.fork_work_horse


def _rob_and_fork(worker: GpuSpawnWorker, job: Job, queue: Queue) -> None:
    if worker._lease is not None and not hasattr(worker, "robbed"):
        worker.robbed = True
        worker._ledger.release(worker._lease.id, worker._lease.token)
    _fork(worker, job, queue)


GpuSpawnWorker.fork_work_horse = _rob_and_fork

__all__ = ["GpuSpawnWorker"]
