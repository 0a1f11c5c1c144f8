"""``@gpu_job``: RQ's ``@job`` for functions that borrow GPU memory."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

from redis import Redis
from rq.decorators import job as rq_job
from rq.job import Job
from rq.queue import Queue

from broker import tracing
from broker.calls import Memory
from broker.errors import InvalidRequest
from worker_hooks import holding, losing
from worker_hooks.request import GpuRequest

if TYPE_CHECKING:
    from worker_hooks.sizing import SizeOf

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class GpuJob(Protocol[P, R]):
    """A decorated function: called it borrows and runs here; ``delay`` and ``enqueue`` send it to its queue."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Borrow, run here, and return what the function returns."""

    def delay(self, *args: Any, **kwargs: Any) -> Job:
        """Send it to its queue. RQ takes ``job_id``, ``depends_on`` and ``at_front`` beside the function's own."""

    def enqueue(self, *args: Any, **kwargs: Any) -> Job:
        """The same."""


class gpu_job(rq_job):
    """A job that borrows ``memory`` of a GPU before its code runs, and returns it at its end.

    ``memory`` is bytes or ``"4GiB"``, ``"2x8GiB"`` of each of two GPUs of one host, or a list of such, best first. With
    ``"auto"`` it asks for what agents saw its former runs use; where that is too little, it is run again with more.

    ``.delay(...)`` and ``.enqueue(...)`` are RQ's. Beside what follows it takes all that RQ's ``@job`` takes
    (``timeout``, ``retry``, ``meta``, ...; its ``ttl`` is how long a job may stay in the queue). The request travels in
    ``job.meta["gpu"]``. A ``GpuWorker`` takes the lease before it forks; under a plain ``rq worker`` the decorated
    function takes it itself, so there the wait for room counts against the job's timeout. Called directly, outside
    any job, the function borrows in the same way; called inside a job that holds a lease, it runs under that lease.

    Args:
        queue: queue or its name.
        connection: RQ's Redis; without one, ``GPUBROKER_REDIS_URL`` at the first ``.delay``.
        default: with ``memory="auto"``, what is asked for before anything was learned.
        size_of: with ``memory="auto"``, a function of the job's arguments that says how large its input is (megapixels,
            tokens), called when the job is sent off: larger inputs then ask for more. It returns a positive number.
        wait: seconds to wait for room, then ``InsufficientMemory``; without it, as long as it takes.
        lease_ttl: seconds (3 to 86400) after which the lease ends if nobody renews it; 30, or ``GPUBROKER_LEASE_TTL``.
        priority: -1000 to 1000; the higher waits in front.
        tenant: on whose account.
        gpu: only this GPU, by UUID.
        gpus: so many GPUs of one host, all or none, and the memory of each.
        labels, capability, mig: only cards of such labels, at least that compute capability, such MIG instances.
        host_memory, cpus: of the host's own memory (bytes or ``"16GiB"``) and processors, beside the card.
        placement: ``balanced``, ``pack``, ``spread`` or ``cool``; the pool's way without it.
        on_lease_lost: what the job does when its lease is over or is asked for back: ``raise`` (``LeaseLost``, in its
            main thread), ``again`` (it is run again from its start, see ``run_again``), ``kill`` (SIGKILL), or a
            function of a module, or its dotted name, that is called with the lease in the midst of the job and leaves
            it a little time to end.
        reschedule: under a plain ``rq worker``, where the job's own process would wait for room and keep its worker
            busy: after so many seconds (1 to 86400) RQ's scheduler brings it again instead, no retry burnt. Wants a
            worker ``--with-scheduler``. A ``GpuWorker`` parks jobs by itself.

    Raises:
        InvalidRequest: at once, where the function is defined.
    """

    def __init__(
        self,
        queue: Queue | str,
        memory: Memory,
        connection: Redis | None = None,
        *,
        default: int | str | None = None,
        size_of: SizeOf | None = None,
        wait: float | None = None,
        lease_ttl: float | None = None,
        priority: int = 0,
        tenant: str = "default",
        gpu: str | None = None,
        gpus: int = 1,
        labels: Mapping[str, str] | None = None,
        capability: str | None = None,
        mig: str | None = None,
        host_memory: int | str | None = None,
        cpus: float | None = None,
        placement: str | None = None,
        on_lease_lost: str | losing.Callback = losing.RAISE,
        reschedule: float | None = None,
        **options: Any,
    ) -> None:
        """Check the request; connect later."""
        self._request = GpuRequest.checked(
            memory, gpus=gpus, wait=wait, ttl=lease_ttl, priority=priority, tenant=tenant, gpu=gpu, labels=labels,
            capability=capability, mig=mig, host_memory=host_memory, cpus=cpus, placement=placement,
            on_lease_lost=on_lease_lost, reschedule=reschedule, default=default,
        )  # fmt: skip
        if size_of is not None:
            from worker_hooks.sizing import check_size_of

            check_size_of(size_of, self._request)
        self._size_of = size_of
        self._given = connection
        if not isinstance(options.get("meta") or {}, dict):
            raise InvalidRequest("meta", options["meta"], "a dict")
        super().__init__(queue, connection, **options)  # type: ignore[arg-type]

    @property
    def connection(self) -> Redis:
        """RQ's Redis, asked for when a job is sent off."""
        return self._given if self._given is not None else _queue_connection()

    @connection.setter
    def connection(self, given: Redis | None) -> None:
        self._given = given

    @property
    def meta(self) -> dict[Any, Any]:
        """Of one job: the user's own, and the request."""
        sized = self._request if self._size_of is None else replace(self._request, size=_size.get())
        return {**self._meta, "gpu": {**sized.as_meta(), **tracing.sent()}}

    @meta.setter
    def meta(self, given: dict[Any, Any] | None) -> None:
        self._meta = given or {}

    def __call__(self, function: Callable[P, R]) -> GpuJob[P, R]:
        """The function, borrowing; with ``delay`` and ``enqueue``."""
        request, name = self._request, f"{function.__module__}.{function.__qualname__}"
        called: Callable[..., Any] = function

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with _borrowed(request, name, self._measure(args, kwargs)):
                return called(*args, **kwargs)

        @functools.wraps(function)
        async def run_coroutine(*args: Any, **kwargs: Any) -> Any:
            with _borrowed(request, name, self._measure(args, kwargs)):
                return await called(*args, **kwargs)

        borrowing = run_coroutine if inspect.iscoroutinefunction(function) else run
        job = super().__call__(borrowing)  # type: ignore[no-untyped-call]
        send = job.delay if self._size_of is None else self._sizing(job.delay)
        job.delay = job.enqueue = _traced(send, name)
        return cast("GpuJob[P, R]", job)

    def _measure(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], float] | None:
        size_of = self._size_of
        if size_of is None:
            return None
        from worker_hooks.sizing import measured

        return lambda: measured(size_of, args, kwargs)

    def _sizing(self, send: Callable[..., Job]) -> Callable[..., Job]:
        """RQ's ``delay``, which reads ``meta`` on its way: with the size of what the job is sent off with."""

        @functools.wraps(send)
        def delay(*args: Any, **kwargs: Any) -> Job:
            own = {name: value for name, value in kwargs.items() if name not in _OF_RQ}
            measure = self._measure(args, own)
            before = _size.set(measure() if measure is not None else None)
            try:
                return send(*args, **kwargs)
            finally:
                _size.reset(before)

        return delay


