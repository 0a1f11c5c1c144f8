"""The account finds each broken law in a journal, and nothing in a lawful one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker import Broker
from broker.audit import audit
from broker.models import Event
from tests.ledger.test_lease_life import until

Cards = Callable[..., None]


def event(seq: int, kind: str, at: int | None = None, **fields: object) -> Event:
    return Event(
        stream_id=f"{seq}-0", seq=seq, kind=kind, at=seq if at is None else at,
        fields={name: str(value) for name, value in fields.items()},
    )  # fmt: skip


def grant(seq: int, name: str, token: int, leased: int, **changes: object) -> Event:
    fields: dict[str, object] = {
        "id": name, "token": token, "gpu_uuids": "GPU-a", "memory_bytes": 4, "leased_bytes": leased,
        "budget_bytes": 10, "waited_ms": 0,
    }  # fmt: skip
    return event(seq, "granted", **(fields | changes))


OPENED = event(1, "state", gpu="GPU-a", to="OPTIMAL")
RELEASE = {"token": 1, "gpu_uuids": "GPU-a", "memory_bytes": 4}


def test_a_lawful_journal_has_no_violation_and_the_right_peak() -> None:
    account = audit([
        OPENED, grant(2, "a", 1, 4), grant(3, "b", 2, 8), event(4, "released", id="a", **RELEASE), grant(5, "c", 3, 8),
        event(6, "expired", id="c", token=3), event(7, "reclaimed", id="c", token=3),
    ])  # fmt: skip
    assert account.violations == []
    assert (account.cards["GPU-a"].peak_bytes, account.grants, account.live) == (8, 3, ["b"])


@pytest.mark.parametrize(("law", "events"), [
    (1, [OPENED, grant(2, "a", 1, 4), grant(3, "b", 2, 8), grant(4, "c", 3, 12)]),
    (1, [OPENED, grant(2, "a", 1, 9)]),
    (2, [OPENED, grant(3, "a", 1, 4)]),
    (3, [OPENED, event(2, "expired", id="x", token=1)]),
    (4, [OPENED, grant(2, "a", 1, 4), grant(3, "a", 2, 8)]),
    (5, [OPENED, grant(2, "a", 2, 4), grant(3, "b", 2, 8)]),
    (5, [OPENED, grant(2, "a", 2, 4), event(3, "released", id="a", **RELEASE)]),
    (5, [OPENED, event(2, "released", id="a", **RELEASE)]),
    (6, [OPENED, grant(2, "a", 1, 4), event(3, "config", at=1)]),
    (8, [grant(1, "a", 1, 4)]),
    (8, [OPENED, event(2, "drained", gpu="GPU-a"), grant(3, "a", 1, 4)]),
    (8, [OPENED, event(2, "state", gpu="GPU-a", to="CRITICAL"), grant(3, "a", 1, 4)]),
])  # fmt: skip
def test_each_broken_law_is_named(law: int, events: list[Event]) -> None:
    assert any(violation.startswith(f"law {law},") for violation in audit(events).violations)


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
