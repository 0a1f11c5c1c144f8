"""What bodies and answers look like, for the schema at ``/openapi.json``. Names are those of ``broker.models``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from broker.models import Gpu, LeaseRecord, Record, Sample, Waiter
from broker.values import State


class Body(BaseModel):
    """A request's body: exactly these names, and each of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, given: Any) -> Any:
        """JSON has one kind of number: 179.0 is a whole one, as its schemas have it."""
        if not isinstance(given, dict):
            return given
        return {name: int(one) if isinstance(one, float) and one.is_integer() else one for name, one in given.items()}


class Answer(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ProblemBody(BaseModel):
    """A refusal, as RFC 9457 has it. ``field``, ``value`` and ``allowed`` where it is about one value."""

    type: str = Field(examples=["urn:gpubroker:problem:InsufficientMemory"])
    title: str
    status: int
    detail: str
    code: str = Field(examples=["InsufficientMemory"])
    field: str | None = None
    value: Any = None
    allowed: str | None = None


#: One lease as anybody may see it: without its token, which is its holder's secret.
LeaseView: type[Record] = create_model(
    "LeaseView",
    __base__=Record,
    **{name: (field.annotation, field) for name, field in LeaseRecord.model_fields.items() if name != "token"},
)  # type: ignore[call-overload]


class AllocatedLease(LeaseRecord):
    """A lease in its holder's hands: with its token, and the environment for the process that uses the memory."""

    env: dict[str, str]


class PlacedWaiter(Waiter):
    """A request that waits; ``place`` 1 is served next."""

    place: int


class Summary(Answer):
    """A pool at a glance. ``lending`` cards may grant; ``worst_state`` is UNAVAILABLE without any card."""

    pool: str
    now: int
    gpus: int
    lending: int
    leased_bytes: int
    free_bytes: int
    budget_bytes: int
    leases: int
    waiters: int
    worst_state: State
    states: dict[State, int]


class Status(Answer):
    """Every host and card."""

    pool: str
    now: int
    hosts: list[dict[str, str]]
    gpus: list[Gpu]


class Leases(Answer):
    """Every lease, the next to end first."""

    pool: str
    now: int
    leases: list[LeaseView]  # type: ignore[valid-type]


class Waiters(Answer):
    """Every waiter, the next to be served first."""

    pool: str
    now: int
    waiters: list[PlacedWaiter]


class Available(Answer):
    """Bytes that could be borrowed now, of cards that are open for grants."""

    pool: str
    now: int
    available: dict[str, int]
    largest_bytes: int
    total_bytes: int


class Process(Answer):
    """A process on a card, and the lease that it works under; without one it is a stranger."""

    pid: int
    started: str
    memory_bytes: int | None
    name: str
    lease: str


class Metrics(Answer):
    """One card's newest sample: as the pool sees the card, what else it says, and what runs on it."""

    gpu: Gpu
    hardware: dict[str, int | str]
    processes: list[Process]


class AllMetrics(Answer):
    """The same of every card."""

    pool: str
    now: int
    gpus: list[Metrics]


class History(Answer):
    """Samples of one card, oldest first."""

    gpu: str
    samples: list[Sample]


class TrendAnswer(Answer):
    """Where a card's temperature goes. ``words`` say it in a sentence."""

    gpu: str
    minutes: float
    samples: int
    span_seconds: float
    temperatures: list[int]
    temperature_c: int | None
    slope_c_per_minute: float | None
    stderr_c_per_minute: float | None
    direction: str
    reason: str
    next_threshold: str | None
    threshold_c: int | None
    seconds_to_threshold: float | None
    words: str


class ThrottleAnswer(Answer):
    """What a job should do now: state and speed that a holder sees, and why."""

    state: State
    speed: float
    reason: str


class Done(Answer):
    """It is done."""

    done: bool = True


class Released(Answer):
    """The lease has ended. ``in_time`` is false where its time had passed before."""

    id: str
    in_time: bool


class Renewed(Answer):
    """The lease's new end; ``revoke_at`` where its holder was asked to end it, and why."""

    id: str
    expires_at: int
    revoke_at: int | None = None
    revoke_reason: str = ""


class Resized(Answer):
    """What the lease has now of each of its cards."""

    id: str
    memory_bytes: int


class Revoked(Answer):
    """By when the lease ends at the latest."""

    id: str
    revoke_at: int


class Me(Answer):
    """What this caller may do. ``actions``: whether he may change anything."""

    scope: str | None
    authenticated: bool
    actions: bool


class Alive(Answer):
    """The process lives, or the ledger answers."""

    ok: bool = True
