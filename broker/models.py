"""What crosses a border between ledger, agent, worker and people: checked once, here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from broker.units import format_size
from broker.values import GpuReport, HeldLease, State, Throttle

__all__ = [
    "Event",
    "FunctionAccount",
    "Gpu",
    "GpuReport",
    "HeldLease",
    "Host",
    "LeaseRecord",
    "Record",
    "Sample",
    "State",
    "Tenant",
    "Throttle",
    "Waiter",
]


class Record(BaseModel):
    """A hash of the ledger with types. Unknown fields are kept out, absent ones are ``None``: unknown is never 0."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def from_hash(cls, fields: Mapping[str, str]) -> Self:
        """The record of a hash as Redis returns it; an empty text is an absent value."""
        return cls.model_validate({name: value for name, value in fields.items() if value != ""})


class Gpu(Record):
    """One GPU as the ledger sees it. Bytes, °C, milliseconds of Redis's clock.

    ``state`` and ``speed`` are the worse of temperature and memory, for people and admission;
    ``job_state`` and ``job_speed`` are what a holder reads: temperature and health alone.
    ``capacity_bytes`` is the budget with nothing unmanaged on the card; ``short_bytes`` by how much
    the leases exceed a budget that shrank under them. ``gpu_class`` is what requests select by: cards of one
    class are interchangeable. ``reserved_for`` names the waiter for whom the free bytes gather.
    """

    uuid: str
    host: str
    index: int
    name: str
    state: State
    speed: float
    job_state: State
    job_speed: float
    reason: str = ""
    temperature_c: int | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    utilization_percent: int | None = None
    power_mw: int | None = None
    budget_bytes: int
    capacity_bytes: int
    leased_bytes: int
    free_bytes: int
    unmanaged_bytes: int | None = None
    short_bytes: int = 0
    sampled_at: int
    fresh_until: int
    drained: bool
    drained_by: str = ""
    gpu_class: str = Field("", validation_alias=AliasChoices("class", "gpu_class"))
    capability: str = ""
    mig: str = ""
    labels: str = ""
    peers: int = 1
    reserved_for: str = ""

    @property
    def lends(self) -> bool:
        """Whether a grant on this GPU is possible, given room."""
        return self.state not in (State.CRITICAL, State.UNAVAILABLE) and not self.drained


class LeaseRecord(Record):
    """One lease as the ledger holds it; ``memory_bytes`` on each of its GPUs.

    ``state`` is ``granted`` (to a waiter that has not claimed it yet), ``active`` or ``reclaiming`` (its time is over,
    its bytes still count). ``choice`` says which of the request's alternatives it is, from 1 on. ``revoke_at`` is when
    it ends at the latest; ``adopted`` leases stand for a process that had asked nobody, ``registered`` ones came back
    after the ledger had lost them. ``over_bytes`` is what its process takes beyond it, on the card where that is most;
    ``idle_seconds`` for how long its cards have done nothing, 0 while that is not long enough to be called idle.
    """

    id: str
    gpu_uuids: str
    host: str
    memory_bytes: int
    token: int
    owner: str
    tenant: str
    priority: int
    state: str
    created_at: int
    expires_at: int
    ttl_ms: int
    waited_ms: int = 0
    job_id: str = ""
    pid: int | None = None
    pid_started: str = ""
    used_bytes: int | None = None
    peak_bytes: int | None = None
    choice: int = 1
    function: str = ""
    host_memory_bytes: int = 0
    cpus_milli: int = 0
    revoke_at: int | None = None
    revoke_reason: str = ""
    adopted: bool = False
    registered: bool = False
    over_bytes: int | None = None
    idle_seconds: int | None = None

    @property
    def uuids(self) -> tuple[str, ...]:
        """The UUIDs of its GPUs."""
        return tuple(filter(None, self.gpu_uuids.split(",")))

    @property
    def gpus(self) -> int:
        """How many GPUs it spans."""
        return len(self.uuids)

    @property
    def total_bytes(self) -> int:
        """Its bytes on all its GPUs together."""
        return self.memory_bytes * self.gpus


