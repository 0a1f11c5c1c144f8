"""Checks the ledger against itself: the leases are the truth, sums and indexes are a cache of them.

Reads the whole pool in bounded batches, hence not in one moment: exact on a pool at rest. On one at work a difference
counts when two readings in a row show the same (``readings=2``).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import ValidationError

from broker import plans
from broker.models import LeaseRecord
from broker.snapshot import Snapshot, read
from broker.values import State

if TYPE_CHECKING:
    from broker.client import Broker
    from broker.ledger.keys import Keys

ABSENT = "absent"

#: As in ``lua/include/gpu.lua`` and ``queue.lua``: a range of scores for each number of cards, and for each priority.
_SPAN, _WIDEST, _ARRIVALS = 1 << 43, 16, 1 << 42
_LENDS = frozenset({State.OPTIMAL, State.NORMAL, State.THROTTLED})


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the ledger keeps beside the leases and that does not follow from them.

    ``kind`` is the field or member under ``key``; ``part`` and its name what ``repair.lua`` mends it by, if it can.
    """

    kind: str
    key: str
    says: str
    should_be: str
    part: tuple[str, str] | None = None

    def __str__(self) -> str:
        """Where, what, and what it should be."""
        return f"{self.key}: {self.kind} is {self.says}, it should be {self.should_be}"


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair found, how many values it mended of each part ("gpu GPU-1", "tenant red"), and what is left."""

    found: list[Difference]
    mended: dict[str, int]
    left: list[Difference]


def differences(broker: Broker) -> list[str]:
    """Every lasting difference between the leases and what the ledger keeps about them; empty if all adds up."""
    return [str(difference) for difference in check(broker, readings=2)]


def check(broker: Broker, *, readings: int = 1) -> list[Difference]:
    """Every difference that ``readings`` readings in a row show."""
    found = compare(broker.run(read(broker.keys)))
    for _ in range(readings - 1):
        if not found:
            break
        again = set(compare(broker.run(read(broker.keys))))
        found = [difference for difference in found if difference in again]
    return found


def repair(broker: Broker) -> Repair:
    """Recompute what differs, and every card, from the leases; each part in one atomic step."""
    found = check(broker, readings=2)
    (known,) = broker.run(_members(broker.keys))
    parts: dict[tuple[str, str], list[str | int]] = {("gpu", uuid): [] for uuid in sorted(known)}
    for difference in found:
        if difference.part is not None:
            _tell(difference, parts.setdefault(difference.part, []))
    mended: dict[str, int] = {}
    for (part, name), told in parts.items():
        count = int(broker.call("repair", part, name, *told))
        if count:
            mended[f"{part} {name}"] = count
    return Repair(found, mended, check(broker, readings=2))


def _tell(difference: Difference, told: list[str | int]) -> None:
    """What a part's repair is told of one difference: a lease that is missing there, or by how much a sum is wrong."""
    kind, wrong = difference.kind, difference.says
    if kind.startswith("lease:") and wrong == ABSENT:
        told.append(kind.removeprefix("lease:"))
    at = {"leased_bytes": 0, "leased_memory_bytes": 0, "leased_cpus_milli": 1}.get(kind)
    part = difference.part[0] if difference.part else ""
    if part == "class" and difference.key.endswith(":classes"):
        at = 0
    if at is not None and part != "gpu":
        told += [0] * (2 - len(told))
        told[at] = _amount(difference.should_be) - _amount(wrong)


def _amount(text: str) -> int:
    return 0 if text == ABSENT else int(text)


def _members(keys: Keys) -> plans.Plan[list[set[str]]]:
    (uuids,) = yield [("SMEMBERS", keys.gpus)]
    return [set(uuids)]


# -- comparing: plain values in, differences out -----------------------------------------------------------------------


def compare(snapshot: Snapshot) -> list[Difference]:
    """What does not follow from the leases, of what was read."""
    return list(_compare(snapshot))


def _compare(snapshot: Snapshot) -> Iterator[Difference]:
    keys = snapshot.keys
    leases: dict[str, LeaseRecord] = {}
    for lease_id, fields in snapshot.named(keys.lease("")).items():
        try:
            leases[lease_id] = LeaseRecord.from_hash(fields)
        except ValidationError as error:
            yield Difference("lease", keys.lease(lease_id), f"unreadable ({error.error_count()} fields)", "a lease")
    on: dict[str, list[LeaseRecord]] = defaultdict(list)
    for lease in leases.values():
        for uuid in lease.uuids:
            on[uuid].append(lease)
    yield from _leases(snapshot, leases)
    yield from _cards(snapshot, on)
    yield from _reservations(snapshot)
    yield from _queue(snapshot, leases)
    yield from _tenants(snapshot, leases.values())
    yield from _hosts(snapshot, leases.values())
    yield from _deadlines(snapshot)


