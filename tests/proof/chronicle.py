"""Takes a model through the journal of a script: each event must be lawful in the state that it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from tests.proof.model import Model
from tests.proof.records import Ask, Card, Lease, Tombstone, Waiter, Want
from tests.proof.step import Event, Step, Unlawful


@dataclass
class Chronicle:
    """The model, and what a script is about while its events are taken."""

    model: Model
    step: Step = field(default_factory=lambda: Step("", ()))
    #: The request of this very call, and whether it is a waiter's that stood in the queue before.
    ask: Ask | None = None
    #: A reservation was made since the last grant: then who was passed is not certain.
    unsure: bool = False
    #: Cards that were kept for a waiter until a moment ago.
    kept_before: dict[str, tuple[str, ...]] = field(default_factory=dict)
    uncertain_passes: bool = False

    def wrong(self, law: str, why: str) -> NoReturn:
        """This is not lawful."""
        raise Unlawful(f"{law}: {why}\nafter {self.step}\n{self.model}")

    def hold(self, law: str, true: bool, why: str) -> None:
        """This must be so."""
        if not true:
            self.wrong(law, why)

    def follow(self) -> None:
        """Take the events in their order."""
        self.unsure = self.uncertain_passes = False
        self.kept_before = {}
        for place, event in enumerate(self.step.events):
            self.hold("law 6", int(event["at"]) == self.model.now, f"{event} is not of {self.model.now}")
            handler = _HANDLERS.get(event["kind"])
            if handler is not None:
                handler(self, event, self.step.events[place + 1 :])

    # -- grants --------------------------------------------------------------------------------------------------------

    def _granted(self, event: Event, ahead: Sequence[Event]) -> None:
        m, name = self.model, event["id"]
        waiter = m.waiters.get(name)
        own = self.ask is not None and self.ask.id == name
        waits = waiter is not None and not (own and not _claimed(name, ahead))
        ask = waiter.ask if waiter and waits else self.ask if own else None
        if ask is None:
            self.wrong("law 9", f"{name} was granted, and nobody asked for it")
        self.hold("law 4", name not in m.leases, f"{name} was granted while it holds a lease")
        order = waiter.order if waiter else (-ask.priority, m.arrivals + 1)
        number, cards = int(event["choice"]), event["gpu_uuids"].split(",")
        self.hold("law 4", 1 <= number <= len(ask.wants), f"choice {number} of {ask.wants}")
        want = ask.wants[number - 1]
        self.hold(
            "law 4", (len(cards), int(event["memory_bytes"])) == (want.count, want.size), f"{want} were asked for"
        )
        self._lawful_cards(ask, cards, want.size)
        for better in ask.wants[: number - 1] if not self.unsure else ():
            self.hold("law 7", not m.places(ask, better), f"{better} was preferred, and fits")
        before = self._fitting_before(ask, order, cards)
        self._count_passes(ask, order, cards)
        self._new_token(event)
        m.waiters.pop(name, None)
        m.bring_usage_to_now(ask.tenant)
        waited = m.now - waiter.since if waiter else 0
        self.hold("law 7", int(event["waited_ms"]) == waited, f"it waited {waited} ms")
        m.leases[name] = Lease(
            name, m.token, tuple(cards), event["host"], want.size, ask.tenant, ask.priority, ask.ttl,
            m.now + (m.setting_ms("claim_seconds", 10) if waits else ask.ttl), m.now, "granted" if waits else "active",
            ask.nonce, ask, ask.host_memory, ask.cpus, waited=waited, choice=number,
        )  # fmt: skip
        self._sums_told(event, cards)
        self._none_wronged(name, before)

    def _lawful_cards(self, ask: Ask, cards: Sequence[str], size: int) -> None:
        m = self.model
        self.hold("law 8", len(set(cards)) == len(cards) and set(cards) <= set(m.cards), f"{cards} are no cards")
        total = size * len(cards)
        self.hold(
            "quota", m.within_quota(ask.tenant, total), f"{ask.tenant} holds {m.held_by(ask.tenant)}, and {total}"
        )
        hosts = {m.cards[uuid].host for uuid in cards}
        self.hold("law 8", len(hosts) == 1, f"one lease on {sorted(hosts)}")
        for uuid in cards:
            if why := m.obstacle(ask, m.cards[uuid], size):
                self.wrong("law 1" if "budget" in why else "law 8", f"{ask.id} may not have {uuid}: {why}")

    def _fitting_before(self, ask: Ask, order: tuple[int, int], cards: Sequence[str]) -> list[Waiter]:
        """Who comes before a request and could be served as well. One who was passed often enough to have a card kept
        for it does not stand back behind another tenant's share, nor behind one who has another card kept."""
        m = self.model
        kept = set(cards) <= set(self.kept_before.get(ask.id, ()))
        return [
            w for w in m.queue()
            if w.ask.id != ask.id and m.goes_before(w, ask, order) and m.choice(w.ask)
            and not (kept and w.ask.priority == ask.priority and (order < w.order or w.kept))
        ]  # fmt: skip

    def _none_wronged(self, name: str, before: list[Waiter]) -> None:
        """Law 7: nobody took what one who comes first could have had."""
        for waiter in before:
            if not self.model.choice(waiter.ask):
                self.wrong("law 7", f"{name} has what {waiter.ask.id} could have had, who comes first: {waiter.ask}")

    def _count_passes(self, ask: Ask, order: tuple[int, int], cards: Sequence[str]) -> None:
        """Law 7: who is passed too often has a card kept for it instead."""
        m, passed = self.model, dict[str, Waiter]()
        own, most = self.kept_before.get(ask.id, ()), int(m.setting("bypass_max", 64))
        for uuid in cards:
            if not m.cards[uuid].kept_for and uuid not in own:
                passed |= {w.ask.id: w for w in m.passed_by(ask.id, order, m.cards[uuid], most)}
        for name, waiter in passed.items():
            if waiter.passed >= most and m.reservable(waiter.ask) and not self.unsure:
                self.wrong("law 7", f"{name} was passed {waiter.passed} times, and now by {ask.id}")
            waiter.passed += 1
        self.uncertain_passes |= self.unsure
        self.unsure = False

    def _new_token(self, event: Event) -> None:
        self.model.token += 1
        told = int(event["token"])
        self.hold("law 5", told == self.model.token, f"token {told}, the next one was {self.model.token}")

    def _sums_told(self, event: Event, cards: Sequence[str]) -> None:
        m = self.model
        sums = [m.leased(uuid) for uuid in cards], [m.cards[uuid].budget for uuid in cards]
        told = tuple([int(n) for n in event[name].split(",")] for name in ("leased_bytes", "budget_bytes"))
        self.hold("law 1", told == sums, f"the journal says {told}, it is {sums}")

    def _claimed(self, event: Event, ahead: Sequence[Event]) -> None:
        lease = self.model.leases.get(event["id"])
        if lease is None or self.ask is None or lease.state != "granted" or lease.token != int(event["token"]):
            self.wrong("law 4", f"{event['id']} is not there to be claimed")
        lease.state, lease.ttl = "active", self.ask.ttl
        self.prolong(lease, self.ask.ttl)

    def prolong(self, lease: Lease, ttl: int) -> None:
        """A lease lives one TTL from now, a revoked one to its deadline at most."""
        now = self.model.now
        lease.ends, lease.state = now + ttl, "active"
        if lease.revoke_at:
            lease.ends = min(lease.ends, max(lease.revoke_at, now + 1))

    def _resized(self, event: Event, ahead: Sequence[Event]) -> None:
        m, lease, before = self.model, self.model.leases.get(event["id"]), list[Waiter]()
        if lease is None or lease.token != int(event["token"]) or lease.size != int(event["before_bytes"]):
            self.wrong("law 5", f"{event['id']} is not there to be resized: {lease}")
        waiter = m.waiters.get(f"{lease.id}+")
        more = int(event["memory_bytes"]) - lease.size
        own = self.step.name == "resize" and self.step.argv[0] == lease.id
        own = own and int(self.step.argv[2]) == int(event["memory_bytes"])
        if more > 0:
            self.hold("law 3", not m.is_over_or_gone(lease.id), f"{lease.id} grew after its time")
            if waiter and waiter.ask.wants[0].size != more:  # its holder asks for another size now
                waiter = m.waiters.pop(f"{lease.id}+") and None
            if waiter is None and not own:
                self.wrong("law 9", f"{lease.id} grew by {more}, and nobody asked for it")
            ask = waiter.ask if waiter else growth(lease, more)
            order = waiter.order if waiter else (-ask.priority, m.arrivals + 1)
            self._lawful_cards(ask, lease.cards, more)
            before = self._fitting_before(ask, order, lease.cards)
            self._count_passes(ask, order, lease.cards)
            m.waiters.pop(ask.id, None)
            self.hear(lease, waiter.ask.nonce if waiter and not own else str(self.step.argv[4]))
        else:
            self.hold("law 9", own, f"{lease.id} shrank, and nobody asked for it")
            m.waiters.pop(f"{lease.id}+", None)  # its holder wants no growth any more
            self.hear(lease, str(self.step.argv[4]))
        m.bring_usage_to_now(lease.tenant)
        lease.size += more
        self._sums_told(event, lease.cards)
        self._none_wronged(f"{lease.id}+", before)

    def _registered(self, event: Event, ahead: Sequence[Event]) -> None:
        self._sums_told(event, event["gpu_uuids"].split(","))

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _ending(self, event: Event) -> Lease:
        lease = self.model.leases.get(event["id"])
        if lease is None or lease.token != int(event["token"]):
            self.wrong("law 5", f"{event['kind']} of {event['id']} under token {event['token']}: there is {lease}")
        return lease

    def _released(self, event: Event, ahead: Sequence[Event]) -> None:
        lease = self._ending(event)
        self.hold("law 9", str(self.step.argv[0]) == lease.id, f"{lease.id} was released by {self.step.name}")
        self.model.end(lease, "cancelled" if self.step.name == "cancel" else "released", self.step.late)

    def _expired(self, event: Event, ahead: Sequence[Event]) -> None:
        lease, m = self._ending(event), self.model
        self._due(lease.ends <= m.now, lease.id)
        self.hold("law 9", lease.state == "active", f"{lease.id} expired as it was {lease.state}")
        m.waiters.pop(f"{lease.id}+", None)
        lease.state, lease.ends = "reclaiming", m.now + m.setting_ms("reclaim_seconds", 5)

    def _due(self, over: bool, what: str) -> None:
        self.hold("law 6", over, f"the time of {what} was not over")
        self.hold("law 6", self.model.now >= self.model.clock.grace_until, f"{what} ended while expiry pauses")

    def _reclaimed(self, event: Event, ahead: Sequence[Event]) -> None:
        lease, m = self._ending(event), self.model
        delay = m.setting_ms("reclaim_seconds", 5)
        self.hold("law 9", lease.state == "reclaiming" or delay == 0, f"{lease.id} lost its bytes while {lease.state}")
        if event["why"] == "seen":
            gone = (lease.id, str(lease.token), "gone")
            said = [self.step.argv[i : i + 3] for i in range(len(self.step.argv))]
            self.hold("law 9", gone in [tuple(map(str, s)) for s in said], f"nobody saw the end of {lease.id}")
            self.hold("law 9", lease.state == "reclaiming", f"{lease.id} lost its bytes while {lease.state}")
        else:
            self._due(lease.ends <= m.now, lease.id)
            seen = lease.seen_until > m.now and lease.state == "reclaiming"
            self.hold("law 9", not seen, f"{lease.id}'s process is still seen")
        m.end(lease, self._how(lease), self.step.late)

    def _how(self, lease: Lease) -> str:
        return "revoked" if 0 < lease.revoke_at <= self.model.now else "expired"

    def _unclaimed(self, event: Event, ahead: Sequence[Event]) -> None:
        lease = self._ending(event)
        self._due(lease.ends <= self.model.now and lease.state == "granted", lease.id)
        self.model.end(lease, self._how(lease), self.step.late)

    def _revoked(self, event: Event, ahead: Sequence[Event]) -> None:
        lease, at, m = self._ending(event), int(event["revoke_at"]), self.model
        self.hold("law 10", lease.state != "reclaiming", f"{lease.id} was revoked after its time")
        self.hold("law 10", not lease.revoke_at or at < lease.revoke_at, f"{lease.id} was told {lease.revoke_at}")
        if self.step.name == "acquire":
            ask = self.ask
            lawful = ask is not None and m.setting("preempt", 0) == 1 and lease.priority < ask.priority
            self.hold("law 9", lawful, f"{lease.id} made room for {ask}")
            grace = m.setting_ms("preempt_grace_seconds", 30)
        else:
            self.hold("law 9", self.step.name == "revoke", f"{lease.id} was revoked by {self.step.name}")
            grace = int(self.step.argv[1])
        self.hold("law 10", at == m.now + grace, f"{lease.id} was given {at - m.now} ms, {grace} it should be")
        lease.revoke_at, lease.ends, lease.reason = at, min(lease.ends, at), event["reason"]

    # -- the queue -----------------------------------------------------------------------------------------------------

    def _queued(self, event: Event, ahead: Sequence[Event]) -> None:
        m, ask = self.model, self.ask
        if ask is None or ask.id != event["id"]:
            self.wrong("law 7", f"{event['id']} was queued, and did not ask")
        if ask.grows and ask.id in m.waiters and m.waiters[ask.id].ask.wants != ask.wants:
            del m.waiters[ask.id]  # its holder asks for another size now
        self.hold("law 4", ask.id not in m.waiters and ask.id not in m.leases, f"{ask.id} stands in the queue twice")
        m.arrivals += 1
        deadline = m.now + m.setting_ms("waiter_seconds", 30)
        m.waiters[ask.id] = Waiter(ask, (-ask.priority, m.arrivals), m.now, deadline)

    def _cancelled(self, event: Event, ahead: Sequence[Event]) -> None:
        m, name = self.model, event["id"]
        waiter = m.waiters.pop(name, None)
        if waiter is None:
            self.wrong("law 7", f"{name} left a queue in which it did not stand")
        named = {str(self.step.argv[0]), f"{self.step.argv[0]}+"}
        self.hold("law 7", name in named, f"{name} left the queue in a {self.step.name} of {self.step.argv[0]}")
        if event["reason"] == "taken back" or (event["reason"] == "waited long enough" and self.step.name == "acquire"):
            if waiter.ask.grows:
                self.hear(m.leases[waiter.ask.grows], waiter.ask.nonce)
            else:
                self.forgo(name, self.ask.nonce if self.ask else waiter.ask.nonce)

    def forgo(self, name: str, nonce: str) -> None:
        """A call under this name was refused: a copy of it takes nothing."""
        if nonce:
            stone = self.model.ended.get(name)
            if stone is None or stone.until <= self.step.early:
                stone = Tombstone(0, "refused", "", 0)
            self.model.ended[name] = replace(stone, refused=nonce, until=self.step.late + 60_000)

    def hear(self, lease: Lease, nonce: str) -> None:
        """A call on a lease had its answer."""
        if nonce:
            lease.calls = [nonce, *lease.calls][:8]

    def _dropped(self, event: Event, ahead: Sequence[Event]) -> None:
        waiter = self.model.waiters.pop(event["id"], None)
        if waiter is None:
            self.wrong("law 7", f"{event['id']} was dropped from a queue in which it did not stand")
        self._due(waiter.deadline < self.model.now, event["id"])
        self.model.ended[event["id"]] = Tombstone(0, "dropped", "", self.step.late + 60_000)

    def _reserved(self, event: Event, ahead: Sequence[Event]) -> None:
        m, waiter = self.model, self.model.waiters.get(event["id"])
        if waiter is None or waiter.kept:
            self.wrong("law 7", f"cards were kept for {event['id']}: {waiter}")
        preempts = m.setting("preempt", 0) == 1 and self.ask is not None and self.ask.id == waiter.ask.id
        often = waiter.passed >= int(m.setting("bypass_max", 64))
        self.hold("law 7", preempts or often, f"{waiter.ask.id} was passed only {waiter.passed} times")
        cards = [m.cards[uuid] for uuid in event["gpu_uuids"].split(",")]
        number = m.reservable(waiter.ask)
        self.hold("law 7", number > 0, f"no card could ever hold {waiter.ask}")
        one_host = len({card.host for card in cards}) == 1
        able = [
            want for want in (waiter.ask.wants if preempts else waiter.ask.wants[number - 1 : number])
            if len(cards) == want.count and all(m.could_hold(waiter.ask, card, want.size) for card in cards)
        ]  # fmt: skip
        self.hold("law 7", bool(able) and one_host, f"{waiter.ask} could not be held by {cards}")
        for card in cards:
            card.kept_for, card.kept_bytes = waiter.ask.id, able[0].size
        waiter.kept, self.unsure = tuple(card.uuid for card in cards), True
        if waiter.ask.host_memory or waiter.ask.cpus:
            host = m.hosts[cards[0].host]
            self.hold("law 7", not host.kept_for, f"{host.name}'s own is kept for {host.kept_for}")
            waiter.kept_host, host.kept_for = host.name, waiter.ask.id
            host.kept_memory, host.kept_cpus = waiter.ask.host_memory, waiter.ask.cpus

    def _unreserved(self, event: Event, ahead: Sequence[Event]) -> None:
        uuids = tuple(event["gpu_uuids"].split(","))
        for uuid in uuids:
            if uuid in self.model.cards:
                self.hold("law 7", self.model.cards[uuid].kept_for == event["id"], f"{uuid} was not kept for it")
                self.model.cards[uuid].kept_for = ""
        self.kept_before[event["id"]] = uuids
        for host in self.model.hosts.values():
            if host.kept_for == event["id"]:
                host.kept_for, host.kept_memory, host.kept_cpus = "", 0, 0
        waiter = self.model.waiters.get(event["id"])
        if waiter is not None:
            waiter.kept, waiter.kept_host = (), ""

    # -- cards, the ledger ---------------------------------------------------------------------------------------------

    def _state(self, event: Event, ahead: Sequence[Event]) -> None:
        card = self.model.cards.get(event["gpu"])
        if card is None:
            self.wrong("law 8", f"{event['gpu']} is not known")
        if event["reason"].startswith("no sample since"):
            self.close_silent(card)
        self.hold("law 8", card.state == event["to"], f"{card.uuid} became {event['to']}, it should be {card.state}")

    def close_silent(self, card: Card) -> None:
        """A card without a fresh sample closes."""
        self.hold("law 8", card.fresh_until < self.model.now, f"{card.uuid} was closed, its sample is fresh")
        card.state = "UNAVAILABLE"

    def _short(self, event: Event, ahead: Sequence[Event]) -> None:
        card = self.model.cards[event["gpu"]]
        self.hold("law 1", self.model.leased(card.uuid) > card.budget, f"{card.uuid} is not short")

    def _epoch(self, event: Event, ahead: Sequence[Event]) -> None:
        m, epoch = self.model, int(event["epoch"])
        self.hold("law 5", (epoch << 23) > m.token, f"the epoch {epoch} begins at or below token {m.token}")
        self.hold("law 5", event["why"] == ("primary" if m.born else "born"), f"born before: {m.born}")
        m.epoch, m.token, m.born = epoch, epoch << 23, True

    def _settling(self, event: Event, ahead: Sequence[Event]) -> None:
        m = self.model
        until = max(m.settling_until, m.now + m.setting_ms("grace_seconds", 15))
        self.hold("law 11", int(event["settling_until"]) == until, f"it settles until {until}")
        self.settle(until)

    def settle(self, until: int) -> None:
        """Nothing is lent, and nothing ends, until then."""
        m = self.model
        m.settling_until = until
        m.clock = replace(m.clock, grace_until=max(m.clock.grace_until, until))


