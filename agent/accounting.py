"""Whose bytes are whose: what of a card is in use by processes that hold no lease. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from agent.sources import Process, Reading
from broker.values import HeldLease, LeaseVerdict


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


def strangers(reading: Reading, held: Sequence[HeldLease], parents: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    """The processes of a card that belong to no lease, with their bytes where these are known."""
    holders = {lease.pid: 0 for lease in held}
    return tuple(
        (process.pid, process.memory_bytes)
        for process in reading.processes or ()
        if process.memory_bytes and _holder(process.pid, holders, parents) is None
    )


def verdicts(
    readings: Sequence[Reading],
    held: Mapping[str, Sequence[HeldLease]],
    parents: Mapping[int, int],
    began: Callable[[int], str | None],
) -> list[LeaseVerdict]:
    """What is seen of each lease: whether its process is there, and its bytes on all its cards.

    ``began`` tells when a process began, ``None`` if there is none. A lease that names no process, or shares one with
    another lease, has no bytes that could be told from others'. A process that is gone while a child of it lives on
    is gone: the child's memory counts as unmanaged from then on.
    """
    sharing = Counter(lease.pid for lease in {lease.id: lease for leases in held.values() for lease in leases}.values())
    used: Counter[str] = Counter()
    seen: dict[str, HeldLease] = {}
    for reading in readings:
        on_card = held.get(reading.uuid, ())
        by_pid = {lease.pid: lease for lease in on_card}
        seen |= {lease.id: lease for lease in on_card}
        for process in reading.processes or ():
            holder = _holder(process.pid, dict.fromkeys(by_pid, 0), parents)
            if holder is not None:
                used[by_pid[holder].id] += process.memory_bytes or 0
    return [
        LeaseVerdict(
            lease.id, lease.token, _verdict(lease, began),
            used[lease.id] if sharing[lease.pid] == 1 and _tells(readings, held, lease) else None,
        )
        for lease in seen.values()
    ]  # fmt: skip


def _tells(readings: Sequence[Reading], held: Mapping[str, Sequence[HeldLease]], lease: HeldLease) -> bool:
    """Whether a lease names its process, and each of its cards lists the processes on it with their bytes."""
    cards = [reading for reading in readings if any(one.id == lease.id for one in held.get(reading.uuid, ()))]
    listed = [process for card in cards for process in card.processes or ()]
    return (
        lease.pid is not None
        and all(card.processes is not None for card in cards)
        and all(process.memory_bytes is not None for process in listed)
    )


def _verdict(lease: HeldLease, began: Callable[[int], str | None]) -> str:
    if lease.pid is None:
        return ""
    now = began(lease.pid)
    return "alive" if now is not None and lease.pid_started in ("", now) else "gone"


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
