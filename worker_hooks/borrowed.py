"""A lease that the process takes, holds and returns itself: in a plain ``rq worker``, or outside of any."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rq.job import Job, get_current_job

from broker import tracing
from broker.client import Broker, get_broker
from broker.errors import BrokerError, ImpossibleRequest, InsufficientMemory, LeaseLost, PoolUnavailable
from broker.process import began
from worker_hooks import environment, holding, losing, rescheduling, sizing
from worker_hooks.again import RunAgain
from worker_hooks.holding import JobLease, granted_of, note
from worker_hooks.horse import admits
from worker_hooks.keeper import Keeper
from worker_hooks.request import GpuRequest, lease_name

if TYPE_CHECKING:
    from broker.lease import Lease


@contextmanager
def borrowed(request: GpuRequest, function: str = "", measure: Callable[[], float] | None = None) -> Iterator[None]:
    """Hold a lease, renewed by a keeper, for the length of the body. ``function`` is on the account.

    ``measure`` tells the size of a direct call's input, for a request of "auto".

    Raises:
        LeaseLost: in the midst of the body, in the main thread, when the lease is over. RunAgain: the job is to be
            run again, and RQ's ``SimpleWorker`` cannot: there it fails, and is retried as RQ's rules say.
    """
    job = get_current_job()
    traced = tracing.within(None if job is None else job.meta.get("gpu"), tracing.SENT)
    try:
        with traced, _borrowed(sizing.of_call(request, job, function, measure), function, job):
            yield
    except RunAgain as again:  # the lease is back by now
        if job is None:
            raise LeaseLost(again.reason) from again
        if not rescheduling.in_a_horse(job):
            raise
        rescheduling.at_once(job, again)


@contextmanager
def _borrowed(request: GpuRequest, function: str, job: Job | None) -> Iterator[None]:
    broker = get_broker()
    request = sizing.resolved(broker, request, function)
    name = lease_name(job.id if job else "call", uuid.uuid4().hex)
    asked = request.arguments(name, job_id=job.id if job else "", pid=os.getpid(), function=function)
    try:
        lease = _acquired(broker, job, request, asked)
    except ImpossibleRequest as refused:
        lease = _acquired(broker, job, sizing.smaller(request, refused), asked)
    with _returned(lease) as keeper:
        view = JobLease(granted_of(lease))
        if job is not None:
            note(job, lease)
            job.save_meta()  # type: ignore[no-untyped-call]
        choice = request.on_lease_lost
        with environment.entered(lease), losing.listening(lease.id, lambda: view, choice, lambda: keeper.well(lease)):
            keeper.call_me()
            keeper.hold(lease, os.getpid(), losing.told_by(choice))
            holding.hold(view)
            # The start gate (law 9): this process may have been paused since the grant.
            broker.check(lease.id, lease.token, os.getpid(), began(os.getpid()) or "")
            begun = time.monotonic()
            with tracing.inside(lease), sizing.with_more(job, request, function, lease):
                yield
            if time.monotonic() - begun >= sizing.SEEN_SECONDS:
                sizing.learn(broker, request, function, lease)


def _acquired(broker: Broker, job: Job | None, request: GpuRequest, asked: dict[str, Any]) -> Lease:
    """At once, or after a wait; or the job is put off, and this process ends.

    Raises:
        RunAgain: the worker is one of ours, and its job was sent off without its request (``queue.enqueue``, cron): it
            knows it from now on, and parks the job instead of being kept busy by it (law 12).
    """
    if job is not None and "gpu" not in job.meta and job.func_name == asked["function"] and admits():
        try:
            return broker.acquire(request.asks, **(asked | {"wait": 0}))
        except (InsufficientMemory, ImpossibleRequest, PoolUnavailable):  # there may be room on another host, or later
            job.meta["gpu"] = request.as_meta()
            raise RunAgain("it cannot start now, and its worker did not know yet what it asks for") from None
    if job is None or request.reschedule is None or not rescheduling.in_a_horse(job):
        return broker.acquire(request.asks, **asked)
    try:
        return broker.acquire(request.asks, **(asked | {"wait": 0}))
    except InsufficientMemory:
        rescheduling.come_again(job, request.reschedule)


@contextmanager
def _returned(lease: Lease) -> Iterator[Keeper]:
    """A keeper beside the body. Afterwards the lease is returned here, or, while Redis is away, by the keeper."""
    from broker.settings import Settings

    keeper = None
    try:
        settings = Settings()
        keeper = Keeper(settings.redis_url, settings.pool)
        yield keeper
    finally:
        returned = True
        try:
            lease.release()
        except BrokerError as error:
            returned = not isinstance(error, PoolUnavailable)  # else it was over before
        if keeper is not None:
            keeper.drop(lease, release=not returned)
            keeper.end()
