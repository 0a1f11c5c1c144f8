"""Faults for a pool under load: killed and paused processes, lost scripts, connections and replies, a lost ledger."""

from __future__ import annotations

import heapq
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import redis

from tests.proof.crew import Crew
from tests.proof.proxy import Proxy

#: How often each fault is drawn, against the others.
WEIGHTS = {
    "kill": 2, "pause": 4, "script_flush": 3, "client_kill": 3, "drop_replies": 8, "delay": 3, "duplicate": 6,
    "late_duplicate": 6, "cut": 8, "refuse": 1, "flushall": 0.5,
}  # fmt: skip


class Faults:
    """Injects one fault at a time, drawn by lot, and takes it back when its time is over."""

    def __init__(
        self,
        crew: Crew,
        proxy: Proxy,
        client: redis.Redis,
        dice: random.Random,
        *,
        weights: dict[str, float],
        after_loss: Callable[[], None],
    ) -> None:
        """Harm this crew, the connections of this proxy, and the server of this client.

        ``after_loss`` sets the pool up again when the ledger was lost, its configuration with it.
        """
        self.injected: Counter[str] = Counter()
        self._crew = crew
        self._proxy = proxy
        self._client = client
        self._dice = dice
        self._weights = weights
        self._after_loss = after_loss
        self._born = time.monotonic()
        self._undo: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def inject(self) -> str:
        """One fault; returns its kind."""
        kind = self._dice.choices(list(self._weights), list(self._weights.values()))[0]
        {
            "kill": self._kill, "pause": self._pause, "script_flush": self._script_flush,
            "client_kill": self._client_kill, "drop_replies": self._drop_replies, "delay": self._delay,
            "duplicate": self._duplicate, "late_duplicate": self._late_duplicate, "cut": self._cut,
            "refuse": self._refuse, "flushall": self._flushall,
        }[kind]()  # fmt: skip
        self.injected[kind] += 1
        return kind

    def undo_due(self) -> None:
        """Take back the faults whose time is over."""
        while self._undo and self._undo[0][0] <= time.monotonic():
            heapq.heappop(self._undo)[2]()

    def undo_all(self) -> None:
        """Take back every fault."""
        while self._undo:
            heapq.heappop(self._undo)[2]()
        self._proxy.heal()

    def _later(self, seconds: float, undo: Callable[[], None]) -> None:
        heapq.heappush(self._undo, (time.monotonic() + seconds, next(self._numbers), undo))

    def _somebody(self) -> str:
        return self._dice.choice(list(self._crew.members))

    def _kill(self) -> None:
        self._crew.replace(self._somebody())

    def _pause(self) -> None:
        """For longer than any lease of the crew lives: it comes back with leases that others have by then."""
        name = self._somebody()
        self._crew.signal(name, signal.SIGSTOP)
        self._later(self._dice.uniform(0.5, 3.0), lambda: self._crew.signal(name, signal.SIGCONT))

    def _script_flush(self) -> None:
        self._client.script_flush()

    def _client_kill(self) -> None:
        """Every client of the server loses its connection, and with it the replies that are on the way."""
        self._client.client_kill_filter(_type="normal", skipme=True)

    def _drop_replies(self) -> None:
        self._proxy.drop_replies(self._dice.randrange(1, 6), b"EVAL")

    def _delay(self) -> None:
        self._proxy.delay(self._dice.uniform(0.01, 0.5))
        self._later(self._dice.uniform(0.2, 2.0), lambda: self._proxy.delay(0))

    def _duplicate(self) -> None:
        self._proxy.duplicate(self._dice.randrange(1, 10))

    def _late_duplicate(self) -> None:
        self._proxy.duplicate(self._dice.randrange(1, 10), after=self._dice.uniform(0.05, 3.0))

    def _cut(self) -> None:
        self._proxy.cut_after(self._dice.randrange(1, 3000))

    def _refuse(self) -> None:
        self._proxy.refuse()
        self._later(self._dice.uniform(0.1, 2.0), lambda: self._proxy.refuse(False))

    def _flushall(self) -> None:
        """The ledger is lost; at most once a second, since a new one goes on above all of the seconds before."""
        time.sleep(max(0.0, self._born + 1.1 - time.monotonic()))
        self._client.flushall()
        self._born = time.monotonic()
        self._after_loss()