class Waiter(Record):
    """One request that waits. ``since`` and ``deadline`` are milliseconds of Redis's clock.

    ``asks`` is what it wants, in order of preference, as ``"17179869184,2x8589934592"``; ``memory_bytes`` and ``gpus``
    are of the first. ``grows`` names the lease that waits to grow; ``line`` where it stands, ``reserved_gpus`` the
    cards kept for it.
    """

    id: str
    memory_bytes: int
    gpus: int = 1
    asks: str = ""
    host: str = ""
    gpu: str = ""
    owner: str
    tenant: str
    priority: int
    since: int
    deadline: int
    bypassed: int = 0
    job_id: str = ""
    labels: str = ""
    capability: str = ""
    mig: str = ""
    placement: str = ""
    function: str = ""
    host_memory_bytes: int = 0
    cpus_milli: int = 0
    line: str = ""
    reserved_gpus: str = ""
    grows: str = ""

    @property
    def reserved(self) -> tuple[str, ...]:
        """The UUIDs of the cards that are kept for it."""
        return tuple(filter(None, self.reserved_gpus.split(",")))

    @property
    def memory(self) -> str:
        """What it wants as people read it: ``"16.0 GiB or 2x8.0 GiB"``."""
        return asks_text(self.asks or (f"{self.gpus}x{self.memory_bytes}"))


def asks_text(asks: str) -> str:
    """A request's alternatives as the ledger writes them, as people read them."""
    told = []
    for ask in asks.split(","):
        count, _, size = ask.rpartition("x")
        told.append(("" if count in ("", "1") else f"{count}x") + format_size(int(size)))
    return " or ".join(told)


class FunctionAccount(Record):
    """What the ended leases of one function came to: running sums."""

    count: int
    mib_seconds: int
    waited_ms: int
    held_ms: int
    asked_mib: int
    peak_mib: int

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The account as a tenant's hash keeps it: six whole numbers."""
        return cls.model_validate(dict(zip(cls.model_fields, text.split(), strict=True)))


class Tenant(Record):
    """Who shares the pool. Bytes, and ``usage_mib_seconds`` as it stood at ``usage_at``: older use counts less.

    Without a quota ``quota_bytes`` is ``None``. ``functions`` are the accounts of ended leases by function, ``"-"`` for
    leases that named none.
    """

    name: str
    quota_bytes: int | None = None
    weight: float = 1.0
    leased_bytes: int = 0
    usage_mib_seconds: float = 0.0
    usage_at: int = 0
    functions: dict[str, FunctionAccount] = {}

    def mean_held_ms(self, function: str = "-") -> float | None:
        """How long a lease of that function was held on average, else one of any; ``None`` before the first ended."""
        own = self.functions.get(function)
        if own is not None and own.count:
            return own.held_ms / own.count
        count = sum(account.count for account in self.functions.values())
        return sum(account.held_ms for account in self.functions.values()) / count if count else None

    @classmethod
    def from_hash(cls, fields: Mapping[str, str]) -> Self:
        """The tenant of its hash, to which ``name`` was added."""
        return cls(
            name=fields["name"],
            quota_bytes=int(fields.get("quota_bytes") or 0) or None,
            weight=int(fields.get("weight_milli") or 1000) / 1000,
            leased_bytes=int(fields.get("leased_bytes") or 0),
            usage_mib_seconds=float(fields.get("usage") or 0),
            usage_at=int(fields.get("usage_at") or 0),
            functions={
                name.removeprefix("f:"): FunctionAccount.from_text(text)
                for name, text in sorted(fields.items())
                if name.startswith("f:")
            },
        )


class Host(Record):
    """One machine as its agent told it; memory and processors are ``None`` where the agent did not tell."""

    host: str
    state: str = ""
    reason: str = ""
    source: str = ""
    gpus: str = ""
    sampled_at: int = 0
    fresh_until: int = 0
    memory_bytes: int | None = None
    cpus_milli: int | None = None
    leased_memory_bytes: int = 0
    leased_cpus_milli: int = 0
    drained: bool = False
    labels: str = ""
    epoch: int | None = None
    life: str = ""
    sequence: int | None = None

    @property
    def uuids(self) -> tuple[str, ...]:
        """The UUIDs of its GPUs."""
        return tuple(self.gpus.split())


class Event(Record):
    """One line of the journal. ``seq`` grows by one with every event of the pool; ``fields`` are its own words."""

    stream_id: str
    seq: int
    kind: str
    at: int
    fields: dict[str, str]


class Sample(Record):
    """One reading of one GPU as the metrics stream keeps it."""

    stream_id: str
    uuid: str
    host: str
    at: int
    state: State
    temperature_c: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilization_percent: int | None = None
    power_mw: int | None = None
    unmanaged_bytes: int | None = None
