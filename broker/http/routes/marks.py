"""Taking cards and machines out of service, and back, or for good."""

from __future__ import annotations

from fastapi import Depends
from starlette.responses import Response

from broker.http.routes import CHANGING, GpuPath, HostPath, KeyHeader, json_bytes, problems, router
from broker.http.schema import Done
from broker.http.serving import Parts, Serving, operator

routes = router("service")
_MAY_MARK = [Depends(operator)]
_REFUSALS = problems(*CHANGING, 404)


def _done(parts: Serving) -> Response:
    parts.reader.touch()
    return json_bytes('{"done":true}')


@routes.post(
    "/api/gpus/{uuid:path}/drain", response_model=Done, dependencies=_MAY_MARK, responses=_REFUSALS,
    summary="Grant nothing more on a card",
)  # fmt: skip
async def drain_gpu(parts: Parts, uuid: GpuPath, idempotency_key: KeyHeader = None) -> Response:
    """Leases that are held stay."""
    await parts.broker.drain(uuid)
    return _done(parts)


@routes.post(
    "/api/gpus/{uuid:path}/undrain", response_model=Done, dependencies=_MAY_MARK, responses=_REFUSALS,
    summary="Grant on a card again",
)  # fmt: skip
async def undrain_gpu(parts: Parts, uuid: GpuPath, idempotency_key: KeyHeader = None) -> Response:
    """Waiters for whom there is room are served in the same step."""
    await parts.broker.undrain(uuid)
    return _done(parts)


@routes.post(
    "/api/hosts/{host:path}/drain", response_model=Done, dependencies=_MAY_MARK, responses=_REFUSALS,
    summary="Grant nothing more on a machine",
)  # fmt: skip
async def drain_host(parts: Parts, host: HostPath, idempotency_key: KeyHeader = None) -> Response:
    """Also on cards of it that are still to come."""
    await parts.broker.drain(host=host)
    return _done(parts)


@routes.post(
    "/api/hosts/{host:path}/undrain", response_model=Done, dependencies=_MAY_MARK, responses=_REFUSALS,
    summary="Grant on a machine again",
)  # fmt: skip
async def undrain_host(parts: Parts, host: HostPath, idempotency_key: KeyHeader = None) -> Response:
    """Cards of it that are drained themselves stay so."""
    await parts.broker.undrain(host=host)
    return _done(parts)


@routes.post(
    "/api/hosts/{host:path}/retire", response_model=Done, dependencies=_MAY_MARK, responses=_REFUSALS,
    summary="Forget a machine that is gone for good",
)  # fmt: skip
async def retire(parts: Parts, host: HostPath, idempotency_key: KeyHeader = None) -> Response:
    """Its cards go with their last leases. Refused while its agent is at work."""
    await parts.broker.retire(host)
    return _done(parts)
