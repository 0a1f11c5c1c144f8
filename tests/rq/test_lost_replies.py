"""RQ's Redis does what it was asked for, and its reply is lost: a connection that tries again asks twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from rq import Retry

from tests.proof.proxy import Proxy
from tests.rq import jobs
from tests.rq.conftest import PATIENCE, Stage
from worker_hooks.request import GpuRequest

ROOT = Path(__file__).parents[2]
META = {"gpu": GpuRequest.checked("4GiB").as_meta()}
Burst = Callable[[Proxy], None]


@pytest.fixture
def burst(tmp_path: Path) -> Burst:
    """Work until the queue is empty, with a connection that tries again, as of a host and a port it does."""

    def work(proxy: Proxy) -> None:
        (tmp_path / "lost_replies.py").write_text(f"REDIS_HOST, REDIS_PORT = {proxy.host!r}, {proxy.port}\n")
        command = [sys.executable, "-m", "rq.cli", "worker", "-c", "lost_replies", "-w", "worker_hooks.GpuWorker"]
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        subprocess.run(
            [*command, "--burst", "photos"], env={**os.environ, "PYTHONPATH": path}, timeout=PATIENCE, check=True
        )

    return work


@pytest.mark.parametrize("meta", [None, META], ids=["plain", "borrows"])
def test_a_job_is_not_lost_with_the_reply_to_its_being_taken_up(
    stage: Stage, burst: Burst, meta: dict[str, object] | None
) -> None:
    job = stage.queue.enqueue(jobs.plain, meta=meta)
    at = urlsplit(stage.url)
    with Proxy(str(at.hostname), int(at.port or 0)) as proxy:
        proxy.drop_replies(1, matching=b"Takes a popped job out of the worker's hands")
        burst(proxy)
        assert proxy.done["drop"] == 1
    assert job.is_finished
    assert stage.redis.zcard(stage.queue.started_job_registry.key) == 0


@pytest.mark.parametrize("sent_off", ["with its request", "without"])
def test_a_job_that_is_run_again_is_not_queued_twice(stage: Stage, burst: Burst, sent_off: str) -> None:
    job = stage.queue.enqueue(jobs.move_often, 1, meta=META if sent_off == "with its request" else None)
    at = urlsplit(stage.url)
    with Proxy(str(at.hostname), int(at.port or 0)) as proxy:
        proxy.drop_replies(1, matching=b"again_reason")  # the meta that goes along
        burst(proxy)
        assert proxy.done["drop"] == 1
    job.refresh()
    assert job.is_finished
    assert len(job.results()) == 1
    assert job.meta["gpu"]["again"] == 1


def test_a_job_that_failed_is_not_retried_twice(stage: Stage, burst: Burst) -> None:
    job = stage.queue.enqueue(jobs.fail, meta=META, retry=Retry(max=2))
    at = urlsplit(stage.url)
    with Proxy(str(at.hostname), int(at.port or 0)) as proxy:
        proxy.drop_replies(1, matching=b"retries_left")  # the whole step, with the job's way into its queue
        burst(proxy)
        assert proxy.done["drop"] == 1
    job.refresh()
    assert (job.get_status(), job.retries_left) == ("failed", 0)
    assert stage.queue.job_ids == []
    assert len(job.results()) == 1
