"""Temperature and memory → state, with hysteresis. Pure: readings and times in, a standing out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.values import State

if TYPE_CHECKING:
    from broker.thresholds import Thresholds


def temperature_band(temperature_c: float, limits: Thresholds) -> State:
    """The state of a temperature in °C alone."""
    if temperature_c < limits.temp_optimal:
        return State.OPTIMAL
    if temperature_c < limits.temp_normal:
        return State.NORMAL
    return State.THROTTLED if temperature_c <= limits.temp_throttle else State.CRITICAL


def memory_band(used_percent: float, limits: Thresholds) -> State:
    """The state of a share of used memory alone, 0 to 100."""
    if used_percent < limits.memory_optimal:
        return State.OPTIMAL
    if used_percent < limits.memory_normal:
        return State.NORMAL
    return State.THROTTLED if used_percent <= limits.memory_critical else State.CRITICAL


def worse(*states: State) -> State:
    """The worst of them."""
    return max(states, key=lambda state: state.rank)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a GPU stands. Times are seconds of any monotonic clock.

    ``since`` is when the state began; ``better`` the worst band seen since readings got better than the state, and
    ``better_since`` when that began; both ``None`` while they are not better.
    """

    state: State
    since: float
    better: State | None = None
    better_since: float | None = None


def judge(before: Standing | None, band: State, limits: Thresholds, now: float) -> Standing:
    """The standing after a reading in ``band``.

    Worsening is immediate. Bettering waits ``throttle_cooldown_seconds`` of readings in better bands, and goes to the
    worst of those; leaving CRITICAL also waits ``critical_pause_seconds`` from its start. A GPU that was UNAVAILABLE
    takes the band of its first reading: it has no past to wait for.
    """
    if before is None or band.rank > before.state.rank or State.UNAVAILABLE in (before.state, band):
        return before if before is not None and before.state is band else Standing(band, now)
    if band is before.state:
        return Standing(before.state, before.since)
    if before.better is None or before.better_since is None:
        better, better_since = band, now
    else:
        better, better_since = worse(before.better, band), before.better_since
    cooled = now - better_since >= limits.throttle_cooldown_seconds
    paused = before.state is not State.CRITICAL or now - before.since >= limits.critical_pause_seconds
    if cooled and paused:
        return Standing(better, now)
    return Standing(before.state, before.since, better, better_since)


def reason(
    standing: Standing, band: State, temperature_c: float | None, used_percent: float | None, limits: Thresholds
) -> str:
    """Why the GPU stands where it does, in words and numbers; empty for OPTIMAL."""
    if standing.state is State.OPTIMAL:
        return ""
    told = []
    if temperature_c is None:
        told.append("the card tells no temperature")
    elif (of_heat := temperature_band(temperature_c, limits)) is not State.OPTIMAL:
        told.append(f"{temperature_c:.0f} °C is {of_heat}")
    if used_percent is not None and (of_memory := memory_band(used_percent, limits)) is not State.OPTIMAL:
        told.append(f"{used_percent:.0f} % of memory used is {of_memory}")
    if band.rank < standing.state.rank:
        told.append(f"{standing.state} until the better readings have lasted")
    return ", ".join(told)
