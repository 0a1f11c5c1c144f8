"""So many clients that borrow and give back as fast as one server lets them; themselves as light as Python allows.

A client is a socket. A few processes serve many of them each: what they send is laid out beforehand, of a reply only
the token is read, and no client library stands between. So with eight clients and more it is the server that is busy;
both sides' processor time is told beside, to see which it was.
"""

from __future__ import annotations

import hashlib
import itertools
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from broker import Broker, calls
from broker.ledger.keys import Keys
from broker.ledger.scripts import script
from broker.units import MIB

#: Two cores: the server has one of them.
PROCESSES_MOST = 2
_MARK = "@@"
_START_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Load:
    """What so many clients came to together, and what it took."""

    clients: int
    pairs_per_second: float
    #: Median of a pair, as its client waits, in microseconds.
    pair_us: float
    #: Of one core: the server's, and all clients' together.
    server_core: float
    clients_core: float

    @property
    def bound_by(self) -> str:
        """What there was no more of."""
        if self.server_core >= 0.8:
            return "the server"
        if self.clients_core >= 0.8 * min(self.clients, PROCESSES_MOST):
            return "the clients"
        # With several clients there is always one that asks: a server that is idle then was not given a processor.
        return "the way and back" if self.clients == 1 else "other work on this machine"


def packed(*words: str | int | bytes) -> bytes:
    """A command as it is sent."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def connected(url: str) -> socket.socket:
    """A socket to a server."""
    parts = urlsplit(url)
    made = socket.create_connection((parts.hostname, parts.port))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


class _Client:
    """One socket, which has asked for something and waits."""

    def __init__(self, url: str, acquire: Callable[[], bytes], release: Callable[[bytes], bytes]) -> None:
        self.socket, self._acquire, self._release = connected(url), acquire, release
        self.spans: list[float] = []
        self._holds = False
        self._begun = 0.0

    def begin(self) -> None:
        """Ask for a lease."""
        self._holds, self._begun = False, time.perf_counter()
        self.socket.sendall(self._acquire())

    def heard(self) -> None:
        """A reply came: go on with the other of the two."""
        reply = self.socket.recv(4096)
        if self._holds:
            if not reply.startswith(b"$8\r\nreleased"):
                raise RuntimeError(reply)
            self.spans.append(time.perf_counter() - self._begun)
            self.begin()
            return
        words = reply.split(b"\r\n", 5)
        if words[2] != b"granted":
            raise RuntimeError(reply)
        self._holds = True
        self.socket.sendall(self._release(words[4]))


class _Bare(_Client):
    """As a client, but for scripts that only ``return 1``, twice, with the same keys and arguments."""

    def heard(self) -> None:
        """A reply came."""
        self.socket.recv(4096)
        if self._holds:
            self.spans.append(time.perf_counter() - self._begun)
            self.begin()
        else:
            self._holds = True
            self.socket.sendall(self._release(b"1234567890123456"))


def _client(url: str, pool: str, name: str, bare: bool) -> _Client:
    """One client, named so that no other's leases have its leases' names."""
    keys, numbers = Keys(pool).declared, itertools.count(1)
    acquire, release = (_sha("return 1") if bare else script(which).sha for which in ("acquire", "release"))
    request = calls.ask(MIB, lease_id=f"{name}-{_MARK}").asking(False)
    asks, number = _around(packed("EVALSHA", acquire, len(keys), *keys, *request), f"{name}-{_MARK}")
    gives, _ = _around(packed("EVALSHA", release, len(keys), *keys, f"{name}-{_MARK}", _MARK), f"{name}-{_MARK}")
    before, after = gives[0], gives[1].partition(packed(_MARK)[4:])[0]
    held = b""

    def ask() -> bytes:
        nonlocal held
        held = b"%b-%07d" % (number, next(numbers) % 10_000_000)
        return asks[0] + b"$%d\r\n%b" % (len(held), held) + asks[1]

    def give(token: bytes) -> bytes:
        return before + b"$%d\r\n%b" % (len(held), held) + after + b"$%d\r\n%b\r\n" % (len(token), token)

    return (_Bare if bare else _Client)(url, ask, give)


def _around(command: bytes, word: str) -> tuple[tuple[bytes, bytes], bytes]:
    """What stands before and after an argument, and the argument's part that stays the same."""
    text = word.encode()
    before, _, after = command.partition(b"$%d\r\n%b" % (len(text), text))
    return (before, after), text.rpartition(b"-")[0]


def _sha(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _drive(url: str, pool: str, names: list[str], bare: bool, told: Connection) -> None:
    """Serve these clients until told to stop; tell the spans since the start, and the processor time."""
    clients = [_client(url, pool, name, bare) for name in names]
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        selector.register(told, selectors.EVENT_READ)
        told.send("ready")
        told.recv()
        used, begun = time.process_time(), time.perf_counter()
        for client in clients:
            client.begin()
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    took = time.perf_counter() - begun
                    spans = [span for client in clients for span in client.spans]
                    told.send((took, time.process_time() - used, spans))
                    return
                key.data.heard()


def measured(broker: Broker, clients: int, seconds: float, *, bare: bool = False) -> Load:
    """Pairs of acquire and release by so many clients for so long; ``bare``: of two ``return 1`` that carry as much."""
    broker.redis.script_load("return 1")
    for name in ("acquire", "release"):
        broker.redis.script_load(script(name).text)
    names = [f"c{number}" for number in range(clients)]
    shares = [share for at in range(PROCESSES_MOST) if (share := names[at::PROCESSES_MOST])]
    with ExitStack() as stack:
        lines = [stack.enter_context(_beside(broker, share, bare)) for share in shares]
        for line in lines:
            line.recv()
        before, begun = _server_seconds(broker), time.perf_counter()
        for line in lines:
            line.send("go")
        time.sleep(seconds)
        after, lasted = _server_seconds(broker), time.perf_counter() - begun
        for line in lines:
            line.send("stop")
        told: list[Any] = [line.recv() for line in lines]
    spans = [span for _, _, those in told for span in those]
    if not spans:
        raise RuntimeError("no pair came to its end")
    return Load(
        clients, sum(len(those) / took for took, _, those in told), median(spans) * 1e6, (after - before) / lasted,
        sum(used / took for took, used, _ in told),
    )  # fmt: skip


@contextmanager
def _beside(broker: Broker, names: list[str], bare: bool) -> Iterator[Connection]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_drive, args=(broker.url, broker.pool, names, bare, theirs), daemon=True)
    process.start()
    theirs.close()  # so that its death is heard
    try:
        yield ours
    finally:
        ours.close()
        process.join(_START_SECONDS)
        process.kill()


def _server_seconds(broker: Broker) -> float:
    told = dict[str, Any](broker.redis.info("cpu"))
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])
