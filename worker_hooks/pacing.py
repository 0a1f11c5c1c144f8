"""What a job asks while it works: is my lease still mine, how fast may I go."""

from __future__ import annotations

import math
import os
import time

from broker.client import Broker, get_broker
from broker.errors import LeaseLost
from broker.lease import Lease
from broker.values import Throttle
from worker_hooks.holding import FRESH_SECONDS, current

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
    global _seen
    if _seen is not None and _seen[0] == os.getpid() and time.monotonic() - _seen[1] < FRESH_SECONDS:
        return _seen[2]
    return _ask()


def pace(full_batch: int) -> int:
    """How much to do next, of what is done at full speed: at least 1. At speed 0.0 it waits for speed.

    Call it between batches.

    Raises:
        LeaseLost: stop; the memory is not this job's any more. PoolUnavailable: Redis cannot be reached.
    """
    _still_held()
    now = throttle()
    if now.speed <= 0.0:
        now = _wait_for_speed()
    # 10 x 0.7 is 7.000000000000001 or 6.999999999999999, as floats have it.
    return max(1, math.floor(full_batch * now.speed + 1e-9))


def _wait_for_speed() -> Throttle:
    """Follow the journal; every entry, and a few seconds of silence, are a reason to look again."""
    broker = _broker()
    after = broker.last_event_id()  # read before the state: a change right after is not missed
    now = _ask()
    if now.speed > 0.0:
        return now
    for event in broker.follow(after):
        if event is None or event.kind in ("state", "joined", "expired", "reclaimed", "released", "config"):
            _still_held()
            now = _ask()
            if now.speed > 0.0:
                break
    return now


def _still_held() -> None:
    lease = current()
    if lease is not None and lease.lost:
        raise LeaseLost(f"lease {lease.id} is over; stop using its memory")


def _ask() -> Throttle:
    global _seen
    found = _broker().throttle()
    _seen = (os.getpid(), time.monotonic(), found)
    return found


def _broker() -> Broker:
    return get_broker()
