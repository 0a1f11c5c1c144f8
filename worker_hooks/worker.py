"""RQ's workers that borrow: ``GpuWorker`` forks, ``GpuSpawnWorker`` spawns, ``GpuSimpleWorker`` runs jobs in itself.

Where there is a horse, the parent holds the lease: it asks before any job code is imported and returns the lease when
the horse is gone, however it went. A helper beside it renews meanwhile, and returns the lease of a worker that was
killed. The parent has no thread of its own and never touches CUDA.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.registry import StartedJobRegistry
from rq.worker import SimpleWorker, SpawnWorker, Worker

from worker_hooks import environment, horse, losing
from worker_hooks.borrowing import Borrowing
from worker_hooks.horse import OwnProcess, Spawned, SpawnedHorse


class GpuWorker(OwnProcess, Borrowing, Worker):
    """Runs ``@gpu_job`` functions under a lease on this host's GPUs, and any other job as RQ does.

    For ``rq worker --worker-class worker_hooks.GpuWorker``, or ``gpubroker worker``. ``GPUBROKER_HOST`` names the host,
    ``GPUBROKER_REDIS_URL`` and ``GPUBROKER_POOL`` the ledger. It takes what ``rq.Worker`` takes.
    """

    def perform_borrowed(self, job: Job, queue: Queue, execution: Execution) -> None:
        """Fork, watch, and see to it that the horse is gone."""
        interval = self.job_monitoring_interval
        if self._lease is not None:
            self.job_monitoring_interval = min(interval, max(1, self._lease.ttl_ms // 3000))
        try:
            self.fork_work_horse(job, queue)
            if self._lease is not None:
                on_lost = "kill" if losing.choice_of(job) == losing.KILL else "signal"
                self._keeper.hold(self._lease, self.horse_pid, on_lost)
            self.monitor_work_horse(job, queue, execution)
        finally:
            self.job_monitoring_interval = interval
            self._end_horse()

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """As RQ's; the horse leads its own group before anybody can be told to kill that, and not only once it runs."""
        super().fork_work_horse(job, queue)
        with suppress(OSError):  # it did so itself, and is another program or gone by now
            os.setpgid(self.horse_pid, self.horse_pid)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """In a forked horse: in the lease's environment, for the rest of its life."""
        if self._lease is not None:
            environment.enter(self._lease)
        return super().perform_job(job, queue, execution)

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """RQ's heartbeats; and the keeper, which renews the lease, is replaced if it died."""
        if self._lease is not None:
            self._keeper.tend()
        super().maintain_heartbeats(job, execution)

    def _end_horse(self) -> None:
        """Memory is returned by dead processes only: a horse that nobody watches any more is killed first."""
        if not self.horse_pid:
            return
        with suppress(ChildProcessError):  # it ended, and was waited for
            if os.waitpid(self.horse_pid, os.WNOHANG) == (0, 0):
                self.kill_horse()
                os.waitpid(self.horse_pid, 0)

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """As RQ's, but without a horse it does nothing: RQ's would kill the worker's own group."""
        if self.horse_pid:
            super().kill_horse(sig)

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: StartedJobRegistry | None = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """As RQ's, saying first that the lease was lost, if that is why."""
        loss = self._keeper.loss(self._lease) if self._lease is not None and not self.is_horse else ""
        reason = f"{loss}\n{exc_string}" if loss else exc_string
        super().handle_job_failure(job, queue, started_job_registry, reason, execution)


class GpuSpawnWorker(Spawned, GpuWorker, SpawnWorker):
    """As ``GpuWorker``, but its horses are spawned: they find their lease in their environment from the start."""

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Spawn the horse in the lease's environment."""
        told = {}
        if self._lease is not None:
            told = {**self._lease.env(), horse.JOB: job.id}
            if self._gate is not self._ledger:
                told[horse.GATE] = horse.way_through(self._gate)
        elif self._refusal is not None:
            told = {horse.REFUSED: f"{type(self._refusal).__name__}: {self._refusal}", horse.JOB: job.id}
        with _told(told):
            super().fork_work_horse(job, queue)

    def _dump_worker_config(self) -> bytes:
        """As RQ's; the horse is as small as it can be. One of a class made of this one is that class."""
        config = super()._dump_worker_config()
        if type(self) is GpuSpawnWorker:
            kind = SpawnWorker if self._lease is None and self._refusal is None else SpawnedHorse
            config = pickle.dumps((kind, pickle.loads(config)[1]))
        return config


class GpuSimpleWorker(Borrowing, SimpleWorker):
    """Runs jobs in its own process, one after the other: no fork, so no start of a process for each job.

    A helper renews the lease, so job code may hold the GIL. What a job leaves allocated stays with the worker: for jobs
    that keep one model loaded, and ask for the same memory each time.
    """

    def perform_borrowed(self, job: Job, queue: Queue, execution: Execution) -> None:
        """In this process, for as long as the job lasts in its lease's environment."""
        if self._lease is None:
            self.perform_job(job, queue, execution)
            return
        with environment.entered(self._lease):
            self._keeper.call_me()
            self._keeper.hold(self._lease, os.getpid(), losing.told_by(losing.choice_of(job)))
            self.perform_job(job, queue, execution)

    def _is_well(self) -> Callable[[], bool]:
        lease = self._lease
        return lambda: lease is not None and self._keeper.well(lease)


@contextmanager
def _told(more: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
