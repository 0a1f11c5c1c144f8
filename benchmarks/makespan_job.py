"""The job of ``benchmarks.makespan``, and the card that it runs on: a counter that says no, as CUDA does."""

from __future__ import annotations

import json
import os
import time
from functools import cache

from redis import Redis

#: A card's bytes in use, taken or given back. KEYS the counter; ARGV bytes (negative: given back), capacity.
TAKE = """
local used = redis.call('INCRBY', KEYS[1], ARGV[1])
if used <= tonumber(ARGV[2]) then return 1 end
redis.call('DECRBY', KEYS[1], ARGV[1])
return 0
"""


@cache
def _redis() -> Redis:
    return Redis.from_url(os.environ["MAKESPAN_REDIS_URL"])


def enhance(number: int, size: int, seconds: float) -> None:
    """Use ``size`` bytes of the worker's card for so long: of the lease's where there is one.

    Raises:
        MemoryError: the card has not so much left.
    """
    card = os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ["MAKESPAN_CARD"]
    redis, capacity, begun = _redis(), int(json.loads(os.environ["MAKESPAN_CARDS"])[card]), time.time()
    fits = redis.eval(TAKE, 1, f"used:{card}", size, capacity)
    if fits:
        time.sleep(seconds)
        redis.eval(TAKE, 1, f"used:{card}", -size, capacity)
    told = {"job": number, "card": card, "size": size, "from": begun, "to": time.time(), "ran": bool(fits)}
    redis.rpush("told", json.dumps(told))
    if not fits:
        raise MemoryError(f"out of memory on {card}")
