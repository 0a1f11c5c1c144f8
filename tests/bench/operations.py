"""The operations that the guard counts: each is prepared on an empty server, and then done once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from unittest import mock

from redis import Redis
from rq import Queue

from benchmarks.counts import Counted, Counter
from benchmarks.filled import cards
from benchmarks.rq_job import develop
from broker import Broker, calls
from broker.glance import pool as status
from broker.publish import Publisher
from broker.units import GIB, MIB
from worker_hooks.request import GpuRequest

Act = Callable[[], object]
HOUR_MS = 3_600_000
#: How often an operation is counted, each time from an empty server: the fewest count. What a busy machine adds, such
#: as one more sign of life, it does not add every time.
TIMES = 3
PATIENCE_SECONDS = 60


@dataclass
class Stage:
    """A pool with one card of 80 GiB that was lent from before, so that nothing is done for the first time."""

    broker: Broker
    counter: Counter
    #: What ends with the stage.
    ending: ExitStack
    #: Set by an operation of which other commands than the pool's are not its own.
    of_pool_only: bool = field(default=False)

    def __post_init__(self) -> None:
        self.publish(1)
        self.broker.acquire(MIB, lease_id="warm", owner="guard").release()

    def publish(self, number: int, host: str = "h1") -> None:
        """A sample of so many cards of a host."""
        Publisher(self.broker, host).publish(cards(host, number), HOUR_MS)

    def held(self, memory: int | str = "1GiB", name: str = "held") -> Any:
        """A lease."""
        return self.broker.acquire(memory, lease_id=name, owner="guard", ttl=600)

    def ask(self, memory: int | str, name: str, wait: bool) -> Any:
        """One asking of a request, and the ledger's answer."""
        request = calls.ask(memory, lease_id=name, owner="guard", wait=60 if wait else 0)
        return self.broker.call("acquire", *request.asking(wait))

    def until(self, holds: Callable[[Redis], object]) -> None:
        """Wait until the server says so; what is asked for it is not counted."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while not self.counter.ask(holds):
            assert time.monotonic() < ends, "it never came to that"
            time.sleep(0.002)

    def until_one_sleeps(self) -> None:
        """Wait until somebody sleeps until something is pushed."""

        def sleeps(redis: Redis) -> bool:
            told: Any = redis.client_list(_type="normal")
            return any("b" in client["flags"] and client["cmd"] == "blpop" for client in told)

        self.until(sleeps)


OPERATIONS: dict[str, Callable[[Stage], Act]] = {}


def operation(name: str) -> Callable[[Callable[[Stage], Act]], Callable[[Stage], Act]]:
    """Known by this name in the budget."""

    def known(prepare: Callable[[Stage], Act]) -> Callable[[Stage], Act]:
        OPERATIONS[name] = prepare
        return prepare

    return known


def counted(url: str, prepare: Callable[[Stage], Act]) -> Counted:
    """The fewest of ``TIMES`` counts of an operation, each on the server emptied."""
    return min((_once(url, prepare) for _ in range(TIMES)), key=lambda one: (len(one.sent), len(one.inside)))


def _once(url: str, prepare: Callable[[Stage], Act]) -> Counted:
    with Redis.from_url(url) as redis:
        redis.flushall()
    # The number of a call is sent with it: its length must not hang on what ran before.
    with ExitStack() as ending, mock.patch.object(calls._nonces, "numbers", count(1000)):
        broker = ending.enter_context(Broker.from_url(url, pool="guard"))
        stage = Stage(broker, ending.enter_context(Counter(url, broker.keys)), ending)
        act = prepare(stage)
        return stage.counter.count(act, of_pool_only=stage.of_pool_only)


# -- a lease's life ----------------------------------------------------------------------------------------------------


@operation("acquire")
def _acquire(stage: Stage) -> Act:
    return lambda: stage.broker.acquire("1GiB", lease_id="one", owner="guard")


@operation("acquire, asked again")
def _acquire_again(stage: Stage) -> Act:
    stage.held(name="one")
    return lambda: stage.held(name="one")


@operation("acquire, refused")
def _refused(stage: Stage) -> Act:
    stage.held("70GiB")
    return lambda: stage.ask("20GiB", "one", wait=False)


@operation("acquire, queued")
def _queued(stage: Stage) -> Act:
    stage.held("70GiB")
    return lambda: stage.ask("20GiB", "one", wait=True)


@operation("acquire, still waiting")
def _still_waiting(stage: Stage) -> Act:
    stage.held("70GiB")
    stage.ask("20GiB", "one", wait=True)
    return lambda: stage.ask("20GiB", "one", wait=True)


@operation("acquire, claimed")
def _claimed(stage: Stage) -> Act:
    holder = stage.held("70GiB")
    stage.ask("20GiB", "one", wait=True)
    holder.release()
    return lambda: stage.ask("20GiB", "one", wait=True)


@operation("acquire, two cards")
def _two_cards(stage: Stage) -> Act:
    stage.publish(2)
    return lambda: stage.broker.acquire("1GiB", gpus=2, lease_id="one", owner="guard")


@operation("check")
def _check(stage: Stage) -> Act:
    lease = stage.held()
    return lambda: stage.broker.check(lease.id, lease.token, 4711)


@operation("renew")
def _renew(stage: Stage) -> Act:
    return stage.held().renew  # type: ignore[no-any-return]


@operation("resize, larger")
def _larger(stage: Stage) -> Act:
    lease = stage.held()
    return lambda: lease.resize("2GiB")


@operation("resize, smaller")
def _smaller(stage: Stage) -> Act:
    lease = stage.held()
    return lambda: lease.resize("512MiB")


@operation("release")
def _release(stage: Stage) -> Act:
    return stage.held().release  # type: ignore[no-any-return]


@operation("release, a waiter served")
def _release_serves(stage: Stage) -> Act:
    lease = stage.held("70GiB")
    stage.ask("20GiB", "one", wait=True)
    return lease.release  # type: ignore[no-any-return]


@operation("release, none served")
def _release_serves_none(stage: Stage) -> Act:
    stage.held("70GiB")
    lease = stage.held(name="small")
    stage.ask("20GiB", "one", wait=True)
    return lease.release  # type: ignore[no-any-return]


@operation("cancel")
def _cancel(stage: Stage) -> Act:
    stage.held("70GiB")
    stage.ask("20GiB", "one", wait=True)
    return lambda: stage.broker.cancel("one")


@operation("with lease()")
def _with_lease(stage: Stage) -> Act:
    def act() -> None:
        with stage.broker.lease("1GiB", lease_id="one", owner="guard"):
            pass

    return act


@operation("a whole hand-over")
def _hand_over(stage: Stage) -> Act:
    """From the waiter's call, over its sleep and the release, to its lease."""
    holder = stage.held("70GiB")
    waiter = stage.ending.enter_context(Broker.from_url(stage.broker.url, pool="guard"))
    waiter.redis.ping()
    got: list[str] = []
    call = threading.Thread(target=lambda: got.append(waiter.acquire("20GiB", lease_id="one", wait=60).id))

    def act() -> None:
        call.start()
        stage.until_one_sleeps()
        holder.release()
        call.join(PATIENCE_SECONDS)
        assert got == ["one"]

    return act


