"""A pool behind Sentinels: clients find the primary; one that missed grants takes over, and no card is lent twice."""

from __future__ import annotations

import threading
import time

import pytest

from broker import AsyncBroker, Broker, InsufficientMemory, LeaseNotFound, PoolUnavailable
from broker import connection as connections
from broker.units import GIB
from tests.deploy.scenario import Crowd, publish, repeated, walk, walk_async, wrongs
from tests.deploy.servers import HOST, Sentinels, Server, until


def _acquire(broker: Broker, memory: str, lease_id: str) -> object:
    """The lease, or nothing while the pool is away or settling."""
    try:
        return broker.acquire(memory, lease_id=lease_id)
    except (PoolUnavailable, InsufficientMemory):
        return None


async def test_everything_works_and_goes_on_after_a_failover_asked_for(sentinels: Sentinels) -> None:
    with Broker.from_url(sentinels.url) as broker:
        walk(broker, "a", callbacks=True)
        publish(broker, "GPU-b", "GPU-c")
        async with AsyncBroker.from_url(sentinels.url) as again:
            await walk_async(again, "b")
            broker.update_config(grace_seconds=0.5)
            held, before = broker.acquire("1GiB", lease_id="held"), sentinels.primary
            epoch = broker.epoch()
            with Crowd(sentinels.url) as crowd:
                sentinels.sentinels[0].client.execute_command("SENTINEL", "FAILOVER", sentinels.service)
                new = sentinels.wait_for_failover(before)
                # Until the old primary is told, it takes requests whose outcome is lost with it.
                until(lambda: before.info("replication").get("role") == "slave", "the old primary as a replica")
                crowd.goes_on()
            assert crowd.wrong == []
            assert repeated(crowd.tokens) == set()
            assert all(own == sorted(own) for own in crowd.tokens)
            assert held.renew() > 0
            assert await again.renew("held", held.token) > 0
            assert broker.epoch() > epoch
            publish(broker, "GPU-b", "GPU-c")
            walk(broker, "d")
            publish(broker, "GPU-b", "GPU-c")
            await walk_async(again, "c")
        assert new.info("replication")["role"] == "master"
        # A replica is not even read, wherever its name came from.
        assert broker._finder is not None
        broker._finder.known = (HOST, before.port)
        assert broker.leases()
        assert broker._finder.known == (HOST, new.port)
        assert held.release() is True
        assert wrongs(broker) == []


async def test_a_replica_that_missed_grants_takes_over_and_no_card_is_lent_twice(sentinels: Sentinels) -> None:
    with Broker.from_url(sentinels.url) as broker:
        broker.update_config(grace_seconds=2)
        publish(broker, "GPU-a")
        early = broker.acquire("1GiB", lease_id="early", ttl=60)
        primary = sentinels.primary
        assert primary.client.wait(2, 5000) == 2
        sentinels.cut_replicas_off()
        missed = [broker.acquire("1GiB", lease_id=f"missed-{n}", ttl=60) for n in range(2)]
        async with AsyncBroker.from_url(sentinels.url) as again:
            third = await again.acquire("1GiB", lease_id="missed-2", ttl=60)
            epoch = broker.epoch()
            primary.stop()
            sentinels.wait_for_failover(primary)
            # Nothing is lent before its holders had the time to say what they hold: three leases are out there.
            with pytest.raises(InsufficientMemory):
                until(lambda: _asked(broker, "2GiB"), "an answer of the new primary")
            assert broker.epoch() > epoch
            for lease in missed:
                with pytest.raises(LeaseNotFound):
                    broker.renew(lease.id, lease.token)
                assert lease.renew() > 0, "a lease in its holder's hands registers again"
            assert await third.renew() > 0
            assert await again.throttle("GPU-a") == broker.throttle("GPU-a")
            assert early.renew() > 0
            publish(broker, "GPU-a")
            assert {(held.id, held.token) for held in broker.leases()} == {
                (lease.id, lease.token) for lease in (early, *missed, third)
            }
            fresh = until(lambda: _acquire(broker, "1GiB", "fresh"), "a grant after settling")
            assert fresh.token > third.token
            assert broker.gpus()[0].leased_bytes == 5 * GIB
            with pytest.raises(InsufficientMemory):
                await again.acquire("1GiB")
            assert await third.release() is True
        for lease in (*missed, early, fresh):
            assert lease.release() is True
        assert wrongs(broker) == []


