"""Who held at once: what clients believed, held against what there was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

#: A name, and from when to when one client believed that it held it.
Span = tuple[str, float, float]


def most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """How many of the spans overlap where most do. One that begins as another ends does not overlap it."""
    edges = sorted(edge for begin, end in spans for edge in ((begin, 1), (end, -1)))
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def over_admitted(spans: Iterable[Span], capacity: int = 1) -> int:
    """How many loans were made of a name while it was lent out already: the most beyond capacity, summed over names."""
    by_name: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, begin, end in spans:
        by_name[name].append((begin, end))
    return sum(max(0, most_at_once(found) - capacity) for found in by_name.values())
