"""An attempt's end is written down only by who still has the job.

RQ writes it without a look at who that is. A worker that was frozen, and was taken for dead, comes back to a job that
others have put back into its queue, run or ended meanwhile: its own words would put the job there a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.exceptions import WatchError
from rq.job import JobStatus
from rq.utils import as_text

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline
    from rq.executions import Execution
    from rq.job import Job
    from rq.worker.base import BaseWorker

#: In a worker's hash: the attempt whose end it wrote last. Written along, and so known to be written or not.
_ENDED = "gpu_ended"


class NotOursError(BaseException):
    """The job in hand was taken up by others: this worker looked dead for a while.

    Raised in the midst of RQ's code, which goes on after any ``Exception``, and takes one for the job's own.
    """


@contextmanager
def only_ours(worker: BaseWorker, job: Job, execution: Execution | None) -> Iterator[None]:
    """For the length of the body, what RQ writes of this attempt's end is written if the job is still in its registry
    of started jobs under this attempt; in one step with that look.

    Raises:
        NotOursError: in the midst of the body, which has written nothing.
    """
    if execution is None:  # it has not started
        yield
        return
    with ExitStack() as stack:
        asked, worker.connection = worker.connection, _Guarded(worker, job, execution, stack)  # type: ignore[assignment]
        stack.callback(setattr, worker, "connection", asked)
        yield


class _Guarded:
    """A worker's connection: all as it is, but transactions."""

    def __init__(self, worker: BaseWorker, job: Job, execution: Execution, ends: ExitStack) -> None:
        self._worker, self._job, self._execution, self._ends = worker, job, execution, ends
        self._redis: Redis = worker.connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    def pipeline(self, *args: Any, **options: Any) -> Pipeline:
        """One that looks first whose the job is."""
        pipeline: Any = self._redis.pipeline(*args, **options)
        pipeline.execute = partial(self._execute, pipeline, pipeline.execute)
        self._ends.enter_context(status_within(self._job, pipeline))
        return pipeline  # type: ignore[no-any-return]

    def _execute(self, pipeline: Any, execute: Any, raise_on_error: bool = True) -> list[Any]:
        """Again if only others wrote into the job's hash meanwhile: that it is well, for one."""
        stack, scripts, watched = pipeline.command_stack, pipeline.scripts, pipeline.watching
        note: Any = (("HSET", self._worker.key, _ENDED, self._execution.composite_key), {})
        while True:
            try:
                if not self._has_it(pipeline):
                    pipeline.reset()
                    if as_text(self._redis.hget(self._worker.key, _ENDED) or b"") == self._execution.composite_key:
                        return []  # we wrote it, and the reply was lost
                    raise NotOursError
                pipeline.command_stack = [*stack, note]
                return list(execute(raise_on_error))[:-1]
            except WatchError:
                if watched:  # RQ itself looks at something, and begins anew
                    raise
            pipeline.command_stack, pipeline.scripts = stack, scripts

    def _has_it(self, pipeline: Any) -> bool:
        """Whoever takes a job away writes into its hash, and puts it somewhere else. Who cancels or deletes one that
        runs takes its entry too, but puts it nowhere: its end is ours to write, which frees its rate limit's slot.
        """
        pipeline.immediate_execute_command("WATCH", self._job.key)
        registry = self._job.started_job_registry.key
        if pipeline.immediate_execute_command("ZSCORE", registry, self._execution.composite_key) is not None:
            return True
        status = pipeline.immediate_execute_command("HGET", self._job.key, "status")
        return status is None or as_text(status) == JobStatus.CANCELED


@contextmanager
def status_within(job: Job, step: Pipeline) -> Iterator[None]:
    """RQ says of a job that is to be retried later, and of that alone, that it is scheduled before the step is made.
    In the body it is said in that step.
    """

    def set_status(status: JobStatus, pipeline: Pipeline | None = None) -> None:
        type(job).set_status(job, status, pipeline=step if pipeline is None else pipeline)

    job.set_status = set_status  # type: ignore[method-assign]
    try:
        yield
    finally:
        vars(job).pop("set_status", None)
