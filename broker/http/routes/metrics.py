"""The pool for Prometheus."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Header
from starlette.responses import Response

from broker.http.routes import problems, router
from broker.http.serving import Parts, viewer
from broker.metrics import content_type

routes = router("metrics")


_TEXT = {"schema": {"type": "string"}}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus's text, or OpenMetrics where it is asked for",
        "content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT},
    }
}


@routes.get(
    "/metrics", response_class=Response, dependencies=[Depends(viewer)], summary="The pool for Prometheus",
    responses=_ANSWER | problems(400, 401, 403, 422, 429),
)  # fmt: skip
async def metrics(
    parts: Parts, accept: Annotated[str, Header(max_length=1000, description="Which of the two texts.")] = ""
) -> Response:
    """Gauges, counters and histograms in base units. A ledger that cannot be reached is told by ``gpubroker_ledger_up
    0``, so that it is seen by who watches."""
    return Response(await parts.exporter.render(accept), headers={"Content-Type": content_type(accept)})
