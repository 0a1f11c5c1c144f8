"""What a job asks while it works: is my lease still mine, how fast may I go, and is another card the better place."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ContextDecorator
from typing import Any, TypeVar

from broker.client import get_broker
from broker.errors import BrokerError, InvalidRequest, LeaseLost, PoolUnavailable
from broker.lease import Lease
from broker.units import parse_seconds
from broker.values import Throttle
from worker_hooks.holding import FRESH_SECONDS, current

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

#: Entries of the journal after which a card's speed may be another, and the longest time between two looks.
_NEWS = ("state", "joined", "expired", "reclaimed", "released", "config")
_LOOK_SECONDS = 3.0
_PATIENCE_MOST = 86_400.0

_seen: tuple[int, float, Throttle] | None = None


def current_lease() -> Lease | None:
    """The lease of the job that runs here; ``None`` outside a job. It is renewed and returned from outside the job."""
    return current()


def throttle() -> Throttle:
    """State, speed and reason of this job's GPU by temperature and health; outside a job, of the pool's worst GPU.

    Asks the ledger at most twice a second.

    Raises:
        PoolUnavailable: Redis cannot be reached.
    """
    if _seen is not None and _seen[0] == os.getpid() and time.monotonic() - _seen[1] < FRESH_SECONDS:
        return _seen[2]
    return _ask()


def pace(full_batch: int, patience: float | None = None) -> int:
    """How much to do next, of what is done at full speed: at least 1. At speed 0.0 it waits for speed.

    Call it between batches. With ``patience`` it waits so many seconds (0 to 86400) and then has the job run again from
    its start on another card, no retry burnt, see ``run_again``: what was done until now should be saved, or such that
    it may be done twice. Without, it waits as long as it takes, and keeps its lease.

    Raises:
        LeaseLost: stop; the memory is not this job's any more. PoolUnavailable: Redis cannot be reached.
        RunAgain: its patience is over: let it pass. BrokerError: the same where no RQ job holds a lease to give back.
        InvalidRequest.
    """
    _check_batch(full_batch)
    # 10 x 0.7 is 7.000000000000001 or 6.999999999999999, as floats have it.
    return max(1, math.floor(full_batch * _speed(_checked(patience)).speed + 1e-9))


def paced(items: Iterable[T], full_batch: int, patience: float | None = None) -> Iterator[list[T]]:
    """All items in their order, in batches that are as large as the card's speed allows: ``pace`` before each.

    ::

        for batch in paced(photos, 64, patience=60):
            enhance(batch)

    Raises:
        As ``pace``; InvalidRequest at once, the rest between batches.
    """
    _check_batch(full_batch)
    return _batches(iter(items), full_batch, _checked(patience))


def _batches(items: Iterator[T], full_batch: int, patience: float | None) -> Iterator[list[T]]:
    for first in items:  # there is one to wait for
        yield [first, *itertools.islice(items, pace(full_batch, patience) - 1)]


class at_speed(ContextDecorator):
    """For work that has no batches: rest after it, so that the card works as much of the time as its speed says.

    At speed 0.5 what took ten seconds is followed by ten seconds of rest, fewer if the card gets better meanwhile. At
    speed 0.0 it waits for speed before it begins; ``patience`` is as in ``pace``. Let the work end with what waits for
    the card (``.cpu()``, ``torch.cuda.synchronize()``): only then its time is known. After an exception there is no
    rest. As a context, or as a decorator of a plain function::

        for photo in photos:
            with at_speed(patience=60):
                enhance(photo)

        @at_speed()
        def enhance(photo): ...

    Raises:
        As ``pace``, before the work begins.
    """

    def __init__(self, patience: float | None = None) -> None:
        """Check the patience; nothing is asked yet."""
        self._patience = _checked(patience)
        self._begun: list[float] = []

    def __call__(self, func: F) -> F:
        """The function, at speed.

        Raises:
            InvalidRequest: it is a coroutine function or a generator: they would be over before their work is.
        """
        if inspect.iscoroutinefunction(func) or inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            raise InvalidRequest("function", func.__qualname__, "a plain function; in others `with at_speed():`")
        return super().__call__(func)

    def _recreate_cm(self) -> at_speed:
        return at_speed(self._patience)

    def __enter__(self) -> Throttle:
        """State, speed and reason, as the work begins."""
        now = _speed(self._patience)
        self._begun.append(time.monotonic())
        return now

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Rest."""
        worked = time.monotonic() - self._begun.pop()
        if kind is None:
            with contextlib.suppress(PoolUnavailable):  # the work is done; the next beginning tells
                _rest(worked)


def _speed(patience: float | None) -> Throttle:
    """A speed above 0.0, waiting for it."""
    _still_held()
    now = throttle()
    if now.speed > 0.0:
        return now
    for now in _looks(patience):
        _still_held()
        if now.speed > 0.0:
            return now
    raise _to_be_moved(f"still {now.state} after {patience:g} s: {now.reason}")


def _to_be_moved(why: str) -> BaseException:
    from rq.job import get_current_job

    from worker_hooks.again import RunAgain  # not before it is needed: it takes a job's start milliseconds

    if current() is None or get_current_job() is None:
        return BrokerError(f"{why}; only an RQ job that holds a lease can be moved: without one, leave `patience` out")
    return RunAgain(why)


def _rest(worked: float) -> None:
    """Until the work is that part of the time which the speed says. At speed 0.0 the next beginning waits instead."""
    begun, now = time.monotonic(), throttle()
    left = _rest_after(worked, now)
    if left < FRESH_SECONDS:  # what was heard is good that long
        time.sleep(left)
        return
    for now in _looks(left):
        lease = current()
        if time.monotonic() - begun >= _rest_after(worked, now) or (lease is not None and lease.lost):
            return


def _rest_after(worked: float, now: Throttle) -> float:
    return worked * (1 / now.speed - 1) if now.speed > 0.0 else 0.0


def _looks(seconds: float | None) -> Iterator[Throttle]:
    """How it stands now, and again after whatever may have changed it, for so long: it follows the journal."""
    broker = get_broker()
    after = broker.last_event_id()  # read before the state: a change right after is not missed
    ends = math.inf if seconds is None else time.monotonic() + seconds
    yield _ask()
    while (now := time.monotonic()) < ends:
        look_at = min(ends, now + _LOOK_SECONDS)
        for event in broker.follow(after, block_ms=max(1, math.ceil((look_at - now) * 1000))):
            after = after if event is None else event.stream_id
            if event is None or event.kind in _NEWS or time.monotonic() >= look_at:
                break
        yield _ask()


def _still_held() -> None:
    lease = current()
    if lease is not None and lease.lost:
        raise LeaseLost(f"lease {lease.id} is over; stop using its memory")


def _ask() -> Throttle:
    global _seen
    found = get_broker().throttle()
    _seen = (os.getpid(), time.monotonic(), found)
    return found


def _check_batch(full_batch: int) -> None:
    if isinstance(full_batch, bool) or not isinstance(full_batch, int) or full_batch < 1:
        raise InvalidRequest("full_batch", full_batch, "a whole number from 1 on")


def _checked(patience: float | None) -> float | None:
    if patience is not None:
        parse_seconds(patience, "patience", least=0, most=_PATIENCE_MOST)
    return patience
