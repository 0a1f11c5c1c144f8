"""The reference of HTTP, from the application's own OpenAPI."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from docs.make.markdown import code, docstring, table

ADDRESS = "http://127.0.0.1:8390"
#: What a reader puts in for a parameter, or for a field of an example.
PLACES = {"gpu": "UUID", "uuid": "UUID", "host": "HOST", "lease_id": "ID", "waiter_id": "WAITER", "token": "TOKEN"}
_METHODS = ("get", "post", "put", "delete")
_JSON = "application/json"


def is_there() -> bool:
    """Whether the application and what it stands on are installed."""
    return all(find_spec(name) is not None for name in ("broker.http", "fastapi"))


def page() -> str:
    """Answers that many give, then a section an endpoint: what it does and takes, how to ask it, what it answers."""
    told = openapi()
    usual = _usual(told)
    intro = f"## Answers of all\n\n{table(('answer', 'meaning'), [(code(one), what) for one, what in usual.items()])}\n"
    return intro + "\n".join(
        _section(method, path, operation, told, usual) for method, path, operation in endpoints(told)
    )


def openapi() -> dict[str, Any]:
    """The description that ``/openapi.json`` answers."""
    from broker.http.app import create_app  # type: ignore[import-not-found,unused-ignore]
    from broker.http.settings import HttpSettings  # type: ignore[import-not-found,unused-ignore]

    described: dict[str, Any] = create_app(HttpSettings()).openapi()  # connects to nothing before it serves
    return described


def endpoints(told: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and what is said of it."""
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            if method in _METHODS:
                yield method.upper(), path, operation


def curl(method: str, path: str, operation: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """How to ask an endpoint at a shell, with words in capitals for what a reader puts in."""
    words = ["curl"] + ["-N"] * _is_stream(operation) + (["-X", method] if method != "GET" else [])
    body = _body(operation, told)
    if body is not None:
        example: Mapping[str, Any] = next(iter(body.get("examples", ())), {})
        text = json.dumps({name: PLACES.get(name, value) for name, value in example.items()}).replace(
            '"TOKEN"', "TOKEN"
        )
        words += ["-H", f"Content-Type: {_JSON}", "-d", text]
    query = [
        f"{one['name']}={PLACES.get(one['name']) or _example(one)}"
        for one in operation.get("parameters", ())
        if one["in"] == "query" and (one.get("required") or one["name"] == "memory")
    ]
    for name, place in PLACES.items():
        path = path.replace(f"{{{name}}}", place)
    return shlex.join([*words, ADDRESS + path + ("?" + "&".join(query) if query else "")])


def _section(
    method: str, path: str, operation: Mapping[str, Any], told: Mapping[str, Any], usual: Mapping[str, str]
) -> str:
    described = operation.get("description") or operation.get("summary") or ""
    out = [f"## {method} {path}\n", docstring(described), f"\n```sh\n{curl(method, path, operation, told)}\n```\n"]
    parameters = [
        (code(one["name"]), one["in"], "yes" if one.get("required") else "", one.get("description") or "")
        for one in operation.get("parameters", ())
    ]
    if parameters:
        out.append(table(("parameter", "in", "needed", "meaning"), parameters))
    body = _body(operation, told)
    if body is not None and body.get("properties"):
        out.append(table(("field of the body", "needed", "meaning"), _fields(body, told)))
    out.append(table(("answer", "meaning"), _answers(operation, told, usual)))
    return "\n".join(out)


def _usual(told: Mapping[str, Any]) -> dict[str, str]:
    """Refusals that more than half of all endpoints may give."""
    each = list(endpoints(told))
    counted = Counter(
        (status, answer.get("description", ""))
        for _, _, operation in each
        for status, answer in operation["responses"].items()
        if not status.startswith("2")
    )
    return {status: what for (status, what), count in sorted(counted.items()) if 2 * count > len(each)}


def _answers(
    operation: Mapping[str, Any], told: Mapping[str, Any], usual: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    for status, answer in operation["responses"].items():
        what = answer.get("description", "")
        if status.startswith("2"):
            yield code(status), _shape(answer, told) or what
        elif usual.get(status) != what:
            yield code(status), what


def _shape(answer: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """The names of an answer's fields."""
    schema = answer.get("content", {}).get(_JSON, {}).get("schema", {})
    shapes = [_resolved(one, told) for one in schema.get("anyOf", [schema])]
    listed = [
        ("a list of " if shape.get("type") == "array" else "")
        + ", ".join(map(code, _resolved(shape.get("items", shape), told).get("properties", ())))
        for shape in shapes
    ]
    return "; or ".join(filter(None, (one.strip() for one in listed if not one.endswith("list of "))))


def _body(operation: Mapping[str, Any], told: Mapping[str, Any]) -> Mapping[str, Any] | None:
    content = operation.get("requestBody", {}).get("content", {}).get(_JSON)
    return None if content is None else _resolved(content.get("schema", {}), told)


def _resolved(schema: Mapping[str, Any], told: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Any = told
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def _fields(schema: Mapping[str, Any], told: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    needed = schema.get("required", ())
    for name, field in schema["properties"].items():
        described = field.get("description") or _resolved(field, told).get("description", "")
        default = f" Default: {code(json.dumps(field['default']))}." if field.get("default") is not None else ""
        yield code(name), "yes" if name in needed else "", f"{described}{default}".strip()


def _example(parameter: Mapping[str, Any]) -> str:
    return str(next(iter(parameter.get("schema", {}).get("examples", ())), "1"))


def _is_stream(operation: Mapping[str, Any]) -> bool:
    return "text/event-stream" in operation["responses"].get("200", {}).get("content", {})
