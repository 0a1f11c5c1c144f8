"""Workers and the jobs that they start: who sits idle where, and what is handed to whom.

A request of a crew (the workers of one queue) is granted only where one of them sits idle, and to that one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from broker import answers
from broker.calls import check_name
from broker.errors import InvalidRequest
from broker.granted import Claim
from broker.lease import Lease

if TYPE_CHECKING:
    from broker.client import Broker

#: Seconds for which an idle worker keeps its seat, and any worker counts as living, without another word.
SEAT_SECONDS, LIFE_SECONDS = 15.0, 120.0


@dataclass(frozen=True, slots=True)
class Handed:
    """A lease that was handed to a worker: for which crew and, as the ledger has it, which job."""

    lease: Lease
    crew: str
    job_id: str


class Seat:
    """One worker, as the ledger knows it: where it runs and which queues it serves."""

    def __init__(self, broker: Broker, worker: str, host: str, queues: Sequence[str]) -> None:
        """Say nothing yet.

        Raises:
            InvalidRequest: a name is not allowed, or there are not 1 to 16 queues.
        """
        if not 1 <= len(queues) <= 16:
            raise InvalidRequest("queues", ",".join(queues), "1 to 16 queues")
        self._broker = broker
        self.worker = check_name("worker", worker)
        self.host = check_name("host", host)
        self._queues = ",".join(check_name("queue", queue) for queue in queues)
        #: Whether the ledger may hand it something at any moment.
        self.sits = False

    @property
    def text(self) -> str:
        """As the ledger writes it."""
        return f"{self.host} {self.worker} {self._queues}"

    @property
    def wake_key(self) -> str:
        """The list on which it is told of what was handed to it."""
        return self._broker.keys.wake_of(self.worker)

    def sit(self) -> str | None:
        """Wait for a job from now on. What is handed to it at once, as a lease's id."""
        found = self._attend("sit")
        self.sits = found is None
        return found

    def look(self) -> str | None:
        """Between two jobs: the first request that can start here now, as a lease's id."""
        return self._attend("look")

    def rise(self) -> str | None:
        """Wait no more. What was handed to it meanwhile, as a lease's id."""
        self.sits = False
        return self._attend("away")

    def _attend(self, does: Literal["sit", "look", "away"]) -> str | None:
        seat_ms, life_ms = round(SEAT_SECONDS * 1000), round(LIFE_SECONDS * 1000)
        reply = self._broker.call("attend", self.worker, self.host, self._queues, does, seat_ms, life_ms)
        return str(reply[1]) if reply[0] == "given" else None

    def claim(self, lease_id: str) -> Handed:
        """Take what was handed to this worker.

        Raises:
            LeaseNotFound: the grant ran out or was taken back.
        """
        asked = time.monotonic()
        reply = self._broker.call("claim", lease_id, self.worker)
        granted = answers.read_granted(lease_id, reply)
        crew, job_id, tenant, owner, pid, priority, memory, cpus, function, request = reply[11:21]
        claim = Claim((
            lease_id, granted.token, ",".join(granted.gpu_uuids), granted.memory_bytes, granted.ttl_ms, tenant, owner,
            pid, priority, job_id, int(memory or 0), int(cpus or 0), function, request,
        ))  # fmt: skip
        return Handed(Lease(self._broker, granted._replace(claim=claim), asked), crew, job_id)
