"""The table of configuration, from ``broker.thresholds.Thresholds``."""

from __future__ import annotations

from typing import Any, get_args

from pydantic.fields import FieldInfo

from broker.thresholds import Thresholds
from docs.make.markdown import code, table


def page() -> str:
    """Every name: default, unit, bounds, meaning."""
    rows = [
        (code(name), code(_default(field)) or "unset", unit(name, field), _bounds(field), _meaning(field))
        for name, field in Thresholds.model_fields.items()
    ]
    return table(("name", "default", "unit", "allowed", "meaning"), rows)


def unit(name: str, field: FieldInfo) -> str:
    """In what a value is told, by its name and description."""
    described = field.description or ""
    if name.endswith("_mb"):
        return "MiB"
    if name.endswith("_seconds") or described.startswith("seconds"):
        return "s"
    return next((sign for sign in ("°C", "%") if described.startswith(sign)), "")


def _default(field: FieldInfo) -> str:
    value = field.default
    return "" if value is None or value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def _meaning(field: FieldInfo) -> str:
    return (field.description or "").removeprefix("°C; ").removeprefix("% used; ")


def _bounds(field: FieldInfo) -> str:
    words = get_args(field.annotation)
    if words and all(isinstance(word, str) for word in words):
        return ", ".join(map(code, words))
    told: dict[str, Any] = {}
    for rule in field.metadata:
        known = ((name, getattr(rule, name, None)) for name in ("ge", "le", "pattern"))
        told |= {name: value for name, value in known if value is not None}
    if "pattern" in told:
        return "words joined by commas" if "A-Z" in told["pattern"] else "numbers joined by commas"
    return f"{_number(told['ge'])} to {_number(told['le'])}" if {"ge", "le"} <= told.keys() else ""


def _number(value: float) -> str:
    return f"{value:,.10g}"
