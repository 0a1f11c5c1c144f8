"""Whether leases are traced, and by what. Where nothing traces, nothing of OpenTelemetry is imported.

Spans are made where the application has configured a tracer provider: then ``opentelemetry.trace`` is imported already.
``GPUBROKER_TRACING=0`` says no all the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from broker.calls import Ask
    from broker.lease import LeaseFacts

    L = TypeVar("L", bound=LeaseFacts)

#: Where a job's ``meta["gpu"]`` carries the context of who sent it off, and of the lease that it runs under.
SENT, HELD = "trace", "trace_held"


def on() -> bool:
    """Whether a tracer provider is configured in this process, and nobody forbade to use it."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or type(trace.get_tracer_provider()) is trace.ProxyTracerProvider:
        return False
    return os.environ.get("GPUBROKER_TRACING") != "0"


class _Off:
    """No span, entered and left for nothing."""

    def __enter__(self) -> _Off:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def held(self, lease: L) -> L:
        """What was granted."""
        return lease


_OFF = _Off()


def acquiring(pool: str, request: Ask) -> Any:
    """Around one asking, until it is granted or refused. Entered it gives something that is told what was ``held``."""
    if not on():
        return _OFF
    from broker.spans import Acquiring

    return Acquiring(pool, request)


def releasing(lease: LeaseFacts) -> AbstractContextManager[Any]:
    """Around a lease's release, with which its time is over."""
    if lease.span is None:
        return _OFF
    from broker.spans import Releasing

    return Releasing(lease, lease.span)


def inside(lease: LeaseFacts) -> AbstractContextManager[Any]:
    """What is traced in here belongs to the time of that lease."""
    if lease.span is None:
        return _OFF
    from broker.spans import inside

    return inside(lease.span)


def sending(function: str) -> AbstractContextManager[Any]:
    """Around a job's being sent off."""
    if not on():
        return _OFF
    from broker.spans import sending

    return sending(function)


def sent() -> dict[str, dict[str, str]]:
    """What a job is to carry of the context that it is sent off in: for ``meta["gpu"]``."""
    if not on():
        return {}
    from broker.spans import carrier

    return {SENT: carrier()}


def held(lease: LeaseFacts) -> dict[str, dict[str, str]]:
    """What a job is to carry of the lease that it runs under: for ``meta["gpu"]``."""
    if lease.span is None:
        return {}
    from broker.spans import carrier

    return {HELD: carrier(lease.span)}


def taken_up(lease: LeaseFacts, pool: str, asked: Mapping[str, Any], **about: str) -> None:
    """A worker was granted a job's lease: for how long it waited, and that it is held from now on.

    ``asked`` is the job's ``meta["gpu"]``; ``about`` are its id, queue and function.
    """
    if not on():
        return
    from broker.spans import taken_up

    taken_up(lease, pool, asked.get(SENT), about)


def within(asked: object, *carried: str, flush: bool = False) -> AbstractContextManager[Any]:
    """What is traced in here belongs to the first context of these names that a job's ``meta["gpu"]`` carries.

    ``flush``: this process ends without a word to the provider, so what it has is sent at the end.
    """
    if not on():
        return _OFF
    from broker.spans import within

    found = [asked[name] for name in carried if name in asked] if isinstance(asked, Mapping) else []
    return within(found[0] if found else None, flush)
