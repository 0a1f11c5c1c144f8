"""A real server for every test that asks for one, flushed; ledger and journal are held against the laws after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from broker import Broker
from broker.audit import Audit
from broker.embedded import EmbeddedServer
from broker.fsck import differences
from broker.publish import UNTOLD, Publisher
from broker.units import GIB
from broker.values import GpuReport, HostReport, State


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedServer]:
    """One embedded server for the whole run."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedServer) -> Iterator[str]:
    """The server's URL, with nothing in it; whatever pools the test leaves behind must add up and be lawful."""
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        client.flushall()
        yield redis_server.url
        pools = {name.split("{")[1].split("}")[0] for name in client.keys("gpubroker:{*}:ledger")}
        found = {pool: wrongs(Broker(client, pool=pool)) for pool in pools}
        assert not any(found.values()), found


def wrongs(broker: Broker) -> list[str]:
    """What does not add up in a pool, and the laws that its journal says were broken."""
    account, after = Audit(), "0"
    while page := broker.events(after, count=5000):
        for event in page:
            account.add(event)
        after = page[-1].stream_id
    return differences(broker) + account.violations


@pytest.fixture
def broker(redis_url: str) -> Iterator[Broker]:
    """A broker on the pool `default`."""
    with Broker.from_url(redis_url) as client:
        yield client


def report(uuid: str, index: int = 0, *, total: int = 6 * GIB, **changes: object) -> GpuReport:
    """A healthy 6 GiB card: with the default reserve of 512 MiB it lends 5.5 GiB."""
    values: dict[str, object] = {
        "uuid": uuid, "index": index, "name": "Test 6GB", "state": State.OPTIMAL, "job_state": State.OPTIMAL,
        "reason": "", "memory_total_bytes": total, "memory_used_bytes": 0, "unmanaged_bytes": 0, "temperature_c": 40,
    }  # fmt: skip
    return GpuReport(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def cards(broker: Broker) -> Callable[..., None]:
    """Publishes cards of a host: ``cards("GPU-a", "GPU-b", host="h1", told=HostReport(…), **fields of a report)``."""

    def publish(
        *uuids: str, host: str = "h1", interval_ms: int = 600_000, told: HostReport = UNTOLD, **changes: object
    ) -> None:
        reports = [report(uuid, index, **changes) for index, uuid in enumerate(uuids)]  # type: ignore[arg-type]
        Publisher(broker, host).publish(reports, interval_ms, host_report=told)

    return publish
