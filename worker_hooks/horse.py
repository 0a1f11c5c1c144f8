"""What the process does that runs a job's code: a worker's horse, or the worker itself where it has none.

A spawned horse imports this anew for every job: what only some jobs need is imported where they need it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import redis
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.worker import SpawnWorker
from rq.worker.base import BaseWorker

from broker import tracing
from broker.errors import BrokerError
from broker.process import began
from worker_hooks import environment, losing
from worker_hooks.again import RunAgain, noted
from worker_hooks.owning import NotOursError, only_ours

if TYPE_CHECKING:
    from rq.job import Retry
    from rq.registry import StartedJobRegistry

    from broker.wire import Wire
    from worker_hooks.holding import JobLease

#: What a spawned horse is told beside its lease's environment: which job it has, why that is refused, and the way
#: through the start gate on RQ's own connection: the script's hash, and its keys.
JOB, REFUSED, GATE = "GPUBROKER_JOB_ID", "GPUBROKER_REFUSED", "GPUBROKER_GATE"

#: Which worker admits jobs by their requests: its pid, for itself and its horses.
ADMITS = "GPUBROKER_ADMITS"

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class Named(NamedTuple):
    """What a horse must know of a lease that its worker holds."""

    id: str
    token: int


class Horse(BaseWorker):
    """For a worker of RQ's: put it before RQ's class among the bases."""

    _refusal: BrokerError | None = None
    _ends_with_job = False

    def _held(self) -> Named | None:
        """The lease of the job at hand, if it has one."""
        raise NotImplementedError

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Pass the start gate; then as RQ does."""
        if self._refusal is not None:
            job.perform = _raiser(self._refusal)  # type: ignore[method-assign]
        elif (lease := self._held()) is not None:
            try:
                job.perform = self._listening(job, lease)  # type: ignore[method-assign]
                self._pass_gate(lease.id, lease.token)
            except BrokerError as error:
                # Nothing of the job ran yet.
                self.log.warning("Worker %s: job %s does not start: %s", self.name, job.id, error)
                self._put_back(job, queue, execution)
                return False
        return super().perform_job(job, queue, execution)

    def _finalize_failure(self, job: Job, queue: Queue, execution: Execution, exc_info: Any) -> None:
        """As RQ's, of a job that failed; one that is to be run again goes back to the front of its queue."""
        again = exc_info[1]
        if isinstance(again, NotOursError):
            self._let_go(job, execution)
            return
        if not isinstance(again, RunAgain):
            super()._finalize_failure(job, queue, execution, exc_info)
            return
        self.log.info("Worker %s: job %s is run again: %s", self.name, job.id, again.reason)
        noted(job, again)
        self._put_back(job, queue, execution, meta=True)

    def handle_job_success(
        self, job: Job, queue: Queue, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """As RQ's, if this attempt still has the job."""
        with only_ours(self, job, execution):
            super().handle_job_success(job, queue, started_job_registry, execution)

    def handle_job_retry(
        self, job: Job, queue: Queue, retry: Retry, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """As RQ's, if this attempt still has the job."""
        with only_ours(self, job, execution):
            super().handle_job_retry(job, queue, retry, started_job_registry, execution)

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: StartedJobRegistry | None = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """As RQ's, if this attempt still has the job. Called last, by worker or horse."""
        try:
            with only_ours(self, job, execution):
                super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)
        except NotOursError:
            self._let_go(job, execution)

    def _let_go(self, job: Job, execution: Execution | None) -> None:
        """Of a job that others took up."""
        from worker_hooks import parking

        self.log.warning("Worker %s: job %s was taken up by others, and this attempt is void", self.name, job.id)
        if execution is not None:
            parking.drop(self, job, execution)

    def _put_back(self, job: Job, queue: Queue, execution: Execution, *, meta: bool = False) -> None:
        from worker_hooks import parking

        parking.put_back(self, job, queue, execution, meta=meta)

    def _listening(self, job: Job, lease: Named) -> Callable[[], Any]:
        """The job's code, and nothing of RQ's around it, hears that its lease is over."""
        perform, choice = job.perform, losing.choice_of(job)

        def run() -> Any:
            self._show()
            traced = tracing.within(job.meta.get("gpu"), tracing.HELD, tracing.SENT, flush=self._ends_with_job)
            with traced, losing.listening(lease.id, _view, choice, self._is_well()), _with_more(job):
                return perform()

        return run

    def _show(self) -> None:
        """Let job code find its lease, where the environment says too little."""

    def _is_well(self) -> Callable[[], bool] | None:
        """Where the keeper calls this very process: whether such a call means nothing."""
        return None

    def _pass_gate(self, lease_id: str, token: int) -> None:
        """Law 9: the token is checked once more, right before job code; over a connection made after the fork.

        Raises:
            BrokerError: do not start.
        """
        raise NotImplementedError


class OwnProcess(Horse):
    """A horse that is a process, for one job."""

    _ends_with_job = True

    def setup_work_horse_signals(self) -> None:
        """As RQ's; and a horse dies with its worker, since nobody else renews its lease."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]
        if sys.platform == "linux":
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self.pid:  # it died before the kernel was asked
            os._exit(1)


class Spawned(OwnProcess):
    """A horse that was spawned: it knows what its environment says."""

    _named: Named | None = None

    def _held(self) -> Named | None:
        return self._named

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Under the lease that the environment names, if it is this job's."""
        if os.environ.get(JOB) == job.id and REFUSED in os.environ:
            self._refusal = BrokerError(os.environ[REFUSED])
        elif os.environ.get(JOB) == job.id:
            self._named = Named(os.environ["GPUBROKER_LEASE_ID"], int(os.environ["GPUBROKER_LEASE_TOKEN"]))
            environment.cap_frameworks()
        return super().perform_job(job, queue, execution)

    def _pass_gate(self, lease_id: str, token: int) -> None:
        """By RQ's connection, which is there; where that is not the ledger's, or it refuses, by the broker's client."""
        sha, *keys = os.environ.pop(GATE, "").split() or [""]
        me = os.getpid()
        shown = me, began(me) or ""
        if sha:
            with suppress(redis.RedisError):
                self.connection.evalsha(sha, len(keys), *keys, lease_id, token, *shown)
                return
        from broker.client import get_broker

        get_broker().check(lease_id, token, *shown)


class SpawnedHorse(Spawned, SpawnWorker):
    """The horse of a ``GpuSpawnWorker``: what it does not need of its worker is not imported."""


def admits() -> bool:
    """Whether this process is a worker of ours, or a horse of one."""
    return os.environ.get(ADMITS) in (str(os.getpid()), str(os.getppid()))


def way_through(gate: Wire) -> str:
    """What ``GATE`` is to say where RQ's connection leads to the ledger."""
    from broker.ledger.scripts import script

    return " ".join([script("start").sha, *gate.keys.declared])


def _view() -> JobLease | None:
    """The job's own view of its lease."""
    from worker_hooks import holding

    return holding.current()


def _with_more(job: Job) -> AbstractContextManager[None]:
    """Around the code of a job whose size is learned."""
    if job.meta.get("gpu", {}).get("memory") != "auto" or (lease := _view()) is None:
        return nullcontext()
    from worker_hooks import sizing

    return sizing.with_more(job, sizing.of_job(job), job.func_name or "", lease)


def _raiser(error: BrokerError) -> Callable[[], NoReturn]:
    def perform() -> NoReturn:
        raise error

    return perform
