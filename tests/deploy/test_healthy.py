"""`gpubroker healthy`: what a supervisor is told when something does not do its work."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from click.testing import CliRunner, Result

from broker import Broker
from broker.cli import main

Cards = Callable[..., None]


@pytest.fixture
def healthy(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the verb on the test's server, for host ``h1``."""
    monkeypatch.setenv("GPUBROKER_REDIS_URL", redis_url)
    monkeypatch.setenv("GPUBROKER_HOST", "h1")
    monkeypatch.delenv("GPUBROKER_POOL", raising=False)
    return lambda *words: CliRunner().invoke(main, ["healthy", *words])


def test_an_agent_is_healthy_while_its_sample_is_fresh(
    healthy: Callable[..., Result], cards: Cards, broker: Broker
) -> None:
    assert "no agent publishes for host h1" in healthy("agent").stderr
    cards("GPU-a")
    assert healthy("agent").exit_code == 0
    now = broker.reap()
    broker.redis.hset(broker.keys.host("h1"), mapping={"fresh_until": now - 1, "sampled_at": now - 61_000})
    told = healthy("agent")
    assert told.exit_code == 1
    assert "h1 has been silent for 61 s" in told.stderr
    assert "no agent publishes for host h2" in healthy("agent", "--host", "h2").stderr
    cards("GPU-a")


def test_a_worker_is_healthy_while_rq_hears_of_one_on_this_machine(
    healthy: Callable[..., Result], broker: Broker
) -> None:
    def worker(name: str, hostname: str, seconds: float) -> None:
        last = (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        broker.redis.hset(f"rq:worker:{name}", mapping={"hostname": hostname, "last_heartbeat": last})
        broker.redis.sadd("rq:workers", f"rq:worker:{name}")

    worker("another", "elsewhere", 0)
    assert f"RQ knows no worker on {socket.gethostname()}" in healthy("worker").stderr
    worker("dead", socket.gethostname(), 3600)
    told = healthy("worker")
    assert told.exit_code == 1
    assert re.search(r"no worker on \S+ was heard of for 3[56]\d\d s", told.stderr)
    worker("living", socket.gethostname(), 10)
    assert healthy("worker").exit_code == 0


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """A server that answers everything with one status: ``answering(503)`` is its address."""
    servers = []

    def start(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/readyz" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_server_is_healthy_while_it_and_its_ledger_answer(
    healthy: Callable[..., Result], answering: Callable[[int], str]
) -> None:
    assert healthy("serve", "--url", answering(200)).exit_code == 0
    told = healthy("serve", "--url", answering(503))
    assert told.exit_code == 1
    assert "answers 503: its ledger cannot be reached" in told.stderr
    told = healthy("serve", "--url", "http://127.0.0.1:1")
    assert told.exit_code == 1
    assert "does not answer" in told.stderr


def test_another_kind_of_address_is_refused(healthy: Callable[..., Result]) -> None:
    assert healthy("serve", "--url", "file:///etc/passwd").exit_code == 2
    assert healthy("nothing").exit_code == 2


def test_a_ledger_that_is_away_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBROKER_REDIS_URL", "redis://127.0.0.1:1/0")
    assert CliRunner().invoke(main, ["healthy", "agent"]).exit_code == 3
