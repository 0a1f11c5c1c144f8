"""A TCP proxy before a server that misbehaves on demand: it loses replies, is slow, says things twice, hangs up.

All of it happens in this process, with threads, so that no rights over the network are needed.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

_CHUNK = 1 << 16
#: What a client says right after connecting: losing those replies would test the client's handshake alone.
HANDSHAKE = (b"HELLO", b"CLIENT", b"AUTH", b"SELECT", b"PING")


class _Link:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.requests = RequestFramer()
        #: Its next reply is swallowed, and then both connections are cut.
        self.doomed = False

    def cut(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class RequestFramer:
    """Splits a client's bytes into whole requests, wherever they were cut on the way."""

    def __init__(self) -> None:
        """Begin at the start of a request."""
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Every request that is whole by now: the bytes of a RESP array of bulk strings."""
        self._buffer += data
        while end := self._end():
            yield self._buffer[:end]
            self._buffer = self._buffer[end:]

    def _end(self) -> int:
        """Where the first request ends; 0 if it is not whole yet."""
        buffer = self._buffer
        line = buffer.find(b"\r\n")
        if line < 0:
            return 0
        if not buffer.startswith(b"*"):
            return line + 2  # an inline command
        at = line + 2
        for _ in range(int(buffer[1:line])):
            line = buffer.find(b"\r\n", at)
            if line < 0:
                return 0
            at = line + 2 + int(buffer[at + 1 : line]) + 2
        return at if at <= len(buffer) else 0


class Proxy:
    """Forwards ``127.0.0.1:port`` to a server, faithfully until told otherwise.

    Faults count over all connections together; a fault that was asked for stays pending until traffic meets it, or
    until ``heal()``. ``done`` counts what really happened, by kind.
    """

    host = "127.0.0.1"

    def __init__(self, target_host: str, target_port: int) -> None:
        """Remember where to forward to; ``start()`` or ``with`` opens the port."""
        self.target = (target_host, target_port)
        self.port = 0
        self.done: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._listener: socket.socket | None = None
        self._stopped = threading.Event()
        self._healed = threading.Event()
        self._delay_seconds = 0.0
        self._drops = 0
        self._matching = b""
        self._duplicates = 0
        self._duplicate_after = 0.0
        self._bytes_left: int | None = None
        self._refuses = False

    @property
    def url(self) -> str:
        """Where clients connect: database 0."""
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> Self:
        """Open the port."""
        self._listener = socket.create_server((self.host, 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, args=(self._listener,), name="proxy", daemon=True).start()
        return self

    def stop(self) -> None:
        """Close the port and cut every connection."""
        self._stopped.set()
        if self._listener is not None:
            # A thread that sleeps in accept() is not woken by close() alone.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self.heal()
        self.cut_now()

    def __enter__(self) -> Self:
        """Open the port."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close it."""
        self.stop()

    # -- faults --------------------------------------------------------------------------------------------------------

    def drop_replies(self, n: int = 1, matching: bytes = b"") -> None:
        """Forward the next ``n`` requests (those whose bytes contain ``matching``), and hang up instead of replying.

        A connection's handshake does not count.
        """
        with self._lock:
            self._drops, self._matching = n, matching

    def delay(self, seconds: float) -> None:
        """Hold back every chunk for so long, in both directions; 0 ends it."""
        self._healed.clear()
        self._delay_seconds = seconds

    def duplicate(self, n: int = 1, after: float = 0.0) -> None:
        """Send the next ``n`` requests a second time, ``after`` seconds later, on a connection of their own."""
        with self._lock:
            self._duplicates, self._duplicate_after = n, after

    def cut_after(self, nbytes: int) -> None:
        """Forward so many more bytes, of both directions and all connections together, then cut the one that is on."""
        with self._lock:
            self._bytes_left = nbytes

    def cut_now(self) -> None:
        """Cut every connection; new ones are taken."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()

    def refuse(self, refuses: bool = True) -> None:
        """Cut every connection, and every new one at once, until healed."""
        self._refuses = refuses
        if refuses:
            self.cut_now()

    def heal(self) -> None:
        """Forward faithfully again."""
        with self._lock:
            self._drops = self._duplicates = 0
            self._bytes_left = None
            self._delay_seconds = 0.0
            self._refuses = False
        self._healed.set()

    # -- forwarding ----------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopped.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.target, timeout=5)
            except OSError:
                client.close()
                continue
            link = _Link(client, server)
            if self._refuses:
                link.cut()
                continue
            for end in (client, server):
                end.settimeout(None)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._links.add(link)
            for pump in (self._requests, self._replies):
                threading.Thread(target=self._pump, args=(pump, link), name="proxy-pump", daemon=True).start()

    def _pump(self, way: Callable[[_Link], None], link: _Link) -> None:
        try:
            way(link)
        except OSError:
            pass  # one side hung up, or the link was cut under us
        finally:
            link.cut()
            with self._lock:
                self._links.discard(link)

    def _requests(self, link: _Link) -> None:
        while data := link.client.recv(_CHUNK):
            for request in link.requests.feed(data):
                self._mark(link, request)
            if not self._forward(data, link, link.server):
                return

    def _replies(self, link: _Link) -> None:
        while data := link.server.recv(_CHUNK):
            if link.doomed:
                self._note("drop")
                return
            if not self._forward(data, link, link.client):
                return

    def _forward(self, data: bytes, link: _Link, to: socket.socket) -> bool:
        """Pass the bytes on; False once the connection is to be cut."""
        if self._delay_seconds > 0:
            self._note("delay")
            self._healed.wait(self._delay_seconds)
        with self._lock:
            if self._bytes_left is None or self._bytes_left > len(data):
                cut = False
                if self._bytes_left is not None:
                    self._bytes_left -= len(data)
            else:
                cut, data = True, data[: self._bytes_left]
                self._bytes_left = None
                self.done["cut"] += 1
        to.sendall(data)
        return not cut

    def _mark(self, link: _Link, request: bytes) -> None:
        """Decide what becomes of a request that is whole, before its last byte is forwarded."""
        if any(word in request[:40].upper() for word in HANDSHAKE):
            return
        again = False
        with self._lock:
            if self._drops > 0 and not link.doomed and self._matching in request:
                self._drops -= 1
                link.doomed = True
            if self._duplicates > 0:
                self._duplicates -= 1
                again = True
        if again:
            self._note("duplicate")
            timer = threading.Timer(self._duplicate_after, self._say_again, (request,))
            timer.daemon = True
            timer.start()

    def _note(self, kind: str) -> None:
        with self._lock:
            self.done[kind] += 1

    def _say_again(self, request: bytes) -> None:
        with contextlib.suppress(OSError), socket.create_connection(self.target, timeout=5) as server:
            server.sendall(request)
            server.recv(_CHUNK)
