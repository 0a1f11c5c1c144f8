"""A pool as plain Python values: what there is, what is held, who waits; and what the laws say of it.

No Redis here. Where the ledger is free (which of several lawful cards), the model has no opinion; where it is not (who
may be granted what, who comes first, what is over), the model decides by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.proof.clock import LedgerClock
from tests.proof.records import LENDS, Ask, Card, Host, Lease, Tenant, Tombstone, Waiter, Want

MIB, GIB = 1 << 20, 1 << 30
#: Milliseconds that the end of a lease is remembered under its name.
REMEMBERED = 60_000
#: Of the decay of usage: an hour's half-life / ln 2, in seconds.
TAU = 5193.7


@dataclass(slots=True)
class Model:
    """One pool. Times are milliseconds of the ledger's clock."""

    clock: LedgerClock = field(default_factory=LedgerClock)
    cards: dict[str, Card] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    waiters: dict[str, Waiter] = field(default_factory=dict)
    ended: dict[str, Tombstone] = field(default_factory=dict)
    tenants: dict[str, Tenant] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    version: int = 0
    primary: str = ""
    born: bool = False
    epoch: int = 0
    token: int = 0
    arrivals: int = 0
    settling_until: int = 0

    def __str__(self) -> str:
        """Cards, leases and queue, a line each."""
        cards = [
            f"{c.uuid} of {c.host}: {c.state}, {self.leased(c.uuid) / GIB:g} of {c.budget / GIB:g} GiB lent,"
            f" fresh for {c.fresh_until - self.now}, kept for {c.kept_for or 'nobody'}"
            for c in self.cards.values()
        ]
        held = [f"{le.id} holds {le.size / GIB:g} GiB of {le.cards}, {le.state}" for le in self.leases.values()]
        queue = [
            f"{w.ask.id} of {w.ask.tenant} waits for {[f'{x.count}x{x.size / GIB:g}' for x in w.ask.wants]} GiB,"
            f" order {w.order}, passed {w.passed}, kept {w.kept}, {w.ask.host}{w.ask.gpu}{w.ask.labels}"
            for w in self.queue()
        ]
        shares = [f"{name} used {self.share(name):.1f} of its share" for name in self.tenants]
        return "\n".join((*cards, *held, *queue, *shares, f"{self.config}"))

    @property
    def now(self) -> int:
        """The ledger's time in the last script that wrote."""
        return self.clock.clock_ms

    def setting(self, name: str, default: float) -> float:
        """A number of the configuration."""
        return float(self.config.get(name, default))

    def setting_ms(self, name: str, default: float) -> int:
        """Seconds of the configuration, in milliseconds."""
        return math.floor(self.setting(name, default) * 1000)

    def shift(self, ms: int) -> None:
        """Let so much time pass, see ``clock.py``."""
        self.clock = self.clock.moved(ms)
        self.settling_until -= ms if self.settling_until else 0
        for lease in self.leases.values():
            lease.ends -= ms
            lease.created -= ms
            lease.revoke_at -= ms if lease.revoke_at else 0
            lease.seen_until -= ms if lease.seen_until else 0
        for waiter in self.waiters.values():
            waiter.since -= ms
            waiter.deadline -= ms
        for card in self.cards.values():
            card.fresh_until -= ms
        for stone in self.ended.values():
            stone.until -= ms
        for tenant in self.tenants.values():
            tenant.usage_at -= ms

    # -- sums, from the leases alone -----------------------------------------------------------------------------------

    def leased(self, uuid: str) -> int:
        """Bytes lent of a card."""
        return sum(lease.size for lease in self.leases.values() if uuid in lease.cards)

    def totals(self, lease: Lease) -> str:
        """The whole memory of each of a lease's cards, 0 where it is not known, as a grant tells it."""
        return ",".join(str(self.cards[uuid].total if uuid in self.cards else 0) for uuid in lease.cards)

    def free(self, card: Card) -> int:
        """Bytes of a card within its budget that nobody holds."""
        return max(0, card.budget - self.leased(card.uuid))

    def held_by(self, tenant: str) -> int:
        """Bytes that a tenant holds over all cards."""
        return sum(lease.total for lease in self.leases.values() if lease.tenant == tenant)

    def lent_of_host(self, host: str) -> tuple[int, int]:
        """A host's own memory and thousandths of processors that are lent."""
        there = [lease for lease in self.leases.values() if lease.host == host]
        return sum(lease.host_memory for lease in there), sum(lease.cpus for lease in there)

    def host(self, name: str) -> Host:
        """What is known of a host; nothing, if there is none."""
        return self.hosts.get(name) or Host(name)

    def queue(self) -> list[Waiter]:
        """Those who wait, by priority, then arrival."""
        return sorted(self.waiters.values(), key=lambda waiter: waiter.order)

    # -- tenants -------------------------------------------------------------------------------------------------------

    def usage(self, name: str) -> float:
        """MiB-seconds that a tenant used by now, decayed."""
        tenant = self.tenants.get(name) or Tenant(usage_at=self.now)
        seconds = (self.now - tenant.usage_at) / 1000
        if seconds <= 0:
            return tenant.usage
        kept = math.exp(-seconds / TAU)
        return tenant.usage * kept + self.held_by(name) / MIB * TAU * (1 - kept)

    def bring_usage_to_now(self, name: str) -> Tenant:
        """Before what a tenant holds is changed."""
        usage = self.usage(name)
        tenant = self.tenants.setdefault(name, Tenant())
        tenant.usage, tenant.usage_at = usage, self.now
        return tenant

    def share(self, name: str) -> float:
        """Who has the smaller share goes first."""
        weight = self.tenants[name].weight if name in self.tenants else 1000
        return self.usage(name) / (weight / 1000)

    def within_quota(self, tenant: str, more: int) -> bool:
        """Whether a tenant may hold so many bytes more."""
        quota = self.tenants[tenant].quota if tenant in self.tenants else 0
        return quota == 0 or self.held_by(tenant) + more <= quota

    # -- where a request may go ----------------------------------------------------------------------------------------

    @property
    def settling(self) -> bool:
        """Whether holders still register, and nothing is lent."""
        return self.now < self.settling_until

    def open(self, card: Card) -> bool:
        """Law 8: whether the card lends at all."""
        return card.state in LENDS and not card.drained_by and card.fresh_until >= self.now

    def host_lacks(self, ask: Ask, name: str) -> bool:
        """Whether the host itself has too little left for the request."""
        memory, cpus = self.lent_of_host(name)
        host = self.host(name)
        keeper = self.waiters.get(host.kept_for)
        if host.kept_for not in ("", ask.id) and (keeper is None or keeper.ask.priority >= ask.priority):
            memory, cpus = memory + host.kept_memory, cpus + host.kept_cpus
        return (ask.host_memory > 0 and memory + ask.host_memory > host.memory) or (
            ask.cpus > 0 and cpus + ask.cpus > host.cpus
        )

    def host_too_small(self, ask: Ask, name: str) -> bool:
        """Whether the host would have too little even with nothing lent."""
        return ask.host_memory > self.host(name).memory or ask.cpus > self.host(name).cpus

    def selects(self, ask: Ask, card: Card) -> bool:
        """Whether the request would take this card of all."""
        if ask.grows:
            return card.uuid in ask.own_cards and card.host == ask.host
        if ask.host not in ("", card.host) or ask.gpu not in ("", card.uuid):
            return False
        return self.suits(ask, card)

    def suits(self, ask: Ask, card: Card) -> bool:
        """Whether the card is of a class that the request selects."""
        return _capable(card.capability, ask.capability) and _has_mig(card.mig, ask.mig) and _has_labels(card, ask)

    def obstacle(self, ask: Ask, card: Card, size: int) -> str:
        """Why the request may not have so many bytes of the card now; empty if it may."""
        keeper = self.waiters.get(card.kept_for)
        if self.settling:
            return "holders still register"
        if not self.selects(ask, card):
            return "it is not what was selected"
        if not self.open(card):
            return f"it does not lend: {card.state}, drained by {card.drained_by}, fresh until {card.fresh_until}"
        if card.kept_for not in ("", ask.id) and (keeper is None or keeper.ask.priority >= ask.priority):
            return f"it is kept for {card.kept_for}"
        if self.leased(card.uuid) + size > card.budget:
            return f"{self.leased(card.uuid)} of its budget of {card.budget} are lent"
        if self.host_lacks(ask, card.host):
            return "its host has too little left"
        return ""

    def could_hold(self, ask: Ask, card: Card, size: int) -> bool:
        """Whether the card could serve the request if its other leases ended."""
        return self.open(card) and card.budget >= size and not card.kept_for and self.selects(ask, card)

    def places(self, ask: Ask, want: Want) -> list[list[Card]]:
        """For each host that has enough lawful cards for one alternative: these cards."""
        if not self.within_quota(ask.tenant, want.count * want.size):
            return []
        if ask.grows and self.is_over_or_gone(ask.grows):
            return []
        fitting = [card for card in self.cards.values() if not self.obstacle(ask, card, want.size)]
        return [cards for cards in _by_host(fitting) if len(cards) >= want.count]

    def choice(self, ask: Ask) -> int:
        """The first alternative that can be served now, from 1 on; 0 if none can."""
        return next((i for i, want in enumerate(ask.wants, 1) if self.places(ask, want)), 0)

    def reservable(self, ask: Ask) -> int:
        """The first alternative for which cards could be kept, from 1 on; 0 if there is none."""
        own = ask.host_memory > 0 or ask.cpus > 0
        for number, want in enumerate(ask.wants, 1):
            if not self.within_quota(ask.tenant, want.count * want.size):
                continue
            able = [c for c in self.cards.values() if self.could_hold(ask, c, want.size)]
            able = [c for c in able if not self.host_too_small(ask, c.host)]
            able = [c for c in able if not (own and self.host(c.host).kept_for)]
            if any(len(cards) >= want.count for cards in _by_host(able)):
                return number
        return 0

    def is_over_or_gone(self, lease_id: str) -> bool:
        """Whether a lease may not grow any more."""
        lease = self.leases.get(lease_id)
        return lease is None or lease.state == "reclaiming" or lease.ends <= self.now

    def could_use(self, ask: Ask, card: Card) -> bool:
        """Whether the request could use the card, but for room on it."""
        peers = len(self.host(card.host).gpus)
        return (
            self.could_hold(ask, card, 1)
            and not self.host_too_small(ask, card.host)
            and any(
                want.size <= card.budget
                and (want.count == 1 or peers >= want.count)
                and self.within_quota(ask.tenant, want.count * want.size)
                for want in ask.wants
            )
        )

    def passed_by(self, ask_id: str, order: tuple[int, int], card: Card, most: int) -> list[Waiter]:
        """Whom a grant of this card's bytes passes: the first in line that wants more of it than there is; behind one
        who was passed often enough, and can have no card kept for it, the next one too."""
        passed = list[Waiter]()
        for waiter in self.queue():
            before = waiter.order < order and waiter.ask.id != ask_id
            if before and not waiter.kept and self.could_use(waiter.ask, card):
                passed.append(waiter)
                if waiter.passed < most:
                    break
        return passed

    def goes_before(self, one: Waiter, ask: Ask, order: tuple[int, int]) -> bool:
        """Whether a waiter certainly comes before another request. Shares that are about equal decide nothing."""
        if one.ask.priority != ask.priority:
            return one.ask.priority > ask.priority
        if one.ask.tenant == ask.tenant:
            return one.order < order
        return self.share(one.ask.tenant) * 1.01 + 1 < self.share(ask.tenant)

    # -- whether it could ever be --------------------------------------------------------------------------------------

    def largest_capacity(self, ask: Ask) -> int | None:
        """Of the cards that a request may use; ``None`` if it selects by class, then nobody can tell."""
        if ask.gpu:
            return self.cards[ask.gpu].capacity if ask.gpu in self.cards else 0
        if ask.host:
            known = [self.cards[uuid] for uuid in self.host(ask.host).gpus if uuid in self.cards]
            return max((card.capacity for card in known), default=0)
        return max((card.capacity for card in self.cards.values()), default=0) if ask.plain else None

    def not_there(self, ask: Ask) -> str:
        """What the request selects that the pool has not got now."""
        if ask.host and not self.host(ask.host).joined:
            return "host"
        if ask.gpu and ask.gpu not in self.cards:
            return "gpu"
        known = [self.cards[ask.gpu]] if ask.gpu else self.cards.values()
        nameless = Card("", "")
        suits = [c for c in (*known, *(() if ask.gpu else (nameless,))) if self.suits(ask, c)]
        return "" if ask.plain or suits else "selector"

    def never(self, ask: Ask) -> tuple[str, bool]:
        """Why no alternative could ever be served as the pool is, and whether what lacks may come by itself."""
        capacity, missing = self.largest_capacity(ask) or 0, self.not_there(ask)
        if ask.gpu and ask.host and ask.gpu in self.cards and self.cards[ask.gpu].host != ask.host:
            return "gpu", False
        quota = self.tenants[ask.tenant].quota if ask.tenant in self.tenants else 0
        why, may_come = "", False
        for want in ask.wants:
            this = "size" if 0 < capacity < want.size else "quota" if 0 < quota < want.count * want.size else ""
            if not this and not missing:
                this, untold = self._beyond(ask, want)
                may_come |= untold
            if not this:
                return missing, True
            why = this if why in ("", "size") else why
        return why, may_come

    def _beyond(self, ask: Ask, want: Want) -> tuple[str, bool]:
        """What no host has at all; and whether one may yet tell of more."""
        names = [h.name for h in self.hosts.values() if h.joined]
        if ask.gpu or ask.host:
            names = [self.cards[ask.gpu].host if ask.gpu else ask.host]
        lacking, untold = list[str](), False
        for host in (self.host(name) for name in names):
            narrow = want.count > 1 and len(host.gpus) < want.count
            lacks = (
                "host_memory" if ask.host_memory > host.memory else
                "cpus" if ask.cpus > host.cpus else "cards" if narrow else ""
            )  # fmt: skip
            if not lacks:
                return "", False
            lacking += [lacks] if host.joined else []
            untold |= lacks != "cards" and host.memory == 0 and host.cpus == 0
        return (lacking[0] if len(set(lacking)) == 1 else "something" if lacking else ""), untold

    # -- changes that others follow from -------------------------------------------------------------------------------

    def end(self, lease: Lease, how: str, raw: int) -> None:
        """A lease ends: what it held comes back, and its name is remembered for a minute."""
        self.bring_usage_to_now(lease.tenant)
        del self.leases[lease.id]
        self.waiters.pop(f"{lease.id}+", None)
        self.ended[lease.id] = Tombstone(lease.token, how, lease.nonce, raw + REMEMBERED)
        for uuid in lease.cards:
            self.forget_if_left(uuid)
        if lease.host_memory or lease.cpus:
            self.forget_host_if_left(lease.host)

    def forget_if_left(self, uuid: str) -> None:
        """A card whose agent left goes with its last lease, unless an operator's mark is on it."""
        card = self.cards.get(uuid)
        if card and card.left and not card.drained_by and not self.leased(uuid):
            del self.cards[uuid]

    def forget_host_if_left(self, name: str) -> None:
        """A host whose agent left goes with the last lease of its own memory, unless it is drained."""
        host = self.hosts.get(name)
        if host and not host.joined and not host.drained and self.lent_of_host(name) == (0, 0):
            del self.hosts[name]


def _by_host(cards: Iterable[Card]) -> list[list[Card]]:
    hosts: dict[str, list[Card]] = {}
    for card in cards:
        hosts.setdefault(card.host, []).append(card)
    return list(hosts.values())


def _capable(has: str, least: str) -> bool:
    def number(text: str) -> tuple[int, int]:
        major, _, minor = text.partition(".")
        return int(major or -1), int(minor or 0)

    return not least or number(has) >= number(least)


def _has_mig(has: str, asked: str) -> bool:
    if asked in ("none", "only"):
        return bool(has) == (asked == "only")
    return asked in ("", has)


def _has_labels(card: Card, ask: Ask) -> bool:
    return set(filter(None, ask.labels.split(","))) <= set(card.labels.split(","))
