"""How a worker comes by its next job: handed over by the ledger, or popped and admitted before it occupies the worker.

A popped job that borrows asks the ledger once. It starts here and now under its lease; or it is parked, waits in the
ledger's queue, and is handed to whichever idle worker of its queue sits where room comes; this worker goes on.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple
from uuid import uuid4

import redis
from redis.driver_info import DriverInfo
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job
from rq.queue import Queue
from rq.utils import as_text
from rq.worker.base import BaseWorker, WorkerStatus

from broker.client import Broker
from broker.errors import BrokerError, ImpossibleRequest, InsufficientMemory, InvalidRequest, LeaseLost
from broker.lease import Lease
from broker.settings import Settings
from worker_hooks import parking
from worker_hooks.admission import Admission
from worker_hooks.doors import Asked, Doors
from worker_hooks.parking import Lot
from worker_hooks.request import WAIT_MOST, GpuRequest, lease_name

_IDLE_SECONDS = 5  # without a job, after which an idle worker looks around
_PATIENCE_SECONDS = 10  # with a server that is asked and does not answer
_OVERDUE_SECONDS = 5.0  # at most, between two looks for jobs that waited for as long as they would
_DOOR = "the ledger"
_AWAY = (redis.ConnectionError, redis.TimeoutError)


class Found(NamedTuple):
    """A job in the worker's hands: a plain one; with its lease, under the name of this attempt; or refused."""

    job: Job
    queue: Queue
    lease: Lease | None = None
    attempt: str = ""
    refusal: BrokerError | None = None


