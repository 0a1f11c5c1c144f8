"""What the ledger gives to a holder, as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from broker.calls import Ask


class Claim(NamedTuple):
    """What a holder tells a ledger that lost its lease (law 11): the arguments of ``register.lua``."""

    argv: tuple[str | int, ...]

    @classmethod
    def of(cls, request: Ask, reply: Sequence[str]) -> Claim:
        """Of what was just granted."""
        _, asks, _, host, gpu, priority, tenant, owner, job_id, pid, _ = request.argv
        if request.options[::2] == ("nonce",):  # nothing else beside
            return cls((
                request.id, int(reply[1]), reply[2], int(reply[8]), request.ttl_ms, tenant, owner, pid, priority,
                job_id, 0, 0, "", f"{asks}|{host}|{gpu}|{priority}|{tenant}",
            ))  # fmt: skip
        given = dict(zip(request.options[::2], request.options[1::2], strict=True))
        shape = [asks, host, gpu, priority, tenant, *filter(None, [given.get("crew")])]
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


class Renewal(NamedTuple):
    """What a renewal brought, in ms of Redis's clock. ``revoke_at`` is 0 unless the lease was revoked (``reason``)."""

    expires_at: int
    revoke_at: int
    reason: str = ""


class Granted(NamedTuple):
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


class Waiting(NamedTuple):
    """The request stands in the queue; ``place`` 1 is next. 0: it was handed to another worker of its crew."""

    place: int
    #: A lease that was handed to the worker that asked, meanwhile.
    handed: str | None = None
