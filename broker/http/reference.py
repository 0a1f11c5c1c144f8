"""The page at ``/docs``: the schema for people, without a script, so that it works under the page's own strict policy
and on a machine without the internet.
"""

from __future__ import annotations

import json
from collections import defaultdict
from html import escape
from typing import Any
from urllib.parse import quote

_METHODS = ("get", "post", "put", "delete")


def page(schema: dict[str, Any]) -> str:
    """All operations by tag, each with its parameters, an example of asking and one of the answer."""
    by_tag: dict[str, list[str]] = defaultdict(list)
    for path, verbs in schema["paths"].items():
        for method in _METHODS:
            if method in verbs:
                by_tag[verbs[method]["tags"][0]].append(_operation(path, method, verbs[method], schema))
    parts = [
        f'<section id="{_anchor(tag)}"><h2>{escape(tag)}</h2>{"".join(found)}</section>'
        for tag, found in by_tag.items()
    ]
    links = "".join(f'<li><a href="#{_anchor(tag)}">{escape(tag)}</a></li>' for tag in by_tag)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>gpubroker {escape(schema['info']['version'])}: HTTP</title>"
        '<link rel="stylesheet" href="/static/reference.css"></head><body><main>'
        f"<h1>gpubroker over HTTP</h1>{_words(schema['info']['description'])}"
        '<p><a href="/">The page</a> · <a href="/openapi.json">OpenAPI</a></p>'
        f"<nav><ul>{links}</ul></nav>{''.join(parts)}</main></body></html>\n"
    )


def _operation(path: str, method: str, told: dict[str, Any], schema: dict[str, Any]) -> str:
    scope = told.get("x-scope", "anybody")
    rows = "".join(_parameter(one) for one in told.get("parameters", ()))
    refusals = "".join(
        f"<tr><td>{status}</td><td>{escape(answer['description'])}</td></tr>"
        for status, answer in told["responses"].items()
        if not status.startswith("2")
    )
    ends, content = next((code, one.get("content", {})) for code, one in told["responses"].items() if code[0] == "2")
    example = content.get("application/json", {}).get("example")
    answer = "" if example is None else f"<pre>{escape(json.dumps(example, indent=1, ensure_ascii=False)[:4000])}</pre>"
    return (
        f'<article><h3><code>{method.upper()} {escape(path)}</code></h3><p class="summary">{escape(told["summary"])} '
        f'<span class="scope">{escape(scope)}</span></p>{_words(told["description"].partition("Scope:")[0])}'
        + (f"<table><tr><th>parameter</th><th>in</th><th>what</th></tr>{rows}</table>" if rows else "")
        + f"<pre>{escape(_curl(path, method, told, schema))}</pre>"
        + f"<details><summary>{ends}: {escape(', '.join(content) or 'no content')}</summary>{answer}</details>"
        + f"<details><summary>refusals</summary><table>{refusals}</table></details></article>"
    )


def _parameter(one: dict[str, Any]) -> str:
    schema = one["schema"]
    required = " (needed)" if one.get("required") else ""
    default = f" Default: {schema['default']}." if schema.get("default") not in (None, "") else ""
    what = one.get("description", "") + default
    return f"<tr><td><code>{escape(one['name'])}</code>{required}</td><td>{one['in']}</td><td>{escape(what)}</td></tr>"


def _curl(path: str, method: str, told: dict[str, Any], schema: dict[str, Any]) -> str:
    asked = []
    for one in told.get("parameters", ()):
        sample = str((one["schema"].get("examples") or ["…"])[0])
        if one["in"] == "path":
            path = path.replace("{" + one["name"] + "}", quote(sample, safe="/:@"))
        elif one["in"] == "query" and one.get("required"):
            asked.append(f"{one['name']}={quote(sample, safe='/:@')}")
    words = ["curl"] + (["-N"] if "text/event-stream" in json.dumps(told["responses"]) else [])
    words += [] if method == "get" else ["-X", method.upper()]
    words += ["-H", "'Authorization: Bearer TOKEN'"] if "x-scope" in told else []
    body = _body(told, schema)
    if body is not None:
        words += ["-H", "'Content-Type: application/json'", "-d", f"'{json.dumps(body)}'"]
    query = "?" + "&".join(asked) if asked else ""
    return " ".join([*words, f"'http://127.0.0.1:8390{path}{query}'"])


def _body(told: dict[str, Any], schema: dict[str, Any]) -> Any:
    content = told.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return None
    name = content["schema"]["$ref"].rpartition("/")[2]
    return schema["components"]["schemas"][name]["examples"][0]


def _words(text: str) -> str:
    """Paragraphs; words between backticks as code."""
    shown = []
    for paragraph in text.strip().split("\n\n"):
        parts = escape(paragraph.replace("``", "`")).split("`")
        marked = (f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
        shown.append(f"<p>{''.join(marked)}</p>")
    return "".join(shown)


def _anchor(tag: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in tag)
