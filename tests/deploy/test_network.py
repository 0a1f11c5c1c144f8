"""A network that loses, repeats, delays and cuts, and a server that stands still: nothing is taken twice."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker import AsyncBroker, Broker, LeaseLost, PoolUnavailable, calls
from broker.ledger.scripts import script
from broker.units import GIB
from tests.deploy.scenario import Crowd, publish, repeated, wrongs
from tests.deploy.servers import HOST, Server, until
from tests.proof.proxy import Proxy


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A way to the server that can go wrong."""
    with Proxy(HOST, server.port) as made:
        yield made


@pytest.fixture
def broker(server: Server) -> Iterator[Broker]:
    """The pool by the straight way, with two cards; it adds up in the end."""
    with Broker.from_url(server.url) as made:
        publish(made, "GPU-a", "GPU-b")
        yield made
        assert wrongs(made) == []


def _held(broker: Broker) -> int:
    return sum(gpu.leased_bytes for gpu in broker.gpus())


async def test_every_new_connection_asks_who_the_server_is_and_only_one_has_to_tell_the_ledger(
    server: Server, broker: Broker
) -> None:
    async with AsyncBroker.from_url(server.url) as again:
        server.client.script_load(script("reap").text)  # who has to send a script asks for the server's version
        asked, told = [], []
        for _ in range(4):
            infos, scripts = _calls(server, "info"), _calls(server, "evalsha")
            for _ in range(10):
                broker.reap()
                await again.reap()
            told.append(_calls(server, "evalsha") - scripts - 20)
            asked.append(_calls(server, "info") - infos - 3)  # this test's own
            if len(asked) > 1:
                server.client.client_kill_filter(_type="normal", skipme=True)
        # By the new connection, and again by the one that came before there was a ledger; then by nobody.
        assert asked == [2, 0, 2, 2]
        assert told == [1, 0, 0, 0]


def _calls(server: Server, command: str) -> int:
    return int(server.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


async def test_a_lost_reply_of_any_request_takes_nothing_twice(broker: Broker, proxy: Proxy) -> None:
    with Broker.from_url(proxy.url) as far:
        for lost in range(1, 3):
            proxy.drop_replies(lost, b"EVALSHA")
            lease = far.acquire("1GiB", lease_id=f"s{lost}")
            assert _held(broker) == GIB
            proxy.drop_replies(1, b"EVALSHA")
            assert lease.renew() > 0
            proxy.drop_replies(1, b"EVALSHA")
            assert lease.release() is True
            assert _held(broker) == 0
    async with AsyncBroker.from_url(proxy.url) as far_too:
        proxy.drop_replies(2, b"EVALSHA")
        again = await far_too.acquire("1GiB", lease_id="a")
        proxy.drop_replies(1, b"EVALSHA")
        assert await again.renew() > 0
        proxy.drop_replies(1, b"EVALSHA")
        assert await again.release() is True
    assert _held(broker) == 0
    assert proxy.done["drop"] == 2 * 2 + (1 + 2) + 2 + 2


def test_a_request_that_comes_twice_and_late_takes_nothing_twice(server: Server, broker: Broker, proxy: Proxy) -> None:
    with Broker.from_url(proxy.url) as far:
        for number in range(5):
            # The second one arrives when the lease is long over.
            proxy.duplicate(1, after=0.15)
            before = proxy.done["duplicate"]
            lease = far.acquire("2GiB", lease_id=f"d{number}")
            assert proxy.done["duplicate"] == before + 1
            assert lease.release() is True
        calls = _calls(server, "evalsha")
        proxy.duplicate(1, after=0.05)
        last = far.acquire("2GiB", lease_id="last")
        until(lambda: _calls(server, "evalsha") >= calls + 2, "the duplicate")
        assert _held(broker) == 2 * GIB
        assert last.release() is True
        until(lambda: threading.active_count() < 40, "the timers")
    until(lambda: not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)], "all timers")
    assert _held(broker) == 0
    assert broker.leases() == []


