"""Where readings come from: NVML, a simulated host, or a recording. All know only ``Source`` and ``Reading``.

Judging a reading is the sampler's work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from broker.values import HeldLease, State

#: Asks the ledger for the leases on GPUs.
Held = Callable[[Sequence[str]], Mapping[str, Sequence[HeldLease]]]

_MIG = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+]{0,31}", re.ASCII)
#: A temperature outside of these °C is nonsense, as some drivers give for a card that fell off the bus.
TEMPERATURES = range(151)
#: More memory than any card has: beyond it the ledger's numbers would not be exact (2^53).
LARGEST_BYTES = 1 << 50


@dataclass(frozen=True, slots=True)
class Process:
    """A process that the driver sees on a GPU, by the host's own pid; ``None`` where the driver does not tell.

    ``utilization_percent`` is the share of time in which it kept the GPU busy since the last reading, 0 to 100.
    """

    pid: int
    memory_bytes: int | None
    utilization_percent: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at one GPU. ``None`` is unknown, never 0. A ``fault`` says why the GPU cannot be read.

    ``memory_used_bytes`` is without what the driver reserves for itself, where it tells them apart. ``processes`` is
    ``None`` where the driver has no such list. ``capability`` is CUDA's compute capability, ``"8.6"``, and ``mig`` the
    profile of a MIG instance. ``hardware`` is what else the card offers, by the names of ``broker.hardware.FIELDS``;
    what it does not offer is not there. ``xids`` are the driver's errors of this card since the last reading.
    """

    uuid: str
    index: int
    name: str
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    temperature_c: int | None = None
    utilization_percent: int | None = None
    power_mw: int | None = None
    processes: tuple[Process, ...] | None = None
    capability: str = ""
    mig: str = ""
    fault: str = ""
    hardware: Mapping[str, int | str] = field(default_factory=dict)
    xids: tuple[int, ...] = ()


class NoGpuError(Exception):
    """The host has no GPU that can be read now; the message says why, for people."""


class Source(Protocol):
    """Eyes on one host's GPUs."""

    #: Short name for the host's hash: ``nvml`` or ``simulated``.
    name: str

    def read(self, held: Held) -> list[Reading]:
        """Read every GPU. Hardware knows by itself what runs on it; a simulated host asks ``held``.

        Raises:
            NoGpuError: there is none to read.
        """

    def published(self, states: Mapping[str, State]) -> None:
        """Hear what jobs were told of each GPU. Hardware need not: it feels what jobs do."""

    def close(self) -> None:
        """Let the hardware go."""


def sane(reading: Reading) -> Reading:
    """The reading, with what cannot be true taken out."""
    total = reading.memory_total_bytes
    if total is not None and not 0 < total <= LARGEST_BYTES:
        total = None

    def within_total(value: int | None) -> int | None:
        return value if value is not None and total is not None and 0 <= value <= total else None

    heat, load = reading.temperature_c, reading.utilization_percent
    return replace(
        reading,
        memory_total_bytes=total,
        memory_used_bytes=within_total(reading.memory_used_bytes),
        memory_reserved_bytes=within_total(reading.memory_reserved_bytes),
        mig=reading.mig if _MIG.fullmatch(reading.mig) else "",
        temperature_c=heat if heat is not None and heat in TEMPERATURES else None,
        utilization_percent=load if load is not None and 0 <= load <= 100 else None,
        processes=None if reading.processes is None else tuple(
            replace(process, memory_bytes=within_total(process.memory_bytes)) for process in reading.processes
        ),
    )  # fmt: skip
