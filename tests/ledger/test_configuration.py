"""Configuration, events and callbacks on a real server."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from broker import Broker, InvalidRequest, State
from broker.models import Event
from broker.units import GIB

Cards = Callable[..., None]


def test_a_change_is_stored_and_a_none_restores_the_default(broker: Broker) -> None:
    assert broker.update_config(temp_optimal=60, monitor_interval=0.5).temp_optimal == 60
    assert broker.redis.hget(broker.keys.config, "temp_optimal") == "60"
    assert broker.update_config(temp_optimal=None).temp_optimal == 65
    assert broker.config().monitor_interval == 0.5


def test_a_refused_change_changes_nothing(broker: Broker) -> None:
    broker.update_config(temp_optimal=60)
    before = broker.redis.hgetall(broker.keys.config)
    for wrong in ({"temp_optimal": 200}, {"nonsense": 1}, {"temp_normal": 50}):
        with pytest.raises(InvalidRequest):
            broker.update_config(**wrong)
    assert broker.redis.hgetall(broker.keys.config) == before


def test_two_changes_at_once_lose_neither(broker: Broker, redis_url: str) -> None:
    def change(name: str) -> None:
        with Broker.from_url(redis_url) as own:
            for value in range(1, 20):
                own.update_config(**{name: value})

    threads = [threading.Thread(target=change, args=(name,)) for name in ("claim_seconds", "waiter_seconds")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (broker.config().claim_seconds, broker.config().waiter_seconds) == (19, 19)


def test_seconds_with_fractions_of_a_millisecond_are_no_error_halfway(broker: Broker, cards: Cards) -> None:
    broker.update_config(claim_seconds=1.00055, waiter_seconds=1.00055, reclaim_seconds=0.00055, monitor_interval=0.05)
    cards("GPU-a")
    holder = broker.acquire("5GiB", ttl=0.1)
    assert broker.acquire("5GiB", wait=10).token > holder.token


def test_limit_and_reserve_make_the_budget_for_the_pool_and_for_one_card(broker: Broker, cards: Cards) -> None:
    broker.update_config(memory_reserve_mb=1024)
    broker.update_config(gpu="GPU-b", memory_limit_mb=3072)
    cards("GPU-a", "GPU-b")
    budgets = {gpu.uuid: gpu.budget_bytes for gpu in broker.gpus()}
    assert budgets == {"GPU-a": 5 * GIB, "GPU-b": 2 * GIB}
    assert broker.config("GPU-b").memory_limit_mb == 3072


def test_callbacks_hear_states_and_lost_leases(broker: Broker, cards: Cards) -> None:
    heard: list[Event] = []
    arrived = threading.Semaphore(0)

    def hear(event: Event) -> None:
        heard.append(event)
        arrived.release()

    broker.update_config(reclaim_seconds=0.1)
    broker.on("throttle", hear)
    broker.on("lease_lost", hear)
    cards("GPU-a")
    cards("GPU-a", state=State.THROTTLED)
    broker.acquire("1GiB", lease_id="short", ttl=0.1)
    assert arrived.acquire(timeout=5)
    while not arrived.acquire(timeout=0.05):
        broker.reap()
    assert [(event.kind, event.fields.get("to", event.fields.get("id"))) for event in heard] == [
        ("state", "THROTTLED"), ("expired", "short"),
    ]  # fmt: skip


@pytest.mark.parametrize("trouble", [State.THROTTLED, State.CRITICAL, State.UNAVAILABLE])
@pytest.mark.parametrize("well", [State.NORMAL, State.OPTIMAL])
def test_a_card_that_is_well_again_has_recovered(broker: Broker, cards: Cards, trouble: State, well: State) -> None:
    heard: list[Event] = []
    arrived = threading.Event()
    broker.on("recovered", heard.append)
    broker.on("joined", lambda event: arrived.set() if event.fields.get("host") == "h2" else None)
    other = State.NORMAL if well is State.OPTIMAL else State.OPTIMAL
    for state in (well, other, trouble, well, other):
        cards("GPU-a", state=state)
    cards("GPU-b", host="h2")
    assert arrived.wait(timeout=5)
    assert [(event.kind, event.fields["from"], event.fields["to"]) for event in heard] == [("state", trouble, well)]


def test_worse_less_bad_and_new_is_not_recovered(broker: Broker, cards: Cards) -> None:
    heard: list[Event] = []
    arrived = threading.Event()
    broker.on("recovered", heard.append)
    broker.on("joined", lambda event: arrived.set() if event.fields.get("host") == "h2" else None)
    for state in (State.OPTIMAL, State.CRITICAL, State.THROTTLED, State.UNAVAILABLE, State.THROTTLED):
        cards("GPU-a", state=state)
    cards("GPU-b", host="h2")
    assert arrived.wait(timeout=5)
    assert heard == []


def test_a_callback_for_no_known_kind_is_refused(broker: Broker) -> None:
    with pytest.raises(InvalidRequest, match="kind"):
        broker.on("nonsense", print)


def test_the_journal_counts_without_gaps_and_is_bounded(broker: Broker, cards: Cards) -> None:
    broker.update_config(events_max=100)
    cards("GPU-a")
    for _ in range(300):
        broker.acquire("1MiB").release()
    seqs = [event.seq for event in broker.events(count=10_000)]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert seqs[-1] >= 600
    assert len(seqs) < 400


def test_history_is_kept_for_each_card_and_bounded(broker: Broker, cards: Cards) -> None:
    broker.update_config(history_size=10)
    for degrees in range(40, 240):
        cards("GPU-a", "GPU-b", temperature_c=degrees)
    samples = broker.history("GPU-a")
    assert samples[-1].temperature_c == 239
    assert {sample.uuid for sample in samples} == {"GPU-a"}
    assert len(samples) < 120


def test_an_unknown_reading_is_absent_never_zero(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    cards("GPU-a", temperature_c=None, unmanaged_bytes=None, state=State.UNAVAILABLE, reason="lost")
    (gpu,) = broker.gpus()
    assert gpu.temperature_c is None
    assert gpu.unmanaged_bytes is None
    assert gpu.budget_bytes > 0
    assert not gpu.lends
