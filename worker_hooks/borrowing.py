"""Borrowing before a job occupies its worker: what an RQ worker of any kind does otherwise than RQ's.

A popped job that borrows asks the ledger once. It starts here and now under its lease; or it is parked, waits in the
ledger's queue, and is handed to whichever idle worker of its queue sits where room comes; the worker goes on.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, NamedTuple, NoReturn
from uuid import uuid4

import redis
from redis.client import Pipeline
from redis.driver_info import DriverInfo
from rq.exceptions import DequeueTimeout, StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.utils import as_text
from rq.worker.base import BaseWorker, WorkerStatus

from broker.client import Broker
from broker.errors import BrokerError, ImpossibleRequest, InsufficientMemory, InvalidRequest, LeaseLost
from broker.lease import Lease
from broker.process import began
from broker.settings import Settings
from worker_hooks import parking
from worker_hooks.admission import Admission
from worker_hooks.decorator import note
from worker_hooks.doors import Asked, Doors
from worker_hooks.parking import Lot
from worker_hooks.recovery import its_turn, recover
from worker_hooks.request import WAIT_MOST, GpuRequest, lease_name

_LOOK_SECONDS = 5.0  # between two looks for jobs whose worker died
_IDLE_SECONDS = 5  # without a job, after which an idle worker looks around
_OVERDUE_SECONDS = 5.0  # at most, between two looks for jobs that waited for as long as they would
_ALIVE_SECONDS = 30.0  # between two signs of life of a worker in the midst of a long job
_DOOR = "the ledger"
_WHERE = (("host", ""), ("port", 6379), ("db", 0), ("path", ""), ("username", ""))


class Found(NamedTuple):
    """A job in the worker's hands: its lease if it was handed over with one, or why it is refused."""

    job: Job
    queue: Queue
    lease: Lease | None = None
    attempt: str = ""
    refusal: BrokerError | None = None


