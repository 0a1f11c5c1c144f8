"""The gate before the application: who asks, from which site, how often, and whether the body can be read at all.

Everything is decided here that needs no route: hence before any of a client's bytes are looked at by anything else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.http.auth import Caller, Tokens
from broker.http.limits import Rate
from broker.http.problems import Problem
from broker.http.settings import HttpSettings, is_loopback
from broker.http.strict_json import check_json

log = logging.getLogger("gpubroker.http")

CHANGING = frozenset({"POST", "PUT", "DELETE", "PATCH"})
#: What every answer says to browsers.
HEADERS = (
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
            b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
#: Seconds that a body may take to arrive.
_BODY_SECONDS = 10
_NO_STORE = (b"cache-control", b"no-store")


class Gate:
    """ASGI around the application; a refusal here has touched nothing."""

    def __init__(self, app: ASGIApp, settings: HttpSettings, tokens: Tokens) -> None:
        """Guard ``app``."""
        self._app, self._tokens, self._limits = app, tokens, settings.limits
        self._rate = Rate(settings.limits.rate, settings.limits.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                given = {name for name, _ in message["headers"]}
                extra = [pair for pair in (*HEADERS, _NO_STORE) if pair[0] not in given]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        try:
            receive = await self._admit(scope, receive)
        except Problem as problem:
            return await problem.response()(scope, receive, guarded)
        try:
            return await self._app(scope, receive, guarded)
        except Exception:
            log.exception("event=request_failed method=%s", scope["method"])
            if started:
                raise
            failed = Problem(500, "InternalError", "The server failed", "the server's log says why")
            return await failed.response()(scope, receive, guarded)

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        """The caller goes into the scope's state; what is returned gives the body again, read and checked.

        Raises:
            Problem: it may not come in.
        """
        headers = Headers(scope["headers"])
        peer = _peer(scope)
        caller = self._tokens.caller(peer, headers.one(b"authorization"))
        self._check_site(scope, headers, peer)
        self._rate.take(caller.key)
        scope.setdefault("state", {})["caller"] = caller
        scope["state"]["still_good"] = partial(self._tokens.still_good, caller)
        if scope["method"] not in CHANGING:
            return receive
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await self._body(headers, receive)
        except TimeoutError:
            raise Problem(408, "Timeout", "The request came too slowly", f"a body has {_BODY_SECONDS} s") from None
        if body:
            _check_type(headers)
            check_json(body, self._limits.depth)
        scope["state"]["body"] = body
        return _again(body, receive)

    def _check_site(self, scope: Scope, headers: Headers, peer: str) -> None:
        """No other site's page may use a person's browser to get at the pool."""
        host = (headers.one(b"host") or b"").decode("latin-1")
        if self._tokens.open:
            # Whoever comes without a token must be on this machine, and must not have been led here by a name that
            # somebody else has answered with 127.0.0.1 (DNS rebinding).
            if peer != "unix" and not is_loopback_peer(peer):
                raise _forbidden("without tokens this server answers its own machine alone")
            if not _is_own_name(host):
                raise _forbidden("without tokens this server answers to 127.0.0.1, [::1] and localhost alone")
        if not scope["path"].startswith(("/api/", "/metrics")):
            return
        site = headers.one(b"sec-fetch-site")
        if site is not None and site not in (b"same-origin", b"none"):
            raise _forbidden("a page of another site may not ask this")
        origin = headers.one(b"origin")
        if origin is not None and _netloc(origin.decode("latin-1")) != host.lower():
            raise _forbidden("a page of another origin may not ask this")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        most = self._limits.body_bytes
        told = headers.one(b"content-length")
        if told is not None and told.isdigit() and len(told) < 20 and int(told) > most:
            raise _too_large(most)
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Problem(400, "BadRequest", "The request cannot be read", "it ended before its body did")
            body += message.get("body", b"")
            if len(body) > most:
                raise _too_large(most)
            if not message.get("more_body", False):
                return bytes(body)


class Headers:
    """A request's headers as bytes."""

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Names are in lower case already (ASGI)."""
        self._pairs = list(pairs)

    def one(self, name: bytes) -> bytes | None:
        """The value, or ``None``.

        Raises:
            Problem: 400, it is there twice: two readers could take different ones.
        """
        found = [value for known, value in self._pairs if known == name]
        if len(found) > 1:
            raise Problem(400, "BadRequest", "The request cannot be read", f"more than one {name.decode()} header")
        return found[0] if found else None


def caller_of(scope: Scope) -> Caller:
    """Who asks, as the gate found."""
    caller = scope["state"]["caller"]
    assert isinstance(caller, Caller)
    return caller


def still_good(scope: Scope) -> bool:
    """Whether who asked would still be let in: for an answer that lasts."""
    return bool(scope["state"]["still_good"]())


def is_loopback_peer(peer: str) -> bool:
    """Whether a connection comes from this machine."""
    return peer == "testclient" or is_loopback(peer)


def _peer(scope: Scope) -> str:
    client: Any = scope.get("client")
    return str(client[0]) if client else "unix"


def _is_own_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name in ("127.0.0.1", "::1", "localhost")


def _netloc(origin: str) -> str:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ""
    return parts.netloc.lower()


def _check_type(headers: Headers) -> None:
    kind = (headers.one(b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise Problem(415, "UnsupportedMediaType", "Not this kind of body", "a body is application/json")


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, for the application; after it what else comes: that the client has gone."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return left.pop() if left else await receive()

    return give


def _forbidden(detail: str) -> Problem:
    return Problem(403, "Forbidden", "Not allowed", detail)


def _too_large(most: int) -> Problem:
    # The rest of the body is not read: the connection cannot be used again.
    return Problem(413, "BodyTooLarge", "The body is too large", f"at most {most} bytes", {"Connection": "close"})
