"""The reference of HTTP, from the application's own OpenAPI."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from docs.make.markdown import code, docstring, table

_METHODS = ("get", "post", "put", "delete")


def is_there() -> bool:
    """Whether the application and what it stands on are installed."""
    return all(find_spec(name) is not None for name in ("broker.http", "fastapi"))


def page() -> str:
    """A section an endpoint: who may, what it takes, an example, what it answers."""
    told = openapi()
    return "\n".join(
        _endpoint(method.upper(), path, operation, told)
        for path, methods in told["paths"].items()
        for method, operation in methods.items()
        if method in _METHODS
    )


def openapi() -> dict[str, Any]:
    """The description that ``/openapi.json`` answers."""
    from broker.http.app import create_app  # type: ignore[import-not-found,unused-ignore]
    from broker.http.settings import HttpSettings  # type: ignore[import-not-found,unused-ignore]

    described: dict[str, Any] = create_app(HttpSettings()).openapi()  # connects to nothing before it serves
    return described


def _endpoint(method: str, path: str, operation: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    out = [f"## {method} {path}\n"]
    described = operation.get("description") or operation.get("summary") or ""
    out.append(docstring(described) + "\n")
    parameters = [
        (code(one["name"]), one["in"], "yes" if one.get("required") else "", one.get("description") or "")
        for one in operation.get("parameters", ())
    ]
    if parameters:
        out.append(table(("parameter", "in", "needed", "meaning"), parameters))
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body:
        out.append("Body:\n")
        out.append(table(("field", "meaning"), _fields(_resolved(body.get("schema", {}), told), told)))
        out += list(_examples(body))
    answers = [(code(status), answer.get("description", "")) for status, answer in operation["responses"].items()]
    out.append(table(("answer", "meaning"), answers))
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            for content in answer.get("content", {}).values():
                out += list(_examples(content))
    return "\n".join(out)


def _resolved(schema: Mapping[str, Any], told: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in schema:
        found: Any = told
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return dict(found)
    return schema


def _fields(schema: Mapping[str, Any], told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    needed = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        described = _resolved(field, told).get("description", "")
        default = f" Default: {code(json.dumps(field['default']))}." if field.get("default") is not None else ""
        yield code(name), f"{described}{'' if name not in needed else ' Needed.'}{default}".strip()


def _examples(content: Mapping[str, Any]) -> Iterator[str]:
    shown = [content["example"]] if "example" in content else []
    shown += [one["value"] for one in content.get("examples", {}).values() if "value" in one]
    for example in shown:
        text = example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)
        yield f"```json\n{text}\n```\n"
