"""What a pool is made of, as plain Python values. Sizes are bytes, times milliseconds of the ledger's clock."""

from __future__ import annotations

from dataclasses import dataclass, field

#: States in which a card lends.
LENDS = frozenset({"OPTIMAL", "NORMAL", "THROTTLED"})


@dataclass(frozen=True, slots=True)
class Want:
    """One alternative: so many bytes of each of so many cards."""

    count: int
    size: int

    def __str__(self) -> str:
        """As ``acquire.lua`` takes it."""
        return str(self.size) if self.count == 1 else f"{self.count}x{self.size}"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. One that ``grows`` a lease wants its bytes of each of ``own_cards``."""

    id: str
    wants: tuple[Want, ...]
    ttl: int = 0
    host: str = ""
    gpu: str = ""
    priority: int = 0
    tenant: str = "default"
    placement: str = ""
    labels: str = ""
    capability: str = ""
    mig: str = ""
    host_memory: int = 0
    cpus: int = 0
    nonce: str = ""
    grows: str = ""
    own_cards: tuple[str, ...] = ()

    @property
    def same_as(self) -> tuple[object, ...]:
        """What another asking under the same name must repeat."""
        place = (self.host, self.gpu, self.placement, self.labels, self.capability, self.mig)
        return self.wants, self.priority, self.tenant, *place, self.host_memory, self.cpus

    @property
    def plain(self) -> bool:
        """Whether cards of every class will do."""
        return not (self.labels or self.capability or self.mig)

    @property
    def least(self) -> int:
        """The fewest bytes of one card that would do."""
        return min(want.size for want in self.wants)


@dataclass(slots=True)
class Card:
    """One GPU as its agent last told. ``processes`` are strangers by pid, with the bytes they use."""

    uuid: str
    host: str
    capacity: int = 0
    budget: int = 0
    unmanaged: int | None = None
    state: str = "UNAVAILABLE"
    fresh_until: int = 0
    drained_by: set[str] = field(default_factory=set)
    left: bool = False
    capability: str = ""
    mig: str = ""
    labels: str = ""
    processes: dict[int, int] = field(default_factory=dict)
    kept_for: str = ""
    kept_bytes: int = 0
    total: int = 0


@dataclass(slots=True)
class Host:
    """A machine; ``memory`` and ``cpus`` are 0 where it did not tell."""

    name: str
    joined: bool = False
    drained: bool = False
    gpus: list[str] = field(default_factory=list)
    memory: int = 0
    cpus: int = 0
    life: str = ""
    lives: list[str] = field(default_factory=list)
    sequence: int = 0
    epoch: int = 0
    kept_for: str = ""
    kept_memory: int = 0
    kept_cpus: int = 0


@dataclass(slots=True)
class Lease:
    """What is held. ``ends`` is the deadline that counts in its state; ``ask`` is what it was asked for as."""

    id: str
    token: int
    cards: tuple[str, ...]
    host: str
    size: int
    tenant: str
    priority: int
    ttl: int
    ends: int
    created: int
    state: str = "active"
    nonce: str = ""
    ask: Ask | None = None
    host_memory: int = 0
    cpus: int = 0
    revoke_at: int = 0
    seen_until: int = 0
    adopted: str = ""
    waited: int = 0
    choice: int = 1
    calls: list[str] = field(default_factory=list)
    reason: str = ""

    @property
    def total(self) -> int:
        """Bytes over all its cards."""
        return self.size * len(self.cards)


@dataclass(slots=True)
class Waiter:
    """A queued request. ``order``: the smaller comes first."""

    ask: Ask
    order: tuple[int, int]
    since: int
    deadline: int = 0
    passed: int = 0
    kept: tuple[str, ...] = ()
    kept_host: str = ""


@dataclass(slots=True)
class Tombstone:
    """How a lease of that name ended, token 0 if there was none, and the last call that was refused one; ``until`` by
    Redis's own clock."""

    token: int
    how: str
    nonce: str
    until: int
    refused: str = ""


@dataclass(slots=True)
class Tenant:
    """Quota in bytes (0 none), weight in thousandths, and MiB-seconds used by ``usage_at``, older ones for less."""

    quota: int = 0
    weight: int = 1000
    usage: float = 0.0
    usage_at: int = 0
