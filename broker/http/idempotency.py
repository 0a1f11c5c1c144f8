"""``Idempotency-Key``: the same key and request gives the same answer, from whichever server of the pool it is asked.

Answers are kept in Redis beside the pool, for ten minutes, under a name that only the same caller can ask for. What
was refused for want of time or of Redis is not kept: it is to be tried again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker import plans
from broker.aio import AsyncBroker
from broker.errors import PoolUnavailable
from broker.http import auth
from broker.http.gate import CHANGING, caller_of
from broker.http.problems import Problem, of_error
from broker.ledger.keys import Keys

KEPT_SECONDS = 600
#: How long a request may be under way; longer than the longest wait. Then whoever asks again is let through, and the
#: ledger itself takes nothing twice.
_UNDER_WAY_SECONDS = 120
_KEY_MOST = 128
#: Statuses that say nothing about the request itself: who asks may not, or not now.
_NOT_KEPT = frozenset({401, 403, 408, 429, 499})


class Idempotency:
    """ASGI around the routes, within the gate."""

    def __init__(self, app: ASGIApp, broker: AsyncBroker) -> None:
        """Keep answers on the broker's server."""
        self._app, self._broker = app, broker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give the answer that was given, or let the request through and keep what it is answered."""
        key = _key(scope)
        if key is None:
            return await self._app(scope, receive, send)
        asked = _Asked.of(scope, key, self._broker.keys)
        try:
            known = await self._broker.run(_begin(asked))
            answer = _replayed(known, asked) if known is not None else None
        except PoolUnavailable as error:
            return await of_error(error).response()(scope, receive, send)
        except Problem as problem:
            return await problem.response()(scope, receive, send)
        if answer is not None:
            return await answer.send(send)
        return await self._through(scope, receive, send, asked)

    async def _through(self, scope: Scope, receive: Receive, send: Send, asked: _Asked) -> None:
        given = _Answer(500, [], b"")

        async def kept(message: Message) -> None:
            if message["type"] == "http.response.start":
                given.status, given.headers = message["status"], list(message["headers"])
            elif message["type"] == "http.response.body":
                given.body += message.get("body", b"")
                if not message.get("more_body", False):
                    # Before the client has it: else it could ask again, of another server, before it is kept.
                    await self._keep(asked, given)
            await send(message)

        try:
            await self._app(scope, receive, kept)
        except BaseException:
            await self._keep(asked, _Answer(500, [], b""))
            raise

    async def _keep(self, asked: _Asked, given: _Answer) -> None:
        try:
            await self._broker.run(_end(asked, given))
        except PoolUnavailable:
            return  # what was done is in the ledger, which takes nothing twice


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request under its key: where its answer is kept, what tells it from another, and this very try."""

    name: str
    request: str
    nonce: str

    @classmethod
    def of(cls, scope: Scope, key: bytes, keys: Keys) -> _Asked:
        """The request of a scope whose body the gate has read."""
        whose = caller_of(scope).key.encode()
        what = (scope["method"].encode(), scope["raw_path"], scope["query_string"], scope["state"].get("body", b""))
        parts = [hashlib.sha256(part).digest() for part in what]
        return cls(
            keys.answer(hashlib.sha256(whose + b"\n" + key).hexdigest()),
            hashlib.sha256(b"".join(parts)).hexdigest(),
            os.urandom(8).hex(),
        )

    @property
    def under_way(self) -> str:
        """What stands in Redis while it is under way."""
        return json.dumps({"request": self.request, "try": self.nonce})


@dataclass(slots=True)
class _Answer:
    """An answer, as it was given."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def text(self, request: str) -> str:
        """For Redis."""
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers]
        told = {"request": request, "status": self.status, "headers": headers}
        return json.dumps(told | {"body": base64.b64encode(self.body).decode()})

    async def send(self, send: Send) -> None:
        """Give it once more."""
        headers = [*self.headers, (b"idempotency-replayed", b"true")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def _key(scope: Scope) -> bytes | None:
    """The key of a request that may change something. Who may only look is refused by the route, and leaves nothing in
    Redis, not even an answer."""
    if scope["type"] != "http" or scope["method"] not in CHANGING:
        return None
    if (caller_of(scope).scope or auth.Scope.VIEWER) < auth.Scope.OPERATOR:
        return None
    found = [value for name, value in scope["headers"] if name == b"idempotency-key"]
    if len(found) != 1 or not 1 <= len(found[0]) <= _KEY_MOST or not all(0x21 <= byte <= 0x7E for byte in found[0]):
        return None
    return bytes(found[0])


def _begin(asked: _Asked) -> plans.Plan[str | None]:
    """Take the key; what stands there already, if it is taken."""
    taken, stands = yield [
        ("SET", asked.name, asked.under_way, "NX", "EX", _UNDER_WAY_SECONDS), ("GET", asked.name),
    ]  # fmt: skip
    return None if taken else (stands or "{}")


def _end(asked: _Asked, given: _Answer) -> plans.Plan[None]:
    """Keep the answer, or let the key go, unless another try has taken it meanwhile."""
    (stands,) = yield [("GET", asked.name)]
    if stands != asked.under_way:
        return
    if given.status >= 500 or given.status in _NOT_KEPT:
        yield [("DEL", asked.name)]
    else:
        yield [("SET", asked.name, given.text(asked.request), "EX", KEPT_SECONDS)]


def _replayed(stands: str, asked: _Asked) -> _Answer:
    """The answer that was given.

    Raises:
        Problem: the key was for another request, or its request is still under way.
    """
    told: dict[str, Any] = json.loads(stands)
    if told.get("request", asked.request) != asked.request:
        raise Problem(
            422, "IdempotencyKeyReused", "The key was for another request",
            "this Idempotency-Key came with another request before; take a new one",
            field="Idempotency-Key", allowed="a key for each request",
        )  # fmt: skip
    if "status" not in told:
        raise Problem(
            409, "IdempotencyKeyInUse", "The same request is under way",
            "a request with this Idempotency-Key is not answered yet; ask again", {"Retry-After": "1"},
        )  # fmt: skip
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told["headers"]]
    return _Answer(told["status"], headers, base64.b64decode(told["body"]))
