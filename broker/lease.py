"""A lease in its holder's hands: renew, release, the environment for a job, and whether it is lost."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from broker import caps, tracing
from broker.errors import BrokerError, LeaseLost, LeaseNotFound, PoolUnavailable, StaleToken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span

    from broker.aio import AsyncBroker
    from broker.client import Broker
    from broker.granted import Claim, Granted, Renewal

#: The longest time between two renewals that a holder's helper leaves.
RENEWAL_MOST_SECONDS = 5.0


class LeaseFacts:
    """What a lease is, whoever waits for the replies. Times in milliseconds of Redis's clock.

    ``memory_bytes`` are of each of its GPUs.
    """

    def __init__(self, granted: Granted, asked: float | None = None) -> None:
        """Hold what the ledger granted. ``asked``: this process's monotonic clock before it asked, unless just now."""
        self.id = granted.id
        self.token = granted.token
        self.gpu_uuids = granted.gpu_uuids
        self.host = granted.host
        self.memory_bytes = granted.memory_bytes
        #: The whole memory of each of its GPUs, in the order of ``gpu_uuids``; 0 where it is not known.
        self.memory_total_bytes = granted.total_bytes or (0,) * len(granted.gpu_uuids)
        self.ttl_ms = granted.ttl_ms
        self.expires_at = granted.expires_at
        self.waited_ms = granted.waited_ms
        #: Which alternative of the request was granted, 1 the first.
        self.choice = granted.choice
        #: What the ledger is told if it lost this lease (law 11); ``None`` where it is not known.
        self.claim = granted.claim
        #: By when the holder was asked to end the lease, in ms of Redis's clock; ``None`` unless it was revoked.
        self.revoke_at: int | None = None
        #: What the holder was told of why; empty unless the lease was revoked.
        self.revoke_reason = ""
        #: Of its time, where somebody traces it.
        self.span: Span | None = None
        self._lost = False
        self._released = False
        # Its time counts from before the question, and from the grant if that was earlier: a replay is old news.
        begun = time.monotonic() if asked is None else asked
        self._confirmed = begun - (granted.ttl_ms - granted.left_ms) / 1000

    @property
    def gpus(self) -> int:
        """How many GPUs the lease spans."""
        return len(self.gpu_uuids)

    @property
    def confirmed_at(self) -> float:
        """The monotonic clock at the last asking after which the ledger said that the lease is ours."""
        return self._confirmed

    @property
    def lost(self) -> bool:
        """Whether the holder must stop: the ledger said so, or no renewal came through for a whole TTL.

        The second half is measured by this process's monotonic clock, so that a holder cut off from Redis
        knows by itself.
        """
        return not self._released and (
            self._lost or (self.ttl_ms > 0 and time.monotonic() - self._confirmed > self.ttl_ms / 1000)
        )

    def env(self, given: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment for the process that uses the memory: its devices by UUID, its caps, and the lease's name.

        It is laid over ``given``, this process's own environment without it: caps that the user set himself stay where
        they are smaller. They leave room for the CUDA context, which comes on top of what a framework allocates. See
        ``docs/environment.md``.
        """
        uuids = ",".join(self.gpu_uuids)
        return {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": uuids,
            "NVIDIA_VISIBLE_DEVICES": uuids,
            **caps.variables(self.memory_bytes, self.memory_total_bytes, os.environ if given is None else given),
            "GPUBROKER_LEASE_ID": self.id,
            "GPUBROKER_LEASE_TOKEN": str(self.token),
            "GPUBROKER_GPU_UUIDS": uuids,
            "GPUBROKER_HOST": self.host,
            "GPUBROKER_MEMORY_BYTES": str(self.memory_bytes),
            "GPUBROKER_MEMORY_TOTAL_BYTES": ",".join(map(str, self.memory_total_bytes)),
        }

    def _asked(self) -> float:
        """The moment from which a renewal's TTL counts for the holder: before it was sent, to be safe."""
        return time.monotonic()

    def _renewed(self, asked: float, renewal: Renewal, ttl: float | None) -> int:
        self._confirmed = asked
        self.expires_at, self.revoke_at = renewal.expires_at, renewal.revoke_at or None
        self.revoke_reason = renewal.reason
        if ttl is not None:
            self._resized(claim=None if self.claim is None else self.claim.changed(ttl_ms=round(ttl * 1000)))
            self.ttl_ms = round(ttl * 1000)
        return self.expires_at

    def _resized(self, *, memory_bytes: int | None = None, claim: Claim | None = None) -> None:
        if memory_bytes is not None:
            self.memory_bytes = memory_bytes
            claim = None if self.claim is None else self.claim.changed(memory_bytes=memory_bytes)
        self.claim = claim

    def _failed(self, error: BrokerError) -> None:
        if isinstance(error, (LeaseLost, StaleToken, LeaseNotFound)):
            self._lost = True

    def __repr__(self) -> str:
        """Name, GPU and token: what a log line needs."""
        where = ",".join(self.gpu_uuids)
        return f"<{type(self).__name__} {self.id} {self.memory_bytes} bytes on {where} token {self.token}>"


class Lease(LeaseFacts):
    """A lease held through a ``Broker``."""

    def __init__(self, broker: Broker, granted: Granted, asked: float | None = None) -> None:
        """Bind what was granted to the broker that granted it."""
        super().__init__(granted, asked)
        self._broker = broker

    def renew(self, ttl: float | None = None) -> int:
        """Put the end off to one TTL from now; ``ttl`` in seconds changes it for good. Returns the new end in ms.

        A revoked lease is put off to its deadline at most, see ``revoke_at``. A ledger that lost it is told of it.

        Raises:
            LeaseLost: its time was over before. StaleToken: another holds it. LeaseNotFound: the ledger forgot it.
            PoolUnavailable: Redis cannot be reached; the lease lives on until its end.
        """
        asked = self._asked()
        try:
            return self._renewed(asked, self._broker.prolong(self.id, self.token, ttl, self.claim), ttl)
        except BrokerError as error:
            self._failed(error)
            raise

    def started(self, pid: int, pid_started: str = "") -> int:
        """The start gate: check the token once more, and tell whose memory it will be. Returns the new end in ms.

        ``pid_started`` says when the process began (``broker.process.began``), since its pid may be another's one day.

        Raises:
            LeaseLost, StaleToken, LeaseNotFound: it is not ours any more: nothing may start. PoolUnavailable.
        """
        try:
            return self._broker.check(self.id, self.token, pid, pid_started)
        except BrokerError as error:
            self._failed(error)
            raise

    def resize(self, memory: int | str, wait: float = 0) -> int:
        """Have ``memory`` of each GPU from now on; growing waits up to ``wait`` seconds. Returns the bytes it has.

        Raises:
            InsufficientMemory: no room to grow before ``wait`` ran out; it keeps what it had. ImpossibleRequest.
            LeaseLost, StaleToken, LeaseNotFound: it is not ours any more. PoolUnavailable.
        """
        try:
            self._resized(memory_bytes=self._broker.resize(self.id, self.token, memory, wait))
        except BrokerError as error:
            self._failed(error)
            raise
        return self.memory_bytes

    def release(self) -> bool:
        """End the lease and give its bytes back. True if it was still ours; False if its time had passed.

        Raises:
            LeaseLost, StaleToken, LeaseNotFound: it was not ours any more; nothing was changed.
            PoolUnavailable: Redis cannot be reached; the lease ends by its TTL.
        """
        try:
            with tracing.releasing(self):
                in_time = self._broker.release(self.id, self.token)
        except BrokerError as error:
            self._failed(error)
            raise
        self._released = True
        return in_time


class AsyncLease(LeaseFacts):
    """A lease held through an ``AsyncBroker``: the same names, awaited."""

    def __init__(self, broker: AsyncBroker, granted: Granted, asked: float | None = None) -> None:
        """Bind what was granted to the broker that granted it."""
        super().__init__(granted, asked)
        self._broker = broker

    async def renew(self, ttl: float | None = None) -> int:
        """As ``Lease.renew``."""
        asked = self._asked()
        try:
            return self._renewed(asked, await self._broker.prolong(self.id, self.token, ttl, self.claim), ttl)
        except BrokerError as error:
            self._failed(error)
            raise

    async def started(self, pid: int, pid_started: str = "") -> int:
        """As ``Lease.started``."""
        try:
            return await self._broker.check(self.id, self.token, pid, pid_started)
        except BrokerError as error:
            self._failed(error)
            raise

    async def resize(self, memory: int | str, wait: float = 0) -> int:
        """As ``Lease.resize``."""
        try:
            self._resized(memory_bytes=await self._broker.resize(self.id, self.token, memory, wait))
        except BrokerError as error:
            self._failed(error)
            raise
        return self.memory_bytes

    async def release(self) -> bool:
        """As ``Lease.release``."""
        try:
            with tracing.releasing(self):
                in_time = await self._broker.release(self.id, self.token)
        except BrokerError as error:
            self._failed(error)
            raise
        self._released = True
        return in_time


class Renewer:
    """Renews a lease from a thread, three times a TTL and every five seconds at least, until stopped or lost.

    Seldom would do for the TTL; but a revocation, and a ledger that lost its data, want to be heard of soon.

    Note: code that holds the GIL longer than the TTL starves a thread; jobs are renewed from another process, by
    ``worker_hooks``.
    """

    def __init__(self, lease: Lease) -> None:
        """Start renewing."""
        self._lease = lease
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"renew-{lease.id}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(min(self._lease.ttl_ms / 3000, RENEWAL_MOST_SECONDS)):
            try:
                self._lease.renew()
            except PoolUnavailable:
                continue  # the lease lives on until its end, and `lost` says when that is
            except BrokerError:
                return

    def stop(self) -> None:
        """Stop, and wait for a renewal that is under way."""
        self._stop.set()
        self._thread.join(timeout=30)
