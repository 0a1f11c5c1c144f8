"""python-redis-lock: SET NX, and a list on which those who wait sleep by BLPOP.

As its documentation has it: ``redis_lock.Lock(conn, name)``, without an expiry unless one is asked for.
"""

from __future__ import annotations

from typing import Any

import redis_lock as library  # type: ignore[import-untyped]

from benchmarks.peer.borrower import Borrower


class RedisLock(Borrower):
    """A new ``Lock`` for each loan, as in ``with redis_lock.Lock(conn, name):``."""

    def take(self, name: str, wait: float) -> Any:
        """As ``Borrower.take``; it waits for whole seconds."""
        lock = library.Lock(self.redis, name)
        got = lock.acquire(timeout=max(1, round(wait))) if wait > 0 else lock.acquire(blocking=False)
        return lock if got else None

    def give(self, held: Any) -> None:
        """As ``Borrower.give``."""
        held.release()


opened = RedisLock
