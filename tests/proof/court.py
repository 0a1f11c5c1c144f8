"""What is held against every script alike: its time, its answer, its errors, and what it must do on its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.errors import BrokerError, LeaseLost, LeaseNotFound, StaleToken
from tests.proof.chronicle import Chronicle
from tests.proof.records import Ask, Lease

#: A script ends so many leases, closes so many cards and drops so many waiters at most.
REAPED_MOST = 8


@dataclass
class Court(Chronicle):
    """A chronicle of scripts, and what may be expected of each."""

    #: What each lease was asked for as, by name and token: a holder remembers it when the ledger does not.
    asked: dict[tuple[str, int], Ask] = field(default_factory=dict)
    #: Whether the script ended what is over and served those who wait.
    served: bool = False
    _overdue: tuple[int, int, int] = (0, 0, 0)

    def settle_passes(self, told: Mapping[str, str]) -> None:
        """Where a reservation was made on the way, how often others were passed by it is the ledger's to say."""
        for name, waiter in self.model.waiters.items() if self.uncertain_passes else ():
            if int(told.get(name, 0)) in range(waiter.passed - 3, waiter.passed):
                waiter.passed = int(told[name])

    def begin(self) -> None:
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

    def finish(self) -> None:
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

    def error(self, kind: type[BrokerError], *words: str) -> None:
        """The script must have refused so, and done nothing."""
        error = self.step.error
        good = type(error) is kind and all(word in str(error) for word in words)
        self.hold("law 4", good, f"it should be {kind.__name__} {words}, it is {error!r} {self.step.reply}")
        self.hold("law 2", not self.step.events, "an error wrote something")

    def answer(self, *reply: object) -> None:
        """The script must have answered so."""
        told = self.step.reply if isinstance(self.step.reply, list) else [self.step.reply]
        same = [str(part) for part in told] == [str(part) for part in reply]
        self.hold("law 4", same, f"it should answer {reply}, it answers {self.step.error or told}")

    def over(self, lease: Lease) -> bool:
        """Whether a lease's time has passed; within the very millisecond the ledger's word is taken."""
        if lease.state == "reclaiming":
            return True
        early, late = (self.model.clock.at(raw) for raw in (self.step.early, self.step.late))
        first, last = (lease.ends <= c.clock_ms and c.clock_ms >= c.grace_until for c in (early, late))
        return first if first == last else isinstance(self.step.error, LeaseLost)

    def why(self, lease: Lease) -> str:
        """What the refusal of a lease that is over says of it."""
        late = self.model.clock.at(self.step.late)
        return "why=" if lease.revoke_at and abs(lease.revoke_at - late.clock_ms) < 1000 else (
            "why=revoked" if 0 < lease.revoke_at <= late.clock_ms else "why=expired"
        )  # fmt: skip

    def stone(self, name: str) -> tuple[int, str, str] | None:
        """What is remembered of a name: token, how, nonce. Near its end it may be either."""
        stone = self.model.ended.get(name)
        if stone is None or stone.until <= self.step.early:
            return None
        return stone.token, stone.how, stone.nonce

    def refused_before(self, name: str, nonce: str) -> bool:
        """Whether a call is a copy of one that was refused, or of an earlier one of its client."""
        stone = self.model.ended.get(name)
        return stone is not None and stone.until > self.step.early and not_before(stone.refused, nonce)

    def held_by(self, name: str, token: int, *, may_be_over: bool = False) -> Lease | None:
        """The lease for its rightful holder; else the refusal is checked."""
        lease, stone = self.model.leases.get(name), self.stone(name)
        if lease is not None:
            if lease.token != token:
                self.error(StaleToken)
            elif not may_be_over and self.over(lease):
                self.error(LeaseLost, self.why(lease))
            else:
                return lease
        elif stone is None or stone[0] == 0:
            self.error(LeaseNotFound)
        elif stone[0] != token:
            self.error(StaleToken)
        elif may_be_over and stone[1] == "released":
            self.answer("released")
        else:
            self.error(LeaseLost, f"why={stone[1]}")
        return None


def not_before(known: str, nonce: str) -> bool:
    """Whether a call whose nonce is known is this one, or a later one of the same client."""
    client, _, number = known.rpartition("-")
    own, _, mine = nonce.rpartition("-")
    return nonce != "" and (known == nonce or (client != "" and client == own and int(mine) < int(number)))
