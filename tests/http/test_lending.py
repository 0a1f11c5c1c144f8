"""Borrowing over HTTP, and taking back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import httpx
import pytest

from broker import Broker
from broker.http.settings import Limits
from broker.units import GIB
from tests.http.conftest import Serve

Cards = Callable[..., None]


def test_a_lease_from_its_begin_to_its_end(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    answer = http.post("/api/gpu/memory/allocate", json={"memory": "4GiB", "lease_id": "job", "ttl": 60})
    lease = answer.json()
    assert (answer.status_code, lease["memory_bytes"], lease["ttl_ms"]) == (201, 4 * GIB, 60_000)
    assert lease["env"]["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    again = http.post("/api/gpu/memory/allocate", json={"memory": "4GiB", "lease_id": "job", "ttl": 60})
    assert again.json()["token"] == lease["token"]
    renewed = http.post("/api/leases/job/renew", json={"token": lease["token"], "ttl": 120}).json()
    assert renewed["expires_at"] > lease["expires_at"]
    resized = http.post("/api/leases/job/resize", json={"token": lease["token"], "memory": "2GiB"})
    assert resized.json() == {"id": "job", "memory_bytes": 2 * GIB}
    ended = http.post("/api/gpu/memory/deallocate", json={"lease_id": "job", "token": lease["token"]})
    assert ended.json() == {"id": "job", "in_time": True}
    assert broker.leases() == []


def test_a_token_is_shown_to_its_holder_alone(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", lease_id="rack/7:job")
    for path in ("/api/leases", "/api/leases/rack/7:job", "/api/leases/rack%2F7:job"):
        answer = http.get(path)
        assert answer.status_code == 200
        assert str(lease.token) not in answer.text
        assert "rack/7:job" in answer.text


@pytest.mark.parametrize(("body", "status", "code"), [
    ({"memory": "50GiB"}, 422, "ImpossibleRequest"),
    ({"memory": "5GiB"}, 409, "InsufficientMemory"),
    ({"memory": "2GiB", "lease_id": "held"}, 409, "LeaseConflict"),
    ({"memory": "1GiB", "lease_id": "held", "token": 5}, 409, "StaleToken"),
    ({"memory": "1GiB", "lease_id": "never", "token": 5}, 404, "LeaseNotFound"),
    ({"memory": "much"}, 422, "InvalidRequest"),
    ({"memory": "1GiB", "ttl": "30"}, 422, "InvalidRequest"),
    ({"memory": "1GiB", "tll": 30}, 422, "InvalidRequest"),
    ({"memory": True}, 422, "InvalidRequest"),
    ({}, 422, "InvalidRequest"),
])  # fmt: skip
def test_each_refusal_has_its_status_and_name(
    http: httpx.Client, broker: Broker, cards: Cards, body: dict[str, object], status: int, code: str
) -> None:
    cards("GPU-a")
    broker.acquire("1GiB", lease_id="held")
    answer = http.post("/api/gpu/memory/allocate", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(broker.leases()) == 1


def test_a_bad_value_is_named_with_what_is_allowed(http: httpx.Client) -> None:
    problem = http.post("/api/gpu/memory/allocate", json={"memory": "1GiB", "ttl": 0.01}).json()
    assert (problem["field"], problem["value"]) == ("ttl", 0.01)
    assert "greater than or equal to 0.1" in problem["allowed"]


def test_who_waits_is_served_when_there_is_room(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    held = broker.acquire("5GiB")
    answers: list[httpx.Response] = []
    ask = {"memory": "5GiB", "lease_id": "waits", "wait": 20}
    asking = threading.Thread(target=lambda: answers.append(http.post("/api/gpu/memory/allocate", json=ask)))
    asking.start()
    _until(lambda: [waiter.id for waiter in broker.waiters()] == ["waits"])
    listed = http.get("/api/waiters").json()["waiters"]
    assert [(waiter["id"], waiter["place"]) for waiter in listed] in ([("waits", 1)], [])
    why = http.get("/api/explain", params={"id": "waits"}).json()
    assert (why["kind"], why["place"], why["cards"][0]["why"]) == ("waiting", 1, "leased")
    held.release()
    asking.join(20)
    assert answers[0].status_code == 201


def test_a_client_that_goes_away_leaves_the_queue(serve: Serve, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    held = broker.acquire("5GiB")
    impatient = serve().client()
    with pytest.raises(httpx.ReadTimeout):
        impatient.post("/api/gpu/memory/allocate", json={"memory": "5GiB", "wait": 30}, timeout=0.5)
    _until(lambda: broker.waiters() == [])
    held.release()
    assert broker.leases() == []


def test_a_waiter_can_be_taken_out_of_the_queue(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("5GiB")
    answers: list[httpx.Response] = []
    ask = {"memory": "5GiB", "lease_id": "waits", "wait": 20}
    asking = threading.Thread(target=lambda: answers.append(http.post("/api/gpu/memory/allocate", json=ask)))
    asking.start()
    _until(lambda: len(broker.waiters()) == 1)
    assert http.delete("/api/waiters/waits").json() == {"done": True}
    assert http.delete("/api/waiters/nobody").status_code == 404
    asking.join(20)
    assert broker.waiters() == []


def test_more_requests_than_allowed_do_not_wait(serve: Serve, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    held = broker.acquire("5GiB")
    http = serve(limits=Limits(waiting_of_one=1)).client()
    ask = {"memory": "5GiB", "wait": 20}
    asking = threading.Thread(target=lambda: http.post("/api/gpu/memory/allocate", json=ask))
    asking.start()
    _until(lambda: len(broker.waiters()) == 1)
    refused = http.post("/api/gpu/memory/allocate", json=ask)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    held.release()
    asking.join(20)


def test_a_holder_hears_of_a_revocation_when_it_renews(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", lease_id="job")
    told = http.post("/api/leases/job/revoke", json={"grace": 20, "reason": "maintenance at noon"}).json()
    renewed = http.post("/api/leases/job/renew", json={"token": lease.token}).json()
    assert (renewed["revoke_at"], renewed["revoke_reason"]) == (told["revoke_at"], "maintenance at noon")
    assert http.post("/api/leases/never/revoke", json={}).status_code == 404


def test_marks_of_cards_and_hosts(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", host="h1")
    for path in ("/api/gpus/GPU-a", "/api/hosts/h1"):
        for verb, drained in (("drain", True), ("undrain", False)):
            http.post(f"{path}/{verb}").raise_for_status()
            assert broker.gpus()[0].drained is drained
    assert http.post("/api/gpus/GPU-x/drain").json()["code"] == "NotInPool"
    assert http.post("/api/hosts/hx/retire").status_code == 404
    at_work = http.post("/api/hosts/h1/retire")
    assert (at_work.status_code, "is at work" in at_work.json()["detail"]) == (409, True)


def test_settings_are_changed_all_or_none(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    changed = http.put("/api/gpu/config", json={"temp_optimal": 60, "monitor_interval": 0.5}).json()
    assert (changed["temp_optimal"], changed["monitor_interval"]) == (60, 0.5)
    before = broker.redis.hgetall(broker.keys.config)
    for wrong in ({"temp_optimal": 200}, {"nonsense": 1}, {"temp_normal": 10}, {}, {"temp_optimal": 1, "x": 2}, [1]):
        assert http.put("/api/gpu/config", json=wrong).status_code == 422, wrong
    assert broker.redis.hgetall(broker.keys.config) == before
    assert http.put("/api/gpu/config", json={"temp_optimal": None}).json()["temp_optimal"] == 65
    http.put("/api/gpu/config?gpu=GPU-a", json={"memory_limit_mb": 2048}).raise_for_status()
    assert http.get("/api/gpu/config?gpu=GPU-a").json()["memory_limit_mb"] == 2048
    assert http.get("/api/gpu/config").json()["memory_limit_mb"] is None
    assert http.put("/api/gpu/config?gpu=GPU-x", json={"temp_optimal": 1}).status_code == 404


def test_what_a_request_would_meet(http: httpx.Client, cards: Cards) -> None:
    cards("GPU-a")
    assert http.get("/api/explain", params={"memory": "4GiB"}).json()["fits"] is True
    assert http.get("/api/explain", params={"memory": "20GiB,2x8GiB"}).json()["never"]
    assert http.get("/api/explain", params={"id": "nobody"}).status_code == 404
    assert http.get("/api/explain").status_code == 422
    assert http.get("/api/explain", params={"memory": "nobody"}).status_code == 422


def _until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
