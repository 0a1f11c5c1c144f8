"""The cluster benchmark: the cluster is real, and pools are spread over all its masters."""

from __future__ import annotations

import pytest

from benchmarks import cluster, failover
from benchmarks.cluster_servers import ClusterServers
from broker import Broker


def test_pools_are_spread_evenly_and_live_where_their_names_say() -> None:
    with ClusterServers(3) as servers:
        pools = servers.pools(6)
        assert len(set(pools)) == 6
        assert [servers.masters.index(servers.master_of(pool)) for pool in pools] == [0, 1, 2, 0, 1, 2]
        for pool in pools:
            with Broker.from_url(servers.url, pool=pool) as broker:
                broker.set_tenant("somebody", weight=2)
        for master in servers.masters:
            told = str(master.client.keys("*"))
            assert {pool for pool in pools if f"{{{pool}}}" in told} == {
                pool for pool in pools if servers.master_of(pool) is master
            }
    assert all(master.process.poll() is not None for master in servers.masters)


def test_all_masters_do_their_part_of_the_work() -> None:
    (way,) = cluster.WAYS[1:]
    found = cluster.measure((3,), clients=3, turns=1, seconds=0.4, cards=8, ways=(way,))
    (turn,) = found[way][3]
    assert len(turn.cpu) == 3
    assert turn.pairs > 0
    assert turn.shares[0] > 0.15, "each master has a third of the pools"
    assert turn.by_busiest > 1e6 / turn.us_per_pair, "the busiest does less than all"
    assert len(cluster.table(found).rows) == 1


def test_turns_are_reckoned_by_the_masters_own_time() -> None:
    turn = cluster.Turn(pairs=1000, seconds=2.0, cpu=(0.1, 0.2, 0.1))
    assert turn.rate == 500
    assert turn.us_per_pair == pytest.approx(400)
    assert turn.by_busiest == 5000
    assert turn.shares == pytest.approx([0.25, 0.25, 0.5])
    found = {"a way": {1: [cluster.Turn(1000, 2.0, (0.4,))], 3: [turn]}}
    scale, share = cluster.goals(found)
    assert scale.seen == pytest.approx(2)
    assert share.seen == pytest.approx(0.25)
    assert not scale.met
    assert not share.met


def test_a_killed_master_is_replaced_and_its_leases_are_there() -> None:
    seen = failover.fall(0.7, grace_seconds=0.1, held=3)
    assert (seen.kept, seen.held) == (3, 3)
    assert seen.renewed > 0.3, "the others wait before they say that it is gone"
    assert seen.lent >= seen.renewed
