"""Where requests go that ask for a host's own as well: never beyond it, where they strand least, by a bounded look."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker import Broker, InsufficientMemory
from broker.units import GIB
from broker.values import HostReport, State

Cards = Callable[..., None]
WAYS = ("balanced", "pack")


def commands(broker: Broker, name: str) -> int:
    """How often the server ran a command, in scripts too."""
    stats: dict[str, dict[str, int]] = broker.redis.info("commandstats")  # type: ignore[assignment]
    return stats.get(f"cmdstat_{name}", {}).get("calls", 0)


@pytest.mark.parametrize("way", WAYS)
def test_no_host_lends_more_than_it_has(broker: Broker, cards: Cards, way: str) -> None:
    for number in range(3):
        told = HostReport(cpus_milli=4000, memory_bytes=8 * GIB)
        cards(f"GPU-{number}a", f"GPU-{number}b", host=f"h{number}", told=told)
    for _ in range(6):  # two a host: a third one would take 4.5 of its 4 processors
        broker.acquire("1GiB", cpus=1.5, host_memory="1GiB", placement=way)
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", cpus=1.5, host_memory="1GiB", placement=way)
    held = [int(broker.redis.hget(broker.keys.host(f"h{n}"), "leased_cpus_milli") or 0) for n in range(3)]
    assert held == [3000, 3000, 3000]


@pytest.mark.parametrize("way", WAYS)
def test_what_needs_many_processors_goes_where_they_lie_idle(broker: Broker, cards: Cards, way: str) -> None:
    cards("GPU-a1", "GPU-a2", host="poor", told=HostReport(cpus_milli=8000))
    cards("GPU-b1", "GPU-b2", host="rich", told=HostReport(cpus_milli=12000))
    assert broker.acquire("5.5GiB", cpus=8, placement=way).host == "rich"
    assert broker.acquire("5.5GiB", cpus=2, placement=way).host == "poor"


def test_pack_takes_the_fullest_card_whatever_its_host(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", host="poor", told=HostReport(cpus_milli=8000))
    cards("GPU-b", host="rich", told=HostReport(cpus_milli=64000))
    broker.acquire("2GiB", gpu="GPU-a")
    assert broker.acquire("1GiB", cpus=8, placement="pack").host == "poor"


def test_heat_counts_beside_what_is_stranded(broker: Broker, cards: Cards) -> None:
    hot = {"state": State.THROTTLED, "job_state": State.THROTTLED, "temperature_c": 80}
    cards("GPU-a", host="h1", told=HostReport(cpus_milli=8000), **hot)
    cards("GPU-b", host="h2", told=HostReport(cpus_milli=8000))
    assert broker.acquire("1GiB", cpus=1).host == "h2"
    assert broker.acquire("1GiB", cpus=1, placement="pack").host == "h2"
    assert broker.acquire("5GiB", cpus=1).host == "h1"


def test_a_host_that_tells_memory_alone_is_weighed_by_that(broker: Broker, cards: Cards) -> None:
    for name, memory in (("small", 8 * GIB), ("large", 12 * GIB)):
        cards(f"GPU-{name}1", f"GPU-{name}2", host=name, told=HostReport(memory_bytes=memory))
    assert broker.acquire("5.5GiB", host_memory="8GiB").host == "large"


def test_the_look_is_bounded(broker: Broker, cards: Cards) -> None:
    for number in range(300):
        cards(f"GPU-{number:03d}", host=f"h{number:03d}", told=HostReport(cpus_milli=1000))
    for cpus in (0.5, 5):  # every host has enough; none has
        broker.redis.config_resetstat()
        try:
            broker.acquire("1GiB", cpus=cpus)
        except InsufficientMemory:
            assert cpus == 5
        assert commands(broker, "hmget") <= 2 * 48 + 8
        assert commands(broker, "zmscore") <= 16


def test_who_asks_for_nothing_of_the_host_reads_one_card_as_before(broker: Broker, cards: Cards) -> None:
    for number in range(20):
        cards(f"GPU-{number:03d}", host=f"h{number:03d}", told=HostReport(cpus_milli=1000))
    broker.redis.config_resetstat()
    broker.acquire("1GiB")
    assert commands(broker, "zrangebyscore") == 1
    assert commands(broker, "zmscore") == 0


def test_hosts_whose_cards_were_lent_do_not_hide_others_from_a_gang(broker: Broker, cards: Cards) -> None:
    for number in range(80):
        cards(f"GPU-{number:03d}a", f"GPU-{number:03d}b", host=f"h{number:03d}", told=HostReport(cpus_milli=2000))
    for number in range(79):  # `wide` is not told by grants that these hosts have no two cards any more
        broker.acquire("5.5GiB", cpus=1, gpu=f"GPU-{number:03d}a")
    for turn in range(3):
        try:
            lease = broker.acquire("5.5GiB", gpus=2, cpus=1, lease_id=f"gang-{turn}")
        except InsufficientMemory:
            continue
        assert lease.host == "h079"
        break
    else:
        pytest.fail("the one host with two free cards is not found")