def _asked(broker: Broker, memory: str) -> object:
    try:
        return broker.acquire(memory)
    except PoolUnavailable:
        return None


def test_a_waiter_that_sleeps_through_a_failover_is_served_by_the_new_primary(sentinels: Sentinels) -> None:
    # A request that is not answered for so long is sent again, to whom the Sentinels name by then.
    with Broker.from_url(f"{sentinels.url}?socket_timeout=3.2") as broker:
        broker.update_config(grace_seconds=0.2)
        publish(broker, "GPU-a")
        first = broker.acquire("5GiB", lease_id="first", ttl=60)
        got: list[object] = []

        def wait() -> None:
            # A failover takes longer than one request is tried: the caller asks again by the same name.
            deadline = time.monotonic() + 30
            while not got and time.monotonic() < deadline:
                try:
                    got.append(broker.acquire("5GiB", lease_id="second", wait=20).token)
                except PoolUnavailable:
                    continue

        waiter = threading.Thread(target=wait)
        waiter.start()
        until(broker.waiters, "a waiter")
        primary = sentinels.primary
        assert primary.client.wait(2, 5000) == 2
        primary.pause()  # it takes connections and answers nothing, as one that swaps, or whose disk hangs
        try:
            sentinels.wait_for_failover(primary)
            until(lambda: _renewed(first), "a renewal by the new primary", 30)
            assert first.release() is True
            until(lambda: broker.reap() and got, "a waiter that is served by the new primary", 30)
            waiter.join(timeout=30)
        finally:
            primary.resume()
        assert got
        assert got[0] > first.token  # type: ignore[operator]
        assert wrongs(broker) == []


def _renewed(lease: object) -> bool:
    try:
        return bool(lease.renew())  # type: ignore[attr-defined]
    except PoolUnavailable:
        return False


def test_what_no_sentinel_knows_is_named() -> None:
    watch = "sentinel monitor other 127.0.0.1 1 1\n"
    with Server(sentinel=watch) as sentinel, Broker.from_url(f"redis+sentinel://{sentinel.address}/ledger") as broker:
        with pytest.raises(PoolUnavailable, match="service ledger") as error:
            broker.reap()
        assert sentinel.address in str(error.value)


async def test_a_replica_by_its_own_address_is_read_and_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.2)
    with Server() as primary, Server({"replicaof": f"{HOST} {primary.port}"}) as replica:
        until(lambda: replica.info("replication").get("master_link_status") == "up", "a replica in step")
        with Broker.from_url(primary.url) as broker, Broker.from_url(replica.url) as reader:
            publish(broker, "GPU-a")
            lease = broker.acquire("1GiB")
            until(reader.leases, "the lease on the replica")
            with pytest.raises(PoolUnavailable, match="replica"):
                reader.renew(lease.id, lease.token)
            async with AsyncBroker.from_url(replica.url) as again:
                assert [held.token for held in await again.leases()] == [lease.token]
                with pytest.raises(PoolUnavailable, match="replica"):
                    await again.renew(lease.id, lease.token)
                # Promoted under their open connections, it is another primary all the same.
                broker.update_config(grace_seconds=0)
                assert primary.client.wait(1, 5000) == 1
                assert reader.leases()
                replica.client.execute_command("REPLICAOF", "NO", "ONE")
                assert reader.renew(lease.id, lease.token) > 0
                assert reader.epoch() > broker.epoch()
                assert await again.renew(lease.id, lease.token) > 0
                assert await again.epoch() == reader.epoch()
