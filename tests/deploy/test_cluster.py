"""A pool in a cluster: it lives in one slot, so on one node, and goes on when the slot moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis

from broker import AsyncBroker, Broker, PoolUnavailable
from broker import connection as connections
from tests.deploy.scenario import Crowd, publish, repeated, walk, walk_async, wrongs
from tests.deploy.servers import HOST, SLOTS, Cluster, Server, free_port, slot_of, until

SLOT = slot_of("default")


@pytest.fixture
def pool(cluster: Cluster) -> Iterator[Broker]:
    """The pool `default`, empty, which adds up in the end and left no key outside of its slot on any node."""
    for node in cluster.nodes:
        node.client.flushall()
        node.client.script_flush()
    with Broker.from_url(cluster.url) as broker:
        yield broker
        assert wrongs(broker) == []
    owner = cluster.owner(SLOT)
    assert [node.client.dbsize() for node in cluster.nodes if node is not owner] == [0, 0]


def _target(cluster: Cluster) -> Server:
    owner = cluster.owner(SLOT)
    return next(node for node in cluster.nodes if node is not owner)


async def test_everything_works_in_a_cluster_from_any_of_its_nodes(cluster: Cluster, pool: Broker) -> None:
    walk(pool, "a", callbacks=True)
    publish(pool, "GPU-b")
    async with AsyncBroker.from_url(cluster.url) as again:
        await walk_async(again, "b")
    for node in cluster.nodes:
        with Broker.from_url(f"redis+cluster://{node.address}") as broker:
            assert broker.acquire("1GiB", gpu="GPU-b").release() is True
        async with AsyncBroker.from_url(f"redis+cluster://{node.address}") as again:
            assert await (await again.acquire("1GiB", gpu="GPU-b")).release() is True


def test_the_clock_is_that_of_the_pools_own_node(cluster: Cluster, pool: Broker) -> None:
    publish(pool, "GPU-a")
    owner = cluster.owner(SLOT)
    before = {node.port: node.info("commandstats").get("cmdstat_time", {}).get("calls", 0) for node in cluster.nodes}
    pool.reap()
    after = {node.port: node.info("commandstats").get("cmdstat_time", {}).get("calls", 0) for node in cluster.nodes}
    assert [port for port in after if after[port] != before[port]] == [owner.port]


def test_a_plain_url_to_the_wrong_node_says_what_to_use(cluster: Cluster) -> None:
    with Broker.from_url(_target(cluster).url) as broker, pytest.raises(PoolUnavailable, match=r"redis\+cluster://"):
        broker.reap()


def test_a_slot_that_moves_under_a_crowd(cluster: Cluster, pool: Broker) -> None:
    pool.update_config(grace_seconds=0.5)
    publish(pool, "GPU-a", "GPU-b")
    kept = pool.acquire("1GiB", lease_id="kept", ttl=60)
    target, epoch = _target(cluster), pool.epoch()
    seen: set[str] = set()

    def look(step: str) -> None:
        # While half of it has moved, every script is refused as a whole, and what is asked by one key is found.
        try:
            source.client.execute_command("EVAL", "return 1", len(pool.keys.declared), *pool.keys.declared)
        except (redis.exceptions.TryAgainError, redis.exceptions.AskError) as error:
            seen.add(f"{step} {type(error).__name__}")
        assert pool.get("kept").token == kept.token  # type: ignore[union-attr]
        assert len(pool.gpus()) == 2

    source = cluster.owner(SLOT)
    with Crowd(cluster.url) as crowd:
        cluster.move(SLOT, target, look)
        crowd.goes_on()
    assert crowd.wrong == crowd.lost == []
    assert repeated(crowd.tokens) == set()
    assert {"begun TryAgainError", "moved AskError"} <= seen
    assert all(own == sorted(own) for own in crowd.tokens)
    assert cluster.owner(SLOT) is target
    assert pool.epoch() > epoch, "another server is another primary"
    assert kept.renew() > 0
    assert kept.release() is True


def test_a_waiter_that_sleeps_while_the_slot_moves_is_served_on_the_other_node(cluster: Cluster, pool: Broker) -> None:
    pool.update_config(grace_seconds=0.1)
    publish(pool, "GPU-a")
    lease = pool.acquire("5GiB", lease_id="first")
    got = []
    waiter = threading.Thread(target=lambda: got.append(pool.acquire("5GiB", lease_id="second", wait=30)))
    waiter.start()
    until(pool.waiters, "a waiter")
    cluster.move(SLOT, _target(cluster))
    assert lease.release() is True
    until(lambda: pool.reap() and got, "a waiter that is served once holders had the time to register")
    waiter.join(timeout=30)
    assert [one.id for one in got] == ["second"]
    assert got[0].token > lease.token


def test_a_slot_that_moves_in_one_step(cluster: Cluster, pool: Broker) -> None:
    """Valkey 9 moves slots atomically: nobody is told to try again for longer than the hand-over."""
    owner, target = cluster.owner(SLOT), _target(cluster)
    try:
        cluster.cluster(owner, "GETSLOTMIGRATIONS")
    except redis.ResponseError as error:
        pytest.skip(f"this server moves slots key by key only: {error}")
    pool.update_config(grace_seconds=0.1)
    publish(pool, "GPU-a", "GPU-b")
    with Crowd(cluster.url) as crowd:
        cluster.cluster(owner, "MIGRATESLOTS", "SLOTSRANGE", SLOT, SLOT, "NODE", cluster.name(target))
        until(lambda: cluster.owner(SLOT) is target, "the slot on the other node", 30)
        crowd.goes_on()
    assert crowd.wrong == crowd.lost == []
    assert repeated(crowd.tokens) == set()


async def test_a_move_that_takes_too_long_is_reported_and_says_what_goes_on(
    cluster: Cluster, pool: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.2)
    publish(pool, "GPU-a")
    held = pool.acquire("1GiB")
    owner, target = cluster.owner(SLOT), _target(cluster)
    cluster.cluster(target, "SETSLOT", SLOT, "IMPORTING", cluster.name(owner))
    cluster.cluster(owner, "SETSLOT", SLOT, "MIGRATING", cluster.name(target))
    async with AsyncBroker.from_url(cluster.url) as again:
        with pytest.raises(PoolUnavailable, match="being moved"):
            held.renew()
        with pytest.raises(PoolUnavailable, match="being moved"):
            await again.renew(held.id, held.token)
        for node in (owner, target):
            cluster.cluster(node, "SETSLOT", SLOT, "STABLE")
        assert held.renew() > 0
        assert await again.renew(held.id, held.token) > 0


async def test_a_cluster_that_is_down_is_reported_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"cluster-enabled": "yes", "cluster-port": free_port(), "cluster-config-file": "nodes.conf"}
    with Server(options) as node, Broker.from_url(f"redis+cluster://{node.address}") as broker:
        async with AsyncBroker.from_url(f"redis+cluster://{node.address}") as again:
            with monkeypatch.context() as patched:
                patched.setattr(connections, "PATIENCE_SECONDS", 0.2)
                with pytest.raises(PoolUnavailable, match="CLUSTER INFO"):
                    broker.reap()
                with pytest.raises(PoolUnavailable, match="CLUSTER INFO"):
                    await again.reap()
            node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
            # It takes two more seconds until it calls itself up.
            assert broker.reap() > 0
            assert await again.reap() > 0


async def test_what_went_to_the_wrong_node_is_asked_again_at_the_right_one(
    cluster: Cluster, pool: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(pool, "GPU-a")
    wrong = (HOST, _target(cluster).port)
    async with AsyncBroker.from_url(cluster.url) as again:
        await again.reap()
        for ask in (pool.gpus, pool.reap, lambda: pool._run_command("BLPOP", pool.keys.wake("nobody"), 0.01) or True):
            assert pool._finder is not None
            pool._finder.known = wrong
            assert ask()
            assert pool._finder.known != wrong
        for ask_again in (again.gpus, again.reap):
            assert again._finder is not None
            again._finder.known = wrong
            assert await ask_again()
            assert again._finder.known != wrong
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(redis.Redis, "execute_command", _moved_for_ever)
    with pytest.raises(PoolUnavailable, match="another node"):
        pool.reap()
    monkeypatch.undo()


def _moved_for_ever(*_: object, **__: object) -> None:
    raise redis.exceptions.MovedError(f"{SLOT} {HOST}:1")
