"""A body as JSON that means one thing only: no NaN, no name twice, no number that others read otherwise."""

from __future__ import annotations

import json
import math
from typing import Any

from broker.errors import InvalidRequest
from broker.http.problems import Problem, of_error
from broker.units import MAX_SAFE_INTEGER

_OPENING, _CLOSING = b"[{", b"]}"


def check_json(body: bytes, depth: int) -> None:
    """That ``body`` is such JSON, nested no deeper than ``depth``.

    Raises:
        Problem: 400, it is not JSON; 422, it is, but with numbers or names that are not taken.
    """
    if body.count(b"[") + body.count(b"{") > depth:
        _check_depth(body, depth)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(f"it is not UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(
            text, parse_constant=_constant, parse_int=_whole, parse_float=_fraction, object_pairs_hook=_object
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except _Refused as error:
        raise of_error(InvalidRequest(error.field, error.value, error.allowed)) from None
    except (ValueError, RecursionError) as error:
        raise _unreadable(f"it is no JSON: {str(error)[:120]}") from None


class _Refused(Exception):
    """A number or name that is not taken; no ``ValueError``, which is JSON's own."""

    def __init__(self, field: str, value: str, allowed: str) -> None:
        super().__init__(field)
        self.field, self.value, self.allowed = field, value[:80], allowed


def _check_depth(body: bytes, depth: int) -> None:
    """Counted before parsing, which works on the stack. Brackets within texts do not count."""
    level, quoted, escaped = 0, False, False
    for byte in body:
        if quoted:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                quoted = False
        elif byte == 0x22:
            quoted = True
        elif byte in _OPENING:
            level += 1
            if level > depth:
                raise _unreadable(f"it is nested deeper than {depth}")
        elif byte in _CLOSING:
            level -= 1


def _constant(text: str) -> Any:
    raise _Refused("body", text, "a finite number")


def _whole(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_SAFE_INTEGER:
        raise _Refused("body", text, f"whole numbers from -{MAX_SAFE_INTEGER} to {MAX_SAFE_INTEGER}")
    return int(text)


def _fraction(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or len(text) > 40:
        raise _Refused("body", text, "a finite number of at most 40 digits")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _Refused(twice[:80], "twice", "each name once")
    return found


def _unreadable(detail: str) -> Problem:
    return Problem(400, "BadRequest", "The body cannot be read", detail)