def growth(lease: Lease, more: int) -> Ask:
    """The request of a lease that wants so many bytes more of each of its cards."""
    return Ask(
        f"{lease.id}+", (Want(len(lease.cards), more),), lease.ttl, lease.host, "", lease.priority, lease.tenant,
        grows=lease.id, own_cards=lease.cards,
    )  # fmt: skip


def _claimed(name: str, ahead: Sequence[Event]) -> bool:
    return any(event["kind"] == "claimed" and event["id"] == name for event in ahead)


_HANDLERS: dict[str, Callable[[Chronicle, Event, Sequence[Event]], None]] = {
    "granted": Chronicle._granted,
    "claimed": Chronicle._claimed,
    "resized": Chronicle._resized,
    "registered": Chronicle._registered,
    "adopted": Chronicle._registered,
    "released": Chronicle._released,
    "expired": Chronicle._expired,
    "reclaimed": Chronicle._reclaimed,
    "unclaimed": Chronicle._unclaimed,
    "revoked": Chronicle._revoked,
    "queued": Chronicle._queued,
    "cancelled": Chronicle._cancelled,
    "dropped": Chronicle._dropped,
    "reserved": Chronicle._reserved,
    "unreserved": Chronicle._unreserved,
    "state": Chronicle._state,
    "short": Chronicle._short,
    "epoch": Chronicle._epoch,
    "settling": Chronicle._settling,
}
