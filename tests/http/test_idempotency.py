"""The same key and request gives the same answer, from whichever server it is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from broker import Broker
from broker.units import GIB
from tests.http.conftest import ADMIN, OPERATOR, TOKENS, VIEWER, Serve

Cards = Callable[..., None]
KEY = {"Idempotency-Key": "b5f0c1c4-7d0a-4f3a-9c55-0c4a1c9f9a10"}


def test_a_retry_of_another_server_takes_nothing_twice(serve: Serve, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    one, other = serve().client(), serve().client()
    first = one.post("/api/gpu/memory/allocate", json={"memory": "1GiB"}, headers=KEY)
    again = other.post("/api/gpu/memory/allocate", json={"memory": "1GiB"}, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert len(broker.leases()) == 1


def test_a_key_is_for_one_request(serve: Serve, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    http = serve().client()
    http.post("/api/gpu/memory/allocate", json={"memory": "1GiB"}, headers=KEY).raise_for_status()
    other = http.post("/api/gpu/memory/allocate", json={"memory": "2GiB"}, headers=KEY)
    assert (other.status_code, other.json()["code"]) == (422, "IdempotencyKeyReused")
    elsewhere = http.post("/api/gpus/GPU-a/drain", headers=KEY)
    assert elsewhere.status_code == 422
    assert not broker.gpus()[0].drained


def test_another_callers_key_is_his_own(serve: Serve, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    served = serve(tokens=TOKENS)
    tokens = {
        served.client(token).post("/api/gpu/memory/allocate", json={"memory": "1GiB"}, headers=KEY).json()["token"]
        for token in (OPERATOR, ADMIN)
    }
    assert len(tokens) == 2
    assert len(broker.leases()) == 2


def test_who_may_only_look_leaves_nothing_in_redis(serve: Serve, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    viewer = serve(tokens=TOKENS).client(VIEWER)
    for path, status in (("/api/gpus/GPU-a/drain", 403), ("/api/nothing", 404), ("/api/leases", 405)):
        assert viewer.post(path, headers=KEY).status_code == status
    assert broker.redis.keys("*:answer:*") == []


def test_a_refusal_is_given_again_too(serve: Serve, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    http = serve().client()
    held = broker.acquire("5GiB")
    first = http.post("/api/gpu/memory/allocate", json={"memory": "5GiB"}, headers=KEY)
    held.release()
    again = http.post("/api/gpu/memory/allocate", json={"memory": "5GiB"}, headers=KEY)
    assert (first.status_code, again.status_code) == (409, 409)
    assert again.json() == first.json()
    assert broker.leases() == []


def test_the_same_request_at_the_same_time_is_done_once(serve: Serve, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    clients = [serve().client() for _ in range(2)] * 4
    answers: list[tuple[int, bytes]] = []

    def ask(number: int) -> None:
        told = clients[number].post("/api/gpu/memory/allocate", json={"memory": "1GiB"}, headers=KEY)
        answers.append((told.status_code, told.content))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {status for status, _ in answers} <= {201, 409}
    assert len({content for status, content in answers if status == 201}) == 1
    assert [lease.memory_bytes for lease in broker.leases()] == [GIB]


@pytest.mark.parametrize("key", ["", "a b", "x" * 129, "ключ".encode().decode("latin-1")])
def test_a_key_that_is_none_is_refused(serve: Serve, broker: Broker, cards: Cards, key: str) -> None:
    cards("GPU-a")
    answer = serve().client().post(
        "/api/gpu/memory/allocate", json={"memory": "1GiB"}, headers=[(b"Idempotency-Key", key.encode("latin-1"))]
    )  # fmt: skip
    assert (answer.status_code, answer.json()["field"]) == (422, "Idempotency-Key")
    assert broker.leases() == []


def test_marks_and_settings_are_done_once_as_well(serve: Serve, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    http = serve().client()
    for _ in range(2):
        assert http.post("/api/gpus/GPU-a/drain", headers=KEY).json() == {"done": True}
        broker.undrain("GPU-a")
    assert not broker.gpus()[0].drained  # the second was an answer given again