def _unlike(
    key: str, says: Mapping[str, object], should: Mapping[str, object], part: str, whole: str = ""
) -> Iterator[Difference]:
    """The members of a hash or index that are not what they should be. Each is a part of its own, but for ``whole``."""
    for name in sorted({*says, *should}):
        one, other = _text(says.get(name)), _text(should.get(name))
        if one != other:
            yield Difference(name, key, one, other, (part, whole or name))


def _text(value: object) -> str:
    if value is None:
        return ABSENT
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def _leases(snapshot: Snapshot, leases: Mapping[str, LeaseRecord]) -> Iterator[Difference]:
    keys = snapshot.keys
    index = snapshot.index(keys.leases)
    # A reclaiming lease stands at the end of its lock delay, which nothing else says.
    ends = {
        one.id: float(one.expires_at) if one.state != "reclaiming" else index.get(one.id, 0.0)
        for one in leases.values()
    }
    yield from _unlike(keys.leases, index, ends, "lease")
    for lease in leases.values():
        for uuid in lease.uuids:
            if keys.gpu(uuid) not in snapshot.hashes:
                yield Difference("gpu_uuids", keys.lease(lease.id), uuid, "a GPU that the pool knows", ("gpu", uuid))


def _cards(snapshot: Snapshot, on: Mapping[str, list[LeaseRecord]]) -> Iterator[Difference]:
    keys = snapshot.keys
    cards = snapshot.named(keys.gpu(""))
    known = dict.fromkeys(snapshot.sets[keys.gpus], "known")
    yield from _unlike(keys.gpus, known, dict.fromkeys(cards, "known"), "gpu")
    free: dict[str, float] = {}
    kept: dict[str, float] = {}
    by_class: dict[str, dict[str, float]] = defaultdict(dict)
    for uuid, fields in cards.items():
        leased, budget = sum(lease.memory_bytes for lease in on.get(uuid, ())), _number(fields, "budget_bytes")
        should: dict[str, object] = {
            "leased_bytes": leased, "free_bytes": max(0, budget - leased), "short_bytes": max(0, leased - budget),
        }  # fmt: skip
        should |= {f"lease:{lease.id}": lease.memory_bytes for lease in on.get(uuid, ())}
        says = {name: fields[name] for name in fields if name in should or name.startswith("lease:")}
        for difference in _unlike(keys.gpu(uuid), says, should, "gpu", uuid):
            if not (difference.kind == "short_bytes" and (difference.says, difference.should_be) == (ABSENT, "0")):
                yield difference
        if fields.get("reserved_for"):
            kept[uuid] = float(max(0, budget - leased))
        elif fields.get("state") in _LENDS and fields.get("drained") != "1" and budget > leased:
            free[uuid] = by_class[fields.get("class", "")][uuid] = float(budget - leased)
    yield from _unlike(keys.free, snapshot.index(keys.free), free, "gpu")
    yield from _unlike(keys.reserved, snapshot.index(keys.reserved), kept, "gpu")
    capacity = {uuid: float(_number(fields, "capacity_bytes")) for uuid, fields in cards.items()}
    yield from _unlike(keys.capacity, snapshot.index(keys.capacity), capacity, "gpu")
    yield from _classes(snapshot, cards, by_class)
    yield from _too_narrow(snapshot, _wide(snapshot, cards, free))
    yield from _freshness(snapshot, cards)


def _number(fields: Mapping[str, str], name: str) -> int:
    return int(fields.get(name) or 0)


def _classes(
    snapshot: Snapshot, cards: Mapping[str, Mapping[str, str]], by_class: Mapping[str, Mapping[str, float]]
) -> Iterator[Difference]:
    keys = snapshot.keys
    counts = Counter(fields["class"] for fields in cards.values() if fields.get("class"))
    yield from _unlike(keys.classes, snapshot.hashes.get(keys.classes, {}), counts, "class")
    offered = {key.removeprefix(keys.free_of("")) for key in snapshot.sorted_sets if key.startswith(keys.free_of(""))}
    for name in sorted(offered | set(by_class)):
        if name:
            index = snapshot.index(keys.free_of(name))
            # An index of a class that no card has is mended by its name.
            part = ("gpu", "") if name in counts else ("class", name)
            yield from _unlike(keys.free_of(name), index, by_class.get(name, {}), *part)


