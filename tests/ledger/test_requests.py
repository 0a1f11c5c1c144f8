"""What may be asked for: several GPUs, alternatives, ways of placing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker import Broker, ImpossibleRequest, InsufficientMemory, LeaseConflict
from broker.units import GIB, MIB
from tests.ledger.test_waiting import ask, granted

Cards = Callable[..., None]


def leased(broker: Broker) -> dict[str, int]:
    """Bytes leased, by GPU."""
    return {gpu.uuid: gpu.leased_bytes for gpu in broker.gpus()}


def test_several_gpus_are_of_one_host_and_all_or_none(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", host="h1")
    cards("GPU-b", "GPU-c", host="h2")
    lease = broker.acquire("2GiB", gpus=2)
    assert sorted(lease.gpu_uuids) == ["GPU-b", "GPU-c"]
    assert (lease.host, lease.gpus, lease.memory_bytes) == ("h2", 2, 2 * GIB)
    assert leased(broker) == {"GPU-a": 0, "GPU-b": 2 * GIB, "GPU-c": 2 * GIB}
    with pytest.raises(InsufficientMemory):
        broker.acquire("4GiB", gpus=2)  # GPU-a has room, but no second card beside it
    assert leased(broker)["GPU-a"] == 0
    lease.release()
    assert leased(broker) == {"GPU-a": 0, "GPU-b": 0, "GPU-c": 0}


def test_a_gang_that_waits_gets_all_its_cards_at_once(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    first, second = broker.acquire("5GiB", gpu="GPU-a"), broker.acquire("5GiB", gpu="GPU-b")
    assert ask(broker, "gang", "2x3GiB") == "waiting"
    first.release()
    assert granted(broker) == {second.id}
    second.release()
    assert granted(broker) == {"gang"}
    assert leased(broker) == {"GPU-a": 3 * GIB, "GPU-b": 3 * GIB}


def test_the_first_alternative_that_fits_is_taken_and_the_lease_says_which(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    choices = [broker.acquire(["16GiB", "2x4GiB", "1GiB"]).choice for _ in range(3)]
    assert choices == [2, 3, 3]
    with pytest.raises(ImpossibleRequest):
        broker.acquire(["16GiB", "2x8GiB"])


def test_a_waiter_with_alternatives_takes_what_comes_first(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    one, other = broker.acquire("5GiB", gpu="GPU-a"), broker.acquire("5GiB", gpu="GPU-b")
    assert ask(broker, "picky", ["2x5GiB", "4GiB"]) == "waiting"  # type: ignore[arg-type]
    one.release()
    record = broker.get("picky")
    assert record is not None
    assert (record.gpu_uuids, record.memory_bytes, record.choice) == ("GPU-a", 4 * GIB, 2)
    assert other.memory_bytes == 5 * GIB


def test_the_same_name_with_other_alternatives_is_a_conflict(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.acquire(["2GiB", "1GiB"], lease_id="job")
    assert broker.acquire(["2GiB", "1GiB"], lease_id="job").choice == 1
    for other in (["1GiB", "2GiB"], "2GiB", "2x2GiB"):
        with pytest.raises(LeaseConflict):
            broker.acquire(other, lease_id="job")
    with pytest.raises(LeaseConflict):
        broker.acquire(["2GiB", "1GiB"], lease_id="job", placement="spread")


def test_pack_takes_the_fullest_card_and_spread_the_emptiest(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b", "GPU-c")
    broker.acquire("3GiB", gpu="GPU-b")
    broker.acquire("1GiB", gpu="GPU-c")
    assert broker.acquire("1GiB", placement="spread").gpu_uuids == ("GPU-a",)
    assert broker.acquire("1GiB", placement="pack").gpu_uuids == ("GPU-b",)


def test_cool_takes_the_coolest_card_with_room(broker: Broker, cards: Cards) -> None:
    for uuid, degrees in (("GPU-a", 60), ("GPU-b", 35), ("GPU-c", 50)):
        cards(uuid, host=f"host-{uuid}", temperature_c=degrees)
    broker.acquire("3GiB", gpu="GPU-b")
    assert broker.acquire("1GiB", placement="cool").gpu_uuids == ("GPU-b",)
    assert broker.acquire("4GiB", placement="cool").gpu_uuids == ("GPU-c",)


def test_the_default_avoids_heat_and_bytes_too_few_for_anyone(broker: Broker, cards: Cards) -> None:
    from broker.values import State

    cards("GPU-hot", host="h1", state=State.THROTTLED, job_state=State.THROTTLED, temperature_c=80)
    cards("GPU-cool", host="h2")
    assert broker.acquire("1GiB").gpu_uuids == ("GPU-cool",)
    # Of two cool cards one would be left with a sliver that nobody like this could use.
    cards("GPU-other", host="h3", total=12 * GIB)
    broker.acquire(2 * GIB, gpu="GPU-cool")  # 2.5 GiB left: less than twice 2 GiB
    assert broker.acquire(2 * GIB + 200 * MIB, placement="pack").gpu_uuids == ("GPU-cool",)


def test_a_gang_can_be_limited_to_a_host_but_not_to_a_card(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b", host="h1")
    cards("GPU-c", "GPU-d", host="h2")
    assert broker.acquire("1GiB", gpus=2, host="h2").host == "h2"
    with pytest.raises(ImpossibleRequest):
        broker.acquire("1GiB", gpus=3, host="h2", wait=30)
    with pytest.raises(ValueError, match="gpus"):
        broker.acquire("1GiB", gpus=2, gpu="GPU-a")


def test_a_card_that_closes_is_no_part_of_a_gang(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.drain("GPU-a")
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", gpus=2)
    broker.undrain("GPU-a")
    assert broker.acquire("1GiB", gpus=2).gpus == 2


def test_room_that_came_back_on_several_cards_is_found(broker: Broker, cards: Cards) -> None:
    for host in ("h1", "h2", "h3"):
        cards(f"GPU-{host}-a", f"GPU-{host}-b", host=host)
    held = {host: broker.acquire("5GiB", gpus=2, host=host) for host in ("h1", "h2", "h3")}
    with pytest.raises(InsufficientMemory):
        broker.acquire("5GiB", gpus=2)
    held["h2"].release()
    assert broker.acquire("5GiB", gpus=2).host == "h2"
    held["h3"].resize("1GiB")
    assert broker.acquire("4GiB", gpus=2).host == "h3"