def test_a_cut_at_every_byte_of_an_acquires_reply_takes_nothing_twice(
    server: Server, broker: Broker, proxy: Proxy
) -> None:
    request, reply = _on_the_wire(server, broker)
    at_once = redis.Redis(HOST, proxy.port, decode_responses=True, retry=Retry(NoBackoff(), 3))
    with Broker(at_once) as far:
        far.acquire("1GiB").release()  # connected: from here on there is nothing on the way but what is asked
        places = [*range(0, request, request // 20), *range(request, request + reply)]
        for at in places:
            proxy.cut_after(at)
            lease = far.acquire("1GiB", lease_id=f"cut-{at:04}")
            assert _held(broker) == GIB, f"a cut after {at} bytes"
            proxy.heal()
            assert lease.release() is True
    assert proxy.done["cut"] == len(places)
    assert _held(broker) == 0


def _on_the_wire(server: Server, broker: Broker) -> tuple[int, int]:
    """Bytes of an acquire, and of its reply."""
    argv = calls.ask("1GiB", lease_id="cut-0000", ttl=30, wait=0).asking(False)
    packer = broker.redis.connection_pool.make_connection()
    request = b"".join(packer.pack_command("EVALSHA", script("acquire").sha, 2, *broker.keys.declared, *argv))
    broker.acquire("1GiB").release()  # the server knows the script
    with socket.create_connection((HOST, server.port)) as raw:
        raw.sendall(request)
        reply = raw.recv(1 << 16)
    assert reply.startswith(b"*"), reply
    lease = broker.leases()[0]
    broker.release(lease.id, lease.token)
    return len(request), len(reply)


async def test_a_slow_way_is_no_other_way(broker: Broker, proxy: Proxy) -> None:
    proxy.delay(0.02)
    with Broker.from_url(proxy.url) as far:
        lease = far.acquire("1GiB", ttl=30)
        assert lease.renew() > 0
    async with AsyncBroker.from_url(proxy.url) as far_too:
        assert await far_too.release(lease.id, lease.token) is True


def test_a_way_that_is_cut_again_and_again_under_a_crowd(broker: Broker, proxy: Proxy) -> None:
    with Crowd(proxy.url) as crowd:
        for _ in range(5):
            proxy.cut_now()
            crowd.goes_on()
        proxy.refuse()
        until(lambda: crowd.away or crowd.wrong, "somebody who is told")
        proxy.heal()
        crowd.goes_on()
    assert crowd.wrong == crowd.lost == []
    assert repeated(crowd.tokens) == set()
    assert "cannot be reached" in str(crowd.away[0])
    for lease in broker.leases():  # given up by who was told that the pool is away
        broker.release(lease.id, lease.token)
    assert _held(broker) == 0


async def test_a_server_that_stands_still_for_less_than_a_timeout_is_waited_for(server: Server, broker: Broker) -> None:
    lease = broker.acquire("1GiB", ttl=30)
    async with AsyncBroker.from_url(server.url) as again:
        assert await again.renew(lease.id, lease.token) > 0
        server.pause()
        threading.Timer(0.7, server.resume).start()
        asked = time.monotonic()
        answers = await asyncio.gather(asyncio.to_thread(lease.renew), again.renew(lease.id, lease.token))
        assert time.monotonic() - asked > 0.6
        assert min(answers) > 0
    assert not lease.lost


def test_a_server_that_stands_still_for_longer_is_reported_and_the_lease_ends_by_its_holders_clock(
    server: Server, broker: Broker
) -> None:
    broker.update_config(reclaim_seconds=0)
    with Broker.from_url(f"{server.url}?socket_timeout=0.3") as hasty:
        lease = hasty.acquire("1GiB", ttl=1.5)
        server.pause()
        try:
            asked = time.monotonic()
            with pytest.raises(PoolUnavailable, match="cannot be reached"):
                lease.renew()
            assert time.monotonic() - asked < 10
            until(lambda: lease.lost, "a holder that knows by itself")
        finally:
            server.resume()
        # What was sent in vain is still read by the server; a renewal among it puts the end off once more.
        until(lambda: broker.reap() and not broker.leases(), "the end of a lease that nobody renews any more")
        with pytest.raises(LeaseLost):
            lease.renew()
    assert _held(broker) == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_waiter_rides_out_a_server_that_is_away_for_longer_than_its_retries(asynchronous: bool) -> None:
    with Server({"appendonly": "yes", "appendfsync": "always"}) as server, Broker.from_url(server.url) as broker:
        broker.update_config(grace_seconds=1)
        publish(broker, "GPU-a")
        holder = broker.acquire("5GiB")
        got: list[object] = []

        async def wait() -> None:
            async with AsyncBroker.from_url(server.url) as waiting:
                got.append(await waiting.acquire("5GiB", lease_id="job", wait=60))

        def run() -> None:
            if asynchronous:
                asyncio.run(wait())
            else:
                with Broker.from_url(server.url) as waiting:
                    got.append(waiting.acquire("5GiB", lease_id="job", wait=60))

        waiter = threading.Thread(target=run)
        waiter.start()
        until(lambda: broker.waiters(), "a waiter")
        server.stop()
        with pytest.raises(PoolUnavailable):  # one who does not wait is told
            broker.reap()
        time.sleep(5)
        assert waiter.is_alive()
        server.start()
        publish(broker, "GPU-a")
        holder.release()
        waiter.join(30)
        assert [getattr(lease, "id", None) for lease in got] == ["job"]
