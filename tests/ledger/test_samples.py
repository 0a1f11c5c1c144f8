"""What an agent says beside memory and heat; who may publish for a host; what waits until the ledger can be reached."""

from __future__ import annotations

import pytest

from broker import Broker, InsufficientMemory, InvalidRequest, PoolUnavailable, State
from broker.models import Event
from broker.publish import UNSENT_MOST, HostTaken, Publisher
from broker.units import GIB
from broker.values import HostReport, LeaseVerdict
from tests.conftest import report
from tests.ledger.test_waiting import ask

MINUTE = 60_000


def told(broker: Broker, kind: str) -> list[Event]:
    return [event for event in broker.events() if event.kind == kind]


@pytest.mark.parametrize("mark", ["health", "people"])
def test_an_agent_drains_its_card_and_opens_it_again(broker: Broker, mark: str) -> None:
    agent = Publisher(broker, "h1")
    agent.publish([report("GPU-a", marks=(mark,), reason="XID 79")], MINUTE)
    (gpu,) = broker.gpus()
    assert (gpu.drained, gpu.drained_by, gpu.reason) == (True, mark, "XID 79")
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB")
    agent.publish([report("GPU-a")], MINUTE)
    assert broker.acquire("1GiB").gpu_uuids == ("GPU-a",)
    events = [(event.kind, event.fields["by"]) for event in broker.events() if event.kind.endswith("drained")]
    assert events == [("drained", mark), ("undrained", mark)]
    assert told(broker, "drained")[0].fields["reason"] == "XID 79"


def test_who_waited_is_served_when_the_card_is_well_again(broker: Broker) -> None:
    agent = Publisher(broker, "h1")
    agent.publish([report("GPU-a", marks=("health",))], MINUTE)
    assert ask(broker, "job", "1GiB") == "waiting"
    agent.publish([report("GPU-a")], MINUTE)
    assert broker.get("job") is not None


def test_an_operators_drain_is_never_lifted_by_an_agent_nor_the_other_way_round(broker: Broker) -> None:
    agent = Publisher(broker, "h1")
    agent.publish([report("GPU-a", marks=("people",))], MINUTE)
    broker.drain("GPU-a")
    agent.publish([report("GPU-a")], MINUTE)
    assert broker.gpus()[0].drained_by == "gpu"
    agent.publish([report("GPU-a", marks=("health", "people"))], MINUTE)
    broker.undrain("GPU-a")
    assert (broker.gpus()[0].drained, broker.gpus()[0].drained_by) == (True, "health,people")


def test_the_marks_of_an_agent_go_with_it(broker: Broker) -> None:
    agent = Publisher(broker, "h1")
    agent.publish([report("GPU-a", marks=("health",))], MINUTE)
    agent.leave()
    assert broker.gpus() == []
    assert told(broker, "undrained")[0].fields["reason"] == "its agent left"


def test_what_a_card_offers_no_more_is_not_there(broker: Broker) -> None:
    agent = Publisher(broker, "h1")
    agent.publish([report("GPU-a", hardware={"margin_c": 21, "clock_reasons": "hw_thermal,sw_power_cap"})], MINUTE)
    key = broker.keys.hardware("GPU-a")
    assert broker.redis.hgetall(key) == {"margin_c": "21", "clock_reasons": "hw_thermal,sw_power_cap"}
    agent.publish([report("GPU-a", hardware={"margin_c": 20})], MINUTE)
    assert broker.redis.hgetall(key) == {"margin_c": "20"}
    agent.publish([report("GPU-a")], MINUTE)
    assert not broker.redis.exists(key)


def test_an_odd_sign_in_a_cards_words_costs_nothing_but_itself(broker: Broker) -> None:
    Publisher(broker, "h1").publish([report("GPU-a", hardware={"driver": "580.95 (öpen)", "recovery": ""})], MINUTE)
    assert broker.hardware("GPU-a") == {"recovery": "_", "driver": "580.95___pen_"}


def test_the_drivers_errors_and_a_warning_are_events_once(broker: Broker) -> None:
    agent = Publisher(broker, "h1")
    for xids in ((31, 48), ()):
        agent.publish([report("GPU-a", xids=xids, warning=("temp_throttle", 42.0, 6.25))], MINUTE)
    assert [event.fields["xid"] for event in told(broker, "xid")] == ["31", "48"]
    (warning,) = told(broker, "warning")
    assert (warning.fields["threshold"], warning.fields["seconds"]) == ("temp_throttle", "42")
    assert warning.fields["slope_c_per_minute"] in ("6.2", "6.3")
    agent.publish([report("GPU-a")], MINUTE)
    agent.publish([report("GPU-a", warning=("temp_throttle", 9.0, 6.0))], MINUTE)
    assert len(told(broker, "warning")) == 2


def test_overuse_and_idleness_are_told_when_they_begin(broker: Broker) -> None:
    agent = Publisher(broker, "h1")
    agent.publish([report("GPU-a")], MINUTE)
    lease = broker.acquire("2GiB", pid=7)
    for over, idle in ((0, 0), (GIB, 0), (2 * GIB, 300), (0, 303), (5, 0)):
        seen = LeaseVerdict(lease.id, lease.token, "alive", 2 * GIB + over, over, idle)
        agent.publish([report("GPU-a")], MINUTE, verdicts=(seen,))
    assert [event.fields["over_bytes"] for event in told(broker, "overuse")] == [str(GIB), "5"]
    assert [event.fields["idle_seconds"] for event in told(broker, "idle")] == ["300"]
    record = broker.get(lease.id)
    assert record is not None
    assert (record.over_bytes, record.idle_seconds, record.peak_bytes) == (5, 0, 4 * GIB)


