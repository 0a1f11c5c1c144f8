"""One look at a pool with next to no imports: for commands that are over in the blink of an eye.

Redis's client and the models take a quarter of a second to import; a look takes a socket, hiredis and plain texts. It
is taken where all goes well; whatever is unusual (TLS, Sentinels, a wrong password, nobody there) is left to the
client, which knows what to try and what to say.
"""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, cast
from urllib.parse import unquote, urlsplit

from broker.ledger.keys import Keys
from broker.ledger.server import require_version

T = TypeVar("T")
Plan = Generator[Sequence[tuple[Any, ...]], list[Any], T]

#: Hashes fetched in one batch.
_BATCH = 500


class Unusual(Exception):
    """Nothing for a look: ask the client."""


class Seen(NamedTuple):
    """A pool as it stood: hashes as they are in the ledger, cards by host and index, the ledger's time, who waits."""

    now: int
    gpus: list[dict[str, str]]
    hosts: list[dict[str, str]]
    waiters: int


def pool(keys: Keys) -> Plan[Seen]:
    """Everything about cards and hosts, in two round trips, or more where there are hundreds."""
    uuids, names, waiters, (seconds, micros), offset = yield [
        ("SMEMBERS", keys.gpus), ("SMEMBERS", keys.hosts), ("ZCARD", keys.waiters), ("TIME",),
        ("HGET", keys.ledger, "clock_offset_ms"),
    ]  # fmt: skip
    wanted = [keys.gpu(uuid) for uuid in uuids] + [keys.host(name) for name in sorted(names)]
    hashes: list[dict[str, str]] = []
    for start in range(0, len(wanted), _BATCH):
        replies = yield [("HGETALL", name) for name in wanted[start : start + _BATCH]]
        hashes += [_fields(reply) for reply in replies]
    gpus = [one for one in hashes[: len(uuids)] if one]
    gpus.sort(key=lambda gpu: (gpu["host"], int(gpu["index"]), gpu["uuid"]))
    now = int(seconds) * 1000 + int(micros) // 1000 + int(offset or 0)
    return Seen(now, gpus, [one for one in hashes[len(uuids) :] if one], int(waiters))


def names(keys: Keys) -> Plan[dict[str, list[str]]]:
    """What things of the pool are called, by kind: for a shell that completes a word."""
    gpus, hosts, leases, waiters, tenants, sizes = yield [
        ("SMEMBERS", keys.gpus), ("SMEMBERS", keys.hosts), ("ZRANGE", keys.leases, 0, 999),
        ("ZRANGE", keys.waiters, 0, 999), ("SMEMBERS", keys.tenants), ("ZREVRANGE", keys.sizes, 0, 999),
    ]  # fmt: skip
    return {
        "gpu": sorted(gpus), "host": sorted(hosts), "lease": sorted(leases), "waiter": sorted(waiters),
        "tenant": sorted(tenants), "function": sorted(sizes),
    }  # fmt: skip


def _fields(reply: Any) -> dict[str, str]:
    """A hash, by whichever protocol it came."""
    return dict(reply) if isinstance(reply, Mapping) else dict(zip(reply[::2], reply[1::2], strict=True))


class Line:
    """A connection to one plain server, that only reads."""

    def __init__(self, url: str, seconds: float = 2.0) -> None:
        """Connect, log in and ask for the version.

        Raises:
            Unusual: it is no plain server, is not there for ``seconds``, or refuses. PoolUnavailable: it is too old.
        """
        try:
            import hiredis
        except ImportError as error:  # a machine for which it was never built
            raise Unusual(str(error)) from error
        hello, where = _address(url)
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace")
        try:
            if isinstance(where, str):
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.settimeout(seconds)
                self._socket.connect(where)
            else:
                self._socket = socket.create_connection(where, seconds)
        except OSError as error:
            raise Unusual(str(error)) from error
        try:
            *greeted, info = self._ask([*hello, ("INFO", "server")])
            if any(isinstance(reply, Exception) for reply in greeted):
                raise Unusual(str(greeted))
            if not isinstance(info, Exception):  # a user who may not ask reads all the same
                require_version(dict(_info(info)), url)
        except BaseException:
            self.close()
            raise

    def run(self, plan: Plan[T]) -> T:
        """Carry a plan out, each batch in one round trip.

        Raises:
            Unusual: the server refuses, or is gone.
        """
        replies: list[Any] | None = None
        try:
            while True:
                replies = self._ask(plan.send(cast("list[Any]", replies)))
                if refused := next((reply for reply in replies if isinstance(reply, Exception)), None):
                    raise Unusual(str(refused))
        except StopIteration as done:
            return cast("T", done.value)

    def _ask(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        import hiredis

        try:
            self._socket.sendall(b"".join(hiredis.pack_command(command) for command in commands))
            replies: list[Any] = []
            while len(replies) < len(commands):
                reply = self._reader.gets()
                if reply is not False:
                    replies.append(reply)
                elif data := self._socket.recv(1 << 16):
                    self._reader.feed(data)
                else:
                    raise Unusual("the connection ended")
        except (OSError, hiredis.HiredisError) as error:
            raise Unusual(str(error)) from error
        return replies

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __enter__(self) -> Self:
        """The line itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up."""
        self.close()


def _address(url: str) -> tuple[list[tuple[str, ...]], str | tuple[str, int]]:
    """What to say first, and where: a socket's path, or host and port."""
    try:
        parts = urlsplit(url)
        port, database = parts.port or 6379, parts.path.strip("/") if parts.scheme == "redis" else ""
    except ValueError as error:
        raise Unusual(str(error)) from error
    if parts.scheme not in ("redis", "unix") or parts.query or not (database or "0").isdecimal():
        raise Unusual("not a plain server's URL")
    user, password = (unquote(one or "") for one in (parts.username, parts.password))
    hello: list[tuple[str, ...]] = []
    if password:
        hello.append(("AUTH", *([user] if user else []), password))
    if database not in ("", "0"):
        hello.append(("SELECT", database))
    return hello, unquote(parts.path) if parts.scheme == "unix" else (unquote(parts.hostname or "localhost"), port)


def _info(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name, value
