"""What the page shows, as it changes: one snapshot for who comes, then what changed, made once for all.

A frame holds no more than what changed since the one before. Nothing is queued for a slow client: who falls behind by
more frames than are kept gets a new snapshot.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

from broker.errors import BrokerError
from broker.http.frames import RETRY, Ring, message
from broker.http.reading import Reader, Reading, Shelf
from broker.http.tail import Tail, event_text
from broker.models import Event


class Live:
    """Makes the frames while anybody looks on."""

    def __init__(self, pool: str, reader: Reader, tail: Tail) -> None:
        """Nothing is made until somebody looks on."""
        self._pool, self._reader, self._tail = pool, reader, tail
        self._ring = Ring()
        self._following = 0
        self._ends: list[Callable[[], None]] = []
        self._shown: Reading | None = None

    async def follow(self) -> AsyncIterator[bytes]:
        """The stream of one who looks on."""
        self._come()
        try:
            yield RETRY
            await self._tail.ready()
            while True:
                number = self._ring.last
                if self._shown is not None:
                    yield self._snapshot(self._shown)
                while (frames := await self._ring.after(number)) is not None:
                    number = frames[-1].number
                    yield b"".join(frame.data for frame in frames)
        finally:
            self._go()

    def _come(self) -> None:
        self._following += 1
        if self._following == 1:
            self._shown = self._reader.last
            self._ends = [self._reader.listen(self._on_reading), self._tail.listen(self._on_events)]

    def _go(self) -> None:
        self._following -= 1
        if not self._following:
            for end in self._ends:
                end()
            self._shown = None

    def _snapshot(self, reading: Reading) -> bytes:
        def make() -> str:
            told = {"gpus": reading.gpus, "hosts": reading.hosts, "leases": reading.leases, "waiters": reading.waiters}
            parts = [f'"pool":{json.dumps(self._pool)}', f'"now":{reading.now}']
            parts += [f'"{name}":{shelf.array()}' for name, shelf in told.items()]
            return message("snapshot", "{" + ",".join(parts) + "}").decode()

        return reading.answer("live", make)

    def _on_reading(self, reading: Reading | None, failed: BrokerError | None) -> None:
        before, self._shown = self._shown, reading
        if reading is None:
            if before is not None:  # told once
                self._ring.add(message("away", json.dumps({"detail": str(failed)})))
        elif before is None:
            self._ring.add(self._snapshot(reading))
        elif before is not reading:
            self._ring.add(message("delta", _delta(reading)))

    def _on_events(self, events: list[Event]) -> None:
        self._ring.add(b"".join(message("journal", event_text(event)) for event in events))


def _delta(reading: Reading) -> str:
    shelves: dict[str, Shelf] = {
        "gpus": reading.gpus, "hosts": reading.hosts, "leases": reading.leases, "waiters": reading.waiters,
    }  # fmt: skip
    gone = {name: shelf.gone for name, shelf in shelves.items() if shelf.gone}
    parts = [f'"now":{reading.now}']
    parts += [f'"{name}":{shelf.changes()}' for name, shelf in shelves.items() if shelf.changed]
    if gone:
        parts.append(f'"gone":{json.dumps(gone)}')
    return "{" + ",".join(parts) + "}"
