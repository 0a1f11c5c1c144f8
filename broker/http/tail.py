"""The journal's end, read once for all who follow it, and the stream of one who does, from wherever he left off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from broker import connection, plans
from broker.aio import AsyncBroker
from broker.errors import BrokerError, InvalidRequest
from broker.http.frames import BEAT, BEAT_SECONDS, RETRY, message
from broker.ledger.keys import Keys
from broker.models import Event

log = logging.getLogger("gpubroker.http")

#: Seconds between two looks at a busy journal, and that one look waits at a quiet one (below the socket's 5 s).
_PACE_SECONDS, _BLOCK_MS = 0.2, 2000
_AWAY_SECONDS = 1.0
_KEPT, PAGE, _CATCHING_UP = 4096, 200, 8
_ID = re.compile(r"(?P<ms>[0-9]{1,19})(-(?P<number>[0-9]{1,19}))?", re.ASCII)
#: An id so far ahead of Redis's clock was not given by it.
_AHEAD_SECONDS = 60
_ID_MOST = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Line:
    """One event of the journal: where it stands, its number, and its bytes for a stream."""

    place: tuple[int, int]
    seq: int
    data: bytes


def line_of(event: Event) -> Line:
    """An event for the streams."""
    return Line(place_of(event.stream_id), event.seq, message(event.kind, event_text(event), event.stream_id))


def event_text(event: Event) -> str:
    """An event as JSON, as anybody may see it: without the lease's token, which is its holder's secret."""
    told = event.model_dump(mode="json")
    told["fields"] = {name: value for name, value in event.fields.items() if name != "token"}
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False)


def place_of(stream_id: str, field: str = "after") -> tuple[int, int]:
    """A stream id as numbers, which sort.

    Raises:
        InvalidRequest: it is none.
    """
    found = _ID.fullmatch(stream_id)
    place = (int(found["ms"]), int(found["number"] or 0)) if found else (-1, -1)
    if not found or max(place) > _ID_MOST:
        raise InvalidRequest(field, stream_id, "an id of the journal, such as 1764000000000-0; 0 is its begin")
    return place


class Tail:
    """Follows the journal while anybody listens. Events come to listeners at most every fifth of a second."""

    def __init__(self, broker: AsyncBroker) -> None:
        """Nothing is read until somebody listens."""
        self._broker = broker
        self._lines: deque[Line] = deque(maxlen=_KEPT)
        self._listeners: list[Callable[[list[Event]], None]] = []
        self._grown = asyncio.Event()
        self._placed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._catching_up = asyncio.Semaphore(_CATCHING_UP)

    async def page(self, after: str) -> list[Event]:
        """Some of what was written after that id; a few at a time may look, as hundreds may come back at once.

        Raises:
            PoolUnavailable: Redis cannot be reached.
        """
        async with self._catching_up:
            return await self._broker.run(plans.events(self._broker.keys, after, PAGE))

    def listen(self, listener: Callable[[list[Event]], None]) -> Callable[[], None]:
        """Hear of new events from now on. Returns a function that ends it."""
        self._listeners.append(listener)
        if self._task is None or self._task.done():
            self._lines.clear()
            self._placed.clear()
            self._task = asyncio.create_task(self._run(), name="gpubroker-journal")
        return lambda: self._listeners.remove(listener)

    async def ready(self) -> None:
        """Return when whatever is written from now on will be told; or after a while, if Redis is away."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEAT_SECONDS):
                await self._placed.wait()

    async def stop(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        after = ""
        while self._listeners:
            try:
                after = after or await self._broker.run(plans.last_event_id(self._broker.keys))
                self._placed.set()
                events = await self._broker.run(_new_events(self._broker.keys, after))
            except BrokerError:
                await asyncio.sleep(_AWAY_SECONDS)  # the reader tells everybody
                continue
            except Exception:
                log.exception("event=journal_failed")
                await asyncio.sleep(_AWAY_SECONDS)
                continue
            if events:
                after = events[-1].stream_id
                self._tell(events)
                await asyncio.sleep(_PACE_SECONDS)

    def _tell(self, events: list[Event]) -> None:
        self._lines.extend(line_of(event) for event in events)
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()
        for listener in list(self._listeners):
            listener(events)

    async def after(self, place: tuple[int, int]) -> list[Line] | None:
        """The lines after a place, once there are any; ``None`` after a while without, or if they are not kept."""
        grown = self._grown
        if not self._lines or self._lines[-1].place <= place:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await grown.wait()
        if not self._lines or self._lines[0].place > place:
            return None
        return [line for line in self._lines if line.place > place]


def _new_events(keys: Keys, after: str) -> plans.Plan[list[Event]]:
    """What was written after that place, waiting for it a while."""
    reply: Any
    (reply,) = yield [("XREAD", "COUNT", PAGE, "BLOCK", _BLOCK_MS, "STREAMS", keys.events, after)]
    streams = reply.items() if isinstance(reply, Mapping) else reply or ()
    return [plans.event(*entry) for _, entries in streams for entry in connection.entries(entries)]


@dataclass(slots=True)
class Resumed:
    """Where a stream goes on: after that id, whose event had that number; ``missed`` if some are gone in between."""

    after: str
    seq: int | None = None
    missed: bool = False


def resume(keys: Keys, after: str) -> plans.Plan[Resumed]:
    """Where one goes on who has had everything up to ``after``; ``""`` is from now on.

    Raises:
        InvalidRequest: that is no id of a journal.
    """
    place = place_of(after) if after else (0, 0)
    own, first, last, clock = yield [
        ("XRANGE", keys.events, after or "0", after or "0", "COUNT", 1),
        ("XRANGE", keys.events, "-", "+", "COUNT", 1),
        ("XREVRANGE", keys.events, "+", "-", "COUNT", 1),
        ("TIME",),
    ]
    if not after:
        return Resumed(last[0][0], int(last[0][1]["seq"])) if last else Resumed("0")
    if own:
        return Resumed(after, int(own[0][1]["seq"]))
    if place == (0, 0):
        return Resumed("0")
    if place[0] > (int(clock[0]) + _AHEAD_SECONDS) * 1000:
        return Resumed("0", missed=True)  # another ledger's journal, or this one's before it was lost
    return Resumed(after, missed=not first or place_of(first[0][0]) > place)


async def follow(tail: Tail, begin: Resumed) -> AsyncIterator[bytes]:
    """The stream of one who follows: what was written meanwhile, then what is written, and a beat in silence.

    Raises:
        PoolUnavailable: Redis cannot be reached.
    """
    unlisten = tail.listen(lambda events: None)
    try:
        yield RETRY
        sent = _Sent(place_of(begin.after), begin.seq, begin.missed)
        after = begin.after
        await tail.ready()
        while True:
            events = await tail.page(after)
            if events:
                after = events[-1].stream_id
                yield sent.take([line_of(event) for event in events])
            if len(events) == PAGE:
                continue
            while (lines := await tail.after(sent.place)) is not None:
                yield sent.take(lines)
            after = f"{sent.place[0]}-{sent.place[1]}"
            yield BEAT
    finally:
        unlisten()


@dataclass(slots=True)
class _Sent:
    """How far a stream has come."""

    place: tuple[int, int]
    seq: int | None
    missed: bool

    def take(self, lines: list[Line]) -> bytes:
        """The bytes of these lines, with a word wherever some are missing before one."""
        parts = []
        for line in lines:
            jump = self.seq is not None and line.seq != self.seq + 1
            if jump or self.missed:
                many = line.seq - self.seq - 1 if self.seq is not None and line.seq > self.seq else None
                told = {"after": f"{self.place[0]}-{self.place[1]}", "missed": many}
                parts.append(message("gap", json.dumps(told)))
            parts.append(line.data)
            self.place, self.seq, self.missed = line.place, line.seq, False
        return b"".join(parts)
