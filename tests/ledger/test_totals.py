"""A lease says how large its cards are, by whichever way it came."""

from __future__ import annotations

from collections.abc import Callable

from broker import AsyncBroker, Broker, State
from broker.calls import ask
from broker.crew import Seat
from broker.publish import Publisher
from broker.units import GIB
from tests.conftest import report

Cards = Callable[..., None]


def test_a_grant_and_its_repetition_say_it_of_each_card(broker: Broker) -> None:
    reports = [report("GPU-a", total=6 * GIB), report("GPU-b", 1, total=24 * GIB), report("GPU-c", 2, total=2 * GIB)]
    Publisher(broker, "h1").publish(reports, 600_000)
    for _ in range(2):
        lease = broker.acquire("2x3GiB", lease_id="wide")
        sizes = dict(zip(lease.gpu_uuids, lease.memory_total_bytes, strict=True))
        assert sizes == {"GPU-a": 6 * GIB, "GPU-b": 24 * GIB}
    assert broker.lease_handle("wide", lease.token).memory_total_bytes == lease.memory_total_bytes


async def test_a_lease_that_is_awaited_says_it_too(cards: Cards, redis_url: str) -> None:
    cards("GPU-a")
    async with AsyncBroker.from_url(redis_url) as broker:
        assert (await broker.acquire("1GiB")).memory_total_bytes == (6 * GIB,)


def test_a_waiter_is_told_when_it_takes_its_lease(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    first = broker.acquire("5GiB")
    request = ask("5GiB", lease_id="next", wait=60)
    assert broker.call("acquire", *request.asking(True))[0] == "waiting"
    first.release()
    assert broker.acquire("5GiB", lease_id="next", wait=60).memory_total_bytes == (6 * GIB,)


def test_a_worker_is_told_what_it_was_handed_and_of_which_request(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    request = ask("1GiB", lease_id="job-1", job_id="the-job", wait=60, crew="photos", tenant="red")
    broker.call("acquire", *request.asking(True))
    worker = Seat(broker, "w1", "h1", ("photos",))
    assert worker.sit() == "job-1"
    handed = worker.claim("job-1")
    assert handed.lease.memory_total_bytes == (6 * GIB,)
    assert (handed.crew, handed.job_id, handed.lease.claim and handed.lease.claim.argv[5]) == (
        "photos",
        "the-job",
        "red",
    )


def test_an_adopted_process_too(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", memory_used_bytes=GIB, unmanaged_bytes=GIB, processes=((4711, GIB),))
    for _ in range(2):
        assert broker.adopt(4711, "1GiB", host="h1").memory_total_bytes == (6 * GIB,)


def test_the_size_of_a_card_that_cannot_be_read_is_not_known_and_no_share_is_reckoned_from_it(
    broker: Broker, cards: Cards
) -> None:
    cards("GPU-a")
    first = broker.acquire("1GiB", lease_id="held")
    cards("GPU-a", state=State.UNAVAILABLE, memory_total_bytes=None, memory_used_bytes=None, unmanaged_bytes=None)
    again = broker.acquire("1GiB", lease_id="held")
    assert (first.memory_total_bytes, again.memory_total_bytes) == ((6 * GIB,), (0,))
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in first.env({})
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in again.env({})


def test_the_size_of_a_card_that_its_agent_does_not_see_any_more_is_still_known(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.acquire("1GiB", lease_id="held", gpu="GPU-a")
    cards("GPU-b")
    assert broker.acquire("1GiB", lease_id="held", gpu="GPU-a").memory_total_bytes == (6 * GIB,)
