"""A ledger that lost its data, or was taken over by another primary: holders come first (law 11)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker import (
    Broker,
    InsufficientMemory,
    InvalidRequest,
    LeaseConflict,
    LeaseLost,
    LeaseNotFound,
    PoolUnavailable,
    calls,
)
from broker.granted import Claim
from broker.ledger.server import run_id
from broker.publish import Publisher
from broker.units import GIB
from broker.values import LeaseVerdict, State
from tests.conftest import report
from tests.ledger.test_lease_life import until

Cards = Callable[..., None]


class Agent:
    """One agent that lives through the loss."""

    def __init__(self, broker: Broker, host: str = "h1", interval_ms: int = 600_000) -> None:
        self.publisher, self.interval_ms = Publisher(broker, host), interval_ms

    def sample(self, *uuids: str, verdicts: tuple[LeaseVerdict, ...] = (), **changes: object) -> None:
        cards = [report(uuid, i, **changes) for i, uuid in enumerate(uuids)]  # type: ignore[arg-type]
        self.publisher.publish(cards, self.interval_ms, verdicts=verdicts)


def lose(broker: Broker, grace: float = 0.4) -> None:
    """All data, as after a restart without persistence; and a second passes, as it would. What was configured is lost
    too, so the length of the settling is set anew."""
    epoch = broker.epoch()
    broker.redis.flushdb()
    broker.redis.hset(broker.keys.config, "grace_seconds", str(grace))
    until(lambda: int(broker.redis.time()[0]) - 1735689600 > epoch)  # type: ignore[index]


def test_a_holder_registers_with_its_next_renewal_and_nothing_is_lent_before(broker: Broker) -> None:
    agent = Agent(broker)
    agent.sample("GPU-a")
    lease = broker.acquire("4GiB", lease_id="job", tenant="studio", pid=77, job_id="j", function="f")
    lose(broker)
    with pytest.raises(PoolUnavailable, match="lost its data"):
        lease.renew()  # its card is not known yet: it asks again later
    assert not lease.lost
    agent.sample("GPU-a")
    with pytest.raises(InsufficientMemory, match="register"):
        broker.acquire("1GiB")
    lease.renew()
    record = broker.get("job")
    assert record is not None
    assert (record.token, record.tenant, record.pid, record.job_id) == (lease.token, "studio", 77, "j")
    assert broker.gpus()[0].leased_bytes == 4 * GIB
    settled(broker)
    with pytest.raises(InsufficientMemory):
        broker.acquire("2GiB")
    newer = broker.acquire("1GiB")
    assert newer.token > lease.token
    assert lease.release() is True


def settled(broker: Broker) -> None:
    """Waits for the end of the settling."""
    end = int(broker.redis.hget(broker.keys.ledger, "settling_until") or 0)  # type: ignore[arg-type]
    until(lambda: broker.reap() > end)


def test_the_same_name_and_request_finds_the_registered_lease(broker: Broker) -> None:
    agent = Agent(broker)
    agent.sample("GPU-a", "GPU-b")
    asked: list[dict[str, object]] = [
        {"memory": "1GiB", "lease_id": "one"},
        {"memory": ["9GiB", "2x1GiB"], "lease_id": "two", "priority": 3, "placement": "spread"},
        {"memory": "1GiB", "lease_id": "three", "host": "h1", "mig": "none"},
    ]
    leases = [broker.acquire(**request) for request in asked]  # type: ignore[arg-type]
    lose(broker)
    agent.sample("GPU-a", "GPU-b")
    for lease in leases:
        lease.renew()
    settled(broker)
    assert [broker.acquire(**request).token for request in asked] == [lease.token for lease in leases]  # type: ignore[arg-type]


def test_a_new_pool_lends_at_once(broker: Broker) -> None:
    Agent(broker).sample("GPU-a")
    assert broker.acquire("1GiB").gpu_uuids == ("GPU-a",)


def test_after_settling_a_holder_gets_what_room_there_is(broker: Broker) -> None:
    agent = Agent(broker)
    agent.sample("GPU-a")
    first, second = broker.acquire("2GiB", pid=11), broker.acquire("3GiB", pid=12)
    lose(broker)
    # Their processes are strangers to the new ledger until they register.
    agent.sample("GPU-a", unmanaged_bytes=5 * GIB, processes=((11, 2 * GIB), (12, 3 * GIB)))
    settled(broker)
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB")  # law 11: what is really in use bounds what is lent
    first.renew()
    second.renew()
    (gpu,) = broker.gpus()
    assert (gpu.leased_bytes, gpu.unmanaged_bytes, gpu.short_bytes) == (5 * GIB, 0, 0)


def test_a_holder_whose_place_was_lent_on_is_told_that_its_lease_is_lost(broker: Broker) -> None:
    agent = Agent(broker)
    agent.sample("GPU-a")
    paused = broker.acquire("4GiB")
    lose(broker)
    agent.sample("GPU-a")
    settled(broker)
    broker.acquire("4GiB")
    with pytest.raises(LeaseLost, match="no room"):
        paused.renew()
    assert paused.lost


def test_a_lease_that_ended_in_this_ledger_does_not_come_back(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB")
    lease.release()
    assert lease.claim is not None
    with pytest.raises(LeaseLost):
        broker.call("register", *lease.claim.argv)
    broker.redis.delete(broker.keys.ended(lease.id))  # a minute later
    with pytest.raises(LeaseLost):
        broker.call("register", *lease.claim.argv)
    assert broker.leases() == []


def test_another_primary_is_another_epoch_and_holders_come_first(broker: Broker) -> None:
    agent = Agent(broker)
    agent.sample("GPU-a")
    kept, lost = broker.acquire("1GiB"), broker.acquire("2GiB")
    before = broker.epoch()
    broker.call("hello", run_id(broker.redis.info("server")))  # type: ignore[arg-type]
    # As a replica that missed the last grant and was then promoted.
    broker.redis.hset(broker.keys.gpu("GPU-a"), mapping={"leased_bytes": GIB, "free_bytes": int(4.5 * GIB)})
    broker.redis.hdel(broker.keys.gpu("GPU-a"), f"lease:{lost.id}")
    broker.redis.delete(broker.keys.lease(lost.id))
    broker.redis.zrem(broker.keys.leases, lost.id)
    broker.redis.zadd(broker.keys.free, {"GPU-a": int(4.5 * GIB)})
    broker.redis.hset(broker.keys.tenant("default"), "leased_bytes", GIB)
    broker.update_config(grace_seconds=0.4)
    assert int(broker.call("hello", "another")) > before
    with pytest.raises(InsufficientMemory, match="register"):
        broker.acquire("4GiB")
    lost.renew()
    kept.renew()
    assert broker.gpus()[0].leased_bytes == 3 * GIB
    settled(broker)
    agent.sample("GPU-a")
    newer = broker.acquire("2GiB")
    assert newer.token > max(kept.token, lost.token)
    assert newer.token >> 23 > before
    assert int(broker.call("hello", "another")) == broker.epoch()  # nothing new


def test_looking_at_a_pool_makes_none(broker: Broker) -> None:
    assert broker.call("hello", "somebody") == "0"
    assert broker.redis.keys("*") == []


def test_an_expired_lease_counts_while_its_process_is_seen_and_no_longer(broker: Broker) -> None:
    broker.update_config(reclaim_seconds=0.1)
    agent = Agent(broker, interval_ms=400)
    agent.sample("GPU-a")
    lease = broker.acquire("5GiB", ttl=0.1, pid=5)
    until(lambda: bool(broker.reap()) and broker.get(lease.id).state == "reclaiming")  # type: ignore[union-attr]
    begun = broker.reap()
    while broker.reap() < begun + 500:  # five times the lock delay
        agent.sample("GPU-a", verdicts=(LeaseVerdict(lease.id, lease.token, "alive", 3 * GIB),))
        record = broker.get(lease.id)
        assert record is not None
        assert (record.used_bytes, record.peak_bytes) == (3 * GIB, 3 * GIB)
    agent.sample("GPU-a", verdicts=(LeaseVerdict(lease.id, lease.token + 1, "gone"),))
    assert broker.get(lease.id) is not None  # that was about another lease
    agent.sample("GPU-a", verdicts=(LeaseVerdict(lease.id, lease.token, "gone"),))
    assert broker.get(lease.id) is None
    (last,) = [event for event in broker.events() if event.kind == "reclaimed"]
    assert last.fields["why"] == "seen"


def test_the_word_that_a_process_is_gone_ends_no_lease_that_is_not_over(broker: Broker) -> None:
    agent = Agent(broker)
    agent.sample("GPU-a")
    lease = broker.acquire("1GiB", pid=5)
    agent.sample("GPU-a", verdicts=(LeaseVerdict(lease.id, lease.token, "gone"),))
    assert broker.get(lease.id) is not None


def test_a_sample_that_was_held_up_is_no_news(broker: Broker) -> None:
    agent = Agent(broker)
    agent.sample("GPU-a")
    agent.sample("GPU-a", unmanaged_bytes=2 * GIB)
    agent.publisher._sequence -= 1  # the same once more
    agent.sample("GPU-a", unmanaged_bytes=0)
    assert broker.gpus()[0].unmanaged_bytes == 2 * GIB
    read_at = agent.publisher.now()
    assert read_at is not None
    agent.publisher.publish([report("GPU-a")], 1000, read_at=read_at - 10_000)  # read long ago, three intervals are 3 s
    assert not broker.gpus()[0].lends
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB")


def test_a_process_that_runs_already_becomes_a_lease(broker: Broker) -> None:
    agent = Agent(broker)
    agent.sample("GPU-a", unmanaged_bytes=3 * GIB, processes=((77, 3 * GIB),))
    lease = broker.adopt(77, "3GiB", host="h1", ttl=30)
    (gpu,) = broker.gpus()
    assert (gpu.leased_bytes, gpu.unmanaged_bytes, gpu.free_bytes) == (3 * GIB, 0, gpu.budget_bytes - 3 * GIB)
    assert broker.adopt(77, "3GiB", host="h1").token == lease.token
    assert broker.get(lease.id).adopted  # type: ignore[union-attr]
    before = broker.get(lease.id).expires_at  # type: ignore[union-attr]
    until(lambda: broker.reap() > before - 30_000 + 5)
    agent.sample("GPU-a", verdicts=(LeaseVerdict(lease.id, lease.token, "alive", 3 * GIB),))
    assert broker.get(lease.id).expires_at > before  # type: ignore[union-attr]
    with pytest.raises(LeaseNotFound):
        broker.adopt(78, "1GiB", host="h1")
    with pytest.raises(LeaseNotFound):
        broker.adopt(77, "1GiB", host="h2", lease_id="elsewhere")


def test_a_card_of_which_too_little_is_known_cannot_be_published_as_open(broker: Broker) -> None:
    for unknown in ({"unmanaged_bytes": None}, {"memory_total_bytes": None}):
        with pytest.raises(InvalidRequest, match="UNAVAILABLE while"):
            Publisher(broker, "h1").publish([report("GPU-a", **unknown)], 1000)  # type: ignore[arg-type]
    assert broker.gpus() == []


def test_a_process_is_adopted_though_its_card_cannot_be_read_now(broker: Broker) -> None:
    agent = Agent(broker)
    agent.sample("GPU-a", unmanaged_bytes=GIB, processes=((77, GIB),))
    agent.sample(
        "GPU-a", state=State.UNAVAILABLE, job_state=State.UNAVAILABLE, unmanaged_bytes=None, processes=((77, GIB),)
    )
    assert broker.adopt(77, "1GiB", host="h1").memory_bytes == GIB


def test_a_process_is_adopted_once_and_not_beyond_its_card(broker: Broker) -> None:
    agent = Agent(broker)
    agent.sample("GPU-a", unmanaged_bytes=3 * GIB, processes=((71, GIB), (72, 2 * GIB)))
    broker.adopt(71, "1GiB", host="h1")
    with pytest.raises(LeaseNotFound):
        broker.adopt(71, "1GiB", host="h1", lease_id="once-more")
    agent.sample("GPU-b", total=4 * GIB, unmanaged_bytes=4 * GIB, processes=((73, 4 * GIB),))
    with pytest.raises(InsufficientMemory, match=r"3\.5 GiB"):
        broker.adopt(73, "4GiB", host="h1")


@pytest.mark.parametrize("closed", ["drained", "hot"])
def test_beyond_what_a_process_has_memory_is_adopted_only_where_it_is_lent(broker: Broker, closed: str) -> None:
    agent = Agent(broker)
    hot = {"state": State.CRITICAL, "job_state": State.CRITICAL} if closed == "hot" else {}
    agent.sample("GPU-a", unmanaged_bytes=GIB, processes=((71, GIB),), **hot)
    if closed == "drained":
        broker.drain("GPU-a")
    with pytest.raises(InsufficientMemory):
        broker.adopt(71, "2GiB", host="h1")
    assert broker.adopt(71, "1GiB", host="h1").memory_bytes == GIB


def test_an_adopted_process_that_is_seen_again_has_its_lease_again(broker: Broker) -> None:
    agent = Agent(broker)
    agent.sample("GPU-a", unmanaged_bytes=GIB, processes=((71, GIB),))
    lease = broker.adopt(71, "1GiB", host="h1", ttl=0.1)
    until(lambda: broker.reap() and broker.get(lease.id).state == "reclaiming")  # type: ignore[union-attr]
    with pytest.raises(LeaseLost):
        broker.adopt(71, "1GiB", host="h1", ttl=0.1)
    agent.sample("GPU-a", verdicts=(LeaseVerdict(lease.id, lease.token, "alive", GIB),))
    assert broker.get(lease.id).state == "active"  # type: ignore[union-attr]
    assert [event.kind for event in broker.events() if event.kind in ("expired", "revived")] == ["expired", "revived"]


def test_a_name_that_waits_is_not_adopted_under(broker: Broker) -> None:
    agent = Agent(broker)
    agent.sample("GPU-a", unmanaged_bytes=GIB, processes=((71, GIB),))
    broker.acquire("4GiB")
    request = calls.ask("2GiB", lease_id="job", wait=30)
    assert broker.call("acquire", *request.asking(True))[0] == "waiting"
    with pytest.raises(LeaseConflict):
        broker.adopt(71, "1GiB", host="h1", lease_id="job")


def test_who_came_while_the_ledger_settled_is_served_after_it(broker: Broker) -> None:
    agent = Agent(broker)
    agent.sample("GPU-a")
    broker.update_config(grace_seconds=0.4)
    for primary in ("one", "another"):
        broker.call("hello", primary)
    request = calls.ask("2GiB", lease_id="job", wait=30)
    assert broker.call("acquire", *request.asking(True))[0] == "waiting"
    settled(broker)
    assert [lease.id for lease in broker.leases()] == ["job"]


def test_a_claim_says_the_same_of_a_short_request_as_of_a_long_one() -> None:
    request = calls.ask("1GiB", lease_id="one", gpu="GPU-a", priority=7, tenant="t", owner="o", job_id="j", pid=4711)
    reply = ["granted", "5", "GPU-a", "h1", "9", "0", "30000", "30000", str(GIB), "1", "0"]
    short = Claim.of(request, reply)
    assert short == Claim.of(request._replace(options=(*request.options, "placement", "")), reply)
    assert short.argv == (
        "one", 5, "GPU-a", GIB, 30_000, "t", "o", 4711, 7, "j", 0, 0, "", f"{GIB}||GPU-a|7|t",
    )  # fmt: skip
