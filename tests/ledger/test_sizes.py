"""What runs took is learned in the ledger: bounded, once a run, and nothing of what is not allowed."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from broker import AsyncBroker, Broker, InvalidRequest
from broker.sizes import Learned, RightSize, bucket_of
from broker.units import GIB, MIB

Cards = Callable[..., None]
NAME = "photos.enhance"
DONE = [NAME, "18", "run-1", "done", str(4 * GIB), "0", str(2 * GIB)]
_numbers = itertools.count()
OOM = [NAME, "18", "run-1", "oom", str(4 * GIB), "0"]


def learned(broker: Broker, size: float | None = None) -> Learned:
    """What the ledger has of ``NAME`` at this size."""
    (one,) = [one for one in broker.sizes() if (one.function, one.bucket) == (NAME, bucket_of(size))]
    return one


def ran(broker: Broker, *peaks: int, asked: int = 4 * GIB, size: float | None = None) -> None:
    """So many runs of these peaks."""
    for peak in peaks:
        broker.learn(NAME, f"run-{next(_numbers)}", asked, size=size, peak_bytes=peak)


def out_of_memory(broker: Broker, run: str, *, asked: int = 4 * GIB, default: int | None = None) -> None:
    broker.learn(NAME, run, asked, default=default)


@pytest.mark.parametrize(("argv", "at", "value"), [
    (DONE, 0, ""), (DONE, 0, "a b"), (DONE, 0, "x" * 129), (DONE, 1, ""), (DONE, 1, "257"), (DONE, 1, "-257"),
    (DONE, 1, "1.5"), (DONE, 1, "01"), (DONE, 1, "--"), (DONE, 1, "1e2"), (DONE, 2, ""), (DONE, 2, "a b"),
    (DONE, 3, ""), (DONE, 3, "failed"), (DONE, 4, "0"), (DONE, 4, "nan"), (DONE, 4, "-5"),
    (DONE, 4, "4398046511105"), (DONE, 6, ""), (DONE, 6, "0"), (DONE, 6, "1e9"), (DONE, 6, "9" * 20), (DONE, 5, ""),
    (OOM, 5, ""), (OOM, 5, "-1"), (OOM, 5, "inf"), (OOM, 4, ""),
])  # fmt: skip
def test_every_argument_is_checked_by_lua_itself_and_nothing_is_written(
    broker: Broker, argv: list[str], at: int, value: str
) -> None:
    wrong = list(argv)
    wrong[at] = value
    with pytest.raises(InvalidRequest):
        broker.call("learn", *wrong)
    with pytest.raises(InvalidRequest):
        broker.call("learn", *argv[:4])
    assert broker.redis.keys("*") == []


@pytest.mark.parametrize(("field", "wrong"), [
    ("function", {"function": "a b"}), ("run", {"run": ""}), ("asked_bytes", {"asked_bytes": 0}),
    ("peak_bytes", {"peak_bytes": 0}), ("peak_bytes", {"peak_bytes": 1.5}), ("size", {"size": 0}),
    ("size", {"size": float("nan")}), ("size", {"size": "24"}), ("size", {"size": True}),
    ("default", {"peak_bytes": None, "default": "much"}),
])  # fmt: skip
def test_the_edge_names_what_is_wrong(broker: Broker, field: str, wrong: dict[str, object]) -> None:
    given: dict[str, object] = {"function": NAME, "run": "run-1", "asked_bytes": GIB, "peak_bytes": GIB}
    with pytest.raises(InvalidRequest) as refused:
        broker.learn(**(given | wrong))  # type: ignore[arg-type]
    assert refused.value.field == field
    assert broker.redis.keys("*") == []


def test_a_run_is_learned_in_words_that_a_person_reads(broker: Broker) -> None:
    broker.learn(NAME, "run-1", 4 * GIB, size=24, peak_bytes=2 * GIB)
    told = broker.redis.hgetall(broker.keys.size(NAME))
    assert told["runs@18"] == "1"  # type: ignore[index]
    assert told["peak_bytes@18"] == told["last_bytes@18"] == str(2 * GIB)  # type: ignore[index]
    one = learned(broker, 24)
    assert (one.runs, one.oom, one.asked_bytes, one.floor_bytes) == (1, 0, 4 * GIB, 0)
    assert one.need_bytes == 2 * GIB + 256 * MIB  # 10 % would be less than what a CUDA context may take
    assert one.wasted_percent == 50


def test_a_run_that_is_told_twice_is_learned_once(broker: Broker) -> None:
    assert broker.call("learn", *DONE) == "learned"
    before = broker.redis.hgetall(broker.keys.size(NAME))
    assert broker.call("learn", *DONE) == "known"
    assert broker.call("learn", *OOM) == "known"
    assert broker.redis.hgetall(broker.keys.size(NAME)) == before


def test_the_margin_is_a_tenth(broker: Broker) -> None:
    ran(broker, 10 * GIB, asked=24 * GIB)
    assert learned(broker).need_bytes == 11 * GIB
    ran(broker, 20 * GIB, asked=10 * GIB)  # more than it had, on a card that nobody else was on
    assert learned(broker).need_bytes == 22 * GIB


def test_what_takes_all_that_it_is_given_does_not_grow_by_its_margin(broker: Broker) -> None:
    ran(broker, *[4 * GIB] * 3)
    assert learned(broker).need_bytes == 4 * GIB
    broker.learn(NAME, "grows", 4 * GIB, peak_bytes=4 * GIB - 1, default="4200MiB")
    assert learned(broker).need_bytes == 4200 * MIB, "as far as its author would ask, it may grow"
    broker.learn(NAME, "more", 5 * GIB, peak_bytes=5 * GIB - 1, default="4200MiB")
    assert learned(broker).need_bytes == 5 * GIB


def test_a_peak_counts_for_32_runs_and_is_forgotten_after_64(broker: Broker) -> None:
    ran(broker, 3 * GIB)
    for so_far in range(1, 64):
        ran(broker, GIB)
        assert learned(broker).peak_bytes == 3 * GIB or so_far > 32
    ran(broker, GIB)
    assert (learned(broker).peak_bytes, learned(broker).runs) == (GIB, 65)
    assert learned(broker).need_bytes == GIB + 256 * MIB


def test_waste_of_long_ago_counts_less(broker: Broker) -> None:
    ran(broker, *[GIB] * 32)
    ran(broker, *[4 * GIB] * 64)
    share = learned(broker).wasted_percent
    assert share is not None
    assert share < 15  # of all 96 runs it would be 25


def test_after_running_out_of_memory_half_as_much_again_is_asked_and_the_default_at_least(broker: Broker) -> None:
    out_of_memory(broker, "a", asked=2 * GIB)
    assert (learned(broker).floor_bytes, learned(broker).oom, learned(broker).runs) == (3 * GIB, 1, 0)
    out_of_memory(broker, "b", asked=GIB)
    assert learned(broker).floor_bytes == 3 * GIB
    out_of_memory(broker, "c", asked=GIB, default=4 * GIB)
    assert learned(broker).floor_bytes == 4 * GIB


def test_the_floor_wears_off_with_runs_that_end_well_and_the_slower_the_oftener_it_was_needed(broker: Broker) -> None:
    def runs_until_gone() -> int:
        for count in range(1, 5000):
            ran(broker, GIB)
            if learned(broker).floor_bytes == 0:
                return count
        raise AssertionError("it stays for ever")

    out_of_memory(broker, "a")
    assert learned(broker).floor_bytes == 6 * GIB
    once = runs_until_gone()
    assert once > 32
    for name in "bcd":
        out_of_memory(broker, name)
    assert runs_until_gone() > 3 * once


def test_sizes_are_kept_apart_and_bounded_the_last_used_stay(broker: Broker) -> None:
    ran(broker, GIB)
    for power in range(70):
        ran(broker, GIB, size=2.0 ** (power / 4))
        ran(broker, 2 * GIB)  # in use all the time
    assert len(broker.sizes()) == 64
    assert learned(broker).runs == 71
    assert {one.bucket for one in broker.sizes()} == {None, *range(7, 70)}
    assert broker.redis.hlen(broker.keys.size(NAME)) == 64 * 11 + 2  # type: ignore[operator]


def test_functions_are_bounded_the_longest_unused_is_forgotten(broker: Broker) -> None:
    for number in range(1000):
        broker.learn(f"f{number}", "run", GIB, peak_bytes=GIB)
        broker.redis.zadd(broker.keys.sizes, {f"f{number}": number})
    broker.learn("f0", "again", GIB, peak_bytes=GIB)
    broker.learn("new", "run", GIB, peak_bytes=GIB)
    assert broker.redis.zcard(broker.keys.sizes) == 1000
    assert not broker.redis.exists(broker.keys.size("f1"))
    assert broker.redis.exists(broker.keys.size("f0"), broker.keys.size("new")) == 2
    assert [one.function for one in broker.sizes()][:1] in (["new"], ["f0"])


def test_what_was_learned_can_be_forgotten(broker: Broker) -> None:
    ran(broker, GIB)
    assert broker.forget(NAME) is True
    assert broker.forget(NAME) is False
    assert broker.redis.keys("*") == []
    with pytest.raises(InvalidRequest):
        broker.call("forget", "a b")


def test_what_somebody_wrote_there_by_hand_breaks_nothing(broker: Broker) -> None:
    ran(broker, GIB)
    key = broker.keys.size(NAME)
    broker.redis.hset(key, mapping={"runs@-": "many", "peak_bytes@-": "-1", "buckets": "- 900", "floor_bytes@-": "1e9"})
    assert [one.bucket for one in broker.sizes()] == [None]
    ran(broker, 2 * GIB)
    assert (learned(broker).runs, learned(broker).peak_bytes) == (1, 2 * GIB)


def test_the_right_size_is_the_default_first_and_then_what_was_seen(broker: Broker, cards: Cards) -> None:
    largest = 5 * GIB + 512 * MIB
    assert broker.right_size(NAME, "4GiB") == RightSize(4 * GIB, 4 * GIB)
    cards("GPU-a")
    assert broker.right_size(NAME, "4GiB") == RightSize(4 * GIB, 4 * GIB, largest, largest)
    ran(broker, 2 * GIB, 2 * GIB)
    assert broker.right_size(NAME, "4GiB").asked_bytes == 4 * GIB
    ran(broker, 2 * GIB)
    assert broker.right_size(NAME, "4GiB") == RightSize(2 * GIB + 256 * MIB, 2 * GIB, largest, largest)
    out_of_memory(broker, "oom")
    assert broker.right_size(NAME, "4GiB").asked_bytes == largest  # the floor of 6 GiB fits no card


def test_it_asks_for_no_more_than_its_card_or_its_tenant_may_have(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    cards("GPU-b", host="h2", total=24 * GIB)
    broker.set_tenant("studio", quota="3GiB")
    ran(broker, *[2900 * MIB] * 3)
    assert broker.right_size(NAME, "4GiB", too_little=4 * GIB).asked_bytes == 6 * GIB
    assert broker.right_size(NAME, "4GiB", too_little=4 * GIB, gpu="GPU-a").asked_bytes == 5 * GIB + 512 * MIB
    assert broker.right_size(NAME, "4GiB", gpu="GPU-c").largest_bytes == 0
    assert broker.right_size(NAME, "4GiB").asked_bytes == 3200 * MIB
    assert broker.right_size(NAME, "4GiB", tenant="studio") == RightSize(
        3 * GIB, 2900 * MIB, 3 * GIB, 5 * GIB + 512 * MIB
    )  # fmt: skip


@pytest.mark.parametrize(("field", "wrong"), [
    ("function", {"function": "a b"}), ("default", {"default": 0}), ("size", {"size": -1}), ("tenant", {"tenant": ""}),
    ("too_little", {"too_little": -1}), ("gpu", {"gpu": "a b"}),
])  # fmt: skip
def test_a_right_size_of_nonsense_is_refused(broker: Broker, field: str, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        broker.right_size(**({"function": NAME, "default": GIB} | wrong))  # type: ignore[arg-type]
    assert refused.value.field == field


async def test_it_is_the_same_awaited(redis_url: str, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    async with AsyncBroker.from_url(redis_url) as awaited:
        await awaited.learn(NAME, "run-1", 4 * GIB, size=24, peak_bytes=2 * GIB)
        assert await awaited.sizes() == broker.sizes()
        asked = await awaited.right_size(NAME, "4GiB", size=24)
        assert asked == broker.right_size(NAME, "4GiB", size=24)
        assert await awaited.forget(NAME) is True
        assert await awaited.forget(NAME) is False
