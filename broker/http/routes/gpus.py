"""The cards: status, metrics, history, trend, what is available, and what a job on one should do."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, Query
from starlette.responses import Response

from broker import plans
from broker.errors import NotInPool
from broker.http.reading import Reading, worst_state
from broker.http.routes import LOOKING, PLAIN, GpuQuery, OneGpuQuery, json_bytes, problems, router
from broker.http.schema import AllMetrics, Available, History, Metrics, Status, Summary, ThrottleAnswer, TrendAnswer
from broker.http.serving import Parts, Serving, viewer
from broker.models import Gpu
from broker.values import State

routes = router("cards")
_MAY_LOOK = [Depends(viewer)]


async def one_gpu(parts: Serving, uuid: str) -> Gpu:
    """A card as a grant would see it now.

    Raises:
        NotInPool: the pool knows no such card.
    """
    found = await parts.broker.run(plans.gpu(parts.broker.keys, uuid))
    if found is None:
        raise NotInPool(f"the pool knows no GPU {uuid}; see `gpubroker status`")
    return found


@routes.get(
    "/api/gpu/status", response_model=Gpu | Summary, dependencies=_MAY_LOOK, responses=problems(*LOOKING, 404),
    summary="One card, or the pool at a glance",
)  # fmt: skip
async def status(parts: Parts, gpu: GpuQuery = None) -> Response:
    """With ``gpu`` that card as it is now; without one the pool's sums, a second old at most, as ``now`` says."""
    if gpu is not None:
        return json_bytes((await one_gpu(parts, gpu)).model_dump_json())
    reading = await parts.reader.current()
    return json_bytes(reading.answer("summary", lambda: json.dumps(_summary(parts.settings.pool, reading))))


def _summary(pool: str, reading: Reading) -> dict[str, Any]:
    cards = [item.facts for item in reading.gpus.items.values()]
    states = Counter(card["state"] for card in cards)
    return {
        "pool": pool,
        "now": reading.now,
        "gpus": len(cards),
        "lending": sum(1 for card in cards if _lends(card)),
        **{name: sum(card[name] for card in cards) for name in ("leased_bytes", "free_bytes", "budget_bytes")},
        "leases": len(reading.leases.items),
        "waiters": len(reading.waiters.items),
        "worst_state": worst_state(reading),
        "states": {state.value: states[state.value] for state in State if states[state.value]},
    }


def _lends(card: dict[str, Any]) -> bool:
    return card["state"] not in (State.CRITICAL, State.UNAVAILABLE) and not card["drained"]


@routes.get(
    "/api/gpu/status/all", response_model=Status, dependencies=_MAY_LOOK, responses=problems(*LOOKING),
    summary="Every host and card",
)  # fmt: skip
async def status_all(parts: Parts) -> Response:
    """As ``gpubroker status --json``, as it was at ``now``: a second ago at most, but for very large pools."""
    reading = await parts.reader.current()
    return json_bytes(reading.answer("status", lambda: _whole(parts.settings.pool, reading, ("hosts", "gpus"))))


def _whole(pool: str, reading: Reading, names: tuple[str, ...]) -> str:
    shelves = ",".join(f'"{name}":{getattr(reading, name).array()}' for name in names)
    return f'{{"pool":{json.dumps(pool)},"now":{reading.now},{shelves}}}'


@routes.get(
    "/api/gpu/metrics", response_model=Metrics | AllMetrics, dependencies=_MAY_LOOK, responses=problems(*LOOKING, 404),
    summary="What a card says of itself, and what runs on it",
)  # fmt: skip
async def metrics(parts: Parts, gpu: GpuQuery = None) -> Response:
    """The newest sample, the hardware's own words and the processes with their leases: of one card, or of all."""
    if gpu is not None:
        return json_bytes(json.dumps(await parts.metrics_of((await one_gpu(parts, gpu)).model_dump(mode="json"))))
    return json_bytes(await parts.measures.take())


@routes.get(
    "/api/gpu/metrics/history", response_model=History, dependencies=_MAY_LOOK, responses=problems(*LOOKING, 404),
    summary="A card's samples",
)  # fmt: skip
async def history(
    parts: Parts,
    gpu: OneGpuQuery,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Of the last so many."), PLAIN] = 200,
) -> Response:
    """The last samples of a card, oldest first; how many are kept is the setting ``history_size``."""
    samples = (await parts.broker.history(gpu))[-limit:]
    return json_bytes(json.dumps({"gpu": gpu, "samples": [one.model_dump(mode="json") for one in samples]}))


@routes.get(
    "/api/gpu/temperature/trend", response_model=TrendAnswer, dependencies=_MAY_LOOK, responses=problems(*LOOKING, 404),
    summary="Where a card's temperature goes",
)  # fmt: skip
async def trend(
    parts: Parts,
    gpu: OneGpuQuery,
    minutes: Annotated[float, Query(ge=0.1, le=1440, description="How far back."), PLAIN] = 5.0,
) -> Response:
    """The line through the temperatures of the last minutes, and which threshold it crosses when."""
    found = await parts.broker.trend(gpu, minutes)
    return json_bytes(json.dumps(asdict(found) | {"words": found.words()}))


@routes.get(
    "/api/gpu/memory/available", response_model=Available, dependencies=_MAY_LOOK, responses=problems(*LOOKING),
    summary="What could be borrowed now",
)  # fmt: skip
async def available(parts: Parts) -> Response:
    """Free bytes of each card that is open for grants; as of ``now``."""
    reading = await parts.reader.current()

    def make() -> str:
        cards = [item.facts for item in reading.gpus.items.values() if _lends(item.facts)]
        free = {card["uuid"]: card["free_bytes"] for card in cards}
        return json.dumps({
            "pool": parts.settings.pool, "now": reading.now, "available": free,
            "largest_bytes": max(free.values(), default=0), "total_bytes": sum(free.values()),
        })  # fmt: skip

    return json_bytes(reading.answer("available", make))


@routes.get(
    "/api/gpu/throttle/status", response_model=ThrottleAnswer, dependencies=_MAY_LOOK, responses=problems(*LOOKING),
    summary="What a job on a card should do",
)  # fmt: skip
async def throttle(parts: Parts, gpu: GpuQuery = None) -> Response:
    """State and speed that a holder sees; without ``gpu`` those of the pool's worst card. Unknown is UNAVAILABLE."""
    if gpu is not None:
        told = await parts.broker.throttle(gpu)
        return json_bytes(json.dumps({"state": told.state.value, "speed": told.speed, "reason": told.reason}))
    reading = await parts.reader.current()
    return json_bytes(reading.answer("throttle", lambda: json.dumps(_worst(reading))))


def _worst(reading: Reading) -> dict[str, Any]:
    cards = [item.facts for item in reading.gpus.items.values()]
    if not cards:
        return {"state": "UNAVAILABLE", "speed": 0.0, "reason": "the pool has no GPU; is an agent running?"}
    worst = max(cards, key=lambda card: State(card["job_state"]).rank)
    state = State(worst["job_state"])
    return {"state": state.value, "speed": state.speed, "reason": worst["reason"] or f"{worst['name']} is {state}"}
