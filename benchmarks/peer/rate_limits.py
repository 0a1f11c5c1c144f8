"""``limits``, which limits rates and has nothing that is held and given back: the nearest to a loan that it has.

One hit in a moving window of ten seconds is the loan, ``clear`` its return. It does not wait, so this does, by a try
every tenth of a second; it does not know who hit, so whoever clears gives back what anybody has; and a loan longer
than the window is lent again under its holder.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from limits import parse
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter

from benchmarks.peer.borrower import Borrower

WINDOW_SECONDS = 10
PAUSE_SECONDS = 0.1


class RateLimits(Borrower):
    """Once in ten seconds, unless it is cleared."""

    def __init__(self, url: str) -> None:
        """By the storage's URL, as its documentation has it."""
        super().__init__(url)
        at = urlsplit(url)
        self._limiter = MovingWindowRateLimiter(storage_from_string(f"redis://{at.hostname}:{at.port}"))
        self._once = parse(f"1 per {WINDOW_SECONDS} second")

    def take(self, name: str, wait: float) -> Any:
        """As ``Borrower.take``."""
        ends = time.monotonic() + wait
        while not self._limiter.hit(self._once, name):
            if time.monotonic() >= ends:
                return None
            time.sleep(min(PAUSE_SECONDS, max(0.0, ends - time.monotonic())))
        return name

    def give(self, held: Any) -> None:
        """As ``Borrower.give``."""
        self._limiter.clear(self._once, held)


opened = RateLimits
