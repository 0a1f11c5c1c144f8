"""Leases: allocate and deallocate, who holds what, renew, resize and revoke."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from fastapi import Depends, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from broker.calls import ALTERNATIVES_MOST, GPUS_MOST, PLACEMENTS
from broker.errors import LeaseNotFound
from broker.http.auth import Caller
from broker.http.gone import unless_gone
from broker.http.reading import Reading
from broker.http.routes import CHANGING, LOOKING, NAME, KeyHeader, LeasePath, json_bytes, problems, router
from broker.http.schema import AllocatedLease, Body, Leases, LeaseView, Released, Renewed, Resized, Revoked
from broker.http.serving import Asking, Parts, Serving, operator, viewer
from broker.models import LeaseRecord
from broker.units import MAX_MEMORY_BYTES, MAX_SAFE_INTEGER

routes = router("leases")
_MAY_LOOK, _MAY_LEND = [Depends(viewer)], [Depends(operator)]

_ONE_SIZE = r"([1-9][0-9]? ?[xX] ?)?0{0,8}[1-9][0-9]{0,7}(\.[0-9]{1,9})? ?([kKmMgGtT]([iI]?[bB])?|[bB])?"
SIZE, SIZES = f"^{_ONE_SIZE}$", f"^{_ONE_SIZE}(,{_ONE_SIZE}){{0,7}}$"
CAPABILITY, MIG = r"^[0-9]{1,2}\.[0-9]{1,2}$", r"^(any|none|only|[0-9]{1,2}g\.[0-9]{1,4}gb(\+[a-z0-9.]{1,16})?)$"
PLACEMENT = f"^({'|'.join(PLACEMENTS)})$"

Name = Annotated[str, Field(pattern=NAME)]
Size = Annotated[int, Field(ge=1, le=MAX_MEMORY_BYTES)] | Annotated[str, Field(pattern=SIZE)]
LabelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Token = Annotated[int, Field(ge=1, le=MAX_SAFE_INTEGER, description="The lease's, which only its holder knows.")]
Ttl = Annotated[float, Field(ge=0.1, le=86_400, description="Seconds until it ends unless renewed.")]
Wait = Annotated[float, Field(ge=0, le=60, description="Seconds to wait for room.")]


class Allocate(Body):
    """A request for memory, as ``Broker.acquire`` takes it; ``memory`` of each of ``gpus`` cards of one host."""

    memory: Size | Annotated[list[Size], Field(min_length=1, max_length=ALTERNATIVES_MOST)] = Field(
        description='Bytes or a size: "4GiB", "2x8GiB", or several of which the first that fits is taken.'
    )
    lease_id: Name | None = None
    ttl: Ttl = 30
    wait: Wait = 0
    gpus: int = Field(1, ge=1, le=GPUS_MOST)
    host: Name | None = None
    gpu: Name | None = None
    priority: int = Field(0, ge=-1000, le=1000)
    tenant: Name = "default"
    placement: Annotated[str, Field(pattern=PLACEMENT)] | None = None
    token: Token | None = None
    owner: Name | None = None
    job_id: Name | None = None
    pid: Annotated[int, Field(ge=1, le=1 << 22)] | None = None
    labels: dict[LabelName, LabelValue] | None = None
    capability: Annotated[str, Field(pattern=CAPABILITY)] | None = None
    mig: Annotated[str, Field(pattern=MIG)] | None = None
    host_memory: Size | None = None
    cpus: Annotated[float, Field(ge=0.001, le=100_000)] | None = None
    function: Name | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"memory": "4GiB", "lease_id": "job-7", "ttl": 30, "wait": 10},
                {"memory": ["16GiB", "2x8GiB"]},
            ]
        }
    )


class Deallocate(Body):
    """Which lease ends, and its token."""

    lease_id: Name
    token: Token

    model_config = ConfigDict(json_schema_extra={"examples": [{"lease_id": "job-7", "token": 254275346825609217}]})


class Renew(Body):
    """The lease's token; ``ttl`` changes for how long it is put off, for good."""

    token: Token
    ttl: Ttl | None = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"token": 254275346825609217, "ttl": 60}]})


class Resize(Body):
    """The lease's token, and what it is to have of each of its cards."""

    token: Token
    memory: Size
    wait: Wait = 0

    model_config = ConfigDict(json_schema_extra={"examples": [{"token": 254275346825609217, "memory": "6GiB"}]})


