"""Verdicts in words: what the ledger says of each card becomes a reason with numbers and a way out."""

from __future__ import annotations

import pytest

from broker import Broker, InvalidRequest
from broker.explain import CardVerdict, Explanation, Inquiry, explain
from broker.units import GIB


def card(why: str, detail: str = "", uuid: str = "GPU-a", **changes: int) -> CardVerdict:
    numbers = {
        "need_bytes": 4 * GIB,
        "free_bytes": 3 * GIB,
        "budget_bytes": 5 * GIB,
        "capacity_bytes": 6 * GIB,
    } | changes
    return CardVerdict(uuid, "h1", why, detail=detail, **numbers)


def told(*cards: CardVerdict, **changes: object) -> Explanation:
    facts: dict[str, object] = {
        "what": "job-7", "request": "4.0 GiB", "kind": "waiting", "place": 3, "waiters": 5, "quota_left_bytes": None,
        "settling_until": None, "now": 100_000, "cards": cards, "total_cards": len(cards),
    }  # fmt: skip
    return Explanation(**(facts | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("verdict", "words"), [
    (card("leased"), ["1 card with too little free", "GPU-a on h1", "3.0 GiB free of 5.0 GiB", "for 1.0 GiB more"]),
    (card("small", capacity_bytes=2 * GIB), ["too small even when empty", "at most 2.0 GiB", "ask for less"]),
    (card("unmanaged"), ["without a lease", "5.0 GiB of 6.0 GiB", "gpubroker adopt PID MEMORY --host h1"]),
    (card("reserved", "big"), ["kept for those who came before: big"]),
    (card("passed", "big"), ["with room, but big came before"]),
    (card("drained", "gpu"), ["drained: GPU-a; `gpubroker undrain GPU-a` opens one again"]),
    (card("silent", "40000"), ["without a sample for up to 60 s", "gpubroker agent", "h1"]),
    (card("closed", "CRITICAL: 91 °C"), ["closed: GPU-a on h1 is CRITICAL: 91 °C"]),
    (card("closed", "UNAVAILABLE: "), ["is UNAVAILABLE"]),
    (card("selector", "  8.6;;rack=a"), ["not of the kind that was asked for: 8.6 rack=a"]),
    (card("host_memory"), ["too little of the host's memory is left on h1"]),
    (card("cpus"), ["too few of the host's processors are left on h1"]),
    (card("drained", "host"), ["`gpubroker undrain --host h1` opens a host's"]),
    (card("gang", "1"), ["2 cards of one host are needed: h1 has 1 with 4.0 GiB free"]),
    (card("quota"), ["studio has 1.0 GiB of its quota left and 8.0 GiB are needed", "tenants set studio --quota"]),
    (card("settling"), ["the ledger lost data", "9 s more"]),
])  # fmt: skip
def test_each_verdict_has_its_words_and_numbers(verdict: CardVerdict, words: list[str]) -> None:
    explanation = told(verdict, gpus=2, tenant="studio", quota_left_bytes=GIB, settling_until=109_000)
    text = explanation.words()[-1]
    assert [word for word in words if word not in text] == []


def test_what_comes_right_by_itself_stands_before_what_a_person_mends_and_that_before_what_cannot_be() -> None:
    lines = told(card("small"), card("drained"), card("leased"), card("quota")).words()
    order = ("waits for 4.0 GiB, at place 3 of 5", "quota", "too little free", "drained", "too small")
    assert [word in line for word, line in zip(order, lines, strict=True)] == [True] * 5


def test_what_no_card_can_ever_hold_is_said_so() -> None:
    for never, words in (("size", "so large"), ("quota", "the quota of tenant default"), ("cards", "has 1 GPUs")):
        for kind in ("ask", "waiting"):
            headline = told(card("small"), never=never, kind=kind).words()[0]
            assert "as the pool is" in headline
            assert words in headline
    assert "can never be granted" not in str(told(card("small"), card("leased")))


def test_the_nearest_card_is_named() -> None:
    line = told(card("leased", free_bytes=GIB), card("leased", uuid="GPU-b", free_bytes=3 * GIB)).words()[-1]
    assert line.startswith("2 cards with too little free: nearest is GPU-b")


def test_no_more_than_three_names_are_told() -> None:
    kept = [card("reserved", name) for name in ("a", "b", "c", "d", "e", "a")]
    assert "before: a, b, c and 2 more" in told(*kept).words()[-1]


def test_a_request_that_fits_names_a_card_and_one_that_does_not_what_it_would_wait_for() -> None:
    ask = {"kind": "ask", "place": None}
    fitting = told(card("leased"), card("fits", uuid="GPU-b"), **ask)
    assert fitting.words() == ["4.0 GiB would be granted now, for instance on GPU-b of h1"]
    assert "there is room on GPU-a of h1" in told(card("fits")).words()[0]
    assert told(card("leased"), **ask).words()[0] == "4.0 GiB would have to wait, behind 5 requests at most"


@pytest.mark.parametrize(
    ("seconds", "words"), [(40.4, "in 40 s at the earliest"), (600.0, "in 10 min at the earliest")]
)
def test_the_estimate_is_told_where_there_is_one(seconds: float, words: str) -> None:
    assert words in told(card("leased"), estimate_seconds=seconds).words()[0]
    assert "earliest" not in told(card("leased")).words()[0]


def test_a_pool_without_cards_says_what_to_start() -> None:
    assert "gpubroker agent" in told().words()[-1]


def test_what_holds_a_lease_and_what_nobody_knows_is_said_in_one_line() -> None:
    assert told(kind="granted").words() == ["job-7 holds its lease; it waits for nothing"]
    assert "knows no request or lease job-7" in told(kind="unknown").words()[0]


# -- questions and answers ---------------------------------------------------------------------------------------------


def page(kind: str, *cards: str, cursor: str = "", place: int = 0) -> list[object]:
    rows = [value for uuid in cards for value in (uuid, "h1", "leased", 4, 3, 5, 6, "")]
    return [kind, str(place), "5", "", "0", "2", cursor, "", *rows]


def test_a_size_is_a_hypothetical_request_and_anything_else_a_name() -> None:
    argv = Inquiry("2x4GiB", {"host": "h1", "priority": 3}).next_argv()
    assert argv is not None
    assert (argv[0], argv[1], argv[3], argv[5]) == ("ask", f"2x{4 * GIB}", "h1", 3)
    assert Inquiry("job-7", {}).next_argv() == ("lease", "job-7", "0")
    assert Inquiry("7", {}, named=True).next_argv() == ("lease", "7", "0")


def test_alternatives_may_be_a_list_or_joined_by_commas() -> None:
    asked = [Inquiry(what, {}).next_argv() for what in (["16GiB", "2x8GiB"], "16GiB,2x8GiB")]
    assert [argv and argv[1] for argv in asked] == [f"{16 * GIB},2x{8 * GIB}"] * 2


@pytest.mark.parametrize(("what", "request_", "field"), [
    ("a b", {}, "what"), ("", {}, "what"), (-5, {}, "what"), ("4GiB", {"color": "red"}, "request"),
    ("4GiB", {"priority": 9999}, "priority"),
])  # fmt: skip
def test_what_is_no_question_is_refused(what: str, request_: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{field}="):
        Inquiry(what, request_)


def test_pages_are_asked_for_until_the_last() -> None:
    inquiry = Inquiry("job-7", {})
    inquiry.take(page("waiting", "GPU-a", cursor="1", place=2))
    assert inquiry.next_argv() == ("lease", "job-7", "1")
    inquiry.take(page("waiting", "GPU-b", place=2))
    assert inquiry.next_argv() is None


def test_a_lease_that_waits_to_grow_is_explained_as_the_waiter_that_it_is() -> None:
    inquiry = Inquiry("job-7", {})
    inquiry.take(page("granted"))
    assert inquiry.next_argv() == ("lease", "job-7+", "0")
    inquiry.take(page("unknown"))
    assert inquiry.next_argv() is None


# -- when room may come ------------------------------------------------------------------------------------------------


@pytest.fixture
def full(broker: Broker, cards: object) -> Broker:
    """One card, full; such leases were held for 100 s before."""
    cards("GPU-a")  # type: ignore[operator]
    broker.acquire("2GiB", lease_id="old", tenant="studio", function="enhance")
    broker.acquire("3GiB", lease_id="new", tenant="studio", function="enhance")
    held_100_s_each = "4 0 0 400000 0 0"
    broker.redis.hset(broker.keys.tenant("studio"), "f:enhance", held_100_s_each)
    return broker


def age(broker: Broker, lease_id: str, seconds: int) -> None:
    created = int(broker.redis.hget(broker.keys.lease(lease_id), "created_at") or 0)
    broker.redis.hset(broker.keys.lease(lease_id), "created_at", str(created - 1000 * seconds))


def test_room_comes_when_the_leases_that_are_needed_have_been_held_as_long_as_such_were(full: Broker) -> None:
    age(full, "old", 70)
    age(full, "new", 20)
    assert explain(full, "2GiB").estimate_seconds == pytest.approx(30, abs=5)
    assert explain(full, "5GiB").estimate_seconds == pytest.approx(80, abs=5)


def test_a_lease_that_is_overdue_is_taken_to_last_as_long_again(full: Broker) -> None:
    age(full, "old", 140)
    assert explain(full, "2GiB").estimate_seconds == pytest.approx(40, abs=5)


def test_a_revoked_lease_is_gone_by_its_deadline(full: Broker) -> None:
    full.revoke("new", grace=10)
    assert explain(full, "3GiB").estimate_seconds == pytest.approx(10, abs=5)


def test_of_functions_that_never_ended_the_tenants_others_speak_and_without_any_nothing_is_said(full: Broker) -> None:
    full.redis.hdel(full.keys.tenant("studio"), "f:enhance")
    full.redis.hset(full.keys.tenant("studio"), "f:score", "1 0 0 60000 0 0")
    assert explain(full, "2GiB").estimate_seconds == pytest.approx(60, abs=5)
    full.redis.hdel(full.keys.tenant("studio"), "f:score")
    assert explain(full, "2GiB").estimate_seconds is None


def test_what_fits_needs_no_wait_and_what_can_never_fit_has_no_time(full: Broker) -> None:
    assert explain(full, "256MiB").estimate_seconds == 0
    assert explain(full, "50GiB").estimate_seconds is None
