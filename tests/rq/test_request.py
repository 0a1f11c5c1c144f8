"""A request is checked where it is written down, before any queue is asked."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from broker import InvalidRequest
from broker.calls import check_name
from tests.rq.jobs import noted
from worker_hooks import gpu_job
from worker_hooks.request import GpuRequest, default_ttl, lease_name


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("memory", {"memory": "-4GiB"}),
        ("memory", {"memory": 0}),
        ("memory", {"memory": "nan"}),
        ("wait", {"wait": -1}),
        ("lease_ttl", {"lease_ttl": 1}),
        ("lease_ttl", {"lease_ttl": 10**6}),
        ("priority", {"priority": 1001}),
        ("tenant", {"tenant": "a b"}),
        ("gpu", {"gpu": "GPU a"}),
        ("gpus", {"gpus": 17}),
        ("gpus", {"gpus": 2, "gpu": "GPU-a"}),
        ("memory", {"memory": []}),
        ("labels", {"labels": {"a b": "c"}}),
        ("capability", {"capability": "new"}),
        ("mig", {"mig": "perhaps"}),
        ("host_memory", {"host_memory": "much"}),
        ("cpus", {"cpus": -1}),
        ("placement", {"placement": "anywhere"}),
        ("on_lease_lost", {"on_lease_lost": "shout"}),
        ("on_lease_lost", {"on_lease_lost": "a module.name"}),
        ("on_lease_lost", {"on_lease_lost": lambda lease: None}),
        ("on_lease_lost", {"on_lease_lost": 7}),
        ("meta", {"meta": ["not", "a", "dict"]}),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value)),  # the same in every run
)
def test_a_bad_request_is_refused_at_decoration_naming_the_field(field: str, values: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{field}="):
        gpu_job("photos", **({"memory": "4GiB"} | values))


def test_a_request_survives_its_way_through_meta() -> None:
    request = GpuRequest.checked("4GiB", wait=5, ttl=9, priority=-3, tenant="studio", gpu="GPU-a")
    assert GpuRequest.of_meta({"gpu": request.as_meta()}) == request
    large = GpuRequest.checked(
        ["16GiB", "2x8GiB"], labels={"rack": "a"}, capability="8.6", mig="none", host_memory="4GiB", cpus=0.5,
        placement="spread", on_lease_lost=noted,
    )  # fmt: skip
    assert large.on_lease_lost == "tests.rq.jobs.noted"
    assert large.asks == (str(16 << 30), f"2x{8 << 30}")
    assert GpuRequest.of_meta(json.loads(json.dumps({"gpu": large.as_meta()}))) == large


def test_a_request_may_be_written_into_meta_by_hand() -> None:
    by_hand = GpuRequest.of_meta({"gpu": {"memory": "4GiB", "gpus": 2, "labels": {"rack": "a"}}})
    assert by_hand == GpuRequest.checked("2x4GiB", labels={"rack": "a"})


@pytest.mark.parametrize("meta", [{}, {"gpu": True}, {"gpu": {"name": "A100"}}], ids=str)
def test_meta_of_other_people_is_no_request(meta: dict[str, object]) -> None:
    assert GpuRequest.of_meta(meta) is None


def test_a_users_meta_travels_beside_the_request() -> None:
    job = gpu_job("photos", memory="4GiB", meta={"studio": "north"})
    assert job.meta == {"studio": "north", "gpu": GpuRequest.checked("4GiB").as_meta()}


@pytest.mark.parametrize("job_id", ["photo-7", "_private", "-x", "a:b c/d", "ü", "x" * 300])
def test_every_job_id_gives_a_lease_name_the_ledger_takes(job_id: str) -> None:
    check_name("lease_id", lease_name(job_id, "0" * 32))


@pytest.mark.parametrize("text", ["soon", "0", "nan"])
def test_a_bad_default_ttl_names_its_variable(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBROKER_LEASE_TTL", text)
    with pytest.raises(InvalidRequest, match=r"^GPUBROKER_LEASE_TTL="):
        default_ttl()


def test_the_default_ttl_is_the_workers_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBROKER_LEASE_TTL", "12")
    assert default_ttl() == 12.0
    monkeypatch.delenv("GPUBROKER_LEASE_TTL")
    assert default_ttl() == 30.0


def test_importing_the_package_alone_imports_neither_rq_nor_redis() -> None:
    code = "import sys, worker_hooks; sys.exit(bool({'rq', 'redis', 'broker', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there() -> None:
    import worker_hooks

    for name in worker_hooks.__all__:
        assert callable(getattr(worker_hooks, name))


@pytest.mark.parametrize("wrong", [{"labels": ["a"]}, {"labels": "a"}, {"wait": 10**400}, {"cpus": 10**400}])
def test_whatever_a_jobs_meta_says_is_refused_in_words(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):  # anything else would end the worker that popped it, and then the next
        GpuRequest.of_meta({"gpu": {"memory": "4GiB", **wrong}})
