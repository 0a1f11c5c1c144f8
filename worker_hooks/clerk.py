"""The keeper's words with the ledger, on a thread of their own: who watches processes never waits for Redis."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.client import Broker
    from worker_hooks.held import Held


@dataclass(frozen=True, slots=True)
class Answer:
    """What the ledger said: ``ok``, ``away`` (no answer) or ``over``, and why. Times by the monotonic clock.

    ``revoke_at`` is Redis's time, 0 unless it was revoked (``why``); ``deadline`` is ours, where it is news.
    """

    held: Held
    release: bool
    asked: float
    state: str
    why: str = ""
    revoke_at: int = 0
    deadline: float = 0.0


#: After so long the clerk imports what it needs to talk to Redis; before, jobs may be waiting to be watched.
_QUIET_SECONDS = 0.3


class Clerk:
    """Asks one thing after the other, and rings when there is an answer."""

    def __init__(self, quiet_seconds: float = _QUIET_SECONDS) -> None:
        """Begin."""
        self._quiet_seconds = quiet_seconds
        #: Whether what it needs to speak with the ledger is imported: a busy machine takes long for that.
        self.ready = False
        self._tasks: queue.SimpleQueue[tuple[Held, bool]] = queue.SimpleQueue()
        self._answers: deque[Answer] = deque()
        self.bell, self._cord = os.pipe()
        os.set_blocking(self.bell, False)
        threading.Thread(target=self._work, name="clerk", daemon=True).start()

    def ask(self, held: Held) -> None:
        """Release it if that is wanted, renew it else."""
        held.asked = True
        self._tasks.put((held, held.releasing))

    def heard(self) -> list[Answer]:
        """What was answered since the last time."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.bell, 4096)
        return [self._answers.popleft() for _ in range(len(self._answers))]

    def _work(self) -> None:
        first = None
        with contextlib.suppress(queue.Empty):  # afterwards nobody is in a hurry
            first = self._tasks.get(timeout=self._quiet_seconds)
        import broker.client  # noqa: F401 - a tenth of a second

        self.ready = True
        os.write(self._cord, b"!")
        while True:
            held, release = first or self._tasks.get()
            first = None
            self._answers.append(_release(held) if release else _renew(held))
            os.write(self._cord, b"!")


@cache
def _broker(url: str, pool: str) -> Broker:
    """Imported here: it takes a tenth of a second, in which jobs are watched already."""
    from broker.client import Broker

    return Broker.from_url(url, pool=pool)


def _renew(held: Held) -> Answer:
    broker, asked = _broker(held.url, held.pool), time.monotonic()

    from broker.errors import BrokerError, LeaseLost, LeaseNotFound, StaleToken
    from broker.granted import Claim

    try:
        renewal = broker.prolong(held.lease_id, held.token, claim=Claim(held.claim) if held.claim else None)
        deadline = 0.0
        if renewal.revoke_at and renewal.revoke_at != held.revoke_at:
            deadline = time.monotonic() + (renewal.revoke_at - broker.reap()) / 1000
    except (LeaseLost, StaleToken, LeaseNotFound) as error:
        return Answer(held, False, asked, "over", f"{type(error).__name__}: {error}")
    except BrokerError as error:
        return Answer(held, False, asked, "away", str(error))
    return Answer(held, False, asked, "ok", renewal.reason, renewal.revoke_at, deadline)


def _release(held: Held) -> Answer:
    broker, asked = _broker(held.url, held.pool), time.monotonic()

    from broker.errors import BrokerError, PoolUnavailable

    try:
        if held.orphan:
            broker.release_orphan(held.lease_id, held.token)
        else:
            broker.release(held.lease_id, held.token)
    except PoolUnavailable as error:
        return Answer(held, True, asked, "away", str(error))
    except BrokerError as error:
        return Answer(held, True, asked, "over", str(error))
    return Answer(held, True, asked, "ok")
