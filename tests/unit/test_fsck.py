"""Each thing that the ledger keeps beside the leases is recomputed: whatever is changed by hand is found and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from broker import Broker
from broker.fsck import ABSENT, check, differences, repair
from broker.units import GIB

Cards = Callable[..., None]
FREE = int(5.5 * GIB)


@pytest.fixture
def pool(broker: Broker, cards: Cards) -> Iterator[Broker]:
    """Two cards of a host, a lease on the first, and two who wait: one for any card, one for a kind of card."""
    cards("GPU-a", "GPU-b")
    broker.acquire("4GiB", lease_id="held", gpu="GPU-a", tenant="studio")
    for name, options in (("wants", ()), ("picks", ("labels", "rack=a"))):
        broker.call("acquire", name, 5 * GIB, 30_000, "", "GPU-a" * (not options), 0, "studio", "me", "", "", "", 1,
                    *options)  # fmt: skip
    assert differences(broker) == []
    yield broker
    broker.redis.flushall()  # what was broken on purpose must not be held against the test


LINE = "gpu:GPU-a|studio|129"
#: Command (names without the pool's prefix), the key and the kind of a difference that must be found, and its card.
BROKEN = [
    (("HSET", "gpu:GPU-a", "leased_bytes", 5), "gpu:GPU-a", "leased_bytes", "GPU-a"),
    (("HSET", "gpu:GPU-a", "free_bytes", 5), "gpu:GPU-a", "free_bytes", "GPU-a"),
    (("HSET", "gpu:GPU-a", "short_bytes", 5), "gpu:GPU-a", "short_bytes", "GPU-a"),
    (("HSET", "gpu:GPU-a", "lease:held", 5), "gpu:GPU-a", "lease:held", "GPU-a"),
    (("HSET", "gpu:GPU-b", "lease:ghost", 5), "gpu:GPU-b", "lease:ghost", "GPU-b"),
    (("HSET", "gpu:GPU-a", "drained_by", "gpu"), "gpu:GPU-a", "drained", "GPU-a"),
    (("HSET", "gpu:GPU-a", "drained", "1", "drained_by", "host"), "gpu:GPU-a", "drained_by", "GPU-a"),
    (("HSET", "host:h1", "drained", "1"), "gpu:GPU-b", "drained", "GPU-b"),
    (("HSET", "gpu:GPU-a", "reserved_for", "wants"), "gpu:GPU-a", "reserved_for", "GPU-a"),
    (("HSET", "gpu:GPU-a", "reserved_for", "wants"), "reserved", "GPU-a", "GPU-a"),
    (("HSET", "waiter:wants", "reserved_gpus", "GPU-b"), "gpu:GPU-b", "reserved_for", "GPU-b"),
    (("HSET", "gpu:GPU-a", "class", "8.6||"), "classes", "8.6||", None),
    (("HSET", "gpu:GPU-a", "class", "8.6||"), "free@8.6||", "GPU-a", "GPU-a"),
    (("SREM", "gpus", "GPU-a"), "gpus", "GPU-a", None),
    (("SADD", "gpus", "GPU-x"), "gpus", "GPU-x", None),
    (("DEL", "gpu:GPU-a"), "lease:held", "gpu_uuids", "GPU-a"),
    (("ZADD", "free", 5, "GPU-a"), "free", "GPU-a", "GPU-a"),
    (("ZREM", "free", "GPU-b"), "free", "GPU-b", "GPU-b"),
    (("ZADD", "free", 5, "GPU-x"), "free", "GPU-x", "GPU-x"),
    (("ZADD", "free@8.6||", 5, "GPU-a"), "free@8.6||", "GPU-a", "GPU-a"),
    (("ZADD", "reserved", 5, "GPU-a"), "reserved", "GPU-a", "GPU-a"),
    (("ZADD", "capacity", 5, "GPU-a"), "capacity", "GPU-a", "GPU-a"),
    (("ZREM", "fresh", "GPU-a"), "fresh", "GPU-a", "GPU-a"),
    (("ZADD", "fresh", 5, "GPU-x"), "fresh", "GPU-x", "GPU-x"),
    (("ZADD", "wide", 5, "h1#2"), "wide", "h1#2", None),
    (("ZREM", "wide", "h1#2"), "wide", "h1#2", None),
    (("ZADD", "wide", 5, "h9#2"), "wide", "h9#2", None),
    (("HSET", "classes", "8.6||", 1), "classes", "8.6||", None),
    (("ZADD", "leases", 5, "held"), "leases", "held", None),
    (("ZREM", "leases", "held"), "leases", "held", None),
    (("ZADD", "leases", 9e15, "ghost"), "leases", "ghost", None),
    (("HSET", "lease:ghost", "id", "ghost"), "lease:ghost", "lease", None),
    (("DEL", "lease:held"), "leases", "held", None),
    (("DEL", "lease:held"), "gpu:GPU-a", "leased_bytes", "GPU-a"),
    (("DEL", "waiter:wants"), "waiters", "wants", None),
    (("DEL", "waiter:wants"), f"line:{LINE}", "wants", None),
    (("ZREM", "waiters", "wants"), "waiters", "wants", None),
    (("ZADD", "waiters", 5 - 4 * (1 << 42), "wants"), "waiters", "priority of wants", None),
    (("ZREM", "waiting", "wants"), "waiting", "wants", None),
    (("ZADD", "waiting", 9e15, "ghost"), "waiting", "ghost", None),
    (("ZREM", f"line:{LINE}", "wants"), f"line:{LINE}", "wants", None),
    (("ZADD", "line:any|studio|1", 7, "wants"), "line:any|studio|1", "wants", None),
    (("ZREM", "lines:gpu:GPU-a", LINE), "lines:gpu:GPU-a", LINE, None),
    (("ZADD", "lines:gpu:GPU-a", 7, LINE), "lines:gpu:GPU-a", LINE, None),
    (("ZADD", "lines:host:h9", 7, "host:h9|x|1"), "lines:host:h9", "host:h9|x|1", None),
    (("SREM", "groups", "sel:;;rack=a"), "groups", "sel:;;rack=a", None),
    (("SADD", "groups", "sel:ghost"), "groups", "sel:ghost", None),
    (("HSET", "waiter:wants", "grows", "held"), "waiter:wants", "grows", None),
    (("HSET", "ledger", "queued", 7), "ledger", "queued", None),
    (("HSET", "ledger", "soonest", 9_000_000_000_000_000), "ledger", "soonest", None),
    (("HSET", "tenant:studio", "leased_bytes", 5), "tenant:studio", "leased_bytes", None),
    (("DEL", "tenant:studio"), "tenant:studio", "leased_bytes", None),
    (("SADD", "tenants", "ghost"), "tenants", "ghost", None),
    (("HSET", "host:h1", "leased_memory_bytes", 5), "host:h1", "leased_memory_bytes", None),
    (("HSET", "host:h1", "leased_cpus_milli", 5), "host:h1", "leased_cpus_milli", None),
    (("HSET", "lease:held", "cpus_milli", 5), "host:h1", "leased_cpus_milli", None),
]  # fmt: skip


@pytest.mark.parametrize(("command", "key", "kind", "gpu"), BROKEN)
def test_whatever_does_not_follow_from_the_leases_is_found(
    pool: Broker, command: tuple[object, ...], key: str, kind: str, gpu: str | None
) -> None:
    verb, name, *values = command
    pool.redis.execute_command(str(verb), pool.keys.root + str(name), *values)  # type: ignore[no-untyped-call]
    found = {(difference.key, difference.kind): difference for difference in check(pool, readings=2)}
    assert (pool.keys.root + key, kind) in found
    assert found[pool.keys.root + key, kind].gpu == gpu


def test_a_difference_says_where_what_and_what_it_should_be(pool: Broker) -> None:
    pool.redis.hset(pool.keys.gpu("GPU-a"), "leased_bytes", "7")
    pool.redis.zrem(pool.keys.free, "GPU-b")
    assert differences(pool) == [
        f"{pool.keys.gpu('GPU-a')}: leased_bytes is 7, it should be {4 * GIB}",
        f"{pool.keys.free}: GPU-b is {ABSENT}, it should be {FREE}",
    ]


def test_what_was_only_seen_in_passing_is_no_difference(pool: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.redis.hset(pool.keys.ledger, "queued", "7")
    run, readings = pool.run, []

    def run_and_mend(plan: object) -> object:
        answer: object = run(plan)  # type: ignore[arg-type]
        readings.append(answer)
        pool.redis.hset(pool.keys.ledger, "queued", "2")
        return answer

    monkeypatch.setattr(pool, "run", run_and_mend)
    assert check(pool, readings=2) == []
    assert len(readings) == 2


def test_more_leases_than_one_batch_are_all_read(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    for number in range(1100):
        broker.acquire(1 << 20, lease_id=f"lease-{number}")
    assert differences(broker) == []
    broker.redis.zrem(broker.keys.leases, "lease-777")
    (difference,) = check(broker)
    assert (difference.kind, difference.says) == ("lease-777", ABSENT)
    broker.call("repair", "GPU-a")
    assert differences(broker) == []


def test_a_repair_recomputes_what_cards_say_and_tells_what_it_cannot_mend(pool: Broker) -> None:
    pool.redis.hset(pool.keys.gpu("GPU-a"), mapping={"leased_bytes": "7", "free_bytes": "8"})
    pool.redis.zrem(pool.keys.free, "GPU-b")
    pool.redis.hset(pool.keys.ledger, "soonest", "9000000000000000")
    done = repair(pool)
    assert {difference.gpu for difference in done.found} == {"GPU-a", "GPU-b", None}
    assert done.mended == {"GPU-a": 2, "GPU-b": 1}
    assert not [difference for difference in done.left if difference.gpu is not None]


def test_a_repair_of_a_pool_that_adds_up_mends_nothing(pool: Broker) -> None:
    done = repair(pool)
    assert (done.found, done.mended, done.left) == ([], {}, [])
