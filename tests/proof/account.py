"""The copy of a pool, and the sums that follow from its leases alone, kept up to date lease by lease."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import redis

from tests.proof.mirror import Mirror, Step

#: The law that was broken, and how, in words.
Finding = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a lease's hash says it holds; ``memory_bytes`` on each of its cards."""

    token: int
    cards: tuple[str, ...]
    memory_bytes: int
    tenant: str
    host: str
    host_memory: int
    cpus: int

    @classmethod
    def of(cls, lease: dict[str, str]) -> Claim:
        """The claim in a lease's hash."""
        return cls(
            int(lease["token"]), tuple(lease["gpu_uuids"].split(",")), int(lease["memory_bytes"]), lease["tenant"],
            lease["host"], int(lease.get("host_memory_bytes") or 0), int(lease.get("cpus_milli") or 0),
        )  # fmt: skip


class Account:
    """What a checker knows of a pool: its copy, and beside it what the copy's leases add up to."""

    def __init__(self, root: str) -> None:
        """Start with an empty pool, whose keys begin with ``root``."""
        self.mirror = Mirror(root)
        #: The largest token ever granted; a ledger that was lost must go on above it.
        self.top_token = 0
        self.kinds: Counter[str] = Counter()
        self.forget()

    def forget(self) -> None:
        """The pool was emptied."""
        self.claims: dict[str, Claim] = {}
        self.tokens: dict[int, str] = {}
        self.on_card: dict[str, dict[str, int]] = defaultdict(dict)
        self.of_tenant: Counter[str] = Counter()
        self.memory_of_host: Counter[str] = Counter()
        self.cpus_of_host: Counter[str] = Counter()
        self.reserved_by: dict[str, set[str]] = defaultdict(set)
        self.lines_of: dict[str, set[str]] = defaultdict(set)
        self.lined = False
        self.class_of: dict[str, str] = {}
        self.seq = self.at = 0

    def load(self, client: redis.Redis) -> None:
        """Take the pool as it stands, read through a client; nothing else may write meanwhile."""
        self.mirror.load(client)
        self.forget()
        step = Step((), before=dict.fromkeys(self.mirror.hashes))
        step.members.update({key: set(zset) for key, zset in self.mirror.zsets.items()})
        self.seq = int(self.mirror.hash("ledger").get("seq", 0))
        self.top_token = max(self.top_token, int(self.mirror.hash("ledger").get("token", 0)))
        self.take(step)

    def take(self, step: Step) -> set[str]:
        """Take over what a transaction changed; returns the cards whose sums and indexes are to be looked at."""
        cards = set(step.suffixes("gpu:"))
        for key, members in step.members.items():
            if key in ("free", "reserved", "fresh", "capacity", "gpus") or key.startswith("free@"):
                cards |= members
            elif key.startswith("line:"):
                self.lined = True
                for waiter in members:
                    here = waiter in self.mirror.zset(key)
                    (self.lines_of[waiter].add if here else self.lines_of[waiter].discard)(key[5:])
        for lease_id in step.suffixes("lease:"):
            cards |= self._reclaim(lease_id)
        for uuid in step.suffixes("gpu:"):
            self._index_card(uuid, step.before[f"gpu:{uuid}"] or {})
        return cards

    def _reclaim(self, lease_id: str) -> set[str]:
        """Bring the sums to what the lease's hash says now."""
        fields = self.mirror.hashes.get(f"lease:{lease_id}")
        old, new = self.claims.pop(lease_id, None), Claim.of(fields) if fields and "token" in fields else None
        if new:
            self.claims[lease_id] = new
        if old == new:
            return set()
        for claim, sign in ((old, -1), (new, 1)):
            if claim is None:
                continue
            for uuid in claim.cards:
                if sign < 0:
                    self.on_card[uuid].pop(lease_id, None)
                else:
                    self.on_card[uuid][lease_id] = claim.memory_bytes
            self.of_tenant[claim.tenant] += sign * claim.memory_bytes * len(claim.cards)
            self.memory_of_host[claim.host] += sign * claim.host_memory
            self.cpus_of_host[claim.host] += sign * claim.cpus
        return {uuid for claim in (old, new) if claim for uuid in claim.cards}

    def _index_card(self, uuid: str, before: dict[str, str]) -> None:
        now = self.mirror.hash(f"gpu:{uuid}")
        old, new = before.get("reserved_for", ""), now.get("reserved_for", "")
        if old != new:
            self.reserved_by[old].discard(uuid)
            self.reserved_by[new].add(uuid)
        if now.get("class"):
            self.class_of[uuid] = now["class"]
        else:
            self.class_of.pop(uuid, None)
