"""Whose bytes are whose: what of a card is in use by processes that hold no lease. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from agent.sources import Process, Reading
from broker.values import HeldLease


def unmanaged_bytes(reading: Reading, held: Sequence[HeldLease], parents: Mapping[int, int]) -> int | None:
    """Bytes in use that belong to no lease; ``None`` if that is not known.

    A process belongs to a lease if it is the lease's own or descends from it. What the card has in use and no process
    is seen to hold (the driver does not list it, or does not tell its size) counts too, beyond what the leases may yet
    take: it may be theirs. A lease that names no process may be any process's. So memory never counts both as a lease's
    and as unmanaged, and leases and unmanaged together are never less than what is in use, unless a process takes more
    than its lease.
    """
    if reading.memory_used_bytes is None:
        return None
    room: Counter[int | None] = Counter()  # by the process that a lease names
    for lease in held:
        room[lease.pid] += lease.memory_bytes
    listed = strangers = 0
    for process in reading.processes or ():
        size = process.memory_bytes or 0
        listed += size
        holder = _holder(process.pid, room, parents)
        if holder is None:
            strangers += size
        else:
            room[holder] = max(0, room[holder] - size)
    unseen = max(0, reading.memory_used_bytes - listed)
    nameless = room.pop(None, 0)
    covered = min(nameless, strangers)
    return strangers - covered + max(0, unseen - (nameless - covered) - room.total())


def _holder(pid: int, holders: Mapping[int | None, int], parents: Mapping[int, int]) -> int | None:
    """The process with a lease under which a process runs: itself, or its nearest ancestor.

    Everything descends from process 1. A lease that names it, as one from inside a container may, has no other.
    """
    for _ in range(64):
        if pid in holders:
            return pid
        pid = parents.get(pid, 1)
        if pid <= 1:
            return None
    return None


def pids(processes: Sequence[Process] | None) -> list[int]:
    """The process ids of a list of processes."""
    return [process.pid for process in processes or ()]
