"""A pool at work under the users of `gpubroker acl`, nobody with more rights than his; and what an attacker gets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result
from redis.exceptions import NoPermissionError, ResponseError
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.job import Job, JobStatus

from broker import AsyncBroker, Broker, PoolUnavailable
from broker.cli import main
from broker.fsck import differences
from broker.ledger.keys import Keys
from broker.publish import Publisher
from broker.units import GIB
from tests.conftest import report
from tests.deploy import guarded_jobs as jobs
from tests.deploy.guarded import OTHER, POOL, Guarded
from tests.deploy.servers import until
from worker_hooks.request import GpuRequest

KEYS = Keys(POOL)
PATIENCE = 60
#: As servers say it of a command, and inside a script.
DENIED = r"ACL failure|NOPERM|permission|user executing the script"
#: As `.delay()` writes it: what the job borrows, where the worker reads it before the job starts.
BORROWS = {"gpu": GpuRequest.checked("1GiB").as_meta()}
LARGE = {"gpu": GpuRequest.checked("4GiB", ttl=3).as_meta()}


@pytest.fixture(scope="module")
def _guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with Guarded(tmp_path_factory.mktemp("acl")) as made:
        yield made


@pytest.fixture
def guarded(_guarded: Guarded) -> Guarded:
    """Two pools on a server with nothing in it, and a user for each role of each."""
    _guarded.admin.flushall()
    _guarded.admin.script_flush()
    _guarded.forget_denied()
    return _guarded


def _publish(guarded: Guarded, host: str = "h1") -> None:
    with guarded.broker("agent") as agent:
        Publisher(agent, host).publish([report("GPU-a")], 600_000)


def _start(guarded: Guarded, role: str, *words: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, "GPUBROKER_REDIS_URL": guarded.url(role), "GPUBROKER_POOL": POOL, "GPUBROKER_HOST": "h1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    return subprocess.Popen([sys.executable, "-m", "broker.cli", *words], env=environment)


def _run(guarded: Guarded, role: str, *words: str) -> Result:
    return CliRunner().invoke(main, words, env={"GPUBROKER_REDIS_URL": guarded.url(role), "GPUBROKER_POOL": POOL})


async def test_a_lease_lives_its_whole_life_under_its_own_users(guarded: Guarded) -> None:
    _publish(guarded)
    with guarded.broker("worker") as worker, guarded.broker("broker") as broker, guarded.broker("viewer") as viewer:
        lease = worker.acquire("4GiB", lease_id="first", ttl=20, function="enhance")
        assert lease.renew() > 0
        lease.resize("3GiB")
        worker.call("acquire", "second", str(5 * GIB), 30000, "", "", 0, "default", "me", "", "", "", "1")
        assert [waiter.id for waiter in viewer.waiters()] == ["second"]
        assert broker.explain("second").kind == "waiting"
        broker.revoke("first", grace=5, reason="for the second")
        assert lease.renew() > 0
        assert lease.revoke_at is not None
        worker.learn("enhance", "first", 4 * GIB, peak_bytes=GIB)
        assert lease.release() is True
        assert viewer.get("second") is not None
        assert {"granted", "queued", "resized", "revoked", "released"} <= {event.kind for event in viewer.events()}
        broker.drain("GPU-a")
        broker.undrain("GPU-a")
        broker.set_tenant("studio", quota="8GiB")
        broker.update_config(monitor_interval=2)
        async with AsyncBroker.from_url(guarded.url("viewer"), pool=POOL) as again:
            assert [gpu.uuid for gpu in await again.gpus()] == ["GPU-a"]
        assert differences(broker) == []
    assert guarded.denied() == []


def test_an_agent_samples_and_says_goodbye_under_its_own_user(guarded: Guarded) -> None:
    agent = _start(guarded, "agent", "agent", "--simulate", "2x6GiB")
    try:
        with guarded.broker("viewer") as viewer:
            until(lambda: len(viewer.gpus()) == 2, "two cards", PATIENCE)
            with guarded.broker("broker") as broker:
                broker.update_config(monitor_interval=0.5)
            card = viewer.gpus()[0].uuid
            seen = len(viewer.history(card))
            until(lambda: len(viewer.history(card)) > seen + 1, "further samples", PATIENCE)
            assert _start(guarded, "agent", "healthy", "agent").wait(PATIENCE) == 0
            agent.terminate()
            assert agent.wait(PATIENCE) == 0
            assert viewer.hosts() == [] or not any(gpu.lends for gpu in viewer.gpus())
    finally:
        agent.kill()
        agent.wait()
    assert guarded.denied() == []


def test_rq_jobs_of_every_kind_run_under_the_users_of_workers_and_producers(guarded: Guarded) -> None:
    _publish(guarded)
    url = guarded.url("producer")
    with redis.Redis.from_url(url) as connection:
        queue = Queue("photos", connection=connection)
        worker = _start(guarded, "worker", "worker", "--queue", "photos", "--with-scheduler")
        try:
            first = queue.enqueue(jobs.borrow, 3, meta=BORROWS)
            after = queue.enqueue(jobs.borrow, 4, depends_on=first, meta=BORROWS)
            again = queue.enqueue(jobs.fail, retry=Retry(max=1, interval=1), meta=BORROWS)
            plain = queue.enqueue(len, "abc")
            until(lambda: after.get_status() == JobStatus.FINISHED, "two jobs, one after the other", PATIENCE)
            until(lambda: plain.get_status() == JobStatus.FINISHED, "a job that borrows nothing", PATIENCE)
            until(lambda: again.get_status() == JobStatus.FAILED, "a job that failed twice", PATIENCE)
            assert first.return_value() == 6
            stopped = queue.enqueue(jobs.sleep, meta=BORROWS)
            until(lambda: stopped.get_status() == JobStatus.STARTED, "a job at work", PATIENCE)
            until(lambda: stopped.get_meta().get("here"), "its code at work", PATIENCE)
            send_stop_job_command(connection, stopped.id)
            until(lambda: stopped.get_status() == JobStatus.STOPPED, "its end", PATIENCE)
            assert _start(guarded, "worker", "healthy", "worker").wait(PATIENCE) == 0
        finally:
            worker.terminate()
            assert worker.wait(PATIENCE) == 0
        assert Job.fetch(first.id, connection=connection).latest_result() is not None
    with guarded.broker("broker") as broker:
        granted = [event.fields["id"] for event in broker.events() if event.kind == "granted"]
        assert len(granted) >= 5, "every job that borrows had a lease"
        assert broker.leases() == []
        assert differences(broker) == []
    assert guarded.denied() == []


def test_jobs_that_wait_and_jobs_of_a_killed_worker_go_on_under_the_workers_user(guarded: Guarded) -> None:
    _publish(guarded)
    with guarded.broker("broker") as broker:
        broker.update_config(reclaim_seconds=1)
    with redis.Redis.from_url(guarded.url("producer")) as connection:
        queue = Queue("photos", connection=connection)
        workers = [_start(guarded, "worker", "worker", "--queue", "photos") for _ in range(2)]
        try:
            held = [queue.enqueue(jobs.hold, 0.5, meta=LARGE) for _ in range(3)]
            until(lambda: all(job.get_status() == JobStatus.FINISHED for job in held), "three, in turn", PATIENCE)
            lost = queue.enqueue(jobs.hold, -1, meta=LARGE, retry=Retry(max=1))
            until(lambda: lost.get_meta().get("begun"), "a job at work", PATIENCE)
            name = Job.fetch(lost.id, connection=connection).worker_name
            dead = next(worker for worker in workers if _is_called(connection, name, worker.pid))
            dead.kill()
            until(lambda: lost.get_status() == JobStatus.FINISHED, "the other worker, once the lease is over", PATIENCE)
            assert lost.return_value() == 2
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    with guarded.broker("viewer") as viewer:
        assert "queued" in {event.kind for event in viewer.events()}
    assert guarded.denied() == []


def _is_called(connection: redis.Redis, name: str | None, pid: int) -> bool:
    return int(connection.hget(f"rq:worker:{name}", "pid") or 0) == pid  # type: ignore[arg-type]


def test_a_size_is_learned_and_asked_for_under_the_workers_user(guarded: Guarded) -> None:
    _publish(guarded)
    with guarded.broker("worker") as worker:
        for number in range(3):
            worker.learn("tests.deploy.guarded_jobs.enhance", f"run-{number}", GIB, peak_bytes=GIB // 2)
    with redis.Redis.from_url(guarded.url("producer")) as connection:
        auto = {"gpu": GpuRequest.checked("auto", default="1GiB").as_meta()}
        job = Queue("photos", connection=connection).enqueue(jobs.enhance, meta=auto)
        assert _start(guarded, "worker", "worker", "--queue", "photos", "--burst").wait(PATIENCE) == 0
        assert GIB // 2 <= job.return_value() <= GIB
    assert guarded.denied() == []


@pytest.mark.parametrize("kind", ["GpuSpawnWorker", "GpuSimpleWorker"])
def test_other_workers_of_ours_run_under_the_same_user(guarded: Guarded, kind: str) -> None:
    _publish(guarded)
    with redis.Redis.from_url(guarded.url("producer")) as connection:
        job = Queue("photos", connection=connection).enqueue(jobs.borrow, 6, meta=BORROWS)
        url = guarded.url("worker")
        command = [
            sys.executable,
            "-m",
            "rq.cli",
            "worker",
            "-u",
            url,
            "-w",
            f"worker_hooks.{kind}",
            "--burst",
            "photos",
        ]
        environment = {**os.environ, "GPUBROKER_REDIS_URL": url, "GPUBROKER_POOL": POOL, "GPUBROKER_HOST": "h1"}
        assert subprocess.run(command, env=environment, timeout=PATIENCE, check=False).returncode == 0
        assert job.return_value() == 12
    assert guarded.denied() == []


def test_a_plain_rq_worker_runs_borrowing_jobs_under_the_workers_user(guarded: Guarded) -> None:
    _publish(guarded)
    with redis.Redis.from_url(guarded.url("producer")) as connection:
        job = Queue("photos", connection=connection).enqueue(jobs.borrow, 5)
        url = guarded.url("worker")
        command = [sys.executable, "-m", "rq.cli", "worker", "-u", url, "--burst", "photos"]
        environment = {**os.environ, "GPUBROKER_REDIS_URL": url, "GPUBROKER_POOL": POOL, "GPUBROKER_HOST": "h1"}
        assert subprocess.run(command, env=environment, timeout=PATIENCE, check=False).returncode == 0
        assert job.return_value() == 10
    assert guarded.denied() == []


@pytest.mark.parametrize(
    "words",
    [
        ["status"], ["status", "--json"], ["hosts"], ["leases"], ["waiters"], ["events"], ["history", "GPU-a"],
        ["trend", "GPU-a"], ["config", "get"], ["hardware"], ["processes"], ["tenants"], ["sizes"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_viewer_reads_with_every_command_that_reads(guarded: Guarded, words: list[str]) -> None:
    guarded.fill()
    told = _run(guarded, "viewer", *words)
    assert told.exit_code == 0, told.output
    assert guarded.denied() == []


@pytest.mark.parametrize("role", ["broker", "worker", "agent", "viewer"])
def test_a_doctor_says_what_its_user_may_not_look_at_and_looks_at_the_rest(guarded: Guarded, role: str) -> None:
    guarded.fill()
    told = _run(guarded, role, "doctor")
    assert isinstance(told.exception, SystemExit), told.output
    assert "1 of 1 hosts publish" in told.output
    unseen = told.output.count("could not be looked at")
    assert unseen == {"broker": 1, "worker": 1, "agent": 2, "viewer": 3}[role], "RQ's side; the sums; who waits"


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("viewer", ["acquire", "1GiB"]), ("viewer", ["drain", "GPU-a"]),
        ("viewer", ["config", "set", "temp_optimal=1"]),
        ("worker", ["config", "set", "temp_optimal=50"]), ("agent", ["config", "set", "temp_optimal=50"]),
        ("worker", ["agent", "--simulate", "1x6GiB", "--once"]), ("agent", ["worker", "--burst"]),
        ("producer", ["status"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)  # fmt: skip
def test_a_command_of_another_role_is_refused_in_a_line_and_changes_nothing(
    guarded: Guarded, role: str, words: list[str]
) -> None:
    guarded.fill()
    before = guarded.dump()
    environment = {
        **os.environ, "GPUBROKER_REDIS_URL": guarded.url(role), "GPUBROKER_POOL": POOL, "GPUBROKER_HOST": "h9",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-m", "broker.cli", *words], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert run.returncode != 0
    assert "may not" in run.stderr or "permission" in run.stderr.lower(), run.stderr
    assert not any(password in run.stderr + run.stdout for password in guarded.passwords.values())
    assert guarded.dump() == before


# -- attacks that are refused ------------------------------------------------------------------------------------------


def test_a_viewer_changes_nothing_and_runs_no_code_of_his_own(guarded: Guarded) -> None:
    guarded.fill()
    before = guarded.dump()
    with guarded.raw("viewer") as viewer:
        for command in (
            ("HSET", KEYS.lease("held"), "memory_bytes", "1"), ("DEL", KEYS.ledger), ("EVAL", "return 1", "0"),
            ("EVAL_RO", "return 1", "0"), ("EVALSHA", "0" * 40, "0"), ("FCALL_RO", "f", "0"), ("SCRIPT", "LOAD", "x"),
            ("XADD", KEYS.events, "*", "kind", "granted"), ("LPUSH", KEYS.wake("waits"), "x"), ("PUBLISH", "x", "y"),
        ):  # fmt: skip
            with pytest.raises(NoPermissionError):
                viewer.execute_command(*command)
    assert guarded.dump() == before


@pytest.mark.parametrize("role", ["agent", "worker"])
def test_neither_an_agent_nor_a_worker_changes_the_configuration(guarded: Guarded, role: str) -> None:
    guarded.fill()
    before = guarded.dump()
    with guarded.broker(role) as broker, pytest.raises(PoolUnavailable, match="may not"):
        broker.update_config(overuse_policy="kill")
    with guarded.raw(role) as raw:
        with pytest.raises(NoPermissionError):
            raw.hset(KEYS.config, "overuse_policy", "kill")
        with pytest.raises(ResponseError, match=DENIED):
            raw.eval(f"return redis.call('HSET', '{KEYS.config}', 'overuse_policy', 'kill')", 0)
        with pytest.raises(ResponseError, match=DENIED):
            raw.eval(f"return redis.call('DEL', '{KEYS.config}')", 0)
    assert guarded.dump() == before


def test_an_agent_puts_no_code_into_a_queue_and_hears_no_worker(guarded: Guarded) -> None:
    with redis.Redis.from_url(guarded.url("agent")) as agent:
        with pytest.raises(NoPermissionError):
            Queue("photos", connection=agent).enqueue(len, "abc")
        with pytest.raises(NoPermissionError):
            agent.execute_command("PUBLISH", "rq:pubsub:worker", "{}")
    assert guarded.admin.keys("rq:*") == []


def test_a_worker_writes_no_samples(guarded: Guarded) -> None:
    guarded.fill()
    with guarded.raw("worker") as worker, pytest.raises(NoPermissionError):
        worker.xadd(KEYS.metrics("h1"), {"uuid": "GPU-a"})


def test_a_producer_knows_nothing_of_the_ledger(guarded: Guarded) -> None:
    guarded.fill()
    with guarded.raw("producer") as producer:
        for command in (("HGETALL", KEYS.lease("held")), ("DEL", KEYS.leases), ("XRANGE", KEYS.events, "-", "+")):
            with pytest.raises(NoPermissionError):
                producer.execute_command(*command)


@pytest.mark.parametrize("role", ["agent", "worker", "broker", "viewer"])
def test_nobody_reaches_another_pool(guarded: Guarded, role: str) -> None:
    guarded.fill(OTHER)
    before, other = guarded.dump(), Keys(OTHER)
    with Broker.from_url(guarded.url(role), pool=OTHER) as broker:
        with pytest.raises(PoolUnavailable, match="may not"):
            broker.leases()
        with pytest.raises(PoolUnavailable, match="may not"):
            broker.release("held", 1)
    with guarded.raw(role) as raw:
        for command in (
            ("HGETALL", other.lease("held")), ("XRANGE", other.events, "-", "+"), ("DEL", other.ledger),
            ("EVAL", "return redis.call('GET', KEYS[1])", "1", other.ledger),
            ("EVAL", f"return redis.call('HGETALL', '{other.ledger}')", "0"),
            ("EVAL", f"return redis.call('DEL', '{other.ledger}')", "0"),
        ):  # fmt: skip
            with pytest.raises(ResponseError, match=DENIED):
                raw.execute_command(*command)
    assert guarded.dump() == before


# -- attacks that the design allows: docs/deployments.md says so -------------------------------------------------------


@pytest.mark.parametrize("role", ["agent", "worker"])
def test_who_may_run_the_scripts_may_forge_a_lease_and_the_doctor_sees_it(guarded: Guarded, role: str) -> None:
    guarded.fill()
    with guarded.raw(role) as raw:
        raw.hset(KEYS.lease("forged"), mapping={"id": "forged", "token": "1", "memory_bytes": "1"})
        raw.hset(KEYS.gpu("GPU-a"), "lease:forged", "1")
    assert guarded.denied() == []
    with guarded.broker("broker") as broker:
        assert any("forged" in str(one) or "GPU-a" in str(one) for one in differences(broker))


def test_a_worker_may_lift_its_own_quota(guarded: Guarded) -> None:
    guarded.fill()
    with guarded.broker("broker") as broker:
        broker.set_tenant("studio", quota="4GiB")
        with guarded.raw("worker") as raw:
            raw.hset(KEYS.tenant("studio"), "quota_bytes", "0")
        assert [one.quota_bytes for one in broker.tenants() if one.name == "studio"] == [None]


def test_a_viewer_reads_the_tokens_of_leases(guarded: Guarded) -> None:
    token = guarded.fill()
    with guarded.raw("viewer") as viewer:
        assert viewer.hget(KEYS.lease("held"), "token") == str(token)


def test_the_page_says_what_the_design_allows() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "deployments.md").read_text().split())
    for words in (
        "forge a lease",
        "lift its own quota",
        "reads the tokens of leases",
        "cannot tell one script from another",
    ):
        assert words in page, words
