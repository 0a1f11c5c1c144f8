"""A job's arguments are read where the job runs: with them comes code of the job's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.rq import jobs
from tests.rq.conftest import Stage
from worker_hooks.request import GpuRequest, function_of

KINDS = ("worker_hooks.GpuWorker", "worker_hooks.GpuSpawnWorker", "worker_hooks.GpuSimpleWorker")
META = {"gpu": GpuRequest.checked("1GiB").as_meta()}


class Photo:
    """Where it is read, it says by whom, and under which lease."""

    def __init__(self, seen: str) -> None:
        self.seen = seen

    def __setstate__(self, state: dict[str, str]) -> None:
        with Path(state["seen"]).open("a") as seen:
            seen.write(f"{os.getpid()} {os.environ.get('GPUBROKER_LEASE_ID')}\n")


class Unreadable:
    def __reduce__(self) -> tuple[object, ...]:
        return (int, ("not a number",))


def develop(photo: Photo) -> str:
    return f"{os.getpid()} {os.environ['GPUBROKER_LEASE_ID']}"


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_are_read_by_the_process_that_runs_the_job_under_its_lease(
    stage: Stage, kind: str, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    job = stage.queue.enqueue(develop, Photo(str(seen)), meta=META)
    stage.burst(kind)
    assert seen.read_text().splitlines() == [job.return_value()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_whose_arguments_cannot_be_read_fails_alone(stage: Stage, kind: str) -> None:
    job = stage.queue.enqueue(jobs.succeed, Unreadable(), meta=META)
    stage.burst(kind)
    assert "DeserializationError" in stage.outcome(job)


def test_a_functions_name_is_known_without_its_arguments(stage: Stage) -> None:
    for serializer in (None, JSONSerializer):
        sent = Job.create(jobs.succeed, ("x",), connection=stage.redis, serializer=serializer)
        sent.save()  # type: ignore[no-untyped-call]
        job = Job.fetch(sent.id, connection=stage.redis, serializer=serializer)
        assert function_of(job) == "tests.rq.jobs.succeed"
    job = Job.create(jobs.succeed, (Unreadable(),), connection=stage.redis)
    assert function_of(job) == "tests.rq.jobs.succeed"
