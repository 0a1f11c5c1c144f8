"""What the screen shows, as it changes: journal and samples push, and a picture is taken once a second at most."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from broker import glance
from broker.errors import BrokerError
from broker.explain import explain_named
from broker.ledger.keys import Keys

if TYPE_CHECKING:
    from broker.client import Broker

#: Between two pictures at least; and without any push at most, since also silence has to be seen.
LEAST_SECONDS, MOST_MS = 1.0, 3000
#: Leases and waiters in a picture; the screen says how many more there are. Events kept.
LISTED, EVENTS = 2000, 500
#: Waiters that are explained, and how many of them anew for each picture: each costs a script.
_EXPLAINED, _A_PICTURE = 20, 3
_BATCH = 500

Fields = dict[str, str]
Plan = Generator[Sequence[tuple[Any, ...]], list[Any], Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """A pool at a moment: hashes of the ledger, its time, the journal's end, and why the first waiters wait."""

    now: int = 0
    gpus: Sequence[Fields] = ()
    hosts: Sequence[Fields] = ()
    leases: Sequence[Fields] = ()
    waiters: Sequence[Fields] = ()
    lease_count: int = 0
    waiter_count: int = 0
    events: Sequence[tuple[str, Fields]] = ()
    whys: Mapping[str, str] = field(default_factory=dict)


class Feed:
    """A thread that takes pictures until it is stopped."""

    def __init__(self, broker: Broker, show: Callable[[Picture], object], away: Callable[[str], object]) -> None:
        """``show`` gets each picture and ``away`` what is wrong when none can be taken, both on the feed's thread."""
        self._broker, self._show, self._away = broker, show, away
        self._keys: Keys = broker.keys
        self._events: deque[tuple[str, Fields]] = deque(maxlen=EVENTS)
        self._whys: dict[str, tuple[float, str]] = {}
        self._after = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpubroker-top", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more pictures; one that is being taken is not waited for."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                picture = self._take()
                if self._stopped.is_set():
                    return
                self._show(picture)
                # What the pushes say is in the next picture: here they only say that there is something new.
                self._stopped.wait(LEAST_SECONDS - (time.monotonic() - began))
                self._broker.run(_pushed(self._keys, picture.hosts, self._after))
            except (BrokerError, KeyError, ValueError) as error:  # the last two: somebody wrote strange things by hand
                if not self._stopped.is_set():
                    self._away(str(error))
                self._stopped.wait(LEAST_SECONDS)

    def _take(self) -> Picture:
        seen = self._broker.run(glance.pool(self._keys))
        leases, lease_count = self._broker.run(_listed(self._keys.leases, self._keys.lease))
        waiters, waiter_count = self._broker.run(_listed(self._keys.waiters, self._keys.waiter))
        for entry in self._broker.run(_news(self._keys, self._after)):
            self._events.append(entry)
            self._after = entry[0]
        self._after = self._after or "0"
        return Picture(
            seen.now, seen.gpus, seen.hosts, leases, waiters, lease_count, waiter_count, tuple(self._events),
            self._explained([waiter["id"] for waiter in waiters[:_EXPLAINED]]),
        )  # fmt: skip

    def _explained(self, names: Sequence[str]) -> dict[str, str]:
        """Why these wait; those whose reason is oldest are asked about anew."""
        self._whys = {name: told for name, told in self._whys.items() if name in names}
        for name in sorted(names, key=lambda name: self._whys.get(name, (0.0, ""))[0])[:_A_PICTURE]:
            try:
                told = explain_named(self._broker, name)
            except BrokerError:  # who may only read may run no script: all but the reasons is told
                break
            if told.kind == "waiting":
                # The headline repeats what the row says; the first reason is the one that is nearest to coming right.
                *_, reason = told.words()[:2]
                self._whys[name] = (time.monotonic(), reason)
        return {name: reason for name, (_, reason) in self._whys.items()}


def _listed(index: str, key_of: Callable[[str], str]) -> Plan:
    """The first hashes of an index, and how many there are."""
    ids, count = yield [("ZRANGE", index, 0, LISTED - 1), ("ZCARD", index)]
    found: list[Fields] = []
    for start in range(0, len(ids), _BATCH):
        replies = yield [("HGETALL", key_of(name)) for name in ids[start : start + _BATCH]]
        found += [reply for reply in replies if reply]
    return found, int(count)


def _news(keys: Keys, after: str) -> Plan:
    """What the journal says after an id, oldest first; its end when there is no id yet."""
    if after:
        (entries,) = yield [("XRANGE", keys.events, f"({after}", "+", "COUNT", EVENTS)]
        return entries
    (entries,) = yield [("XREVRANGE", keys.events, "+", "-", "COUNT", EVENTS)]
    return reversed(entries)


def _pushed(keys: Keys, hosts: Sequence[Fields], after: str) -> Plan:
    """Return when the journal or any host's samples go on, or ``MOST_MS`` have passed."""
    streams = [keys.metrics(host["host"]) for host in hosts]
    yield [
        ("XREAD", "COUNT", 1, "BLOCK", MOST_MS, "STREAMS", keys.events, *streams, after, *["$"] * len(streams)),
    ]  # fmt: skip
