"""What the pool is like, as programs read it."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from broker import Broker
from broker.units import GIB
from tests.http.conftest import TOKENS, VIEWER, Serve

Cards = Callable[..., None]


def test_status_of_all_is_what_the_command_prints(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-b", "GPU-a", host="h2")
    cards("GPU-c", host="h1")
    told = http.get("/api/gpu/status/all").json()
    assert told["pool"] == "default"
    assert told["gpus"] == [gpu.model_dump(mode="json") for gpu in broker.gpus()]
    assert [gpu["uuid"] for gpu in told["gpus"]] == ["GPU-c", "GPU-b", "GPU-a"]
    assert told["hosts"] == broker.hosts()
    assert abs(told["now"] - told["gpus"][0]["sampled_at"]) < 60_000


def test_one_card_is_read_as_it_is_now(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    assert http.get("/api/gpu/status", params={"gpu": "GPU-a"}).json()["leased_bytes"] == 0
    broker.acquire("1GiB")
    assert http.get("/api/gpu/status", params={"gpu": "GPU-a"}).json()["leased_bytes"] == GIB
    missing = http.get("/api/gpu/status", params={"gpu": "GPU-x"})
    assert (missing.status_code, missing.json()["code"]) == (404, "NotInPool")


def test_the_summary_adds_the_pool_up(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.acquire("1GiB")
    broker.drain("GPU-b")
    told = http.get("/api/gpu/status").json()
    assert (told["gpus"], told["lending"], told["leases"], told["waiters"]) == (2, 1, 1, 0)
    assert (told["leased_bytes"], told["states"], told["worst_state"]) == (GIB, {"OPTIMAL": 2}, "OPTIMAL")


def test_a_pool_without_cards_is_unavailable(http: httpx.Client) -> None:
    assert http.get("/api/gpu/status").json()["worst_state"] == "UNAVAILABLE"
    assert http.get("/api/gpu/throttle/status").json()["speed"] == 0.0
    assert http.get("/api/gpu/throttle/status", params={"gpu": "GPU-x"}).json()["state"] == "UNAVAILABLE"


def test_a_card_whose_agent_is_silent_reads_unavailable(http: httpx.Client, cards: Cards) -> None:
    cards("GPU-a", interval_ms=1)
    (card,) = http.get("/api/gpu/status/all").json()["gpus"]
    assert (card["state"], card["speed"]) == ("UNAVAILABLE", 0.0)
    assert "no sample since" in card["reason"]


def test_what_this_server_changed_is_seen_by_who_asks_next(http: httpx.Client, cards: Cards) -> None:
    cards("GPU-a")
    for wanted in (True, False, True):
        assert http.get("/api/gpu/status/all").json()["gpus"][0]["drained"] is not wanted
        http.post(f"/api/gpus/GPU-a/{'drain' if wanted else 'undrain'}").raise_for_status()
        assert http.get("/api/gpu/status/all").json()["gpus"][0]["drained"] is wanted


def test_available_names_open_cards_alone(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.drain("GPU-b")
    told = http.get("/api/gpu/memory/available").json()
    assert told["available"] == broker.available() == {"GPU-a": told["largest_bytes"]}


def test_samples_and_trend_of_one_card(http: httpx.Client, cards: Cards) -> None:
    for heat in (50, 52, 54, 56):
        cards("GPU-a", "GPU-b", temperature_c=heat)
    history = http.get("/api/gpu/metrics/history", params={"gpu": "GPU-a", "limit": 3}).json()
    assert [sample["temperature_c"] for sample in history["samples"]] == [52, 54, 56]
    trend = http.get("/api/gpu/temperature/trend", params={"gpu": "GPU-a", "minutes": 5}).json()
    assert (trend["temperatures"], trend["direction"]) == ([50, 52, 54, 56], "rising")
    assert http.get("/api/gpu/temperature/trend", params={"gpu": "GPU-x"}).status_code == 404


def test_metrics_tell_hardware_and_processes(http: httpx.Client, cards: Cards) -> None:
    cards("GPU-a", hardware={"fan_percent": 40})
    one = http.get("/api/gpu/metrics", params={"gpu": "GPU-a"}).json()
    assert (one["gpu"]["uuid"], one["hardware"], one["processes"]) == ("GPU-a", {"fan_percent": 40}, [])
    assert http.get("/api/gpu/metrics").json()["gpus"] == [one]


def test_a_parameter_that_is_none_is_refused(http: httpx.Client) -> None:
    slip = http.get("/api/gpu/status", params={"gpus": "GPU-a"})
    assert (slip.status_code, slip.json()["field"]) == (422, "gpus")
    assert http.get("/api/gpu/status?gpu=GPU-a&gpu=GPU-b").status_code == 422
    assert http.get("/api/gpu/status", params={"gpu": "a b"}).status_code == 422


def test_the_rest_of_the_pool_is_what_the_command_prints(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB", tenant="red")
    broker.learn("enhance", "run-1", GIB, peak_bytes=GIB // 2)
    assert http.get("/api/hosts").json() == broker.hosts()
    assert http.get("/api/tenants").json() == [tenant.model_dump(mode="json") for tenant in broker.tenants()]
    assert http.get("/api/sizes").json() == [one.as_dict() for one in broker.sizes()]
    assert http.get("/api/fsck").json() == {"pool": "default", "fine": True, "differences": []}
    broker.redis.hset(broker.keys.gpu("GPU-a"), "leased_bytes", 7)
    found = http.get("/api/fsck").json()
    assert not found["fine"]
    assert "leased_bytes" in {one["kind"] for one in found["differences"]}
    broker.redis.hset(broker.keys.gpu("GPU-a"), "leased_bytes", GIB)


def test_unreadable_entries_do_not_hide_the_others(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    before = broker.redis.hget(broker.keys.gpu("GPU-b"), "state")
    broker.redis.hset(broker.keys.gpu("GPU-b"), "state", "PURPLE")
    assert [gpu["uuid"] for gpu in http.get("/api/gpu/status/all").json()["gpus"]] == ["GPU-a"]
    broker.redis.hset(broker.keys.gpu("GPU-b"), "state", before)


def test_probes_answer(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"ok": True}
    assert http.get("/readyz").json() == {"ok": True}
    assert http.get("/").text.startswith("<!doctype html>")
    assert http.get("/nothing").json()["code"] == "NotFound"
    refused = http.put("/api/gpu/status")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert http.patch("/api/gpu/config").headers["allow"] == "GET, PUT"


def test_prometheus_gets_the_pool_as_text(serve: Serve, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB")
    served = serve(tokens=TOKENS)
    assert served.client().get("/metrics").status_code == 401
    answer = served.client(VIEWER).get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "gpubroker_ledger_up" in answer.text
    assert "gpubroker_gpu_memory_leased_bytes" in answer.text
    other = served.client(VIEWER).get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert other.headers["content-type"].startswith("application/openmetrics-text")
    assert other.text.endswith("# EOF\n")
