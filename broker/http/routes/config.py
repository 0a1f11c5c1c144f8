"""What the pool runs by: its settings, and whether its cards are watched at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import Depends
from pydantic import BaseModel, ConfigDict, create_model
from pydantic.fields import FieldInfo
from starlette.responses import Response

from broker.errors import InvalidRequest
from broker.http.routes import CHANGING, LOOKING, GpuQuery, KeyHeader, json_bytes, problems, router
from broker.http.routes.gpus import one_gpu
from broker.http.schema import Body, Done
from broker.http.serving import Parts, admin, viewer
from broker.thresholds import Thresholds

routes = router("configuration")


class _Settings(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"temp_optimal": 60}]})


if TYPE_CHECKING:
    Changes = BaseModel
else:
    #: Any of the settings, each within its own bounds, and none by default: what is not there is not changed.
    Changes = create_model(
        "Changes",
        __base__=_Settings,
        __doc__="Settings to change, all or none; `null` restores a default.",
        **{
            name: (field.annotation | None, FieldInfo.merge_field_infos(field, default=None))
            for name, field in Thresholds.model_fields.items()
        },
    )


@routes.get(
    "/api/gpu/config", response_model=Thresholds, dependencies=[Depends(viewer)], responses=problems(*LOOKING, 404),
    summary="The pool's settings",
)  # fmt: skip
async def config(parts: Parts, gpu: GpuQuery = None) -> Response:
    """Every setting of the pool, or as it holds for one card; defaults and bounds stand in the schema."""
    if gpu is not None:
        await one_gpu(parts, gpu)
    return json_bytes((await parts.broker.config(gpu)).model_dump_json())


@routes.put(
    "/api/gpu/config", response_model=Thresholds, dependencies=[Depends(admin)], responses=problems(*CHANGING, 404),
    summary="Change settings",
)  # fmt: skip
async def update_config(
    parts: Parts,
    body: Changes,
    gpu: GpuQuery = None,
    idempotency_key: KeyHeader = None,
) -> Response:
    """All of them or none; agents follow within one interval. ``null`` restores a default."""
    changes: dict[str, Any] = body.model_dump(exclude_unset=True)
    if not changes:
        raise InvalidRequest("body", "{}", "at least one setting")
    if gpu is not None:
        await one_gpu(parts, gpu)
    told = await parts.broker.update_config(gpu, **changes)
    parts.reader.touch()
    return json_bytes(told.model_dump_json())


@routes.post(
    "/api/gpu/monitoring/start", response_model=Done, dependencies=[Depends(admin)], responses=problems(*CHANGING),
    summary="Watch the cards again",
)  # fmt: skip
async def start(parts: Parts, idempotency_key: KeyHeader = None) -> Response:
    """Agents read their cards again, within one interval; the cards lend once they were read."""
    return await _monitoring(parts, None)


@routes.post(
    "/api/gpu/monitoring/stop", response_model=Done, dependencies=[Depends(admin)], responses=problems(*CHANGING),
    summary="Watch the cards no more",
)  # fmt: skip
async def stop(parts: Parts, idempotency_key: KeyHeader = None) -> Response:
    """Agents go on saying that they live and touch no hardware; their cards are UNAVAILABLE and lend nothing more.
    Leases that are held stay."""
    return await _monitoring(parts, 0)


async def _monitoring(parts: Parts, value: int | None) -> Response:
    await parts.broker.update_config(monitoring=value)
    parts.reader.touch()
    return json_bytes('{"done":true}')
