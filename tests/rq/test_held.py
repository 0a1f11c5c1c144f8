"""When a keeper renews, gives up and kills: arithmetic on the clock, without one."""

from __future__ import annotations

import math
import os
import time

import pytest

from broker.process import began
from worker_hooks.held import Held, Process


def held(*, ttl: float, age: float = 0.0, on_lost: str = "signal") -> Held:
    me = os.getpid()
    return Held(
        url="", pool="default", lease_id="a", token=1, ttl=ttl, confirmed=time.monotonic() - age, claim=(),
        on_lost=on_lost, job=Process(me, began(me) or ""), own=True, watch=frozenset(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ttl", "beat", "give_up"), [(30, 5, 20), (3, 0.5, 2), (12, 2, 8), (600, 5, 400)], ids=lambda value: str(value)
)
def test_six_renewals_a_ttl_and_a_third_of_it_is_left_to_end_in(ttl: float, beat: float, give_up: float) -> None:
    one = held(ttl=ttl)
    assert one.next - one.confirmed == pytest.approx(beat)
    assert one.give_up - one.confirmed == pytest.approx(give_up)
    assert one.end - one.confirmed == pytest.approx(ttl)


def test_while_the_ledger_is_asked_only_its_silence_counts() -> None:
    one = held(ttl=30)
    one.asked = True
    assert one.next == one.give_up


def test_a_confirmation_counts_from_before_the_question() -> None:
    one = held(ttl=30)
    asked = one.confirmed + 5
    one.confirm(asked)
    assert (one.give_up, one.end) == (pytest.approx(asked + 20), asked + 30)


def test_a_lease_that_another_keeper_held_has_one_try_before_it_is_given_up() -> None:
    one, now = held(ttl=30, age=1000), time.monotonic()
    assert one.next < now
    assert one.give_up == pytest.approx(now + one.beat, abs=1)


def test_who_slept_through_a_renewal_tries_once_more_while_the_lease_lives() -> None:
    one = held(ttl=30)
    assert not one.was_frozen(one.due)
    assert one.was_frozen(one.confirmed + 25)
    assert not one.was_frozen(one.confirmed + 31)
    one.asked = True
    assert not one.was_frozen(one.confirmed + 25)


def test_the_nearest_time_to_kill_counts_and_who_chose_nothing_is_left_alone() -> None:
    one, other = held(ttl=30), held(ttl=30, on_lost="nothing")
    for at in (20.0, 10.0, 30.0):
        one.kill_by(at)
        other.kill_by(at)
    assert (one.kill_at, other.kill_at) == (10.0, math.inf)
