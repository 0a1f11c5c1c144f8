"""Who waits, at which place, and why."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, Path, Query
from pydantic import BaseModel
from starlette.responses import Response

from broker.calls import GPUS_MOST, wants
from broker.errors import InvalidRequest, LeaseNotFound
from broker.explain import Explanation, explain_async, explain_named_async
from broker.http.routes import CHANGING, LOOKING, NAME, PLAIN, KeyHeader, json_bytes, problems, router
from broker.http.routes.leases import CAPABILITY, MIG, PLACEMENT, SIZE, SIZES, listed
from broker.http.schema import Done, Waiters
from broker.http.serving import Parts, operator, viewer

routes = router("waiters")

WaiterPath = Annotated[str, Path(pattern=NAME, description="A request's name.", examples=["job-8"])]


@routes.get(
    "/api/waiters", response_model=Waiters, dependencies=[Depends(viewer)], responses=problems(*LOOKING),
    summary="Who waits",
)  # fmt: skip
async def waiters(parts: Parts) -> Response:
    """Every request that waits, the next to be served first, with its place."""
    reading = await parts.reader.current()
    return json_bytes(reading.answer("waiters", lambda: listed(parts.settings.pool, reading, "waiters")))


@routes.delete(
    "/api/waiters/{waiter_id:path}", response_model=Done, dependencies=[Depends(operator)],
    responses=problems(*CHANGING, 404), summary="Take a request out of the queue",
)  # fmt: skip
async def cancel(parts: Parts, waiter_id: WaiterPath, idempotency_key: KeyHeader = None) -> Response:
    """Who waits under that name hears that there was no room."""
    if not await parts.broker.cancel(waiter_id):
        raise LeaseNotFound(f"no request {waiter_id} waits; see `gpubroker waiters`")
    parts.reader.touch()
    return json_bytes('{"done":true}')


class CardVerdictAnswer(BaseModel):
    """What speaks against the request on one card."""

    uuid: str
    host: str
    why: str
    need_bytes: int
    free_bytes: int
    budget_bytes: int
    capacity_bytes: int
    detail: str


class ExplanationAnswer(BaseModel):
    """Why a request waits, or would, as ``broker.explain.Explanation``; ``words`` are for people."""

    what: str
    request: str
    kind: str
    place: int | None
    waiters: int
    quota_left_bytes: int | None
    settling_until: int | None
    now: int
    cards: list[CardVerdictAnswer]
    total_cards: int
    tenant: str
    gpus: int
    estimate_seconds: float | None
    never: str
    ahead: int
    fits: bool
    words: list[str]


def _asks(description: str, pattern: str, samples: list[str] | None = None) -> Any:
    return Query(pattern=pattern, description=description, examples=samples)


@routes.get(
    "/api/explain", response_model=ExplanationAnswer, dependencies=[Depends(viewer)], responses=problems(*LOOKING, 404),
    summary="Why a request waits, or would",
)  # fmt: skip
async def explain(
    parts: Parts,
    id: Annotated[str | None, _asks("The name of a request that waits, a lease, or a job.", NAME, ["job-8"])] = None,
    memory: Annotated[str | None, _asks("A size to ask for, or several.", SIZES, ["20GiB", "16GiB,2x8GiB"])] = None,
    gpus: Annotated[int, Query(ge=1, le=GPUS_MOST, description="Cards of one host."), PLAIN] = 1,
    host: Annotated[str | None, _asks("Only on this host.", NAME)] = None,
    gpu: Annotated[str | None, _asks("Only on this card.", NAME)] = None,
    priority: Annotated[int, Query(ge=-1000, le=1000, description="A higher one waits in front."), PLAIN] = 0,
    tenant: Annotated[str, _asks("On whose account.", NAME)] = "default",
    placement: Annotated[str | None, _asks("How it is placed.", PLACEMENT)] = None,
    capability: Annotated[str | None, _asks("The least compute capability.", CAPABILITY)] = None,
    mig: Annotated[str | None, _asks("MIG: any, none, only or a profile.", MIG)] = None,
    host_memory: Annotated[str | None, _asks("Of the host's own memory.", SIZE)] = None,
    cpus: Annotated[float | None, Query(ge=0.001, le=100_000, description="Of its processors."), PLAIN] = None,
) -> Response:
    """By the very predicate that grants, card by card: what is in the way of a request that waits (``id``), or of one
    that would be made (``memory`` and the rest)."""
    if (id is None) == (memory is None):
        raise InvalidRequest("id", id, "either id, the name of a request, or memory, a size to ask for")
    if id is not None:
        told = await explain_named_async(parts.broker, id)
        if told.kind == "unknown":
            raise LeaseNotFound(f"{id} neither waits nor holds a lease")
    else:
        options: dict[str, Any] = {
            "gpus": gpus, "host": host, "gpu": gpu, "priority": priority, "tenant": tenant, "placement": placement,
            "capability": capability, "mig": mig, "host_memory": host_memory, "cpus": cpus,
        }  # fmt: skip
        told = await explain_async(parts.broker, _size(memory or ""), **options)
    return json_bytes(json.dumps(_answer(told)))


def _size(memory: str) -> list[str]:
    """Alternatives, which must be sizes: a name is asked for as ``id``."""
    asked = memory.split(",")
    wants(asked)
    return asked


def _answer(told: Explanation) -> dict[str, Any]:
    return asdict(told) | {"ahead": told.ahead, "fits": told.fits, "words": told.words()}
