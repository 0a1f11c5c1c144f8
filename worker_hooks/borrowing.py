"""What an RQ worker of any kind does otherwise than RQ's with a job that borrows: it starts it under its lease, and
returns the lease when nothing of the job runs any more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any
from uuid import uuid4

import redis
from redis.client import Pipeline
from redis.driver_info import DriverInfo
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.worker.base import WorkerStatus

from broker import tracing
from broker.client import Broker
from broker.errors import BrokerError, PoolUnavailable
from broker.lease import Lease
from broker.ledger.scripts import script
from broker.process import began
from broker.settings import Settings
from worker_hooks import holding, horse, parking, sizing
from worker_hooks.dequeuing import Dequeuing, Found
from worker_hooks.holding import JobLease, granted_of, note
from worker_hooks.horse import Horse, Named
from worker_hooks.keeper import Keeper
from worker_hooks.owning import NotOursError
from worker_hooks.parking import Lot
from worker_hooks.recovery import its_turn, recover, recover_forgotten
from worker_hooks.request import function_of

_LOOK_SECONDS = 5.0  # between two looks for jobs whose worker died
_ALIVE_SECONDS = 30.0  # between two signs of life of a worker in the midst of a long job
_START_SECONDS = 5.0  # that a worker waits for its keeper before it takes a lease; half of `claim_seconds`
_WHERE = (("host", ""), ("port", 6379), ("db", 0), ("path", ""), ("username", ""))


class Borrowing(Horse, Dequeuing):
    """For a worker of RQ's: put it first among the bases. ``perform_borrowed`` says how a job is run."""

    _lease: Lease | None = None
    _recovered_at = _alive_at = 0.0

    def bootstrap(self, *args: Any, **options: Any) -> None:
        """As RQ's; first the keeper is started, while this process has no thread and has forked nothing."""
        _ = self._keeper
        self.pid = os.getpid()  # it may be made in one process and run in another, and its horses look who is alive
        os.environ[horse.ADMITS] = str(self.pid)
        super().bootstrap(*args, **options)

    @cached_property
    def _keeper(self) -> Keeper:
        settings = Settings()
        return Keeper(settings.redis_url, settings.pool, says_ready=True)

    def before_a_lease(self) -> None:
        """Its keeper can renew it from the start. Plain jobs wait for nobody."""
        if not self._keeper.ready(_START_SECONDS, lambda: self._stop_requested):
            self.log.warning("Worker %s: its keeper is slow to start, and leases may be lost meanwhile", self.name)

    def perform_borrowed(self, job: Job, queue: Queue, execution: Execution) -> None:
        """Run a job under ``self._lease``, or fail it with ``self._refusal``, by RQ's own path."""
        raise NotImplementedError

    @cached_property
    def _gate(self) -> Broker:
        """The broker for a horse's start gate: a pool notices the fork and connects anew. Where RQ's Redis is the
        ledger's too, it is RQ's connection, which the horse makes in any case: a second one costs it milliseconds.
        """
        ledger = self._ledger
        script("start")  # put together here, which takes milliseconds: the horse has it then
        rqs, own = self.connection.connection_pool, ledger.redis.connection_pool
        own.connection_kwargs.setdefault("driver_info", DriverInfo())
        same_server = rqs.connection_class is own.connection_class and all(
            (rqs.connection_kwargs.get(name) or default) == (own.connection_kwargs.get(name) or default)
            for name, default in _WHERE
        )
        return Broker(self.connection, pool=ledger.pool, url=ledger.url) if same_server else ledger

    # -- a job ---------------------------------------------------------------------------------------------------------

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a plain job as RQ does, and one that borrows under its lease."""
        found, self._found = self._found, None
        try:
            if found is None or found.job is not job:  # it did not come by our doors
                found = self._admitted(queue, job.id, [queue])
            if found is None:
                self.set_state(WorkerStatus.IDLE)
            elif found.refusal is not None:
                self._fail(found, found.refusal)
            elif found.lease is not None:
                self._start(found, found.lease)
            else:
                super().execute_job(job, queue)
        except NotOursError:
            self.log.warning("Worker %s: job %s was taken up by others meanwhile", self.name, job.id)
            self.set_state(WorkerStatus.IDLE)
        finally:
            self._in_hand = False

    def _start(self, found: Found, lease: Lease) -> None:
        """Under its lease, which is returned when nothing of the job runs any more."""
        job, queue = found.job, found.queue
        try:
            if self._stop_requested:
                Lot(queue).give_back(job.id)
                return
            _ = self._gate  # made here, once, and not in every horse
            job.started_at = None  # RQ reads it as this attempt's start; a retried job still carries the last one's
            tracing.taken_up(lease, self._ledger.pool, job.meta.get("gpu", {}), **_about(job))
            note(job, lease)
            execution = parking.take_up(self, job, found.attempt, meta=True)
            if execution is None:
                raise NotOursError
            begun = time.monotonic()
            with self._holding(lease=lease):
                self.perform_borrowed(job, queue, execution)
            if time.monotonic() - begun >= sizing.SEEN_SECONDS:
                self._note_peak(job, lease)
        finally:
            self._return(lease)
            self.set_state(WorkerStatus.IDLE)

    def _note_peak(self, job: Job, lease: Lease) -> None:
        try:
            peak = self._ledger.peak_bytes(lease.id)
            if peak:
                parking.note_peak(self, job, peak)
                if (request := sizing.of_job(job)) is not None and parking.ended_well(self, job):
                    sizing.learn(self._ledger, request, function_of(job), lease, peak)
        except (BrokerError, redis.RedisError) as error:
            self.log.warning("Worker %s: what job %s used is not noted: %s", self.name, job.id, error)

    def _fail(self, found: Found, refusal: BrokerError) -> None:
        """By RQ's own path, with callbacks and retries."""
        execution = self.prepare_execution(found.job)
        with self._holding(refusal=refusal):
            self.perform_borrowed(found.job, found.queue, execution)
        self.set_state(WorkerStatus.IDLE)

    @contextmanager
    def _holding(self, *, lease: Lease | None = None, refusal: BrokerError | None = None) -> Iterator[None]:
        self._lease, self._refusal = lease, refusal
        try:
            yield
        finally:
            self._lease = self._refusal = None

    def prepare_execution(self, job: Job) -> Execution:
        """As RQ's, of a plain or refused job; in one step it leaves the intermediate list, where our doors put it."""
        if not self._in_hand:
            return super().prepare_execution(job)
        execution = parking.take_up(self, job, uuid4().hex)
        if execution is None:
            raise NotOursError
        return execution

    def _held(self) -> Named | None:
        return None if self._lease is None else Named(self._lease.id, self._lease.token)

    def _show(self) -> None:
        if self._lease is not None:
            holding.hold(JobLease(granted_of(self._lease)))

    def _pass_gate(self, lease_id: str, token: int) -> None:
        self._gate.check(lease_id, token, os.getpid(), began(os.getpid()) or "")

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """As RQ's; our own doors leave every popped job in its intermediate list, of one queue or many."""
        super().prepare_job_execution(job, True)

    def _return(self, lease: Lease) -> None:
        """Here and now, so that the next look finds its bytes; while Redis is away, by the keeper."""
        try:
            lease.release()
        except PoolUnavailable as error:
            self._keeper.drop(lease, release=True)
            self.log.warning("Worker %s: lease %s is returned later: %s", self.name, lease.id, error)
        except BrokerError as error:
            self._keeper.drop(lease, release=False)
            self.log.warning("Worker %s: lease %s was over: %s", self.name, lease.id, error)
        else:
            self._keeper.drop(lease, release=False)

    # -- now and then --------------------------------------------------------------------------------------------------

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ's sign of life; now and then also a look for jobs whose worker died."""
        super().heartbeat(timeout, pipeline)
        now = time.monotonic()
        if self.is_horse or not self.queues:
            return
        if self._lease is not None and now - self._alive_at >= _ALIVE_SECONDS:
            self._alive_at = now
            self._admission.show_life()
        if now - self._recovered_at >= _LOOK_SECONDS:
            self._recovered_at = now
            self._recover()

    def clean_registries(self) -> None:
        """RQ's maintenance; what it does to abandoned jobs is done before, by steps that bear others beside them."""
        for queue in self.queues:
            recover_forgotten(queue, self._exc_handlers)
        super().clean_registries()  # type: ignore[no-untyped-call]

    def _recover(self) -> None:
        if self._admission.away:
            return
        asked = time.monotonic()
        try:
            for queue in self.queues:
                if its_turn(queue, _LOOK_SECONDS) and (found := recover(queue, self._ledger)):
                    self.log.warning("Worker %s: %d jobs of %s had lost their worker", self.name, found, queue.name)
        except BrokerError as error:
            self._admission.leave(asked, error)
        except redis.RedisError as error:
            self.log.warning("Worker %s: abandoned jobs cannot be looked for: %s", self.name, error)

    def teardown(self) -> None:
        """As RQ's; the seat is left, and the doors."""
        if not self.is_horse:
            os.environ.pop(horse.ADMITS, None)  # whoever works in this process next may be RQ's own
            with suppress(BrokerError, redis.RedisError):
                self._admission.rise()
            self._doors.close()
            self._keeper.end()
        super().teardown()  # type: ignore[no-untyped-call]


def _about(job: Job) -> dict[str, str]:
    return {"job.id": job.id, "queue": job.origin, "function": function_of(job)}
