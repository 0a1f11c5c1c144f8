"""What this host has beside its GPUs, and may lend with them."""

from __future__ import annotations

import os

from broker.values import HostReport


def report(*, labels: str = "", memory_bytes: int | None = None, cpus_milli: int | None = None) -> HostReport:
    """Memory and processors of this host, unless told otherwise: 0 lends none."""
    return HostReport(
        _memory_bytes() if memory_bytes is None else memory_bytes,
        _cpus_milli() if cpus_milli is None else cpus_milli,
        labels,
    )


def _memory_bytes() -> int | None:
    """All of its memory; ``None`` where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _cpus_milli() -> int | None:
    """The processors that this process may run on, in thousandths."""
    if hasattr(os, "sched_getaffinity"):
        return 1000 * len(os.sched_getaffinity(0))
    count = os.cpu_count()
    return None if count is None else 1000 * count
