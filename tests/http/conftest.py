"""The HTTP face as a real server: uvicorn on a free port of this machine, over the test's ledger."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import uvicorn
from starlette.types import ASGIApp

from broker.http.app import create_app
from broker.http.server import Server
from broker.http.settings import HttpSettings, Limits
from broker.http.wire import Wire

VIEWER, OPERATOR, ADMIN = "viewer-token-0000000", "operator-token-00000", "admin-token-00000000"
TOKENS = f"viewer:{VIEWER},operator:{OPERATOR},admin:{ADMIN}"


@dataclass
class Served:
    """A server that listens."""

    url: str
    settings: HttpSettings
    clients: list[httpx.Client] = field(default_factory=list)

    def client(self, token: str = "", **options: Any) -> httpx.Client:
        """A client, with that token."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False, **options)
        self.clients.append(client)
        return client

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])


Serve = Callable[..., Served]


@contextlib.contextmanager
def serving(settings: HttpSettings, around: Callable[[ASGIApp], ASGIApp] | None = None) -> Iterator[Served]:
    """A server in a thread of its own, told to end at the end. ``around`` sees all that comes and goes."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app(settings)
    config = uvicorn.Config(
        around(app) if around else app,
        log_level="warning",
        proxy_headers=False,
        ws="none",
        http=Wire,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    ready = threading.Event()
    server = Server(config, app.state.serving.closing, lambda line: ready.set())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="served")
    thread.start()
    assert ready.wait(20), "the server did not start"
    served = Served(f"http://127.0.0.1:{listening.getsockname()[1]}", settings)
    try:
        yield served
    finally:
        for client in served.clients:
            client.close()
        server.handle_exit(15, None)
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"


@pytest.fixture
def serve(redis_url: str) -> Iterator[Serve]:
    """Starts servers: ``serve(tokens=…, limits=Limits(…))``."""
    with contextlib.ExitStack() as stack:

        def start(
            tokens: str = "", token_file: Path | None = None, limits: Limits | None = None, url: str = redis_url
        ) -> Served:
            settings = HttpSettings(redis_url=url, tokens=tokens, token_file=token_file, limits=limits or Limits())
            return stack.enter_context(serving(settings))

        yield start


@pytest.fixture
def http(serve: Serve) -> httpx.Client:
    """A client of a server without tokens: everybody on this machine may do everything."""
    return serve().client()


@dataclass
class Told:
    """One server-sent event."""

    kind: str
    data: str
    id: str = ""


def told(lines: Iterator[str]) -> Iterator[Told | None]:
    """The events of a stream's lines; ``None`` for a comment."""
    kind, data, last_id = "message", list[str](), ""
    for line in lines:
        if line.startswith(":"):
            yield None
        elif not line:
            if data:
                yield Told(kind, "\n".join(data), last_id)
            kind, data = "message", []
        else:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                data.append(value)
            elif name == "id":
                last_id = value


def keys_and_values(url: str) -> dict[str, Any]:
    """Everything in a ledger, to be compared; the clock of the ledger itself goes on, and answers of old are kept."""
    with redis.Redis.from_url(url) as client:
        names = [name for name in sorted(client.scan_iter("*", count=10_000)) if b":answer:" not in name]
        pipe = client.pipeline(transaction=False)
        for name in names:
            # Of the journal its end is enough, and it may be long.
            pipe.xrevrange(name, count=1) if name.endswith(b":events") else pipe.dump(name)
        return {name.decode(): value for name, value in zip(names, pipe.execute(), strict=True)}
