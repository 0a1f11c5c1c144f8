"""A lease's life as spans: in one process, and from who sends a job off to the worker that returns its lease."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from broker import AsyncBroker, Broker, InsufficientMemory, LeaseLost, tracing
from broker.units import GIB
from tests.metrics import traced_jobs
from tests.rq.conftest import Stage

Cards = Callable[..., None]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What an application that traces would send; the provider is its own for one test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.delenv("GPUBROKER_TRACING", raising=False)
    yield exporter
    provider.shutdown()


def named(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    """The one span of that name."""
    (found,) = [span for span in spans.get_finished_spans() if span.name == name]
    return found


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def about(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_lease_is_asked_for_held_and_released(spans: InMemorySpanExporter, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    with trace.get_tracer("mine").start_as_current_span("mine") as mine:
        lease = broker.acquire("1GiB", lease_id="l1", tenant="red", function="m.f")
        lease.release()
    acquire, hold, release = (named(spans, f"gpubroker.{name}") for name in ("acquire", "hold", "release"))
    assert parent_of(acquire) == parent_of(hold) == mine.get_span_context().span_id
    assert parent_of(release) == id_of(hold)
    assert (acquire.kind, hold.kind, release.kind) == (SpanKind.CLIENT, SpanKind.INTERNAL, SpanKind.CLIENT)
    assert about(hold) == {
        "gpubroker.pool": "default", "gpubroker.lease.id": "l1", "gpubroker.tenant": "red",
        "gpubroker.function": "m.f", "gpubroker.lease.memory_bytes": GIB, "gpubroker.lease.gpu_uuids": ("GPU-a",),
        "gpubroker.lease.host": "h1", "gpubroker.lease.waited_ms": 0, "gpubroker.lease.choice": 1,
    }  # fmt: skip
    assert about(acquire)["gpubroker.request.memory"] == str(GIB)
    assert str(lease.token) not in json.dumps([about(one) for one in (acquire, hold, release)])


def test_a_wait_is_as_long_as_the_ledger_says(spans: InMemorySpanExporter, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    first = broker.acquire("4GiB")

    def make_room() -> None:
        while not (queue := broker.waiters()) or broker.reap() <= queue[0].since:
            pass  # it has not waited for a millisecond yet
        first.release()

    helper = threading.Thread(target=make_room)
    helper.start()
    lease = broker.acquire("4GiB", wait=20)
    helper.join()
    wait = named(spans, "gpubroker.wait")
    assert wait.start_time is not None
    assert wait.end_time is not None
    assert (wait.end_time - wait.start_time) // 1_000_000 == lease.waited_ms > 0
    asked = [one for one in spans.get_finished_spans() if one.name == "gpubroker.acquire"]
    (acquire,) = [one for one in asked if id_of(one) == parent_of(wait)]
    assert about(acquire)["gpubroker.lease.id"] == lease.id


def test_a_refusal_is_an_error_of_the_asking(spans: InMemorySpanExporter, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("5GiB")
    spans.clear()
    with pytest.raises(InsufficientMemory):
        broker.acquire("4GiB")
    acquire = named(spans, "gpubroker.acquire")
    assert acquire.status.status_code is StatusCode.ERROR
    assert about(acquire)["error.type"] == "InsufficientMemory"


def test_a_lease_that_was_lost_ends_as_an_error(spans: InMemorySpanExporter, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", ttl=0.1)
    broker.update_config(reclaim_seconds=0)
    while broker.leases():
        broker.reap()
    with pytest.raises(LeaseLost):
        lease.release()
    assert about(named(spans, "gpubroker.hold"))["error.type"] == "LeaseLost"
    assert lease.span is None


def test_what_is_done_under_a_lease_belongs_to_its_time(
    spans: InMemorySpanExporter, broker: Broker, cards: Cards
) -> None:
    cards("GPU-a")
    with broker.lease("1GiB"), trace.get_tracer("mine").start_as_current_span("work"):
        pass
    assert parent_of(named(spans, "work")) == id_of(named(spans, "gpubroker.hold"))


def test_an_event_loop_has_the_same_spans(
    spans: InMemorySpanExporter, redis_url: str, broker: Broker, cards: Cards
) -> None:
    async def work() -> None:
        async with AsyncBroker.from_url(redis_url) as there, there.lease("1GiB"):
            with trace.get_tracer("mine").start_as_current_span("work"):
                await asyncio.sleep(0)

    cards("GPU-a")
    asyncio.run(work())
    hold = named(spans, "gpubroker.hold")
    assert parent_of(named(spans, "work")) == id_of(hold) == parent_of(named(spans, "gpubroker.release"))
    assert named(spans, "gpubroker.acquire").end_time is not None


def test_it_can_be_forbidden(
    spans: InMemorySpanExporter, broker: Broker, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBROKER_TRACING", "0")
    cards("GPU-a")
    broker.acquire("1GiB").release()
    assert spans.get_finished_spans() == ()


def test_where_nobody_traces_nothing_of_it_is_imported(redis_url: str) -> None:
    """Redis's own client imports the SDK where it is installed, hence it is not installed here."""
    code = """
import sys
sys.modules["opentelemetry.sdk"] = None
from broker import Broker, InsufficientMemory, BrokerError
from worker_hooks import GpuWorker, gpu_job
try:
    Broker.from_url(sys.argv[1]).acquire("1GiB")
except BrokerError as error:
    print(type(error).__name__)
print(gpu_job("photos", memory="1GiB").meta)
print([name for name in sys.modules if name.startswith(("opentelemetry.trace", "broker.spans"))])
"""
    done = subprocess.run([sys.executable, "-c", code, redis_url], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "trace" not in done.stdout.splitlines()[-2]


def test_an_application_that_imports_the_api_alone_is_not_traced() -> None:
    code = "from opentelemetry import trace\nfrom broker import tracing\nprint(tracing.on())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize("before", ["", "from opentelemetry import trace"])
def test_whether_it_is_on_costs_next_to_nothing(before: str) -> None:
    """A look into a dict where OpenTelemetry is not imported; a lease costs some hundred microseconds."""
    code = f"""
{before}
import time, timeit
from broker import tracing
asked = lambda: tracing.acquiring("default", None)
print(min(timeit.repeat(asked, number=1_000, repeat=20, timer=time.process_time)) / 1_000)
"""
    assert float(subprocess.check_output([sys.executable, "-c", code], text=True)) < 30e-6


# -- jobs --------------------------------------------------------------------------------------------------------------

#: What `opentelemetry-instrument` does for a worker, with a file in the place of a collector.
SITE = """
import os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import {processor}, ConsoleSpanExporter
out = open(os.environ["SPANS"], "a", buffering=1)
provider = TracerProvider()
provider.add_span_processor({processor}(ConsoleSpanExporter(
    out=out, formatter=lambda span: span.to_json(indent=None) + "\\n")))
trace.set_tracer_provider(provider)
"""


class Elsewhere:
    """Spans of workers."""

    def __init__(self, folder: Path, processor: str) -> None:
        (folder / "sitecustomize.py").write_text(SITE.format(processor=processor))
        self._file = folder / "spans"
        self.env = {"SPANS": str(self._file), "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}

    def seen(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file.read_text().splitlines() if line.endswith("}")]

    def wait_for(self, *names: str) -> dict[str, dict[str, Any]]:
        """The spans of these names, when all are there."""
        ends = time.monotonic() + 30
        while True:
            found = {span["name"]: span for span in self.seen()} if self._file.exists() else {}
            if set(names) <= set(found):
                return found
            assert time.monotonic() < ends, (names, sorted(found))
            time.sleep(0.02)


JOB = ("gpubroker.wait", "gpubroker.hold", "gpubroker.release", "in the job")


@pytest.mark.parametrize(
    ("kind", "processor"),
    [
        ("worker_hooks.GpuWorker", "SimpleSpanProcessor"), ("worker_hooks.GpuWorker", "BatchSpanProcessor"),
        ("worker_hooks.GpuSpawnWorker", "SimpleSpanProcessor"),
        ("worker_hooks.GpuSimpleWorker", "SimpleSpanProcessor"), ("rq.worker.Worker", "SimpleSpanProcessor"),
    ],
)  # fmt: skip
def test_one_trace_leads_from_who_sends_a_job_off_to_the_return_of_its_lease(
    spans: InMemorySpanExporter, stage: Stage, tmp_path: Path, kind: str, processor: str
) -> None:
    there = Elsewhere(tmp_path, processor)
    with trace.get_tracer("mine").start_as_current_span("request") as request:
        job = traced_jobs.work.delay()
    stage.burst(kind, **there.env)
    assert stage.outcome(job) == "done"
    enqueue = named(spans, "gpubroker.enqueue")
    assert parent_of(enqueue) == request.get_span_context().span_id
    ours = there.wait_for(*(JOB if kind != "rq.worker.Worker" else JOB[1:]))
    hold = ours["gpubroker.hold"]
    assert {span["context"]["trace_id"] for span in ours.values()} == {
        "0x" + format_trace_id(request.get_span_context().trace_id)
    }
    assert hold["parent_id"] == "0x" + format_span_id(id_of(enqueue))
    assert ours["in the job"]["parent_id"] == ours["gpubroker.release"]["parent_id"] == hold["context"]["span_id"]
    assert hold["attributes"]["gpubroker.job.id"] == job.id
    assert hold["status"]["status_code"] == "UNSET"


class Stuck(SpanExporter):
    """A collector that does not answer."""

    def __init__(self) -> None:
        self.asked, self.answers = threading.Event(), threading.Event()

    def export(self, spans: object) -> SpanExportResult:
        self.asked.set()
        self.answers.wait(60)
        return SpanExportResult.FAILURE


def test_a_collector_that_is_away_keeps_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    from broker import spans as ours

    collector, provider = Stuck(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(collector))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(ours, "FLUSH_SECONDS", 0.05)
    began = time.monotonic()
    with tracing.within({}, flush=True):
        provider.get_tracer("mine").start_span("work").end()
    assert time.monotonic() - began < 20
    assert collector.asked.wait(20)
    collector.answers.set()
    provider.shutdown()


def test_a_job_that_waited_says_for_how_long(spans: InMemorySpanExporter, stage: Stage, tmp_path: Path) -> None:
    there = Elsewhere(tmp_path, "SimpleSpanProcessor")
    lease = stage.broker.acquire("4GiB", gpu="GPU-a")
    stage.worker(**there.env)
    job = traced_jobs.work.delay()
    stage.parked(job)
    lease.release()
    assert stage.outcome(job) == "done"
    ours = there.wait_for(*JOB)
    wait = ours["gpubroker.wait"]
    assert wait["attributes"]["gpubroker.lease.waited_ms"] > 0
    assert wait["attributes"]["gpubroker.queue"] == "photos"
    assert wait["parent_id"] == ours["gpubroker.hold"]["parent_id"]


def test_a_job_carries_nothing_where_nobody_traces(stage: Stage) -> None:
    job = traced_jobs.work.delay()
    assert not {tracing.SENT, tracing.HELD} & set(job.meta["gpu"])


@pytest.mark.parametrize("carried", ["text", 7, ["a"], {"traceparent": 5}, {"traceparent": "junk"}, {5: "x"}])
def test_whatever_a_job_carries_it_runs(
    spans: InMemorySpanExporter, stage: Stage, tmp_path: Path, carried: object
) -> None:
    there = Elsewhere(tmp_path, "SimpleSpanProcessor")
    job = traced_jobs.work.delay()
    job.meta["gpu"] = {**job.meta["gpu"], tracing.SENT: carried, tracing.HELD: carried}
    job.save_meta()
    stage.burst(**there.env)
    assert stage.outcome(job) == "done"
