"""What can be borrowed by name and given back, whoever keeps the account: a lock, a semaphore, a lease.

Each stands in a process of its own (``benchmarks.peer.child``), and the inner loops are the same for all of them, so
that what is timed is the library. All times are of the machine's monotonic clock, which its processes share.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any
from urllib.parse import urlsplit

from redis import Redis

#: The name that one client alone borrows, again and again.
ALONE = "alone"


class Borrower(ABC):
    """One client of one peer. Everything has a capacity of one: what a lock can do, all can."""

    def __init__(self, url: str) -> None:
        """Connect. By host and port, as redis-py's documentation does: so it tries again after a lost connection."""
        at = urlsplit(url)
        self.redis: Any = Redis(host=str(at.hostname), port=int(at.port or 0))
        self._bare = self.redis.script_load("return 1")

    @abstractmethod
    def take(self, name: str, wait: float) -> Any:
        """Borrow, waiting up to ``wait`` seconds; what was borrowed, or ``None``."""

    @abstractmethod
    def give(self, held: Any) -> None:
        """Give it back."""

    # -- what the driver calls ----------------------------------------------------------------------------------------

    def bares(self, count: int) -> list[float]:
        """Microseconds of each of so many bare EVALSHA by redis-py."""
        spans = []
        for _ in range(count):
            begun = time.perf_counter()
            self.redis.evalsha(self._bare, 0)
            spans.append((time.perf_counter() - begun) * 1e6)
        return spans

    def pairs(self, count: int) -> list[float]:
        """Microseconds of each of so many times borrowing and giving back."""
        spans = []
        for _ in range(count):
            begun = time.perf_counter()
            held = self.take(ALONE, 0)
            self.give(held)
            spans.append((time.perf_counter() - begun) * 1e6)
            if held is None:
                raise RuntimeError("what nobody else wants was not lent")
        return spans

    def acquire(self, name: str, wait: float) -> dict[str, Any]:
        """Borrow once and keep it: whether, when it was asked for, and when the answer was there."""
        asked = time.perf_counter()
        self._kept = self.take(name, wait)
        return {"held": self._kept is not None, "asked": asked, "at": time.perf_counter()}

    def release(self) -> float:
        """Give back what was kept; when that began."""
        at = time.perf_counter()
        self.give(self._kept)
        return at

    def cycle(self, names: list[str], wait: float, hold: float) -> dict[str, Any]:
        """Each of the names in turn: borrow, hold it for so many seconds, give it back. An error is not the end.

        Returns who held what from when to when, as this client believes, and how many calls ended in an error.
        """
        spans: list[tuple[str, float, float]] = []
        errors = 0
        for name in names:
            try:
                held = self.take(name, wait)
            except Exception:  # noqa: BLE001 - whatever a library raises: its caller knows of no loan
                errors += 1
                continue
            if held is None:
                continue
            begun = time.perf_counter()
            time.sleep(hold)
            spans.append((name, begun, time.perf_counter()))
            try:
                self.give(held)
            except Exception:  # noqa: BLE001 - the same, of its return
                errors += 1
        return {"spans": spans, "errors": errors}

    def free(self, names: list[str]) -> list[str]:
        """Which of the names can be borrowed right now."""
        found = []
        for name in names:
            held = self.take(name, 0)
            if held is not None:
                found.append(name)
                self.give(held)
        return found
