"""A whole pool, read in bounded batches: what can be recomputed, and what it is recomputed from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker import plans

if TYPE_CHECKING:
    from broker.ledger.keys import Keys

_BATCH = 500


@dataclass(slots=True)
class Snapshot:
    """Everything of one pool that can be recomputed, and what it is recomputed from."""

    keys: Keys
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    sorted_sets: dict[str, dict[str, float]] = field(default_factory=dict)
    sets: dict[str, set[str]] = field(default_factory=dict)

    def named(self, prefix: str) -> dict[str, dict[str, str]]:
        """The hashes whose keys begin so, by the rest of their keys."""
        found = self.hashes.items()
        return {key.removeprefix(prefix): fields for key, fields in found if key.startswith(prefix)}

    def index(self, key: str) -> dict[str, float]:
        """A sorted set, empty if it is not there."""
        return self.sorted_sets.get(key, {})


def read(keys: Keys) -> plans.Plan[Snapshot]:
    """The pool's keys by SCAN, so that what no index names is seen too; then each by its type."""
    names: set[str] = set()
    cursor = "0"
    while True:
        ((cursor, page),) = yield [("SCAN", cursor, "MATCH", f"{keys.root}*", "COUNT", 1000)]
        names.update(page)
        if str(cursor) == "0":
            break
    snapshot = Snapshot(keys)
    hashes = [name for name in sorted(names) if name.startswith(_hash_prefixes(keys)) or name == keys.classes]
    for batch in _batches([keys.ledger, *hashes]):
        replies = yield [("HGETALL", name) for name in batch]
        snapshot.hashes |= {name: reply for name, reply in zip(batch, replies, strict=True) if reply}
    for name in (keys.gpus, keys.hosts, keys.tenants, keys.groups, keys.stale):
        (members,) = yield [("SMEMBERS", name)]
        snapshot.sets[name] = set(members)
    for name in sorted(name for name in names if name.startswith(_index_prefixes(keys))):
        snapshot.sorted_sets[name] = yield from _sorted_set(name)
    return snapshot


def _hash_prefixes(keys: Keys) -> tuple[str, ...]:
    return tuple(make("") for make in (keys.gpu, keys.lease, keys.waiter, keys.host, keys.tenant))


def _index_prefixes(keys: Keys) -> tuple[str, ...]:
    own = (keys.free, keys.fresh, keys.capacity, keys.leases, keys.waiters, keys.waiting, keys.wide, keys.reserved)
    return (*own, keys.lines(""), keys.line(""))


def _batches(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _BATCH):
        yield names[start : start + _BATCH]


def _sorted_set(name: str) -> plans.Plan[dict[str, float]]:
    found: dict[str, float] = {}
    start = 0
    while True:
        (reply,) = yield [("ZRANGE", name, start, start + _BATCH - 1, "WITHSCORES")]
        # Pairs or one flat list, as the client's protocol has it.
        pairs = reply if reply and not isinstance(reply[0], str) else list(zip(reply[::2], reply[1::2], strict=True))
        found |= {member: float(score) for member, score in pairs}
        start += _BATCH
        if len(pairs) < _BATCH:
            return found
