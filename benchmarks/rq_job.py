"""The jobs of ``benchmarks.rq``, in a module that imports nothing of ours: it costs a plain worker no import."""

from __future__ import annotations

import hashlib
import json
import os
import time

from redis import Redis


def develop(rounds: int) -> None:
    """Keep one core busy for a fixed amount of work."""
    if rounds:
        hashlib.pbkdf2_hmac("sha256", b"photo", b"studio", rounds)


def tell_time(url: str, seconds: float) -> None:
    """Say when it began, and which process it is; then stay for so long."""
    began = time.time()
    with Redis.from_url(url) as redis:
        redis.rpush("told", json.dumps({"at": began, "pid": os.getpid()}))
    time.sleep(seconds)
