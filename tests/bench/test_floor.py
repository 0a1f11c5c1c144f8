"""The benchmark against the floor, for seconds: every script is in it, every figure is there, and parts add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import callers_time, every_script, floor, frame, hand_over, load
from benchmarks.counts import Counter
from benchmarks.meter import Cost
from broker.embedded import EmbeddedServer
from broker.ledger import scripts


def test_every_script_is_called_and_counted(redis_server: EmbeddedServer) -> None:
    with floor.pool(redis_server) as broker, Counter(redis_server.url, broker.keys) as counter:
        costs = every_script.measured(broker, counter, 5)
    assert {cost.script for cost in costs} == {"", *scripts.names()}
    assert all(cost.mean_us > 0 and cost.tail_us > 0 and cost.ratio > 0 for cost in costs)
    assert all(cost.inside > 0 for cost in costs if cost.script)


def test_a_callers_time_is_that_of_its_parts(redis_server: EmbeddedServer) -> None:
    with floor.pool(redis_server) as broker:
        bare, acquire, release = callers_time.measured(broker, 100)
    assert (bare.name, bare.ratio, bare.client_us) == ("return 1", 1.0, 0.0)
    for one in (acquire, release):
        assert one.whole_us > one.bare_us > 0
        assert one.script_us > bare.script_us > 0
        # In the median of a hundred turns on a busy machine they add up roughly.
        assert one.client_us + one.redis_py_us + one.socket_us + one.script_us < 3 * one.whole_us


def test_a_ratio_is_of_the_whole_call_by_the_bare_one_and_parts_are_what_each_adds() -> None:
    seen = {
        "return 1": 100.0, "return 1, carried by a socket": 60.0, "acquire": 290.0, "acquire, by redis-py": 250.0,
        "acquire, carried by redis-py": 130.0, "acquire, carried by a socket": 80.0,
    }  # fmt: skip
    spent = callers_time._spent("acquire", seen, {"return 1": 5.0, "acquire": 90.0})
    assert spent.ratio == 2.9
    assert (spent.carrying_us, spent.client_us, spent.redis_py_us, spent.socket_us, spent.script_us) == (
        130, 40, 50, 75, 90,
    )  # fmt: skip


def test_what_is_judged_is_each_call_by_a_bare_one_of_its_own_round(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = iter([10.0, 100.0, 50.0, 30.0] * every_script.ROUNDS)  # bare, acquire, release, bare

    class Canned:
        def __init__(self, *_: Any) -> None: ...

        def measure(self, *_: Any) -> Cost:
            return Cost(next(costs), 0.0, 0.0)

        bare = measure

    monkeypatch.setattr(every_script, "Meter", Canned)
    assert every_script.judged(None, 1) == {"acquire": 5.0, "release": 2.5}  # type: ignore[arg-type]


def test_a_hand_over_is_judged_in_round_trips() -> None:
    hands = [hand_over.HandOver(0, 300.0, 100.0), hand_over.HandOver(1000, 200.0, 100.0)]
    goals = floor._goals(_spent(), {"acquire": 1.0, "release": 1.0}, _costs(), 0.5, hands)
    assert [(goal.seen, goal.met) for goal in goals if "hand-over" in goal.name] == [(3.0, False), (2.0, True)]


@pytest.mark.parametrize("bare", [True, False])
def test_clients_of_two_processes_borrow_and_give_back(redis_server: EmbeddedServer, bare: bool) -> None:
    with floor.pool(redis_server) as broker:
        seen = load.measured(broker, 3, 0.3, bare=bare)
        left = [lease for lease in broker.leases() if lease.id.startswith("c")]
    assert seen.clients == 3
    assert seen.pairs_per_second > 0
    assert seen.pair_us > 0
    assert 0 < seen.server_core < 2
    assert len(left) <= 3  # what each held when it was told to stop


def test_what_a_load_is_bound_by() -> None:
    assert load.Load(8, 1, 1, 0.97, 0.5).bound_by == "the server"
    assert load.Load(8, 1, 1, 0.6, 1.9).bound_by == "the clients"
    assert load.Load(1, 1, 1, 0.5, 0.3).bound_by == "the way and back"
    assert load.Load(8, 1, 1, 0.5, 0.3).bound_by == "other work on this machine"


def test_a_command_is_laid_out_as_the_server_reads_it() -> None:
    assert load.packed("GET", "µ", 12, b"x") == b"*4\r\n$3\r\nGET\r\n$2\r\n\xc2\xb5\r\n$2\r\n12\r\n$1\r\nx\r\n"


NAMES = ("return 1", "acquire", "release")


def _spent() -> dict[str, callers_time.Spent]:
    parts = {"client_us": 10.0, "redis_py_us": 20.0, "socket_us": 30.0, "script_us": 40.0}
    return {name: callers_time.Spent(name, 110.0, 50.0, 60.0, **parts) for name in NAMES}


def _costs() -> dict[str, every_script.Cost]:
    return {name: every_script.Cost(name, name, 40.0, 10.0, 66.0, 14) for name in NAMES}


def test_all_that_was_found_is_written_and_drawn(redis_server: EmbeddedServer, tmp_path: Path) -> None:
    hands = [hand_over.measured(redis_server.url, others, 3) for others in (0, 5)]
    assert all(one.hand_over_us > one.round_trip_us > 0 for one in hands)
    spent, costs = list(_spent().values()), list(_costs().values())
    loads = [load.Load(clients, 1000.0, 500.0, 0.9, 0.3) for clients in (1, 8)]
    disk = [(how, one) for one in loads for how in floor.FILES]
    judged = {"acquire": 9.9, "release": 8.1}
    found = floor.found(spent, judged, 0.5, costs, [(one, one) for one in loads], disk, hands)
    assert {goal.name: goal.met for goal in found.goals if "hand-over" not in goal.name} == {
        "acquire, × a bare EVALSHA's round trip": False, "release, × a bare EVALSHA's round trip": False,
        "server time of acquire, × `return 1`": True, "server time of release, × `return 1`": False,
    }  # fmt: skip
    frame.Run(tmp_path, False, False).tell(found, floor.draw, (12, 9))
    assert json.loads((tmp_path / "floor.json").read_text())["raw"]["hand_over"][1]["others"] == 5
    assert (tmp_path / "floor.png").stat().st_size > 10_000