class Borrowing(BaseWorker):
    """For a worker of RQ's: put it first among the bases. ``perform_borrowed`` says how a job is run."""

    _in_hand = False
    _next_job: Found | None = None
    _lease: Lease | None = None
    _refusal: BrokerError | None = None
    _overdue_at = _recovered_at = _alive_at = 0.0

    def perform_borrowed(self, job: Job, queue: Queue, execution: Execution) -> None:
        """Run a job under ``self._lease``, or fail it with ``self._refusal``, by RQ's own path."""
        raise NotImplementedError

    # -- what is made when it is first needed --------------------------------------------------------------------------

    @cached_property
    def _ledger(self) -> Broker:
        settings = Settings()
        # redis-py reads its own version from disk for every connection, so in every horse, unless it is told once.
        self.connection.connection_pool.connection_kwargs.setdefault("driver_info", DriverInfo())
        return Broker.from_url(settings.redis_url.get_secret_value(), pool=settings.pool)

    @cached_property
    def _gate(self) -> Broker:
        """The broker for a horse's start gate: a pool notices the fork and connects anew. Where RQ's Redis is the
        ledger's too, it is RQ's connection, which the horse makes in any case: a second one costs it milliseconds.
        """
        ledger = self._ledger
        rqs, own = self.connection.connection_pool, ledger.redis.connection_pool
        own.connection_kwargs.setdefault("driver_info", DriverInfo())
        same_server = rqs.connection_class is own.connection_class and all(
            (rqs.connection_kwargs.get(name) or default) == (own.connection_kwargs.get(name) or default)
            for name, default in _WHERE
        )
        return Broker(self.connection, pool=ledger.pool, url=ledger.url) if same_server else ledger

    @cached_property
    def _admission(self) -> Admission:
        return Admission(self._ledger, self.name, [queue.name for queue in self.queues], self.log)

    @cached_property
    def _doors(self) -> Doors:
        return Doors()

    # -- between two jobs ----------------------------------------------------------------------------------------------

    @property
    def dequeue_timeout(self) -> int:
        """Seconds without a job after which an idle worker looks around."""
        return min(int(super().dequeue_timeout), _IDLE_SECONDS)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """As RQ's, but jobs come by our own doors."""
        theirs = self.queue_class
        self.queue_class = _OwnDoors(self, theirs)  # type: ignore[assignment]
        try:
            return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
        finally:
            self.queue_class = theirs

    def next_job(self, queues: Sequence[Queue], timeout: int | None) -> tuple[Job, Queue] | None:
        """The next job to start, handed over or popped; ``None`` in burst mode if there is none and none is parked.

        Raises:
            DequeueTimeout: none came. StopRequested: by a signal.
        """
        # From here on a shutdown first settles what the worker has in its hands (rq#2236).
        self._in_hand, self._next_job = True, None
        try:
            self._next_job = (
                self._handed(self._admission.look(), queues) or self._overdue(queues) or self._popped(queues)
            )
            if self._next_job is None and (timeout is not None or any(len(Lot(queue)) for queue in queues)):
                self._next_job = self._rest(queues, timeout or _IDLE_SECONDS)
                if self._next_job is None and not self._stop_requested:
                    raise DequeueTimeout(timeout, [queue.key for queue in queues])
        finally:
            self._in_hand = self._next_job is not None
        if self._next_job is None and self._stop_requested:
            raise StopRequested
        return (self._next_job.job, self._next_job.queue) if self._next_job else None

    def _handed(self, lease_id: str | None, queues: Sequence[Queue]) -> Found | None:
        """The job of a lease that was handed to this worker."""
        handed = self._admission.claim(lease_id) if lease_id is not None else None
        if handed is None:
            return None
        for queue in queues:
            if self._admission.crews.get(queue.name) == handed.crew:
                job_id = Lot(queue).take(handed.lease.id)
                job = self._fetched(queue, job_id) if job_id is not None else None
                if job is not None:
                    return Found(job, queue, handed.lease, handed.lease.id.rpartition(".")[2])
        self.log.info("Worker %s: nobody wants lease %s any more", self.name, handed.lease.id)
        self._return(handed.lease)
        return None

    def _overdue(self, queues: Sequence[Queue]) -> Found | None:
        """A parked job that waited for as long as it would."""
        if time.monotonic() < self._overdue_at:
            return None
        self._overdue_at = time.monotonic() + _OVERDUE_SECONDS
        for queue in queues:
            lot = Lot(queue)
            while True:
                lease_id, left = lot.overdue()
                if lease_id is None:
                    self._overdue_at = min(self._overdue_at, time.monotonic() + left)
                    break
                self._admission.withdraw(lease_id)
                job_id = lot.take(lease_id)
                job = self._fetched(queue, job_id) if job_id is not None else None
                if job is not None:
                    self._overdue_at = 0.0  # there may be another
                    why = "it waited for as long as it would, and there was no room; wait longer, or ask for less"
                    return Found(job, queue, attempt=uuid4().hex, refusal=InsufficientMemory(f"job {job.id}: {why}"))
        return None

    def _popped(self, queues: Sequence[Queue]) -> Found | None:
        while (found := parking.pop(self.connection, queues)) is not None:
            job = self._fetched(*found)
            if job is not None:
                return Found(job, found[0])
        return None

    def _fetched(self, queue: Queue, job_id: str) -> Job | None:
        """The job; ``None`` if it was deleted."""
        found = type(queue)._fetch_dequeued_job(
            self.connection, queue.key, job_id, job_class=self.job_class, serializer=self.serializer,
            death_penalty_class=self.death_penalty_class,
        )  # fmt: skip
        if found is None:
            self.connection.lrem(queue.intermediate_queue_key, 1, job_id)
        return found[0] if found else None

    # -- idle ----------------------------------------------------------------------------------------------------------

    def _rest(self, queues: Sequence[Queue], seconds: float) -> Found | None:
        """Sit and wait for whatever comes first, a job in a queue or a hint from the ledger."""
        handed = self._handed(self._admission.sit(), queues)
        if handed is not None:
            return handed
        asked: dict[str, Asked] = {
            queue.key: (
                self.connection.connection_pool,
                ("BLMOVE", queue.key, queue.intermediate_queue_key, "LEFT", "RIGHT", seconds + 1),
            )
            for queue in queues
        }
        if self._admission.sits:
            pool, key = self._admission.door
            asked[_DOOR] = (pool, ("BLPOP", key, seconds + 1))
        answers: dict[str, Any] = {}
        seconds = max(0.05, min(seconds, self._overdue_at - time.monotonic()))
        try:
            self._doors.wait(asked, seconds, self._sleep, answers)
        except BaseException:
            for queue in queues:
                if queue.key in answers:
                    Lot(queue).give_back(as_text(answers[queue.key]))
            self._admission.rise()
            raise
        return self._one_of(answers, queues)

    def _one_of(self, answers: dict[str, Any], queues: Sequence[Queue]) -> Found | None:
        """One job of all that came: one that was handed over, else of the first queue. The others go back."""
        hint = answers.get(_DOOR)
        chosen = self._handed(as_text(hint[1]), queues) if hint is not None else None
        for queue in queues:
            if queue.key not in answers:
                continue
            job_id = as_text(answers[queue.key])
            job = self._fetched(queue, job_id) if chosen is None else None
            if job is not None:
                chosen = Found(job, queue)
            elif chosen is not None:
                Lot(queue).give_back(job_id)
        if chosen is None or chosen.lease is not None or chosen.job.meta.get("gpu"):
            return chosen
        # A plain job: nothing is to be handed over from here on, and what was just before comes first.
        handed = self._handed(self._admission.rise(), queues)
        if handed is None:
            return chosen
        Lot(chosen.queue).give_back(chosen.job.id)
        return handed

    def _sleep(self, sockets: list[int], seconds: float) -> None:
        try:
            self._in_hand = False  # a signal ends this sleep
            if not self._stop_requested:
                select.select(sockets, [], [], seconds)
        finally:
            self._in_hand = True

    # -- a job ---------------------------------------------------------------------------------------------------------

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a plain job as RQ does, and one that borrows under its lease."""
        given, self._next_job = self._next_job, None
        if given is None or given.job is not job:
            given = Found(job, queue)
        try:
            request = None if given.refusal else GpuRequest.of_meta(job.meta)
            if given.refusal is not None:
                self._fail(given, given.refusal)
            elif request is None:
                super().execute_job(job, queue)
            else:
                self._admit(given, request)
        except InvalidRequest as error:
            self._fail(given, error)
        finally:
            self._in_hand = False

    def _admit(self, given: Found, request: GpuRequest) -> None:
        """Ask for a popped job's memory; then start it here, or leave it to wait."""
        job, queue, lease, attempt, _ = given
        if lease is None:
            if self._stop_requested:
                Lot(queue).give_back(job.id)
                return
            attempt = uuid4().hex
            try:
                lease = self._admission.ask(job, queue.name, request, attempt)
            except LeaseLost as error:  # it was granted, and its time passed while the reply was lost
                self.log.warning("Worker %s: job %s asks again: %s", self.name, job.id, error)
                Lot(queue).give_back(job.id)
                return
            except (ImpossibleRequest, InvalidRequest) as error:
                self._fail(given, error)
                return
            except InsufficientMemory as error:
                if request.wait == 0:
                    self._fail(given, error)
                    return
                self.log.warning("Worker %s: job %s is parked: %s", self.name, job.id, error)
            except BrokerError as error:  # nothing fails open: without a ledger the job waits
                self.log.warning("Worker %s: job %s is parked: %s", self.name, job.id, error)
        if lease is None:
            self._park(job, queue, request, attempt)
        else:
            self._start(job, queue, lease, attempt)

    def _park(self, job: Job, queue: Queue, request: GpuRequest, attempt: str) -> None:
        name = lease_name(job.id, attempt)
        wait = WAIT_MOST if request.wait is None else request.wait
        if Lot(queue).park(job, name, round(wait * 1000)):
            self._overdue_at = 0.0
            self.log.info("Worker %s: job %s waits for GPU memory", self.name, job.id)
        else:
            self._admission.withdraw(name)
        self.set_state(WorkerStatus.IDLE)

    def _start(self, job: Job, queue: Queue, lease: Lease, attempt: str) -> None:
        """Under its lease, which is returned when nothing of the job runs any more."""
        try:
            job.started_at = None  # RQ reads it as this attempt's start; a retried job still carries the last one's
            note(job, lease)
            execution = parking.take_up(self, job, queue, attempt)
            if execution is None:
                self.log.warning("Worker %s: job %s was taken up by others meanwhile", self.name, job.id)
            else:
                with self._holding(lease=lease):
                    self.perform_borrowed(job, queue, execution)
        finally:
            self._return(lease)
        self.set_state(WorkerStatus.IDLE)

    def _fail(self, given: Found, refusal: BrokerError) -> None:
        """By RQ's own path, with callbacks and retries."""
        execution = self.prepare_execution(given.job)
        with self._holding(refusal=refusal):
            self.perform_borrowed(given.job, given.queue, execution)
        self.set_state(WorkerStatus.IDLE)

    @contextmanager
    def _holding(self, *, lease: Lease | None = None, refusal: BrokerError | None = None) -> Iterator[None]:
        self._lease, self._refusal = lease, refusal
        try:
            yield
        finally:
            self._lease = self._refusal = None

    def _return(self, lease: Lease) -> None:
        try:
            lease.release()
        except BrokerError as error:
            self.log.warning("Worker %s: lease %s ends by its TTL: %s", self.name, lease.id, error)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Pass the start gate and take on the lease's environment; then as RQ does."""
        if self._refusal is not None:
            job.perform = _raiser(self._refusal)  # type: ignore[method-assign]
        elif self._lease is not None:
            try:
                self._pass_gate(self._lease)
            except BrokerError as error:
                # Nothing of the job ran yet.
                self.log.warning("Worker %s: job %s does not start: %s", self.name, job.id, error)
                parking.put_back(self, job, queue, execution)
                return False
        return super().perform_job(job, queue, execution)

    def _pass_gate(self, lease: Lease) -> None:
        """Law 9: the token is checked once more, right before job code; over a connection made after the fork.

        Raises:
            BrokerError: do not start.
        """
        self._gate.check(lease.id, lease.token, os.getpid(), began(os.getpid()) or "")

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """As RQ's; our own doors leave every popped job in its intermediate list, of one queue or many."""
        super().prepare_job_execution(job, True)

    # -- now and then --------------------------------------------------------------------------------------------------

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ's sign of life; now and then also a look for jobs whose worker died."""
        super().heartbeat(timeout, pipeline)
        if self.is_horse or not self.queues:
            return
        if self._lease is not None and time.monotonic() - self._alive_at >= _ALIVE_SECONDS:
            self._alive_at = time.monotonic()
            self._admission.show_life()
        if time.monotonic() - self._recovered_at < _LOOK_SECONDS:
            return
        self._recovered_at = time.monotonic()
        try:
            for queue in self.queues:
                if its_turn(queue, _LOOK_SECONDS) and (found := recover(queue, self._ledger)):
                    self.log.warning("Worker %s: %d jobs of %s had lost their worker", self.name, found, queue.name)
        except (BrokerError, redis.RedisError) as error:
            self.log.warning("Worker %s: abandoned jobs cannot be looked for: %s", self.name, error)

    def _shutdown(self) -> None:
        """A job that was popped is settled first: one that has not started goes back, a running one ends."""
        if self._in_hand:
            self._state = WorkerStatus.BUSY
        super()._shutdown()  # type: ignore[no-untyped-call]

    def teardown(self) -> None:
        """As RQ's; the seat is left, and the doors."""
        if not self.is_horse:
            with suppress(BrokerError, redis.RedisError):
                self._admission.rise()
            self._doors.close()
        super().teardown()  # type: ignore[no-untyped-call]


class _OwnDoors:
    """A worker's queue class while it looks for a job: all as it is, but ``dequeue_any``."""

    def __init__(self, worker: Borrowing, theirs: Any) -> None:
        self._worker, self._theirs = worker, theirs

    def dequeue_any(self, queues: Sequence[Queue], timeout: int | None, **_: Any) -> tuple[Job, Queue] | None:
        return self._worker.next_job(queues, timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)


def _raiser(error: BrokerError) -> Callable[[], NoReturn]:
    def perform() -> NoReturn:
        raise error

    return perform
