"""A reading as one line of JSON: what goes through the pipe of the process that asks NVML, and into recordings."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from agent.sources import Process, Reading
from broker.hardware import FIELDS, WORDS

_TEXTS = ("uuid", "name", "capability", "mig", "fault")
_NUMBERS = tuple(one.name for one in fields(Reading) if one.name.endswith(("_bytes", "_c", "_percent", "_mw")))


def to_line(reading: Reading) -> str:
    """The reading; what is not known is left out."""
    said: dict[str, Any] = {"uuid": reading.uuid, "index": reading.index, "name": reading.name}
    for name in (*_NUMBERS, "capability", "mig", "fault"):
        value = getattr(reading, name)
        if value is not None and value != "":
            said[name] = value
    if reading.processes is not None:
        said["processes"] = [[one.pid, one.memory_bytes, one.utilization_percent] for one in reading.processes]
    if reading.hardware:
        said["hardware"] = dict(reading.hardware)
    if reading.xids:
        said["xids"] = list(reading.xids)
    return json.dumps(said, separators=(",", ":"), allow_nan=False)


def from_line(text: str) -> Reading:
    """The reading of a line.

    Raises:
        ValueError: it is no reading; names the field, its value and what is allowed.
    """
    said = json.loads(text)
    if not isinstance(said, dict):
        raise ValueError(f"a reading is an object of JSON, not {text[:80]!r}")
    return parse(said)


def parse(said: dict[str, Any]) -> Reading:
    """The reading of an object of JSON; raises as ``from_line``."""
    values: dict[str, Any] = {}
    for name, value in said.items():
        if name in _TEXTS:
            _check(name, value, isinstance(value, str), "a text")
        elif name in _NUMBERS or name == "index":
            _check(name, value, _whole(value) and (name != "index" or 0 <= value <= 65535), "a whole number")
        elif name == "processes":
            _check(
                name, value, isinstance(value, list) and all(map(_is_process, value)), "[pid, bytes, percent] of each"
            )
            value = tuple(Process(*one) for one in value)
        elif name == "hardware":
            _check(
                name, value, isinstance(value, dict) and all(map(_offers, value.items())), "names and numbers of a card"
            )
        elif name == "xids":
            _check(name, value, isinstance(value, list) and all(map(_whole, value)), "whole numbers")
            value = tuple(value)
        else:
            raise ValueError(f"{name}={value!r}: a reading has no such field")
        values[name] = value
    for name in ("uuid", "index", "name"):
        if name not in values:
            raise ValueError(f"{name} is missing: every reading names its card")
    return Reading(**values)


def _check(name: str, value: Any, good: bool, allowed: str) -> None:
    if not good:
        raise ValueError(f"{name}={value!r}: {allowed} is allowed")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64


def _is_process(one: Any) -> bool:
    return (
        isinstance(one, list) and len(one) == 3 and _whole(one[0]) and one[0] > 0
        and all(value is None or _whole(value) for value in one[1:])
    )  # fmt: skip


def _offers(said: tuple[Any, Any]) -> bool:
    name, value = said
    return name in FIELDS and (isinstance(value, str) if name in WORDS else _whole(value))
