"""The application: the gate, the paths, and the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from broker.http import openapi, problems, reference
from broker.http.auth import Tokens
from broker.http.gate import Gate
from broker.http.idempotency import Idempotency
from broker.http.routes import config, gpus, leases, marks, metrics, pool, probes, streams, waiters
from broker.http.serving import Serving
from broker.http.settings import HttpSettings

PARTS = tuple(part.routes for part in (gpus, leases, waiters, config, marks, pool, streams, metrics, probes))
STATIC = Path(__file__).with_name("static")
_ABOUT = """Leases of GPU memory, for who does not speak Python or Redis. Names, units and meanings are those of the
`gpubroker` command: bytes, seconds in requests, and milliseconds of Redis's clock in answers. Refusals are
`application/problem+json`. State changes by POST, PUT and DELETE alone."""


def create_app(settings: HttpSettings) -> FastAPI:
    """The application over the pool of ``settings``; it connects when it starts.

    Raises:
        InvalidRequest: the URL, the pool's name or a token is not allowed.
    """
    tokens, serving = Tokens(settings), Serving(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with serving.running():
            yield

    app = FastAPI(
        title="gpubroker", version=version("gpubroker"), description=_ABOUT, lifespan=lifespan, docs_url=None,
        redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.serving = serving
    problems.install(app, PARTS)
    for part in PARTS:
        app.include_router(part)
    openapi.install(app, PARTS)
    app.add_api_route("/", _page, include_in_schema=False)
    app.add_api_route("/docs", _reference, include_in_schema=False)
    app.mount("/static", GZipMiddleware(StaticFiles(directory=STATIC)), name="static")
    app.add_middleware(Idempotency, broker=serving.broker)
    app.add_middleware(Gate, settings=settings, tokens=tokens)
    return app


async def _page() -> Response:
    return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")


async def _reference(request: Request) -> Response:
    return HTMLResponse(reference.page(request.app.openapi()))
