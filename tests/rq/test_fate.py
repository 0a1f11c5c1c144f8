"""A lease and its job share a fate: every way in which a job, its worker, its keeper, its host or Redis can end."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker import Broker
from broker.embedded import EmbeddedServer
from broker.process import began
from broker.publish import Publisher
from tests.conftest import report
from tests.rq import jobs
from tests.rq.conftest import PATIENCE, Stage
from worker_hooks.held import Process
from worker_hooks.keeper import Keeper

TTL = 3
LONG_TTL = 600


class Parent:
    """A worker's stand-in (``tests.rq.parent``) and the three processes that matter, by handles."""

    def __init__(self, url: str, **how: Any) -> None:
        command = [sys.executable, "-m", "tests.rq.parent", json.dumps({"url": url, "ttl": TTL, **how})]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        told = self._read()
        self.lease, self.token, self.stray = told["lease"], told["token"], told["stray"]
        self.pids = {name: told[name] for name in ("pid", "horse", "keeper")}
        self.handles = {name: os.pidfd_open(pid) for name, pid in self.pids.items()}

    def _read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, word: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self._read()

    def send(self, name: str, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self.handles[name], number)

    def ended(self, name: str) -> bool:
        """Wait for its end."""
        return bool(select.select([self.handles[name]], [], [], PATIENCE)[0])

    def close(self) -> None:
        for name, handle in self.handles.items():
            for number in (signal.SIGKILL, signal.SIGCONT):
                try:
                    self.send(name, number)
                except ProcessLookupError:
                    break
            os.close(handle)
        if self.stray:
            os.kill(self.stray, signal.SIGKILL)
        self.process.communicate()


Start = Callable[..., Parent]


@pytest.fixture
def start(stage: Stage, redis_url: str) -> Iterator[Start]:
    """A parent whose job runs."""
    made: list[Parent] = []

    def begin(url: str = redis_url, **how: Any) -> Parent:
        parent = Parent(url, **how)
        made.append(parent)
        return parent

    yield begin
    for parent in made:
        parent.close()


# -- the job ends ------------------------------------------------------------------------------------------------------


def test_a_job_that_ended_gives_its_lease_back_before_its_worker_says_so(stage: Stage, start: Start) -> None:
    start(ttl=LONG_TTL)
    stage.hear()
    stage.go()
    stage.event("released")


def test_a_killed_job_gives_its_lease_back_at_once(stage: Stage, start: Start) -> None:
    parent = start(ttl=LONG_TTL)
    stage.hear()
    parent.send("horse", signal.SIGKILL)
    stage.event("released")
    assert stage.broker.leases() == []


def test_a_job_that_ended_before_its_keeper_looked_gives_its_lease_back(stage: Stage) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    keeper = Keeper(stage.broker.url, "default")
    keeper.hold(stage.broker.acquire("1GiB", ttl=LONG_TTL), gone.pid)
    stage.event("released")
    keeper.end()


def test_a_stranger_with_the_jobs_pid_is_not_the_job() -> None:
    me = os.getpid()
    assert not Process(me, began(me) or "").gone
    assert Process(me, "1/2").gone


def test_a_dropped_lease_is_released_or_left_alone(stage: Stage) -> None:
    keeper = Keeper(stage.broker.url, "default")
    kept, returned = (stage.broker.acquire("1GiB", ttl=LONG_TTL) for _ in range(2))
    for lease in (kept, returned):
        keeper.hold(lease, os.getpid())
    assert keeper.drop(kept, release=False)
    assert keeper.drop(returned)
    assert not keeper.drop(returned)
    keeper.end()
    assert stage.event("released").fields["id"] == returned.id
    assert [one.id for one in stage.broker.leases()] == [kept.id]


# -- the worker or the keeper ends -------------------------------------------------------------------------------------


def test_a_killed_worker_takes_job_and_lease_along(stage: Stage, start: Start) -> None:
    parent = start(ttl=LONG_TTL)
    stage.hear()
    parent.send("pid", signal.SIGKILL)
    assert parent.ended("horse")
    stage.event("released")
    assert parent.ended("keeper")


