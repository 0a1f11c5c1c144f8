"""Law 7 where it is hard: who cannot be served himself must not hide those behind him, nor must anything lie idle.

GPU-a, -b (host h1), -c and -m (h2) lend 3.5 GiB each, GPU-e (h3) lends 7.5. A stream of small requests passes on GPU-a
until a card is kept for the one that it would starve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from broker.units import GIB
from tests.proof.walk import CARDS, Walk


def only(walk: Walk, *uuids: str) -> None:
    """All other cards are drained."""
    for uuid in set(CARDS) - set(uuids):
        walk.do("drain", "gpu", uuid)


def stream(walk: Walk, size: float = 1, **asked: object) -> Iterator[str]:
    """Requests one after the other, each taking what the one before gave back, until one is refused."""
    last = ""
    for number in range(12):
        if walk.wants(f"s{number}", size, wait=False, **asked) == "refused":
            return
        if last:
            walk.gives_back(last)
        last = f"s{number}"
        yield last
    raise AssertionError("nothing was kept for anybody")


def kept(walk: Walk, name: str) -> tuple[str, ...]:
    return walk.model.waiters[name].kept


def one_over_its_quota(walk: Walk) -> None:
    only(walk, "GPU-a", "GPU-b")
    walk.do("tenant", "red", 3 * GIB, "")
    assert walk.wants("reds", 2, gpu="GPU-b", tenant="red") == "granted"
    assert walk.wants("rest", 1.5, gpu="GPU-b") == "granted"
    assert walk.wants("a", 1.5, gpu="GPU-a") == "granted"
    assert walk.wants("first", 2, tenant="red") == "waiting"


def one_that_wants_more_cards_than_are_open(walk: Walk) -> None:
    only(walk, "GPU-a", "GPU-b")
    assert walk.wants("a", 1.5, gpu="GPU-a") == "granted"
    walk.do("drain", "gpu", "GPU-b")
    assert walk.wants("first", 1, gpus=2) == "waiting"


def one_that_wants_more_of_a_host_than_this_one_has(walk: Walk) -> None:
    only(walk, "GPU-a")
    walk.sample("h2", memory=64 * GIB)
    assert walk.wants("a", 1.5, gpu="GPU-a") == "granted"
    assert walk.wants("first", 1, host_memory=32 * GIB) == "waiting"


def many_that_are_too_large_for_this_card(walk: Walk) -> None:
    only(walk, "GPU-a", "GPU-e")
    assert walk.wants("e", 7.5, gpu="GPU-e") == "granted"
    assert walk.wants("a", 1.5, gpu="GPU-a") == "granted"
    for number in range(12):
        assert walk.wants(f"large{number}", 3.6 + number / 4) == "waiting"


@pytest.mark.parametrize("before", [
    one_over_its_quota, one_that_wants_more_cards_than_are_open, one_that_wants_more_of_a_host_than_this_one_has,
    many_that_are_too_large_for_this_card,
], ids=lambda one: one.__name__)  # fmt: skip
def test_a_big_request_is_not_starved_behind(walk: Walk, before: Callable[[Walk], None]) -> None:
    walk.configure(bypass_max="3")
    before(walk)
    assert walk.wants("big", 3) == "waiting"
    passed = list(stream(walk, gpu="GPU-a"))
    assert kept(walk, "big") == ("GPU-a",)
    assert len(passed) in (3, 6)  # or the one before was counted first, until it was known to be hopeless


def test_what_it_wants_of_a_host_gathers_for_a_waiter_too(walk: Walk) -> None:
    walk.configure(bypass_max="2")
    only(walk, "GPU-a", "GPU-b")
    assert walk.wants("one", 1, host_memory=4 * GIB) == "granted"
    assert walk.wants("two", 1, host_memory=4 * GIB) == "granted"
    assert walk.wants("big", 1, host_memory=14 * GIB) == "waiting"
    for _ in stream(walk, host_memory=4 * GIB):
        pass
    assert kept(walk, "big")
    assert walk.wants("plain", 1, wait=False) == "granted"  # who wants nothing of the host goes on
    for name in ("one", "two", *[name for name in walk.model.leases if name.startswith("s")]):
        walk.gives_back(name)
    assert "big" in walk.model.leases


def keep_gpu_a_for(walk: Walk, **asked: object) -> None:
    """For ``big``, which waits for room on it."""
    walk.configure(bypass_max="0")
    only(walk, "GPU-a")
    assert walk.wants("a", 2.5, gpu="GPU-a") == "granted"
    assert walk.wants("big", 3, **asked) == "waiting"
    assert walk.wants("small", 1, wait=False) == "refused"
    assert kept(walk, "big") == ("GPU-a",)


def test_a_kept_card_of_another_class_is_let_go(walk: Walk) -> None:
    keep_gpu_a_for(walk, labels={"rack": "a"})
    walk.sample("h1", labels="rack=b")
    assert walk.wants("small", 1, wait=False) == "granted"


def test_a_kept_card_that_moved_house_is_let_go(walk: Walk) -> None:
    walk.configure(bypass_max="0")
    only(walk, "GPU-m")
    walk.sample("h2", interval=1000)
    assert walk.wants("m", 2.5) == "granted"
    assert walk.wants("big", 3, host="h2") == "waiting"
    assert walk.wants("small", 1, wait=False) == "refused"
    walk.let_pass(4000)
    walk.sample("h3", {"GPU-m": {}, "GPU-e": {}})
    assert walk.wants("small", 1, wait=False) == "granted"


def test_a_card_is_let_go_when_its_waiter_may_not_have_so_much_any_more(walk: Walk) -> None:
    keep_gpu_a_for(walk)
    walk.do("tenant", "t", 4 * GIB, "")
    walk.wants("big", 3)
    assert kept(walk, "big") == ()
    assert walk.wants("small", 1, tenant="u", wait=False) == "granted"


@pytest.mark.parametrize(("quota", "memory"), [(8, ["3GiB", "1GiB"]), (6, "2x2GiB")])
def test_nobody_is_preempted_for_what_the_quota_forbids(walk: Walk, quota: int, memory: str | list[str]) -> None:
    walk.configure(preempt="1")
    only(walk, "GPU-a", "GPU-b", "GPU-e")
    walk.do("tenant", "vip", quota * GIB, "")
    assert walk.wants("theirs", 6 if isinstance(memory, list) else 3, tenant="vip", gpu="GPU-e") == "granted"
    assert walk.wants("rest", 1.5 if isinstance(memory, list) else 4.5, gpu="GPU-e", priority=9) == "granted"
    for name, uuid in (("one", "GPU-a"), ("two", "GPU-b")):
        assert walk.wants(name, 3.5, gpu=uuid) == "granted"
    walk.ask("vip", {"memory": memory, "tenant": "vip", "priority": 5}, True)
    revoked = [lease for lease in walk.model.leases.values() if lease.revoke_at]
    assert len(revoked) == (1 if isinstance(memory, list) else 0)  # of the alternatives only the last is allowed


def test_preemption_waits_for_a_card_that_was_closed_and_counts_what_comes_back_anyway(walk: Walk) -> None:
    walk.configure(preempt="1")
    only(walk)
    walk.do("undrain", "gpu", "GPU-a")
    for name in ("one", "two"):
        assert walk.wants(name, 1.75) == "granted"
    walk.do("drain", "gpu", "GPU-a")
    assert walk.wants("high", 1.75, priority=5) == "waiting"
    assert not any(lease.revoke_at for lease in walk.model.leases.values())
    walk.do("undrain", "gpu", "GPU-a")
    walk.do("revoke", "one", 10_000, "an operator wants it")
    walk.wants("high", 1.75, priority=5)
    assert kept(walk, "high") == ("GPU-a",)
    assert not walk.model.leases["two"].revoke_at


def test_preemption_ends_nobody_where_the_host_has_too_little_left(walk: Walk) -> None:
    walk.configure(preempt="1")
    only(walk, "GPU-a", "GPU-b")
    assert walk.wants("host", 3.5, gpu="GPU-b", priority=9, host_memory=16 * GIB) == "granted"
    assert walk.wants("low", 3.5, gpu="GPU-a") == "granted"
    assert walk.wants("high", 1, priority=5, host_memory=8 * GIB) == "waiting"
    assert not any(lease.revoke_at for lease in walk.model.leases.values())


def test_a_host_that_starts_anew_sends_nobody_away(walk: Walk) -> None:
    only(walk)
    assert walk.wants("job", 1, host="h1", gpu="GPU-a", host_memory=GIB) == "waiting"
    walk.do("leave", "h1")
    assert walk.wants("job", 1, host="h1", gpu="GPU-a", host_memory=GIB) == "waiting"


@pytest.mark.parametrize(("asked", "why"), [
    ({"gpus": 3}, "cards"), ({"cpus": 64}, "cpus"), ({"host_memory": 17 * GIB}, "host_memory"),
    ({"host": "h3", "gpus": 2}, "cards"), ({"gpu": "GPU-e", "host": "h1"}, "gpu"),
])  # fmt: skip
def test_what_can_never_be_is_refused_with_the_reason(walk: Walk, asked: dict[str, object], why: str) -> None:
    assert walk.wants("job", 1, **asked) == "refused"
    assert walk.reply == ["impossible", walk.reply[1], why]


@pytest.mark.parametrize(("asked", "why"), [
    ({"host": "h9"}, "host"), ({"gpu": "GPU-x"}, "gpu"), ({"labels": {"rack": "z"}}, "selector"),
    ({"capability": "99.0"}, "selector"), ({"mig": "1g.5gb"}, "selector"),
])  # fmt: skip
def test_what_is_not_there_may_be_waited_for_and_is_named(walk: Walk, asked: dict[str, object], why: str) -> None:
    assert walk.wants("now", 1, wait=False, **asked) == "refused"
    assert walk.reply[4] == why
    assert walk.wants("later", 1, **asked) == "waiting"
