"""Leases that change: resized, revoked, preempted; and late duplicates of calls."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker import Broker, ImpossibleRequest, InsufficientMemory, LeaseLost, LeaseNotFound, StaleToken, calls
from broker.units import GIB
from tests.ledger.test_lease_life import until
from tests.ledger.test_waiting import ask, granted

Cards = Callable[..., None]


def test_a_lease_shrinks_at_once_and_serves_who_waits(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("5GiB")
    assert ask(broker, "next", "3GiB") == "waiting"
    assert lease.resize("2GiB") == 2 * GIB
    assert "next" in granted(broker)
    assert broker.gpus()[0].leased_bytes == 5 * GIB
    lease.release()
    assert broker.gpus()[0].leased_bytes == 3 * GIB


def test_a_lease_grows_where_there_is_room_and_not_beyond(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    lease = broker.acquire("1GiB", gpus=2)
    assert lease.resize("3GiB") == 3 * GIB
    assert lease.resize("3GiB") == 3 * GIB  # again, as after a lost reply
    assert {gpu.leased_bytes for gpu in broker.gpus()} == {3 * GIB}
    broker.acquire("2GiB", gpu="GPU-b")
    with pytest.raises(InsufficientMemory, match=r"keep|beyond"):
        lease.resize("4GiB")  # GPU-a has room, GPU-b has not: neither grows
    assert {gpu.uuid: gpu.leased_bytes for gpu in broker.gpus()} == {"GPU-a": 3 * GIB, "GPU-b": 5 * GIB}
    with pytest.raises(ImpossibleRequest):
        lease.resize("7GiB")
    assert lease.memory_bytes == 3 * GIB


def test_growing_waits_in_the_queue_and_is_pushed(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease, other = broker.acquire("2GiB"), broker.acquire("3GiB")
    with ThreadPoolExecutor(1) as pool:
        growing = pool.submit(lease.resize, "4GiB", 30)
        until(lambda: [waiter.id for waiter in broker.waiters()] == [f"{lease.id}+"])
        other.release()
        assert growing.result(timeout=2) == 4 * GIB  # pushed: well before its next beat
    assert broker.waiters() == []
    assert broker.gpus()[0].leased_bytes == 4 * GIB


def test_growth_that_waits_ends_with_its_lease(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease, other = broker.acquire("2GiB"), broker.acquire("3GiB")
    assert broker.call("resize", lease.id, lease.token, 4 * GIB, 1, "")[0] == "waiting"
    lease.release()
    assert broker.waiters() == []
    other.release()
    assert broker.gpus()[0].leased_bytes == 0


def test_growing_in_vain_keeps_what_it_has(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("2GiB")
    broker.acquire("3GiB")
    with pytest.raises(InsufficientMemory):
        lease.resize("4GiB", wait=0.2)
    assert broker.waiters() == []
    assert lease.memory_bytes == 2 * GIB
    lease.renew()


def test_resizing_needs_the_token(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("2GiB")
    with pytest.raises(StaleToken):
        broker.resize(lease.id, lease.token + 1, "1GiB")
    with pytest.raises(LeaseNotFound):
        broker.resize("nobody", 5, "1GiB")
    assert broker.gpus()[0].leased_bytes == 2 * GIB


def test_a_revoked_lease_hears_it_with_its_renewal_and_ends_at_its_deadline(broker: Broker, cards: Cards) -> None:
    broker.update_config(reclaim_seconds=0)
    cards("GPU-a")
    lease = broker.acquire("5GiB", ttl=30)
    assert lease.revoke_at is None
    deadline = broker.revoke(lease.id, grace=0.5, reason="maintenance")
    lease.renew()
    assert lease.revoke_at == deadline
    assert lease.expires_at <= deadline
    assert broker.revoke(lease.id, grace=60) == deadline  # it only moves nearer
    until(lambda: bool(broker.reap()) and broker.get(lease.id) is None)
    with pytest.raises(LeaseLost, match="revoked"):
        lease.renew()
    assert lease.lost
    assert broker.acquire("5GiB").gpu_uuids == ("GPU-a",)


def test_without_grace_a_revoked_lease_is_over_at_once_and_its_bytes_count_for_the_lock_delay(
    broker: Broker, cards: Cards
) -> None:
    cards("GPU-a")
    lease = broker.acquire("5GiB")
    broker.revoke(lease.id, grace=0)
    with pytest.raises(LeaseLost):
        lease.renew()
    with pytest.raises(InsufficientMemory):
        broker.acquire("5GiB")
    with pytest.raises(LeaseLost):
        broker.revoke(lease.id)
    with pytest.raises(LeaseNotFound):
        broker.revoke("nobody")


def test_preemption_is_off_until_it_is_switched_on(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    low = broker.acquire("5GiB", priority=-1)
    assert ask(broker, "high", "5GiB", priority=5) == "waiting"
    low.renew()
    assert low.revoke_at is None


def test_a_higher_priority_revokes_the_least_important_leases_that_make_room(broker: Broker, cards: Cards) -> None:
    broker.update_config(preempt=1, preempt_grace_seconds=0.1, reclaim_seconds=0)
    cards("GPU-a")
    least, equal, low = (broker.acquire(size, priority=p) for size, p in (("2GiB", -9), ("1GiB", 5), ("2GiB", -1)))
    assert ask(broker, "high", "2GiB", priority=5) == "waiting"
    revoked = {e.fields["id"]: e.fields["reason"] for e in broker.events() if e.kind == "revoked"}
    assert revoked == {least.id: "preempted by high"}
    until(lambda: bool(broker.reap()) and "high" in granted(broker))
    assert {equal.id, low.id} <= granted(broker)


def test_nobody_is_asked_to_end_where_that_would_not_make_the_room(broker: Broker, cards: Cards) -> None:
    broker.update_config(preempt=1)
    cards("GPU-a")
    low, equal = broker.acquire("2GiB", priority=4), broker.acquire("3GiB", priority=5)
    assert ask(broker, "high", "5GiB", priority=5) == "waiting"  # an equal's bytes would have to come back too
    assert [e.kind for e in broker.events() if e.kind in ("revoked", "reserved")] == []
    low.renew()
    equal.renew()
    assert (low.revoke_at, equal.revoke_at) == (None, None)
    assert broker.acquire("512MiB").gpu_uuids == ("GPU-a",)  # and nothing is kept from others


def test_preemption_does_not_go_before_who_came_first(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    low = broker.acquire("5GiB", priority=-1)
    assert ask(broker, "first", "5GiB") == "waiting"
    broker.update_config(preempt=1)
    assert ask(broker, "second", "5GiB") == "waiting"
    low.renew()
    assert low.revoke_at is None
    low.release()
    assert granted(broker) == {"first"}


def test_a_call_delivered_again_after_its_leases_end_takes_nothing(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    request = calls.ask("2GiB", lease_id="job")
    token = int(broker.call("acquire", *request.asking(False))[1])
    broker.release("job", token)
    with pytest.raises(LeaseLost, match="released"):
        broker.call("acquire", *request.asking(False))
    assert broker.leases() == []
    assert broker.acquire("2GiB", lease_id="job").token > token  # another call may well take the name


def test_a_call_delivered_again_after_it_gave_up_waiting_takes_nothing(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    holder = broker.acquire("5GiB")
    request = calls.ask("2GiB", lease_id="job", wait=5)
    assert broker.call("acquire", *request.asking(True))[0] == "waiting"
    assert broker.call("acquire", *request.asking(False))[0] == "refused"
    holder.release()
    for stay in (True, False):  # there is room now, and nobody who asked
        assert broker.call("acquire", *request.asking(stay))[0] == "refused"
    holder = broker.acquire("5GiB")
    again = calls.ask("2GiB", lease_id="job", wait=5)
    assert broker.call("acquire", *again.asking(True))[0] == "waiting"
    assert broker.call("cancel", "job", request.nonce) == "unknown"  # the earlier call does not own it
    assert broker.call("cancel", "job", again.nonce) == "cancelled"
    holder.release()
    assert broker.leases() == []
