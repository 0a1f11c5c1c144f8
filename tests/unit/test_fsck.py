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
#: Command (names without the pool's prefix), the key and the kind of a difference that must be found.
BROKEN = [
    (("HSET", "gpu:GPU-a", "leased_bytes", 5), "gpu:GPU-a", "leased_bytes"),
    (("HSET", "gpu:GPU-a", "free_bytes", 5), "gpu:GPU-a", "free_bytes"),
    (("HSET", "gpu:GPU-a", "short_bytes", 5), "gpu:GPU-a", "short_bytes"),
    (("HSET", "gpu:GPU-a", "lease:held", 5), "gpu:GPU-a", "lease:held"),
    (("HSET", "gpu:GPU-b", "lease:ghost", 5), "gpu:GPU-b", "lease:ghost"),
    (("HSET", "gpu:GPU-a", "drained_by", "gpu"), "gpu:GPU-a", "drained"),
    (("HSET", "gpu:GPU-a", "drained", "1", "drained_by", "host"), "gpu:GPU-a", "drained_by"),
    (("HSET", "host:h1", "drained", "1"), "gpu:GPU-b", "drained"),
    (("HSET", "gpu:GPU-a", "reserved_for", "wants"), "gpu:GPU-a", "reserved_for"),
    (("HSET", "gpu:GPU-a", "reserved_for", "wants"), "reserved", "GPU-a"),
    (("HSET", "waiter:wants", "reserved_gpus", "GPU-b"), "gpu:GPU-b", "reserved_for"),
    (("HSET", "gpu:GPU-a", "class", "8.6||"), "classes", "8.6||"),
    (("HSET", "gpu:GPU-a", "class", "8.6||"), "free@8.6||", "GPU-a"),
    (("SREM", "gpus", "GPU-a"), "gpus", "GPU-a"),
    (("SADD", "gpus", "GPU-x"), "gpus", "GPU-x"),
    (("DEL", "gpu:GPU-a"), "lease:held", "gpu_uuids"),
    (("ZADD", "free", 5, "GPU-a"), "free", "GPU-a"),
    (("ZREM", "free", "GPU-b"), "free", "GPU-b"),
    (("ZADD", "free", 5, "GPU-x"), "free", "GPU-x"),
    (("ZADD", "free@8.6||", 5, "GPU-a"), "free@8.6||", "GPU-a"),
    (("ZADD", "reserved", 5, "GPU-a"), "reserved", "GPU-a"),
    (("ZADD", "capacity", 5, "GPU-a"), "capacity", "GPU-a"),
    (("ZREM", "fresh", "GPU-a"), "fresh", "GPU-a"),
    (("ZADD", "fresh", 5, "GPU-x"), "fresh", "GPU-x"),
    (("ZADD", "wide", 5, "h1#2"), "wide", "h1#2"),
    (("ZREM", "wide", "h1#2"), "wide", "h1#2"),
    (("ZADD", "wide", 5, "h9#2"), "wide", "h9#2"),
    (("HSET", "classes", "8.6||", 1), "classes", "8.6||"),
    (("ZADD", "leases", 5, "held"), "leases", "held"),
    (("ZREM", "leases", "held"), "leases", "held"),
    (("ZADD", "leases", 9e15, "ghost"), "leases", "ghost"),
    (("HSET", "lease:ghost", "id", "ghost"), "lease:ghost", "lease"),
    (("DEL", "lease:held"), "leases", "held"),
    (("DEL", "lease:held"), "gpu:GPU-a", "leased_bytes"),
    (("DEL", "waiter:wants"), "waiters", "wants"),
    (("DEL", "waiter:wants"), f"line:{LINE}", "wants"),
    (("ZREM", "waiters", "wants"), "waiters", "wants"),
    (("ZADD", "waiters", 5 - 4 * (1 << 42), "wants"), "waiters", "priority of wants"),
    (("ZREM", "waiting", "wants"), "waiting", "wants"),
    (("ZADD", "waiting", 9e15, "ghost"), "waiting", "ghost"),
    (("ZREM", f"line:{LINE}", "wants"), f"line:{LINE}", "wants"),
    (("ZADD", "line:any|studio|1", 7, "wants"), "line:any|studio|1", "wants"),
    (("ZREM", "lines:gpu:GPU-a", LINE), "lines:gpu:GPU-a", LINE),
    (("ZADD", "lines:gpu:GPU-a", 7, LINE), "lines:gpu:GPU-a", LINE),
    (("ZADD", "lines:host:h9", 7, "host:h9|x|1"), "lines:host:h9", "host:h9|x|1"),
    (("SREM", "groups", "sel:;;rack=a"), "groups", "sel:;;rack=a"),
    (("SADD", "groups", "sel:ghost"), "groups", "sel:ghost"),
    (("HSET", "waiter:wants", "grows", "held"), "waiter:wants", "grows"),
    (("HSET", "ledger", "queued", 7), "ledger", "queued"),
    (("HSET", "ledger", "soonest", 9_000_000_000_000_000), "ledger", "soonest"),
    (("HSET", "tenant:studio", "leased_bytes", 5), "tenant:studio", "leased_bytes"),
    (("DEL", "tenant:studio"), "tenant:studio", "leased_bytes"),
    (("SADD", "tenants", "ghost"), "tenants", "ghost"),
    (("HSET", "host:h1", "leased_memory_bytes", 5), "host:h1", "leased_memory_bytes"),
    (("HSET", "host:h1", "leased_cpus_milli", 5), "host:h1", "leased_cpus_milli"),
    (("HSET", "lease:held", "cpus_milli", 5), "host:h1", "leased_cpus_milli"),
]  # fmt: skip


#: What only the agent's next sample can bring back, or nobody: a card, and a lease that says nothing.
LOST = {("DEL", "gpu:GPU-a"), ("HSET", "lease:ghost", "id", "ghost")}


@pytest.mark.parametrize(("command", "key", "kind"), BROKEN)
def test_whatever_does_not_follow_from_the_leases_is_found_and_mended(
    pool: Broker, command: tuple[object, ...], key: str, kind: str
) -> None:
    verb, name, *values = command
    pool.redis.execute_command(str(verb), pool.keys.root + str(name), *values)  # type: ignore[no-untyped-call]
    assert (pool.keys.root + key, kind) in {(difference.key, difference.kind) for difference in check(pool, readings=2)}
    done = repair(pool)
    assert done.left == [] or command in LOST, [*map(str, done.left)]
    assert done.mended or command in LOST


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
    repair(broker)
    assert differences(broker) == []


def test_a_repair_recomputes_each_part_and_tells_what_it_mended(pool: Broker) -> None:
    pool.redis.hset(pool.keys.gpu("GPU-a"), mapping={"leased_bytes": "7", "free_bytes": "8"})
    pool.redis.zrem(pool.keys.free, "GPU-b")
    pool.redis.hset(pool.keys.ledger, "soonest", "9000000000000000")
    done = repair(pool)
    assert done.mended == {"gpu GPU-a": 2, "gpu GPU-b": 1, "ledger soonest": 1}
    assert done.left == []


def test_a_repair_of_a_pool_that_adds_up_mends_nothing(pool: Broker) -> None:
    done = repair(pool)
    assert (done.found, done.mended, done.left) == ([], {}, [])
