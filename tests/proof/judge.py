"""What each command of the ledger must answer, and what it must have done, by the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from broker.errors import BrokerError, LeaseConflict, LeaseLost, LeaseNotFound, StaleToken
from tests.proof.chronicle import Chronicle, Step, growth
from tests.proof.model import Ask, Card, Host, Lease, Tenant, Waiter, Want
from tests.proof.reports import Sample, Verdict

#: A script ends so many leases, closes so many cards and drops so many waiters at most.
REAPED_MOST = 8


@dataclass
class Judge(Chronicle):
    """Takes each script into the model, or says which law it broke."""

    #: What each lease was asked for as, by name and token: a holder remembers it when the ledger does not.
    asked: dict[tuple[str, int], Ask] = field(default_factory=dict)
    #: Whether the script ended what is over and served those who wait.
    served: bool = False
    _overdue: tuple[int, int, int] = (0, 0, 0)

    def judge(self, step: Step) -> None:
        """Take one script.

        Raises:
            Unlawful: a law was broken.
        """
        self.step, self.ask, self.served = step, None, False
        _COMMANDS[step.name](self, *step.argv)

    def settle_passes(self, told: Mapping[str, str]) -> None:
        """Where a reservation was made on the way, how often others were passed by it is the ledger's to say."""
        for name, waiter in self.model.waiters.items() if self.uncertain_passes else ():
            if int(told.get(name, 0)) in range(waiter.passed - 3, waiter.passed):
                waiter.passed = int(told[name])

    # -- what is common ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """The script wrote: its time is known."""
        m, step = self.model, self.step
        if step.error is not None:
            self.wrong("law 4", "it should not be refused")
        possible = [m.clock.at(raw) for raw in range(step.early, step.late + 1)]
        told = next((c for c in possible if (c.clock_ms, c.offset_ms) == (step.clock_ms, step.offset_ms)), None)
        if told is None:
            self.wrong("law 6", f"{step.clock_ms} and {step.offset_ms} are not {possible[0]} to {possible[-1]}")
        m.clock = told
        self._overdue = self._count_overdue()

    def _count_overdue(self) -> tuple[int, int, int]:
        m = self.model
        return (
            sum(lease.ends <= m.now for lease in m.leases.values()),
            sum(card.fresh_until < m.now and card.state != "UNAVAILABLE" for card in m.cards.values()),
            sum(waiter.deadline < m.now for waiter in m.waiters.values()),
        )

    def _finish(self) -> None:
        """After a script that reaps and serves on its way: laws 3 and 7."""
        m = self.model
        if m.now >= m.clock.grace_until:
            for lease in m.leases.values():
                if lease.state == "reclaiming" and lease.ends <= m.now < lease.seen_until:
                    lease.ends = lease.seen_until  # its agent sees its process
            for what, before, left in zip(
                ("leases", "cards", "waiters"), self._overdue, self._count_overdue(), strict=True
            ):
                self.hold("law 3", left <= max(0, before - REAPED_MOST), f"{left} of {before} {what} are overdue still")
        self.served = True

    def _error(self, kind: type[BrokerError], *words: str) -> None:
        error = self.step.error
        good = type(error) is kind and all(word in str(error) for word in words)
        self.hold("law 4", good, f"it should be {kind.__name__} {words}, it is {error!r} {self.step.reply}")
        self.hold("law 2", not self.step.events, "an error wrote something")

    def _answer(self, *reply: object) -> None:
        told = self.step.reply if isinstance(self.step.reply, list) else [self.step.reply]
        same = [str(part) for part in told] == [str(part) for part in reply]
        self.hold("law 4", same, f"it should answer {reply}, it answers {self.step.error or told}")

    def _over(self, lease: Lease) -> bool:
        """Whether a lease's time has passed; within the very millisecond the ledger's word is taken."""
        if lease.state == "reclaiming":
            return True
        early, late = (self.model.clock.at(raw) for raw in (self.step.early, self.step.late))
        first, last = (lease.ends <= c.clock_ms and c.clock_ms >= c.grace_until for c in (early, late))
        return first if first == last else isinstance(self.step.error, LeaseLost)

    def _why(self, lease: Lease) -> str:
        late = self.model.clock.at(self.step.late)
        return "why=" if lease.revoke_at and abs(lease.revoke_at - late.clock_ms) < 1000 else (
            "why=revoked" if 0 < lease.revoke_at <= late.clock_ms else "why=expired"
        )  # fmt: skip

    def _stone(self, name: str) -> tuple[int, str, str] | None:
        """What is remembered of a name: token, how, nonce. Near its end it may be either."""
        stone = self.model.ended.get(name)
        if stone is None or stone.until <= self.step.early:
            return None
        return stone.token, stone.how, stone.nonce

    def _held_by(self, name: str, token: int, *, may_be_over: bool = False) -> Lease | None:
        """The lease for its rightful holder; else the refusal is checked."""
        lease, stone = self.model.leases.get(name), self._stone(name)
        if lease is not None:
            if lease.token != token:
                self._error(StaleToken, f"have={lease.token}")
            elif not may_be_over and self._over(lease):
                self._error(LeaseLost, self._why(lease))
            else:
                return lease
        elif stone is None:
            self._error(LeaseNotFound)
        elif stone[0] != token:
            self._error(StaleToken)
        elif may_be_over and stone[1] == "released":
            self._answer("released")
        else:
            self._error(LeaseLost, f"why={stone[1]}")
        return None

    # -- a lease's life ------------------------------------------------------------------------------------------------

    def acquire(self, *argv: str | int) -> None:
        """A request, a waiter's sign of life, or a claim."""
        ask, token, wait = parse_ask(*argv)
        m, name = self.model, ask.id
        lease, waiter, stone = m.leases.get(name), m.waiters.get(name), self._stone(name)
        if lease is None and token:
            return self._error(LeaseNotFound)
        if lease is not None and token and lease.token != token:
            return self._error(StaleToken)
        if lease is not None:
            return self._known(lease, ask)
        if waiter is not None and waiter.ask.same_as != ask.same_as:
            return self._error(LeaseConflict)
        if waiter is None and stone and stone[1] != "dropped" and stone[2] and stone[2] == ask.nonce:
            return self._error(LeaseLost, f"why={stone[1]}")
        return self._new(ask, waiter, wait)

    def _known(self, lease: Lease, ask: Ask) -> None:
        m = self.model
        if lease.ask is None or lease.ask.same_as != ask.same_as:
            return self._error(LeaseConflict)
        if lease.state == "reclaiming" or (lease.state == "active" and self._over(lease)):
            return self._error(LeaseLost)
        claims = lease.state == "granted"
        if claims:
            self.ask = ask
            self._begin()
            self.follow()
        else:
            self.hold("law 4", not self.step.events, "a retry did something")
        self._told(lease)
        left = lease.ends - (m.now if claims else m.clock.at(self.step.late).clock_ms)
        self.hold("law 4", int(self.step.reply[7]) - left in range(1 if claims else 60_000), f"{left} ms are left")
        return None

    def _told(self, lease: Lease) -> None:
        told = self.step.reply if isinstance(self.step.reply, list) else [self.step.error]
        said = [str(part) for part in (told[:7] + told[8:])]
        expected = [
            "granted", lease.token, ",".join(lease.cards), lease.host, lease.ends, lease.waited, lease.ttl, lease.size,
            lease.choice,
        ]  # fmt: skip
        self.hold("law 4", said == [str(part) for part in expected], f"it should answer {expected}, it says {told}")

    def _new(self, ask: Ask, waiter: Waiter | None, wait: bool) -> None:
        m = self.model
        self.ask = ask
        self._begin()
        if waiter:
            waiter.deadline = m.now + m.setting_ms("waiter_seconds", 30)
        self.follow()
        reply = self.step.reply
        if reply[0] == "granted":
            self.hold("law 2", ask.id in m.leases, "it was granted, and the journal does not say so")
            self._told(m.leases[ask.id])
            return self._finish()
        self.hold("law 4", ask.id not in m.leases, f"{ask.id} was granted, and not told")
        if not self.unsure:
            number = m.choice(ask)
            self.hold(
                "law 7",
                not number,
                f"refused, though choice {number} fits: {number and m.places(ask, ask.wants[number - 1])}",
            )
        if not m.could_ever(ask) and not (waiter and not ask.host and not ask.gpu):
            self.hold("law 4", reply[0] == "impossible", f"it can never be, it says {reply}")
            if waiter:
                self.hold("law 7", ask.id not in m.waiters, f"{ask.id} still waits")
        elif wait:
            full = waiter is None and len(m.waiters) - (ask.id in m.waiters) >= int(m.setting("waiters_max", 10_000))
            if full:
                self.hold("law 7", ask.id not in m.waiters, f"{ask.id} was queued beyond the cap")
                self._answer("full", int(m.setting("waiters_max", 10_000)))
            else:
                self.hold("law 7", ask.id in m.waiters, f"{ask.id} does not wait")
                self._answer("waiting", 1 + [w.ask.id for w in m.queue()].index(ask.id))
        else:
            self.hold("law 7", ask.id not in m.waiters, f"{ask.id} still waits")
            self._refused(ask, reply)
        return self._finish()

    def _refused(self, ask: Ask, reply: list[str]) -> None:
        m = self.model
        self.hold("law 4", reply[0] == "refused", f"it should be refused, it says {reply}")
        if ask.plain and not ask.host and not ask.gpu:
            offered = [m.free(c) for c in m.cards.values() if c.state in _LENDS and not c.drained_by and not c.kept_for]
            open_cards = [free for free in offered if free > 0]
            expected = [max(open_cards, default=0), m.largest_capacity(ask), len(open_cards)]
            self.hold("law 4", [int(n) for n in reply[1:4]] == expected, f"it should say {expected}, it says {reply}")

    def renew(self, name: str, token: int, ttl: int | str) -> None:
        """Puts a lease's end off."""
        lease = self._held_by(name, token)
        if lease is not None:
            self._begin()
            lease.ttl = int(ttl) if ttl != "" else lease.ttl
            self.prolong(lease, lease.ttl)
            self._answer(lease.ends, lease.revoke_at)
            self.follow()
            self._finish()

    def start(self, name: str, token: int, pid: int | str, started: str) -> None:
        """The start gate."""
        lease = self._held_by(name, token)
        if lease is not None:
            self._begin()
            self.prolong(lease, lease.ttl)
            self._answer(lease.ends)
            self.follow()
            self._finish()

    def release(self, name: str, token: int) -> None:
        """Ends a lease."""
        lease = self._held_by(name, token, may_be_over=True)
        if lease is not None:
            over = self._over(lease)
            self._begin()
            self.follow()
            self._answer("late" if over else "released")
            self.hold("law 9", name not in self.model.leases, f"{name} is there still")
            self._finish()

    def cancel(self, name: str, nonce: str) -> None:
        """Takes a request back."""
        m = self.model
        lease, waiter = m.leases.get(name), m.waiters.get(name)
        self._begin()
        self.follow()
        if lease and nonce in ("", lease.nonce):
            self._answer("cancelled" if lease.state == "granted" else "claimed")
            self.hold("law 7", (name in m.leases) == (lease.state != "granted"), "it says what it did not do")
        elif not lease and waiter and nonce in ("", waiter.ask.nonce):
            self._answer("cancelled")
            self.hold("law 7", name not in m.waiters, f"{name} waits still")
        else:
            self._answer("unknown")
        self._finish()

    def resize(self, name: str, token: int, size: int, wait: int, nonce: str) -> None:
        """Grows or shrinks a lease."""
        m, lease = self.model, self._held_by(name, token)
        if lease is None:
            return
        self._begin()
        waiter, room = m.waiters.get(f"{name}+"), min(max(0, m.cards[u].budget - m.leased(u)) for u in lease.cards)
        if waiter:
            waiter.deadline = m.now + m.setting_ms("waiter_seconds", 30)
        self.ask = replace(growth(lease, max(1, size - lease.size)), nonce=nonce)
        self.follow()
        waiter, more, reply = m.waiters.get(f"{name}+"), size - lease.size, self.step.reply
        if waiter and waiter.ask.wants[0].size != more:
            del m.waiters[f"{name}+"]
            waiter = None
        capacity = min(m.cards[uuid].capacity for uuid in lease.cards)
        if more == 0:
            self._answer("resized", size)
        elif size > capacity:
            self._answer("impossible", capacity)
        else:
            self.hold("law 4", more > 0, f"it should be resized to {size}, it is {lease.size}: {reply}")
            if not self.unsure:
                self.hold("law 7", not m.choice(growth(lease, more)), f"it was not resized, though it fits: {reply}")
            if not wait:
                self.hold("law 7", waiter is None, f"{name}+ waits still")
                self._answer("refused", room)
            elif waiter is None:
                self._answer("full", len(m.waiters))
            else:
                self._answer("waiting", 1 + [w.ask.id for w in m.queue()].index(f"{name}+"))
        self._finish()

    def revoke(self, name: str, grace: int, reason: str) -> None:
        """Asks for a lease's end."""
        lease = self.model.leases.get(name)
        state, before = (lease.state, lease.revoke_at) if lease else ("", 0)
        self._begin()
        at = self.model.now + grace
        self.follow()
        if lease is None:
            self._answer("unknown")
        elif state == "reclaiming":
            self._answer("gone")
        else:
            self._answer("revoked", min(before or at, at))
        self._finish()

    # -- operators -----------------------------------------------------------------------------------------------------

    def drain(self, kind: str, name: str) -> None:
        """Marks a card or host."""
        self._mark(kind, name, True)

    def undrain(self, kind: str, name: str) -> None:
        """Lifts the mark."""
        self._mark(kind, name, False)

    def _mark(self, kind: str, name: str, on: bool) -> None:
        m = self.model
        if name not in (m.cards if kind == "gpu" else m.hosts):
            return self._answer("unknown")
        self._begin()
        host = m.hosts.get(name)
        marked = host.drained if host and kind == "host" else kind == "gpu" and "gpu" in m.cards[name].drained_by
        if marked != on:
            cards = [name] if kind == "gpu" else [u for u in m.hosts[name].gpus if u in m.cards]
            for uuid in cards:
                card = m.cards[uuid]
                if kind == "gpu" or card.host == name:
                    (card.drained_by.add if on else card.drained_by.discard)(kind)
                    m.forget_if_left(uuid)
            if host and kind == "host":
                host.drained = on
                if not on:
                    m.forget_host_if_left(name)
        self.follow()
        self._answer("drained" if on else "undrained")
        return self._finish()

    def reap(self) -> None:
        """Ends what is over and serves."""
        self._begin()
        self.follow()
        self._answer(self.model.now)
        self._finish()

    def tenant(self, name: str, quota: int | str, weight: int | str) -> None:
        """Quota and weight."""
        m = self.model
        self._begin()
        tenant: Tenant = m.bring_usage_to_now(name)
        tenant.quota = int(quota) if quota != "" else tenant.quota
        tenant.weight = int(weight) if weight != "" else tenant.weight
        self.follow()
        self._answer("ok")
        self._finish()

    def configure(self, version: str | int, *pairs: str | int) -> None:
        """The pool's configuration."""
        m = self.model
        if int(version) != m.version:
            return self._answer("changed")
        self._begin()
        m.version += 1
        m.config = dict(zip(map(str, pairs[::2]), map(str, pairs[1::2]), strict=True))
        silence = int(max(10_000, 3 * m.setting_ms("monitor_interval", 3)))
        m.clock = replace(m.clock, silence_ms=silence, grace_ms=m.setting_ms("grace_seconds", 15))
        self.follow()
        return self._answer(m.version)

    def hello(self, primary: str) -> None:
        """A client on a new connection."""
        m = self.model
        if not m.born:
            return self._answer("0")
        if m.primary == primary:
            return self._answer(m.epoch)
        self._begin()
        kinds = [event["kind"] for event in self.step.events if event["kind"] != "clock"]
        self.hold("law 11", kinds == (["epoch", "settling"] if m.primary else []), f"another primary: {kinds}")
        self.follow()
        m.primary = primary
        return self._answer(m.epoch)

    # -- agents --------------------------------------------------------------------------------------------------------

    def publish_sample(self, *argv: str | int) -> None:
        """A host's sample."""
        m, sample = self.model, Sample.parse(*argv)
        host = m.hosts.get(sample.host)
        if host and host.life and (
            sample.sequence <= host.sequence if host.life == sample.life else sample.sequence > 1 and host.joined
        ):  # fmt: skip
            self.hold("law 8", self.step.reply[0] == "late", f"it is no news: {self.step.reply}")
            return None
        self._begin()
        gone = [v.id for v in sample.verdicts if v.verdict == "gone" and self._is_reclaiming(v, sample.host)]
        refused = self._take_sample(sample, host or m.hosts.setdefault(sample.host, Host(sample.host)))
        self.follow()
        self.hold("law 9", not set(gone) & set(m.leases), f"{gone} were seen to be gone, and their bytes still count")
        self._answer(m.now, m.epoch, *refused)
        return self._finish()

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
            card.host, card.left, card.fresh_until, card.state = sample.host, False, fresh_until, report.state
            card.capability, card.mig, card.labels = report.capability, report.mig, sample.labels
            card.processes = dict(report.processes)
            card.unmanaged = report.unmanaged
            if report.total is not None and report.unmanaged is not None:
                card.capacity = self._capacity(report.uuid, report.total)
                card.budget = max(0, card.capacity - report.unmanaged)
            if other:
                card.drained_by.discard("host")
            if host.drained:
                card.drained_by.add("host")
            taken.append(report.uuid)
        for uuid in host.gpus:
            if uuid not in taken and uuid in m.cards and m.cards[uuid].host == sample.host:
                m.cards[uuid].state = "UNAVAILABLE"
                taken.append(uuid)
        host.joined, host.gpus, host.life, host.sequence = True, taken, sample.life, sample.sequence
        host.epoch, host.memory, host.cpus = epoch, sample.memory, sample.cpus
        for verdict in sample.verdicts:
            lease = m.leases.get(verdict.id)
            if lease and lease.token == verdict.token and lease.host == sample.host and verdict.verdict == "alive":
                lease.seen_until = fresh_until
                if lease.adopted and lease.state == "active":
                    self.prolong(lease, lease.ttl)
        return refused

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
            return self._answer("unknown")
        self._begin()
        for uuid in host.gpus:
            card = m.cards.get(uuid)
            if card and card.host == name:
                card.state, card.left = "UNAVAILABLE", True
        host.joined, host.life, host.sequence, host.memory, host.cpus = False, "", 0, 0, 0
        self.follow()
        for uuid in host.gpus:
            m.forget_if_left(uuid)
        host.gpus = host.gpus if host.drained else []
        m.forget_host_if_left(name)
        self._answer("left")
        return self._finish()

    # -- what was lost -------------------------------------------------------------------------------------------------

    def adopt(
        self, name: str, pid: int, size: int, ttl: int, on: str, gpu: str, tenant: str, owner: str, at: str
    ) -> None:
        """A running process becomes a lease."""
        m, lease, key = self.model, self.model.leases.get(name), f"adopted|{pid}|{size}"
        if lease is not None:
            if lease.adopted != key:
                return self._error(LeaseConflict)
            return self.hold("law 4", int(self.step.reply[1]) == lease.token, "a retry got another token")
        if name in m.waiters:
            return self._error(LeaseConflict)
        uuids = [gpu] if gpu else m.host(on).gpus
        seen = {uuid: m.cards[uuid].processes.get(pid, 0) for uuid in uuids if uuid in m.cards}
        most = max(seen.values(), default=0)
        best = next((m.cards[uuid] for uuid in seen if seen[uuid] == most > 0), None)
        if best is None or best.host != on:
            return self._answer("unknown")
        free = max(0, min(best.capacity, best.budget + min(size, most)) - m.leased(best.uuid))
        early, late = m.clock.at(self.step.early).clock_ms, m.clock.at(self.step.late).clock_ms
        settling = late < m.settling_until or (early < m.settling_until and self.step.reply[0] == "refused")
        if size > free or settling or not m.within_quota(tenant, size):
            return self._answer("refused", free)
        self._begin()
        m.token += 1
        self._take_over(best, pid, size)
        self._hold_anew(Lease(
            name, m.token, (best.uuid,), on, size, tenant, 0, ttl, m.now + ttl, m.now, adopted=key
        ))  # fmt: skip
        self.follow()
        self.hold("law 5", int(self.step.reply[1]) == m.leases[name].token, "it was told another token")
        return self._finish()

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
        m, lease, stone = self.model, self.model.leases.get(name), self._stone(name)
        if lease is not None:
            if lease.token != token:
                return self._error(StaleToken)
            if lease.state == "reclaiming":
                return self._error(LeaseLost)
            return self._answer("registered", lease.ends)
        if stone and stone[0] == token:
            return self._error(LeaseLost, f"why={stone[1]}")
        if m.born and token >= m.epoch << 23:
            return self._error(LeaseLost, "why=ended")
        cards = [m.cards.get(uuid) for uuid in gpus.split(",")]
        known = [card for card in cards if card is not None]
        if cards[0] is None or len(known) < len(cards):
            self.hold("law 11", self.step.reply[0] in ("unknown", "refused"), f"a card is not known: {self.step.reply}")
            return None
        why = self._no_return(known, size, int(pid) if pid != "" else 0, tenant, (int(memory), int(cpus)))
        if why:
            self.hold("law 11", self.step.reply is not None and self.step.reply[0] == "refused", why)
            return None
        self._begin()
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
        self._answer("registered", m.now + ttl)
        return self._finish()

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


