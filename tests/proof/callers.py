"""What the commands of a lease's life must answer, and must have done."""

from __future__ import annotations

from dataclasses import replace

from broker.errors import LeaseConflict, LeaseLost, LeaseNotFound, StaleToken
from tests.proof.chronicle import growth
from tests.proof.court import Court, not_before
from tests.proof.records import LENDS, Ask, Lease, Waiter, Want


class Callers(Court):
    """Acquire, renew, start, release, cancel, resize and revoke."""

    def acquire(self, *argv: str | int) -> None:
        """A request, a waiter's sign of life, or a claim."""
        ask, token, wait = parse_ask(*argv)
        m, name = self.model, ask.id
        lease, waiter, stone = m.leases.get(name), m.waiters.get(name), self.stone(name)
        if lease is None and token:
            return self.error(LeaseNotFound)
        if lease is not None and token and lease.token != token:
            return self.error(StaleToken)
        if lease is not None:
            return self._known(lease, ask)
        if waiter is not None and waiter.ask.same_as != ask.same_as:
            return self.error(LeaseConflict)
        again = waiter is None and self.refused_before(name, ask.nonce)
        if waiter is None and stone and not again and not_before(stone[2], ask.nonce):
            return self.error(LeaseLost, f"why={stone[1]}")
        return self._new(ask, waiter, wait and not again, again)

    def _known(self, lease: Lease, ask: Ask) -> None:
        m = self.model
        if lease.ask is None or lease.ask.same_as != ask.same_as:
            return self.error(LeaseConflict)
        if lease.state == "reclaiming" or (lease.state == "active" and self.over(lease)):
            return self.error(LeaseLost)
        claims = lease.state == "granted"
        if claims:
            self.ask = ask
            self.begin()
            self.follow()
        else:
            self.hold("law 4", not self.step.events, "a retry did something")
        self._told(lease)
        left = lease.ends - (m.now if claims else m.clock.at(self.step.late).clock_ms)
        self.hold("law 4", int(self.step.reply[7]) - left in range(1 if claims else 60_000), f"{left} ms are left")
        return None

    def _told(self, lease: Lease) -> None:
        m, told = self.model, self.step.reply if isinstance(self.step.reply, list) else [self.step.error]
        said = [str(part) for part in (told[:7] + told[8:])]
        expected = [
            "granted", lease.token, ",".join(lease.cards), lease.host, lease.ends, lease.waited, lease.ttl, lease.size,
            lease.choice, m.totals(lease),
        ]  # fmt: skip
        self.hold("law 4", said == [str(part) for part in expected], f"it should answer {expected}, it says {told}")

    def _new(self, ask: Ask, waiter: Waiter | None, wait: bool, again: bool) -> None:
        m = self.model
        self.ask = ask
        self.begin()
        if waiter:
            waiter.deadline = m.now + m.setting_ms("waiter_seconds", 30)
        self.follow()
        reply = self.step.reply
        if reply[0] == "granted":
            self.hold("law 2", ask.id in m.leases, "it was granted, and the journal does not say so")
            self._told(m.leases[ask.id])
            return self.finish()
        self.hold("law 4", ask.id not in m.leases, f"{ask.id} was granted, and not told")
        if not self.unsure and not again:
            number = m.choice(ask)
            self.hold(
                "law 7",
                not number,
                f"refused, though choice {number} fits: {number and m.places(ask, ask.wants[number - 1])}",
            )
        why, may_come = m.never(ask)
        if why and not may_come and not (waiter and not ask.host and not ask.gpu):
            self.hold("law 4", reply[0] == "impossible", f"it can never be ({why}), it says {reply}")
            told = reply[2] or "size"
            self.hold("law 4", told == why or why == "something", f"it can never be for {why}, it says {reply}")
            if waiter:
                self.hold("law 7", ask.id not in m.waiters, f"{ask.id} still waits")
        elif wait:
            full = waiter is None and len(m.waiters) - (ask.id in m.waiters) >= int(m.setting("waiters_max", 10_000))
            if full:
                self.hold("law 7", ask.id not in m.waiters, f"{ask.id} was queued beyond the cap")
                self.answer("full", int(m.setting("waiters_max", 10_000)))
            else:
                self.hold("law 7", ask.id in m.waiters, f"{ask.id} does not wait")
                self.answer("waiting", 1 + [w.ask.id for w in m.queue()].index(ask.id), "")  # nobody's crew: not handed
        else:
            self.hold("law 7", ask.id not in m.waiters, f"{ask.id} still waits")
            self._refused(ask, reply)
        return self.finish()

    def _refused(self, ask: Ask, reply: list[str]) -> None:
        m = self.model
        self.hold("law 4", reply[0] == "refused", f"it should be refused, it says {reply}")
        self.forgo(ask.id, ask.nonce)
        why = m.never(ask)[0]
        self.hold("law 4", reply[4] == why or why in ("", "something"), f"it lacks {why}, it says {reply}")
        if ask.plain and not ask.host and not ask.gpu:
            offered = [m.free(c) for c in m.cards.values() if c.state in LENDS and not c.drained_by and not c.kept_for]
            open_cards = [free for free in offered if free > 0]
            expected = [max(open_cards, default=0), m.largest_capacity(ask), len(open_cards)]
            self.hold("law 4", [int(n) for n in reply[1:4]] == expected, f"it should say {expected}, it says {reply}")

    def renew(self, name: str, token: int, ttl: int | str, nonce: str = "") -> None:
        """Puts a lease's end off."""
        lease = self.held_by(name, token)
        if lease is not None:
            self.begin()
            if ttl != "" and nonce not in lease.calls:
                lease.ttl = int(ttl)
                self.hear(lease, nonce)
            self.prolong(lease, lease.ttl)
            self.answer(lease.ends, lease.revoke_at, lease.reason if lease.revoke_at else "")
            self.follow()
            self.finish()

    def start(self, name: str, token: int, pid: int | str, started: str) -> None:
        """The start gate."""
        lease = self.held_by(name, token)
        if lease is not None:
            self.begin()
            self.prolong(lease, lease.ttl)
            self.answer(lease.ends)
            self.follow()
            self.finish()

    def release(self, name: str, token: int) -> None:
        """Ends a lease."""
        lease = self.held_by(name, token, may_be_over=True)
        if lease is not None:
            over = self.over(lease)
            self.begin()
            self.follow()
            self.answer("late" if over else "released")
            self.hold("law 9", name not in self.model.leases, f"{name} is there still")
            self.finish()

    def cancel(self, name: str, nonce: str) -> None:
        """Takes a request back."""
        m = self.model
        lease, waiter = m.leases.get(name), m.waiters.get(name)
        self.begin()
        self.follow()
        if lease and nonce in ("", lease.nonce):
            self.answer("cancelled" if lease.state == "granted" else "claimed")
            self.hold("law 7", (name in m.leases) == (lease.state != "granted"), "it says what it did not do")
        elif not lease and waiter and nonce in ("", waiter.ask.nonce):
            self.answer("cancelled")
            self.hold("law 7", name not in m.waiters, f"{name} waits still")
        else:
            self.answer("unknown")
            if not lease and not waiter:
                self.forgo(name, nonce)
        self.finish()

    def resize(self, name: str, token: int, size: int, wait: int, nonce: str) -> None:
        """Grows or shrinks a lease."""
        m, lease = self.model, self.held_by(name, token)
        if lease is None:
            return
        self.begin()
        waiter, room = m.waiters.get(f"{name}+"), min(max(0, m.cards[u].budget - m.leased(u)) for u in lease.cards)
        if waiter:
            waiter.deadline = m.now + m.setting_ms("waiter_seconds", 30)
        self.ask = replace(growth(lease, max(1, size - lease.size)), nonce=nonce)
        heard = nonce in lease.calls
        self.follow()
        waiter, more, reply = m.waiters.get(f"{name}+"), size - lease.size, self.step.reply
        if waiter and waiter.ask.wants[0].size != more:
            del m.waiters[f"{name}+"]
            waiter = None
        capacity = min(m.cards[uuid].capacity for uuid in lease.cards)
        if more == 0:
            self.answer("resized", size)
        elif heard:
            self.answer(*(("refused", room) if more > 0 else ("resized", lease.size)))
        elif size > capacity:
            self.answer("impossible", capacity)
        else:
            self.hold("law 4", more > 0, f"it should be resized to {size}, it is {lease.size}: {reply}")
            if not self.unsure:
                self.hold("law 7", not m.choice(growth(lease, more)), f"it was not resized, though it fits: {reply}")
            if not wait:
                self.hold("law 7", waiter is None, f"{name}+ waits still")
                self.answer("refused", room)
                if nonce not in lease.calls:
                    self.hear(lease, nonce)
            elif waiter is None:
                self.answer("full", len(m.waiters))
            else:
                self.answer("waiting", 1 + [w.ask.id for w in m.queue()].index(f"{name}+"))
        self.finish()

    def revoke(self, name: str, grace: int, reason: str, token: int | str = "") -> None:
        """Asks for a lease's end."""
        lease = self.model.leases.get(name)
        lease = lease if lease and token in ("", lease.token) else None
        state, before = (lease.state, lease.revoke_at) if lease else ("", 0)
        self.begin()
        at = self.model.now + grace
        self.follow()
        if lease is None:
            self.answer("unknown")
        elif state == "reclaiming":
            self.answer("gone")
        else:
            self.answer("revoked", min(before or at, at))
        self.finish()


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
