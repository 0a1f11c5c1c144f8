"""The paths, a file a noun. A route reads the request, asks the ledger and shapes the answer; it decides nothing."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query
from pydantic import BeforeValidator
from starlette.responses import Response

from broker.http.serving import known_query

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,127}$"

GpuPath = Annotated[str, Path(pattern=NAME, description="A card's UUID.", examples=["GPU-studio-a-0"])]
HostPath = Annotated[str, Path(pattern=NAME, description="A host's name.", examples=["studio-a"])]
LeasePath = Annotated[str, Path(pattern=NAME, description="A lease's name.", examples=["job-7"])]
GpuQuery = Annotated[str | None, Query(pattern=NAME, description="A card's UUID.", examples=["GPU-studio-a-0"])]
OneGpuQuery = Annotated[str, Query(pattern=NAME, description="A card's UUID.", examples=["GPU-studio-a-0"])]


def _plain_number(value: object) -> object:
    """Digits as JSON has them: Python's own reading takes ``1_0``, blanks and more."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise ValueError("a number such as 5 or 0.5")
    return value


_NUMBER = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,16})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
#: Behind a number's bounds in an annotation.
PLAIN = BeforeValidator(_plain_number)
KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", pattern=r"^[\x21-\x7e]{1,128}$",
        description="The same key and request within ten minutes gives the same answer, from any server of the pool.",
        examples=["b5f0c1c4-7d0a-4f3a-9c55-0c4a1c9f9a10"],
    ),
]  # fmt: skip


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals that a path may give, for the schema."""
    return {
        status: {
            "description": _WHEN[status],
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
        }
        for status in sorted(statuses)
    }


_WHEN = {
    400: "The request or its body cannot be read",
    401: "It takes a token",
    403: "It takes another scope, or comes from a page of another site",
    404: "There is nothing of that name",
    409: "No room now, or the name, the token or the state is in the way",
    410: "The lease is over",
    413: "The body is too large",
    415: "The body is not application/json",
    422: "A value is not allowed, or can never be",
    429: "Too many requests: Retry-After says when to come again",
    503: "The ledger cannot be reached: Retry-After says when to come again",
}
LOOKING, CHANGING = (400, 401, 403, 422, 429, 503), (400, 401, 403, 409, 413, 415, 422, 429, 503)


def router(tag: str) -> APIRouter:
    """A router whose paths take no parameters but their own."""
    return APIRouter(tags=[tag], dependencies=[Depends(known_query)])


def json_bytes(body: bytes | str) -> Response:
    """An answer that is JSON already."""
    return Response(body, media_type="application/json")