_LENDS = frozenset({"OPTIMAL", "NORMAL", "THROTTLED"})


def parse_ask(*argv: str | int) -> tuple[Ask, int, bool]:
    """The arguments of ``acquire.lua``: the request, the token to continue under, whether it may wait."""
    name, asks, ttl, host, gpu, priority, tenant, _, _, _, token, wait, *options = map(str, argv)
    given = dict(zip(options[::2], options[1::2], strict=True))
    wants, mig = [], given.get("mig", "")
    for part in asks.split(","):
        count, _, size = part.rpartition("x")
        wants.append(Want(int(count or 1), int(size)))
    ask = Ask(
        name, tuple(wants), int(ttl), host, gpu, int(priority), tenant, given.get("placement", ""),
        given.get("labels", ""), given.get("capability", ""), "" if mig == "any" else mig,
        int(given.get("host_memory", 0)), int(given.get("cpus", 0)), given.get("nonce", ""),
    )  # fmt: skip
    return ask, int(token or 0), wait == "1"


_COMMANDS: dict[str, Callable[..., None]] = {
    name: getattr(Judge, name)
    for name in (
        "acquire", "renew", "start", "release", "cancel", "resize", "revoke", "drain", "undrain", "reap", "tenant",
        "configure", "hello", "publish_sample", "leave", "adopt", "register",
    )
}  # fmt: skip
