"""A lease in its holder's hands: renew, release, the environment for a job, and whether it is lost."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from broker.errors import BrokerError, LeaseLost, LeaseNotFound, PoolUnavailable, StaleToken
from broker.units import MIB

if TYPE_CHECKING:
    from broker.aio import AsyncBroker
    from broker.calls import Granted
    from broker.client import Broker

#: What the CUDA context and the driver take of a process's share before its first tensor; 300 to 500 MB were seen.
CONTEXT_BYTES = 500 * MIB


class LeaseFacts:
    """What a lease is, whoever waits for the replies. Bytes; times in milliseconds of Redis's clock."""

    def __init__(self, granted: Granted, asked: float | None = None) -> None:
        """Hold what the ledger granted. ``asked``: this process's monotonic clock before it asked, unless just now."""
        self.id = granted.id
        self.token = granted.token
        self.gpu_uuids = granted.gpu_uuids
        self.host = granted.host
        self.memory_bytes = granted.memory_bytes
        self.ttl_ms = granted.ttl_ms
        self.expires_at = granted.expires_at
        self.waited_ms = granted.waited_ms
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
    def lost(self) -> bool:
        """Whether the holder must stop: the ledger said so, or no renewal came through for a whole TTL.

        The second half is measured by this process's monotonic clock, so that a holder cut off from Redis
        knows by itself.
        """
        return not self._released and (
            self._lost or (self.ttl_ms > 0 and time.monotonic() - self._confirmed > self.ttl_ms / 1000)
        )

    def env(self) -> dict[str, str]:
        """The environment for the process that uses the memory: its device by UUID, its caps, and the lease's name.

        The caps leave room for the CUDA context, which comes on top of what a framework allocates.
        """
        uuids = ",".join(self.gpu_uuids)
        cap = max(1, self.memory_bytes - CONTEXT_BYTES) if self.memory_bytes > 2 * CONTEXT_BYTES else self.memory_bytes
        return {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": uuids,
            "NVIDIA_VISIBLE_DEVICES": uuids,
            "CUPY_GPU_MEMORY_LIMIT": str(cap),
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
            "GPUBROKER_LEASE_ID": self.id,
            "GPUBROKER_LEASE_TOKEN": str(self.token),
            "GPUBROKER_GPU_UUIDS": uuids,
            "GPUBROKER_HOST": self.host,
            "GPUBROKER_MEMORY_BYTES": str(self.memory_bytes),
        }

    def _asked(self) -> float:
        """The moment from which a renewal's TTL counts for the holder: before it was sent, to be safe."""
        return time.monotonic()

    def _renewed(self, asked: float, expires_at: int) -> None:
        self._confirmed = asked
        self.expires_at = expires_at

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

        Raises:
            LeaseLost: its time was over before. StaleToken: another holds it. LeaseNotFound: the ledger forgot it.
            PoolUnavailable: Redis cannot be reached; the lease lives on until its end.
        """
        asked = self._asked()
        try:
            self._renewed(asked, self._broker.renew(self.id, self.token, ttl))
        except BrokerError as error:
            self._failed(error)
            raise
        if ttl is not None:
            self.ttl_ms = round(ttl * 1000)
        return self.expires_at

    def release(self) -> bool:
        """End the lease and give its bytes back. True if it was still ours; False if its time had passed.

        Raises:
            LeaseLost, StaleToken, LeaseNotFound: it was not ours any more; nothing was changed.
            PoolUnavailable: Redis cannot be reached; the lease ends by its TTL.
        """
        try:
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
            self._renewed(asked, await self._broker.renew(self.id, self.token, ttl))
        except BrokerError as error:
            self._failed(error)
            raise
        if ttl is not None:
            self.ttl_ms = round(ttl * 1000)
        return self.expires_at

    async def release(self) -> bool:
        """As ``Lease.release``."""
        try:
            in_time = await self._broker.release(self.id, self.token)
        except BrokerError as error:
            self._failed(error)
            raise
        self._released = True
        return in_time


class Renewer:
    """Renews a lease from a thread, three times a TTL, until stopped or lost.

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
        while not self._stop.wait(self._lease.ttl_ms / 3000):
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
