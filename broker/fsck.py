"""Checks the ledger against itself: the leases are the truth, sums and indexes are a cache of them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from broker import plans
from broker.models import Gpu
from broker.values import State

if TYPE_CHECKING:
    from broker.client import Broker
    from broker.models import LeaseRecord


def differences(broker: Broker) -> list[str]:
    """Every difference between the leases and what the ledger keeps about them, in words; empty if all adds up.

    Reads the whole pool in several round trips: exact on a pool at rest.
    """
    keys, client = broker.keys, broker.redis
    leases = broker.leases()
    gpus = {fields["uuid"]: fields for fields in broker.run(_gpu_hashes(broker))}
    found = [f"lease {lease.id} is on {lease.gpu_uuids}, which the pool does not know"
             for lease in leases if lease.gpu_uuids not in gpus]  # fmt: skip
    on: dict[str, list[LeaseRecord]] = defaultdict(list)
    for lease in leases:
        on[lease.gpu_uuids].append(lease)
        end = client.zscore(keys.leases, lease.id)
        if lease.state != "reclaiming" and end != lease.expires_at:
            found.append(f"lease {lease.id} ends at {lease.expires_at}, the index says {end}")
    offered: Any = client.zrange(keys.free, 0, -1, withscores=True)
    free: dict[str, float] = dict(offered)
    for uuid, fields in gpus.items():
        gpu = Gpu.from_hash(fields)
        found += _gpu_differences(gpu, on[uuid], free.pop(uuid, None))
        if {name.removeprefix("lease:") for name in fields if name.startswith("lease:")} != {
            one.id for one in on[uuid]
        }:
            found.append(f"GPU {uuid}: the leases it names differ from those that name it")
    found += [f"GPU {uuid} is offered but not known" for uuid in free]
    found += _deadline_differences(broker)
    waiting = set(client.zrange(keys.waiting, 0, -1))
    queued = set(client.zrange(keys.waiters, 0, -1))
    if waiting != queued or {waiter.id for waiter in broker.waiters()} != queued:
        found.append(f"waiters differ: queue {sorted(queued)}, deadlines {sorted(waiting)}")
    return found


def _deadline_differences(broker: Broker) -> list[str]:
    """Deadlines that would be missed: one before the ledger's soonest, or of a lease that is not there."""
    keys, client = broker.keys, broker.redis
    soonest = int(client.hget(keys.ledger, "soonest") or 0)
    found = []
    for index in (keys.leases, keys.waiting, keys.fresh):
        first: Any = client.zrange(index, 0, 0, withscores=True)
        if first and first[0][1] < soonest:
            found.append(f"{index}: {first[0][0]} is due at {first[0][1]:.0f}, before the ledger's soonest {soonest}")
    ids: Any = client.zrange(keys.leases, 0, -1)
    found += [f"lease {one} has a deadline and no hash" for one in ids if not client.exists(keys.lease(one))]
    return found


def _gpu_differences(gpu: Gpu, leases: list[LeaseRecord], offered: float | None) -> list[str]:
    found = []
    leased = sum(lease.memory_bytes for lease in leases)
    if gpu.leased_bytes != leased:
        found.append(f"GPU {gpu.uuid}: leased_bytes {gpu.leased_bytes}, its leases hold {leased}")
    free = max(0, gpu.budget_bytes - leased)
    if gpu.free_bytes != free:
        found.append(f"GPU {gpu.uuid}: free_bytes {gpu.free_bytes}, it should be {free}")
    lends = gpu.state not in (State.CRITICAL, State.UNAVAILABLE) and not gpu.drained
    expected = free if lends and free > 0 else None
    if offered != expected:
        found.append(f"GPU {gpu.uuid}: offered with {offered} bytes, it should be {expected}")
    return found


def _gpu_hashes(broker: Broker) -> plans.Plan[list[dict[str, str]]]:
    (uuids,) = yield [("SMEMBERS", broker.keys.gpus)]
    replies = yield [("HGETALL", broker.keys.gpu(uuid)) for uuid in uuids]
    return [reply for reply in replies if reply]