@pytest.mark.parametrize(("changes", "named"), [
    ({"marks": ("ghosts",)}, "marks"), ({"hardware": {"a;b": 1}}, "hardware"), ({"xids": (-1,)}, "xids"),
    ({"warning": ("Temp!", 1.0, 1.0)}, "warning"),
])  # fmt: skip
def test_a_sample_that_makes_no_sense_changes_nothing(broker: Broker, changes: dict[str, object], named: str) -> None:
    agent = Publisher(broker, "h1")
    with pytest.raises(InvalidRequest, match=named):
        agent.publish([report("GPU-a", **changes)], MINUTE)  # type: ignore[arg-type]
    assert broker.gpus() == []
    agent.publish([report("GPU-a")], MINUTE)
    assert agent.unsent == 0


def test_two_machines_cannot_be_one_host_until_one_is_silent(broker: Broker) -> None:
    first, second = Publisher(broker, "h1"), Publisher(broker, "h1")
    one, other = HostReport(machine="m1"), HostReport(machine="m2")
    first.publish([report("GPU-a")], 100, host_report=one)
    with pytest.raises(HostTaken, match="another machine publishes for host 'h1'"):
        second.publish([report("GPU-b")], 100, host_report=other)
    assert [gpu.uuid for gpu in broker.gpus()] == ["GPU-a"]
    first.leave()
    second.publish([report("GPU-b")], 100, host_report=other)
    assert [gpu.uuid for gpu in broker.gpus()] == ["GPU-b"]


def test_on_one_machine_the_newer_agent_takes_over_and_the_older_hears_of_it(broker: Broker) -> None:
    first, second = Publisher(broker, "h1"), Publisher(broker, "h1")
    told_by = HostReport(machine="m1")
    first.publish([report("GPU-a")], MINUTE, host_report=told_by)
    second.publish([report("GPU-a", temperature_c=50)], MINUTE, host_report=told_by)
    with pytest.raises(HostTaken, match="a newer agent"):
        first.publish([report("GPU-a")], MINUTE, host_report=told_by)
    assert broker.gpus()[0].temperature_c == 50


def test_an_agent_that_the_ledger_has_forgotten_begins_anew(broker: Broker) -> None:
    before, agent = Publisher(broker, "h1"), Publisher(broker, "h1")
    before.publish([report("GPU-a")], MINUTE)
    copy = broker.redis.hgetall(broker.keys.host("h1"))
    agent.publish([report("GPU-a")], MINUTE)
    broker.redis.hset(broker.keys.host("h1"), mapping=copy)  # a replica that had not heard of it yet took over
    broker.redis.hdel(broker.keys.host("h1"), "lives")
    agent.publish([report("GPU-a", temperature_c=50)], MINUTE)
    agent.publish([report("GPU-a", temperature_c=51)], MINUTE)
    assert broker.gpus()[0].temperature_c == 51


def test_what_else_a_host_says_is_there_as_long_as_it_says_it(broker: Broker) -> None:
    agent = Publisher(broker, "h1")
    agent.publish([], MINUTE, host_report=HostReport(vitals={"cpu_percent": 12, "disk_free_bytes": GIB}))
    assert broker.hosts()[0]["disk_free_bytes"] == str(GIB)
    agent.publish([], MINUTE, host_report=HostReport(vitals={"cpu_percent": 13}))
    (host,) = broker.hosts()
    assert host["cpu_percent"] == "13"
    assert "disk_free_bytes" not in host
    with pytest.raises(InvalidRequest, match="vitals"):
        agent.publish([], MINUTE, host_report=HostReport(vitals={"mood": 1}))


def test_samples_wait_for_the_ledger_and_are_as_old_as_they_are(broker: Broker) -> None:
    agent = Publisher(broker, "h1")
    agent.publish([report("GPU-a")], 1000)
    now = agent.now()
    assert now is not None
    for temperature in range(41, 41 + UNSENT_MOST + 5):
        with pytest.raises(PoolUnavailable):
            agent.publish([report("GPU-a", temperature_c=temperature)], 1000, read_at=now - 60_000, away=True)
    assert agent.unsent == UNSENT_MOST
    agent.publish([report("GPU-a", temperature_c=70, state=State.NORMAL)], MINUTE, read_at=agent.now())
    assert agent.unsent == 0
    (gpu,) = broker.gpus()
    assert (gpu.temperature_c, gpu.lends) == (70, True)
    assert [sample.temperature_c for sample in broker.history("GPU-a")][1:] == [*range(47, 66), 70]


def test_a_sample_that_waited_opens_no_card(broker: Broker) -> None:
    agent = Publisher(broker, "h1")
    agent.publish([report("GPU-a", state=State.CRITICAL)], 1000)
    now = agent.now()
    assert now is not None
    agent.publish([report("GPU-a")], 1000, read_at=now - 60_000)
    assert not broker.gpus()[0].lends


def test_a_first_sample_that_never_arrived_is_not_sent_later(broker: Broker) -> None:
    agent = Publisher(broker, "h1")
    for _ in range(3):
        with pytest.raises(PoolUnavailable):
            agent.publish([report("GPU-a", temperature_c=99)], MINUTE, away=True)
    agent.publish([report("GPU-a", temperature_c=40)], MINUTE)
    assert [sample.temperature_c for sample in broker.history("GPU-a")] == [40]


def test_the_card_and_its_hardware_are_forgotten_together(broker: Broker) -> None:
    agent = Publisher(broker, "h1")
    agent.publish([report("GPU-a", hardware={"margin_c": 21})], MINUTE)
    agent.leave()
    assert not broker.redis.exists(broker.keys.hardware("GPU-a"))
