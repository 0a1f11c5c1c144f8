"""Plain values that ledger, agent and jobs share. No pydantic here: a job's import stays light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    """How a GPU is, from best to worst."""

    OPTIMAL = "OPTIMAL"
    NORMAL = "NORMAL"
    THROTTLED = "THROTTLED"
    CRITICAL = "CRITICAL"
    UNAVAILABLE = "UNAVAILABLE"

    @property
    def speed(self) -> float:
        """The multiplier a job scales its work by; 0.0 means pause."""
        return _SPEEDS[self]

    @property
    def rank(self) -> int:
        """0 for OPTIMAL up to 4 for UNAVAILABLE: the larger the worse."""
        return _RANKS[self]


_SPEEDS = {State.OPTIMAL: 1.0, State.NORMAL: 0.8, State.THROTTLED: 0.5, State.CRITICAL: 0.0, State.UNAVAILABLE: 0.0}
_RANKS = {state: rank for rank, state in enumerate(_SPEEDS)}


@dataclass(frozen=True, slots=True)
class Throttle:
    """What a job should do now: the state that a holder sees, its speed multiplier and why, in words."""

    state: State
    speed: float
    reason: str


@dataclass(frozen=True, slots=True)
class HeldLease:
    """What an agent needs of a lease on one of its GPUs, to tell its processes from strangers."""

    id: str
    memory_bytes: int
    pid: int | None
    state: str
    created_at: int
    token: int = 0
    pid_started: str = ""
    adopted: bool = False
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class LeaseVerdict:
    """What an agent saw of a lease: ``alive`` or ``gone`` of its process, ``""`` where it cannot tell, and its bytes.

    It names the token, so that a word that comes late is not taken for one about a newer lease of the same name.
    ``over_bytes`` is what it takes beyond what it borrowed, on the card where that is most; ``idle_seconds`` for how
    long its cards have done nothing, 0 while that is not long enough to be called idle. ``None`` is unknown.
    """

    id: str
    token: int
    verdict: str
    used_bytes: int | None = None
    over_bytes: int | None = None
    idle_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class ListedProcess:
    """One process on a GPU: its pid there and when it began (clock ticks since boot), its bytes where the driver tells
    them, its name, and the lease that it works under, if any."""

    pid: int
    started: str
    memory_bytes: int | None
    name: str
    lease: str


@dataclass(frozen=True, slots=True)
class HostReport:
    """What an agent says of its host. ``memory_bytes`` and ``cpus_milli`` are what jobs may have of it, ``None``
    where it is not told: then none is lent. ``labels`` are ``"name=value,name=value"``. ``machine`` names this boot of
    its machine: two machines cannot be one host. ``vitals`` is what else it says: ``cpu_percent``, ``load_milli``,
    ``memory_used_bytes``, ``memory_available_bytes``, ``swap_used_bytes``, ``disk_free_bytes``, ``disk_total_bytes``.
    """

    memory_bytes: int | None = None
    cpus_milli: int | None = None
    labels: str = ""
    machine: str = ""
    vitals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GpuReport:
    """What an agent says of one GPU in one sample. ``None`` is unknown and is not published.

    ``state`` is the worse of temperature and memory; ``job_state`` is temperature and health alone.
    ``unmanaged_bytes`` are in use by processes that hold no lease, ``processes`` those of them that are known: pid
    and bytes. ``capability`` is CUDA's compute capability, ``"8.6"``; ``mig`` the profile of a MIG instance. A GPU
    that cannot be read has ``state=UNAVAILABLE`` and says why in ``reason``.

    ``marks`` are the agent's own reasons to drain it: ``health``, ``people``. ``hardware`` is what else the card says,
    by the names of ``broker.hardware``; ``xids`` are the driver's errors of it since the last sample. ``warning`` is a
    threshold that its temperature will cross, seconds until then, and by how many °C a minute it rises. ``listed`` is
    every process on it, holders' too.
    """

    uuid: str
    index: int
    name: str
    state: State
    job_state: State
    reason: str
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    unmanaged_bytes: int | None = None
    temperature_c: int | None = None
    utilization_percent: int | None = None
    power_mw: int | None = None
    process_count: int | None = None
    capability: str = ""
    mig: str = ""
    processes: tuple[tuple[int, int], ...] = ()
    marks: tuple[str, ...] = ()
    hardware: Mapping[str, int | str] = field(default_factory=dict)
    xids: tuple[int, ...] = ()
    warning: tuple[str, float, float] | None = None
    listed: tuple[ListedProcess, ...] = ()
