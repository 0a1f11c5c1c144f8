"""pottery's ``Redlock``: SET NX with ten seconds to live on each of several servers, here on one; polled.

As its documentation has it: ``Redlock(key=name, masters={redis})``. Several independent servers are what it is made
for; on one, as here and as every peer has, it does the least that it can.
"""

from __future__ import annotations

from typing import Any

from pottery import Redlock

from benchmarks.peer.borrower import Borrower


class PotteryRedlock(Borrower):
    """A new ``Redlock`` for each loan."""

    def take(self, name: str, wait: float) -> Any:
        """As ``Borrower.take``."""
        lock = Redlock(key=name, masters={self.redis})
        got = lock.acquire(timeout=wait) if wait > 0 else lock.acquire(blocking=False)
        return lock if got else None

    def give(self, held: Any) -> None:
        """As ``Borrower.give``."""
        held.release()


opened = PotteryRedlock
