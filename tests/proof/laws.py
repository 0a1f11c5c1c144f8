"""Holds every transaction of a pool's replication stream against the laws, at the cost of what it touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from broker.ledger.keys import Keys
from tests.proof.account import Account, Finding
from tests.proof.indexes import LENDS, check_cards, check_holders, check_lines, check_waiters, check_wide
from tests.proof.mirror import Command, Step, UnknownCommand

#: Events that put bytes on a card; those with which a lease begins; and those with which it is gone.
GRANTS = {"granted", "adopted", "registered", "resized"}
BEGINNINGS = {"granted", "adopted", "registered"}
ENDS = {"released", "reclaimed", "unclaimed", "cancelled"}
_SHOWN_CHARACTERS = 1500
_KEPT_VIOLATIONS = 200


@dataclass(frozen=True, slots=True)
class Violation:
    """A transaction, and the laws that it broke, in words."""

    found: tuple[Finding, ...]
    commands: str

    def __str__(self) -> str:
        """A line for each, then the commands."""
        return "\n".join(f"{law}: {what}" for law, what in self.found) + f"\n    after {self.commands}"


class Checker:
    """Applies transactions to a copy of the pool and collects what they broke."""

    def __init__(self, pool: str = "default") -> None:
        """Start with an empty pool."""
        self.account = Account(Keys(pool).root)
        self.transitions = 0
        self.violations: list[Violation] = []
        #: Broken laws in all; of the transactions that broke them only the first are kept.
        self.violation_count = 0

    @property
    def kinds(self) -> Counter[str]:
        """How many events of each kind were seen."""
        return self.account.kinds

    def apply(self, commands: Sequence[Command]) -> Step:
        """Carry out one transaction and note which laws it broke."""
        account, found = self.account, list[Finding]()
        try:
            step = account.mirror.apply(commands)
        except UnknownCommand as error:
            self._note([("law 2", f"a command that no script should need: {error}")], commands)
            return Step(commands)
        if not step.writes:
            return step
        if step.flushed:
            account.forget()
        self.transitions += 1
        try:
            cards = account.take(step)
            for check in _CHECKS:
                found += check(account, step, cards)
        except (KeyError, ValueError) as error:
            found.append(("law 2", f"a hash is there by halves: {error!r}"))
        if found:
            self._note(found, commands)
        return step

    def _note(self, found: list[Finding], commands: Sequence[Command]) -> None:
        text = " ; ".join(" ".join(command) for command in commands)
        shown = text.replace(self.account.mirror.root, "")[:_SHOWN_CHARACTERS]
        self.violation_count += len(found)
        if len(self.violations) < _KEPT_VIOLATIONS:
            self.violations.append(Violation(tuple(found), shown))


def check_growth(account: Account, step: Step, cards: set[str]) -> Iterator[Finding]:
    """Law 1: bytes come onto a card by a grant alone, and only within its budget."""
    for uuid in step.suffixes("gpu:"):
        gpu, before = account.mirror.hash(f"gpu:{uuid}"), step.before[f"gpu:{uuid}"] or {}
        leased, was = int(gpu.get("leased_bytes", 0)), int(before.get("leased_bytes", 0))
        new = [name[6:] for name in gpu if name.startswith("lease:") and name not in before]
        if leased <= was and not new:
            continue
        kinds = {e["kind"] for e in step.events if uuid in e.get("gpu_uuids", "").split(",")} & GRANTS
        if not kinds:
            yield "law 1", f"{uuid} grew from {was} to {leased} bytes by {new or 'nobody'}, without a grant"
        elif kinds != {"registered"} and leased > int(gpu["budget_bytes"]):
            yield "law 1", f"{sorted(kinds)} left {leased} bytes on {uuid}, its budget is {gpu['budget_bytes']}"


def check_grants(account: Account, step: Step, cards: set[str]) -> Iterator[Finding]:
    """Laws 4, 5, 8 and 11: each grant has a larger token, a name that held nothing, and cards that lend."""
    ledger = account.mirror.hash("ledger")
    for event in step.events:
        if event["kind"] not in BEGINNINGS:
            continue
        lease_id, token = event["id"], int(event["token"])
        if step.before.get(f"lease:{lease_id}") and f"lease:{lease_id}" not in step.deleted:
            yield "law 4", f"{lease_id} was {event['kind']} while it held a lease"
        if event["kind"] == "registered":
            if "epoch" in ledger and token >> 23 >= int(ledger["epoch"]):
                yield "law 5", f"{lease_id} came back with token {token}, of the epoch {ledger['epoch']} itself"
            continue
        if token <= account.top_token:
            yield "law 5", f"{lease_id} was granted token {token} after {account.top_token}"
        account.top_token = max(account.top_token, token)
        if event["kind"] == "granted":
            yield from _lawful_place(account, event, ledger)
            yield from _kept_for_others(account, event, step)


def check_resizes(account: Account, step: Step, cards: set[str]) -> Iterator[Finding]:
    """Law 3: what is over grows no more."""
    for event in step.events:
        if event["kind"] == "resized" and int(event["memory_bytes"]) > int(event["before_bytes"]):
            before = step.before.get(f"lease:{event['id']}") or {}
            if before.get("state") == "reclaiming" or "expired" in step.kinds_of(event["id"]):
                yield "law 3", f"{event['id']} grew to {event['memory_bytes']} bytes after its time"


def _lawful_place(account: Account, event: dict[str, str], ledger: dict[str, str]) -> Iterator[Finding]:
    if int(event["at"]) < int(ledger.get("settling_until", 0)):
        yield "law 11", f"{event['id']} was granted while holders still register"
    for uuid in event["gpu_uuids"].split(","):
        gpu = account.mirror.hash(f"gpu:{uuid}")
        if gpu.get("state") not in LENDS or gpu.get("drained") == "1":
            drained = " and drained" if gpu.get("drained") == "1" else ""
            yield "law 8", f"{event['id']} was granted on {uuid}, {gpu.get('state')}{drained}"
        if int(gpu.get("fresh_until", 0)) < int(event["at"]):
            yield "law 8", f"{event['id']} was granted on {uuid}, whose sample is too old"
        if gpu.get("host", event["host"]) != event["host"]:
            yield "law 8", f"{event['id']} was granted on {uuid} of {event['host']}, it belongs to {gpu['host']}"
    tenant = event.get("tenant", "")
    quota = int(account.mirror.hash(f"tenant:{tenant}").get("quota_bytes") or 0)
    if quota and account.of_tenant[tenant] > quota:
        yield "quota", f"{tenant} holds {account.of_tenant[tenant]} bytes, its quota is {quota}"


def _kept_for_others(account: Account, event: dict[str, str], step: Step) -> Iterator[Finding]:
    """Law 7: a card that is kept for a waiter serves nobody else, but for a higher priority."""
    priority = int(account.mirror.hash(f"lease:{event['id']}").get("priority", 0))
    for uuid in event["gpu_uuids"].split(","):
        waiter = account.mirror.hash(f"gpu:{uuid}").get("reserved_for", "")
        before = (step.before.get(f"gpu:{uuid}") or {}).get("reserved_for", "")
        first = int(account.mirror.hash(f"waiter:{waiter}").get("priority", 0))
        if waiter and waiter == before and not step.kinds_of(waiter) and priority <= first:
            yield "law 7", f"{event['id']} was granted on {uuid}, which is kept for {waiter}"


def check_leases(account: Account, step: Step, cards: set[str]) -> Iterator[Finding]:
    """Each lease begins and ends with an event, keeps its token, and stands in the index of deadlines."""
    for lease_id in {*step.suffixes("lease:"), *step.members.get("leases", ())}:
        yield from _deadline(account, lease_id)
        key = f"lease:{lease_id}"
        if key not in step.before:
            continue
        lease, before, kinds = account.mirror.hashes.get(key), step.before[key], step.kinds_of(lease_id)
        if before and key in step.deleted and not kinds & ENDS:
            yield "law 9", f"lease {lease_id} is gone, and no event says why"
        if lease and (before is None or key in step.deleted) and not kinds & BEGINNINGS:
            yield "law 2", f"lease {lease_id} is there, and no event says since when"
        if lease and before and key not in step.deleted and before.get("token") != lease.get("token"):
            yield "law 5", f"lease {lease_id} had token {before.get('token')}, now {lease.get('token')}"
        back = bool(lease and before) and (before["state"], lease["state"]) == ("reclaiming", "active")
        if back and not ("revived" in kinds and lease.get("adopted")) and key not in step.deleted:
            yield "law 9", f"lease {lease_id} was over, and lives again"
        if lease:
            yield from _own_token(account, lease_id, int(lease["token"]))
    for event in step.events:
        if event["kind"] in ENDS | {"expired"} and "token" in event:
            yield from _ended_lawfully(account, event, step)


def _deadline(account: Account, lease_id: str) -> Iterator[Finding]:
    lease, end = account.mirror.hashes.get(f"lease:{lease_id}"), account.mirror.zset("leases").get(lease_id)
    if lease is None or end is None:
        if lease is None and end is None:
            return
        yield "indexes", f"lease {lease_id} {'has no deadline' if lease else 'has a deadline and no hash'}"
    elif lease["state"] != "reclaiming":
        if end != int(lease["expires_at"]):
            yield "indexes", f"lease {lease_id} ends at {lease['expires_at']}, the index says {end}"
        # A renewal after the deadline, which only a pause of all expiry allows, is good for a millisecond.
        now = int(account.mirror.hash("ledger").get("clock_ms", 0))
        if end > max(int(lease.get("revoke_at") or end), now + 1):
            yield "law 9", f"lease {lease_id} ends at {end:.0f}, later than its revocation at {lease['revoke_at']}"


def _own_token(account: Account, lease_id: str, token: int) -> Iterator[Finding]:
    other = account.tokens.setdefault(token, lease_id)
    if other != lease_id:
        held = account.claims.get(other)
        if held is not None and held.token == token:
            yield "law 5", f"token {token} is held by {lease_id} and by {other}"
        account.tokens[token] = lease_id


def _ended_lawfully(account: Account, event: dict[str, str], step: Step) -> Iterator[Finding]:
    """Law 9 and fencing: what ended was held under that token; and time was over if time is the reason."""
    kind, lease_id = event["kind"], event["id"]
    if kind in ENDS:
        account.tokens.pop(int(event["token"]), None)
        if f"lease:{lease_id}" not in step.deleted:
            yield "law 9", f"{kind} of {lease_id}, which is not gone"
    before = step.before.get(f"lease:{lease_id}")
    if step.kinds_of(lease_id) & BEGINNINGS:
        return  # it began in this very step
    if before is None:
        yield "law 5", f"{kind} of {lease_id}, which held nothing"
        return
    if before["token"] != event["token"]:
        yield "law 5", f"{kind} of {lease_id} under token {event['token']}, it was held under {before['token']}"
    at, kinds = int(event["at"]), step.kinds_of(lease_id)
    if kind in ("expired", "unclaimed") and int(before["expires_at"]) > at and "revoked" not in kinds:
        yield "law 6", f"{lease_id} was {kind} at {at}, its time was {before['expires_at']}"
    if kind == "reclaimed" and "expired" not in kinds:
        yield from _reclaimed_lawfully(account, event, before)


def _reclaimed_lawfully(account: Account, event: dict[str, str], before: dict[str, str]) -> Iterator[Finding]:
    """Bytes move on after the lock delay, or when the process was seen gone; not while it is seen."""
    delay = float(account.mirror.hash("config").get("reclaim_seconds", "5"))
    if before["state"] != "reclaiming" and delay > 0:
        yield "law 9", f"{event['id']} was reclaimed out of state {before['state']}, without the lock delay"
    if event.get("why") != "seen" and int(before.get("seen_until") or 0) > int(event["at"]) and delay > 0:
        yield "law 9", f"{event['id']} was reclaimed while its agent saw its process, until {before['seen_until']}"


def check_ledger(account: Account, step: Step, cards: set[str]) -> Iterator[Finding]:
    """Tokens, the journal's numbers and the clock only grow; no deadline lies before the ledger's soonest."""
    for event in step.events:
        account.kinds[event["kind"]] += 1
        seq, at = int(event["seq"]), int(event["at"])
        if seq != account.seq + 1:
            yield "journal", f"its number went from {account.seq} to {seq}"
        if at < account.at:
            yield "law 6", f"the journal's time went from {account.at} back to {at}"
        account.seq, account.at = seq, at
    ledger, before = account.mirror.hash("ledger"), step.before.get("ledger") or {}
    if "ledger" not in step.before or not ledger:
        return
    if int(ledger["seq"]) != account.seq:
        yield "journal", f"the ledger counts {ledger['seq']} events, the journal {account.seq}"
    if int(ledger["token"]) < max(int(before.get("token", 0)), account.top_token):
        least = max(int(before.get("token", 0)), account.top_token)
        yield "law 5", f"the ledger's token fell from {least} to {ledger['token']}"
    if int(ledger["clock_ms"]) < int(before.get("clock_ms", 0)):
        yield "law 6", f"the ledger's clock fell from {before['clock_ms']} to {ledger['clock_ms']}"
    if int(ledger.get("queued") or 0) != len(account.mirror.zset("waiters")):
        yield "sums", f"the ledger counts {ledger.get('queued')} waiters, {len(account.mirror.zset('waiters'))} wait"
    yield from _soonest(account, step, int(ledger.get("soonest", 0)), int(before.get("soonest", 0)))


def _soonest(account: Account, step: Step, soonest: int, before: int) -> Iterator[Finding]:
    for index in ("leases", "waiting", "fresh"):
        zset = account.mirror.zset(index)
        touched: Iterable[str] = zset if soonest > before else step.members.get(index, ())
        first = min((zset[member] for member in touched if member in zset), default=None)
        if first is not None and first < soonest:
            yield "law 3", f"something in `{index}` is due at {first:.0f}, before the ledger's soonest {soonest}"


_CHECKS: tuple[Callable[[Account, Step, set[str]], Iterator[Finding]], ...] = (
    check_cards, check_growth, check_grants, check_resizes, check_leases, check_waiters,
    check_lines, check_holders, check_wide, check_ledger,
)  # fmt: skip
