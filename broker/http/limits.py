"""How much one client may ask for, and all of them together. What is over is refused with a time to come again."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from broker.http.problems import too_many

#: Clients remembered; the ones that were quiet for longest are forgotten, and then have their whole burst again.
_CLIENTS_MOST = 10_000


class Rate:
    """A bucket for each client: ``burst`` requests at once, filled up again by ``rate`` a second."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Every client's bucket is full."""
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Count one request.

        Raises:
            Problem: 429, the bucket is empty.
        """
        now = self._clock()
        left, at = self._buckets.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _CLIENTS_MOST:
            self._buckets.popitem(last=False)
        if left < 1:
            raise too_many(f"more than {self._rate:g} requests a second from one client", (1 - left) / self._rate)


class Seats:
    """How many of a kind that lasts, a waiting request or an open stream, there may be at a time."""

    def __init__(self, what: str, most: int, most_of_one: int) -> None:
        """All are free. ``what`` is for the refusal."""
        self._what, self._most, self._most_of_one = what, most, most_of_one
        self._of: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many there are now."""
        return self._of.total()

    @contextmanager
    def seat(self, client: str) -> Iterator[None]:
        """Hold one.

        Raises:
            Problem: 429, there are too many, of this client or in all.
        """
        if self._of[client] >= self._most_of_one or self.taken >= self._most:
            mine = self._of[client] >= self._most_of_one
            if not self._of[client]:
                del self._of[client]
            most, whose = (self._most_of_one, "of this client") if mine else (self._most, "of this server")
            raise too_many(f"{most} {self._what} {whose} are open already", 5)
        self._of[client] += 1
        try:
            yield
        finally:
            self._of[client] -= 1
            if not self._of[client]:
                del self._of[client]
