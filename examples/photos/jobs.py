"""The photo pipeline as RQ jobs that borrow their memory: this is all that a studio writes."""

from __future__ import annotations

from pathlib import Path

from rq import Retry

from worker_hooks import gpu_job, pace

from .process import process_photo

QUEUE = "photos"


@gpu_job(QUEUE, memory="4GiB", result_ttl=86_400, retry=Retry(max=3))
def enhance(src: str, root: str, dest: str) -> dict[str, str | int | float]:
    """Enhance one photo on the borrowed card; returns what became of it. Asks for its pace before each batch."""
    return process_photo(Path(src), Path(dest), root=Path(root), pace=pace).as_dict()
