"""Whose bytes are whose: what of a card is in use by processes that hold no lease. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.sources import Process, Reading
from broker.values import HeldLease


def unmanaged_bytes(reading: Reading, held: Sequence[HeldLease], parents: Mapping[int, int]) -> int | None:
    """Bytes used by processes that are neither a lease's own nor descend from one; ``None`` if that is not known.

    Where the driver does not say what each process uses, or a lease does not say its process: what is used beyond the
    sum of all leases. Memory is never counted both as a lease's and as unmanaged.
    """
    if reading.memory_used_bytes is None:
        return None
    strangers = [] if reading.processes is None else [
        process for process in reading.processes if not _holder(process.pid, held, parents)
    ]  # fmt: skip
    told = reading.processes is not None and all(process.memory_bytes is not None for process in reading.processes)
    named = all(lease.pid is not None for lease in held)
    if told and (named or not strangers):
        return sum(process.memory_bytes or 0 for process in strangers)
    reserved = reading.memory_reserved_bytes or 0
    return max(0, reading.memory_used_bytes - reserved - sum(lease.memory_bytes for lease in held))


def _holder(pid: int, held: Sequence[HeldLease], parents: Mapping[int, int]) -> HeldLease | None:
    """The lease under which a process runs: its own, or that of the nearest ancestor."""
    by_pid = {lease.pid: lease for lease in held if lease.pid is not None}
    for _ in range(64):
        if pid in by_pid:
            return by_pid[pid]
        if pid not in parents:
            return None
        pid = parents[pid]
    return None


def pids(processes: Sequence[Process] | None) -> list[int]:
    """The process ids of a list of processes."""
    return [process.pid for process in processes or ()]