def test_a_job_that_outlives_its_worker_is_killed_with_all_that_it_started(stage: Stage, start: Start) -> None:
    parent = start(ttl=LONG_TTL, dies_with_its_worker=False, child=True)
    child = os.pidfd_open(stage.hear()["child"])
    stage.hear()
    parent.send("pid", signal.SIGKILL)
    assert parent.ended("horse")
    assert select.select([child], [], [], PATIENCE)[0]
    os.close(child)
    stage.event("released")


def test_what_a_job_started_does_not_outlive_its_worker_either(stage: Stage, start: Start) -> None:
    parent = start(ttl=LONG_TTL, child=True)
    child = os.pidfd_open(stage.hear()["child"])
    stage.hear()
    parent.send("pid", signal.SIGKILL)
    assert select.select([child], [], [], PATIENCE)[0]
    os.close(child)
    assert parent.ended("keeper")


def test_a_killed_worker_is_seen_though_its_pipe_is_still_open_elsewhere(stage: Stage, start: Start) -> None:
    parent = start(ttl=LONG_TTL, stray=True)
    stage.hear()
    parent.send("pid", signal.SIGKILL)
    stage.event("released")


def test_a_killed_keeper_is_replaced_and_the_lease_goes_on(stage: Stage, start: Start) -> None:
    parent = start()
    stage.hear()
    parent.send("keeper", signal.SIGKILL)
    assert parent.ended("keeper")
    told = parent.ask("tend")
    assert told["new"]
    assert told["keeper"] != parent.pids["keeper"]
    assert not parent.ask("tend")["new"]
    wait_for_renewals(stage, parent.lease)
    stage.go()
    stage.event("released")


SLOW_REDIS = """
import sys, time
if "worker_hooks.keeping" in sys.orig_argv:
    time.sleep({seconds})
sys.path.remove({folder!r})
del sys.modules["redis"]
import redis
sys.path.insert(0, {folder!r})  # a keeper is told where its starter finds modules
"""


