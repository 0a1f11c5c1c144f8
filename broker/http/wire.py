"""The wire: how long a request's head may be, and how long it may take, before anything of it is looked at.

uvicorn's parser in C takes heads without end, from anybody: 40 MB of short headers on one connection took a gigabyte.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Of a request's line and headers together, beyond what came in one piece with their begin.
HEAD_BYTES = 64 * 1024
#: Seconds until a head is there, from its first byte or the connection's begin.
HEAD_SECONDS = 10.0
_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 21\r\nconnection: close\r\n\r\nThe head is too long\n"
)


class Wire(HttpToolsProtocol):
    """A connection that asks within bounds, or is closed."""

    head_bytes, head_seconds = HEAD_BYTES, HEAD_SECONDS
    _in_head, _taken = False, 0
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there: he has to ask."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """He is gone."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A piece of a request, or of several."""
        if self.transport.is_closing():
            return
        began_before = self._in_head
        super().data_received(data)
        answered = self.cycle is None or self.cycle.response_complete
        if self.transport.is_closing() or not (self._in_head or answered):
            return
        self._wait()
        if self._in_head and began_before:
            self._taken += len(data)
        if self._taken > self.head_bytes:
            if answered:
                self.transport.write(_TOO_LONG)
            self.transport.close()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head, self._taken = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head, self._taken = False, 0
        self._wait_no_more()
        super().on_headers_complete()

    def _wait(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(self.head_seconds, self._too_slow)

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _too_slow(self) -> None:
        self._patience = None
        if not self.transport.is_closing():
            self.transport.close()
