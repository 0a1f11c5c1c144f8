"""For a plain ``rq worker``: a job that finds no room gives its worker back and comes again later.

Where a ``GpuWorker`` parks a job before it occupies the worker, here the job's own process finds out. It goes among
RQ's scheduled jobs, with its retries untouched and no failure counted; a worker with ``--with-scheduler`` brings it
back.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from rq.defaults import RQ_KEY_PREFIX
from rq.job import Job
from rq.queue import Queue

_log = logging.getLogger("rq.worker")


def in_a_horse(job: Job) -> bool:
    """Whether this process runs just this job, as a child of its worker, and may end with it."""
    pid = job.connection.hget(f"{RQ_KEY_PREFIX}:worker:{job.worker_name}", "pid")
    return pid is not None and int(pid) == os.getppid() != os.getpid()


def come_again(job: Job, seconds: float) -> NoReturn:
    """Put the job off, and end this process: RQ takes that for a job that has settled its own affairs."""
    queue = Queue(job.origin, connection=job.connection, serializer=job.serializer)
    due = datetime.now(UTC) + timedelta(seconds=seconds)
    with job.connection.pipeline() as pipeline:
        for execution in job.get_executions():
            execution.delete(job=job, pipeline=pipeline)
        queue.schedule_job(job, due, pipeline=pipeline)
        pipeline.execute()
    _log.info("Job %s found no GPU memory and comes again in %g s", job.id, seconds)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
