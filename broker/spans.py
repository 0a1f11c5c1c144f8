"""The spans of a lease's life, as OpenTelemetry has them. Imported only where somebody traces: see ``broker.tracing``.

A lease's token is its holder's secret and is in no span.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

if TYPE_CHECKING:
    from broker.calls import Ask
    from broker.lease import LeaseFacts

    L = TypeVar("L", bound=LeaseFacts)

#: Names of spans. They are promised, as are the names of attributes below.
ENQUEUE, ACQUIRE, WAIT = "gpubroker.enqueue", "gpubroker.acquire", "gpubroker.wait"
HOLD, RELEASE = "gpubroker.hold", "gpubroker.release"

_FLUSH_MS = 2000


def _tracer() -> trace.Tracer:
    return trace.get_tracer("gpubroker")


class Acquiring:
    """The span of one asking; and, once granted, that of the lease, a sibling of it that outlives it."""

    def __init__(self, pool: str, request: Ask) -> None:
        """Begin nothing yet."""
        _, asks, _, host, gpu, priority, tenant, _, job_id, _, _ = request.argv
        given = dict(zip(request.options[::2], request.options[1::2], strict=True))
        self._about = _known({
            "gpubroker.pool": pool, "gpubroker.lease.id": request.id, "gpubroker.tenant": str(tenant),
            "gpubroker.job.id": str(job_id), "gpubroker.function": str(given.get("function", "")),
        })  # fmt: skip
        self._asked = _known({
            "gpubroker.request.memory": str(asks), "gpubroker.request.host": str(host),
            "gpubroker.request.gpu": str(gpu), "gpubroker.request.priority": int(priority),
            "gpubroker.request.wait_seconds": float(request.wait_seconds),
        })  # fmt: skip

    def __enter__(self) -> Acquiring:
        """Begin, in the caller's context; what is traced inside (Redis's client, say) belongs to it."""
        self._before = contexts.get_current()
        self._span = _tracer().start_span(
            ACQUIRE, self._before, kind=SpanKind.CLIENT, attributes={**self._about, **self._asked}
        )  # fmt: skip
        self._token = contexts.attach(trace.set_span_in_context(self._span))
        return self

    def held(self, lease: L) -> L:
        """It was granted."""
        now = time.time_ns()
        if lease.waited_ms > 0:
            _waited(lease, now, contexts.get_current(), self._about)
        self._span.set_attributes(_of(lease))
        lease.span = _tracer().start_span(HOLD, self._before, attributes={**self._about, **_of(lease)}, start_time=now)
        return lease

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End it; a refusal is its status."""
        contexts.detach(self._token)
        _failed(self._span, error)
        self._span.end()


class Releasing:
    """The span of a lease's release, and the end of the lease's own."""

    def __init__(self, lease: LeaseFacts, hold: Span) -> None:
        """Begin nothing yet."""
        self._lease, self._hold = lease, hold

    def __enter__(self) -> Releasing:
        """Begin."""
        where = trace.set_span_in_context(self._hold)
        self._span = _tracer().start_span(RELEASE, where, kind=SpanKind.CLIENT)
        self._token = contexts.attach(trace.set_span_in_context(self._span, where))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End both: released or not, nobody holds it any more who would tell."""
        contexts.detach(self._token)
        for span in (self._span, self._hold):
            _failed(span, error)
            span.end()
        self._lease.span = None


@contextmanager
def inside(span: Span) -> Iterator[None]:
    """A span that others end, as the current one. An exception that passes is recorded with it."""
    with trace.use_span(span, end_on_exit=False, record_exception=True, set_status_on_exception=True):
        yield


@contextmanager
def sending(function: str) -> Iterator[None]:
    """The span of a job's being sent off."""
    with _tracer().start_as_current_span(ENQUEUE, kind=SpanKind.PRODUCER, attributes={"gpubroker.function": function}):
        yield


def carrier(span: Span | None = None) -> dict[str, str]:
    """The context of now, or of a span, as plain text for another process."""
    told: dict[str, str] = {}
    propagate.inject(told, None if span is None else trace.set_span_in_context(span))
    return told


def taken_up(lease: LeaseFacts, pool: str, sent: object, about: Mapping[str, str]) -> None:
    """What a worker was granted for a job: its wait, which nobody was there to trace, and its lease."""
    now, where = time.time_ns(), _context(sent)
    told = _known({"gpubroker.pool": pool, "gpubroker.lease.id": lease.id} | {
        f"gpubroker.{name}": value for name, value in about.items()
    })  # fmt: skip
    _waited(lease, now, where, told)
    lease.span = _tracer().start_span(
        HOLD, where, kind=SpanKind.CONSUMER, attributes={**told, **_of(lease)}, start_time=now
    )  # fmt: skip


@contextmanager
def within(carried: object, flush: bool) -> Iterator[None]:
    """In the context that a job carries."""
    token = contexts.attach(_context(carried))
    try:
        yield
    finally:
        contexts.detach(token)
        send = getattr(trace.get_tracer_provider(), "force_flush", None)
        if flush and send is not None:
            send(_FLUSH_MS)


def _context(carried: object) -> Context:
    """What a carrier holds; anybody who can send jobs off can have written anything there."""
    if not isinstance(carried, Mapping):
        return contexts.get_current()
    words = {name: text for name, text in carried.items() if isinstance(name, str) and isinstance(text, str)}
    return propagate.extract(words)


def _waited(lease: LeaseFacts, now: int, where: Context, about: Mapping[str, AttributeValue]) -> None:
    """By the ledger's count of how long it was, and this host's clock of when it ended."""
    began = now - lease.waited_ms * 1_000_000
    _tracer().start_span(WAIT, where, attributes={**about, **_of(lease)}, start_time=began).end(now)


def _of(lease: LeaseFacts) -> dict[str, AttributeValue]:
    return {
        "gpubroker.lease.memory_bytes": lease.memory_bytes,
        "gpubroker.lease.gpu_uuids": list(lease.gpu_uuids),
        "gpubroker.lease.host": lease.host,
        "gpubroker.lease.waited_ms": lease.waited_ms,
        "gpubroker.lease.choice": lease.choice,
    }


def _known(attributes: Mapping[str, Any]) -> dict[str, AttributeValue]:
    return {name: value for name, value in attributes.items() if value != ""}


def _failed(span: Span, error: BaseException | None) -> None:
    if error is not None:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(Status(StatusCode.ERROR, str(error)))
