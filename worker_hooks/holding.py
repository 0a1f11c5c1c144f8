"""The lease that this process works under, renewed by somebody else: the worker that forked it, or a keeper."""

from __future__ import annotations

import os
import time
from functools import cached_property
from typing import TYPE_CHECKING

import redis

from broker import tracing
from broker.errors import BrokerError
from broker.granted import Granted
from broker.lease import Lease, LeaseFacts
from worker_hooks import environment

if TYPE_CHECKING:
    from rq.job import Job

    from broker.client import Broker

#: What the ledger said is good for that long: a tight loop may ask as often as it likes.
FRESH_SECONDS = 0.5


class JobLease(Lease):
    """A job's own view of its lease, through this process's broker. It is renewed and returned from outside the job."""

    def __init__(self, granted: Granted) -> None:
        """View what was granted. Looks for its broker when it is first asked something."""
        LeaseFacts.__init__(self, granted)
        self._asked_ledger_at = self._heard_at = time.monotonic()

    @cached_property
    def _broker(self) -> Broker:  # type: ignore[override]
        from broker.client import get_broker  # most jobs never ask, and a spawned one would import it anew

        return get_broker()

    @property
    def lost(self) -> bool:
        """Whether the ledger says that the lease is over, or has said nothing for a whole TTL.

        Asked at most twice a second.
        """
        now = time.monotonic()
        if not self._lost and now - self._asked_ledger_at >= FRESH_SECONDS:
            self._asked_ledger_at = now
            self._lost = self._is_over(now)
        return self._lost

    def mark_lost(self) -> None:
        """The keeper heard that it is over."""
        self._lost = True

    def _is_over(self, asked: float) -> bool:
        """The ledger's word; from one that cannot be reached, nobody can have renewed the lease either."""
        from broker.calls import epoch_of

        try:
            token, state = self._broker.redis.hmget(self._broker.keys.lease(self.id), "token", "state")
            forgotten = token is None and self._broker.epoch() > epoch_of(self.token)
        except (redis.RedisError, BrokerError):
            forgotten = True
        if forgotten:  # a ledger that lost its data: who renews the lease tells it; until then its time runs on
            return self.ttl_ms > 0 and time.monotonic() - self._heard_at > self.ttl_ms / 1000
        self._heard_at = asked
        return token != str(self.token) or state == "reclaiming"

    def resize(self, memory: int | str, wait: float = 0) -> int:
        """As ``Lease.resize``; and this process's caps follow, but for TensorFlow's: it cannot, once it began."""
        held = super().resize(memory, wait)
        if os.environ.get("GPUBROKER_LEASE_ID") == self.id:
            environment.enter(self)
        return held

    def release(self) -> bool:
        """Refused: a job's lease is returned at the job's end, by who renews it.

        Raises:
            BrokerError: always.
        """
        raise BrokerError(f"lease {self.id} is its job's: it is returned when the job ends")


_held: JobLease | None = None


def current() -> JobLease | None:
    """The lease of the job that runs in this process, or of the job that started this process; ``None`` outside.

    The environment says which, so that a job's own child processes find it too.
    """
    global _held
    lease_id, token = os.environ.get("GPUBROKER_LEASE_ID"), os.environ.get("GPUBROKER_LEASE_TOKEN", "")
    if not lease_id or not token.isdecimal():
        return None
    if _held is None or (_held.id, _held.token) != (lease_id, int(token)):
        uuids = tuple(os.environ.get("GPUBROKER_GPU_UUIDS", "").split(","))
        host, memory = os.environ.get("GPUBROKER_HOST", ""), os.environ.get("GPUBROKER_MEMORY_BYTES", "")
        totals = os.environ.get("GPUBROKER_MEMORY_TOTAL_BYTES", "").split(",")
        total_bytes = tuple(map(int, totals)) if all(total.isdecimal() for total in totals) else ()
        bytes_each = int(memory) if memory.isdecimal() else 0
        granted = Granted(lease_id, int(token), uuids, host, bytes_each, 0, 0, 0, 0, total_bytes=total_bytes)
        _held = JobLease(granted)
    return _held


def hold(lease: JobLease) -> None:
    """Answer with this view of the lease that the environment names."""
    global _held
    _held = lease


def granted_of(lease: Lease) -> Granted:
    """What was granted, for another view of the same lease."""
    return Granted(
        lease.id, lease.token, lease.gpu_uuids, lease.host, lease.memory_bytes, lease.ttl_ms, lease.expires_at,
        lease.waited_ms, lease.ttl_ms, total_bytes=lease.memory_total_bytes,
    )  # fmt: skip


def note(job: Job, lease: Lease) -> None:
    """Write into ``job.meta["gpu"]`` what the job got."""
    asked = job.meta.get("gpu", {})
    job.meta["gpu"] = {
        **asked,
        **({"memory_bytes": lease.memory_bytes} if asked.get("memory") == "auto" else {}),
        "lease_id": lease.id,
        "gpu_uuids": list(lease.gpu_uuids),
        "host": lease.host,
        "waited_ms": lease.waited_ms,
        **tracing.held(lease),
    }