def _traced(send: Callable[..., Job], function: str) -> Callable[..., Job]:
    """RQ's ``delay``, in a span of its own where somebody traces: the job carries its context."""

    @functools.wraps(send)
    def delay(*args: Any, **kwargs: Any) -> Job:
        with tracing.sending(function):
            return send(*args, **kwargs)

    return delay


#: What RQ's ``delay`` takes for itself among a job's keywords.
_OF_RQ = ("depends_on", "job_id", "at_front")
#: The size of the input of the job that is being sent off.
_size: ContextVar[float | None] = ContextVar("size", default=None)


@functools.cache
def _queue_connection() -> Redis:
    """Where jobs go whose decorator names no connection: to the ledger's Redis.

    Raises:
        InvalidRequest: the ledger is in a cluster, and RQ's Redis is not named.
    """
    from broker.settings import Settings
    from worker_hooks.queue_connection import queue_connection

    return queue_connection(Settings().redis_url)


def _borrowed(request: GpuRequest, function: str, measure: Callable[[], float] | None) -> AbstractContextManager[None]:
    """A lease, unless this process works under one already: a worker of ours took it. Then nothing more is imported."""
    if holding.current() is not None:
        return nullcontext()
    from worker_hooks.borrowed import borrowed

    return borrowed(request, function, measure)
