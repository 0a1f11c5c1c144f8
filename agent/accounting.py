"""Whose bytes are whose: what of a card is in use by processes that hold no lease, and what each lease takes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

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
    return tuple(
        (process.pid, process.memory_bytes)
        for process, lease in holders(reading, held, parents)
        if process.memory_bytes and lease is None
    )


def verdicts(
    readings: Sequence[Reading],
    held: Mapping[str, Sequence[HeldLease]],
    parents: Mapping[int, int],
    lives: Mapping[str, str],
    tolerance_bytes: int = 0,
) -> list[LeaseVerdict]:
    """What is seen of each lease: whether its process is there, and its bytes on all its cards.

    ``lives`` says of each lease whether its process is alive, gone or unknown. A lease that names no process, or shares
    one with another lease, has no bytes that could be told from others'. A process that is gone while a child of it
    lives on is gone: the child's memory counts as unmanaged from then on. It is over by what it takes beyond its lease
    on the card where that is most, unless that is within the tolerance.
    """
    leases = {lease.id: lease for on_card in held.values() for lease in on_card}
    seen = {lease.id: lease for reading in readings for lease in held.get(reading.uuid, ())}
    sharing = Counter(lease.pid for lease in leases.values())
    used: dict[str, Counter[str]] = {name: Counter() for name in seen}  # by card
    for reading in readings:
        for process, lease in holders(reading, held.get(reading.uuid, ()), parents):
            if lease is not None:
                used[lease.id][reading.uuid] += process.memory_bytes or 0
    found = []
    for lease in seen.values():
        own = used[lease.id] if sharing[lease.pid] == 1 and _tells(readings, held, lease) else None
        beyond = None if own is None else max([0, *(taken - lease.memory_bytes for taken in own.values())])
        over = 0 if beyond is not None and beyond <= tolerance_bytes else beyond
        total = None if own is None else own.total()
        found.append(LeaseVerdict(lease.id, lease.token, lives.get(lease.id, ""), total, over))
    return found


def holders(
    reading: Reading, held: Sequence[HeldLease], parents: Mapping[int, int]
) -> list[tuple[Process, HeldLease | None]]:
    """Each process on a card with the lease it works under, if any."""
    by_pid: dict[int | None, HeldLease] = {lease.pid: lease for lease in held if lease.pid}
    nobody = dict.fromkeys(by_pid, 0)
    found = ((process, _holder(process.pid, nobody, parents)) for process in reading.processes or ())
    return [(process, by_pid[pid] if pid is not None else None) for process, pid in found]


def at_work(
    readings: Sequence[Reading], held: Mapping[str, Sequence[HeldLease]], parents: Mapping[int, int]
) -> dict[str, bool | None]:
    """Whether anything is done under each lease; ``None`` where no card and no process of it says so.

    A process's own share of a card's time counts where the driver tells it, else the card's.
    """
    shares: dict[str, list[int | None]] = {}
    for reading in readings:
        listed = holders(reading, held.get(reading.uuid, ()), parents)
        # A driver that tells shares names only the processes that did something.
        tells = any(process.utilization_percent is not None for process, _ in listed)
        for lease in held.get(reading.uuid, ()):
            own = [process.utilization_percent or 0 for process, of in listed if of is not None and of.id == lease.id]
            shares.setdefault(lease.id, []).append(sum(own) if tells else reading.utilization_percent)
    return {
        name: True if any(found) else None if all(share is None for share in found) else False
        for name, found in shares.items()
    }


def _tells(readings: Sequence[Reading], held: Mapping[str, Sequence[HeldLease]], lease: HeldLease) -> bool:
    """Whether a lease names its process, and each of its cards lists the processes on it with their bytes."""
    cards = [reading for reading in readings if any(one.id == lease.id for one in held.get(reading.uuid, ()))]
    listed = [process for card in cards for process in card.processes or ()]
    return (
        lease.pid is not None
        and all(card.processes is not None for card in cards)
        and all(process.memory_bytes is not None for process in listed)
    )


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
