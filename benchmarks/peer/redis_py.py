"""redis-py's own ``Lock``: SET NX with a random value, polled; returned by a script that compares the value.

As its documentation has it: ``client.lock(name)``, whose defaults are no timeout and a try every 0.1 s.
"""

from __future__ import annotations

from typing import Any

from benchmarks.peer.borrower import Borrower


class RedisPyLock(Borrower):
    """A new ``Lock`` for each loan, as in ``with client.lock(name):``."""

    def take(self, name: str, wait: float) -> Any:
        """As ``Borrower.take``."""
        lock = self.redis.lock(name)
        return lock if lock.acquire(blocking=wait > 0, blocking_timeout=wait or None) else None

    def give(self, held: Any) -> None:
        """As ``Borrower.give``."""
        held.release()


opened = RedisPyLock
