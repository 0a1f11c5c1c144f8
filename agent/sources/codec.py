"""A ``Reading`` as one line of JSON and back: for the pipe of a child process that reads, and for recordings.

What is unknown is left out, never 0 or ``null``, but inside of ``processes``, where each is ``[pid, bytes, percent]``.
"""

from __future__ import annotations

import json
from typing import Any, Never

from agent.sources import LARGEST_BYTES, TEMPERATURES, Process, Reading
from broker.hardware import FIELDS, WORDS

#: Beyond it other readers of JSON, and the ledger, are not exact.
_EXACT = 1 << 53
_PID, _BYTES, _PERCENT = (0, (1 << 32) - 1), (0, LARGEST_BYTES), (0, 100)  # a pid is NVML's unsigned int
#: Whole numbers: least and most.
_NUMBERS = {
    "memory_total_bytes": (1, LARGEST_BYTES), "memory_used_bytes": _BYTES, "memory_reserved_bytes": _BYTES,
    "temperature_c": (TEMPERATURES[0], TEMPERATURES[-1]), "utilization_percent": _PERCENT, "power_mw": (0, _EXACT),
}  # fmt: skip
#: Degrees, and how many are left, may be below 0; all else counts from 0.
_HARDWARE = {name: (-1000, 1000) if name.endswith("_c") else (0, _EXACT) for name in FIELDS if name not in WORDS}
_TEXTS = ("capability", "mig", "fault")
_ALL = frozenset({"uuid", "index", "name", "processes", "hardware", "xids", *_TEXTS, *_NUMBERS})

# ASCII only: a name with one of Unicode's line separators must not become two lines.
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


def to_line(reading: Reading) -> str:
    """The reading on one line, without the line's end; equal readings give equal lines.

    Raises:
        ValueError: a value is no JSON, such as NaN. What is out of range is refused where it is read.
    """
    fields: dict[str, object] = {"uuid": reading.uuid, "index": reading.index, "name": reading.name}
    fields |= {name: value for name in _NUMBERS if (value := getattr(reading, name)) is not None}
    if reading.processes is not None:
        fields["processes"] = [(one.pid, one.memory_bytes, one.utilization_percent) for one in reading.processes]
    fields |= {name: text for name in _TEXTS if (text := getattr(reading, name))}
    if reading.hardware:
        fields["hardware"] = dict(sorted(reading.hardware.items()))
    if reading.xids:
        fields["xids"] = reading.xids
    return _encode(fields)


def from_line(text: str) -> Reading:
    """The reading of a line that ``to_line`` wrote; raises ValueError, which names field and value, on any other."""
    return from_fields(parse(text))


def parse(text: str) -> Any:
    """What a line of JSON holds; raises ValueError if it is none, or gives a name twice in one object."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def from_fields(found: object) -> Reading:
    """The reading of a parsed object; raises ValueError, which names field and value, if it is none."""
    values = {**_typed("reading", found, dict)}
    for name in values.keys() - _ALL:
        _refuse(name, values[name], "no field of a reading")
    for name in values.keys() & _NUMBERS.keys():
        _whole(name, values[name], _NUMBERS[name])
    for name in ("uuid", "name", *(values.keys() & _TEXTS)):
        _typed(name, values.get(name), str)
    if not values["uuid"]:
        _refuse("uuid", "", "a name")
    _whole("index", values.get("index"), (0, 1 << 16))
    if "processes" in values:
        values["processes"] = tuple(map(_process, _typed("processes", values["processes"], list)))
    if "xids" in values:
        values["xids"] = tuple(_whole("xids", xid, (0, _EXACT)) for xid in _typed("xids", values["xids"], list))
    for name, value in _typed("hardware", values.get("hardware", {}), dict).items():
        if name in _HARDWARE:
            _whole(name, value, _HARDWARE[name])
        elif name in WORDS:
            _typed(name, value, str)
        else:
            _refuse(f"hardware.{name}", value, "no field of a card's hardware")
    return Reading(**values)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        found[name] = value if name not in found else _refuse(name, value, "given twice")
    return found


def _process(found: object) -> Process:
    parts = _typed("processes", found, list)
    pid, memory, load = parts if len(parts) == 3 else _refuse("processes", parts, "[pid, bytes, percent] each")
    return Process(
        _whole("pid", pid, _PID),
        None if memory is None else _whole("memory_bytes", memory, _BYTES),
        None if load is None else _whole("utilization_percent", load, _PERCENT),
    )


def _whole(name: str, value: Any, bounds: tuple[int, int]) -> int:
    if type(value) is not int or not bounds[0] <= value <= bounds[1]:  # to isinstance() True is a number
        _refuse(name, value, f"a whole number from {bounds[0]} to {bounds[1]}")
    return value


def _typed(name: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:
        _refuse(name, value, "an object" if kind is dict else "a list" if kind is list else "a text")
    return value


def _refuse(name: str, value: object, allowed: str) -> Never:
    shown = repr(value)
    raise ValueError(f"{name}={shown if len(shown) <= 80 else shown[:77] + '...'} is not allowed: {allowed}")
