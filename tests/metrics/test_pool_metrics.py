"""What a pool is like now, as Prometheus reads it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from broker import AsyncBroker, Broker
from broker.embedded import EmbeddedServer
from broker.metrics import AsyncExporter, Exporter, content_type, exporter, exposition, look
from broker.metrics.labels import OTHERS, Bounded, value
from broker.units import GIB, MIB
from broker.values import HostReport, LeaseVerdict, State
from tests.conftest import report
from tests.metrics.conftest import OPENMETRICS, Told, told
from tests.rq import jobs
from tests.rq.conftest import Stage

Scrape = Callable[[], Told]
Cards = Callable[..., None]


def test_a_card_has_the_labels_of_dcgm_exporter(scrape: Scrape, cards: Cards) -> None:
    cards("GPU-a")
    ((labels, _),) = scrape().all("gpubroker_gpu_memory_total_bytes")
    assert labels == {"pool": "default", "gpu": "0", "UUID": "GPU-a", "modelName": "Test 6GB", "Hostname": "h1"}


def test_a_cards_values_are_in_base_units(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards(
        "GPU-a", memory_used_bytes=3 * GIB, unmanaged_bytes=GIB, memory_reserved_bytes=256 * MIB, temperature_c=61,
        power_mw=71_500, utilization_percent=42,
    )  # fmt: skip
    broker.acquire("2GiB")
    seen = scrape()
    expected = {
        "memory_total_bytes": 6 * GIB, "memory_used_bytes": 3 * GIB, "memory_unmanaged_bytes": GIB,
        "memory_reserved_bytes": 256 * MIB, "memory_budget_bytes": 6 * GIB - 512 * MIB - GIB,
        "memory_leased_bytes": 2 * GIB, "memory_free_bytes": 3 * GIB - 512 * MIB, "memory_short_bytes": 0,
        "memory_capacity_bytes": 6 * GIB - 512 * MIB, "temperature_celsius": 61, "power_watts": 71.5,
        "utilization_ratio": 0.42, "speed_ratio": 1, "job_speed_ratio": 1, "lends": 1, "drained": 0,
        "kept_for_waiter": 0,
    }  # fmt: skip
    assert {name: seen.one(f"gpubroker_gpu_{name}") for name in expected} == expected
    assert 0 <= seen.one("gpubroker_gpu_sample_age_seconds") < 60


def test_what_a_card_does_not_tell_is_absent_and_never_0(scrape: Scrape, cards: Cards) -> None:
    cards("GPU-a", temperature_c=None, memory_used_bytes=None)
    cards("GPU-b", host="h2")
    seen = scrape()
    assert [labels["UUID"] for labels, _ in seen.all("gpubroker_gpu_temperature_celsius")] == ["GPU-b"]
    assert [labels["UUID"] for labels, _ in seen.all("gpubroker_gpu_memory_used_bytes")] == ["GPU-b"]
    assert seen.all("gpubroker_gpu_power_watts") == []


def test_what_was_read_too_long_ago_is_absent_and_the_card_unavailable(scrape: Scrape, cards: Cards) -> None:
    cards("GPU-b", host="h2")
    cards("GPU-a", interval_ms=1)  # no script runs after it: nobody but the reader finds it old
    while (seen := scrape()).one("gpubroker_gpu_lends", UUID="GPU-a"):
        pass
    assert seen.all("gpubroker_gpu_temperature_celsius", UUID="GPU-a") == []
    assert seen.one("gpubroker_gpu_state", UUID="GPU-a", gpubroker_gpu_state="UNAVAILABLE") == 1
    assert seen.one("gpubroker_gpu_memory_total_bytes", UUID="GPU-a") == 6 * GIB
    assert (seen.one("gpubroker_host_agent_up", Hostname="h1"), seen.one("gpubroker_host_agent_up", Hostname="h2")) == (
        0, 1,
    )  # fmt: skip


def test_a_state_is_a_set_of_which_one_holds(scrape: Scrape, cards: Cards) -> None:
    cards("GPU-a", state=State.THROTTLED)
    states = {labels["gpubroker_gpu_state"]: on for labels, on in scrape().all("gpubroker_gpu_state")}
    assert states == {"OPTIMAL": 0, "NORMAL": 0, "THROTTLED": 1, "CRITICAL": 0, "UNAVAILABLE": 0}


def test_a_drained_card_says_who_drained_it(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.drain("GPU-a")
    broker.drain(host="h1")
    seen = scrape()
    assert seen.one("gpubroker_gpu_drained", UUID="GPU-a") == 1
    marks = {(labels["UUID"], labels["by"]) for labels, _ in seen.all("gpubroker_gpu_drain_mark")}
    assert marks == {("GPU-a", "gpu"), ("GPU-a", "host"), ("GPU-b", "host")}
    assert seen.one("gpubroker_host_drained") == 1


def test_a_host_tells_memory_and_processors(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    vitals = {"cpu_percent": 25, "load_milli": 1500, "memory_used_bytes": 7, "disk_free_bytes": 9}
    cards("GPU-a", told=HostReport(16 * GIB, 8000, vitals=vitals))
    broker.acquire("1GiB", host_memory="2GiB", cpus=1.5)
    seen = scrape()
    expected = {
        "lendable_memory_bytes": 16 * GIB, "leased_memory_bytes": 2 * GIB, "lendable_cpus": 8, "leased_cpus": 1.5,
        "load1": 1.5, "cpu_utilization_ratio": 0.25, "memory_used_bytes": 7, "disk_free_bytes": 9, "agent_up": 1,
        "gpus_readable": 1, "drained": 0,
    }  # fmt: skip
    assert {name: seen.one(f"gpubroker_host_{name}") for name in expected} == expected
    assert seen.all("gpubroker_host_swap_used_bytes") == []


def test_leases_are_counted_by_state_and_tenant(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.acquire("1GiB", tenant="red")
    broker.acquire("2x1GiB", tenant="red")
    broker.acquire("1GiB", tenant="blue")
    seen = scrape()
    assert seen.one("gpubroker_leases", tenant="red", state="active") == 2
    assert seen.one("gpubroker_leases_memory_bytes", tenant="red", state="active") == 3 * GIB
    assert seen.one("gpubroker_leases", tenant="blue", state="active") == 1
    assert seen.one("gpubroker_leases_unread") == 0


def test_a_lease_that_is_asked_to_end_or_takes_too_much_is_counted(
    scrape: Scrape, broker: Broker, cards: Cards
) -> None:
    from broker.publish import Publisher

    cards("GPU-a")
    lease = broker.acquire("1GiB", pid=os.getpid())
    broker.revoke(lease.id, grace=600)
    over = LeaseVerdict(lease.id, lease.token, "alive", 2 * GIB, GIB, 301)
    Publisher(broker, "h1").publish([report("GPU-a")], 600_000, verdicts=[over])
    seen = scrape()
    assert [seen.one(f"gpubroker_leases_{name}") for name in ("revoked", "overusing", "idle")] == [1, 1, 1]


def test_a_long_job_has_series_of_its_own_and_a_short_one_none(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    for name in ("long.1", "long.2", "short.1"):
        broker.acquire("1GiB", lease_id=name, job_id=name.partition(".")[0], function="m.f", tenant="red")
    for name in ("long.1", "long.2"):  # a minute and more ago
        began = int(broker.redis.hget(broker.keys.lease(name), "created_at") or 0) - 90_000
        broker.redis.hset(broker.keys.lease(name), "created_at", began)
    seen = scrape()
    ((labels, leased),) = seen.all("gpubroker_job_leased_memory_bytes")
    assert leased == 2 * GIB  # both of its leases in one sample
    assert labels == {
        "pool": "default", "job_id": "long", "tenant": "red", "function": "m.f", "Hostname": "h1", "UUID": "GPU-a",
    }  # fmt: skip
    assert seen.one("gpubroker_job_lease_age_seconds") >= 90
    assert seen.all("gpubroker_job_used_memory_bytes") == []


def test_jobs_beyond_a_bound_have_no_series(
    scrape: Scrape, broker: Broker, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    from broker.metrics import pool

    monkeypatch.setattr(pool, "JOBS_MOST", 2)
    monkeypatch.setattr(pool, "JOB_SECONDS", 0)
    cards("GPU-a")
    for number in range(4):
        broker.acquire("1GiB", job_id=f"job{number}")
    assert len(scrape().all("gpubroker_job_leased_memory_bytes")) == 2


def test_waiters_are_counted_by_tenant_and_priority(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("5GiB")
    for number, (tenant, priority) in enumerate([("red", 0), ("red", 0), ("blue", 5)]):
        broker.call("acquire", f"w{number}", str(4 * GIB), 30_000, "", "", priority, tenant, "me", "", "", "", 1)
    seen = scrape()
    assert seen.one("gpubroker_waiters", tenant="red", priority="0") == 2
    assert seen.one("gpubroker_waiters", tenant="blue", priority="5") == 1
    assert seen.one("gpubroker_waiters_memory_bytes", tenant="red") == 8 * GIB
    assert seen.one("gpubroker_waiters_longest_seconds", tenant="red") < 60
    assert seen.one("gpubroker_waiters_unread") == 0


def test_more_waiters_than_one_scrape_reads_are_told_as_a_number(
    scrape: Scrape, broker: Broker, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "WAITERS_MOST", 2)
    monkeypatch.setattr(look, "LEASES_MOST", 1)
    cards("GPU-a")
    broker.acquire("3GiB")
    broker.acquire("2GiB")
    for number in range(5):
        broker.call("acquire", f"w{number}", str(4 * GIB), 30_000, "", "", 0, "red", "me", "", "", "", 1)
    seen = scrape()
    assert (seen.one("gpubroker_waiters"), seen.one("gpubroker_waiters_unread")) == (2, 3)
    assert (seen.one("gpubroker_leases"), seen.one("gpubroker_leases_unread")) == (1, 1)


def test_jobs_are_counted_by_queue_in_rqs_words(scrape: Scrape, stage: Stage) -> None:
    held = stage.broker.acquire("4GiB")
    stage.worker()
    job = jobs.linger.delay()
    stage.parked(job)
    seen = scrape()
    assert seen.all("gpubroker_queue_jobs") == [
        ({"pool": "default", "queue": "photos", "status": "scheduled"}, 1)
    ]  # fmt: skip
    held.release()
    stage.hear()
    assert scrape().one("gpubroker_queue_jobs", queue="photos", status="started") == 1
    stage.go()
    assert stage.outcome(job) == "done"
    stage.event("released", 2)  # and nobody holds anything that could be registered again in the next test


def test_a_tenant_tells_its_quota_where_it_has_one(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.set_tenant("red", quota="4GiB", weight=2)
    broker.acquire("1GiB", tenant="red")
    broker.acquire("1GiB", tenant="blue")
    seen = scrape()
    assert seen.one("gpubroker_tenant_quota_memory_bytes") == 4 * GIB
    assert seen.one("gpubroker_tenant_weight", tenant="red") == 2
    assert seen.one("gpubroker_tenant_leased_memory_bytes", tenant="blue") == GIB


def test_the_ledgers_own_sums_of_a_function_are_counters(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    for _ in range(3):
        broker.acquire("1GiB", tenant="red", function="m.f").release()
    assert scrape().one("gpubroker_function_leases_total", tenant="red", function="m.f") == 3


def test_ledger_and_server_say_how_they_are(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    assert scrape().all("gpubroker_ledger_epoch") == []  # nobody has published or borrowed yet
    cards("GPU-a")
    seen = scrape()
    assert seen.one("gpubroker_ledger_epoch") == broker.epoch()
    assert [seen.one(f"gpubroker_ledger_{name}") for name in ("up", "settling", "settling_seconds")] == [1, 0, 0]
    assert seen.one("gpubroker_ledger_clock_offset_seconds") == 0
    assert seen.one("gpubroker_server_memory_used_bytes") > 0
    assert seen.one("gpubroker_server_evicts") == 0
    assert seen.one("gpubroker_server_append_only") in (0, 1)
    assert seen.all("gpubroker_server_memory_limit_bytes") == []
    assert seen.one("gpubroker_server_info", kind="valkey") == 1


def test_what_does_not_follow_from_the_leases_is_counted(broker: Broker, cards: Cards, no_rest: None) -> None:
    cards("GPU-a")
    broker.acquire("1GiB")
    exporter_ = Exporter(broker)
    assert told(exporter_.render()).one("gpubroker_fsck_differences") == 0
    broker.redis.zadd(broker.keys.leases, {"ghost": 1 << 52})
    seen = told(exporter_.render())
    assert seen.one("gpubroker_fsck_differences") == 0  # not at every scrape
    assert seen.one("gpubroker_fsck_age_seconds") >= 0
    assert told(Exporter(broker).render()).one("gpubroker_fsck_differences") == 1
    broker.redis.zrem(broker.keys.leases, "ghost")


def test_a_ledger_that_is_away_is_told_and_the_counters_stay(no_rest: None) -> None:
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        exporter_ = Exporter(broker, after="0")
        broker.call("reap")
        assert told(exporter_.render()).one("gpubroker_ledger_up") == 1
    seen = told(exporter_.render())
    assert seen.one("gpubroker_ledger_up") == 0
    assert seen.one("gpubroker_journal_events_total", kind="epoch") == 1
    assert seen.all("gpubroker_ledger_epoch") == []


def test_a_ledger_that_holds_nonsense_is_told_and_logged(
    scrape: Scrape, broker: Broker, cards: Cards, caplog: pytest.LogCaptureFixture
) -> None:
    cards("GPU-a")
    broker.redis.sadd(broker.keys.tenants, "red")
    broker.redis.hset(broker.keys.tenant("red"), "quota_bytes", "much")
    assert scrape().one("gpubroker_ledger_up") == 0
    assert "event=ledger_unreadable" in caplog.text
    broker.redis.flushall()


def test_a_user_who_may_not_ask_the_server_gets_all_else(redis_url: str, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.redis.acl_setuser("shy", enabled=True, nopass=True, commands=["+@all", "-info"], keys=["*"])
    try:
        with Broker.from_url(redis_url.replace("redis://", "redis://shy:x@")) as shy:
            seen = told(Exporter(shy, fsck_seconds=0).render())
    finally:
        broker.redis.acl_deluser("shy")
    assert seen.one("gpubroker_gpu_lends") == 1
    assert not any(name.startswith("gpubroker_server") for name in seen.names)


def test_an_event_loop_gets_the_same(redis_url: str, scrape: Scrape, broker: Broker, cards: Cards) -> None:
    async def render() -> bytes:
        async with AsyncBroker.from_url(redis_url) as there:
            return await AsyncExporter(there, after="0", fsck_seconds=0).render()

    cards("GPU-a", "GPU-b")
    broker.acquire("1GiB")
    body = asyncio.run(render())
    seen, same = told(body), scrape()
    assert seen.names == same.names
    assert seen.one("gpubroker_lease_grants_total") == same.one("gpubroker_lease_grants_total") == 1


def test_openmetrics_is_given_where_it_is_asked_for(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    exporter_ = Exporter(broker, fsck_seconds=0)
    body = exporter_.render(OPENMETRICS)
    assert body.endswith(b"# EOF\n")
    assert body.count(b"# EOF") == 1
    assert told(body, openmetrics=True).one("gpubroker_gpu_temperature_celsius") == 40
    assert content_type(OPENMETRICS).startswith("application/openmetrics-text")
    assert content_type().startswith("text/plain")
    assert b"# EOF" not in exporter_.render()


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_a_text_that_is_written_in_parts_is_the_same(
    broker: Broker, cards: Cards, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    cards("GPU-a", "GPU-b", "GPU-c")
    exporter_ = Exporter(broker, fsck_seconds=0)
    whole = exporter_.render(accept)
    exporter_._pool._texts.clear()
    monkeypatch.setattr(exposition, "_AT_A_TIME", 2)
    assert exporter_.render(accept) == whole


def test_scrapes_that_come_together_share_one_look(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    exporter_ = Exporter(broker, fsck_seconds=0)
    first = exporter_.render()
    broker.acquire("1GiB")
    assert exporter_.render() is first


HOSTILE = '"><img src=x onerror=alert(1)>\\\n# HELP x\r\x00{a="b"} \u2028é' + "x" * 500


def test_hostile_names_leave_a_scrape_that_can_be_read(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", name=HOSTILE)
    broker.acquire("1GiB")
    broker.redis.hset(broker.keys.lease(broker.leases()[0].id), mapping={"tenant": HOSTILE, "state": HOSTILE})
    seen = scrape()
    ((labels, _),) = seen.all("gpubroker_gpu_lends")
    assert labels["modelName"] == value(HOSTILE)
    assert len(labels["modelName"]) == 200
    assert labels["modelName"].startswith('"><img src=x onerror=alert(1)>\\\ufffd# HELP x\ufffd\ufffd{a="b"} \ufffdé')
    assert seen.one("gpubroker_leases", tenant=value(HOSTILE)) == 1
    broker.redis.hset(broker.keys.lease(broker.leases()[0].id), mapping={"tenant": "default", "state": "active"})


def test_names_beyond_a_bound_share_one_series() -> None:
    bounded = Bounded(2)
    assert [bounded(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", OTHERS, "a", OTHERS]


def test_every_family_has_words_and_a_base_unit(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB").release()
    for name, family in scrape().families.items():
        assert family.documentation, name
        assert name.startswith("gpubroker_"), name
        assert not name.endswith("_created"), name  # a gauge, to who reads text
        assert not name.endswith(("_ms", "_mb", "_percent", "_mw", "_c")), name
    assert exporter.FSCK_SECONDS > exposition.FRESH_SECONDS
