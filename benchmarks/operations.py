"""Every operation of a pool, called so that the pool is afterwards what it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.filled import CARDS_OF_A_HOST, Size, in_vain
from benchmarks.meter import Cost, Meter
from broker import Broker, calls, glance
from broker.units import MIB

#: What is the measure of all else.
BARE = "return 1"
#: Samples of a host of which nothing, and two leases of each card, are held.
LEASES_OF_A_HOST = 2 * CARDS_OF_A_HOST
PUBLISH, PUBLISH_LEASES = f"publish {CARDS_OF_A_HOST} cards", f"and {LEASES_OF_A_HOST} leases"
#: A call of ``return 1`` is over in a microsecond, and the server counts whole ones.
_BARE_TIMES = 10
#: Records that a reading operation may fetch in one measurement, and its calls.
_RECORDS_MOST, _READS_MOST = 1000, 3


class Operations:
    """The operations of one pool, which was filled to ``size``."""

    def __init__(self, broker: Broker, size: Size, calls_: int) -> None:
        """So many ``calls_`` of each operation are one turn of it."""
        self.size, self.meter = size, Meter(broker, calls_)
        self._agent = size.agent(broker)
        self._turn = 0

    def turn(self) -> Iterator[tuple[str, Cost]]:
        """Every operation once in turn, with its cost."""
        self._turn += 1
        yield BARE, self.meter.bare(_BARE_TIMES * self.meter.calls)
        yield from self._lease()
        yield from self._no_room()
        yield from self._others()
        yield from self._reads()

    def _lease(self) -> Iterator[tuple[str, Cost]]:
        """A lease's life. Each call has another lease."""
        b, measure, held = self.meter.broker, self.meter.measure, list[Any]()
        n = self.meter.calls
        yield "acquire", measure(lambda i: held.append(b.acquire(MIB, lease_id=f"m{i}")))
        yield "renew", measure(lambda i: b.renew(held[i % n].id, held[i % n].token))
        yield "check", measure(lambda i: b.check(held[i % n].id, held[i % n].token))
        yield "resize", measure(lambda i: b.resize(held[i % n].id, held[i % n].token, 2 * MIB))
        yield "release", measure(lambda _: held.pop().release())

    def _no_room(self) -> Iterator[tuple[str, Cost]]:
        """Requests for the card that is full; those that wait do so behind all others."""
        b, measure, name = self.meter.broker, self.meter.measure, f"{self._turn}-{self.size}"
        refused = iter([in_vain(f"r{name}{i}") for i in range(self.meter.calls)])
        yield "refused acquire", measure(lambda _: b.call("acquire", *next(refused).asking(False)))
        waiting = [in_vain(f"w{name}{i}", wait=60, priority=-9) for i in range(self.meter.calls)]
        queued, back = iter(waiting), iter(waiting)
        yield "queued acquire", measure(lambda _: b.call("acquire", *next(queued).asking(True)))
        yield "cancel", measure(lambda _: b.cancel(next(back).id))

    def _others(self) -> Iterator[tuple[str, Cost]]:
        b, measure = self.meter.broker, self.meter.measure
        asked = ("ask", *calls.ask(MIB).asking(False)[1:])
        yield "explain", measure(lambda _: b.call("explain", *asked))
        if self.size.gpus >= CARDS_OF_A_HOST:
            yield PUBLISH, measure(lambda _: self._agent(()))
            held = [b.acquire(MIB, host="host-0") for _ in range(LEASES_OF_A_HOST)]
            yield PUBLISH_LEASES, measure(lambda _: self._agent(held))
            for lease in held:
                lease.release()
        yield "reap", measure(lambda _: b.reap())

    def _reads(self) -> Iterator[tuple[str, Cost]]:
        """What is read without a script: it costs what it returns, so it is called less often where that is more."""
        b, measure = self.meter.broker, self.meter.measure
        few = max(1, min(self.meter.calls, _READS_MOST, _RECORDS_MOST // (self.size.gpus + self.size.leases)))
        yield "status", measure(lambda _: b.run(glance.pool(b.keys)), times=few, scripts=False)
        yield "available", measure(lambda _: b.available(), times=few, scripts=False)
