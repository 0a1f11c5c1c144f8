"""One job's way from its request to its lease, in the worker, before the fork."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import redis

from broker import answers, calls
from broker.answers import Waiting
from broker.errors import BrokerError
from broker.lease import Lease

if TYPE_CHECKING:
    from broker.client import Broker

_PAUSE_SECONDS = 1.0


class Interrupted(BaseException):
    """Raised by a signal's handler to end a sleep; no ``except Exception`` on the way may swallow it."""


class Admission:
    """Asks, sleeps until pushed, asks again: each asking is the waiter's sign of life, and its claim."""

    def __init__(self, broker: Broker, request: calls.Ask) -> None:
        """Ask for nothing yet."""
        self._broker = broker
        self._request = request
        self._ends = time.monotonic() + request.wait_seconds
        self._asleep = self._interrupted = False

    def ask(self) -> Lease | None:
        """The lease, or ``None`` while the request waits in the queue.

        Raises:
            InsufficientMemory: waited long enough. ImpossibleRequest: could never fit on this host.
            LeaseLost: the grant ran out unclaimed. PoolUnavailable: ask again later.
        """
        asked = time.monotonic()
        stay = asked < self._ends
        answer = answers.read_acquire(self._broker.call("acquire", *self._request.asking(stay)), self._request)
        return None if isinstance(answer, Waiting) else Lease(self._broker, answer, asked)

    def sleep(self) -> None:
        """Until this waiter is served, a sign of life is due, or somebody interrupts."""
        seconds = max(0.05, min(self._ends - time.monotonic(), calls.WAITER_BEAT_SECONDS))
        try:
            self._rest(lambda: self._broker.redis.blpop([self._broker.keys.wake(self._request.id)], timeout=seconds))
        except redis.RedisError:
            self.pause()

    def pause(self) -> None:
        """A moment, when there is no Redis to push."""
        self._rest(lambda: time.sleep(_PAUSE_SECONDS))

    def _rest(self, rest: Callable[[], object]) -> None:
        try:
            self._asleep = True
            if not self._interrupted:
                rest()
            self._asleep = False
        except Interrupted:
            return
        finally:
            self._asleep = False

    def interrupt(self) -> None:
        """End this sleep and all later ones. For a signal's handler: it raises, but only inside a sleep."""
        self._interrupted = True
        if self._asleep:
            self._asleep = False
            raise Interrupted

    def withdraw(self) -> None:
        """Leave nothing behind: no waiter, no grant, no lease. Without Redis the ledger drops them by itself."""
        try:
            if self._broker.call("cancel", self._request.id, self._request.nonce) == "claimed":
                held = self._broker.get(self._request.id)
                if held is not None:
                    self._broker.release(held.id, held.token)
        except BrokerError:
            return
