"""``GpuWorker``: an RQ worker that borrows before it forks.

The parent holds the lease: it asks before any job code is imported, renews while the horse works (job code cannot
starve it) and returns the lease when the horse is gone, however it went. It has no thread of its own and never touches
CUDA.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import redis
from redis.client import Pipeline
from redis.driver_info import DriverInfo
from rq.exceptions import InvalidJobOperation
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.registry import StartedJobRegistry
from rq.worker import Worker
from rq.worker.base import WorkerStatus

from broker.client import Broker
from broker.errors import BrokerError, LeaseLost, LeaseNotFound, PoolUnavailable, StaleToken
from broker.lease import Lease
from broker.process import began
from broker.settings import Settings
from worker_hooks import bookkeeping, environment
from worker_hooks.admission import Admission
from worker_hooks.decorator import note
from worker_hooks.recovery import recover_abandoned
from worker_hooks.request import GpuRequest, lease_name

_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 5.0  # between two looks for jobs whose worker died
_IDLE_SECONDS = 5
_SILENT_SECONDS = 3.0  # no job is taken up by others so soon after it was popped
_WHERE = (("host", ""), ("port", 6379), ("db", 0), ("path", ""), ("username", ""))
_OVER = (LeaseLost, StaleToken, LeaseNotFound)


class _Dropped(Exception):
    """The job in hand is not to run now, and what becomes of it is settled by ``settle``."""

    def __init__(self, settle: Callable[[], None]) -> None:
        self.settle = settle


class GpuWorker(Worker):
    """Runs ``@gpu_job`` functions under a lease on this host's GPUs, and any other job as RQ does.

    For ``rq worker --worker-class worker_hooks.GpuWorker``, or ``gpubroker worker``. ``GPUBROKER_HOST`` names the host,
    ``GPUBROKER_REDIS_URL`` and ``GPUBROKER_POOL`` the ledger.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """Takes what ``rq.Worker`` takes. The ledger is asked at the first job that borrows."""
        super().__init__(*args, **options)
        settings = Settings()
        self._ledger = Broker.from_url(settings.redis_url.get_secret_value(), pool=settings.pool)
        self._gate = self._gate_beside(self._ledger)
        self._in_hand = False
        self._admission: Admission | None = None
        self._lease: Lease | None = None
        self._refusal: BrokerError | None = None
        self._loss = ""
        self._unwritten: Job | None = None
        self._looked_at = self._popped_at = time.monotonic()

    def _gate_beside(self, ledger: Broker) -> Broker:
        """The broker for a horse's start gate: a pool notices the fork and connects anew. Where RQ's Redis is the
        ledger's too, it is RQ's connection, which the horse makes in any case: a second one costs it milliseconds.
        """
        rqs, own = self.connection.connection_pool, ledger.redis.connection_pool
        # redis-py reads its own version from disk for every connection, so in every horse, unless it is told once.
        for pool in (rqs, own):
            pool.connection_kwargs.setdefault("driver_info", DriverInfo())
        same_server = rqs.connection_class is own.connection_class and all(
            (rqs.connection_kwargs.get(name) or default) == (own.connection_kwargs.get(name) or default)
            for name, default in _WHERE
        )
        return Broker(self.connection, pool=ledger.pool, url=ledger.url) if same_server else ledger

    # -- in the worker, between jobs -----------------------------------------------------------------------------------

    @property
    def dequeue_timeout(self) -> int:
        """Seconds without a job after which an idle worker looks around."""
        return min(int(super().dequeue_timeout), _IDLE_SECONDS)

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ's sign of life; now and then also a look for jobs whose worker died."""
        super().heartbeat(timeout, pipeline)
        if self.is_horse:
            self._write_meta(pipeline)
        elif time.monotonic() - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._recover_abandoned()

    def _recover_abandoned(self) -> None:
        try:
            for queue in self.queues:
                if found := recover_abandoned(queue, self._ledger):
                    self.log.warning("Worker %s: %d jobs of %s had lost their worker", self.name, found, queue.name)
        except (BrokerError, redis.RedisError) as error:
            self.log.warning("Worker %s: abandoned jobs cannot be looked for: %s", self.name, error)

    # -- in the worker, before the fork --------------------------------------------------------------------------------

    def reorder_queues(self, reference_queue: Queue) -> None:
        """Called as soon as a job was popped: from here on a shutdown first settles it (rq#2236)."""
        self._in_hand, self._popped_at = True, time.monotonic()
        super().reorder_queues(reference_queue)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a plain job as RQ does, and one that borrows under its lease."""
        try:
            try:
                request = GpuRequest.of_meta(job.meta)
            except BrokerError as error:
                self._run(job, queue, self.prepare_execution(job), refusal=error)
                return
            if request is None:
                super().execute_job(job, queue)
            else:
                self._borrow_and_run(job, queue, request)
        finally:
            self._in_hand = False

    def _borrow_and_run(self, job: Job, queue: Queue, request: GpuRequest) -> None:
        execution = self.prepare_execution(job)
        try:
            lease = self._admit(job, queue, execution, request)
        except _Dropped as dropped:
            dropped.settle()
            self.set_state(WorkerStatus.IDLE)
        except BrokerError as error:
            self._run(job, queue, execution, refusal=error)
        else:
            try:
                note(job, lease)
                self._run(job, queue, execution, lease=lease)
            finally:
                self._end_horse()
                self._return(lease)

    def _admit(self, job: Job, queue: Queue, execution: Execution, request: GpuRequest) -> Lease:
        """The job's lease, however long it takes.

        Raises:
            _Dropped: a shutdown, a stop or a cancel came first. BrokerError: refused for good.
        """
        # A lost reply finds the same name; the next attempt is another execution, with a lease of its own.
        ask = request.ask(lease_name(job.id, execution.id), job_id=job.id, function=job.func_name or "")
        # RQ reads it as this attempt's start; a retried job still carries the last one's.
        job.started_at = None
        self._admission = admission = Admission(self._ledger, ask)
        lease = None
        try:
            while lease is None:
                if self._stop_requested:
                    raise _Dropped(lambda: bookkeeping.put_back(self, job, queue, execution))
                rest = admission.sleep
                try:
                    lease = admission.ask()
                    if lease is not None and not self._still_ours(queue, execution):
                        admission.withdraw()
                        raise _Dropped(lambda: None)
                except LeaseLost as error:
                    # It was granted, and its time passed while the reply was lost: the next attempt asks anew.
                    self.log.warning("Worker %s: job %s asks again: %s", self.name, job.id, error)
                    raise _Dropped(lambda: bookkeeping.put_back(self, job, queue, execution)) from error
                except PoolUnavailable as error:
                    # Nothing fails open: without a ledger the job waits.
                    self.log.warning("Worker %s: job %s waits: %s", self.name, job.id, error)
                    rest = admission.pause
                if lease is None:
                    self._beat(job, queue, execution)
                    rest()
            return lease
        except SystemExit:  # a second signal
            bookkeeping.put_back(self, job, queue, execution)
            raise
        finally:
            self._admission = None
            if lease is None:
                admission.withdraw()

    def _still_ours(self, queue: Queue, execution: Execution) -> bool:
        """Whether nobody took the job up meanwhile: a worker that was stopped for long looks like a dead one."""
        if time.monotonic() - self._popped_at < _SILENT_SECONDS:
            return True
        return self.connection.zscore(queue.started_job_registry.key, execution.composite_key) is not None

    def _beat(self, job: Job, queue: Queue, execution: Execution) -> None:
        """Between two sleeps: show RQ that worker and job live, and see whether the job is still wanted."""
        try:
            bookkeeping.keep_findable(self, job, queue)
            self.maintain_heartbeats(job, execution)
            if self._stopped_job_id == job.id:
                raise _Dropped(lambda: bookkeeping.stop_waiting(self, job, queue, execution))
            if job.get_status() == JobStatus.CANCELED:
                raise _Dropped(lambda: bookkeeping.forget(self, job, queue, execution))
        except InvalidJobOperation:
            raise _Dropped(lambda: bookkeeping.forget(self, job, queue, execution)) from None
        except (redis.ConnectionError, redis.TimeoutError) as error:
            self.log.warning("Worker %s: job %s waits, RQ's Redis is away: %s", self.name, job.id, error)

    # -- in the worker, while the horse works --------------------------------------------------------------------------

    def _run(
        self,
        job: Job,
        queue: Queue,
        execution: Execution,
        *,
        lease: Lease | None = None,
        refusal: BrokerError | None = None,
    ) -> None:
        """Fork and watch. A refused job fails in its horse too: by RQ's own path, with callbacks and retries."""
        self._lease, self._refusal, self._loss = lease, refusal, ""
        interval = self.job_monitoring_interval
        if lease is not None:
            self.job_monitoring_interval = min(interval, max(1, lease.ttl_ms // 3000))
        try:
            self.fork_work_horse(job, queue)
            self.monitor_work_horse(job, queue, execution)
        finally:
            self.job_monitoring_interval = interval
            self._lease = self._refusal = None
        self.set_state(WorkerStatus.IDLE)

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """RQ's heartbeats, and the lease's renewal before them."""
        if self._lease is not None:
            self._renew(self._lease)
        super().maintain_heartbeats(job, execution)

    def _renew(self, lease: Lease) -> None:
        """A job ends with its lease: by the ledger's word, or when it could not be renewed for a whole TTL."""
        try:
            lease.renew()
        except PoolUnavailable as error:
            self.log.warning("Worker %s: lease %s could not be renewed: %s", self.name, lease.id, error)
            if lease.lost:
                self._lose(lease, f"LeaseLost: lease {lease.id} was not renewed for its whole TTL: {error}")
        except _OVER as error:
            self._lose(lease, f"{type(error).__name__}: {error}")

    def _lose(self, lease: Lease, why: str) -> None:
        self._loss = why
        self.log.error("Worker %s: killing the job of %s: %s", self.name, lease.id, why)
        self.kill_horse()

    def _end_horse(self) -> None:
        """Memory is returned by dead processes only: a horse that nobody watches any more is killed first."""
        if not self.horse_pid:
            return
        try:
            if os.waitpid(self.horse_pid, os.WNOHANG) == (0, 0):
                self.kill_horse()
                os.waitpid(self.horse_pid, 0)
        except ChildProcessError:
            return  # it ended, and was waited for

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """As RQ's, but without a horse (a job that waits) it does nothing: RQ's would kill the worker's own group."""
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
        reason = f"{self._loss}\n{exc_string}" if self._loss else exc_string
        super().handle_job_failure(job, queue, started_job_registry, reason, execution)

    def _return(self, lease: Lease) -> None:
        try:
            lease.release()
        except BrokerError as error:
            self.log.warning("Worker %s: lease %s ends by its TTL: %s", self.name, lease.id, error)

    def _shutdown(self) -> None:
        """A job that was popped is settled first: a waiting one goes back, a running one ends."""
        if self._in_hand:
            self._state = WorkerStatus.BUSY
        super()._shutdown()  # type: ignore[no-untyped-call]
        if self._admission is not None:
            self._admission.interrupt()

    # -- in the horse --------------------------------------------------------------------------------------------------

    def setup_work_horse_signals(self) -> None:
        """As RQ's; and a horse dies with its worker, since nobody else renews its lease."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]
        if sys.platform == "linux":
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self.pid:  # it died before the kernel was asked
            os._exit(1)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Pass the start gate and take on the lease's environment; then as RQ does."""
        if self._refusal is not None:
            job.perform = _raiser(self._refusal)  # type: ignore[method-assign]
        elif self._lease is not None:
            try:
                self._start_under(self._lease)
            except BrokerError as error:
                # Nothing of the job ran yet.
                self.log.warning("Worker %s: job %s does not start: %s", self.name, job.id, error)
                bookkeeping.put_back(self, job, queue, execution)
                return False
        return super().perform_job(job, queue, execution)

    def _start_under(self, lease: Lease) -> None:
        """Law 9: the token is checked once more, right before job code; over a connection made after the fork.

        Raises:
            BrokerError: do not start.
        """
        environment.enter(lease)
        self._gate.check(lease.id, lease.token, os.getpid(), began(os.getpid()) or "")

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """As RQ's, and what the job got is written down. A worker on many queues tidies its intermediate queue too."""
        self._unwritten = job if self._lease is not None else None
        super().prepare_job_execution(job, True)

    def _write_meta(self, pipeline: Pipeline | None) -> None:
        """With RQ's own transaction before a job, whose heartbeat this is: no round trip more."""
        if pipeline is not None and self._unwritten is not None:
            job, self._unwritten = self._unwritten, None
            pipeline.hset(job.key, "meta", job.serializer.dumps(job.meta))


def _raiser(error: BrokerError) -> Callable[[], NoReturn]:
    def perform() -> NoReturn:
        raise error

    return perform


_LIBC = ctypes.CDLL(None)
