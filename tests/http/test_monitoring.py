"""The switch that stops agents from reading hardware: with real agents."""

from __future__ import annotations

import json
from collections.abc import Sequence

import httpx
import pytest

from agent.sampler import UNWATCHED, Sampler
from agent.sources import Held, Reading
from agent.sources.simulated import SimulatedSource, parse_spec
from broker import Broker, InsufficientMemory, State
from broker.errors import PoolUnavailable
from broker.publish import Publisher
from tests.conftest import report


class Counted(SimulatedSource):
    """Simulated cards that count how often they are read."""

    reads = 0

    def read(self, held: Held) -> list[Reading]:
        self.reads += 1
        return super().read(held)


@pytest.fixture
def source() -> Counted:
    return Counted("h1", parse_spec("2x6GiB"))


def _states(broker: Broker) -> Sequence[State]:
    return [gpu.state for gpu in broker.gpus()]


def test_stopped_agents_live_read_nothing_and_lend_nothing(http: httpx.Client, broker: Broker, source: Counted) -> None:
    sampler = Sampler(broker, "h1", source)
    sampler.sample()
    held = broker.acquire("1GiB")
    assert http.post("/api/gpu/monitoring/stop").json() == {"done": True}
    sampler.sample()
    read = source.reads
    for _ in range(3):
        sampler.sample()
    assert source.reads == read
    assert [(gpu.state, gpu.job_speed, gpu.reason, gpu.lends) for gpu in broker.gpus()] == [
        (State.UNAVAILABLE, 0.0, UNWATCHED, False)
    ] * 2
    (host,) = broker.hosts()
    assert (host["state"], host["reason"]) == ("UNAVAILABLE", UNWATCHED)
    assert int(host["fresh_until"]) > int(host["sampled_at"])  # it lives, and says so
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB")
    assert held.renew() > 0  # what is held stays
    http.post("/api/gpu/monitoring/start").raise_for_status()
    sampler.sample()
    assert all(gpu.lends for gpu in broker.gpus())
    assert broker.acquire("1GiB").memory_bytes == 1 << 30
    assert broker.redis.hget(broker.keys.config, "monitoring") is None


def test_what_was_read_while_it_was_stopped_is_not_told(broker: Broker, source: Counted) -> None:
    class Stopping(Counted):
        def read(self, held: Held) -> list[Reading]:
            broker.update_config(monitoring=0)
            return super().read(held)

    sampler = Sampler(broker, "h1", Stopping("h1", parse_spec("2x6GiB")))
    sampler.sample()
    assert _states(broker) == []


def test_an_agent_that_starts_stopped_reads_nothing_and_its_cards_say_why(broker: Broker, source: Counted) -> None:
    Sampler(broker, "h1", SimulatedSource("h1", parse_spec("2x6GiB"))).sample()
    assert State.UNAVAILABLE not in _states(broker)
    broker.update_config(monitoring=0)
    Sampler(broker, "h1", source).sample()
    assert source.reads == 0
    assert [gpu.reason for gpu in broker.gpus()] == [UNWATCHED] * 2


def test_a_drain_for_health_survives_the_stop(broker: Broker, source: Counted) -> None:
    Publisher(broker, "h1").publish([report("GPU-a", marks=("health",)), report("GPU-b", 1)], 600_000)
    broker.update_config(monitoring=0)
    Sampler(broker, "h1", source).sample()
    assert [(gpu.uuid, gpu.drained_by) for gpu in broker.gpus()] == [("GPU-a", "health"), ("GPU-b", "")]


def test_an_agent_that_cannot_ask_reads_nothing(
    broker: Broker, source: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Publisher, "view", lambda *_: (_ for _ in ()).throw(PoolUnavailable("away")))
    with pytest.raises(PoolUnavailable, match="whether h1 is to be watched"):
        Sampler(broker, "h1", source).sample()
    assert source.reads == 0


def test_one_card_alone_may_be_stopped(broker: Broker, source: Counted) -> None:
    sampler = Sampler(broker, "h1", source)
    sampler.sample()
    first = broker.gpus()[0]
    broker.update_config(gpu=first.uuid, monitoring=0)
    sampler.sample()
    assert [gpu.lends for gpu in broker.gpus()] == [False, True]


def test_a_switch_is_nothing_but_0_or_1(http: httpx.Client) -> None:
    for wrong in (2, -1, "0", True, 0.5):
        answer = http.put("/api/gpu/config", content=json.dumps({"monitoring": wrong}),
                          headers={"Content-Type": "application/json"})  # fmt: skip
        assert answer.status_code == 422, wrong
