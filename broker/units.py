"""Sizes and times as people write them, parsed once; inside, everything is bytes and milliseconds."""

from __future__ import annotations

import math
import re

from broker.errors import InvalidRequest

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

#: The largest integer that Lua and JSON numbers carry exactly; every number in the ledger stays below it.
MAX_SAFE_INTEGER = (1 << 53) - 1

#: No request is larger: sixteen times the largest accelerator's memory, and far below ``MAX_SAFE_INTEGER``.
MAX_MEMORY_BYTES = 4 * TIB

# As gpustat, nvidia-smi and people mean them: "6G" is binary, "6GB" is decimal.
_FACTORS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _FACTORS[_letter] = _FACTORS[_letter + "IB"] = 1 << (10 * _power)
    _FACTORS[_letter + "B"] = 1000**_power
_SIZE = re.compile(r"(?P<number>[0-9]{1,16}(?:\.[0-9]{1,9})?) ?(?P<unit>[KMGT]i?B?|B)?", re.IGNORECASE | re.ASCII)
_SIZE_ALLOWED = 'a positive size such as "6GiB", "512MiB", "6GB" or a whole number of bytes'


def parse_size(value: int | str, field: str = "memory", most: int = MAX_MEMORY_BYTES) -> int:
    """Bytes from ``6442450944``, ``"6GiB"``, ``"6G"`` (binary) or ``"6GB"`` (decimal).

    Raises:
        InvalidRequest: not such a size, below 1 byte or above ``most``.
    """
    size = 0
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match:
            size = int(float(match["number"]) * _FACTORS[(match["unit"] or "").upper()])
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    if not 1 <= size <= most:
        raise InvalidRequest(field, value, f"{_SIZE_ALLOWED}, at most {most}")
    return size


def format_size(size_bytes: int) -> str:
    """``"5.5 GiB"`` or ``"512 MiB"``: what people compare with nvidia-smi."""
    if abs(size_bytes) >= GIB:
        return f"{size_bytes / GIB:.1f} GiB"
    return f"{size_bytes / MIB:.0f} MiB"


def duration(milliseconds: int) -> str:
    """``"12 s"``, ``"5 min"``, ``"3.2 h"``; ``"over"`` for a time that has passed."""
    seconds = milliseconds / 1000
    if seconds < 0:
        return "over"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def parse_seconds(value: float, field: str, *, least: float, most: float, unit: str = "seconds") -> int:
    """Thousandths, milliseconds for instance, from a number between ``least`` and ``most``.

    Raises:
        InvalidRequest: not a finite number, or outside the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidRequest(field, value, f"a number of {unit} from {least:g} to {most:g}")
    if not least <= value <= most:
        raise InvalidRequest(field, value, f"from {least:g} to {most:g} {unit}")
    return round(value * 1000)
