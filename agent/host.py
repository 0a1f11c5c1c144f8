"""What this host has beside its GPUs, what of it jobs may borrow, and how it is."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

from broker.state import Standing, judge
from broker.thresholds import Thresholds
from broker.values import HostReport, State


def report(
    *, labels: str = "", memory_bytes: int | None = None, cpus_milli: int | None = None, machine: str = ""
) -> HostReport:
    """Memory and processors of this host, unless told otherwise: 0 lends none."""
    return HostReport(
        psutil.virtual_memory().total if memory_bytes is None else memory_bytes,
        _cpus_milli() if cpus_milli is None else cpus_milli,
        labels,
        machine,
    )


class HostWatch:
    """How the host is. It throttles like a card does when its memory runs out."""

    def __init__(self, folder: Path) -> None:
        """Watch it, and the room in the folder where its jobs write."""
        self._folder = folder
        self._standing: Standing | None = None
        psutil.cpu_percent()  # the first answer means nothing: it counts from the last time on

    def vitals(self) -> dict[str, int]:
        """Bytes, percent, thousandths of load; what the system does not tell is not there."""
        said: dict[str, int] = {}
        for tell in (_memory, _swap, _work, self._disk):
            with suppress(OSError, RuntimeError, psutil.Error):  # as in a container that hides it
                said |= tell()
        return said

    def _disk(self) -> dict[str, int]:
        disk = psutil.disk_usage(str(self._folder))
        return {"disk_free_bytes": disk.free, "disk_total_bytes": disk.total}

    def judge(self, said: dict[str, int], limits: Thresholds, now: float) -> tuple[State, str]:
        """The state of its memory, with its past, and why where it is not well."""
        used, available = said.get("memory_used_bytes"), said.get("memory_available_bytes")
        if used is None or available is None:
            return State.OPTIMAL, ""
        percent = 100 * used / max(1, used + available)
        self._standing = judge(self._standing, memory_state(percent, limits), limits, now)
        state = self._standing.state
        return state, "" if state is State.OPTIMAL else f"{percent:.0f} % of the host's memory is used: {state}"


def _memory() -> dict[str, int]:
    memory = psutil.virtual_memory()
    return {"memory_used_bytes": memory.total - memory.available, "memory_available_bytes": memory.available}


def _swap() -> dict[str, int]:
    return {"swap_used_bytes": psutil.swap_memory().used}


def _work() -> dict[str, int]:
    return {"cpu_percent": round(psutil.cpu_percent()), "load_milli": round(1000 * os.getloadavg()[0])}


def memory_state(used_percent: float, limits: Thresholds) -> State:
    """The state of a share of a host's memory, 0 to 100. Unlike a card's it is meant to be full of caches."""
    if used_percent > limits.host_memory_critical:
        return State.CRITICAL
    return State.THROTTLED if used_percent > limits.host_memory_throttle else State.OPTIMAL


def _cpus_milli() -> int | None:
    """The processors that this process may run on, in thousandths."""
    if hasattr(os, "sched_getaffinity"):
        return 1000 * len(os.sched_getaffinity(0))
    count = os.cpu_count()
    return None if count is None else 1000 * count
