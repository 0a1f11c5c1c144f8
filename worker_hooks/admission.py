"""What a worker has to do with the ledger between two jobs: look for a job that waited and can start here now, sit idle
and be handed one, ask for a popped job's memory.

A ledger that cannot be reached is left alone for a while: plain jobs run on, those that borrow are parked.
"""

from __future__ import annotations

import logging
import re
import time
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from broker import answers, calls
from broker.crew import Handed, Seat
from broker.errors import BrokerError, ImpossibleRequest, LeaseNotFound, PoolUnavailable
from broker.granted import Granted, Waiting
from broker.lease import Lease
from worker_hooks import sizing
from worker_hooks.request import GpuRequest, function_of, lease_name

if TYPE_CHECKING:
    from rq.job import Job

    from broker.client import Broker

#: Between two looks of a worker that is busy with one job after the other.
LOOK_SECONDS = 0.02
#: For so long a ledger that could not be reached is not asked again; three times as long as it kept its worker waiting,
#: if that is more: a server that hangs costs every question some twenty seconds, and plain jobs are to run on.
_AWAY_SECONDS, _AWAY_MOST_SECONDS = 5.0, 60.0
_QUEUES_MOST = 16

_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")


class Admission:
    """One worker's dealings with the ledger."""

    def __init__(self, broker: Broker, worker: str, queues: Sequence[str], log: logging.Logger) -> None:
        """Ask nothing yet. Of more than 16 queues the first are served with what waited."""
        self._broker = broker
        self._log = log
        self.crews = {queue: crew_name(queue) for queue in queues[:_QUEUES_MOST]}
        self._seat = Seat(broker, crew_name(worker), calls.this_host(), list(self.crews.values()))
        self._looked = self._away_until = 0.0
        #: What this worker was handed while it asked for something else.
        self.handed: str | None = None

    @property
    def sits(self) -> bool:
        """Whether the ledger may hand this worker a job at any moment."""
        return self._seat.sits

    @property
    def door(self) -> tuple[Any, str]:
        """Where an idle worker waits for a hint: a pool of connections, and the list's key."""
        return self._broker.redis.connection_pool, self._seat.wake_key

    def look(self) -> str | None:
        """Between two jobs: a lease that was handed to this worker. Asked for in a tight loop it looks now and then."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return None
        found = self._speak(self._seat.look)
        self._looked = time.monotonic()
        return found

    def sit(self) -> str | None:
        """Idle: what can start at once; else whatever is handed over later comes by the door."""
        return self._speak(self._seat.sit)

    def rise(self) -> str | None:
        """At work: what was handed over just before, if anything."""
        if not self._seat.sits:
            return None
        found = self._speak(self._seat.rise)
        self._seat.sits = False
        return found

    def show_life(self) -> None:
        """In the midst of a long job: this worker's crews live on."""
        self._speak(self._seat.rise)

    @property
    def away(self) -> bool:
        """Whether the ledger could not be reached just now, and is left alone for a while."""
        return time.monotonic() < self._away_until

    def leave(self, asked: float, error: BrokerError) -> None:
        """Leave the ledger alone for a while; ``asked``: when it was asked, in vain, by the monotonic clock."""
        self._seat.sits = False
        now = time.monotonic()
        seconds = min(max(_AWAY_SECONDS, 3 * (now - asked)), _AWAY_MOST_SECONDS)
        self._away_until = now + seconds
        self._log.warning("The ledger cannot be asked for jobs that wait; it is in %.0f s: %s", seconds, error)

    def _speak(self, word: Any) -> str | None:
        if self.away:
            return None
        asked = time.monotonic()
        try:
            return word()  # type: ignore[no-any-return]
        except BrokerError as error:
            self.leave(asked, error)
            return None

    def claim(self, lease_id: str) -> Handed | None:
        """What was handed to this worker; ``None`` if it moved on since."""
        try:
            return self._seat.claim(lease_id)
        except LeaseNotFound:
            return None
        except PoolUnavailable as error:
            self._log.warning("Lease %s cannot be claimed and moves on: %s", lease_id, error)
            return None

    def ask(self, job: Job, queue: str, request: GpuRequest, attempt: str) -> Lease | None:
        """The lease of a popped job, if it can start here and now; ``None``: it waits, or starts elsewhere.

        A lost reply finds the same name; the next attempt is another one, with a lease of its own.

        Raises:
            InsufficientMemory, ImpossibleRequest, InvalidRequest: refused. LeaseLost: granted, and over since.
            PoolUnavailable: ask again later.
        """
        request = sizing.resolved(self._broker, request, function_of(job))
        try:
            answer, asked = self._ask_once(job, queue, request, attempt)
        except ImpossibleRequest as refused:
            answer, asked = self._ask_once(job, queue, sizing.smaller(request, refused), attempt)
        if isinstance(answer, Waiting):
            self.handed, self._seat.sits = answer.handed, self._seat.sits and answer.handed is None
            return None
        self._seat.sits = False
        return Lease(self._broker, answer, asked)

    def _ask_once(self, job: Job, queue: str, request: GpuRequest, attempt: str) -> tuple[Granted | Waiting, float]:
        asking = request.ask(
            lease_name(job.id, attempt), job_id=job.id, function=function_of(job), crew=crew_name(queue),
            seat=self._seat.text if queue in self.crews else "", sits=self._seat.sits,
        )  # fmt: skip
        asked = time.monotonic()
        reply = self._broker.call("acquire", *asking.asking(asking.wait_seconds > 0))
        return answers.read_acquire(reply, asking), asked

    def withdraw(self, lease_id: str) -> None:
        """Leave nothing behind of a request: no waiter, no grant, no lease. Without Redis it ends by itself."""
        try:
            if self._broker.call("cancel", lease_id, "") == "claimed":
                held = self._broker.get(lease_id)
                if held is not None:
                    self._broker.release(held.id, held.token)
        except BrokerError as error:
            self._log.warning("Request %s ends by itself: %s", lease_id, error)


def crew_name(text: str) -> str:
    """A queue's or worker's name as the ledger may hold it; RQ lets it hold anything."""
    name = _NOT_A_NAME.sub("-", text)[:80]
    if name == text and name[:1].isalnum():
        return name
    return f"q{name}.{zlib.crc32(text.encode()):08x}"
