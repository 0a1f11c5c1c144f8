"""Redis away, and back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from broker import Broker
from broker.embedded import EmbeddedServer
from broker.http.settings import HttpSettings
from broker.publish import Publisher
from tests.conftest import report
from tests.http.conftest import serving, told

PATHS = ("/api/gpu/status", "/api/gpu/status/all", "/api/leases", "/api/gpu/status?gpu=GPU-a", "/readyz", "/api/events")


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A ledger of this test's own, that may be taken away."""
    with EmbeddedServer(tmp_path / "ledger", persist=True) as server:
        yield server


def _when_it_is_noticed(http: httpx.Client, path: str) -> httpx.Response:
    """What was read a moment ago is told for a moment."""
    deadline = time.monotonic() + 15
    while (answer := http.get(path)).status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def _fill(url: str) -> None:
    with Broker.from_url(url) as broker:
        broker.update_config(grace_seconds=0)  # no time is given to holders after a restart
        Publisher(broker, "h1").publish([report("GPU-a")], 600_000)


def test_away_is_503_with_when_to_come_again_and_back_is_back(own_server: EmbeddedServer) -> None:
    _fill(own_server.url)
    with serving(HttpSettings(redis_url=own_server.url)) as served:
        http = served.client()
        assert http.get("/api/gpu/status").json()["gpus"] == 1
        port = own_server.port
        own_server.stop()
        for path in PATHS:
            answer = _when_it_is_noticed(http, path)
            assert (answer.status_code, answer.headers.get("retry-after")) == (503, "2"), path
            assert answer.json()["code"] == "PoolUnavailable"
        lost = http.post("/api/gpu/memory/allocate", json={"memory": "1GiB"}, headers={"Idempotency-Key": "0123456789"})
        assert lost.status_code == 503
        assert http.get("/healthz").status_code == 200
        with EmbeddedServer(own_server.folder, port, persist=True) as again:
            assert again.port == port
            assert http.get("/readyz").status_code == 200
            assert http.get("/api/gpu/status").json()["gpus"] == 1
            taken = http.post(
                "/api/gpu/memory/allocate", json={"memory": "1GiB"}, headers={"Idempotency-Key": "0123456789"}
            )
            assert taken.status_code == 201, taken.text


def test_a_page_is_told_that_the_ledger_is_away_and_gets_all_anew(own_server: EmbeddedServer) -> None:
    _fill(own_server.url)
    with serving(HttpSettings(redis_url=own_server.url)) as served, served.client().stream("GET", "/api/live") as live:
        events = (event for event in told(live.iter_lines()) if event is not None)
        assert next(events).kind == "snapshot"
        port = own_server.port
        own_server.stop()
        away = next(event for event in events if event.kind == "away")
        assert "cannot be reached" in json.loads(away.data)["detail"]
        with EmbeddedServer(own_server.folder, port, persist=True):
            back = next(event for event in events if event.kind == "snapshot")
            assert [gpu["uuid"] for gpu in json.loads(back.data)["gpus"]] == ["GPU-a"]


def test_an_url_that_nobody_answers_at_is_no_hang() -> None:
    with serving(HttpSettings(redis_url="redis://127.0.0.1:1/0")) as served:
        assert served.client().get("/api/leases").status_code == 503
