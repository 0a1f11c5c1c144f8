"""Server-sent events: frames that are made once for all streams, and the answer that sends them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from zlib import DEFLATED, MAX_WBITS, Z_SYNC_FLUSH, compressobj

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from broker.http.gate import still_good

log = logging.getLogger("gpubroker.http")

#: Seconds of silence after which a stream says that it lives, and that a client has to take a frame.
BEAT_SECONDS, _SEND_SECONDS = 15.0, 30.0
BEAT = b": beat\n\n"
#: What a stream begins with: after how many ms its client comes back.
RETRY = b"retry: 2000\n\n"
_KEPT = 256


def message(kind: str, data: str, stream_id: str = "") -> bytes:
    """One event. JSON has no line break, so that ``data`` is one line."""
    head = f"id: {stream_id}\n" if stream_id else ""
    return f"{head}event: {kind}\ndata: {data}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Frame:
    """Some events as bytes, and their number: one more than the frame before."""

    number: int
    data: bytes


class Ring:
    """The last frames of a stream that many follow. Nothing is queued for anybody: each takes what is new to him."""

    def __init__(self, kept: int = _KEPT) -> None:
        """No frame yet."""
        self._frames: deque[Frame] = deque(maxlen=kept)
        self._grown = asyncio.Event()
        self.last = 0

    def add(self, data: bytes) -> None:
        """Add a frame and wake all who follow."""
        self.last += 1
        self._frames.append(Frame(self.last, data))
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    async def after(self, number: int) -> list[Frame] | None:
        """The frames after that one, once there are any; ``None`` if some of them are not kept any more."""
        while self.last <= number:
            await self._grown.wait()
        if self._frames[0].number > number + 1:
            return None
        return [frame for frame in self._frames if frame.number > number]


#: What a stream of gzip begins with; the blocks that follow refer to nothing before them, and the end never comes.
_GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


@lru_cache(maxsize=16)
def packed(data: bytes) -> bytes:
    """A frame compressed by itself: it fits into any stream, so one copy of it serves all."""
    packer = compressobj(3, DEFLATED, -MAX_WBITS)
    return packer.compress(data) + packer.flush(Z_SYNC_FLUSH)


class EventStream(Response):
    """The answer: what ``chunks`` gives, until the client or the server goes."""

    media_type = "text/event-stream"

    def __init__(
        self, chunks: AsyncIterator[bytes], seat: AbstractContextManager[None], closing: asyncio.Event
    ) -> None:
        """``seat`` is held as long as the stream lasts; it ends when ``closing`` is set."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks, self._seat, self._closing = chunks, seat, closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until one of the two has enough."""
        with self._seat:
            packs = "gzip" in Headers(scope=scope).get("accept-encoding", "")
            self.headers["Vary"] = "Accept-Encoding"
            if packs:
                self.headers["Content-Encoding"] = "gzip"
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            pump = asyncio.create_task(self._pump(scope, send, packs))
            others = [asyncio.create_task(one) for one in (_gone(receive), self._wait_for_the_end())]
            try:
                await asyncio.wait([pump, *others], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (pump, *others):
                    task.cancel()
                results = await asyncio.gather(pump, *others, return_exceptions=True)
            if isinstance(results[0], Exception):
                log.warning("event=stream_failed error=%r", results[0])
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _wait_for_the_end(self) -> None:
        await self._closing.wait()

    async def _pump(self, scope: Scope, send: Send, packs: bool) -> None:
        if packs:
            await send({"type": "http.response.body", "body": _GZIP_HEAD, "more_body": True})
        async for chunk in self._chunks:
            if not still_good(scope):
                return  # the token was taken away: who comes back is refused
            async with asyncio.timeout(_SEND_SECONDS):  # who takes nothing is let go
                body = packed(chunk) if packs else chunk
                await send({"type": "http.response.body", "body": body, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
