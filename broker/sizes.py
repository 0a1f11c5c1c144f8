"""How much a request of "auto" asks for: what the runs of its function took, learned in the ledger by ``learn.lua``.

Plain functions of plain values. Why so: ``docs/decisions/right-size.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from broker.errors import InvalidRequest
from broker.units import MAX_MEMORY_BYTES, MIB

#: From so many runs of a size on, its own runs alone say what it needs.
ENOUGH_RUNS = 3
#: The next larger size that was seen stands for an unseen one, if it is no more buckets above: of twice the size.
NEAR_BUCKETS = 4
#: What was learned is rounded up to this.
STEP_BYTES = 64 * MIB
#: A run that was out of memory is followed by one with at least half as much again.
MORE = 1.5

_BUCKET_MOST = 256


@dataclass(frozen=True, slots=True)
class Learned:
    """What the runs of a function with one size of input took; the sizes of a bucket differ by a fifth at most.

    ``runs`` ended well and were seen by an agent; ``oom`` ran out of memory. ``peak_bytes`` is the largest peak of the
    last 32 to 64 runs, ``need_bytes`` the same with its margin, ``last_bytes`` the last peak. ``asked_bytes`` is what
    the last run had. Of ``asked_mib``, ``wasted_mib`` were not used: sums over all runs, older ones counting less.
    ``floor_bytes`` is the least that is asked since a run was out of memory, 0 if that is over.
    """

    function: str
    bucket: int | None
    runs: int = 0
    oom: int = 0
    asked_bytes: int = 0
    peak_bytes: int = 0
    need_bytes: int = 0
    last_bytes: int = 0
    floor_bytes: int = 0
    asked_mib: int = 0
    wasted_mib: int = 0

    @property
    def size(self) -> float | None:
        """The input's size in the middle of the bucket; ``None`` where runs had none."""
        return None if self.bucket is None else float(2 ** (self.bucket / 4))

    @property
    def wasted_percent(self) -> float | None:
        """The share of what was asked for that was not used; ``None`` before the first run that was seen."""
        return 100 * self.wasted_mib / self.asked_mib if self.asked_mib else None

    @property
    def safe_bytes(self) -> int:
        """Enough for what was seen, and more than what was not."""
        return max(self.need_bytes, self.floor_bytes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the names of ``Learned``, with ``size`` and ``wasted_percent``."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        share = self.wasted_percent
        return own | {"size": self.size, "wasted_percent": None if share is None else round(share, 1)}

    @classmethod
    def of_hash(cls, function: str, told: Mapping[str, str]) -> list[Self]:
        """A function's buckets by size, of its hash. What is no number there counts as 0."""
        names = [one.name for one in fields(cls) if one.name not in ("function", "bucket")]
        buckets = [None if text == "-" else int(text) for text in told.get("buckets", "").split() if _is_bucket(text)]
        return [
            cls(function, bucket, **{name: _number(told.get(f"{name}@{bucket_text(bucket)}", "")) for name in names})
            for bucket in sorted(buckets, key=_place)
        ]


def check_input_size(size: object, field: str = "size") -> float:
    """The size of an input, in whatever unit: photos' megapixels, tokens, bytes.

    Raises:
        InvalidRequest: it is not a positive, finite number.
    """
    if isinstance(size, bool) or not hasattr(size, "__float__"):
        raise InvalidRequest(field, size, "a positive, finite number")
    try:
        number = float(size)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise InvalidRequest(field, size, "a positive, finite number")
    return number


def bucket_of(size: float | None) -> int | None:
    """The bucket of an input's size: four for each doubling, -256 to 256; ``None`` where there is no size."""
    return None if size is None else max(-_BUCKET_MOST, min(_BUCKET_MOST, round(4 * math.log2(size))))


def bucket_text(bucket: int | None) -> str:
    """As the ledger's fields have it."""
    return "-" if bucket is None else str(bucket)


@dataclass(frozen=True, slots=True)
class RightSize:
    """What the next run asks for: ``asked_bytes``, of which ``known_bytes`` are no guess.

    ``largest_bytes`` is the most that any card may lend its tenant, 0 where that is not known; each lends
    ``smallest_bytes``.
    """

    asked_bytes: int
    known_bytes: int
    largest_bytes: int = 0
    smallest_bytes: int = 0


def size_to_ask(
    learned: Iterable[Learned], bucket: int | None, default: int, *, largest: int = 0, too_little: int = 0
) -> RightSize:
    """The right size for the next run with an input of this bucket.

    What is no more than a guess stays below ``largest``. ``too_little`` is what this very job had when it ran out of
    memory.
    """
    # Inputs with a size and without one do not compare.
    kin = {one.bucket: one for one in learned if (one.bucket is None) == (bucket is None)}
    own = kin.get(bucket)
    stated = 0
    if own is not None and own.runs >= ENOUGH_RUNS:
        need = own.safe_bytes
    else:
        guess = _from_others([one for one in kin.values() if one.runs >= ENOUGH_RUNS], bucket)
        stated = default if guess is None else 0
        few = [one for one in kin.values() if one.runs < ENOUGH_RUNS and _place(one.bucket) <= _place(bucket)]
        need = max([guess or 0, *(one.safe_bytes for one in few)])
    known = max(stated, own.peak_bytes if own is not None else 0)
    if too_little:
        known = max(known, too_little + 1)
        need = max(need, math.ceil(too_little * MORE), default)
    asked = max(-(-need // STEP_BYTES) * STEP_BYTES, stated)
    if 0 < largest < asked:
        asked = max(largest, known)
    return RightSize(min(asked, MAX_MEMORY_BYTES), min(known, MAX_MEMORY_BYTES), largest)


def _from_others(trusted: list[Learned], bucket: int | None) -> int | None:
    """A guess for an unseen size: it needs no more than a larger one, and in proportion to a smaller one."""
    at = _place(bucket)
    above = min((one for one in trusted if _place(one.bucket) > at), key=lambda one: _place(one.bucket), default=None)
    below = max((one for one in trusted if _place(one.bucket) < at), key=lambda one: _place(one.bucket), default=None)
    if above is not None and (below is None or _place(above.bucket) - at <= NEAR_BUCKETS):
        return above.safe_bytes
    if below is None:
        return None
    scaled = min(MAX_MEMORY_BYTES, math.ceil(below.safe_bytes * 2 ** ((at - _place(below.bucket)) / 4)))
    return scaled if above is None else max(below.safe_bytes, min(scaled, above.safe_bytes))


def _place(bucket: int | None) -> int:
    return -_BUCKET_MOST - 1 if bucket is None else bucket


def _is_bucket(text: str) -> bool:
    return text == "-" or (text.removeprefix("-").isdecimal() and abs(int(text)) <= _BUCKET_MOST)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) <= 16 else 0
