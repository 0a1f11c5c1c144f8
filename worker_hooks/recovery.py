"""Jobs whose worker died: found by their lease, long before RQ would look.

RQ finds a job of a killed worker after 90 s of silence, at its next maintenance (10 minutes). The ledger knows sooner:
the job's lease was not renewed and its time is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rq.job import parse_job_id
from rq.utils import as_text

from worker_hooks.request import lease_name

if TYPE_CHECKING:
    from rq.queue import Queue

    from broker.client import Broker

#: Entries looked at: those heard of least lately, and so the dead ones, come first.
_LOOK_AT = 100
#: A score in the past of any clock: RQ's own clean-up takes the entry for abandoned.
_LONG_AGO = 1


def recover_abandoned(queue: Queue, broker: Broker) -> int:
    """Have RQ clean up after jobs of this queue whose lease ended by its time: retried if they may be, else failed.

    Safe to call from many workers at once: an entry is taken by the first. Returns how many were found.
    """
    registry, connection = queue.started_job_registry, queue.connection
    raw: Any = connection.zrange(registry.key, 0, _LOOK_AT - 1)
    entries = [as_text(entry) for entry in raw]
    leases = {lease_name(parse_job_id(entry), entry.rpartition(":")[2]): entry for entry in entries}
    found = 0
    for name in broker.expired(list(leases)):
        found += int(connection.zadd(registry.key, {leases[name]: _LONG_AGO}, xx=True, ch=True) or 0)
    if found:
        registry.cleanup()
    return found
