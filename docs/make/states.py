"""The table of states, from the defaults of ``broker.thresholds`` and the speeds of ``broker.values``."""

from __future__ import annotations

from broker.thresholds import Thresholds
from broker.values import State
from docs.make.markdown import table


def page() -> str:
    """State, temperature, memory, speed; every number is configuration."""
    limits = Thresholds.parse({})
    heats = (limits.temp_optimal, limits.temp_normal, limits.temp_throttle)
    shares = (limits.memory_optimal, limits.memory_normal, limits.memory_critical)
    bands = [_bands(*heats), _bands(*shares)]
    states = (State.OPTIMAL, State.NORMAL, State.THROTTLED, State.CRITICAL)
    rows = [(str(state), heat, share, f"{state.speed}") for state, heat, share in zip(states, *bands, strict=True)]
    lost = (str(State.UNAVAILABLE), "no card, no driver, a lost card, a silent agent", "", f"{State.UNAVAILABLE.speed}")
    return table(("state", "°C", "% of memory in use", "speed"), [*rows, lost])


def _bands(optimal: int, normal: int, critical: int) -> tuple[str, str, str, str]:
    return f"below {optimal}", f"{optimal} to below {normal}", f"{normal} to {critical}", f"above {critical}"
