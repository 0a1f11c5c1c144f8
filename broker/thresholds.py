"""Configuration of a pool: every number and word that it runs by, with its default and its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from broker.errors import InvalidRequest

_COUNT_MAX = 1_000_000
_NUMBERS = r"^([0-9]{1,4}(,[0-9]{1,4}){0,63})?$"
_NAMES = r"^([A-Za-z0-9_.+-]{1,64}(,[A-Za-z0-9_.+-]{1,64}){0,15})?$"


class Thresholds(BaseModel):
    """What a pool runs by. Lives in the config hash; only values that differ from these defaults are stored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temp_optimal: int = Field(65, ge=0, le=150, description="°C; below it OPTIMAL")
    temp_normal: int = Field(75, ge=0, le=150, description="°C; below it NORMAL, from it on THROTTLED")
    temp_throttle: int = Field(85, ge=0, le=150, description="°C; above it CRITICAL")
    temp_critical: int = Field(90, ge=0, le=150, description="°C; from it on holders are asked to yield")
    memory_optimal: int = Field(70, ge=0, le=100, description="% used; below it OPTIMAL")
    memory_normal: int = Field(85, ge=0, le=100, description="% used; below it NORMAL, from it on THROTTLED")
    memory_critical: int = Field(95, ge=0, le=100, description="% used; above it CRITICAL")
    memory_limit_mb: int | None = Field(
        None, ge=1, le=4 << 20, description="MiB of a card that may be used; the card's own"
    )
    memory_reserve_mb: int = Field(512, ge=0, le=4 << 20, description="MiB of a card never lent")
    monitor_interval: float = Field(3.0, ge=0.05, le=3600, description="seconds between two samples")
    monitoring: int = Field(1, ge=0, le=1, description="0: agents read no hardware, and their cards lend nothing")
    history_size: int = Field(200, ge=1, le=_COUNT_MAX, description="samples kept for each card")
    throttle_cooldown_seconds: float = Field(
        30.0, ge=0, le=86400, description="seconds in a better band before bettering"
    )
    critical_pause_seconds: float = Field(60.0, ge=0, le=86400, description="least seconds a CRITICAL state lasts")
    reclaim_seconds: float = Field(
        5.0, ge=0, le=3600, description="lock delay: seconds that an expired lease's bytes still count"
    )
    claim_seconds: float = Field(10.0, ge=1, le=3600, description="seconds a waiter has to claim its grant")
    waiter_seconds: float = Field(30.0, ge=1, le=3600, description="seconds after which a silent waiter is dropped")
    waiters_max: int = Field(10_000, ge=1, le=_COUNT_MAX, description="waiters in the queue; one more is refused")
    bypass_max: int = Field(
        64, ge=0, le=_COUNT_MAX, description="grants that may pass the first waiter before it blocks"
    )
    grace_seconds: float = Field(
        15.0, ge=0, le=3600, description="seconds without expiry after the clock made a step, or data was lost"
    )
    preempt: int = Field(0, ge=0, le=1, description="1: a queued request may revoke leases of lower priority")
    preempt_grace_seconds: float = Field(
        30.0, ge=0, le=86400, description="seconds that a holder has to end when it is preempted"
    )
    usage_half_life_seconds: float = Field(
        3600.0, ge=1, le=31_536_000, description="seconds after which a tenant's use counts half"
    )
    critical_grace_seconds: float = Field(
        30.0, ge=0, le=86400, description="seconds that holders have to end on a card at temp_critical"
    )
    warning_seconds: float = Field(
        120.0, ge=0, le=3600, description="seconds ahead in which a threshold that will be crossed is told; 0: never"
    )
    host_memory_throttle: int = Field(90, ge=1, le=100, description="% of a host's memory used; above it THROTTLED")
    host_memory_critical: int = Field(97, ge=1, le=100, description="% of a host's memory used; above it none is lent")
    overuse_policy: Literal["report", "revoke", "kill"] = Field(
        "report", description="what befalls a lease whose process takes more than it borrowed"
    )
    overuse_tolerance_mb: int = Field(0, ge=0, le=4 << 20, description="MiB beyond a lease that are not called overuse")
    overuse_grace_seconds: float = Field(
        10.0, ge=0, le=86400, description="seconds from overuse to the end of the lease, or of the process"
    )
    idle_seconds: float = Field(
        300.0,
        ge=0,
        le=86400,
        description="seconds in which a lease's cards do nothing until it is called idle; 0: never",
    )
    orphan_policy: Literal["report", "kill"] = Field(
        "report", description="what befalls a process whose lease is gone and that still has GPU memory"
    )
    orphan_grace_seconds: float = Field(10.0, ge=0, le=86400, description="seconds from the end of a lease to that")
    health_clean_seconds: float = Field(
        600.0, ge=0, le=604_800, description="seconds of good readings until a card drained for its health is opened"
    )
    xid_ignore: str = Field(
        "", pattern=_NUMBERS, description="XIDs told and no more, as 13,31; beside the built-in table"
    )
    xid_restart: str = Field("", pattern=_NUMBERS, description="XIDs at which the leases on the card are revoked")
    xid_drain: str = Field("", pattern=_NUMBERS, description="XIDs at which the card is drained")
    yield_to: str = Field("", pattern=_NAMES, description="names of programs that want the card for themselves, as a,b")
    events_max: int = Field(20_000, ge=100, le=_COUNT_MAX, description="journal entries kept, about")

    @model_validator(mode="after")
    def _bands_ascend(self) -> Thresholds:
        temps = (self.temp_optimal, self.temp_normal, self.temp_throttle, self.temp_critical)
        shares = (self.memory_optimal, self.memory_normal, self.memory_critical)
        if list(temps) != sorted(temps):
            raise ValueError("temp_optimal <= temp_normal <= temp_throttle <= temp_critical must hold")
        if list(shares) != sorted(shares):
            raise ValueError("memory_optimal <= memory_normal <= memory_critical must hold")
        if self.host_memory_throttle > self.host_memory_critical:
            raise ValueError("host_memory_throttle <= host_memory_critical must hold")
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Thresholds:
        """Thresholds from field names to numbers or their text (as the config hash holds them).

        Raises:
            InvalidRequest: an unknown name, or a value outside its bounds; names the field, value and what is allowed.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "config"
            raise InvalidRequest(name, first["input"] if first["loc"] else dict(values), first["msg"]) from None

    def changed(self) -> dict[str, str]:
        """The values that differ from the defaults, as text for the config hash."""
        return _texts(self.model_dump(exclude_defaults=True))

    def as_text(self) -> dict[str, str]:
        """Every value that is set, as text for the config hash."""
        return _texts(self.model_dump())


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{value:.10g}" if isinstance(value, float) else str(value)
        for name, value in values.items()
        if value is not None
    }
