"""The async client: the same names and the same ledger."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from broker import AsyncBroker, Broker, InsufficientMemory, InvalidRequest, LeaseConflict, StaleToken

Cards = Callable[..., None]


async def until(happened: Callable[[], Awaitable[bool]]) -> None:
    """Ask the ledger again and again until it says so."""
    async with asyncio.timeout(10):
        while not await happened():  # noqa: ASYNC110 - the ledger is on the other side of a socket
            await asyncio.sleep(0.01)


async def _any_waiter(broker: AsyncBroker) -> bool:
    return bool(await broker.waiters())


async def _is_past(broker: AsyncBroker, ms: int) -> bool:
    return await broker.reap() > ms


@pytest_asyncio.fixture
async def async_broker(redis_url: str) -> AsyncIterator[AsyncBroker]:
    async with AsyncBroker.from_url(redis_url) as client:
        yield client


def test_it_has_every_name_of_the_sync_client_with_the_same_parameters() -> None:
    own_to_threads = {"run", "on", "follow", "lease_handle", "recent_events", "last_event_id"}
    for name, method in inspect.getmembers(Broker, inspect.isfunction):
        if not name.startswith("_") and name not in own_to_threads:
            assert (
                inspect.signature(method).parameters.keys()
                == inspect.signature(getattr(AsyncBroker, name)).parameters.keys()
            ), name


async def test_a_lease_goes_its_way(async_broker: AsyncBroker, cards: Cards) -> None:
    cards("GPU-a")
    lease = await async_broker.acquire("4GiB", lease_id="job")
    assert (await async_broker.acquire("4GiB", lease_id="job")).token == lease.token
    with pytest.raises(LeaseConflict):
        await async_broker.acquire("1GiB", lease_id="job")
    with pytest.raises(StaleToken):
        await async_broker.renew("job", lease.token + 1)
    with pytest.raises(InsufficientMemory):
        await async_broker.acquire("4GiB", wait=0.1)
    assert await lease.renew() >= lease.expires_at
    assert await lease.release() is True
    assert await async_broker.leases() == []
    with pytest.raises(InvalidRequest):
        await async_broker.acquire("nan")


async def test_a_waiter_is_pushed_its_grant(async_broker: AsyncBroker, cards: Cards) -> None:
    cards("GPU-a")
    holder = await async_broker.acquire("5GiB")
    waiting = asyncio.create_task(async_broker.acquire("5GiB", wait=30))
    await until(lambda: _any_waiter(async_broker))
    await holder.release()
    assert (await asyncio.wait_for(waiting, 2)).waited_ms >= 0  # within a millisecond, if the machine is quick


async def test_a_cancelled_waiter_leaves_the_queue(async_broker: AsyncBroker, cards: Cards) -> None:
    cards("GPU-a")
    await async_broker.acquire("5GiB")
    waiting = asyncio.create_task(async_broker.acquire("5GiB", wait=30))
    await until(lambda: _any_waiter(async_broker))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await async_broker.waiters() == []


async def test_a_with_block_renews_itself_and_releases(async_broker: AsyncBroker, cards: Cards) -> None:
    await async_broker.update_config(reclaim_seconds=0)
    cards("GPU-a")
    async with async_broker.lease("1GiB", ttl=0.3) as lease:
        first_end = lease.expires_at
        await until(lambda: _is_past(async_broker, first_end + 200))
        assert not lease.lost
        assert await async_broker.get(lease.id) is not None
    assert await async_broker.leases() == []
