"""Whether a pool is what the model says: every lease, waiter, card, host, tenant and number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.proof.model import Model
from tests.proof.pool import Reading
from tests.proof.records import Card, Lease, Waiter


def unlike(model: Model, pool: Reading) -> list[str]:
    """All in which the two differ, in words."""
    return [
        *_leases(model, pool), *_waiters(model, pool), *_cards(model, pool), *_hosts(model, pool),
        *_tenants(model, pool), *_ledger(model, pool),
    ]  # fmt: skip


def _differing(what: str, says: Mapping[str, object], should: Mapping[str, object]) -> Iterator[str]:
    for name, value in should.items():
        if str(says.get(name, "")) != str(value):
            yield f"{what}: {name} is {says.get(name, '')!r}, it should be {str(value)!r}"


def _names(what: str, there: object, known: object) -> Iterator[str]:
    if set(there) != set(known):  # type: ignore[call-overload]
        yield f"{what}: there are {sorted(there)}, there should be {sorted(known)}"  # type: ignore[call-overload]


def _leases(model: Model, pool: Reading) -> Iterator[str]:
    there = pool.named("lease:")
    yield from _names("leases", there, model.leases)
    for name in sorted(set(there) & set(model.leases)):
        lease = model.leases[name]
        yield from _differing(f"lease {name}", there[name], _lease(lease))
        if pool.zset("leases").get(name) != lease.ends:
            yield f"lease {name} ends at {pool.zset('leases').get(name)}, it should at {lease.ends}"
        if name in model.waiters:
            yield f"law 4: {name} holds a lease and waits for one"


def _lease(lease: Lease) -> dict[str, object]:
    return {
        "token": lease.token, "state": lease.state, "memory_bytes": lease.size, "gpu_uuids": ",".join(lease.cards),
        "host": lease.host, "tenant": lease.tenant, "priority": lease.priority, "ttl_ms": lease.ttl,
        "created_at": lease.created, "revoke_at": lease.revoke_at or "", "seen_until": lease.seen_until or "",
        "nonce": lease.nonce, "calls": " ".join(lease.calls), "host_memory_bytes": lease.host_memory or "",
        "cpus_milli": lease.cpus or "",
    } | ({"expires_at": lease.ends} if lease.state != "reclaiming" else {})  # fmt: skip


def _waiters(model: Model, pool: Reading) -> Iterator[str]:
    there = pool.named("waiter:")
    yield from _names("waiters", there, model.waiters)
    queue = sorted(pool.zset("waiters"), key=lambda name: pool.zset("waiters")[name])
    if queue != [waiter.ask.id for waiter in model.queue()]:
        yield f"law 7: the queue is {queue}, it should be {[w.ask.id for w in model.queue()]}"
    for name in sorted(set(there) & set(model.waiters)):
        yield from _differing(f"waiter {name}", there[name], _waiter(model.waiters[name]))


def _waiter(waiter: Waiter) -> dict[str, object]:
    return {
        "since": waiter.since, "deadline": waiter.deadline,
        "bypassed": waiter.passed, "reserved_gpus": ",".join(waiter.kept), "grows": waiter.ask.grows,
    }  # fmt: skip


def _cards(model: Model, pool: Reading) -> Iterator[str]:
    there = pool.named("gpu:")
    yield from _names("cards", there, model.cards)
    for uuid in sorted(set(there) & set(model.cards)):
        card, says = model.cards[uuid], dict(there[uuid])
        says["drained_by"] = ",".join(sorted(filter(None, says.get("drained_by", "").split(","))))
        yield from _differing(f"card {uuid}", says, _card(model, card))


def _card(model: Model, card: Card) -> dict[str, object]:
    return {
        "host": card.host, "state": card.state, "budget_bytes": card.budget, "capacity_bytes": card.capacity,
        "unmanaged_bytes": "" if card.unmanaged is None else card.unmanaged,
        "leased_bytes": model.leased(card.uuid), "fresh_until": card.fresh_until,
        "drained_by": ",".join(sorted(card.drained_by)), "left": int(card.left), "reserved_for": card.kept_for,
    }  # fmt: skip


def _hosts(model: Model, pool: Reading) -> Iterator[str]:
    there = pool.named("host:")
    yield from _names("hosts", there, model.hosts)
    yield from _names("joined", pool.sets.get("hosts", set()), {h.name for h in model.hosts.values() if h.joined})
    for name in sorted(set(there) & set(model.hosts)):
        host, (memory, cpus) = model.hosts[name], model.lent_of_host(name)
        says = {
            field: there[name].get(field) or "0"
            for field in ("memory_bytes", "cpus_milli", "leased_memory_bytes", "leased_cpus_milli", "drained")
        }
        should = {
            "memory_bytes": host.memory, "cpus_milli": host.cpus, "leased_memory_bytes": memory,
            "leased_cpus_milli": cpus, "drained": int(host.drained),
        }  # fmt: skip
        kept = {
            "kept_for": host.kept_for, "kept_memory_bytes": host.kept_memory,
            "kept_cpus_milli": host.kept_cpus,
        }  # fmt: skip
        if host.kept_for:
            yield from _differing(f"host {name}", there[name], kept)
        elif there[name].get("kept_for"):
            yield f"host {name} is kept for {there[name]['kept_for']}, it should be for nobody"
        yield from _differing(f"host {name}", says, should)
        own = [one for one in there[name].get("gpus", "").split() if model.cards.get(one, _NO_CARD).host in ("", name)]
        yield from _names(f"cards of {name}", own, host.gpus)


def _tenants(model: Model, pool: Reading) -> Iterator[str]:
    there = pool.named("tenant:")
    yield from _names("tenants", there, model.tenants)
    for name in sorted(set(there) & set(model.tenants)):
        tenant, fields = model.tenants[name], there[name]
        says = {
            field: fields.get(field, default) for field, default in (("quota_bytes", "0"), ("weight_milli", "1000"))
        }
        says["leased_bytes"] = fields.get("leased_bytes", "0")
        should = {
            "quota_bytes": tenant.quota, "weight_milli": tenant.weight, "leased_bytes": model.held_by(name)
        }  # fmt: skip
        yield from _differing(f"tenant {name}", says, should)
        used = float(fields.get("usage", 0))
        if abs(used - tenant.usage) > 1 + tenant.usage / 1000 or int(fields["usage_at"]) != tenant.usage_at:
            yield f"tenant {name} used {used} at {fields['usage_at']}, it should be {tenant.usage} at {tenant.usage_at}"


def _ledger(model: Model, pool: Reading) -> Iterator[str]:
    says = {name: pool.hash("ledger").get(name) or "0" for name in _LEDGER}
    clock = model.clock
    numbers = (
        model.token if model.born else 0, clock.clock_ms, clock.offset_ms, clock.grace_until, model.settling_until,
        len(model.waiters), model.epoch,
    )  # fmt: skip
    yield from _differing("ledger", says, dict(zip(_LEDGER, numbers, strict=True)))


#: What a host's list may still name: a card that is forgotten.
_NO_CARD = Card("", "")
_LEDGER = ("token", "clock_ms", "clock_offset_ms", "grace_until", "settling_until", "queued", "epoch")
