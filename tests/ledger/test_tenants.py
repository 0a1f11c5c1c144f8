"""Tenants: hard quotas, fair shares, accounts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker import Broker, ImpossibleRequest, InsufficientMemory, InvalidRequest
from broker.units import GIB
from tests.ledger.test_lease_life import until
from tests.ledger.test_waiting import ask, granted

Cards = Callable[..., None]


def test_a_quota_is_never_exceeded_and_says_so(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.set_tenant("studio", quota="3GiB")
    first = broker.acquire("1GiB", gpus=2, tenant="studio")  # both cards' bytes count
    with pytest.raises(InsufficientMemory, match="quota"):
        broker.acquire("2GiB", tenant="studio")
    with pytest.raises(ImpossibleRequest, match="quota"):
        broker.acquire("4GiB", tenant="studio", wait=30)
    assert broker.acquire("2GiB", tenant="other").gpus == 1
    first.release()
    assert broker.acquire("3GiB", tenant="studio").memory_bytes == 3 * GIB


def test_a_waiter_over_quota_blocks_nobody_and_goes_on_when_its_tenant_has_room_again(
    broker: Broker, cards: Cards
) -> None:
    cards("GPU-a", host="h1")
    cards("GPU-b", host="h2")
    broker.set_tenant("studio", quota="2GiB")
    held = broker.acquire("2GiB", tenant="studio", gpu="GPU-a")
    assert ask(broker, "over", "1GiB", tenant="studio", host="h2") == "waiting"
    assert ask(broker, "behind", "1GiB", tenant="other", host="h2") == "granted"
    held.release()  # its bytes were on the other host
    assert "over" in granted(broker)


def test_a_larger_quota_serves_who_waited_for_it(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.set_tenant("studio", quota="1GiB")
    broker.acquire("1GiB", tenant="studio")
    assert ask(broker, "over", "1GiB", tenant="studio") == "waiting"
    broker.set_tenant("studio", quota="2GiB")
    assert "over" in granted(broker)


def test_among_equals_the_tenant_that_used_least_lately_goes_first(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    holder = broker.acquire("5GiB", tenant="busy")
    begun = holder.expires_at - 30_000
    assert ask(broker, "busy-2", "5GiB", tenant="busy") == "waiting"
    assert ask(broker, "idle-1", "5GiB", tenant="idle") == "waiting"
    until(lambda: broker.reap() > begun + 20)  # what it holds counts while it holds it
    holder.release()
    assert granted(broker) == {"idle-1"}


def test_priority_goes_before_fairness(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    holder = broker.acquire("5GiB", tenant="busy")
    begun = holder.expires_at - 30_000
    ask(broker, "idle-1", "5GiB", tenant="idle")
    ask(broker, "busy-2", "5GiB", tenant="busy", priority=1)
    until(lambda: broker.reap() > begun + 20)
    holder.release()
    assert granted(broker) == {"busy-2"}


def test_weight_divides_use(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.set_tenant("large", weight=100)
    holder = broker.acquire("3GiB", tenant="large")
    other = broker.acquire("1GiB", tenant="small")
    begun = other.expires_at - 30_000
    ask(broker, "small-2", "5GiB", tenant="small")
    ask(broker, "large-2", "5GiB", tenant="large")
    until(lambda: broker.reap() > begun + 50)
    holder.release()
    other.release()
    assert granted(broker) == {"large-2"}  # three times the bytes, a hundred times the share


def test_the_account_of_each_function(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    for _ in range(2):
        lease = broker.acquire("1GiB", tenant="studio", function="photos.enhance")
        until(lambda at=lease.expires_at - 30_000: broker.reap() >= at + 20)  # type: ignore[misc]
        lease.release()
    (tenant,) = [one for one in broker.tenants() if one.name == "studio"]
    account = tenant.functions["photos.enhance"]
    assert account.count == 2
    assert account.held_ms >= 40
    assert 1024 * 40 // 1000 <= account.mib_seconds <= 1024 * account.held_ms / 1000 + 2
    assert account.asked_mib == 2048
    assert tenant.leased_bytes == 0


def test_leases_that_end_in_one_script_are_all_on_the_account(broker: Broker, cards: Cards) -> None:
    broker.update_config(reclaim_seconds=0)
    cards("GPU-a")
    last = [broker.acquire("1GiB", ttl=0.1, tenant="studio", function="photos.enhance") for _ in range(3)][-1]
    until(lambda: broker.redis.time()[0] * 1000 > last.expires_at + 1000)  # type: ignore[index]
    until(lambda: broker.reap() and not broker.leases())
    (tenant,) = [one for one in broker.tenants() if one.name == "studio"]
    assert tenant.functions["photos.enhance"].count == 3
    assert tenant.functions["photos.enhance"].asked_mib == 3 * 1024
    assert tenant.leased_bytes == 0


@pytest.mark.parametrize("wrong", [{"quota": "-1"}, {"quota": "a"}, {"weight": 0}, {"weight": float("nan")}])
def test_bad_values_change_nothing(broker: Broker, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        broker.set_tenant("studio", **wrong)  # type: ignore[arg-type]
    assert broker.tenants() == []
