"""Walks that once broke a law, each found by the state machine or by thinking of what it had not come to yet.

Every script of a walk is held against the model, see ``walk.py``; what is asserted here is that the walk came to the
point. GPU-a, -b (host h1), -c and -m (h2) lend 3.5 GiB each, GPU-e (h3) lends 7.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker.units import GIB
from tests.proof.walk import Walk


def cards_with_another_class_serve_who_waited_for_it(walk: Walk) -> None:
    assert walk.wants("job", 1, labels={"rack": "b"}) == "waiting"
    walk.sample("h1", labels="rack=b")
    assert "job" in walk.model.leases


def a_card_that_moves_while_it_reads_open_serves_its_new_host(walk: Walk) -> None:
    walk.sample("h2", interval=1000)
    assert walk.wants("holder", 7, host="h3") == "granted"
    assert walk.wants("job", 3, host="h3") == "waiting"
    walk.let_pass(4000)
    walk.sample("h3", {"GPU-m": {}})
    assert walk.model.leases["job"].cards == ("GPU-m",)


def a_gang_stays_on_one_host_though_a_card_moved(walk: Walk) -> None:
    walk.sample("h2", {"GPU-m": {"absent": True}})
    walk.sample("h3", {"GPU-m": {}})
    assert walk.wants("one", 3, gpus=2, host="h1") == "granted"
    assert walk.wants("two", 3, gpus=2) == "granted"
    assert set(walk.model.leases["two"].cards) == {"GPU-e", "GPU-m"}


def a_card_that_moves_leaves_the_mark_of_its_host_behind(walk: Walk) -> None:
    walk.do("drain", "host", "h2")
    walk.sample("h2", {"GPU-m": {"absent": True}})
    walk.sample("h3", {"GPU-m": {}})
    assert walk.wants("job", 3, gpu="GPU-m") == "granted"
    walk.do("undrain", "host", "h2")
    assert walk.wants("next", 3, host="h2") == "granted"


def a_process_is_adopted_once_and_within_the_budget(walk: Walk) -> None:
    walk.sample("h3", {"GPU-e": {"processes": ((71, GIB), (72, GIB)), "unmanaged": 2 * GIB}})
    for name in ("one", "two"):
        walk.do("adopt", name, 71, GIB, 30_000, "h3", "", "t", "o", "")
    walk.sample("h1", {"GPU-a": {"processes": ((73, 4 * GIB),), "unmanaged": 4 * GIB}})
    walk.do("adopt", "three", 73, 4 * GIB, 30_000, "h1", "", "t", "o", "")
    assert set(walk.model.leases) == {"one"}


def a_name_that_waits_is_not_adopted_under(walk: Walk) -> None:
    walk.do("drain", "gpu", "GPU-e")
    assert walk.wants("job", 7) == "waiting"
    walk.sample("h1", {"GPU-a": {"processes": ((71, GIB),), "unmanaged": GIB}})
    walk.do("adopt", "job", 71, GIB, 30_000, "h1", "", "t", "o", "")
    assert "job" in walk.model.waiters


def a_holder_that_registers_waits_no_more(walk: Walk) -> None:
    assert walk.wants("job", 7) == "granted"
    held = walk.holders["job"]
    walk.lose_all()
    walk.sample("h3")
    assert walk.wants("job", 7) == "waiting"
    walk.holders["job"] = held
    walk.register("job")
    assert "job" in walk.model.leases
    assert "job" not in walk.model.waiters


def a_higher_priority_comes_before_who_has_the_card_kept(walk: Walk) -> None:
    walk.configure(bypass_max="0")
    for uuid in ("GPU-a", "GPU-b", "GPU-c", "GPU-m"):
        walk.do("drain", "gpu", uuid)
    assert walk.wants("holder", 2) == "granted"
    assert walk.wants("kept", 7) == "waiting"
    assert walk.wants("passes", 1, wait=False) == "refused"
    assert walk.wants("first", 7, priority=5) == "waiting"
    walk.gives_back("holder")
    assert "first" in walk.model.leases
    assert walk.model.waiters["kept"].kept == ("GPU-e",)


def the_second_of_a_line_stands_at_its_own_place(walk: Walk) -> None:
    for uuid in ("GPU-b", "GPU-c", "GPU-m", "GPU-e"):
        walk.do("drain", "gpu", uuid)
    assert walk.wants("holder", 3.5) == "granted"
    for name, gib, tenant, priority in (("one", 1, "blue", 5), ("two", 2.5, "red", 5), ("three", 1, "blue", 0)):
        assert walk.wants(name, gib, tenant=tenant, priority=priority) == "waiting"
    walk.gives_back("holder")
    assert set(walk.model.leases) == {"one", "two"}


def who_came_while_the_ledger_settled_is_served_after_it(walk: Walk) -> None:
    walk.do("hello", "p1")
    walk.do("hello", "p2")
    assert walk.wants("job", 3) == "waiting"
    for _ in range(4):
        walk.let_pass(4000)
        walk.do("reap")
    assert "job" in walk.model.leases


def a_lease_on_two_cards_grows_when_the_second_comes_free(walk: Walk) -> None:
    assert walk.wants("job", 1, gpus=2, host="h1") == "granted"
    for name, uuid in (("one", "GPU-a"), ("two", "GPU-b")):
        assert walk.wants(name, 2, gpu=uuid) == "granted"
    walk.do("resize", "job", walk.model.leases["job"].token, 2 * GIB, 1, "")
    assert "job+" in walk.model.waiters
    for name in ("one", "two"):
        walk.gives_back(name)
    assert walk.model.leases["job"].size == 2 * GIB


def a_gang_of_higher_priority_takes_a_kept_card_beside_a_free_one(walk: Walk) -> None:
    walk.configure(bypass_max="0")
    for host in ("h2", "h3"):
        walk.do("drain", "host", host)
    assert walk.wants("holder", 1, gpu="GPU-a") == "granted"
    assert walk.wants("kept", 3, gpu="GPU-a") == "waiting"
    assert walk.wants("passes", 1, gpu="GPU-a", wait=False) == "refused"
    assert walk.model.cards["GPU-a"].kept_for == "kept"
    assert walk.wants("gang", 2, gpus=2, priority=5) == "granted"


def a_lease_on_two_cards_is_preempted_once(walk: Walk) -> None:
    walk.configure(preempt="1")
    assert walk.wants("low", 3, gpus=2, host="h1", priority=-5) == "granted"
    assert walk.wants("high", 3, gpus=2, host="h1", priority=5) == "waiting"
    assert walk.kinds["revoked"] == 1


def nobody_has_a_card_kept_before_who_came_first(walk: Walk) -> None:
    walk.configure(preempt="1")
    walk.sample("h3", {"GPU-e": {"state": "CRITICAL"}})
    assert walk.wants("first", 5) == "waiting"
    assert walk.wants("second", 5, priority=5) == "waiting"
    walk.sample("h3")
    assert walk.wants("third", 7) == "waiting"
    walk.gives_back("second")
    assert set(walk.model.leases) == {"first"}


def a_lease_that_is_renewed_after_a_step_of_the_clock_grows_as_it_asked(walk: Walk) -> None:
    assert walk.wants("job", 1, gpu="GPU-a") == "granted"
    walk.let_pass(70_000)
    held = walk.model.leases["job"]
    walk.do("resize", "job", held.token, 2 * GIB, 1, "")
    assert "job+" in walk.model.waiters  # its time is over, though nothing ends in this grace
    walk.do("renew", "job", held.token, "")
    assert walk.model.leases["job"].size == 2 * GIB


def a_lease_that_shrinks_wants_to_grow_no_more(walk: Walk) -> None:
    assert walk.wants("job", 5, gpu="GPU-e") == "granted"
    assert walk.wants("other", 2, gpu="GPU-e") == "granted"
    walk.do("resize", "job", walk.model.leases["job"].token, 7 * GIB, 1, "")
    assert "job+" in walk.model.waiters
    assert walk.wants("next", 3, gpu="GPU-e") == "waiting"
    walk.do("resize", "job", walk.model.leases["job"].token, 2 * GIB, 1, "")
    assert "job+" not in walk.model.waiters
    assert "next" in walk.model.leases


WALKS = [
    cards_with_another_class_serve_who_waited_for_it, a_card_that_moves_while_it_reads_open_serves_its_new_host,
    a_gang_stays_on_one_host_though_a_card_moved, a_card_that_moves_leaves_the_mark_of_its_host_behind,
    a_process_is_adopted_once_and_within_the_budget, a_name_that_waits_is_not_adopted_under,
    a_holder_that_registers_waits_no_more, a_higher_priority_comes_before_who_has_the_card_kept,
    the_second_of_a_line_stands_at_its_own_place, who_came_while_the_ledger_settled_is_served_after_it,
    a_lease_on_two_cards_grows_when_the_second_comes_free,
    a_gang_of_higher_priority_takes_a_kept_card_beside_a_free_one,
    a_lease_on_two_cards_is_preempted_once, a_lease_that_shrinks_wants_to_grow_no_more,
    a_lease_that_is_renewed_after_a_step_of_the_clock_grows_as_it_asked,
    nobody_has_a_card_kept_before_who_came_first,
]  # fmt: skip


@pytest.mark.parametrize("steps", WALKS, ids=lambda steps: steps.__name__)
def test_a_walk_breaks_no_law(walk: Walk, steps: Callable[[Walk], None]) -> None:
    steps(walk)


@pytest.mark.parametrize("selector", [{"gpu": "GPU-b"}, {"host": "h1"}, {"labels": {"rack": "a"}}, {}])
def test_who_waits_for_memory_of_a_host_is_served_when_it_comes_back(
    walk: Walk, selector: dict[str, Any]
) -> None:  # fmt: skip
    for host in ("h2", "h3"):
        walk.do("drain", "host", host)
    assert walk.wants("holder", 1, gpu="GPU-a", host_memory=16 * GIB) == "granted"
    assert walk.wants("job", 1, host_memory=6 * GIB, **selector) == "waiting"
    walk.gives_back("holder")
    assert "job" in walk.model.leases
    walk.sample("h1", memory=7 * GIB)
    assert walk.wants("next", 1, host_memory=6 * GIB, **selector) == "waiting"
    walk.sample("h1", memory=16 * GIB)
    assert "next" in walk.model.leases
