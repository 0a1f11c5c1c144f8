"""One job's way from its request to its lease, in the worker, before the fork."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import redis

from broker import calls
from broker.calls import Waiting
from broker.errors import BrokerError, PoolUnavailable
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
        self._asleep = False

    def ask(self) -> Lease | None:
        """The lease, or ``None`` while the request waits in the queue.

        Raises:
            InsufficientMemory: waited long enough. ImpossibleRequest: could never fit on this host.
            LeaseLost: the grant ran out unclaimed. PoolUnavailable: ask again later.
        """
        stay = time.monotonic() < self._ends
        answer = calls.read_acquire(self._broker.call("acquire", *self._request.argv, int(stay)), self._request)
        return None if isinstance(answer, Waiting) else Lease(self._broker, answer)

    def sleep(self) -> None:
        """Until this waiter is served, a sign of life is due, or somebody interrupts.

        Raises:
            PoolUnavailable: Redis cannot be reached.
        """
        seconds = max(0.05, min(self._ends - time.monotonic(), calls.WAITER_BEAT_SECONDS))
        try:
            self._asleep = True
            self._broker.redis.blpop([self._broker.keys.wake(self._request.id)], timeout=seconds)
            self._asleep = False
        except Interrupted:
            return
        except redis.RedisError as error:
            raise PoolUnavailable(f"Redis cannot be reached at {self._broker.url}: {error}") from error
        finally:
            self._asleep = False

    def pause(self) -> None:
        """A moment, when there is no Redis to push."""
        try:
            self._asleep = True
            time.sleep(_PAUSE_SECONDS)
            self._asleep = False
        except Interrupted:
            return
        finally:
            self._asleep = False

    def interrupt(self) -> None:
        """End a sleep now. For a signal's handler: it raises, and only inside a sleep."""
        if self._asleep:
            self._asleep = False
            raise Interrupted

    def withdraw(self) -> None:
        """Leave nothing behind: no waiter, no grant, no lease. Without Redis the ledger drops them by itself."""
        try:
            if not self._broker.cancel(self._request.id):
                held = self._broker.get(self._request.id)
                if held is not None:
                    self._broker.release(held.id, held.token)
        except BrokerError:
            return
