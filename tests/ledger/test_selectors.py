"""Cards by class, and what a host lends beside its cards."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker import Broker, ImpossibleRequest, InsufficientMemory, InvalidRequest
from broker.publish import Publisher
from broker.units import GIB
from broker.values import HostReport
from tests.conftest import report
from tests.ledger.test_waiting import ask, granted

Cards = Callable[..., None]


def host(broker: Broker, name: str, *uuids: str, labels: str = "", memory: int | None = None, cpus: int | None = None,
         **changes: object) -> None:  # fmt: skip
    """Publishes a host's cards with what it tells of itself."""
    reports = [report(uuid, i, **changes) for i, uuid in enumerate(uuids)]  # type: ignore[arg-type]
    Publisher(broker, name).publish(reports, 600_000, host_report=HostReport(memory, cpus, labels))


def test_labels_limit_where(broker: Broker) -> None:
    host(broker, "h1", "GPU-a", labels="rack=a,zone=x")
    host(broker, "h2", "GPU-b", labels="rack=b,zone=x")
    assert broker.acquire("1GiB", labels={"rack": "b"}).gpu_uuids == ("GPU-b",)
    assert broker.acquire("1GiB", labels={"rack": "a", "zone": "x"}).gpu_uuids == ("GPU-a",)
    with pytest.raises(InsufficientMemory, match="no GPU of labels rack=a,zone=y"):
        broker.acquire("1GiB", labels={"rack": "a", "zone": "y"})
    assert broker.acquire("1GiB", labels={"zone": "x"}, gpus=1).gpus == 1


def test_a_capability_is_the_least_that_will_do(broker: Broker) -> None:
    host(broker, "h1", "GPU-old", capability="7.5")
    host(broker, "h2", "GPU-new", capability="12.0")
    host(broker, "h3", "GPU-unknown")
    assert broker.acquire("1GiB", capability="8.6").gpu_uuids == ("GPU-new",)  # 12 is above 8
    assert {broker.acquire("4GiB", capability="7.0").gpu_uuids[0] for _ in range(2)} == {"GPU-old", "GPU-new"}
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", capability="12.1")


def test_mig_instances_can_be_meant_or_left_out(broker: Broker) -> None:
    host(broker, "h1", "GPU-whole")
    host(broker, "h2", "MIG-slice", mig="1g.5gb")
    assert broker.acquire("1GiB", mig="none").gpu_uuids == ("GPU-whole",)
    assert broker.acquire("1GiB", mig="only").gpu_uuids == ("MIG-slice",)
    assert broker.acquire("1GiB", mig="1g.5gb").gpu_uuids == ("MIG-slice",)
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", mig="2g.10gb")


def test_any_kind_is_the_same_as_nothing_said(broker: Broker) -> None:
    host(broker, "h1", "GPU-whole")
    lease = broker.acquire("1GiB", lease_id="one", mig="any")
    assert broker.acquire("1GiB", lease_id="one").token == lease.token


def test_a_rare_class_is_found_among_a_thousand_cards(broker: Broker) -> None:
    for i in range(16):
        host(broker, f"many{i}", *(f"GPU-{i}-{j}" for j in range(64)), labels="kind=common")
    host(broker, "rare", "GPU-rare", labels="kind=rare", total=80 * GIB)
    assert broker.acquire("1GiB", labels={"kind": "rare"}).gpu_uuids == ("GPU-rare",)
    assert broker.acquire("2GiB", gpus=2, host="many3").host == "many3"


def test_a_waiter_for_a_class_is_served_by_a_card_of_it(broker: Broker) -> None:
    host(broker, "h1", "GPU-a", labels="rack=a")
    host(broker, "h2", "GPU-b", labels="rack=b")
    a, b = broker.acquire("5GiB", gpu="GPU-a"), broker.acquire("5GiB", gpu="GPU-b")
    assert ask(broker, "w", "5GiB", labels={"rack": "b"}) == "waiting"
    a.release()
    assert granted(broker) == {b.id}
    b.release()
    assert granted(broker) == {"w"}


def test_a_card_that_changes_its_class_is_found_under_the_new_one(broker: Broker) -> None:
    host(broker, "h1", "GPU-a", labels="rack=a")
    host(broker, "h1", "GPU-a", labels="rack=b")
    assert broker.acquire("1GiB", labels={"rack": "b"}).gpu_uuids == ("GPU-a",)
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", labels={"rack": "a"})


def test_a_hosts_memory_and_processors_are_lent_beside_its_cards(broker: Broker) -> None:
    host(broker, "h1", "GPU-a", memory=16 * GIB, cpus=4000)
    first = broker.acquire("1GiB", host_memory="10GiB", cpus=1.5)
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", host_memory="8GiB")
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", cpus=3)
    second = broker.acquire("1GiB", host_memory="6GiB", cpus=2.5)  # exactly the rest
    assert ask(broker, "w", "1GiB", host_memory="1GiB", cpus=1) == "waiting"
    first.release()
    assert "w" in granted(broker)
    second.release()
    broker.acquire("1GiB")  # who asks for neither is not held back
    with pytest.raises(ImpossibleRequest, match="host"):
        broker.acquire("1GiB", host="h1", cpus=5)


def test_a_host_that_tells_nothing_of_itself_lends_nothing_of_it(broker: Broker) -> None:
    host(broker, "h1", "GPU-a")
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", cpus=0.1)


def test_a_host_that_leaves_and_returns_remembers_what_it_has_lent(broker: Broker) -> None:
    host(broker, "h1", "GPU-a", memory=8 * GIB, cpus=4000)
    lease = broker.acquire("1GiB", host_memory="6GiB")
    Publisher(broker, "h1").leave()
    host(broker, "h1", "GPU-a", memory=8 * GIB, cpus=4000)
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", host_memory="4GiB")
    lease.release()
    assert broker.acquire("1GiB", host_memory="8GiB").gpus == 1


@pytest.mark.parametrize("wrong", [
    {"labels": {"a b": "c"}}, {"labels": {"a": "b,c"}}, {"labels": {"a": ""}}, {"capability": "8"}, {"mig": ""},
])  # fmt: skip
def test_bad_selectors_are_refused(broker: Broker, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        broker.acquire("1GiB", **wrong)  # type: ignore[arg-type]


def test_a_drained_host_stays_drained_when_its_agent_leaves_and_returns(broker: Broker) -> None:
    host(broker, "h1", "GPU-a", "GPU-b")
    broker.drain("GPU-b")
    broker.drain(host="h1")
    Publisher(broker, "h1").leave()
    host(broker, "h1", "GPU-a", "GPU-b")
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB")
    broker.undrain(host="h1")
    assert broker.acquire("1GiB").gpu_uuids == ("GPU-a",)  # the card's own mark outlives its host's


def test_the_mark_of_a_host_that_left_can_be_taken_off(broker: Broker) -> None:
    host(broker, "h1", "GPU-a")
    broker.drain(host="h1")
    Publisher(broker, "h1").leave()
    broker.undrain(host="h1")
    assert broker.gpus() == []
    assert broker.redis.exists(broker.keys.host("h1")) == 0


def test_a_card_that_changes_its_class_serves_who_waited_for_that(broker: Broker) -> None:
    host(broker, "h1", "GPU-a", labels="rack=a")
    assert ask(broker, "w", "1GiB", labels={"rack": "b"}) == "waiting"
    host(broker, "h1", "GPU-a", labels="rack=b")
    assert granted(broker) == {"w"}
