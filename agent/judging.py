"""One card's readings, judged: its state with its past, its health, the heat to come, and whose memory is whose."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from agent.accounting import strangers, unmanaged_bytes
from agent.health import Finding, Health, actions
from agent.sources import Reading
from broker.state import Standing, judge, memory_band, reason, temperature_band, worse
from broker.thresholds import Thresholds
from broker.trend import early_warning, fit
from broker.values import GpuReport, HeldLease, ListedProcess, State

log = logging.getLogger("gpubroker.agent")

#: Seconds of temperatures from which the heat to come is told, and the most of them: the newest.
TREND_SECONDS, TREND_MOST = 300.0, 200
#: °C that a reading may be below the line of the minutes before and still belong to it.
_BELOW_C = 2.0
#: The card's own words for slowing itself down because of heat or a lack of power; a cap of power is normal at load.
_SLOWED = {
    "hw_slowdown": "the card slows itself down", "hw_thermal": "the card slows itself down, it is too hot",
    "sw_thermal": "the driver slows the card down, it is too hot", "power_brake": "the card is told to save power",
}  # fmt: skip


@dataclass(slots=True)
class Past:
    """What is remembered of one card."""

    job: Standing | None = None
    shown: Standing | None = None
    health: Health = field(default_factory=Health)
    heats: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=TREND_MOST))


@dataclass(frozen=True, slots=True)
class Around:
    """What a look says of the card's surroundings.

    ``host`` is the state of the host's memory and ``host_reason`` why; ``wanted_by`` names the programs of people who
    want the card for themselves; ``parents`` are the parents of processes, ``listed`` those on each card.
    """

    parents: Mapping[int, int]
    host: State = State.OPTIMAL
    host_reason: str = ""
    wanted_by: Collection[str] = ()
    listed: Mapping[str, tuple[ListedProcess, ...]] = field(default_factory=dict)


class Judge:
    """Every card of one host, with its past."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """No card has a past yet."""
        self._clock = clock
        self._pasts: dict[str, Past] = {}

    def forget(self) -> None:
        """A card that was not there has no past, but for its health."""
        for past in self._pasts.values():
            past.job = past.shown = None
            past.heats.clear()

    def resume(self, uuid: str, drained_by: str, why: str) -> None:
        """An agent that starts finds what the one before it said of a card's health."""
        if "health" in drained_by.split(","):
            self._past(uuid).health.resume(self._clock(), why)

    def report(
        self, reading: Reading, held: Sequence[HeldLease], limits: Thresholds, around: Around
    ) -> tuple[GpuReport, Finding]:
        """What is to be published of a card, and what was found of its health."""
        past = self._past(reading.uuid)
        now = self._clock()
        past.health.clean_seconds = limits.health_clean_seconds
        past.health.table = _table(limits.xid_ignore, limits.xid_restart, limits.xid_drain)
        found = past.health.see(now, reading.xids, reading.hardware, readable=not reading.fault)
        unmanaged = unmanaged_bytes(reading, held, around.parents)
        fault = reading.fault or ("" if unmanaged is not None else "its memory cannot be read")
        total, used = reading.memory_total_bytes, reading.memory_used_bytes
        percent = None if used is None or not total else 100 * used / total
        heat = worse(_heat(reading, limits, fault), min(around.host, State.THROTTLED, key=lambda state: state.rank))
        memory = State.UNAVAILABLE if percent is None else memory_band(percent, limits)
        whole = worse(heat, memory, around.host)
        past.job, past.shown = judge(past.job, heat, limits, now), judge(past.shown, whole, limits, now)
        marks = ("health",) * found.drained + ("people",) * bool(around.wanted_by)
        told = [
            fault or reason(past.shown, whole, reading.temperature_c, percent, limits), _slowed(reading),
            around.host_reason, found.reason if found.drained else "",
            f"kept for {', '.join(sorted(around.wanted_by))}" if around.wanted_by else "",
        ]  # fmt: skip
        report = GpuReport(
            uuid=reading.uuid,
            index=reading.index,
            name=reading.name,
            state=past.shown.state,
            job_state=past.job.state,
            reason=", ".join(filter(None, told)),
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_reserved_bytes=reading.memory_reserved_bytes,
            unmanaged_bytes=unmanaged,
            temperature_c=reading.temperature_c,
            utilization_percent=reading.utilization_percent,
            power_mw=reading.power_mw,
            process_count=None if reading.processes is None else len(reading.processes),
            capability=reading.capability,
            mig=reading.mig,
            processes=strangers(reading, held, around.parents),
            marks=marks,
            hardware=reading.hardware,
            xids=reading.xids,
            warning=self._warning(past, reading, limits, now),
            listed=around.listed.get(reading.uuid, ()),
        )
        return report, found

    def _past(self, uuid: str) -> Past:
        return self._pasts.setdefault(uuid, Past())

    def _warning(self, past: Past, reading: Reading, limits: Thresholds, now: float) -> tuple[str, float, float] | None:
        """The threshold that the temperature will cross soon, if it goes on as in the last minutes."""
        heat = reading.temperature_c
        if heat is None:
            return None
        past.heats.append((now, float(heat)))
        while past.heats[0][0] < now - TREND_SECONDS:
            past.heats.popleft()
        line = fit(past.heats)
        if line is not None and heat < line.at(now) - _BELOW_C:
            line = None  # it is not where the line says any more: something has changed, as when a job ended
        ahead = early_warning(line, heat, limits, limits.warning_seconds) if line and limits.warning_seconds else None
        if ahead is None or line is None:
            return None
        slope = line.slope_c_per_minute
        return ahead, 60 * (getattr(limits, ahead) - heat) / slope, slope


@lru_cache
def _table(ignore: str, restart: str, drain: str) -> Mapping[int, str]:
    return actions({"xid_ignore": ignore, "xid_restart": restart, "xid_drain": drain})


def _heat(reading: Reading, limits: Thresholds, fault: str) -> State:
    """Temperature and health alone. A card that tells no temperature may be any: it works at the middle speed."""
    if fault:
        return State.UNAVAILABLE
    slowed = State.THROTTLED if _slowed(reading) else State.OPTIMAL
    if reading.temperature_c is None:
        return State.THROTTLED
    return worse(slowed, temperature_band(reading.temperature_c, limits))


def _slowed(reading: Reading) -> str:
    """Why the card itself works slower than it could, if for a reason that is not normal at load."""
    words = str(reading.hardware.get("clock_reasons", "")).split(",")
    return next((told for word, told in _SLOWED.items() if word in words), "")
