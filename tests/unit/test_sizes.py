"""How much "auto" asks for: what must hold of the rule, whatever was learned."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import InvalidRequest
from broker.sizes import (
    ENOUGH_RUNS,
    STEP_BYTES,
    Learned,
    bucket_of,
    check_input_size,
    size_to_ask,
)
from broker.units import GIB, MAX_MEMORY_BYTES, MIB

BUCKETS = st.integers(-256, 256)
BYTES = st.integers(MIB, 64 * GIB)
RUNS = st.integers(0, 2 * ENOUGH_RUNS)


def bytes_to_ask(learned: list[Learned], bucket: int | None, default: int, *, largest: int = 0) -> int:
    return size_to_ask(learned, bucket, default, largest=largest).asked_bytes


def seen(bucket: int | None, peak: int, *, runs: int = ENOUGH_RUNS, floor: int = 0) -> Learned:
    """A bucket as runs of that peak leave it."""
    need = peak + max(math.ceil(peak / 10), 256 * MIB) if runs else 0
    return Learned("f", bucket, runs=runs, peak_bytes=peak if runs else 0, need_bytes=need, floor_bytes=floor)


@st.composite
def histories(draw: st.DrawFn, rising: bool = False) -> list[Learned]:
    """Some buckets with a size; ``rising``: larger inputs never needed less."""
    buckets = sorted(draw(st.sets(BUCKETS, max_size=8)))
    peaks, floors = draw(st.lists(BYTES, min_size=8, max_size=8)), draw(st.lists(BYTES, min_size=8, max_size=8))
    if rising:
        peaks, floors = sorted(peaks), sorted(floors)
    worn = draw(st.booleans())
    return [
        seen(bucket, peak, runs=draw(RUNS), floor=0 if worn else floor)
        for bucket, peak, floor in zip(buckets, peaks, floors, strict=False)
    ]


@given(histories(rising=True), BYTES, BUCKETS, BUCKETS)
def test_a_larger_input_never_asks_for_less_where_larger_ones_never_took_less(
    learned: list[Learned], default: int, one: int, other: int
) -> None:
    smaller, larger = sorted((one, other))
    assert bytes_to_ask(learned, smaller, default) <= bytes_to_ask(learned, larger, default)


@given(histories(), BYTES, BUCKETS, st.one_of(st.just(0), BYTES))
def test_it_never_asks_for_less_than_was_seen_of_that_size(
    learned: list[Learned], default: int, bucket: int, largest: int
) -> None:
    for one in learned:
        assert bytes_to_ask(learned, one.bucket, default, largest=largest) >= one.peak_bytes
    own = [one.floor_bytes for one in learned if one.bucket == bucket]
    assert bytes_to_ask(learned, bucket, default) >= max(own, default=0)


@given(histories(), BYTES, BUCKETS, BYTES, st.integers(0, 64 * GIB))
def test_what_is_known_to_fit_the_largest_card_is_never_asked_beyond_it(
    learned: list[Learned], default: int, bucket: int, largest: int, too_little: int
) -> None:
    found = size_to_ask(learned, bucket, default, largest=largest, too_little=too_little)
    seen_of_it = max((one.peak_bytes for one in learned if one.bucket == bucket), default=0)
    assert max(seen_of_it, too_little + (too_little > 0)) <= found.known_bytes <= found.asked_bytes
    assert found.known_bytes <= max(seen_of_it, default, too_little + 1)
    assert found.asked_bytes <= max(largest, found.known_bytes)


@given(histories(), BYTES, BUCKETS, st.integers(1, 64 * GIB), st.integers(0, 64 * GIB))
def test_after_running_out_of_memory_it_asks_for_half_as_much_again_or_all_of_the_largest_card(
    learned: list[Learned], default: int, bucket: int, too_little: int, largest: int
) -> None:
    found = size_to_ask(learned, bucket, default, largest=largest, too_little=too_little)
    assert found.asked_bytes > too_little
    assert found.asked_bytes >= min(max(too_little * 1.5, default), largest or math.inf)


@given(histories(), BYTES, BUCKETS)
def test_before_enough_runs_of_any_size_the_default_is_the_least(
    learned: list[Learned], default: int, bucket: int
) -> None:
    few = [one for one in learned if one.runs < ENOUGH_RUNS]
    assert bytes_to_ask(few, bucket, default) >= default
    assert bytes_to_ask([], bucket, default) == default
    assert bytes_to_ask(learned, None, default) == default  # sizes say nothing of an input without one


@given(histories(), BYTES, BUCKETS, st.integers(0, MAX_MEMORY_BYTES))
def test_it_asks_for_what_a_request_may_say(learned: list[Learned], default: int, bucket: int, too_little: int) -> None:
    assert 1 <= size_to_ask(learned, bucket, default, too_little=too_little).asked_bytes <= MAX_MEMORY_BYTES


def test_what_was_learned_has_a_margin_and_is_rounded_up() -> None:
    assert bytes_to_ask([seen(None, 5 * GIB)], None, GIB) == -(-math.ceil(5.5 * GIB) // STEP_BYTES) * STEP_BYTES
    assert bytes_to_ask([seen(None, 100 * MIB)], None, GIB) == 384 * MIB
    assert bytes_to_ask([seen(None, 2 * GIB)], None, 4 * GIB + 1) == 2 * GIB + 256 * MIB
    assert bytes_to_ask([], None, 4 * GIB + 1) == 4 * GIB + 1, "what its author stated is asked as it is"


def test_an_unseen_size_is_guessed_from_its_neighbours() -> None:
    small, large = seen(bucket_of(6), 1 * GIB), seen(bucket_of(96), 10 * GIB)
    both = [small, large]
    assert bytes_to_ask(both, bucket_of(48), GIB) == bytes_to_ask(both, bucket_of(96), GIB), "near the larger one"
    assert bytes_to_ask(both, bucket_of(12), GIB) == 2 * (GIB + 256 * MIB), "in proportion to the smaller one"
    assert bytes_to_ask([small], bucket_of(24), GIB) == 4 * (GIB + 256 * MIB)
    assert bytes_to_ask([large], bucket_of(1), 32 * GIB) == 11 * GIB, "no more than the larger one took"


def test_a_run_or_two_do_not_yet_take_less_than_the_default_but_may_take_more() -> None:
    assert bytes_to_ask([seen(None, 1 * GIB, runs=ENOUGH_RUNS - 1)], None, 4 * GIB) == 4 * GIB
    assert bytes_to_ask([seen(None, 10 * GIB, runs=1)], None, 4 * GIB) == 11 * GIB


def test_a_floor_holds_for_this_size_and_for_unseen_larger_ones() -> None:
    told = [seen(8, 2 * GIB, floor=6 * GIB), seen(20, 3 * GIB)]
    assert bytes_to_ask(told, 8, GIB) == 6 * GIB
    assert bytes_to_ask(told, 20, GIB) == 3 * GIB + 320 * MIB
    assert bytes_to_ask([seen(8, 0, runs=0, floor=6 * GIB)], 9, GIB) == 6 * GIB


@pytest.mark.parametrize(("size", "bucket"), [
    (1, 0), (2, 4), (24.2, 18), (24.0, 18), (1e300, 256), (5e-324, -256), (0.5, -4),
    (Decimal(24), 18), (Fraction(48, 2), 18),
])  # fmt: skip
def test_sizes_stand_in_buckets_of_a_fifth(size: float, bucket: int) -> None:
    assert bucket_of(check_input_size(size)) == bucket


@given(st.floats(1e-15, 1e15))
def test_the_middle_of_a_bucket_is_near_every_size_in_it(size: float) -> None:
    middle = Learned("f", bucket_of(size)).size
    assert middle is not None
    assert 0.917 <= size / middle <= 1.091
    assert Learned("f", None).size is None


@pytest.mark.parametrize("size", [0, -1, math.nan, math.inf, "24", None, True, [24], 10**400, 1j], ids=str)
def test_what_is_no_size_is_refused(size: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^size_of="):
        check_input_size(size, "size_of")


def test_for_programs_the_names_are_stable() -> None:
    told = Learned("f", 18, runs=3, asked_bytes=GIB, asked_mib=3072, wasted_mib=1000)
    assert list(told.as_dict()) == [
        "function", "bucket", "runs", "oom", "asked_bytes", "peak_bytes", "need_bytes", "last_bytes", "floor_bytes",
        "asked_mib", "wasted_mib", "size", "wasted_percent",
    ]  # fmt: skip
    assert told.as_dict()["wasted_percent"] == 32.6
    assert Learned("f", None).as_dict()["wasted_percent"] is None
