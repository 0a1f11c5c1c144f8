"""For those who watch the server itself."""

from __future__ import annotations

from starlette.responses import Response

from broker.http.routes import json_bytes, problems, router
from broker.http.schema import Alive
from broker.http.serving import Parts

routes = router("probes")


@routes.get("/healthz", response_model=Alive, responses=problems(400, 422, 429), summary="Whether the process lives")
async def healthz() -> Response:
    """Asks nobody else."""
    return json_bytes('{"ok":true}')


@routes.get(
    "/readyz", response_model=Alive, responses=problems(400, 422, 429, 503), summary="Whether the ledger answers"
)
async def readyz(parts: Parts) -> Response:
    """Asks Redis."""
    await parts.broker.epoch()
    return json_bytes('{"ok":true}')
