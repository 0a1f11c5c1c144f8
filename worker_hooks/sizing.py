"""Jobs of ``memory="auto"``: how large their input is, what they ask for, what is learned of them, and another try with
more where that was too little.

What is asked for is read right before the ledger is asked; what was used is told when the job has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import redis

from broker.client import Broker, get_broker
from broker.errors import BrokerError, ImpossibleRequest, InvalidRequest
from broker.sizes import RightSize, check_input_size, size_to_ask
from broker.units import MAX_MEMORY_BYTES, format_size
from worker_hooks.again import RunAgain
from worker_hooks.oom import is_out_of_memory
from worker_hooks.request import GpuRequest, function_name

if TYPE_CHECKING:
    from rq.job import Job

    from broker.lease import Lease

#: So many times a job that ran out of memory is run again with more.
TRIES_MOST = 3
#: What a shorter job used was seldom seen by an agent.
SEEN_SECONDS = 1.0

SizeOf = Callable[..., float]
_log = logging.getLogger("rq.worker")


def check_size_of(size_of: object, request: GpuRequest) -> None:
    """Whether a decorator may have this ``size_of``.

    Raises:
        InvalidRequest: it is no function, or the request is not one of "auto".
    """
    if size_of is not None and request.default is None:
        raise InvalidRequest("size_of", size_of, 'nothing, unless memory="auto"')
    if size_of is not None and not callable(size_of):
        raise InvalidRequest("size_of", size_of, "a function of the job's own arguments")


def measured(size_of: SizeOf, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    """The size of a job's input, by its author's function of its arguments.

    Raises:
        InvalidRequest: the function failed, or returned no positive, finite number.
    """
    try:
        size = size_of(*args, **kwargs)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise InvalidRequest("size_of", told, "a function of the job's arguments that returns a number") from error
    return check_input_size(size, "size_of")


def of_job(job: Job) -> GpuRequest | None:
    """The request that a job carries, if it is one of "auto"."""
    request = GpuRequest.of_meta(job.meta)
    return request if request is not None and request.default is not None else None


def of_call(request: GpuRequest, job: Job | None, function: str, measure: Callable[[], float] | None) -> GpuRequest:
    """The request of a function that runs in this process: of the job that brought it here, or of a direct call.

    Raises:
        InvalidRequest: the job's meta is not allowed, or ``measure`` found no size.
    """
    if request.default is None:
        return request
    carried = of_job(job) if job is not None and job.func_name == function else None
    if carried is not None:
        request = replace(request, size=carried.size, too_little=carried.too_little)
    return replace(request, size=measure()) if request.size is None and measure is not None else request


def resolved(broker: Broker, request: GpuRequest, function: str) -> GpuRequest:
    """A request of "auto" in bytes, as the ledger knows its function now; any other as it is.

    One round trip; more of them where a job selects by class in a pool of unlike cards, and not all have so much.

    Raises:
        PoolUnavailable: ask again later.
    """
    if request.default is None:
        return request
    found = _right_size(broker, request, function)
    return request.resolved(found.asked_bytes, found.known_bytes)


def _right_size(broker: Broker, request: GpuRequest, function: str) -> RightSize:
    """As the ledger has it; a guess is cut to the largest card of the class that a job selects, or it would wait."""
    found = broker.right_size(
        function_name(function), request.default or 1, size=request.size, tenant=request.tenant, gpu=request.gpu,
        too_little=request.too_little,
    )  # fmt: skip
    selects = {"labels": request.labels, "capability": request.capability, "mig": request.mig}
    if not any(selects.values()) or found.asked_bytes <= max(found.known_bytes, found.smallest_bytes):
        return found
    cards = broker.explain(found.asked_bytes, gpu=request.gpu, **selects).cards
    largest = max((card.capacity_bytes for card in cards if card.why != "selector"), default=0)
    if not 0 < largest < found.asked_bytes:
        return found
    return replace(found, asked_bytes=max(found.known_bytes, largest), largest_bytes=largest)


def smaller(request: GpuRequest, refused: ImpossibleRequest) -> GpuRequest:
    """The same request, for all of the largest card that it may have: if what it asked beyond that was a guess.

    Raises:
        ImpossibleRequest: the refusal, as it was.
    """
    if request.default is None or not request.known <= refused.largest_bytes < request.memory_bytes:
        if request.too_little:
            refused.add_note(f"gpubroker: its last attempt ran out of memory with {format_size(request.too_little)}")
        raise refused
    return request.resolved(refused.largest_bytes, request.known)


def learn(
    broker: Broker, request: GpuRequest | None, function: str, lease: Lease, peak_bytes: int | None = None
) -> None:
    """Tell the ledger what a job that ended well had and used: so many bytes, or what agents say.

    Nothing is told of a job that no agent saw, or that did not ask for "auto"; a ledger that cannot be told is logged.
    """
    if request is None or request.default is None:
        return
    with _logged(function, lease):
        seen = broker.peak_bytes(lease.id) if peak_bytes is None else peak_bytes
        if seen:
            broker.learn(
                function_name(function), lease.id, lease.memory_bytes, size=request.size,
                peak_bytes=min(seen, MAX_MEMORY_BYTES), default=request.default,
            )  # fmt: skip


@contextmanager
def with_more(job: Job | None, request: GpuRequest | None, function: str, lease: Lease) -> Iterator[None]:
    """Around the code of a job of "auto": where a card's memory was too little, the ledger learns it, and the job is
    run again with more: three times at most, while a card has more. Else its own exception stands, with a note.

    Raises:
        RunAgain: the lease goes back, and the job comes again.
    """
    try:
        yield
    except Exception as error:
        if request is None or request.default is None or not is_out_of_memory(error):
            raise
        request = replace(request, too_little=lease.memory_bytes)
        right = _ran_out(get_broker(), request, function, lease)
        full = 0 < right.largest_bytes <= lease.memory_bytes
        own = job is not None and job.func_name == function  # else it was called, and its caller is not ours to repeat
        tried = job.meta.get("gpu", {}).get("oom", 0) if job is not None else 0
        had = f'{format_size(lease.memory_bytes)} of memory="auto" were too little'
        if not own or full or tried >= TRIES_MOST:
            why = "no card has more for it" if full else f"tried {tried + 1} times"
            error.add_note(f"gpubroker: {had} ({why}; `gpubroker sizes` shows what was learned)")
            raise
        reason = f"{had}: it asks for {format_size(right.asked_bytes)} now"
        raise RunAgain(reason, oom=tried + 1, too_little_bytes=lease.memory_bytes) from error


def _ran_out(broker: Broker, request: GpuRequest, function: str, lease: Lease) -> RightSize:
    """Let the ledger learn it, and look what is asked for after this."""
    with _logged(function, lease):
        broker.learn(function_name(function), lease.id, lease.memory_bytes, size=request.size, default=request.default)
        return _right_size(broker, request, function)
    return size_to_ask((), None, request.default or 1, too_little=request.too_little)


@contextmanager
def _logged(function: str, lease: Lease) -> Iterator[None]:
    try:
        yield
    except (BrokerError, redis.RedisError) as error:
        _log.warning("What lease %s of %s used is not learned: %s", lease.id, function, error)
