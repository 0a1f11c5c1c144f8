"""The loop on a real ledger, with readings that no library gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.sampler import Sampler
from agent.sources import Held, NoGpuError, Reading
from agent.sources.simulated import SimulatedSource, parse_spec
from broker import Broker, PoolUnavailable, State
from broker.publish import Publisher
from tests.conftest import report


def test_a_source_that_breaks_ends_the_agent_aloud(quick: Broker) -> None:
    class Broken:
        name = "broken"

        def read(self, held: object) -> list[Reading]:
            raise RuntimeError("nobody foresaw this")

        def published(self, states: object) -> None: ...

        def close(self) -> None: ...

    with pytest.raises(RuntimeError, match="nobody foresaw this"):
        Sampler(quick, "h1", Broken()).run()


def test_a_reading_that_cannot_be_judged_closes_that_card_only(
    quick: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SimulatedSource("h1", parse_spec("2x6GiB"))
    bad, good = (reading.uuid for reading in source.read(lambda uuids: {}))

    def judged(reading: Reading, *rest: object) -> int:
        if reading.uuid == bad:
            raise ZeroDivisionError
        return 0

    monkeypatch.setattr("agent.judging.unmanaged_bytes", judged)
    Sampler(quick, "h1", source).sample()
    assert {gpu.uuid: gpu.lends for gpu in quick.gpus()} == {bad: False, good: True}
    assert "ZeroDivisionError" in caplog.text


def test_a_card_that_was_away_has_no_past(broker: Broker) -> None:
    class Scripted(SimulatedSource):
        def read(self, held: Held) -> list[Reading]:
            told = next(script)
            if told is None:
                raise NoGpuError("the driver restarts")
            return [replace(reading, temperature_c=told) for reading in super().read(held)]

    script = iter([86, 50, None, 50])
    sampler = Sampler(broker, "h1", Scripted("h1", parse_spec("1x6GiB")))
    seen = []
    for _ in range(4):
        sampler.sample()
        seen.append(broker.gpus()[0].state)
    assert seen == [State.CRITICAL, State.CRITICAL, State.UNAVAILABLE, State.OPTIMAL]


def test_an_agent_whose_first_look_at_the_ledger_fails_still_finds_the_drain_of_before(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SimulatedSource("h1", parse_spec("1x6GiB"))
    (reading,) = source.read(lambda uuids: {})
    before = Publisher(broker, "h1")
    before.publish([report(reading.uuid, marks=("health",), reason="XID 79: it fell off the bus")], 60_000)
    sampler = Sampler(broker, "h1", source)
    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "held", lambda *_: (_ for _ in ()).throw(PoolUnavailable("away")))
        with pytest.raises(PoolUnavailable):
            sampler.sample()
    sampler.sample()
    (gpu,) = broker.gpus()
    assert gpu.drained_by == "health"
    assert "XID 79" in gpu.reason


def test_jobs_on_a_card_with_a_contained_memory_error_are_asked_to_start_again_and_told_why(broker: Broker) -> None:
    class Struck(SimulatedSource):
        def read(self, held: Held) -> list[Reading]:
            return [replace(reading, xids=next(xids)) for reading in super().read(held)]

    xids = iter([(), (94, 31)])
    sampler = Sampler(broker, "h1", Struck("h1", parse_spec("1x6GiB")))
    sampler.sample()
    lease = broker.acquire("1GiB")
    sampler.sample()
    record = broker.get(lease.id)
    assert record is not None
    assert record.revoke_at is not None
    assert record.revoke_reason == "XID 94: memory error that stayed within one application"
    assert broker.gpus()[0].lends
