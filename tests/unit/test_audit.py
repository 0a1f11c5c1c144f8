"""The account finds each broken law in a journal, and nothing in a lawful one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker import Broker
from broker.audit import Audit, audit
from broker.models import Event
from tests.ledger.test_lease_life import until

Cards = Callable[..., None]


def event(seq: int, kind: str, at: int | None = None, **fields: object) -> Event:
    return Event(
        stream_id=f"{seq}-0", seq=seq, kind=kind, at=seq if at is None else at,
        fields={name: str(value) for name, value in fields.items()},
    )  # fmt: skip


def grant(seq: int, name: str, token: int, leased: object, kind: str = "granted", **changes: object) -> Event:
    fields: dict[str, object] = {
        "id": name, "token": token, "gpu_uuids": "GPU-a", "host": "h1", "memory_bytes": 4, "leased_bytes": leased,
        "budget_bytes": 10, "waited_ms": 0, "tenant": "studio",
    }  # fmt: skip
    return event(seq, kind, **(fields | changes))


def resize(seq: int, name: str, token: int, before: int, after: int, leased: int, **changes: object) -> Event:
    fields: dict[str, object] = {
        "id": name, "token": token, "gpu_uuids": "GPU-a", "memory_bytes": after, "before_bytes": before,
        "leased_bytes": leased, "budget_bytes": 10, "tenant": "studio",
    }  # fmt: skip
    return event(seq, "resized", **(fields | changes))


def queue(seq: int, name: str, priority: int = 0) -> Event:
    return event(seq, "queued", id=name, priority=priority)


def epoch(seq: int, number: int, why: str = "primary", settling_until: int = 0) -> Event:
    return event(seq, "epoch", epoch=number, why=why, settling_until=settling_until)


OPENED = event(1, "state", gpu="GPU-a", to="OPTIMAL")
RELEASE = {"token": 1, "gpu_uuids": "GPU-a", "memory_bytes": 4}
HIGH = 1 << 23  # the first token of epoch 1


def test_a_lawful_journal_has_no_violation_and_the_right_peak() -> None:
    account = audit([
        OPENED, grant(2, "a", 1, 4), grant(3, "b", 2, 8), event(4, "released", id="a", **RELEASE), grant(5, "c", 3, 8),
        event(6, "expired", id="c", token=3), event(7, "reclaimed", id="c", token=3),
    ])  # fmt: skip
    assert account.violations == []
    assert (account.cards["GPU-a"].peak_bytes, account.grants, account.live) == (8, 3, ["b"])


def test_a_gang_takes_its_bytes_of_each_of_its_cards_and_gives_them_back() -> None:
    gang = {"gpu_uuids": "GPU-a,GPU-b", "budget_bytes": "10,6"}
    both = [OPENED, event(2, "state", gpu="GPU-b", to="NORMAL"), grant(3, "a", 1, 4)]
    account = audit([*both, grant(4, "gang", 2, "8,4", **gang)])
    assert account.violations == []
    assert {uuid: card.leased_bytes for uuid, card in account.cards.items()} == {"GPU-a": 8, "GPU-b": 4}
    account.add(event(5, "released", id="gang", token=2, memory_bytes=4, **gang))
    assert {uuid: card.leased_bytes for uuid, card in account.cards.items()} == {"GPU-a": 4, "GPU-b": 0}
    assert account.violations == []


def test_what_lawful_operators_holders_and_tenants_do_breaks_no_law() -> None:
    account = audit(
        [
            OPENED,
            event(2, "tenant", name="studio", quota_bytes=8, weight_milli=1000),
            grant(3, "a", 1, 4),
            resize(4, "a", 1, 4, 6, 6),
            resize(5, "a", 1, 6, 2, 2),
            event(6, "revoked", id="a", token=1, revoke_at=90, reason="r"),
            event(7, "revoked", id="a", token=1, revoke_at=80, reason="r"),
            event(8, "drained", gpu="GPU-a", host="h1"),
            resize(9, "a", 1, 2, 1, 1),
            grant(10, "own", 2, 5, kind="adopted"),
            event(11, "undrained", gpu="GPU-a", host="h1"),
            event(12, "drained", gpu="", host="h1"),
            event(13, "undrained", gpu="", host="h1"),
            queue(14, "w"),
            event(15, "reserved", id="w", gpu_uuids="GPU-a"),
            event(16, "released", id="own", token=2, gpu_uuids="GPU-a", memory_bytes=4),
            event(17, "unreserved", id="w", gpu_uuids="GPU-a", why="served"),
            grant(18, "w", 3, 5),
        ]
    )
    assert account.violations == []
    assert account.live == ["a", "w"]


@pytest.mark.parametrize(("law", "events"), [
    (1, [OPENED, grant(2, "a", 1, 4), grant(3, "b", 2, 8), grant(4, "c", 3, 12)]),
    (1, [OPENED, grant(2, "a", 1, 9)]),
    (1, [OPENED, grant(2, "a", 1, "4,12", gpu_uuids="GPU-a,GPU-b", budget_bytes="10,10")]),
    (1, [OPENED, grant(2, "a", 1, 4), resize(3, "a", 1, 4, 12, 12)]),
    (1, [OPENED, grant(2, "a", 1, 4), resize(3, "a", 1, 4, 6, 7)]),
    (1, [OPENED, grant(2, "a", 1, 4), resize(3, "a", 1, 5, 6, 5)]),
    (1, [OPENED, grant(2, "a", 1, 12, kind="adopted", memory_bytes=12)]),
    (1, [OPENED, grant(2, "a", 1, 4), event(3, "short", gpu="GPU-a", leased_bytes=5, budget_bytes=1)]),
    (2, [OPENED, grant(3, "a", 1, 4)]),
    (3, [OPENED, event(2, "expired", id="x", token=1)]),
    (3, [OPENED, grant(2, "a", 1, 4), *(event(seq, "expired", id="a", token=1) for seq in (3, 4))]),
    (3, [OPENED, grant(2, "a", 1, 4), event(3, "expired", id="a", token=1), resize(4, "a", 1, 4, 5, 5)]),
    (4, [OPENED, grant(2, "a", 1, 4), grant(3, "a", 2, 8)]),
    (4, [OPENED, grant(2, "a", 1, 4), grant(3, "a", 2, 8, kind="adopted")]),
    (5, [OPENED, grant(2, "a", 2, 4), grant(3, "b", 2, 8)]),
    (5, [OPENED, grant(2, "a", 2, 4), grant(3, "b", 1, 8, kind="adopted")]),
    (5, [OPENED, grant(2, "a", 2, 4), event(3, "released", id="a", **RELEASE)]),
    (5, [OPENED, event(2, "released", id="a", **RELEASE)]),
    (5, [OPENED, grant(2, "a", 2, 4), resize(3, "a", 1, 4, 5, 5)]),
    (5, [OPENED, resize(2, "a", 1, 4, 5, 5)]),
    (5, [OPENED, event(2, "revoked", id="a", token=1, revoke_at=9)]),
    (5, [OPENED, grant(2, "a", 2, 4), event(3, "revoked", id="a", token=1, revoke_at=9)]),
    (5, [OPENED, grant(2, "a", 2, 4), event(3, "revived", id="a", token=2)]),
    (5, [OPENED, grant(2, "a", 2, 4), event(3, "expired", id="a", token=2), event(4, "revived", id="a", token=1)]),
    (5, [OPENED, event(2, "revived", id="a", token=1)]),
    (5, [epoch(1, 1, "born"), grant(2, "a", HIGH + 1, 4, kind="registered")]),
    (6, [OPENED, grant(2, "a", 1, 4), event(3, "config", at=1)]),
    (6, [OPENED, grant(2, "a", 1, 4), event(3, "clock", grace_until=9), event(4, "expired", id="a", token=1)]),
    (6, [OPENED, event(2, "clock", step_ms=1, grace_until=9), queue(3, "w"), event(4, "dropped", id="w")]),
    (6, [OPENED, grant(2, "a", 1, 4), event(3, "clock", grace_until=9), event(4, "unclaimed", id="a", **RELEASE)]),
    (7, [OPENED, event(2, "reserved", id="w", gpu_uuids="GPU-a")]),
    (7, [OPENED, queue(2, "w"), event(3, "reserved", id="w", gpu_uuids="GPU-a"), queue(4, "a"), grant(5, "a", 1, 4)]),
    (7, [OPENED, queue(2, "w"), event(3, "reserved", id="w", gpu_uuids="GPU-a"), grant(4, "a", 1, 4, priority=0)]),
    (7, [OPENED, queue(2, "v"), queue(3, "w"), *(event(seq, "reserved", id=who, gpu_uuids="GPU-a")
                                                 for seq, who in ((4, "v"), (5, "w")))]),
    (8, [grant(1, "a", 1, 4)]),
    (8, [OPENED, event(2, "drained", gpu="GPU-a"), grant(3, "a", 1, 4)]),
    (8, [OPENED, event(2, "drained", gpu="", host="h1"), grant(3, "a", 1, 4)]),
    (8, [OPENED, event(2, "state", gpu="GPU-a", to="CRITICAL"), grant(3, "a", 1, 4)]),
    (8, [OPENED, grant(2, "a", 1, 4), event(3, "drained", gpu="GPU-a", host="h1"), resize(4, "a", 1, 4, 5, 5)]),
    (10, [OPENED, grant(2, "a", 1, 4), *(event(at, "revoked", id="a", token=1, revoke_at=at + 10) for at in (3, 4))]),
    (11, [OPENED, event(2, "settling", settling_until=9), grant(3, "a", 1, 4)]),
    (6, [OPENED, grant(2, "a", 1, 4), event(3, "settling", settling_until=9), event(4, "expired", id="a", token=1)]),
    (11, [epoch(1, 1, "born", settling_until=9), event(2, "state", gpu="GPU-a", to="OPTIMAL"), grant(3, "a", HIGH, 4)]),
])  # fmt: skip
def test_each_broken_law_is_named(law: int, events: list[Event]) -> None:
    assert any(violation.startswith(f"law {law},") for violation in audit(events).violations)


@pytest.mark.parametrize("more", [
    grant(4, "b", 2, 8), resize(4, "a", 1, 4, 8, 8),
])  # fmt: skip
def test_a_tenant_that_is_given_more_than_its_quota_is_named(more: Event) -> None:
    quota = event(2, "tenant", name="studio", quota_bytes=7, weight_milli=1000)
    (violation,) = audit([OPENED, quota, grant(3, "a", 1, 4), more]).violations
    assert violation.startswith("quota, event 4: studio holds 8 bytes")


def test_one_of_higher_priority_may_use_a_card_that_is_kept_for_another() -> None:
    kept = [OPENED, queue(2, "w"), event(3, "reserved", id="w", gpu_uuids="GPU-a")]
    assert audit([*kept, queue(4, "a", priority=5), grant(5, "a", 1, 4)]).violations == []


# -- journals of which the beginning, or what they tell of, was lost ---------------------------------------------------


def test_leases_of_before_the_journals_beginning_may_end_but_only_once() -> None:
    account = audit([
        grant(500, "new", 70, 8), event(501, "released", id="old", token=60, gpu_uuids="GPU-a", memory_bytes=4),
        grant(502, "next", 71, 8), event(503, "expired", id="other", token=61),
    ])  # fmt: skip
    assert account.violations == []
    account.add(event(504, "released", id="old", token=60, gpu_uuids="GPU-a", memory_bytes=4))
    assert account.violations[-1].startswith("law 5, event 504")


def test_after_a_beginning_that_is_lost_the_sums_are_followed_from_what_the_ledger_says_first() -> None:
    account = audit([grant(500, "new", 70, 8), grant(501, "next", 71, 12, budget_bytes=20)])
    assert account.violations == []
    account.add(grant(502, "third", 72, 17, budget_bytes=20))
    assert account.violations == ["law 1, event 502: the leases sum to 16 on GPU-a, the ledger says 17"]


def test_a_lease_that_was_never_seen_to_be_granted_does_not_end_where_the_journal_was_read() -> None:
    account = audit(
        [grant(500, "a", 70, 4), event(501, "released", id="b", token=71, gpu_uuids="GPU-a", memory_bytes=4)]
    )
    assert [violation.split(":")[0] for violation in account.violations] == ["law 5, event 501"]


def after_a_failover() -> Audit:
    return audit([epoch(1, 1, "born"), OPENED.model_copy(update={"seq": 2}), grant(3, "a", HIGH + 1, 4), epoch(4, 2)])


def test_a_new_primary_may_have_lost_leases_that_come_back_by_registration() -> None:
    account = after_a_failover()
    assert account.live == []
    account.add(grant(5, "a", HIGH + 1, 4, kind="registered"))
    account.add(grant(6, "b", 2 * HIGH + 1, 8))
    account.add(event(7, "released", id="a", token=HIGH + 1, gpu_uuids="GPU-a", memory_bytes=4))
    assert account.violations == []
    assert account.live == ["b"]


def test_a_new_primary_may_have_kept_leases_which_then_end_without_a_word_between() -> None:
    account = after_a_failover()
    account.add(event(5, "released", id="a", token=HIGH + 1, gpu_uuids="GPU-a", memory_bytes=4))
    assert account.violations == []


def test_nothing_new_is_granted_while_a_new_primary_settles() -> None:
    account = after_a_failover()
    account.add(epoch(5, 3, settling_until=100))
    account.add(grant(6, "a", HIGH + 1, 4, kind="registered"))
    assert account.violations == []
    account.add(grant(7, "b", 3 * HIGH + 1, 8))
    assert [violation.split(":")[0] for violation in account.violations] == ["law 11, event 7"]


def test_a_ledger_that_was_flushed_begins_anew() -> None:
    account = audit([epoch(1, 1, "born"), event(2, "state", gpu="GPU-a", to="OPTIMAL"), grant(3, "a", HIGH + 1, 4)])
    account.add(epoch(1, 2, "born").model_copy(update={"at": 9}))
    account.add(event(2, "state", at=9, gpu="GPU-a", to="OPTIMAL"))
    account.add(grant(3, "a", 2 * HIGH + 1, 4).model_copy(update={"at": 9}))
    assert account.violations == []


def test_a_repaired_card_is_taken_at_the_ledgers_word() -> None:
    account = audit([OPENED, grant(2, "a", 1, 4), event(3, "repaired", gpu="GPU-a"), grant(4, "b", 2, 4)])
    assert account.violations == []


def test_throttles_and_recoveries_are_counted_once_each() -> None:
    states = ["OPTIMAL", "THROTTLED", "CRITICAL", "THROTTLED", "NORMAL", "THROTTLED"]
    account = audit(event(seq, "state", gpu="GPU-a", to=to) for seq, to in enumerate(states))
    assert (account.cards["GPU-a"].throttles, account.cards["GPU-a"].recoveries) == (2, 1)


def test_the_journal_of_a_real_ledger_is_lawful(broker: Broker, cards: Cards) -> None:
    broker.update_config(reclaim_seconds=0.1)
    cards("GPU-a", "GPU-b")
    kept = [broker.acquire("2GiB") for _ in range(3)]
    broker.acquire("1GiB", ttl=0.1)
    kept.pop().release()
    until(lambda: bool(broker.reap()) and len(broker.leases()) == 2)
    account = audit(broker.events(count=10_000))
    assert account.violations == []
    assert account.live == sorted(lease.id for lease in kept)
    assert account.expired == 1
