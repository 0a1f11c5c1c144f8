"""A call is delivered twice, or late, when its caller has gone on: it changes nothing, and takes nothing for nobody."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker import Broker, LeaseLost, LeaseNotFound, State, calls
from broker.publish import HostTaken, Publisher
from broker.units import GIB
from tests.conftest import report

Cards = Callable[..., None]


def test_a_late_resize_changes_nothing(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("2GiB", lease_id="job")
    early, late = calls.new_nonce(), calls.new_nonce()
    assert broker.call("resize", "job", lease.token, GIB, 0, early) == ["resized", str(GIB)]
    assert broker.call("resize", "job", lease.token, 5 * GIB, 0, late) == ["resized", str(5 * GIB)]
    assert broker.call("resize", "job", lease.token, GIB, 0, early) == ["resized", str(5 * GIB)]
    assert broker.call("resize", "job", lease.token, 5 * GIB, 0, late) == ["resized", str(5 * GIB)]  # a retry


def test_a_late_resize_that_was_refused_does_not_grow_it(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    other, lease = broker.acquire("4GiB"), broker.acquire("1GiB", lease_id="job")
    nonce = calls.new_nonce()
    assert broker.call("resize", "job", lease.token, 3 * GIB, 0, nonce)[0] == "refused"
    other.release()
    assert broker.call("resize", "job", lease.token, 3 * GIB, 0, nonce)[0] == "refused"
    assert broker.resize("job", lease.token, "3GiB") == 3 * GIB


def test_a_growth_that_was_taken_back_does_not_happen_later(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    other, lease = broker.acquire("4GiB"), broker.acquire("1GiB", lease_id="job")
    nonce = calls.new_nonce()
    assert broker.call("resize", "job", lease.token, 3 * GIB, 1, nonce)[0] == "waiting"
    assert broker.call("cancel", "job+", nonce) == "cancelled"
    other.release()
    assert broker.call("resize", "job", lease.token, 3 * GIB, 1, nonce)[0] == "refused"
    record = broker.get("job")
    assert record is not None
    assert record.memory_bytes == GIB


def test_a_late_renewal_does_not_set_the_ttl_back(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", lease_id="job", ttl=30)
    nonces = [calls.new_nonce() for _ in range(2)]
    for ttl_ms, nonce in ((1000, nonces[0]), (60_000, nonces[1]), (1000, nonces[0])):
        broker.call("renew", "job", lease.token, ttl_ms, nonce)
    record = broker.get("job")
    assert record is not None
    assert record.ttl_ms == 60_000
    assert record.expires_at - broker.reap() > 50_000


@pytest.mark.parametrize("between", ["released", "refused", "taken back"])
def test_an_earlier_request_of_the_client_takes_nothing_later(broker: Broker, cards: Cards, between: str) -> None:
    cards("GPU-a")
    early = calls.ask("2GiB", lease_id="job")
    if between == "released":
        for request in (early, calls.ask("2GiB", lease_id="job")):
            token = int(broker.call("acquire", *request.asking(False))[1])
            broker.release("job", token)
        with pytest.raises(LeaseLost):
            broker.call("acquire", *early.asking(False))
    elif between == "refused":
        holder = broker.acquire("5GiB")
        assert broker.call("acquire", *early.asking(False))[0] == "refused"
        holder.release()
        assert broker.call("acquire", *early.asking(False))[0] == "refused"
    else:  # and overtaken
        assert broker.call("cancel", "job", early.nonce) == "unknown"
        assert broker.call("acquire", *early.asking(True))[0] == "refused"
    assert broker.leases() == []
    assert broker.acquire("2GiB", lease_id="job")


def test_a_refusal_does_not_hide_how_the_lease_before_it_ended(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("2GiB", lease_id="job")
    lease.release()
    holder = broker.acquire("5GiB")
    assert broker.call("acquire", *calls.ask("2GiB", lease_id="job").asking(False))[0] == "refused"
    assert broker.release("job", lease.token)  # its reply was lost: asked again, it is answered as before
    holder.release()
    with pytest.raises(LeaseNotFound):
        broker.release("never", 7)


def test_a_forked_child_counts_its_calls_anew() -> None:
    before = calls.new_nonce().partition("-")[0]
    calls._nonces.restart()  # as os.fork has it done in the child
    assert calls.new_nonce().partition("-")[::2] != (before, "1")
    assert calls.new_nonce().endswith("-2")


def test_a_late_revocation_spares_the_next_lease_of_the_name(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", lease_id="job")
    call = "revoke", "job", 5000, "please", lease.token
    assert broker.call(*call)[0] == "revoked"
    lease.release()
    broker.acquire("1GiB", lease_id="job")
    assert broker.call(*call) == ["unknown"]
    record = broker.get("job")
    assert record is not None
    assert not record.revoke_at


def test_the_first_sample_of_a_dead_agent_is_no_news(broker: Broker) -> None:
    old, new, copy = (Publisher(broker, "h1") for _ in range(3))
    old.publish([report("GPU-a")], 60_000)
    new.publish([report("GPU-a", state=State.CRITICAL)], 60_000)
    copy._life = old._life
    with pytest.raises(HostTaken):
        copy.publish([report("GPU-a")], 60_000)
    assert broker.gpus()[0].state is State.CRITICAL
    new.publish([report("GPU-a")], 60_000)
    assert broker.gpus()[0].state is State.OPTIMAL
