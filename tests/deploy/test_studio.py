"""The files of deploy/sentinel on three "machines": ledger and RQ, users with few rights, a primary that dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.job import JobStatus

from broker import Broker, InvalidRequest, PoolUnavailable, acl
from broker.publish import Publisher
from tests.conftest import report
from tests.deploy import guarded_jobs as jobs
from tests.deploy.servers import HOST, Sentinels, Server, until
from tests.deploy.versions import acl_version
from worker_hooks.queue_connection import queue_connection
from worker_hooks.request import GpuRequest

FILES = Path(__file__).parents[2] / "deploy" / "sentinel"
ROLES = ("agent", "worker", "broker", "producer", "replica", "sentinel", "admin")
PATIENCE = 60
BORROWS = {"gpu": GpuRequest.checked("1GiB").as_meta()}


class Studio(Sentinels):
    """Three servers and three Sentinels, configured by the files; only addresses, ports and periods are the test's."""

    def __init__(self, folder: Path) -> None:
        self.passwords = {role: acl.new_password() for role in (*ROLES, "ask")}
        self.users = folder / "users.acl"
        hashes = {role: acl.hash_of(self.passwords[role]) for role in ROLES}
        self.users.write_text(
            "\n".join(["user default off", *acl.aclfile(hashes, "default", server=acl_version())]) + "\n"
        )
        admin = (acl.user_name("default", "admin"), self.passwords["admin"])
        self.servers = [Server(self._options(), user=admin) for _ in range(3)]
        self.sentinels = [Server(sentinel=self._watch(), user=("default", self.passwords["ask"])) for _ in range(3)]

    def _put_in(self, name: str) -> list[tuple[str, str]]:
        text = (FILES / name).read_text()
        for word in ("replica", "sentinel", "ask"):
            text = text.replace(f"PASSWORD_{word.upper()}", self.passwords[word])
        lines = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
        return [(line[0], line[1]) for line in lines]

    def _options(self) -> dict[str, str | int]:
        own = {
            name: value.strip('"') for name, value in self._put_in("server.conf") if name not in ("bind", "port", "dir")
        }
        return {**own, "aclfile": str(self.users), "repl-diskless-sync-delay": 0}

    def _watch(self) -> str:
        lines = [(name, value) for name, value in self._put_in("sentinel.conf") if name not in ("bind", "port", "dir")]
        text = "\n".join(f"{name} {value}" for name, value in lines) + "\n"
        text = text.replace("FIRST 6379", f"{HOST} {self.servers[0].port}")
        return text.replace(" 5000\n", " 700\n").replace(" 30000\n", " 3000\n")

    def url_of(self, role: str) -> str:
        """As a role connects, through any of the Sentinels."""
        user = f"{acl.user_name('default', role)}:{self.passwords[role]}"
        at = ",".join(server.address for server in self.sentinels)
        return f"redis+sentinel://{user}@{at}/{self.service}?sentinel_password={self.passwords['ask']}"

    def denied(self) -> list[str]:
        """What anybody tried on a server and might not."""
        logs = [server.client.acl_log() for server in self.servers if server.running]
        return [f"{one['username']} {one['context']} {one['object']}" for log in logs for one in log]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """Three machines."""
    with Studio(tmp_path_factory.mktemp("studio")) as made:
        yield made


def _worker(studio: Studio) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, "GPUBROKER_REDIS_URL": studio.url_of("worker"), "GPUBROKER_HOST": "h1",
        "PYTHONPATH": str(FILES.parents[1]),
    }  # fmt: skip
    return subprocess.Popen([sys.executable, "-m", "broker.cli", "worker", "--queue", "photos"], env=environment)


def _finished(queue: Queue, number: int) -> bool:
    """Whether a job sent now ends well; not while the servers change places."""
    try:
        job = queue.enqueue(jobs.borrow, number, meta=BORROWS)
        until(lambda: job.get_status() == JobStatus.FINISHED, "a job", PATIENCE)
    except redis.RedisError:
        return False
    assert job.return_value() == 2 * number
    return True


def _published(studio: Studio) -> bool:
    try:
        with Broker.from_url(studio.url_of("agent")) as agent:
            Publisher(agent, "h1").publish([report("GPU-a")], 600_000)
    except PoolUnavailable:
        return False
    return True


@pytest.mark.timeout(300)
def test_jobs_run_before_and_after_the_death_of_the_primary(studio: Studio) -> None:
    assert _published(studio)
    with Broker.from_url(studio.url_of("broker")) as broker:
        broker.update_config(grace_seconds=0.5)
    connection = queue_connection(studio.url_of("producer"))
    queue = Queue("photos", connection=connection)
    worker = _worker(studio)
    try:
        assert _finished(queue, 3)
        first = studio.primary
        assert studio.denied() == []
        first.stop()
        new = studio.wait_for_failover(first)
        assert new is not first
        until(lambda: _published(studio), "a sample on the new primary", PATIENCE)
        until(lambda: _finished(queue, 4), "a job by the new primary", PATIENCE)
        assert worker.poll() is None
    finally:
        worker.kill()
        worker.wait()
        connection.close()
    assert studio.denied() == []


def test_rq_is_told_that_it_cannot_live_in_a_cluster() -> None:
    with pytest.raises(InvalidRequest, match="RQ cannot live in a cluster"):
        queue_connection("redis+cluster://user:secret@one:1")
