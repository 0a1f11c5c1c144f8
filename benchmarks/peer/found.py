"""What one run over the peers found, before it is told."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Back:
    """When what a killed process held was lent again: seconds, or ``None`` if it was not before the cap."""

    seconds: float | None
    cap_seconds: float
    #: Whether the job that held it still ran then: lent twice.
    still_ran: bool = False


def _lists() -> defaultdict[str, list[float]]:
    return defaultdict(list)


@dataclass(slots=True)
class Losses:
    """What became of loans while replies were lost."""

    lost: int = 0
    loans: int = 0
    #: Loans of what was lent out already.
    over: int = 0
    #: Names that nobody held, and that nobody could borrow.
    leaked: int = 0
    errors: int = 0


@dataclass(slots=True)
class Results:
    """By the peer's name."""

    missing: dict[str, str] = field(default_factory=dict)
    #: By name and measure: what went wrong.
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    bare_us: defaultdict[str, list[float]] = field(default_factory=_lists)
    pair_us: defaultdict[str, list[float]] = field(default_factory=_lists)
    #: Round trips of a pair.
    trips: dict[str, float] = field(default_factory=dict)
    hand_ms: defaultdict[str, list[float]] = field(default_factory=_lists)
    #: Of a job in a burst; of one that is sent and waited for.
    job_ms: defaultdict[str, list[float]] = field(default_factory=_lists)
    each_ms: defaultdict[str, list[float]] = field(default_factory=_lists)
    #: By name and victim.
    killed: dict[tuple[str, str], Back] = field(default_factory=dict)
    losses: dict[str, Losses] = field(default_factory=dict)
