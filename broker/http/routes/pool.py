"""The rest of the pool: hosts, tenants, learned sizes, whether the ledger adds up, and what this caller may do."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Depends
from pydantic import BaseModel
from starlette.responses import Response

from broker.http.auth import Scope
from broker.http.routes import LOOKING, json_bytes, problems, router
from broker.http.schema import Me
from broker.http.serving import Asking, Parts, viewer
from broker.models import Tenant

routes = router("pool")
_MAY_LOOK = [Depends(viewer)]


@routes.get(
    "/api/hosts", response_model=list[dict[str, str]], dependencies=_MAY_LOOK, responses=problems(*LOOKING),
    summary="The machines",
)  # fmt: skip
async def hosts(parts: Parts) -> Response:
    """Each machine as its agent tells it, as ``gpubroker hosts --json``."""
    reading = await parts.reader.current()
    return json_bytes(reading.answer("hosts", reading.hosts.array))


@routes.get(
    "/api/tenants", response_model=list[Tenant], dependencies=_MAY_LOOK, responses=problems(*LOOKING),
    summary="Who shares the pool",
)  # fmt: skip
async def tenants(parts: Parts) -> Response:
    """Quota, weight, what each holds and has used lately, and what his functions took."""
    return json_bytes(json.dumps([one.model_dump(mode="json") for one in await parts.broker.tenants()]))


@routes.get(
    "/api/sizes", response_model=list[dict[str, Any]], dependencies=_MAY_LOOK, responses=problems(*LOOKING),
    summary="What functions took",
)  # fmt: skip
async def sizes(parts: Parts) -> Response:
    """What was learned of jobs of ``memory="auto"``, as ``gpubroker sizes --json``."""
    return json_bytes(json.dumps([one.as_dict() for one in await parts.broker.sizes()]))


class DifferenceAnswer(BaseModel):
    """One thing that does not follow from the leases."""

    kind: str
    key: str
    says: str
    should_be: str


class Fsck(BaseModel):
    """Whether the ledger adds up."""

    pool: str
    fine: bool
    differences: list[DifferenceAnswer]


@routes.get(
    "/api/fsck", response_model=Fsck, dependencies=_MAY_LOOK, responses=problems(*LOOKING),
    summary="Whether the ledger adds up",
)  # fmt: skip
async def fsck(parts: Parts) -> Response:
    """Every lasting difference between the leases and what the ledger keeps about them. Reads the whole pool, so one
    check runs at a time, for all who asked before it began."""
    return json_bytes(await parts.checks.take())


@routes.get("/api/me", response_model=Me, responses=problems(400, 403, 422, 429), summary="What this caller may do")
async def me(asks: Asking) -> Me:
    """For a page that shows only what can be done. Who shows no token that is known has no scope."""
    may = asks.scope is not None and asks.scope >= Scope.OPERATOR
    return Me(scope=asks.scope.word if asks.scope is not None else None, authenticated=asks.authenticated, actions=may)
