"""Waiters: pushed hand-over, order, and those who died."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker import Broker, InsufficientMemory, Lease, LeaseConflict
from broker.units import GIB
from tests.ledger.test_lease_life import until

Cards = Callable[..., None]


def ask(broker: Broker, lease_id: str, memory: str = "5GiB", **request: object) -> str:
    """One asking without blocking, as a waiter's first: 'granted', 'waiting', …"""
    from broker import calls

    values: dict[str, object] = {"lease_id": lease_id, "wait": 60}
    asked = calls.ask(memory, **(values | request))  # type: ignore[arg-type]
    return str(broker.call("acquire", *asked.asking(True))[0])


def granted(broker: Broker) -> set[str]:
    return {lease.id for lease in broker.leases()}


def test_a_release_hands_over_to_the_waiter_that_sleeps(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    holder = broker.acquire("5GiB")
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(broker.acquire, "5GiB", wait=30, lease_id="next")
        until(lambda: bool(broker.waiters()))
        holder.release()
        lease = waiter.result(timeout=2)  # pushed: well before the waiter's next beat of 3 s
    assert broker.get("next").state == "active"  # type: ignore[union-attr]
    assert lease.waited_ms >= 0  # within a millisecond, if the machine is quick


@pytest.mark.parametrize("ttl", [30, 2])
def test_a_server_that_forgets_its_scripts_while_a_waiter_sleeps_hands_over(
    broker: Broker, cards: Cards, ttl: int
) -> None:  # fmt: skip
    cards("GPU-a")
    holder = broker.acquire("5GiB")
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(broker.acquire, "5GiB", wait=30, ttl=ttl, lease_id="next")
        until(lambda: any(client["cmd"] == "blpop" for client in broker.redis.client_list()))
        broker.redis.script_flush()
        holder.release()
        lease = waiter.result(timeout=2.5)
    assert not lease.lost


def test_an_expiry_serves_the_waiter_without_any_daemon(broker: Broker, cards: Cards) -> None:
    broker.update_config(reclaim_seconds=0)
    cards("GPU-a")
    broker.acquire("5GiB", ttl=0.2)
    assert broker.acquire("5GiB", wait=10).waited_ms >= 100


def test_waiting_ends_in_time_and_leaves_the_queue(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("5GiB")
    with pytest.raises(InsufficientMemory, match=r"512 MiB"):
        broker.acquire("5GiB", wait=0.2)
    assert broker.waiters() == []


def test_first_come_is_first_served_and_priority_goes_before(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    holder = broker.acquire("5GiB")
    for name, priority in (("first", 0), ("second", 0), ("urgent", 5)):
        assert ask(broker, name, priority=priority) == "waiting"
    assert [waiter.id for waiter in broker.waiters()] == ["urgent", "first", "second"]
    served = []
    for _ in range(3):
        holder.release()
        (served_id,) = granted(broker)
        served.append(served_id)
        priority = 5 if served_id == "urgent" else 0
        holder = broker.acquire("5GiB", lease_id=served_id, priority=priority, wait=60)
    assert served == ["urgent", "first", "second"]


def test_a_release_wakes_only_those_it_serves(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    holder = broker.acquire("5GiB")
    ask(broker, "served")
    ask(broker, "not-yet")
    holder.release()
    assert broker.redis.llen(broker.keys.wake("served")) == 1
    assert broker.redis.llen(broker.keys.wake("not-yet")) == 0


def test_a_grant_that_nobody_claims_moves_on(broker: Broker, cards: Cards) -> None:
    broker.update_config(claim_seconds=1)
    cards("GPU-a")
    holder = broker.acquire("5GiB")
    ask(broker, "died")
    ask(broker, "alive")
    holder.release()
    assert granted(broker) == {"died"}
    until(lambda: bool(broker.reap()) and granted(broker) == {"alive"})
    assert "unclaimed" in [event.kind for event in broker.events()]


def test_a_silent_waiter_is_dropped(broker: Broker, cards: Cards) -> None:
    broker.update_config(waiter_seconds=1)
    cards("GPU-a")
    broker.acquire("5GiB")
    ask(broker, "died")
    until(lambda: bool(broker.reap()) and broker.waiters() == [])
    assert "dropped" in [event.kind for event in broker.events()]


def test_a_waiter_that_shows_life_is_kept_and_keeps_its_place(broker: Broker, cards: Cards) -> None:
    broker.update_config(waiter_seconds=1)
    cards("GPU-a")
    broker.acquire("5GiB")
    ask(broker, "patient")
    since = broker.waiters()[0].since
    ask(broker, "late")
    until(
        lambda: (
            ask(broker, "patient") == "waiting" and ask(broker, "late") == "waiting" and broker.reap() > since + 1500
        )
    )
    assert [waiter.id for waiter in broker.waiters()] == ["patient", "late"]


def test_a_small_request_goes_on_past_a_big_one_but_only_so_often(broker: Broker, cards: Cards) -> None:
    broker.update_config(bypass_max=2)
    cards("GPU-a")
    broker.acquire("2GiB")
    ask(broker, "big", "5GiB")
    for _ in range(2):
        broker.acquire("1GiB").release()
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB")  # law 7: from here the card's free bytes gather for the big one
    assert broker.acquire("1GiB", priority=1).gpu_uuids == ("GPU-a",)


def test_a_big_waiter_on_one_host_holds_nobody_back_on_another(broker: Broker, cards: Cards) -> None:
    broker.update_config(bypass_max=0)
    cards("GPU-a", host="h1")
    cards("GPU-b", host="h2")
    broker.acquire("2GiB", host="h1")
    ask(broker, "big", "5GiB", host="h1")
    assert broker.acquire("1GiB", host="h2").gpu_uuids == ("GPU-b",)


def test_cancel_leaves_the_queue_or_passes_an_unclaimed_grant_on(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    holder = broker.acquire("5GiB")
    ask(broker, "one")
    ask(broker, "two")
    ask(broker, "three")
    assert broker.cancel("one") is True
    holder.release()
    assert granted(broker) == {"two"}
    assert broker.cancel("two") is True
    assert granted(broker) == {"three"}
    assert broker.cancel("nobody") is False


def test_capacity_that_comes_back_by_a_sample_or_an_undrain_serves_waiters(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", unmanaged_bytes=5 * GIB)
    ask(broker, "one", "4GiB")
    cards("GPU-a", unmanaged_bytes=0)
    assert granted(broker) == {"one"}
    cards("GPU-b", host="h2")
    broker.drain("GPU-b")
    ask(broker, "two", "4GiB")
    broker.undrain("GPU-b")
    assert granted(broker) == {"one", "two"}


def test_a_waiter_too_big_for_its_host_is_told_and_one_for_any_host_may_hope(broker: Broker, cards: Cards) -> None:
    assert ask(broker, "here", "10GiB", host="h1") == "waiting"  # no card is known yet
    assert ask(broker, "anywhere", "10GiB") == "waiting"
    cards("GPU-a")
    assert ask(broker, "here", "10GiB", host="h1") == "impossible"
    assert ask(broker, "anywhere", "10GiB") == "waiting"
    cards("GPU-big", host="h2", total=24 * GIB)
    assert granted(broker) == {"anywhere"}


def test_a_card_kept_for_a_waiter_does_not_hide_the_others(broker: Broker, cards: Cards) -> None:
    broker.update_config(bypass_max=0)
    cards("GPU-a", "GPU-b")
    broker.acquire("2GiB", gpu="GPU-a")
    ask(broker, "big", "5GiB", gpu="GPU-a")
    assert broker.acquire("1GiB").gpu_uuids == ("GPU-b",)  # GPU-a would fit better, and is kept


def test_a_waiter_that_a_stranger_keeps_out_holds_nobody_back(broker: Broker, cards: Cards) -> None:
    broker.update_config(bypass_max=0)
    cards("GPU-a", unmanaged_bytes=2 * GIB)
    ask(broker, "big", "5GiB")
    assert broker.acquire("1GiB").gpu_uuids == ("GPU-a",)


def test_on_hand_over_too_the_first_waiter_is_passed_only_so_often(broker: Broker, cards: Cards) -> None:
    broker.update_config(bypass_max=1)
    cards("GPU-a")
    broker.acquire("3GiB")
    holder = broker.acquire("2GiB")
    for name, memory in (("big", "5GiB"), ("one", "1GiB"), ("two", "1GiB")):
        ask(broker, name, memory)
    holder.release()
    assert granted(broker) >= {"one"}
    assert "two" not in granted(broker)


def test_one_hand_over_serves_waiters_for_different_cards(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", host="h1")
    cards("GPU-b", host="h2")
    broker.acquire("5GiB", gpu="GPU-a")
    holder = broker.acquire("5GiB", gpu="GPU-b")
    ask(broker, "first", "5GiB", host="h1")
    ask(broker, "second", "5GiB", host="h2")
    holder.release()
    assert "second" in granted(broker)


def test_more_waiters_than_one_script_serves_are_served_by_the_next(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    holder = broker.acquire("5632MiB")
    for number in range(20):
        ask(broker, f"w{number}", "1MiB")
    holder.release()
    assert len(granted(broker)) == 16
    broker.reap()
    assert len(granted(broker)) == 20


def test_a_waiter_whose_hash_was_lost_breaks_no_script(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    holder = broker.acquire("5GiB")
    ask(broker, "lost")
    ask(broker, "next")
    broker.redis.delete(broker.keys.waiter("lost"))
    assert holder.release() is True
    assert granted(broker) == {"next"}


def test_an_interrupted_claim_leaves_no_lease_behind(
    broker: Broker, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards("GPU-a")
    holder = broker.acquire("5GiB")
    run = broker._run_batch

    def interrupted(commands: Sequence[Sequence[object]]) -> object:
        if commands[0][0] == "BLPOP":
            holder.release()
            run(commands)  # it was pushed, and the claim carried out; the reply never arrives
            raise KeyboardInterrupt
        return run(commands)

    monkeypatch.setattr(broker, "_run_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        broker.acquire("5GiB", wait=30)
    assert broker.leases() == []


def test_one_waiter_more_than_the_cap_is_refused_clearly(broker: Broker, cards: Cards) -> None:
    broker.update_config(waiters_max=1)
    cards("GPU-a")
    broker.acquire("5GiB")
    ask(broker, "one")
    with pytest.raises(InsufficientMemory, match="1 requests wait already"):
        broker.acquire("5GiB", wait=5)


def test_many_waiters_share_one_card_one_at_a_time(broker: Broker, cards: Cards, redis_url: str) -> None:
    cards("GPU-a")
    holding = threading.Semaphore(1)

    def use(_: int) -> int:
        with Broker.from_url(redis_url) as own:
            lease: Lease = own.acquire("5GiB", wait=60)
            assert holding.acquire(blocking=False), "two held the card at once"
            lease.renew()  # a round trip in which another could come
            holding.release()
            lease.release()
            return lease.token

    with ThreadPoolExecutor(12) as pool:
        tokens = list(pool.map(use, range(36)))
    assert len(set(tokens)) == 36
    assert broker.leases() == []


def test_a_waiter_interrupted_in_its_sleep_leaves_the_queue(
    broker: Broker, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards("GPU-a")
    broker.acquire("5GiB")
    run = broker._run_batch

    def interrupted(commands: Sequence[Sequence[object]]) -> object:
        if commands[0][0] == "BLPOP":
            raise KeyboardInterrupt
        return run(commands)

    monkeypatch.setattr(broker, "_run_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        broker.acquire("5GiB", wait=30)
    assert broker.waiters() == []


def test_a_waiter_that_asks_for_something_else_is_refused_and_keeps_its_place(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("5GiB")
    assert ask(broker, "w", "5GiB") == "waiting"
    with pytest.raises(LeaseConflict):
        ask(broker, "w", "4GiB")
    assert [(waiter.id, waiter.memory_bytes) for waiter in broker.waiters()] == [("w", 5 * GIB)]


def test_a_claim_starts_the_leases_own_time(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    holder = broker.acquire("5GiB")
    assert ask(broker, "w", "5GiB", ttl=3600) == "waiting"
    holder.release()
    granted_until = broker.get("w").expires_at  # type: ignore[union-attr]
    assert ask(broker, "w", "5GiB", ttl=3600) == "granted"
    assert broker.get("w").expires_at > granted_until + 3_000_000  # type: ignore[union-attr]


def test_the_second_of_a_line_does_not_go_at_the_place_of_the_first(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    holder = broker.acquire("5632MiB")
    ask(broker, "blue-high", "1GiB", priority=5, tenant="blue")
    ask(broker, "red-high", "4GiB", priority=5, tenant="red")
    ask(broker, "blue-low", "1GiB", priority=0, tenant="blue")  # in the line of the first
    holder.resize("512MiB")
    assert granted(broker) == {holder.id, "blue-high", "red-high"}


def test_a_higher_priority_goes_before_the_one_for_whom_a_card_is_kept(broker: Broker, cards: Cards) -> None:
    broker.update_config(bypass_max=0)
    cards("GPU-a")
    holder = broker.acquire("5GiB")
    assert ask(broker, "big", "5GiB") == "waiting"
    assert ask(broker, "passing", "1MiB") == "waiting"  # the card is kept for the big one now
    assert ask(broker, "high", "3GiB", priority=5) == "waiting"
    holder.release()
    assert "high" in granted(broker)
    assert "big" not in granted(broker)
