"""What works on one server must work in every deployment: one walk through the client, for threads and for a loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

from broker import (
    AsyncBroker,
    Broker,
    BrokerError,
    InsufficientMemory,
    LeaseLost,
    LeaseNotFound,
    PoolUnavailable,
    StaleToken,
)
from broker.audit import Audit
from broker.fsck import differences
from broker.ledger.keys import Keys
from broker.publish import Publisher
from broker.units import GIB
from tests.conftest import report
from tests.deploy.servers import until


def publish(broker: Broker, *uuids: str, host: str = "h1") -> None:
    """Cards of 5.5 GiB to lend each, fresh for half an hour."""
    Publisher(broker, host).publish([report(uuid, index) for index, uuid in enumerate(uuids)], 600_000)


def wrongs(broker: Broker) -> list[str]:
    """What does not add up in the pool, what its journal says was broken, and keys that are not the pool's."""
    account, after = Audit(), "0"
    while page := broker.events(after, count=5000):
        for event in page:
            account.add(event)
        after = page[-1].stream_id
    return differences(broker) + account.violations + strange_keys(broker)


def strange_keys(broker: Broker) -> list[str]:
    """Keys on the pool's server that lie outside of the pool's slot."""
    root = Keys(broker.pool).root
    return [key for key in broker.redis.scan_iter(count=1000) if not key.startswith(root)]


def walk(broker: Broker, tag: str, *, callbacks: bool = False) -> None:
    """Acquire, renew, wait, be handed over to, look around, configure, release; with callbacks a second longer."""
    publish(broker, f"GPU-{tag}")
    lease = broker.acquire("4GiB", lease_id=f"first-{tag}", gpu=f"GPU-{tag}")
    assert broker.acquire("4GiB", lease_id=f"first-{tag}", gpu=f"GPU-{tag}").token == lease.token
    assert lease.renew(ttl=60) > 0
    assert lease.token in [held.token for held in broker.leases()]
    assert f"GPU-{tag}" in broker.available()
    assert broker.throttle(f"GPU-{tag}").speed == 1.0
    assert broker.update_config(monitor_interval=2).monitor_interval == broker.config().monitor_interval == 2
    got: list[object] = []
    seen = threading.Event()
    if callbacks:
        broker.on("released", lambda event: seen.set() if event.fields.get("id") == lease.id else None)

    def wait() -> None:
        got.append(broker.acquire("4GiB", lease_id=f"second-{tag}", gpu=f"GPU-{tag}", wait=20).token)

    waiter = threading.Thread(target=wait)
    waiter.start()
    until(lambda: [one.id for one in broker.waiters()] == [f"second-{tag}"], "a waiter")
    assert lease.release() is True
    waiter.join(timeout=20)
    assert not callbacks or seen.wait(10), "the callback on a release"
    second = broker.get(f"second-{tag}")
    assert second is not None
    assert got == [second.token]
    assert second.token > lease.token
    assert broker.release(second.id, second.token) is True
    kinds = {event.kind for event in broker.events() if event.fields.get("id", "").endswith(tag)}
    assert {"granted", "queued", "claimed", "released"} <= kinds
    assert [gpu.leased_bytes for gpu in broker.gpus() if gpu.uuid == f"GPU-{tag}"] == [0]


async def walk_async(broker: AsyncBroker, tag: str) -> None:
    """As ``walk``, on cards that are published already."""
    lease = await broker.acquire("4GiB", lease_id=f"first-{tag}", gpu=f"GPU-{tag}")
    assert (await broker.acquire("4GiB", lease_id=f"first-{tag}", gpu=f"GPU-{tag}")).token == lease.token
    assert await lease.renew(ttl=60) > 0
    assert lease.token in [held.token for held in await broker.leases()]
    assert f"GPU-{tag}" in await broker.available()
    assert (await broker.throttle(f"GPU-{tag}")).speed == 1.0
    assert (await broker.update_config(monitor_interval=3)).monitor_interval == 3
    waiter = asyncio.create_task(broker.acquire("4GiB", lease_id=f"second-{tag}", gpu=f"GPU-{tag}", wait=20))
    async with asyncio.timeout(10):
        while [one.id for one in await broker.waiters()] != [f"second-{tag}"]:  # noqa: ASYNC110 - it is on the server
            await asyncio.sleep(0.01)
    assert await lease.release() is True
    second = await asyncio.wait_for(waiter, 20)
    assert second.token > lease.token
    assert await second.release() is True
    kinds = {event.kind for event in await broker.events() if event.fields.get("id", "").endswith(tag)}
    assert {"granted", "queued", "claimed", "released"} <= kinds


class Crowd:
    """Threads that borrow, renew and give back on and on, and remember what they were granted."""

    def __init__(self, url: str, size: int = 4) -> None:
        """``size`` clients with a connection of their own each."""
        self._url = url
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,), name=f"crowd-{n}") for n in range(size)]
        #: Every token granted, in each thread's order.
        self.tokens: list[list[int]] = [[] for _ in range(size)]
        #: What the clients were told when the pool was away.
        self.away: list[PoolUnavailable] = []
        #: Leases that were written to a primary that was no longer one, and could not be registered again: where the
        #: new one still has what was given back to the old one, there may be no room.
        self.lost: list[BrokerError] = []
        #: Whatever else happened to them.
        self.wrong: list[BaseException] = []

    def __enter__(self) -> Crowd:
        """Go; returns when everybody was granted something."""
        for thread in self._threads:
            thread.start()
        until(lambda: self.wrong or all(self.tokens), "a grant for everybody")
        return self

    def __exit__(self, *_: object) -> None:
        """End, and wait for them."""
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=60)

    @property
    def granted(self) -> int:
        """How many grants there were."""
        return sum(map(len, self.tokens))

    def goes_on(self) -> None:
        """Wait until everybody was granted something more."""
        before = [len(own) for own in self.tokens]
        until(
            lambda: self.wrong or all(len(own) > was for own, was in zip(self.tokens, before, strict=True)),
            f"grants for everybody; {self.away[-1:]} {self.wrong}",
            60,
        )

    def _run(self, number: int) -> None:
        try:
            with Broker.from_url(self._url) as broker:
                while not self._over.is_set():
                    self._once(broker, number)
        except BaseException as error:
            self.wrong.append(error)
            raise

    def _once(self, broker: Broker, number: int) -> None:
        try:
            lease = broker.acquire(GIB, owner=f"crowd-{number}", ttl=20, wait=0.5)
            self.tokens[number].append(lease.token)
            lease.renew()
            lease.release()
        except PoolUnavailable as error:
            self.away.append(error)
        except (LeaseLost, LeaseNotFound, StaleToken) as error:
            self.lost.append(error)
        except InsufficientMemory:
            pass


def repeated(lists: Iterable[list[int]]) -> set[int]:
    """Tokens that were granted twice."""
    seen: set[int] = set()
    return {token for tokens in lists for token in tokens if token in seen or seen.add(token)}  # type: ignore[func-returns-value]
