"""What the ledger's commands answered, read once for the sync and the async client. No input or output here."""

from __future__ import annotations

from collections.abc import Sequence

from broker.calls import Ask
from broker.errors import (
    ImpossibleRequest,
    InsufficientMemory,
    LeaseLost,
    LeaseNotFound,
    PoolUnavailable,
)
from broker.granted import Claim, Granted, Waiting
from broker.refusals import refusal
from broker.units import format_size


def read_granted(lease_id: str, reply: Sequence[str], claim: Claim | None = None) -> Granted:
    """A reply that begins with ``granted``."""
    return Granted(
        lease_id, int(reply[1]), tuple(reply[2].split(",")), reply[3], int(reply[8]), int(reply[6]), int(reply[4]),
        int(reply[5]), int(reply[7]), int(reply[9]), claim, tuple(map(int, reply[10].split(","))),
    )  # fmt: skip


def read_acquire(reply: Sequence[str], request: Ask) -> Granted | Waiting:
    """What ``acquire.lua`` answered.

    Raises:
        InsufficientMemory: no room now, or the queue is full.
        ImpossibleRequest: no known GPU could ever hold it.
    """
    if reply[0] == "granted":
        return read_granted(request.id, reply, Claim.of(request, reply))
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