def _wide(snapshot: Snapshot, cards: Mapping[str, Mapping[str, str]], free: Mapping[str, float]) -> dict[str, float]:
    """For each host and each number of cards: how much is free on so many of them."""
    should: dict[str, float] = {}
    for host, fields in snapshot.named(snapshot.keys.host("")).items():
        own = [uuid for uuid in fields.get("gpus", "").split() if cards.get(uuid, {}).get("host") == host]
        most = sorted((free[uuid] for uuid in own if uuid in free), reverse=True)
        should |= {f"{host}#{k}": float(k * _SPAN + most[k - 1]) for k in range(2, min(_WIDEST, len(most)) + 1)}
    return should


def _too_narrow(snapshot: Snapshot, should: Mapping[str, float]) -> Iterator[Difference]:
    """`wide` may say too much, which is found out when it is used; too little only of hosts that `stale` names."""
    keys = snapshot.keys
    says, stale = snapshot.index(keys.wide), snapshot.sets.get(keys.stale, set())
    for entry, most in sorted(should.items()):
        if entry.rpartition("#")[0] not in stale and says.get(entry, 0) < most:
            yield Difference(entry, keys.wide, _text(says.get(entry)), _text(most), ("host", entry.rpartition("#")[0]))
    known = {host for host, fields in snapshot.named(keys.host("")).items() if fields.get("gpus")}
    for entry in sorted(says):
        if entry.rpartition("#")[0] not in known:
            yield Difference(entry, keys.wide, _text(says[entry]), ABSENT, ("host", entry.rpartition("#")[0]))


def _freshness(snapshot: Snapshot, cards: Mapping[str, Mapping[str, str]]) -> Iterator[Difference]:
    """A card that lends must have a time at which its sample is too old; a closed one need not."""
    keys = snapshot.keys
    index = snapshot.index(keys.fresh)
    should = {
        uuid: float(_number(fields, "fresh_until"))
        for uuid, fields in cards.items()
        if uuid in index or fields.get("state") != State.UNAVAILABLE
    }
    yield from _unlike(keys.fresh, index, should, "gpu")


def _reservations(snapshot: Snapshot) -> Iterator[Difference]:
    """What cards say of whom they are kept for, and what waiters say of cards that are kept for them."""
    keys = snapshot.keys
    waiters, cards = snapshot.named(keys.waiter("")), snapshot.named(keys.gpu(""))
    says = {uuid: fields["reserved_for"] for uuid, fields in cards.items() if fields.get("reserved_for")}
    should = {
        uuid: waiter_id
        for waiter_id, fields in waiters.items()
        for uuid in fields.get("reserved_gpus", "").split(",")
        if uuid
    }
    for uuid in sorted({*says, *should}):
        if says.get(uuid) != should.get(uuid):
            part = ("gpu", uuid) if uuid in says else ("waiter", should[uuid])
            yield Difference("reserved_for", keys.gpu(uuid), says.get(uuid, ABSENT), should.get(uuid, ABSENT), part)
    for host, fields in snapshot.named(keys.host("")).items():
        kept = fields.get("kept_for", "")
        if kept and waiters.get(kept, {}).get("reserved_host") != host:
            yield Difference("kept_for", keys.host(host), kept, ABSENT, ("host", host))


