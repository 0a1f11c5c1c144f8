"""The schema at ``/openapi.json``: what FastAPI made of the routes, with scopes and examples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from broker.http import examples
from broker.http.schema import Done, ProblemBody
from broker.http.serving import admin, operator, viewer
from broker.thresholds import Thresholds

_SCOPES = {viewer: "viewer", operator: "operator", admin: "admin"}


def install(app: FastAPI, parts: Iterable[APIRouter]) -> None:
    """Make the schema once, when it is first asked for."""
    routes = [route for part in parts for route in part.routes if isinstance(route, APIRoute)]

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            told = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _add_components(told)
            for route in routes:
                for method in route.methods or ():
                    _complete(told["paths"][route.path_format][method.lower()], route, method.lower())
            app.openapi_schema = told
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]


def _add_components(told: dict[str, Any]) -> None:
    """What only answers that are no models of FastAPI's name."""
    own = TypeAdapter(ProblemBody).json_schema(ref_template="#/components/schemas/{model}")
    own["example"] = examples.PROBLEM
    told["components"]["schemas"]["ProblemBody"] = own


def _complete(operation: dict[str, Any], route: APIRoute, method: str) -> None:
    scope = next((_SCOPES[one.dependency] for one in route.dependencies if one.dependency in _SCOPES), None)
    if scope is not None:
        operation["x-scope"] = scope
        operation["description"] = f"{operation['description']}\n\nScope: `{scope}`."
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        if status.startswith("2") and "application/json" in content:
            content["application/json"]["example"] = _example(route, method)


def _example(route: APIRoute, method: str) -> Any:
    if route.response_model is Done:
        return examples.DONE
    if route.response_model is Thresholds:
        return Thresholds.parse({}).model_dump(mode="json")
    return examples.ANSWERS[method, route.path_format]
