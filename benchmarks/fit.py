"""How a cost grows: with the logarithm of a number, with the number itself, or not at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

#: Growth over the whole range, as a share of the least cost, below which a curve counts as flat.
FLAT_MOST = 0.2


class Kind(StrEnum):
    """What a curve looks like."""

    FLAT = "flat"
    LOG = "log n"
    LINEAR = "n"


@dataclass(frozen=True, slots=True)
class Line:
    """``cost = a + b · x``, and how much of the costs' scatter it explains."""

    a: float
    b: float
    #: Sum of the squares of what it misses by.
    missed: float
    #: Share of the scatter that it explains; 1 where there is none.
    r2: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Both curves through the same points, and which of them it is."""

    kind: Kind
    log: Line
    linear: Line

    @property
    def per_decade(self) -> float:
        """What ten times as many cost more, by ``a + b · log2 n``."""
        return self.log.b * math.log2(10)

    @property
    def better(self) -> Line:
        """The curve that misses the points by less."""
        return self.log if self.log.missed <= self.linear.missed else self.linear


def straight(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """The line through these points by least squares."""
    mean_x, mean_y = fmean(xs), fmean(ys)
    width = sum((x - mean_x) ** 2 for x in xs)
    b = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / width if width else 0.0
    a = mean_y - b * mean_x
    missed = sum((y - a - b * x) ** 2 for x, y in zip(xs, ys, strict=True))
    scatter = sum((y - mean_y) ** 2 for y in ys)
    return Line(a, b, missed, 1 - missed / scatter if scatter else 1.0)


def fit(numbers: Sequence[int], costs: Sequence[float], noise: float = 0.0) -> Fit:
    """How ``costs`` grow with ``numbers``, from 1 on.

    ``noise``: by how much a cost may be off without meaning anything, in units of cost. A curve that rises by less than
    three times that, or by less than ``FLAT_MOST`` of its least, is flat.

    Raises:
        ValueError: fewer than three points: any curve goes through two.
    """
    if len(numbers) < 3:
        raise ValueError(f"{len(numbers)} points tell no curve from another; at least 3")
    log = straight([math.log2(n) for n in numbers], costs)
    linear = straight([float(n) for n in numbers], costs)
    by_log = log.missed <= linear.missed
    least, most = min(numbers), max(numbers)
    first, last = (
        log.a + log.b * math.log2(n) if by_log else linear.a + linear.b * n
        for n in (least, most)
    )  # fmt: skip
    kind = Kind.LOG if by_log else Kind.LINEAR
    if last - first < max(3 * noise, FLAT_MOST * min(costs)):
        kind = Kind.FLAT
    return Fit(kind, log, linear)
