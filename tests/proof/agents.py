"""What the commands of agents, and of a ledger that lost something, must answer, and must have done."""

from __future__ import annotations

from broker.errors import LeaseConflict, LeaseLost, StaleToken
from tests.proof.court import Court
from tests.proof.records import Ask, Card, Host, Lease, Want
from tests.proof.reports import Sample, Verdict


class Agents(Court):
    """Publish, leave, adopt, register and hello."""

    def publish_sample(self, *argv: str | int) -> None:
        """A host's sample."""
        m, sample = self.model, Sample.parse(*argv)
        host = m.hosts.get(sample.host)
        if host and host.life and (
            sample.sequence <= host.sequence if host.life == sample.life
            else sample.life in host.lives or (sample.sequence > 1 and host.joined)
        ):  # fmt: skip
            self.hold("law 8", self.step.reply[0] == "late", f"it is no news: {self.step.reply}")
            return None
        self.begin()
        gone = [v.id for v in sample.verdicts if v.verdict == "gone" and self._is_reclaiming(v, sample.host)]
        over = {lease.id for lease in m.leases.values() if lease.state == "reclaiming"}
        refused = self._take_sample(sample, host or m.hosts.setdefault(sample.host, Host(sample.host)))
        back = {name for name in over if m.leases[name].state == "active"}
        told = {event["id"] for event in self.step.events if event["kind"] == "revived"}
        self.hold("journal", back == told, f"{back} were seen again, the journal says {told}")
        self.follow()
        self.hold("law 9", not set(gone) & set(m.leases), f"{gone} were seen to be gone, and their bytes still count")
        self.answer(m.now, m.epoch, *refused)
        return self.finish()

    def _take_sample(self, sample: Sample, host: Host) -> list[str]:
        m = self.model
        born = [event for event in self.step.events if event["kind"] == "epoch"]
        epoch = int(born[0]["epoch"]) if born else m.epoch
        recent = m.now // 1000 - 1_735_689_600 - epoch < 60
        unsettled = m.settling or not m.settling_until
        settles = 0 < sample.known_epoch < epoch and host.epoch != epoch and unsettled and recent
        told = any(event["kind"] == "settling" for event in self.step.events)
        self.hold("law 11", settles == told, f"an agent that knows {sample.known_epoch} of {epoch}: {told}")
        fresh_until = min(m.now, sample.read_at or m.now) + 3 * sample.interval
        refused, taken = [], []
        for report in sample.reports:
            card = m.cards.get(report.uuid)
            other = card is not None and card.host != sample.host
            if card and other and card.state != "UNAVAILABLE" and card.fresh_until >= m.now:
                refused.append(report.uuid)
                continue
            card = card or m.cards.setdefault(report.uuid, Card(report.uuid, sample.host))
            self._move(card, sample.host)
            card.left, card.fresh_until, card.state = False, fresh_until, report.state
            card.capability, card.mig, card.labels = report.capability, report.mig, sample.labels
            card.processes = dict(report.processes)
            card.unmanaged = report.unmanaged
            card.total = report.total or 0
            if report.total is not None and report.unmanaged is not None:
                card.capacity = self._capacity(report.uuid, report.total)
                card.budget = max(0, card.capacity - report.unmanaged)
            if host.drained:
                card.drained_by.add("host")
            card.drained_by -= {"health", "people"}
            card.drained_by |= set(filter(None, report.marks.split(",")))
            taken.append(report.uuid)
        for uuid in host.gpus:
            if uuid not in taken and uuid in m.cards and m.cards[uuid].host == sample.host:
                m.cards[uuid].state = "UNAVAILABLE"
                taken.append(uuid)
        if host.life not in ("", sample.life):
            host.lives = [host.life, *host.lives][:8]
        host.joined, host.gpus, host.life, host.sequence = True, taken, sample.life, sample.sequence
        host.epoch, host.memory, host.cpus = epoch, sample.memory, sample.cpus
        for verdict in sample.verdicts:
            lease = m.leases.get(verdict.id)
            if lease and lease.token == verdict.token and lease.host == sample.host and verdict.verdict == "alive":
                lease.seen_until = fresh_until
                if lease.adopted and (lease.state == "active" or not lease.revoke_at):
                    self.prolong(lease, lease.ttl)
        return refused

    def _move(self, card: Card, to: str) -> None:
        """A card that is another host's now has nothing of the old one's."""
        if card.host != to:
            old = self.model.host(card.host)
            old.gpus = [uuid for uuid in old.gpus if uuid != card.uuid]
            card.host = to
            card.drained_by.discard("host")

    def _is_reclaiming(self, verdict: Verdict, host: str) -> bool:
        lease = self.model.leases.get(verdict.id)
        return bool(lease and (lease.token, lease.host, lease.state) == (verdict.token, host, "reclaiming"))

    def _capacity(self, uuid: str, total: int) -> int:
        m = self.model
        limit = m.config.get(f"memory_limit_mb@{uuid}", m.config.get("memory_limit_mb"))
        reserve = m.config.get(f"memory_reserve_mb@{uuid}", m.config.get("memory_reserve_mb", "512"))
        return max(0, min(total, int(limit) << 20 if limit else total) - (int(reserve) << 20))

    def leave(self, name: str) -> None:
        """An agent says goodbye."""
        m, host = self.model, self.model.hosts.get(name)
        if host is None or not host.joined:
            return self.answer("unknown")
        self.begin()
        for uuid in host.gpus:
            card = m.cards.get(uuid)
            if card and card.host == name:
                card.state, card.left = "UNAVAILABLE", True
                card.drained_by -= {"health", "people"}
        host.joined, host.life, host.sequence, host.memory, host.cpus = False, "", 0, 0, 0
        self.follow()
        for uuid in host.gpus:
            m.forget_if_left(uuid)
        host.gpus = host.gpus if host.drained else []
        m.forget_host_if_left(name)
        self.answer("left")
        return self.finish()

    def hello(self, primary: str) -> None:
        """A client on a new connection."""
        m = self.model
        if not m.born:
            return self.answer("0")
        if m.primary == primary:
            return self.answer(m.epoch)
        self.begin()
        kinds = [event["kind"] for event in self.step.events if event["kind"] != "clock"]
        self.hold("law 11", kinds == (["epoch", "settling"] if m.primary else []), f"another primary: {kinds}")
        self.follow()
        m.primary = primary
        return self.answer(m.epoch)

    def adopt(
        self, name: str, pid: int, size: int, ttl: int, on: str, gpu: str, tenant: str, owner: str, at: str
    ) -> None:
        """A running process becomes a lease."""
        m, lease, key = self.model, self.model.leases.get(name), f"adopted|{pid}|{size}"
        if lease is not None:
            if lease.adopted != key:
                return self.error(LeaseConflict)
            if lease.state == "reclaiming":
                return self.error(LeaseLost)
            self._told_totals(lease)
            return self.hold("law 4", int(self.step.reply[1]) == lease.token, "a retry got another token")
        if name in m.waiters:
            return self.error(LeaseConflict)
        uuids = [gpu] if gpu else m.host(on).gpus
        seen = {uuid: m.cards[uuid].processes.get(pid, 0) for uuid in uuids if uuid in m.cards}
        most = max(seen.values(), default=0)
        best = next((m.cards[uuid] for uuid in seen if seen[uuid] == most > 0), None)
        if best is None or best.host != on:
            return self.answer("unknown")
        free = max(0, min(best.capacity, best.budget + min(size, most)) - m.leased(best.uuid))
        early, late = m.clock.at(self.step.early).clock_ms, m.clock.at(self.step.late).clock_ms
        settling = late < m.settling_until or (early < m.settling_until and self.step.reply[0] == "refused")
        anew = Ask(name, (Want(1, size - most),), tenant=tenant)
        closed = size > most and m.obstacle(anew, best, size - most)
        if size > free or settling or not m.within_quota(tenant, size) or closed:
            return self.answer("refused", free)
        self.begin()
        m.token += 1
        self._take_over(best, pid, size)
        self._hold_anew(Lease(
            name, m.token, (best.uuid,), on, size, tenant, 0, ttl, m.now + ttl, m.now, adopted=key
        ))  # fmt: skip
        self.follow()
        self.hold("law 5", int(self.step.reply[1]) == m.leases[name].token, "it was told another token")
        self._told_totals(m.leases[name])
        return self.finish()

    def _told_totals(self, lease: Lease) -> None:
        totals = self.model.totals(lease)
        self.hold(
            "law 4", self.step.reply[10] == totals, f"its cards are as large as {totals}, it says {self.step.reply}"
        )

    def _take_over(self, card: Card, pid: int, size: int) -> None:
        claimed = min(size, card.processes.get(pid, 0))
        if claimed:
            card.processes[pid] -= claimed
            card.unmanaged = max(0, (card.unmanaged or 0) - claimed)
            card.budget = min(card.capacity, card.budget + claimed)

    def _hold_anew(self, lease: Lease) -> None:
        self.model.bring_usage_to_now(lease.tenant)
        self.model.leases[lease.id] = lease
        if lease.host_memory or lease.cpus:
            self.model.hosts.setdefault(lease.host, Host(lease.host))

    def register(
        self, name: str, token: int, gpus: str, size: int, ttl: int, tenant: str, owner: str, pid: int | str,
        priority: int, job_id: str, memory: int, cpus: int, function: str, request: str,
    ) -> None:  # fmt: skip
        """A holder brings back what the ledger lost."""
        m, lease, stone = self.model, self.model.leases.get(name), self.stone(name)
        if lease is not None:
            if lease.token != token:
                return self.error(StaleToken)
            if lease.state == "reclaiming":
                return self.error(LeaseLost)
            return self.answer("registered", lease.ends)
        if stone and stone[0] == token:
            return self.error(LeaseLost, f"why={stone[1]}")
        if m.born and token >= m.epoch << 23:
            return self.error(LeaseLost, "why=ended")
        cards = [m.cards.get(uuid) for uuid in gpus.split(",")]
        known = [card for card in cards if card is not None]
        if cards[0] is None or len(known) < len(cards):
            self.hold("law 11", self.step.reply[0] in ("unknown", "refused"), f"a card is not known: {self.step.reply}")
            return None
        why = self._no_return(known, size, int(pid) if pid != "" else 0, tenant, (int(memory), int(cpus)))
        if why:
            self.hold("law 11", self.step.reply is not None and self.step.reply[0] == "refused", why)
            return None
        self.begin()
        for card in known:
            self._take_over(card, int(pid) if pid != "" else 0, size)
            if m.settling:
                card.budget = max(card.budget, min(card.capacity, m.leased(card.uuid) + size))
        m.waiters.pop(name, None)
        ask = self.asked.get((name, token))
        self._hold_anew(Lease(
            name, token, tuple(card.uuid for card in known), known[0].host, size, tenant, priority, ttl, m.now + ttl,
            m.now, ask=ask, host_memory=int(memory), cpus=int(cpus),
        ))  # fmt: skip
        self.follow()
        self.answer("registered", m.now + ttl)
        return self.finish()

    def _no_return(self, cards: list[Card], size: int, pid: int, tenant: str, own: tuple[int, int]) -> str:
        m = self.model
        settling = m.clock.at(self.step.late).clock_ms < m.settling_until
        if len({card.host for card in cards}) > 1:
            return "its cards are on several hosts now"
        for card in cards:
            room = card.capacity if settling else min(card.capacity, card.budget + card.processes.get(pid, 0))
            if m.leased(card.uuid) + size > room:
                return f"{card.uuid} has no room"
        ask = Ask("", (Want(1, size),), host_memory=own[0], cpus=own[1])
        if not settling and (m.host_lacks(ask, cards[0].host) or not m.within_quota(tenant, size * len(cards))):
            return "its host or its quota has no room"
        return ""