def _queue(snapshot: Snapshot, leases: Mapping[str, LeaseRecord]) -> Iterator[Difference]:
    keys = snapshot.keys
    waiters, queue = snapshot.named(keys.waiter("")), snapshot.index(keys.waiters)
    yield from _unlike(keys.waiters, dict.fromkeys(queue, "queued"), dict.fromkeys(waiters, "queued"), "waiter")
    deadlines = {one: float(_number(fields, "deadline")) for one, fields in waiters.items()}
    yield from _unlike(keys.waiting, snapshot.index(keys.waiting), deadlines, "waiter")
    counted = _number(snapshot.hashes.get(keys.ledger, {}), "queued")
    if counted != len(queue):
        yield Difference("queued", keys.ledger, str(counted), str(len(queue)), ("ledger", "queue"))
    standing: dict[str, dict[str, float]] = defaultdict(dict)
    for one, fields in waiters.items():
        if one in queue:
            standing[fields.get("line", "")][one] = queue[one]
            priority, stands = _number(fields, "priority"), -int(queue[one] // _ARRIVALS)
            if priority != stands:
                yield Difference(f"priority of {one}", keys.waiters, str(stands), str(priority), ("waiter", one))
        grows = fields.get("grows")
        if grows and (grows not in leases or one != f"{grows}+"):
            lease = "a lease, named as the waiter is but for its '+'"
            yield Difference("grows", keys.waiter(one), grows, lease, ("waiter", one))
    yield from _lines(snapshot, standing)


def _lines(snapshot: Snapshot, standing: Mapping[str, Mapping[str, float]]) -> Iterator[Difference]:
    """Each waiter in exactly its line, each line in its group by its first waiter."""
    keys = snapshot.keys
    names = {key.removeprefix(keys.line("")) for key in snapshot.sorted_sets if key.startswith(keys.line(""))}
    for name in sorted(names | set(standing)):
        for difference in _unlike(
            keys.line(name), snapshot.index(keys.line(name)), standing.get(name, {}), "line", name
        ):
            missing = difference.says == ABSENT
            yield replace(difference, part=("waiter", difference.kind)) if missing else difference
    heads: dict[str, dict[str, float]] = defaultdict(dict)
    for name, members in standing.items():
        heads[name.partition("|")[0]][name] = min(members.values())
    groups = {key.removeprefix(keys.lines("")) for key in snapshot.sorted_sets if key.startswith(keys.lines(""))}
    for group in sorted(groups | set(heads)):
        yield from _unlike(keys.lines(group), snapshot.index(keys.lines(group)), heads.get(group, {}), "line")
    selecting = [group for group in heads if group.startswith("sel:")]
    named = dict.fromkeys(snapshot.sets[keys.groups], "a group")
    yield from _unlike(keys.groups, named, dict.fromkeys(selecting, "a group"), "group")


def _tenants(snapshot: Snapshot, leases: Iterable[LeaseRecord]) -> Iterator[Difference]:
    keys = snapshot.keys
    sums = Counter[str]()
    for lease in leases:
        sums[lease.tenant] += lease.total_bytes
    hashes = snapshot.named(keys.tenant(""))
    for name in sorted({*hashes, *sums}):
        says = _number(hashes.get(name, {}), "leased_bytes")
        if says != sums[name]:
            yield Difference("leased_bytes", keys.tenant(name), str(says), str(sums[name]), ("tenant", name))
    named = dict.fromkeys(snapshot.sets[keys.tenants], "a tenant")
    yield from _unlike(keys.tenants, named, dict.fromkeys(hashes, "a tenant"), "tenant")


def _hosts(snapshot: Snapshot, leases: Iterable[LeaseRecord]) -> Iterator[Difference]:
    keys = snapshot.keys
    memory, cpus = Counter[str](), Counter[str]()
    for lease in leases:
        memory[lease.host] += lease.host_memory_bytes
        cpus[lease.host] += lease.cpus_milli
    hashes = snapshot.named(keys.host(""))
    for name in sorted({*hashes, *(host for host in memory if memory[host] or cpus[host])}):
        for what, should in (("leased_memory_bytes", memory[name]), ("leased_cpus_milli", cpus[name])):
            says = _number(hashes.get(name, {}), what)
            if says != should:
                yield Difference(what, keys.host(name), str(says), str(should), ("host", name))
    for uuid, fields in snapshot.named(keys.gpu("")).items():
        by = set(filter(None, fields.get("drained_by", "").split(",")))
        if fields.get("host") in hashes:
            by = by - {"host"} | ({"host"} if hashes[fields["host"]].get("drained") == "1" else set())
        says_by = fields.get("drained_by", "")
        if set(filter(None, says_by.split(","))) != by:
            yield Difference(
                "drained_by", keys.gpu(uuid), says_by or ABSENT, ",".join(sorted(by)) or ABSENT, ("gpu", uuid)
            )
        if fields.get("drained", "0") != ("1" if by else "0"):
            yield Difference(
                "drained", keys.gpu(uuid), fields.get("drained", ABSENT), "1" if by else "0", ("gpu", uuid)
            )


def _deadlines(snapshot: Snapshot) -> Iterator[Difference]:
    """A deadline before the ledger's soonest would be missed."""
    keys = snapshot.keys
    soonest = float(snapshot.hashes.get(keys.ledger, {}).get("soonest") or 0)
    for key in (keys.leases, keys.waiting, keys.fresh):
        first = min(snapshot.index(key).values(), default=None)
        if first is not None and first < soonest:
            yield Difference(
                "soonest",
                keys.ledger,
                f"{soonest:.0f}",
                f"at most {first:.0f}, the first of {key}",
                ("ledger", "soonest"),
            )
