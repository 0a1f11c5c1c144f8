"""Where RQ keeps a job between its queue and its start, and how it moves there: in one step each, so that whoever dies
when, the job is in exactly one place.

In its queue; popped, in the queue's intermediate list, in a worker's hands; parked, in RQ's scheduled registry, since
it waits for GPU memory; or started. A parked job is known by the name of its lease to be.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import NoScriptError
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.registry import ScheduledJobRegistry
from rq.utils import as_text
from rq.worker.base import WorkerStatus

if TYPE_CHECKING:
    from redis import Redis
    from rq.worker.base import BaseWorker

#: RQ's scheduler may have a parked job back after so long without a word of any worker of ours.
FALLBACK_SECONDS = 600
#: A popped job that nobody started or parked was in the hands of a worker that died.
IN_HAND_SECONDS = 10.0
#: How long a worker that was handed a job waits for the one who popped it to park it.
_PARKING_SECONDS = 3
_PAGE = 200


@dataclass(frozen=True, slots=True)
class Parked:
    """A job that waits for memory. ``lease_id`` names its lease to be."""

    lease_id: str
    job_id: str


class Lot:
    """The parked and popped jobs of one queue."""

    def __init__(self, queue: Queue) -> None:
        """Look at nothing yet."""
        self.queue = queue
        self._redis: Redis = queue.connection
        self._registry = ScheduledJobRegistry(queue.name, connection=queue.connection).key  # type: ignore[no-untyped-call]
        root = f"{RQ_KEY_PREFIX}:gpu:{queue.name}"
        self.parked_key, self._until, self._seen = f"{root}:parked", f"{root}:until", f"{root}:seen"
        self._handed = f"{root}:handed:"

    def park(self, job: Job, lease_id: str, wait_ms: int) -> bool:
        """Park a popped job; False if it is not this worker's any more, or was cancelled."""
        keys = (
            self.queue.intermediate_queue_key, self._registry, self.parked_key, self._until, job.key,
            self._handed + lease_id,
        )  # fmt: skip
        return bool(_run(self._redis, "park", keys, job.id, lease_id, wait_ms, FALLBACK_SECONDS))

    def take(self, lease_id: str) -> str | None:
        """The id of a parked job that may start now, in this worker's hands; ``None`` if somebody else has it.

        A job may be handed on before the worker that popped it has parked it.
        """
        found = self._unpark(lease_id, "start")
        if found is None and self._redis.blpop([self._handed + lease_id], timeout=_PARKING_SECONDS) is not None:
            found = self._unpark(lease_id, "start")
        return found[0] if found is not None and found[1] else None

    def requeue(self, lease_id: str) -> bool:
        """Put a parked job back to the front of its queue."""
        found = self._unpark(lease_id, "requeue")
        return found is not None and found[1]

    def _unpark(self, lease_id: str, to: str) -> tuple[str, bool] | None:
        keys = (self._registry, self.parked_key, self._until, self.queue.intermediate_queue_key, self.queue.key)
        found = _run(self._redis, "unpark", keys, lease_id, to, self.queue.job_class.redis_job_namespace_prefix)
        return (as_text(found[0]), bool(found[1])) if found else None

    def give_back(self, job_id: str) -> bool:
        """Put a popped job back to the front of its queue."""
        keys = (self.queue.intermediate_queue_key, self.queue.key)
        return bool(_run(self._redis, "give_back", keys, job_id))

    def put_back_stranded(self, at_work: Sequence[str]) -> int:
        """Put back what dead workers held in their hands; ``at_work`` are ids of jobs that have started."""
        keys = (self.queue.intermediate_queue_key, self.queue.key, self._seen)
        patience, jobs = round(IN_HAND_SECONDS * 1000), self.queue.job_class.redis_job_namespace_prefix
        return int(_run(self._redis, "stranded", keys, patience, jobs, *at_work))

    def retake(self, entry: str, job: Job, meta: bytes = b"") -> bool:
        """Put a job back that was taken up and is not to end: False if that attempt has it no more, as of a worker that
        was taken for dead. ``entry`` is the attempt's own in the started registry; ``meta`` is written along.
        """
        keys = (self.queue.started_job_registry.key, self.queue.intermediate_queue_key, self.queue.key, job.key)
        return bool(_run(self._redis, "retake", keys, entry, job.id, meta))

    def __len__(self) -> int:
        """How many jobs are parked."""
        return int(self._redis.hlen(self.parked_key))

    def page(self, cursor: int) -> tuple[int, list[Parked]]:
        """Some of the parked jobs, and where to go on; 0 at the end. Their time in RQ's registry is put off."""
        after, found = cast("tuple[int, dict[bytes, bytes]]", self._redis.hscan(self.parked_key, cursor, count=_PAGE))
        parked = [Parked(as_text(lease), as_text(job)) for lease, job in found.items()]
        if parked:
            now, _ = self._redis.time()
            self._redis.zadd(self._registry, {one.job_id: now + FALLBACK_SECONDS for one in parked}, xx=True)
        return int(after), parked

    def taken_away(self, parked: Sequence[Parked]) -> list[Parked]:
        """Those of them that RQ has not parked any more: cancelled, deleted or started by hand."""
        if not parked:
            return []
        scores = self._redis.zmscore(self._registry, [one.job_id for one in parked])
        return [one for one, score in zip(parked, scores, strict=True) if score is None]

    def overdue(self) -> tuple[str | None, float]:
        """The lease's name of a job that waited for as long as it would, or when there will be one, in seconds."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.zrange(self._until, 0, 0, withscores=True)
            (seconds, micros), first = pipeline.execute()
        if not first:
            return None, math.inf
        left = first[0][1] / 1000 - seconds - micros / 1_000_000
        return (as_text(first[0][0]), 0.0) if left <= 0 else (None, left)


def pop(redis: Redis, queues: Sequence[Queue]) -> tuple[Queue, str] | None:
    """The first job of the first queue that has one, in this worker's hands."""
    keys = [key for queue in queues for key in (queue.key, queue.intermediate_queue_key)]
    found = _run(redis, "pop", keys)
    return (queues[int(found[0]) - 1], as_text(found[1])) if found else None


