"""What the ledger's commands answered, read once for the sync and the async client. No input or output here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from broker.calls import Ask
from broker.errors import (
    BrokerError,
    ImpossibleRequest,
    InsufficientMemory,
    InvalidRequest,
    LeaseConflict,
    LeaseLost,
    LeaseNotFound,
    PoolUnavailable,
    StaleToken,
)
from broker.units import format_size

_ERROR = re.compile(r"BROKER_(?P<word>[A-Z_]+) (?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a holder tells a ledger that lost its lease (law 11): the arguments of ``register.lua``."""

    argv: tuple[str | int, ...]

    @classmethod
    def of(cls, request: Ask, reply: Sequence[str]) -> Claim:
        """Of what was just granted."""
        given = dict(zip(request.options[::2], request.options[1::2], strict=True))
        _, _, _, host, gpu, priority, tenant, owner, job_id, pid, _ = request.argv
        shape = [request.argv[1], host, gpu, priority, tenant]
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
    """What a renewal brought, in ms of Redis's clock. ``revoke_at`` is 0 unless the lease was revoked."""

    expires_at: int
    revoke_at: int


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease as its holder was given it. Times in milliseconds of Redis's clock; ``left_ms`` when replying.

    ``memory_bytes`` are of each GPU; ``choice`` is the alternative that was granted, 1 the first.
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


@dataclass(frozen=True, slots=True)
class Waiting:
    """The request stands in the queue; ``place`` 1 is next."""

    place: int


def read_granted(lease_id: str, reply: Sequence[str]) -> Granted:
    """A reply that begins with ``granted``."""
    return Granted(
        lease_id, int(reply[1]), tuple(reply[2].split(",")), reply[3], int(reply[8]), int(reply[6]), int(reply[4]),
        int(reply[5]), int(reply[7]), int(reply[9]),
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
        return Waiting(int(reply[1]))
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


def refusal(reply: Sequence[str], request: Ask) -> BrokerError:
    """What a refusal means, in words and numbers."""
    asked, where = " or ".join(want.words for want in request.wants), _selector(request)
    if reply[0] == "impossible":
        return ImpossibleRequest(f"{asked} can never fit: {_never(reply, request, where)}; ask for less")
    if reply[0] == "full":
        return InsufficientMemory(f"{asked} cannot wait: {reply[1]} requests wait already; try again later")
    return InsufficientMemory(f"no room for {asked}: {_not_now(reply, request, where)}; wait longer or ask for less")


def _never(reply: Sequence[str], request: Ask, where: str) -> str:
    if reply[2] == "quota":
        return f"it is more than the quota of tenant {request.argv[6]}"
    if reply[2] == "host":
        return f"host {request.argv[3]} has not got so much memory or so many processors"
    return f"the largest budget of any GPU{where} is {format_size(int(reply[1]))}"


def _not_now(reply: Sequence[str], request: Ask, where: str) -> str:
    if reply[4] == "settling":
        return "the ledger lost data a moment ago, and its holders are given time to register what they hold"
    if reply[4] == "quota":
        return f"tenant {request.argv[6]} has its quota lent"
    if reply[3] == "0":
        return f"no GPU{where} that is open for grants has any; see `gpubroker status`"
    free = int(reply[1])
    kept = ""
    if free >= min(want.memory_bytes for want in request.wants):
        several = any(want.count > 1 for want in request.wants) or "host_memory" in request.options
        kept = "; its host has not got the rest" if several or "cpus" in request.options else "; it is kept for others"
    return f"the most that is free on one GPU{where} is {format_size(free)}{kept}"


def _selector(request: Ask) -> str:
    host, gpu = request.argv[3], request.argv[4]
    by_class = " of the class asked for" if {"labels", "capability", "mig"} & set(map(str, request.options)) else ""
    return (f" {gpu}" if gpu else "") + (f" on host {host}" if host else "") + by_class


_ERRORS: dict[str, tuple[type[BrokerError], str]] = {
    "LEASE_CONFLICT": (LeaseConflict, "the name is taken by another request ({rest}); choose another lease_id"),
    "LEASE_NOT_FOUND": (LeaseNotFound, "the ledger holds no such lease ({rest}); acquire it first"),
    "STALE_TOKEN": (StaleToken, "the lease has another holder now ({rest}); stop using its memory"),
    "LEASE_LOST": (LeaseLost, "the lease is over ({rest}); stop using its memory and acquire again under a new name"),
}
_INVALID = re.compile(r"field=(?P<field>\S*) value=(?P<value>.*?) allowed=(?P<allowed>.*)", re.DOTALL)


def broker_error(message: str) -> BrokerError | None:
    """The exception that an error reply of a script means; ``None`` if it is not one of ours."""
    found = _ERROR.match(message)
    if not found:
        return None
    if found["word"] == "INVALID" and (parts := _INVALID.match(found["rest"])):
        return InvalidRequest(parts["field"], parts["value"], parts["allowed"])
    kind, text = _ERRORS.get(found["word"], (BrokerError, "{rest}"))
    return kind(text.format(rest=found["rest"]))