# -- agents, people and jobs -------------------------------------------------------------------------------------------


@operation("publish, 1 card")
def _publish_one(stage: Stage) -> Act:
    return _publishing(stage, 1)


@operation("publish, 8 cards")
def _publish_eight(stage: Stage) -> Act:
    return _publishing(stage, 8)


def _publishing(stage: Stage, number: int) -> Act:
    agent, reports = Publisher(stage.broker, "h1"), cards("h1", number)
    agent.publish(reports, HOUR_MS)
    return lambda: agent.publish(reports, HOUR_MS)


@operation("explain")
def _explain(stage: Stage) -> Act:
    stage.held("70GiB")
    return lambda: stage.broker.explain("20GiB")


@operation("status")
def _status(stage: Stage) -> Act:
    stage.publish(8)
    return lambda: stage.broker.run(status(stage.broker.keys))


@operation("an RQ job under a lease")
def _rq_job(stage: Stage) -> Act:
    """From the call that sends it until its worker sits idle again; RQ's own commands are not counted."""
    stage.of_pool_only = True
    url, seats = stage.broker.url, stage.broker.keys.seats("guard")
    command = [sys.executable, "-m", "rq.cli", "worker", "-q", "-u", url, "-w", "worker_hooks.GpuSimpleWorker", "guard"]
    own = {"GPUBROKER_REDIS_URL": url, "GPUBROKER_POOL": "guard", "GPUBROKER_HOST": "h1"}
    worker = subprocess.Popen(command, env={**os.environ, **own})
    stage.ending.callback(worker.wait)
    stage.ending.callback(worker.terminate)
    stage.until_one_sleeps()
    queue = Queue("guard", connection=stage.ending.enter_context(Redis.from_url(url, socket_timeout=90)))

    def act() -> None:
        job = queue.enqueue(develop, 0, meta={"gpu": GpuRequest.checked(GIB).as_meta()})
        assert job.latest_result(timeout=PATIENCE_SECONDS) is not None
        stage.until(lambda redis: redis.zcard(seats))
        stage.until_one_sleeps()

    return act
