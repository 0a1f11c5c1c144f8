"""What RQ offers, with jobs under a lease, in each kind of worker."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from rq import Callback, Queue, Repeat, Retry, Worker
from rq.group import Group
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from tests.rq import jobs
from tests.rq.conftest import PATIENCE, Stage
from worker_hooks.request import GpuRequest

KINDS = ("worker_hooks.GpuWorker", "worker_hooks.GpuSpawnWorker", "worker_hooks.GpuSimpleWorker")
ROOT = Path(__file__).parents[2]
META = {"gpu": GpuRequest.checked("1GiB").as_meta()}
pytestmark = pytest.mark.parametrize("kind", KINDS)


def leases_granted(stage: Stage) -> list[str]:
    return [event.fields["id"] for event in stage.broker.events() if event.kind == "granted"]


def done(stage: Stage, job: Job, value: object = "done") -> None:
    """Finished with this value, and nothing is left of it."""
    job.refresh()
    assert job.get_status() == JobStatus.FINISHED
    assert job.return_value() == value
    assert stage.broker.leases() == []
    assert stage.redis.lrange(stage.queue.intermediate_queue_key, 0, -1) == []
    assert stage.redis.zcard(stage.queue.started_job_registry.key) == 0


def test_a_result_and_its_meta(stage: Stage, kind: str) -> None:
    job = jobs.look.delay()
    stage.burst(kind)
    job.refresh()
    seen = job.return_value()
    assert seen["device"] == "GPU-a"
    assert job.meta["gpu"]["lease_id"] == seen["lease"] == leases_granted(stage)[0]
    done(stage, job, seen)


def test_a_job_that_raises(stage: Stage, kind: str) -> None:
    job = jobs.fail.delay()
    stage.burst(kind)
    assert "the photo is broken" in stage.outcome(job)
    assert job.id in stage.queue.failed_job_registry
    assert stage.broker.leases() == []


def test_a_job_that_runs_out_of_time(stage: Stage, kind: str) -> None:
    job = jobs.overrun.delay()
    stage.burst(kind)
    assert "JobTimeoutException" in stage.outcome(job)
    assert stage.broker.leases() == []


def test_retries(stage: Stage, kind: str, tmp_path: Path) -> None:
    job = stage.queue.enqueue(jobs.fail_once, str(tmp_path / "f"), meta=META, retry=Retry(max=2))
    stage.burst(kind)
    done(stage, job)
    assert job.retries_left == 1
    assert len(set(leases_granted(stage))) == 2


def test_a_job_that_returns_retry(stage: Stage, kind: str, tmp_path: Path) -> None:
    job = stage.queue.enqueue(jobs.return_retry, str(tmp_path / "f"), meta=META)
    stage.burst(kind)
    done(stage, job)


def test_a_scheduled_retry_by_the_scheduler(stage: Stage, kind: str, tmp_path: Path) -> None:
    job = stage.queue.enqueue(jobs.fail_once, str(tmp_path / "f"), meta=META, retry=Retry(max=1, interval=1))
    stage.worker(kind, "--with-scheduler")
    while not job.is_finished:
        assert job.latest_result(timeout=PATIENCE) is not None
        job.refresh()
    assert len(leases_granted(stage)) == 2


def test_a_repeated_job(stage: Stage, kind: str) -> None:
    job = stage.queue.enqueue(jobs.succeed, meta=META, repeat=Repeat(times=1, interval=0))
    stage.burst(kind)
    stage.burst(kind)
    assert len(leases_granted(stage)) == 2
    done(stage, job)


def test_dependents_run_after_the_job(stage: Stage, kind: str) -> None:
    first = jobs.succeed.delay()
    second = stage.queue.enqueue(jobs.succeed, "after", depends_on=first, meta=META)
    stage.burst(kind)
    done(stage, second, "after")


def test_a_group(stage: Stage, kind: str) -> None:
    group = Group.create(connection=stage.redis)
    sent = [
        Queue.prepare_data(jobs.succeed, (number,), job_id=f"part-{number}", meta=dict(META)) for number in range(3)
    ]
    members = group.enqueue_many(stage.queue, sent)
    stage.burst(kind)
    assert [job.return_value(refresh=True) for job in members] == [0, 1, 2]


@pytest.mark.parametrize("ending", ["on_success", "on_failure"])
def test_callbacks(stage: Stage, kind: str, ending: str) -> None:
    function = jobs.succeed if ending == "on_success" else jobs.fail
    stage.queue.enqueue(function, meta=META, **{ending: Callback(jobs.tell)})  # type: ignore[arg-type]
    stage.burst(kind)
    assert stage.hear() == {"called": "back"}


def test_a_coroutine(stage: Stage, kind: str) -> None:
    job = jobs.coroutine.delay()
    stage.burst(kind)
    assert job.return_value(refresh=True) == leases_granted(stage)[0]


def test_a_result_that_is_not_kept(stage: Stage, kind: str) -> None:
    job = stage.queue.enqueue(jobs.succeed, meta=META, result_ttl=0)
    stage.burst(kind)
    assert not Job.exists(job.id, connection=stage.redis)
    assert stage.redis.exists(job.key) == 0


def test_the_json_serializer(stage: Stage, kind: str) -> None:
    queue = Queue("photos", connection=stage.redis, serializer=JSONSerializer)
    job = queue.enqueue(jobs.succeed, "json", meta=META)
    stage.burst(kind, "-S", "json")
    assert job.return_value(refresh=True) == "json"


def test_a_settings_module(stage: Stage, kind: str, tmp_path: Path) -> None:
    (tmp_path / "rq_settings.py").write_text(f"REDIS_URL = {stage.url!r}\nQUEUES = ['photos']\nNAME = 'by-settings'\n")
    job = jobs.succeed.delay()
    command = [
        sys.executable,
        "-m",
        "rq.cli",
        "worker",
        "-w",
        kind,
        "-c",
        "rq_settings",
        "-P",
        str(tmp_path),
        "--burst",
    ]
    subprocess.run(command, check=True, timeout=PATIENCE)
    done(stage, job)


def test_a_suspended_worker_takes_nothing(stage: Stage, kind: str) -> None:
    at_work = jobs.linger.delay()
    stage.worker(kind)
    stage.hear()
    suspend(stage.redis)
    job = jobs.succeed.delay()
    stage.go()
    stage.outcome(at_work)
    (worker,) = Worker.all(queue=stage.queue)
    while worker.get_state() != "suspended":
        worker.refresh()
    assert (job.get_status(), stage.redis.zcard(stage.broker.keys.seats("photos"))) == (JobStatus.QUEUED, 0)
    resume(stage.redis)
    assert stage.outcome(job) == "done"


def test_max_jobs_counts_those_that_ran(stage: Stage, kind: str) -> None:
    stage.broker.acquire("4GiB", lease_id="somebody", ttl=600)
    waiting = jobs.look.delay()  # 4 GiB: parked
    job = jobs.succeed.delay()
    assert stage.worker(kind, "--max-jobs", "1").wait(PATIENCE) == 0
    done_or_leased = [lease.id for lease in stage.broker.leases()]
    assert job.return_value(refresh=True) == "done"
    assert (waiting.get_status(), done_or_leased) == (JobStatus.SCHEDULED, ["somebody"])


def test_a_worker_pool(stage: Stage, kind: str) -> None:
    sent = [jobs.succeed.delay(number) for number in range(6)]
    command = [
        sys.executable,
        "-m",
        "rq.cli",
        "worker-pool",
        "photos",
        "-u",
        stage.url,
        "-n",
        "2",
        "-w",
        kind,
        "--burst",
    ]
    subprocess.run(command, check=True, timeout=2 * PATIENCE)
    assert [job.return_value(refresh=True) for job in sent] == list(range(6))
    assert stage.broker.leases() == []


def test_a_job_from_the_scheduler(stage: Stage, kind: str) -> None:
    job = stage.queue.enqueue_in(timedelta(seconds=1), jobs.succeed, meta=META)
    stage.worker(kind, "--with-scheduler")
    assert stage.outcome(job) == "done"


def test_rate_limited_jobs(stage: Stage, kind: str) -> None:
    from rq import RateLimit

    limit = RateLimit("camera", 1)
    sent = [stage.queue.enqueue(jobs.succeed, number, meta=META, rate_limit=limit) for number in range(3)]
    stage.burst(kind)
    assert [job.return_value(refresh=True) for job in sent] == [0, 1, 2]


def test_a_job_from_cron(stage: Stage, kind: str, tmp_path: Path) -> None:
    """Cron sends the function off by itself, without its request."""
    (tmp_path / "nightly.py").write_text(
        "from rq import cron\nfrom tests.rq import jobs\n"
        "cron.register(jobs.succeed, queue_name='photos', args=('nightly',), interval=600)\n"
    )
    stage.worker(kind)
    command = [sys.executable, "-m", "rq.cli", "cron", str(tmp_path / "nightly.py"), "-u", stage.url]
    with subprocess.Popen([*command, "-P", "."], cwd=ROOT) as cron:
        try:
            job = Job.fetch(stage.event("granted").fields["job_id"], connection=stage.redis)
            assert stage.outcome(job) == "nightly"
        finally:
            cron.terminate()
    done(stage, job, "nightly")
