"""``gpubroker worker``."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.rq import jobs
from tests.rq.conftest import PATIENCE, Stage

CLOSED = "redis://127.0.0.1:1/0"


def worker(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import broker.cli, worker_hooks.cli as w; {RUN}", "worker", *options],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


# The installed command finds the verb by its entry point; here it is put there, so that the tests need no install.
RUN = "broker.cli._VERBS['worker'] = ('worker_hooks.cli:worker', ''); broker.cli.main()"


def test_it_runs_jobs_of_its_queues_on_its_host(stage: Stage) -> None:
    job = jobs.look.delay()
    done = worker("--queue", "other", "--queue", "photos", "--host", "h1", "--burst", GPUBROKER_HOST="elsewhere")
    assert done.returncode == 0, done.stderr
    assert job.return_value()["device"] == "GPU-a"
    assert stage.redis.lrange(stage.queue.intermediate_queue_key, 0, -1) == []


def test_a_required_module_is_imported_before_the_fork(stage: Stage) -> None:
    job = jobs.look.delay()
    done = worker("--queue", "photos", "--burst", "--require-module", "tests.rq.jobs")
    assert done.returncode == 0, done.stderr
    assert job.return_value()["at_import"] == ""  # before there was a lease


def test_without_redis_it_exits_3_and_names_the_url() -> None:
    done = worker("--redis-url", CLOSED)
    assert done.returncode == 3
    assert "127.0.0.1:1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_bad_host_is_wrong_usage(redis_url: str) -> None:
    done = worker("--redis-url", redis_url, "--host", "a b")
    assert done.returncode == 2
    assert "host='a b'" in done.stderr