class Revoke(Body):
    """How many seconds its holder has, and what he is told."""

    grace: float = Field(10, ge=0, le=86_400)
    reason: str = Field("revoked", min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")

    model_config = ConfigDict(json_schema_extra={"examples": [{"grace": 30, "reason": "maintenance"}]})


@routes.post(
    "/api/gpu/memory/allocate", status_code=201, response_model=AllocatedLease, dependencies=_MAY_LEND,
    responses=problems(*CHANGING, 404, 410), summary="Borrow memory",
)  # fmt: skip
async def allocate(
    request: Request, parts: Parts, asks: Asking, body: Allocate, idempotency_key: KeyHeader = None
) -> Response:
    """A lease, or why there is none. The same ``lease_id`` and request again returns the same lease: a retry takes
    nothing twice; without one an ``Idempotency-Key`` names it. Who goes away while waiting leaves the queue."""
    wanted = body.model_dump()
    if wanted["lease_id"] is None and idempotency_key:
        wanted["lease_id"] = name_of(asks, idempotency_key)
    wanted["owner"] = wanted["owner"] or _owner(request)
    wanted["wait"] = min(body.wait, parts.settings.limits.wait_seconds)
    memory = wanted.pop("memory")
    if body.wait:
        with parts.waiting.seat(asks.key):
            lease = await unless_gone(request, parts.broker.acquire(memory, **wanted))
    else:
        lease = await parts.broker.acquire(memory, **wanted)
    parts.reader.touch()
    record = await parts.broker.get(lease.id)
    if record is None:
        raise LeaseNotFound(f"lease {lease.id} ended before it could be told")
    told = record.model_dump(mode="json") | {"token": lease.token, "env": lease.env({})}
    return Response(json.dumps(told), 201, media_type="application/json")


def name_of(asks: Caller, key: str) -> str:
    """The lease that a key names, for one caller."""
    return "http-" + hashlib.sha256(f"{asks.key}\n{key}".encode()).hexdigest()[:40]


def _owner(request: Request) -> str:
    return f"http@{request.client.host if request.client else 'unix'}"[:128].replace("%", "-")


@routes.post(
    "/api/gpu/memory/deallocate", response_model=Released, dependencies=_MAY_LEND,
    responses=problems(*CHANGING, 404, 410), summary="Give memory back",
)  # fmt: skip
async def deallocate(parts: Parts, body: Deallocate, idempotency_key: KeyHeader = None) -> Response:
    """End a lease; its bytes are lent again at once."""
    in_time = await parts.broker.release(body.lease_id, body.token)
    parts.reader.touch()
    return json_bytes(json.dumps({"id": body.lease_id, "in_time": in_time}))


@routes.get(
    "/api/leases", response_model=Leases, dependencies=_MAY_LOOK, responses=problems(*LOOKING),
    summary="Who holds memory",
)  # fmt: skip
async def leases(parts: Parts) -> Response:
    """Every lease whose bytes count, the next to end first; without tokens, which are their holders' secrets."""
    reading = await parts.reader.current()
    return json_bytes(reading.answer("leases", lambda: listed(parts.settings.pool, reading, "leases")))


def listed(pool: str, reading: Reading, name: str) -> str:
    """All of one kind, with the pool's name and the time."""
    return f'{{"pool":{json.dumps(pool)},"now":{reading.now},"{name}":{getattr(reading, name).array()}}}'


@routes.get(
    "/api/leases/{lease_id:path}", response_model=LeaseView, dependencies=_MAY_LOOK, responses=problems(*LOOKING, 404),
    summary="One lease",
)  # fmt: skip
async def one_lease(parts: Parts, lease_id: LeasePath) -> Response:
    """A lease as it is now, without its token."""
    return json_bytes((await _record(parts, lease_id)).model_dump_json(exclude={"token"}))


async def _record(parts: Serving, lease_id: str) -> LeaseRecord:
    found = await parts.broker.get(lease_id)
    if found is None:
        raise LeaseNotFound(f"the ledger holds no lease {lease_id}: it ended, or never was; see `gpubroker leases`")
    return found


@routes.post(
    "/api/leases/{lease_id:path}/renew", response_model=Renewed, dependencies=_MAY_LEND,
    responses=problems(*CHANGING, 404, 410), summary="Put a lease's end off",
)  # fmt: skip
async def renew(parts: Parts, lease_id: LeasePath, body: Renew, idempotency_key: KeyHeader = None) -> Response:
    """One TTL from now. A holder who was asked to end it hears of that here."""
    told = await parts.broker.prolong(lease_id, body.token, body.ttl)
    return json_bytes(json.dumps({
        "id": lease_id, "expires_at": told.expires_at, "revoke_at": told.revoke_at or None,
        "revoke_reason": told.reason,
    }))  # fmt: skip


@routes.post(
    "/api/leases/{lease_id:path}/resize", response_model=Resized, dependencies=_MAY_LEND,
    responses=problems(*CHANGING, 404, 410), summary="Give a lease more or less",
)  # fmt: skip
async def resize(
    request: Request, parts: Parts, asks: Asking, lease_id: LeasePath, body: Resize, idempotency_key: KeyHeader = None
) -> Response:
    """Shrinking is done at once; growing may wait for room, in the lease's own priority."""
    with parts.waiting.seat(asks.key):
        wait = min(body.wait, parts.settings.limits.wait_seconds)
        has = await unless_gone(request, parts.broker.resize(lease_id, body.token, body.memory, wait))
    parts.reader.touch()
    return json_bytes(json.dumps({"id": lease_id, "memory_bytes": has}))


@routes.post(
    "/api/leases/{lease_id:path}/revoke", response_model=Revoked, dependencies=_MAY_LEND,
    responses=problems(*CHANGING, 404, 410), summary="Ask for a lease's end",
)  # fmt: skip
async def revoke(parts: Parts, lease_id: LeasePath, body: Revoke, idempotency_key: KeyHeader = None) -> Response:
    """Its holder hears it at its next renewal and has ``grace`` seconds; then it ends as if its time were over."""
    revoke_at = await parts.broker.revoke(lease_id, body.grace, body.reason)
    parts.reader.touch()
    return json_bytes(json.dumps({"id": lease_id, "revoke_at": revoke_at}))
