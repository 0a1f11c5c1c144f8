"""Workers to which something happens at the worst moment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from redis import Redis
from redis.client import Pipeline
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue

from worker_hooks.dequeuing import Found
from worker_hooks.recovery import recover_forgotten
from worker_hooks.worker import GpuSimpleWorker, GpuSpawnWorker, GpuWorker


class _SignalledAfterPop:
    """It is asked to stop just when it has popped a job."""

    def reorder_queues(self, reference_queue: Queue) -> None:
        super().reorder_queues(reference_queue)  # type: ignore[misc]
        os.kill(os.getpid(), signal.SIGTERM)


class GpuWorkerSignalledAfterPop(_SignalledAfterPop, GpuWorker):
    pass


class GpuSpawnWorkerSignalledAfterPop(_SignalledAfterPop, GpuSpawnWorker):
    pass


class GpuSimpleWorkerSignalledAfterPop(_SignalledAfterPop, GpuSimpleWorker):
    pass


class Robbed(GpuWorker):
    """Its first lease is taken away between the grant and the horse's start."""

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        if self._lease is not None and not hasattr(self, "robbed"):
            self.robbed = True
            self._ledger.release(self._lease.id, self._lease.token)
        super().fork_work_horse(job, queue)


class KilledBeforeStart(GpuWorker):
    """It dies between the grant and the horse's start."""

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class StoppedAfterPop(GpuWorker):
    """It is frozen just when it has popped a job."""

    def reorder_queues(self, reference_queue: Queue) -> None:
        super().reorder_queues(reference_queue)
        os.kill(os.getpid(), signal.SIGSTOP)


class FrozenBeforeTheGate(GpuWorker):
    """Its first horse is frozen right before the start gate."""

    def _pass_gate(self, lease_id: str, token: int) -> None:
        if self.connection.set("frozen", os.getpid(), nx=True):
            os.kill(os.getpid(), signal.SIGSTOP)
        super()._pass_gate(lease_id, token)


class _Overtaken:
    """It is taken for dead, and its job taken up by others, just when it writes down how its first job ended."""

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        self.connection.incr("performed")  # type: ignore[attr-defined]
        return super().perform_job(job, queue, execution)  # type: ignore[misc, no-any-return]

    def cleanup_execution(self, job: Job, pipeline: Pipeline, execution: Execution | None = None) -> None:
        super().cleanup_execution(job, pipeline, execution)  # type: ignore[misc]
        if execution is not None and self.connection.set("overtaken", execution.id, nx=True):  # type: ignore[attr-defined]
            redis = Redis.from_url(os.environ["GPUBROKER_REDIS_URL"])
            queue = Queue(job.origin, connection=redis)
            redis.zadd(queue.started_job_registry.key, {execution.composite_key: 1}, xx=True)
            assert recover_forgotten(queue) == 1


class GpuWorkerOvertaken(_Overtaken, GpuWorker):
    pass


class GpuSimpleWorkerOvertaken(_Overtaken, GpuSimpleWorker):
    pass


class StoppedRightAfterItsFork(GpuWorker):
    """Its job is stopped by command when its horse exists and has done nothing yet."""

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        os.setpgrp = lambda: time.sleep(60)
        super().fork_work_horse(job, queue)
        assert self.execution is not None
        self.request_stop_execution(self.execution.id)


class ToldToStopWithoutRedis(GpuWorker):
    """Redis dies while it looks for a job, and then it is told to stop."""

    def _popped(self, queues: Sequence[Queue]) -> Found | None:
        os.kill(int(self.connection.info("server")["process_id"]), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGTERM)
        return super()._popped(queues)
