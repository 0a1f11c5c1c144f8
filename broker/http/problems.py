"""Refusals as ``application/problem+json`` (RFC 9457), from the broker's own errors and from HTTP's."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from broker.errors import (
    BrokerError,
    ImpossibleRequest,
    InsufficientMemory,
    InvalidRequest,
    LeaseConflict,
    LeaseLost,
    LeaseNotFound,
    NotInPool,
    PoolUnavailable,
    StaleToken,
)

log = logging.getLogger("gpubroker.http")

MEDIA_TYPE = "application/problem+json"
#: Seconds after which one may ask again while Redis is away.
AWAY_SECONDS = 2

#: Status and title of each of the broker's errors; the nearest class counts.
_ERRORS: dict[type[BrokerError], tuple[int, str]] = {
    InvalidRequest: (422, "A value is not allowed"),
    ImpossibleRequest: (422, "It can never fit"),
    InsufficientMemory: (409, "There is no room now"),
    LeaseConflict: (409, "The name is taken by another request"),
    StaleToken: (409, "The token is not the lease's"),
    LeaseLost: (410, "The lease is over"),
    LeaseNotFound: (404, "There is no such lease"),
    NotInPool: (404, "The pool knows no such name"),
    PoolUnavailable: (503, "The ledger cannot be reached"),
    BrokerError: (409, "The ledger refused"),
}
_ALL_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_TITLES = {400: "The request cannot be read", 404: "There is nothing at this path", 405: "Not by this method"}
_CODES = {400: "BadRequest", 404: "NotFound", 405: "MethodNotAllowed"}


class Problem(Exception):
    """A refusal that HTTP itself is the reason of: who asks, how much, in what form."""

    def __init__(
        self, status: int, code: str, title: str, detail: str, headers: Mapping[str, str] | None = None, **more: object
    ) -> None:
        """``more``: field, value and allowed, where it is about one."""
        super().__init__(detail)
        self.status, self.code, self.title, self.detail = status, code, title, detail
        self.headers, self.more = dict(headers or {}), more

    def body(self) -> bytes:
        """The problem as JSON."""
        told = {
            "type": f"urn:gpubroker:problem:{self.code}", "title": self.title, "status": self.status,
            "detail": self.detail, "code": self.code, **self.more,
        }  # fmt: skip
        text = json.dumps(told)
        # Whatever shows it: a name of somebody's choosing is no markup.
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode("ascii")

    def response(self) -> Response:
        """The problem as an answer."""
        return Response(self.body(), self.status, self.headers, MEDIA_TYPE)


def too_many(detail: str, seconds: float) -> Problem:
    """429, and when to come again."""
    again = {"Retry-After": str(max(1, math.ceil(seconds)))}
    return Problem(429, "TooManyRequests", "Too many requests", detail, again)


def of_error(error: BrokerError) -> Problem:
    """The problem of one of the broker's errors. Its words name no secret: they are the ones that a terminal shows."""
    status, title = next(_ERRORS[kind] for kind in type(error).__mro__ if kind in _ERRORS)
    headers = {"Retry-After": str(AWAY_SECONDS)} if status == 503 else {}
    more: dict[str, object] = {}
    if isinstance(error, InvalidRequest):
        more = {"field": error.field, "value": plain(error.value), "allowed": error.allowed}
    code = next(kind.__name__ for kind in type(error).__mro__ if kind in _ERRORS)
    return Problem(status, code, title, str(error), headers, **more)


def plain(value: object) -> object:
    """A refused value as JSON can carry it: short, and a text where it is not a plain one."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 1 << 53:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def of_validation(error: RequestValidationError) -> Problem:
    """The first value that does not fit the schema."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    field = ".".join(where[1:] if len(where) > 1 else where)
    return of_error(InvalidRequest(field[:120], _short(first.get("input")), str(first["msg"])))


def _short(value: object) -> object:
    """A whole body is not shown again."""
    return value if not isinstance(value, (dict, list)) else f"{type(value).__name__} of {len(value)}"


def install(app: FastAPI, parts: Iterable[APIRouter]) -> None:
    """Answer every error of the application as a problem. ``parts`` are the paths of its schema."""
    routes = [route for part in parts for route in part.routes if isinstance(route, Route)]

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response()

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, BrokerError)
        return of_error(error).response()

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return of_validation(error).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _of_http(
            [*routes, *(route for route in app.routes if isinstance(route, Route))], request, error
        ).response()

    app.add_exception_handler(Problem, known)
    app.add_exception_handler(BrokerError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _of_http(routes: Sequence[Route], request: Request, error: HTTPException) -> Problem:
    status = error.status_code
    headers = dict(error.headers or {})
    detail = str(error.detail)
    if status == 405:
        # The router names the methods of the first route of the path only.
        allowed = ", ".join(_methods(routes, request.scope))
        headers["Allow"], detail = allowed, f"{request.method} is not allowed here: {allowed}"
    return Problem(status, _CODES.get(status, "Refused"), _TITLES.get(status, "Refused"), detail, headers)


def _methods(routes: Sequence[Route], scope: Any) -> list[str]:
    """Those of the most particular path that fits: ``…/job-7/renew`` is first of all the renewal of job-7, and no lease
    of that name, though a name may have a stroke in it.
    """
    found = [
        (route.path, method)
        for route in routes
        for method in _ALL_METHODS
        if route.matches({**scope, "method": method})[0] is Match.FULL
    ]
    particular = max((path for path, _ in found), key=len, default="")
    return [method for path, method in found if path == particular]
