"""What crosses a border between ledger, agent, worker and people: checked once, here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict

from broker.values import GpuReport, HeldLease, State, Throttle

__all__ = [
    "Event",
    "Gpu",
    "GpuReport",
    "HeldLease",
    "LeaseRecord",
    "Record",
    "Sample",
    "State",
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
    the leases exceed a budget that shrank under them.
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

    @property
    def lends(self) -> bool:
        """Whether a grant on this GPU is possible, given room."""
        return self.state not in (State.CRITICAL, State.UNAVAILABLE) and not self.drained


class LeaseRecord(Record):
    """One lease as the ledger holds it. ``state`` is ``granted`` (to a waiter that has not
    claimed it yet), ``active`` or ``reclaiming`` (its time is over, its bytes still count)."""

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
    used_bytes: int | None = None
    peak_bytes: int | None = None


class Waiter(Record):
    """One request that waits. ``since`` and ``deadline`` are milliseconds of Redis's clock."""

    id: str
    memory_bytes: int
    host: str = ""
    gpu: str = ""
    owner: str
    tenant: str
    priority: int
    since: int
    deadline: int
    bypassed: int = 0
    job_id: str = ""


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
