"""Big requests among small ones: nobody is passed for ever, and nobody waits for nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker import Broker, InsufficientMemory
from broker.units import GIB
from tests.ledger.test_waiting import ask, granted

Cards = Callable[..., None]


def waiter(broker: Broker, name: str) -> str:
    """The GPUs kept for a waiter."""
    return next((one.reserved_gpus or "" for one in broker.waiters() if one.id == name), "")


def test_a_big_request_is_passed_so_often_and_then_a_card_is_kept_for_it(broker: Broker, cards: Cards) -> None:
    broker.update_config(bypass_max=3)
    cards("GPU-a")
    holder = broker.acquire("2GiB")
    assert ask(broker, "big", "5GiB") == "waiting"
    small = [broker.acquire("1GiB") for _ in range(3)]  # each passes it
    with pytest.raises(InsufficientMemory, match=r"kept|no GPU"):
        broker.acquire("100MiB")
    assert waiter(broker, "big") == "GPU-a"
    for lease in [*small, holder]:
        assert granted(broker).isdisjoint({"big"})
        lease.release()
    assert granted(broker) == {"big"}
    assert broker.acquire("100MiB").gpu_uuids == ("GPU-a",)  # what it leaves is anybody's


def test_small_requests_go_on_where_nothing_is_kept(broker: Broker, cards: Cards) -> None:
    broker.update_config(bypass_max=1)
    cards("GPU-a", host="h1")
    cards("GPU-b", host="h2")
    broker.acquire("2GiB", gpu="GPU-a")
    broker.acquire("3GiB", gpu="GPU-b")
    assert ask(broker, "big", "5GiB") == "waiting"
    for _ in range(4):
        broker.acquire("512MiB")
    assert waiter(broker, "big") in ("GPU-a", "GPU-b")
    kept = waiter(broker, "big")
    assert {broker.acquire("128MiB").gpu_uuids[0] for _ in range(3)} == {"GPU-a", "GPU-b"} - {kept}


def test_a_gang_gets_cards_kept_on_one_host(broker: Broker, cards: Cards) -> None:
    broker.update_config(bypass_max=1)
    cards("GPU-a", "GPU-b")
    holders = [broker.acquire("3GiB", gpu="GPU-a"), broker.acquire("3GiB", gpu="GPU-b")]
    assert ask(broker, "gang", "2x5GiB") == "waiting"
    broker.acquire("1GiB").release()
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB")
    assert set(waiter(broker, "gang").split(",")) == {"GPU-a", "GPU-b"}
    holders[0].release()
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB")
    holders[1].release()
    assert granted(broker) == {"gang"}


def test_what_is_kept_for_one_who_leaves_serves_the_others(broker: Broker, cards: Cards) -> None:
    broker.update_config(bypass_max=0)
    cards("GPU-a")
    holder = broker.acquire("2GiB")
    assert ask(broker, "big", "5GiB") == "waiting"
    assert ask(broker, "small", "1GiB") == "waiting"
    assert waiter(broker, "big") == "GPU-a"
    assert broker.cancel("big")
    assert granted(broker) == {holder.id, "small"}


def test_a_higher_priority_takes_what_is_kept_for_a_lower_one(broker: Broker, cards: Cards) -> None:
    broker.update_config(bypass_max=0)
    cards("GPU-a")
    broker.acquire("2GiB")
    assert ask(broker, "big", "5GiB") == "waiting"
    assert ask(broker, "small", "1GiB") == "waiting"
    assert broker.acquire("1GiB", priority=5).gpu_uuids == ("GPU-a",)
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", priority=-5)


def test_a_card_kept_for_one_is_offered_again_when_it_can_never_hold_it(broker: Broker, cards: Cards) -> None:
    broker.update_config(bypass_max=0)
    cards("GPU-a")
    broker.acquire("2GiB")
    assert ask(broker, "big", "5GiB") == "waiting"
    assert ask(broker, "small", "1GiB") == "waiting"
    cards("GPU-a", unmanaged_bytes=2 * GIB)  # a stranger: 5 GiB will not be there
    assert waiter(broker, "big") == ""
    assert "small" in granted(broker)


def test_a_drained_card_is_kept_for_nobody(broker: Broker, cards: Cards) -> None:
    broker.update_config(bypass_max=0)
    cards("GPU-a")
    broker.acquire("2GiB")
    ask(broker, "big", "5GiB")
    ask(broker, "small", "1GiB")
    broker.drain("GPU-a")
    assert waiter(broker, "big") == ""
    broker.undrain("GPU-a")
    assert "small" in granted(broker) or waiter(broker, "big") == "GPU-a"


def test_thousands_of_others_do_not_hide_a_waiter_that_can_be_served(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", host="h1")
    cards("GPU-dead", host="h2")
    mine, dead = broker.acquire("5GiB", gpu="GPU-a"), broker.acquire("5GiB", gpu="GPU-dead")
    for i in range(120):
        assert ask(broker, f"dead-{i}", "5GiB", host="h2") == "waiting"
        assert ask(broker, f"wide-{i}", f"{300 + i}MiB", gpu="GPU-dead") in ("waiting", "granted")
    assert ask(broker, "last", "5GiB", host="h1") == "waiting"
    mine.release()
    assert "last" in granted(broker)
    assert dead.id in granted(broker)