def slow_to_start(folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """As on a busy machine, a keeper needs so long until it can speak with the ledger."""
    (folder / "redis").mkdir()
    (folder / "redis" / "__init__.py").write_text(SLOW_REDIS.format(seconds=seconds, folder=str(folder)))
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_keeper_that_is_slow_to_start_gives_no_lease_up_that_still_lives(
    stage: Stage, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_to_start(tmp_path, monkeypatch, 4.3)
    parent = start(ttl=6)
    stage.hear()
    wait_for_renewals(stage, parent.lease)
    stage.go()
    stage.event("released")


def test_a_worker_takes_no_lease_before_its_keeper_can_renew_it(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_to_start(tmp_path, monkeypatch, 4)
    job = stage.enqueue(jobs.linger, retries=0)
    begun = time.monotonic()
    stage.worker()
    stage.hear()
    assert time.monotonic() - begun > 4
    stage.redis.blpop(["nothing"], timeout=3)
    stage.go()
    assert "LeaseLost" not in stage.outcome(job)


def test_a_plain_job_waits_for_no_keeper(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_to_start(tmp_path, monkeypatch, 10)
    begun = time.monotonic()
    job = stage.queue.enqueue(jobs.succeed)
    stage.worker()
    assert stage.outcome(job) == "done"
    assert time.monotonic() - begun < 5  # the wait before a lease, which is the shorter of the two


def wait_for_renewals(stage: Stage, lease_id: str) -> None:
    """Until it has lived for longer than its TTL."""
    first = stage.broker.get(lease_id)
    assert first is not None
    while (now := stage.broker.get(lease_id)) and now.expires_at < first.expires_at + 1000 * TTL:
        stage.redis.blpop(["nothing"], timeout=0.2)
    assert now is not None
    assert now.state == "active"


def test_without_worker_and_keeper_the_lease_ends_by_its_ttl(stage: Stage, start: Start) -> None:
    parent = start()
    stage.hear()
    for name in ("keeper", "pid"):
        parent.send(name, signal.SIGKILL)
    assert parent.ended("horse")
    stage.event("expired")


def test_a_keeper_that_is_stuck_is_replaced_and_never_waited_for(stage: Stage) -> None:
    keeper = Keeper(stage.broker.url, "default")
    stuck = keeper.pid
    assert stuck is not None
    lease = stage.broker.acquire("1GiB", ttl=LONG_TTL)
    os.kill(stuck, signal.SIGSTOP)
    while keeper.pid == stuck:
        keeper.hold(lease, os.getpid())
    assert keeper.drop(lease)
    stage.event("released")
    keeper.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_service_that_is_stopped_keeps_its_leases_until_its_jobs_end(
    stage: Stage, start: Start, number: signal.Signals
) -> None:
    parent = start()
    stage.hear()
    parent.send("keeper", number)
    wait_for_renewals(stage, parent.lease)
    stage.go()
    stage.event("released")


def test_one_keeper_holds_several_leases(stage: Stage) -> None:
    keeper = Keeper(stage.broker.url, "default")
    jobs = [subprocess.Popen(["sleep", "100"]) for _ in range(3)]
    leases = [stage.broker.acquire("1GiB", ttl=LONG_TTL) for _ in jobs]
    for lease, job in zip(leases, jobs, strict=True):
        keeper.hold(lease, job.pid)
    jobs[1].kill()
    assert stage.event("released").fields["id"] == leases[1].id
    assert {one.id for one in stage.broker.leases()} == {leases[0].id, leases[2].id}
    for job in jobs:
        job.kill()
        job.wait()
    stage.event("released", nth=3)
    keeper.end()


# -- the lease ends ----------------------------------------------------------------------------------------------------


def test_a_lost_lease_is_an_exception_in_the_job_and_its_worker_knows_why(stage: Stage, start: Start) -> None:
    parent = start()
    stage.hear()
    stage.broker.release(parent.lease, parent.token)
    assert stage.hear()["raised"] == "LeaseLost"
    assert "why=released" in parent.ask("wait")["why"]


def test_what_a_job_that_raised_leaves_behind_ends_with_its_lost_lease(stage: Stage, start: Start) -> None:
    parent = start(child=True)
    child = os.pidfd_open(stage.hear()["child"])
    stage.hear()
    stage.broker.release(parent.lease, parent.token)
    assert stage.hear()["raised"] == "LeaseLost"
    assert select.select([child], [], [], PATIENCE)[0]
    os.close(child)


def test_a_lost_lease_kills_a_job_that_chose_so_and_all_that_it_started(stage: Stage, start: Start) -> None:
    parent = start(choice="kill", child=True)
    child = os.pidfd_open(stage.hear()["child"])
    stage.hear()
    stage.broker.release(parent.lease, parent.token)
    assert parent.ended("horse")
    assert select.select([child], [], [], PATIENCE)[0]
    os.close(child)
    assert stage.heard() == 0


def test_a_job_that_only_takes_note_of_its_loss_is_killed_after_a_grace(stage: Stage, start: Start) -> None:
    parent = start(choice="tests.rq.parent.told")
    stage.hear()
    stage.broker.release(parent.lease, parent.token)
    told = stage.hear()
    assert told["told"] == parent.lease
    assert told["lost"]
    assert parent.ended("horse")
    assert 8 < time.monotonic() - told["at"] < 20


def test_a_revoked_job_is_told_once_and_killed_when_its_lease_is_over(stage: Stage, start: Start) -> None:
    parent = start(choice="tests.rq.parent.told", ttl=6)
    stage.hear()
    since = time.monotonic()
    stage.broker.revoke(parent.lease, grace=4, reason="the card is hot")
    assert stage.hear()["told"] == parent.lease
    assert parent.ended("horse")
    assert 3.5 < time.monotonic() - since < 9
    assert stage.heard() == 0  # told once, though it was renewed several times meanwhile
    assert "the card is hot" in parent.ask("wait")["why"]
    assert [event.kind for event in stage.broker.events()].count("granted") == 1


@pytest.mark.parametrize("how", ["gone", "hangs"])
def test_without_redis_the_job_is_told_before_its_lease_is_over(stage: Stage, start: Start, how: str) -> None:
    with EmbeddedServer() as ledger:
        with Broker.from_url(ledger.url) as broker:
            Publisher(broker, "h1").publish([report("GPU-a")], 600_000)
        start(ledger.url)
        stage.hear()
        since = time.monotonic()
        os.kill(ledger.pid, signal.SIGKILL if how == "gone" else signal.SIGSTOP)
        told = stage.hear()
        assert told["raised"] == "LeaseLost"
        # The last renewal was confirmed before Redis went away, so the lease lives until then at the latest.
        assert told["at"] < since + TTL
        if how == "hangs":
            os.kill(ledger.pid, signal.SIGCONT)


def test_a_job_that_ends_while_redis_hangs_gives_its_lease_back_when_it_answers(stage: Stage, start: Start) -> None:
    with EmbeddedServer() as ledger, Broker.from_url(ledger.url) as broker:
        Publisher(broker, "h1").publish([report("GPU-a")], 600_000)
        parent = start(ledger.url, ttl=LONG_TTL)
        stage.hear()
        os.kill(ledger.pid, signal.SIGSTOP)
        parent.send("pid", signal.SIGKILL)
        assert parent.ended("horse")
        os.kill(ledger.pid, signal.SIGCONT)
        assert parent.ended("keeper")
        assert "released" in [event.kind for event in broker.events()]


def test_a_release_that_failed_is_tried_again_until_redis_is_back(stage: Stage, start: Start, tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as ledger:
        port = ledger.port
        with Broker.from_url(ledger.url) as broker:
            Publisher(broker, "h1").publish([report("GPU-a")], 600_000)
        parent = start(ledger.url, ttl=15)
        stage.hear()
    with socket.create_server(("127.0.0.1", port)) as nobody:
        parent.send("horse", signal.SIGKILL)
        for _ in range(5):  # one call connects four times at most
            nobody.accept()[0].close()
    with EmbeddedServer(tmp_path, port) as ledger, Broker.from_url(ledger.url) as broker:
        for event in broker.follow("0", block_ms=300):
            if event is not None and event.kind in ("released", "expired"):
                assert event.kind == "released"
                break


def test_a_keeper_whose_redis_never_comes_back_ends_when_its_leases_are_over(stage: Stage, start: Start) -> None:
    with EmbeddedServer() as ledger:
        with Broker.from_url(ledger.url) as broker:
            Publisher(broker, "h1").publish([report("GPU-a")], 600_000)
        parent = start(ledger.url)
        stage.hear()
    parent.send("pid", signal.SIGKILL)
    assert parent.ended("keeper")


def test_a_host_that_stood_still_past_the_ttl_ends_its_job_when_it_goes_on(stage: Stage, start: Start) -> None:
    parent = start()
    stage.hear()
    for name in ("pid", "horse", "keeper"):
        parent.send(name, signal.SIGSTOP)
    stage.event("expired")
    assert stage.broker.leases() != []  # its process still has the memory
    for name in ("pid", "horse", "keeper"):
        parent.send(name, signal.SIGCONT)
    assert stage.hear()["raised"] == "LeaseLost"
    assert parent.ended("horse")


# -- the table ---------------------------------------------------------------------------------------------------------


def test_every_test_that_the_table_names_is_there() -> None:
    root = Path(__file__).parents[2]
    named = set(re.findall(r"`(test_\w+)`", (root / "docs" / "fate.md").read_text(encoding="utf-8")))
    there = {name for file in Path(__file__).parent.glob("test_*.py") for name in _TEST.findall(file.read_text())}
    assert len(named) > 20
    assert named <= there


_TEST = re.compile(r"^def (test_\w+)", re.MULTILINE)
