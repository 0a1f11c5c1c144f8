"""What the ledger's commands answered, read once for the sync and the async client. No input or output here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from broker.calls import Ask
from broker.errors import (
    ImpossibleRequest,
    InsufficientMemory,
    LeaseLost,
    LeaseNotFound,
    PoolUnavailable,
)
from broker.refusals import refusal
from broker.units import format_size


@dataclass(frozen=True, slots=True)
class Claim:
    """What a holder tells a ledger that lost its lease (law 11): the arguments of ``register.lua``."""

    argv: tuple[str | int, ...]

    @classmethod
    def of(cls, request: Ask, reply: Sequence[str]) -> Claim:
        """Of what was just granted."""
        given = dict(zip(request.options[::2], request.options[1::2], strict=True))
        _, _, _, host, gpu, priority, tenant, owner, job_id, pid, _ = request.argv
        shape = [request.argv[1], host, gpu, priority, tenant, *filter(None, [given.get("crew")])]
        selects = {name: given.get(name, "") for name in ("capability", "mig", "labels")}
        if selects["mig"] == "any":
            selects["mig"] = ""
        memory, cpus = given.get("host_memory", 0), given.get("cpus", 0)
        selector = ";".join(map(str, selects.values())) if any(selects.values()) else ""
        if selector or given.get("placement") or memory or cpus:
            shape += [given.get("placement", ""), selector, memory, cpus]
        return cls((
            request.id, int(reply[1]), reply[2], int(reply[8]), request.ttl_ms, tenant, owner, pid, priority, job_id,
            memory, cpus, given.get("function", ""), "|".join(map(str, shape)),
        ))  # fmt: skip

    def changed(self, *, memory_bytes: int | None = None, ttl_ms: int | None = None) -> Claim:
        """After a resize, or a renewal with another TTL."""
        argv = list(self.argv)
        argv[3] = argv[3] if memory_bytes is None else memory_bytes
        argv[4] = argv[4] if ttl_ms is None else ttl_ms
        return Claim(tuple(argv))


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a renewal brought, in ms of Redis's clock. ``revoke_at`` is 0 unless the lease was revoked (``reason``)."""

    expires_at: int
    revoke_at: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease as its holder was given it. Times in milliseconds of Redis's clock; ``left_ms`` when replying.

    ``memory_bytes`` are of each GPU; ``choice`` is the alternative that was granted, 1 the first. ``total_bytes``
    are the whole memory of each, 0 where it is not known.
    """

    id: str
    token: int
    gpu_uuids: tuple[str, ...]
    host: str
    memory_bytes: int
    ttl_ms: int
    expires_at: int
    waited_ms: int
    left_ms: int
    choice: int = 1
    claim: Claim | None = None
    total_bytes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """The request stands in the queue; ``place`` 1 is next. 0: it was handed to another worker of its crew."""

    place: int
    #: A lease that was handed to the worker that asked, meanwhile.
    handed: str | None = None


def read_granted(lease_id: str, reply: Sequence[str]) -> Granted:
    """A reply that begins with ``granted``."""
    return Granted(
        lease_id, int(reply[1]), tuple(reply[2].split(",")), reply[3], int(reply[8]), int(reply[6]), int(reply[4]),
        int(reply[5]), int(reply[7]), int(reply[9]), total_bytes=tuple(map(int, reply[10].split(","))),
    )  # fmt: skip


def read_acquire(reply: Sequence[str], request: Ask) -> Granted | Waiting:
    """What ``acquire.lua`` answered.

    Raises:
        InsufficientMemory: no room now, or the queue is full.
        ImpossibleRequest: no known GPU could ever hold it.
    """
    if reply[0] == "granted":
        return replace(read_granted(request.id, reply), claim=Claim.of(request, reply))
    if reply[0] == "waiting":
        return Waiting(int(reply[1]), reply[2] or None)
    raise refusal(reply, request)


def read_registered(reply: Sequence[str], claim: Claim) -> int:
    """The lease's end, from what ``register.lua`` answered.

    Raises:
        PoolUnavailable: its GPU is not known yet; ask again. LeaseLost: the ledger will not have it back.
    """
    if reply[0] == "registered":
        return int(reply[1])
    if reply[0] == "unknown":
        raise PoolUnavailable("the ledger lost its data and does not know the lease's GPU yet; ask again in a moment")
    raise LeaseLost(
        f"lease {claim.argv[0]} is over (the ledger lost it, and {reply[1]}); stop using its memory and acquire again"
    )


def read_resize(reply: Sequence[str], lease_id: str, memory_bytes: int) -> int | Waiting:
    """The bytes that a lease has of each GPU now, or its place in the queue.

    Raises:
        InsufficientMemory: no room to grow. ImpossibleRequest: its GPU is not so large.
    """
    asked = format_size(memory_bytes)
    if reply[0] == "resized":
        return int(reply[1])
    if reply[0] == "waiting":
        return Waiting(int(reply[1]))
    if reply[0] == "impossible":
        raise ImpossibleRequest(
            f"lease {lease_id} can never have {asked}: its GPU's budget is {format_size(int(reply[1]))}; ask for less"
        )
    if reply[0] == "full":
        raise InsufficientMemory(f"lease {lease_id} cannot wait for {asked}: {reply[1]} requests wait; try again later")
    raise InsufficientMemory(
        f"no room for lease {lease_id} to have {asked}: beyond what it has, its GPU has {format_size(int(reply[1]))}"
        " free; wait longer or ask for less"
    )


def read_revoke(reply: Sequence[str], lease_id: str) -> int:
    """The deadline of a revoked lease in ms.

    Raises:
        LeaseNotFound: there is no such lease. LeaseLost: it is over already.
    """
    if reply[0] == "revoked":
        return int(reply[1])
    if reply[0] == "gone":
        raise LeaseLost(f"lease {lease_id} is over already; its bytes come back when its process is seen gone")
    raise LeaseNotFound(f"the ledger holds no lease {lease_id}; see `gpubroker leases`")


def read_adopt(reply: Sequence[str], request: Sequence[str | int]) -> Granted:
    """What ``adopt.lua`` answered.

    Raises:
        LeaseNotFound: no agent has seen the process. InsufficientMemory: no room beyond what it has.
    """
    name, pid, memory, _, host = request[:5]
    if reply[0] == "granted":
        return read_granted(str(name), reply)
    if reply[0] == "unknown":
        raise LeaseNotFound(
            f"no agent has seen process {pid} on a GPU of host {host}: is it running there, and has an interval passed?"
        )
    raise InsufficientMemory(
        f"no room for process {pid} to have {format_size(int(memory))}: with what it has, {format_size(int(reply[1]))}"
        " would be its; ask for less"
    )
