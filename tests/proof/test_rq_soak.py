"""A small dose of the RQ soak; and what it would say if a rule were broken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
from redis import Redis

from tests.proof import rq_jobs
from tests.proof.rq_places import Places
from tests.proof.rq_soak import soak
from tests.proof.rq_verdict import Verdict
from tests.proof.rq_watch import Job, Watch

QUEUE, POPPED, WIP, FINISHED = "rq:queue:q", "rq:queue:q:intermediate", "rq:wip:q", "rq:finished:q"
STATUS = ("HSET", "rq:job:j", "status", "queued")


@pytest.mark.timeout(180)
def test_a_small_dose_of_kills_loses_no_job_and_runs_none_twice() -> None:
    result = soak(60, 6, seed=7)
    assert not result.violations, "\n".join(result.violations)
    assert sum(result.jobs.values()) == 60
    assert result.events["granted"] >= 30
    assert sum(count for kind, count in result.kills.items() if kind != "pause") == 6


def places(*transactions: Sequence[Sequence[str]]) -> list[str]:
    """What is wrong after the last of these transactions; nothing is after those before."""
    kept, wrong = Places(), list[str]()
    for transaction in transactions:
        assert wrong == []
        wrong = list(kept.take(transaction))
    return wrong


def test_the_way_of_a_job_from_its_queue_to_its_end_is_lawful() -> None:
    assert not places(
        [STATUS, ("RPUSH", QUEUE, "j")],
        [("LMOVE", QUEUE, POPPED, "LEFT", "RIGHT")],
        [("ZADD", WIP, "9", "j:e1")],
        [("LREM", POPPED, "1", "j"), ("HSET", "rq:job:j", "status", "started")],
        [("HSET", "rq:job:j", "status", "finished"), ("ZADD", FINISHED, "9", "j"), ("ZREM", WIP, "j:e1")],
    )


def test_a_job_that_leaves_one_place_before_it_has_another_is_lost() -> None:
    assert places([STATUS, ("RPUSH", QUEUE, "j")], [("LPOP", QUEUE)]) == ["j (queued) is nowhere: lost"]


@pytest.mark.parametrize("transaction", [
    [("RPUSH", QUEUE, "j")], [("ZADD", "rq:scheduled:q", "9", "j")], [("ZADD", FINISHED, "9", "j")],
], ids=str)  # fmt: skip
def test_a_job_in_two_places_would_run_twice(transaction: list[tuple[str, ...]]) -> None:
    (wrong,) = places([STATUS, ("RPUSH", QUEUE, "j")], transaction)
    assert "would run twice" in wrong


def test_two_executions_of_one_job_are_told() -> None:
    (wrong,) = places([STATUS, ("ZADD", WIP, "9", "j:e1")], [("ZADD", WIP, "9", "j:e2")])
    assert "['wip', 'wip']" in wrong


def test_what_went_wrong_with_a_job_is_told_once_with_its_story() -> None:
    watch = Watch()
    watch.expect(Job("j", 2))
    for transaction in (
        [STATUS, ("RPUSH", QUEUE, "j")],
        [("LMOVE", QUEUE, POPPED, "LEFT", "RIGHT"), ("LREM", POPPED, "1", "j"), ("ZADD", WIP, "9", "j:e1")],
        [("HINCRBY", "rq:worker:w1", "failed_job_count", "1"), ("ZREM", WIP, "j:e1"), ("RPUSH", QUEUE, "j")],
        [("RPUSH", QUEUE, "j"), ("ZREMRANGEBYSCORE", WIP, "0", "9")],
        [("ZADD", FINISHED, "9", "j")],
    ):
        watch.apply(transaction)
    first, *others = Verdict(watch, {}).told(watch.wrongs)
    assert "would run twice: " in first
    for step in ("in wip; ", "in queue by w1; ", "in queue+queue by RQ's clean-up; ", "in finished+queue+queue"):
        assert step in first
    assert others
    assert not any("in queue by" in text for text in others)


# -- what a run sees of the others -------------------------------------------------------------------------------------


@pytest.fixture
def text(redis_url: str) -> Iterator[Redis]:
    """A card of 10 bytes."""
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        redis.hset(rq_jobs.CAPACITY, "GPU-a", 10)
        yield redis


def begin(redis: Redis, process: str, size: int = 4) -> list[str]:
    """A run of one job begins in a process; its complaints."""
    told: rq_jobs.Told = {"job": "j", "process": process, "worker": "w", "lease": "j.1", "bytes": size}
    rq_jobs._begin(redis, told, ("GPU-a",))
    return [fields["text"] for _, fields in redis.xrange(rq_jobs.RUNS) if fields["kind"] == "wrong"]


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process that lives."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def written(pid: int) -> str:
    return f"{pid} {rq_jobs.began(pid)}"


def test_a_second_run_at_the_same_time_is_told(text: Redis, other: subprocess.Popen[bytes]) -> None:
    assert begin(text, written(other.pid)) == []
    assert "while it runs in" in begin(text, written(os.getpid()))[0]


def test_a_card_that_is_too_full_is_told(text: Redis, other: subprocess.Popen[bytes]) -> None:
    assert begin(text, written(other.pid), 6) == []
    assert "GPU-a has 10 bytes, in use are" in begin(text, written(os.getpid()), 5)[1]


def test_a_killed_run_neither_runs_nor_uses_anything(text: Redis, other: subprocess.Popen[bytes]) -> None:
    assert begin(text, written(other.pid), 10) == []
    other.kill()
    other.wait()
    assert begin(text, written(os.getpid()), 10) == []
