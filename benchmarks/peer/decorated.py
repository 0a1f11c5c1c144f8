"""A job that borrows by itself: ``@gpu_job`` under RQ's own worker."""

from __future__ import annotations

from benchmarks.peer import job, ours
from worker_hooks import gpu_job


@gpu_job("quick-decorator", memory=ours.ALL)
def nothing() -> None:
    """A job that does nothing."""


@gpu_job("quick-decorator", memory=ours.ALL)
def hold(url: str, key: str, tag: str) -> None:
    """A job that holds; called in a script, it borrows for the length of the call."""
    job.hold(url, key, tag)
