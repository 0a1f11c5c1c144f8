"""All that a running server has: its way to the ledger, what it read, who may come in, and its limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from broker import fsck
from broker.aio import AsyncBroker
from broker.client import Broker
from broker.errors import InvalidRequest
from broker.http.auth import Caller, Scope
from broker.http.gate import caller_of
from broker.http.limits import Seats
from broker.http.live import Live
from broker.http.problems import Problem
from broker.http.reading import Reader
from broker.http.settings import HttpSettings
from broker.http.tail import Tail
from broker.http.turns import Turns
from broker.metrics import AsyncExporter

#: Connections to Redis beside those of waiting requests.
_CONNECTIONS = 512


class Serving:
    """One running server's parts. ``broker`` is for its event loop, ``threads`` for work in threads."""

    def __init__(self, settings: HttpSettings) -> None:
        """Make them; nothing connects yet.

        Raises:
            InvalidRequest: the URL or the pool's name is not allowed.
        """
        self.settings = settings
        self.broker = AsyncBroker.from_url(settings.redis_url, settings.pool)
        # Who waits for room sleeps on a connection of his own.
        self.broker.redis.connection_pool.max_connections = settings.limits.waiting + _CONNECTIONS
        self.threads = Broker.from_url(settings.redis_url, settings.pool)
        self.reader = Reader(self.broker)
        self.tail = Tail(self.broker)
        self.live = Live(settings.pool, self.reader, self.tail)
        self.exporter = AsyncExporter(self.broker)
        limits = settings.limits
        self.waiting = Seats("waiting requests", limits.waiting, limits.waiting_of_one)
        self.streams = Seats("event streams", limits.streams, limits.streams_of_one)
        self.closing = asyncio.Event()
        #: Whether the ledger adds up, and what every card says of itself: both read the whole pool.
        self.checks = Turns(self._check)
        self.measures = Turns(self._measure)

    async def _check(self) -> bytes:
        found = await asyncio.to_thread(fsck.check, self.threads, readings=2)
        told = [{name: value for name, value in asdict(one).items() if name != "part"} for one in found]
        return json.dumps({"pool": self.settings.pool, "fine": not found, "differences": told}).encode()

    async def _measure(self) -> bytes:
        reading = await self.reader.current()
        told = [await self.metrics_of(item.facts) for item in reading.gpus.items.values()]
        return json.dumps({"pool": self.settings.pool, "now": reading.now, "gpus": told}).encode()

    async def metrics_of(self, gpu: dict[str, Any]) -> dict[str, Any]:
        """A card with what its hardware says, and with the processes on it."""
        hardware, processes = await self.broker.hardware(gpu["uuid"]), await self.broker.processes(gpu["uuid"])
        return {"gpu": gpu, "hardware": hardware, "processes": [asdict(one) for one in processes]}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read for as long as the server runs."""
        self.reader.start()
        counting = asyncio.create_task(self.exporter.follow(), name="gpubroker-counters")
        try:
            yield
        finally:
            self.closing.set()
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)
            await self.reader.stop()
            await self.tail.stop()
            await self.broker.close()
            self.threads.close()


async def serving(request: Request) -> Serving:
    """The server's parts, for a route."""
    found = request.app.state.serving
    assert isinstance(found, Serving)
    return found


async def caller(request: Request) -> Caller:
    """Who asks."""
    return caller_of(request.scope)


Parts = Annotated[Serving, Depends(serving)]
Asking = Annotated[Caller, Depends(caller)]


_bearer = HTTPBearer(
    auto_error=False, scheme_name="token", description="A token with the scope viewer, operator or admin."
)
_Shown = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]  # for the schema: the gate has read it


async def viewer(asks: Asking, _: _Shown) -> Caller:
    """May look."""
    return _need(Scope.VIEWER, asks)


async def operator(asks: Asking, _: _Shown) -> Caller:
    """May lend and take back."""
    return _need(Scope.OPERATOR, asks)


async def admin(asks: Asking, _: _Shown) -> Caller:
    """May change what the pool runs by."""
    return _need(Scope.ADMIN, asks)


def _need(least: Scope, asks: Caller) -> Caller:
    if asks.scope is None:
        raise Problem(
            401, "Unauthorized", "Who asks?", "it takes a token: Authorization: Bearer TOKEN",
            {"WWW-Authenticate": 'Bearer realm="gpubroker"'},
        )  # fmt: skip
    if asks.scope < least:
        challenge = {"WWW-Authenticate": 'Bearer realm="gpubroker", error="insufficient_scope"'}
        detail = f"it takes the scope {least.word}; this token has {asks.scope.word}"
        raise Problem(403, "Forbidden", "Not allowed", detail, challenge)
    return asks


async def known_query(request: Request) -> None:
    """A parameter that the path does not take is a slip, and one that is there twice says two things."""
    names = [name for name, _ in request.query_params.multi_items()]
    if not names:
        return
    known = _parameters(request)
    for name in names:
        if name not in known:
            raise InvalidRequest(name[:80], "a parameter", "one of " + ", ".join(known) if known else "none here")
        if names.count(name) > 1:
            raise InvalidRequest(name, "twice", "it once")


def _parameters(request: Request) -> list[str]:
    """The names that the query of this path may have: those of the schema."""
    path = request.app.openapi()["paths"].get(request.scope["route"].path_format, {})
    told = path.get(request.method.lower(), {}).get("parameters", ())
    return [one["name"] for one in told if one["in"] == "query"]