def take_up(worker: BaseWorker, job: Job, attempt: str, *, meta: bool = False) -> Execution | None:
    """Out of the worker's hands, into RQ's registry of started jobs; ``None`` if it was not in its hands any more.

    As ``rq.executions.prepare_execution``, but the execution is called ``attempt``, as its lease is; ``meta``: what
    the job got is written along.
    """
    ttl = int(worker.get_heartbeat_ttl(job))
    execution = Execution(attempt, job.id, job.connection, worker.name)
    execution._job = job
    with worker.connection.pipeline() as pipeline:
        keys = (_home(worker, job).intermediate_queue_key, job.key, job.started_job_registry.key)
        # By its text: no NOSCRIPT in the midst. A pipeline is sent again after a lost reply, where redis-py retries.
        told = job.serializer.dumps(job.meta) if meta else b""
        pipeline.eval(_text("take_up"), len(keys), *keys, job.id, execution.composite_key, told)
        execution.save(ttl=ttl, pipeline=pipeline)
        ExecutionRegistry(job.id, connection=pipeline).add(execution=execution, ttl=ttl, pipeline=pipeline)
        job.started_job_registry.add_execution(execution, pipeline=pipeline, ttl=ttl, xx=False)
        pipeline.sadd(execution.worker_executions_key, execution.composite_key)
        pipeline.expire(execution.worker_executions_key, ttl + 60)
        worker.set_state(WorkerStatus.BUSY, pipeline=pipeline)
        ours = pipeline.execute()[0] == 1
    worker.executions[execution.id] = execution
    if not ours:
        drop(worker, job, execution)
        return None
    return execution


def _home(worker: BaseWorker, job: Job) -> Queue:
    """The job's queue, of the class that the worker was given: it may have keys of its own."""
    for queue in worker.queues:
        if queue.name == job.origin:
            return queue
    return worker.queue_class(job.origin, connection=worker.connection)


def note_peak(worker: BaseWorker, job: Job, peak_bytes: int) -> None:
    """Write into ``job.meta["gpu"]`` what an agent saw of the job; its code may have written other things there."""
    kept = cast("bytes | None", worker.connection.hget(job.key, "meta"))
    if kept is None:
        return
    meta = job.serializer.loads(kept)
    meta["gpu"] = {**meta.get("gpu", {}), "peak_bytes": peak_bytes}
    _run(worker.connection, "note", (job.key,), job.serializer.dumps(meta))


def ended_well(worker: BaseWorker, job: Job) -> bool:
    """Whether a job that ran has succeeded: RQ says so, or has deleted it, as it does with a ``result_ttl`` of 0."""
    status = cast("bytes | None", worker.connection.hget(job.key, "status"))
    return status is None or as_text(status) == JobStatus.FINISHED


def drop(worker: BaseWorker, job: Job, execution: Execution) -> None:
    """Forget an execution that never ran."""
    with worker.connection.pipeline() as pipeline:
        worker.cleanup_execution(job, pipeline=pipeline, execution=execution)
        pipeline.execute()


def put_back(worker: BaseWorker, job: Job, queue: Queue, execution: Execution, *, meta: bool = False) -> None:
    """A job that was taken up, to the front of its queue, as if nobody had: no failure counted, no retry burnt.

    Unless somebody took it back meanwhile, from a worker that looked dead. ``meta``: what the job in hand carries is
    written along.
    """
    kept = job.serializer.dumps(job.meta) if meta else b""
    ours = Lot(queue).retake(execution.composite_key, job, kept)
    drop(worker, job, execution)
    where = f"back at the front of {queue.name}" if ours else "in other hands by now"
    worker.log.info("Worker %s: job %s is %s", worker.name, job.id, where)


@cache
def _text(name: str) -> str:
    return files("worker_hooks.lua").joinpath(f"{name}.lua").read_text(encoding="utf-8")


@cache
def _sha(name: str) -> str:
    return hashlib.sha1(_text(name).encode(), usedforsecurity=False).hexdigest()


def _run(redis: Redis, name: str, keys: Sequence[Any], *argv: Any) -> Any:
    try:
        return redis.evalsha(_sha(name), len(keys), *keys, *argv)
    except NoScriptError:
        return redis.eval(_text(name), len(keys), *keys, *argv)