class Dequeuing(BaseWorker):
    """For a worker of RQ's: put it before RQ's class among the bases."""

    _in_hand = _looking = False
    _found: Found | None = None
    _overdue_at = 0.0

    # -- what is made when it is first needed --------------------------------------------------------------------------

    @cached_property
    def _ledger(self) -> Broker:
        settings = Settings()
        # redis-py reads its own version from disk for every connection, so in every horse, unless it is told once.
        self.connection.connection_pool.connection_kwargs.setdefault("driver_info", DriverInfo())
        return Broker.from_url(settings.redis_url, pool=settings.pool)

    @cached_property
    def _admission(self) -> Admission:
        return Admission(self._ledger, self.name, [queue.name for queue in self.queues], self.log)

    @cached_property
    def _doors(self) -> Doors:
        return Doors()

    # -- between two jobs ----------------------------------------------------------------------------------------------

    @property
    def connection_timeout(self) -> int:
        """Seconds without a word of Redis after which a worker takes it for away: RQ's 415 are for one long BLMOVE."""
        return min(int(super().connection_timeout), _IDLE_SECONDS + _PATIENCE_SECONDS)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """As RQ's, but jobs come by our own doors."""
        theirs = self.queue_class
        self.queue_class, self._looking = _OwnDoors(self, theirs), True  # type: ignore[assignment]
        try:
            return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
        finally:
            self.queue_class, self._looking = theirs, False

    def heartbeat(self, *args: Any, **options: Any) -> None:
        """As RQ's; a worker that was told to stop does not wait until Redis is back to look for jobs."""
        try:
            super().heartbeat(*args, **options)
        except _AWAY:
            if self._looking and self._stop_requested:
                raise StopRequested from None
            raise

    def next_job(self, queues: Sequence[Queue], timeout: int | None) -> tuple[Job, Queue] | None:
        """The next job to start; ``None`` in burst mode if there is none and none is parked.

        Raises:
            DequeueTimeout: none came. StopRequested: by a signal.
        """
        # From here on a shutdown first settles what the worker has in its hands (rq#2236).
        self._in_hand, self._found = True, None
        try:
            handed = self._handed(self._admission.look(), queues)
            self._found = handed or self._overdue(queues) or self._popped(queues)
            if self._found is None and (timeout is not None or any(len(Lot(queue)) for queue in queues)):
                self._found = self._rest(queues, min(timeout or _IDLE_SECONDS, _IDLE_SECONDS))
                if self._found is None and not self._stop_requested:
                    raise DequeueTimeout(timeout, [queue.key for queue in queues])
        except _AWAY:
            if not self._stop_requested:
                raise
        finally:
            self._in_hand = self._found is not None
        if self._found is None and self._stop_requested:
            raise StopRequested
        return (self._found.job, self._found.queue) if self._found else None

    def _handed(self, lease_id: str | None, queues: Sequence[Queue]) -> Found | None:
        """The job of a lease that was handed to this worker."""
        if lease_id is None:
            return None
        self.before_a_lease()
        handed = self._admission.claim(lease_id)
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
                    return Found(job, queue, refusal=InsufficientMemory(f"job {job.id}: {why}"))
        return None

    def _popped(self, queues: Sequence[Queue]) -> Found | None:
        """The first job in the queues that can run now; those before it are parked."""
        while not self._stop_requested and (popped := parking.pop(self.connection, queues)) is not None:
            found = self._admitted(*popped, queues)
            if found is not None:
                return found
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

    # -- admission -----------------------------------------------------------------------------------------------------

    def _admitted(self, queue: Queue, job_id: str, queues: Sequence[Queue]) -> Found | None:
        """A popped job that can start now, or must fail; ``None`` if it waits, or was deleted."""
        job = self._fetched(queue, job_id)
        if job is None:
            return None
        try:
            request = GpuRequest.of_meta(job.meta)
        except InvalidRequest as error:
            return Found(job, queue, refusal=error)
        if request is not None:
            found = self._asked(job, queue, request)
            instead, self._admission.handed = self._admission.handed, None
            return found or self._handed(instead, queues)
        # A plain job: nothing is to be handed over from here on, and what was just before comes first.
        handed = self._handed(self._admission.rise(), queues)
        if handed is None:
            return Found(job, queue)
        Lot(queue).give_back(job.id)
        return handed

    def before_a_lease(self) -> None:
        """What must be there before memory is borrowed."""
        raise NotImplementedError

    def _asked(self, job: Job, queue: Queue, request: GpuRequest) -> Found | None:
        attempt = uuid4().hex
        self.before_a_lease()
        try:
            lease = self._admission.ask(job, queue.name, request, attempt)
            if lease is not None:
                return Found(job, queue, lease, attempt)
        except LeaseLost as error:  # it was granted, and its time passed while the reply was lost
            self.log.warning("Worker %s: job %s asks again: %s", self.name, job.id, error)
            Lot(queue).give_back(job.id)
            return None
        except (ImpossibleRequest, InvalidRequest) as error:
            return Found(job, queue, refusal=error)
        except InsufficientMemory as error:
            if request.wait == 0:
                return Found(job, queue, refusal=error)
            self.log.warning("Worker %s: job %s is parked: %s", self.name, job.id, error)
        except BrokerError as error:  # nothing fails open: without a ledger the job waits
            self.log.warning("Worker %s: job %s is parked: %s", self.name, job.id, error)
        self._park(job, queue, request, attempt)
        return None

    def _park(self, job: Job, queue: Queue, request: GpuRequest, attempt: str) -> None:
        name = lease_name(job.id, attempt)
        wait = WAIT_MOST if request.wait is None else request.wait
        if Lot(queue).park(job, name, round(wait * 1000)):
            self._overdue_at = 0.0
            self.log.info("Worker %s: job %s of %s waits for GPU memory", self.name, job.id, queue.name)
        else:
            self._admission.withdraw(name)

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
            if queue.key in answers and chosen is None and not self._stop_requested:
                chosen = self._admitted(queue, as_text(answers[queue.key]), queues)
            elif queue.key in answers:
                Lot(queue).give_back(as_text(answers[queue.key]))
        return chosen

    def _sleep(self, sockets: list[int], seconds: float) -> None:
        try:
            self._in_hand = False  # a signal ends this sleep
            if not self._stop_requested:
                select.select(sockets, [], [], seconds)
        finally:
            self._in_hand = True

    def _shutdown(self) -> None:
        """A job that was popped is settled first: one that has not started goes back, a running one ends."""
        self._stop_requested = True  # whatever else is raised on the way out: a door that cannot be closed, for one
        if self._in_hand:
            self._state = WorkerStatus.BUSY
        with suppress(*_AWAY):  # RQ notes the wish; this is a signal's handler, in the midst of anything
            super()._shutdown()  # type: ignore[no-untyped-call]

    def _return(self, lease: Lease) -> None:
        try:
            lease.release()
        except BrokerError as error:
            self.log.warning("Worker %s: lease %s ends by its TTL: %s", self.name, lease.id, error)


class _OwnDoors:
    """A worker's queue class while it looks for a job: all as it is, but ``dequeue_any``."""

    def __init__(self, worker: Dequeuing, theirs: Any) -> None:
        self._worker, self._theirs = worker, theirs

    def dequeue_any(self, queues: Sequence[Queue], timeout: int | None, **_: Any) -> tuple[Job, Queue] | None:
        return self._worker.next_job(queues, timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)
