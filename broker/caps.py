"""From a lease's bytes to the variables that keep frameworks to them. Each is told with its source in
``docs/environment.md``.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence

from broker.errors import InvalidRequest
from broker.units import MIB, parse_size

#: What the CUDA context and the driver take of a process's share before its first tensor; 300 to 500 MB were seen.
CONTEXT_BYTES = 500 * MIB

#: Which variables were set by an earlier lease in this environment, and to what: they are not the user's own.
SET_BY_US = "GPUBROKER_CAPS"

_XLA_OLD, _XLA_NEW = "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"
_TORCH = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")  # the name until PyTorch 2.9, and since
_MPS = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"


def allowed_bytes(memory_bytes: int) -> int:
    """What a framework may allocate of each card: a lease's bytes less the CUDA context, if enough is left."""
    return memory_bytes - CONTEXT_BYTES if memory_bytes > 2 * CONTEXT_BYTES else memory_bytes


def allowed_fraction(memory_bytes: int, total_bytes: Sequence[int]) -> float | None:
    """The same as a share of the largest of the cards, so that it is too much of none; ``None`` if one is not known."""
    if not total_bytes or not all(total_bytes):
        return None
    return min(1.0, allowed_bytes(memory_bytes) / max(total_bytes))


def variables(memory_bytes: int, total_bytes: Sequence[int], given: Mapping[str, str]) -> dict[str, str]:
    """The caps for a process that would otherwise have the environment ``given``.

    A user's own value stays where it is the smaller one. A larger one, or one that cannot be read, does not.
    """
    before = dict(one.split("=", 1) for one in given.get(SET_BY_US, "").split(";") if "=" in one)
    own = {name: value for name, value in given.items() if before.get(name) != value}
    found = {
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        **_xla(allowed_fraction(memory_bytes, total_bytes), own),
        "CUPY_GPU_MEMORY_LIMIT": _cupy(allowed_bytes(memory_bytes), total_bytes, own.get("CUPY_GPU_MEMORY_LIMIT", "")),
        _MPS: _mps(memory_bytes, len(total_bytes), own.get(_MPS, "")),
        # No cap: it lets a capped process use what it has. Whoever configures the allocator himself knows better.
        **({} if any(name in own for name in _TORCH) else dict.fromkeys(_TORCH, "expandable_segments:True")),
    }
    ours = ";".join(f"{name}={value}" for name, value in found.items() if own.get(name) != value)
    return found | {SET_BY_US: ours}


def _xla(fraction: float | None, own: Mapping[str, str]) -> dict[str, str]:
    """For JAX. Both names of the fraction at once are an error of its, so the older one, which every version reads, is
    used unless the user has the newer.
    """
    if fraction is None:  # then at least it takes no more than it uses
        return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    # Rounded down: a millionth of the largest card is less than 300 KB.
    most = max(1e-6, math.floor(fraction * 1e6) / 1e6)
    names = [name for name in (_XLA_OLD, _XLA_NEW) if name in own] or [_XLA_OLD]
    shares = {name: _number(own.get(name, "")) for name in names}
    return {
        "XLA_PYTHON_CLIENT_PREALLOCATE": own.get("XLA_PYTHON_CLIENT_PREALLOCATE", "false"),
        **{name: own[name] if 0 < share <= most else f"{most:.6f}" for name, share in shares.items()},
    }


def _cupy(most: int, total_bytes: Sequence[int], own: str) -> str:
    """Bytes, or a share of the card such as ``90%``."""
    if own.endswith("%"):
        limit = _number(own[:-1]) / 100 * max(total_bytes) if total_bytes and all(total_bytes) else math.nan
    else:
        limit = _number(own)
    return own if 0 < limit <= most else str(most)  # 0 is no limit


def _mps(most: int, cards: int, own: str) -> str:
    """``0=8192M,1=8192M``, by the numbers that the visible cards have in the process. The context counts here."""
    limits = dict(re.findall(r"(\d+)=(\w+)", own))
    with contextlib.suppress(InvalidRequest):
        complete = {str(card) for card in range(cards)} <= limits.keys()
        if complete and all(parse_size(limit) <= most for limit in limits.values()):
            return own
    return ",".join(f"{card}={max(1, most // MIB)}M" for card in range(cards))


def _number(text: str) -> float:
    """The number, or one that no comparison holds for."""
    try:
        return float(text)
    except ValueError:
        return math.nan
