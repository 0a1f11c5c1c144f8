"""A job whose own code traces, as an application's would."""

from __future__ import annotations

from opentelemetry import trace

from worker_hooks import gpu_job


@gpu_job("photos", memory="4GiB")
def work() -> str:
    with trace.get_tracer("mine").start_as_current_span("in the job"):
        return "done"
