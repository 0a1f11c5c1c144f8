"""Where a pool is when its server may change: the Sentinels name a service's primary, a cluster the slot's owner.

A pool lives on one server at a time, all its keys in one slot. So a client is a plain client of that server, whose
connections find out where it is whenever they are opened.
"""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
from redis.crc import key_slot
from redis.exceptions import ClusterDownError

from broker.connection import Address, usual

_ASK_SECONDS = 1.0
#: With a backoff of one second at most: as long as one waits that is told to try again.
_RETRIES = 8


class Places:
    """What is known of where a pool is, whoever waits for the answers."""

    def __init__(self, address: Address, key: str) -> None:
        """Know nothing but the URL's servers yet. ``key``: any of the pool's."""
        self.address = address
        self.seeds = list(address.seeds)
        #: Where the pool is as far as is known. Connections to elsewhere are closed when they are next taken up.
        self.known: tuple[str, int] | None = None
        self._asked = address.seeds[0]
        self._slot = int(key_slot(key.encode()))

    @property
    def question(self) -> tuple[str, ...]:
        """What a seed is asked."""
        if self.address.kind == "sentinel":
            return ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.address.service)
        return ("CLUSTER", "SLOTS")

    def seed_options(self, kind: Any) -> dict[str, Any]:
        """How a seed is reached: in a second, once."""
        once = {"socket_timeout": _ASK_SECONDS, "socket_connect_timeout": _ASK_SECONDS, "ssl": self.address.tls}
        return usual(kind, 0) | self.address.seed_options | once

    def told(self, host: str, port: int) -> tuple[str, int]:
        """An address in an answer; without a host it is that of the server that answered."""
        return host or (self.known or self._asked)[0], int(port)

    def read(self, seed: tuple[str, int], reply: Any) -> tuple[str, int] | None:
        """Where a seed says that the pool is; ``None`` if it does not know."""
        self._asked = seed
        if self.address.kind == "sentinel":
            return None if reply is None else (reply[0], int(reply[1]))
        found = None
        for first, last, *nodes in reply:
            hosts = [(node[0] or seed[0], int(node[1])) for node in nodes]
            self.seeds += [host for host in hosts if host not in self.seeds]
            if first <= self._slot <= last:
                found = hosts[0]
        return found

    def refused(self, seed: tuple[str, int]) -> tuple[str, int] | None:
        """Where to go when a seed does not answer the question: a cluster's node redirects by itself."""
        return seed if self.address.kind == "cluster" else None

    def unknown(self, notes: list[str], silent: int) -> redis.RedisError:
        """Nobody knew. Worth another try if somebody did not answer, or if a cluster is about to elect an owner."""
        reasons = "".join(f"; {note}" for note in notes)
        if self.address.kind == "cluster":
            text = f"no node of the cluster knows who serves slot {self._slot}{reasons}"
            return redis.ConnectionError(text) if silent else ClusterDownError(text)
        text = f"no Sentinel knows the service {self.address.service}{reasons}"
        return redis.ConnectionError(text) if silent else redis.ResponseError(text)


def _note(seed: tuple[str, int], error: Exception | None = None) -> str:
    if isinstance(error, redis.AuthenticationError):
        return f"{seed[0]}:{seed[1]} wants its own ?sentinel_username=…&sentinel_password=… in the URL"
    return f"{seed[0]}:{seed[1]} {'does not' if error is None else f'says {error}'}"


class Finder(Places):
    """``Places`` that asks."""

    def find(self, left: tuple[str, int] | None) -> tuple[str, int]:
        """Where the pool is; asked anew by a connection that comes from there.

        Raises:
            redis.ConnectionError: nobody knows.
        """
        if self.known is None or self.known == left:
            self.known = self._ask()
        return self.known

    def _ask(self) -> tuple[str, int]:
        notes, silent = [], 0
        for seed in tuple(self.seeds):
            try:
                with redis.Redis(host=seed[0], port=seed[1], **self.seed_options(redis.Redis)) as client:
                    found = self.read(seed, client.execute_command(*self.question))
            except (redis.ResponseError, redis.AuthenticationError) as error:
                notes.append(_note(seed, error))
                found = self.refused(seed)
            except redis.RedisError as error:
                notes.append(_note(seed, error))
                silent += 1
                continue
            if found is not None:
                return found
            notes.append(_note(seed))
        raise self.unknown(notes, silent)


class AsyncFinder(Places):
    """As ``Finder``, awaited."""

    async def find(self, left: tuple[str, int] | None) -> tuple[str, int]:
        """As ``Finder.find``."""
        if self.known is None or self.known == left:
            self.known = await self._ask()
        return self.known

    async def _ask(self) -> tuple[str, int]:
        notes, silent = [], 0
        for seed in tuple(self.seeds):
            try:
                options = self.seed_options(redis.asyncio.Redis)
                async with redis.asyncio.Redis(host=seed[0], port=seed[1], **options) as client:
                    found = self.read(seed, await client.execute_command(*self.question))  # type: ignore[no-untyped-call]
            except (redis.ResponseError, redis.AuthenticationError) as error:
                notes.append(_note(seed, error))
                found = self.refused(seed)
            except redis.RedisError as error:
                notes.append(_note(seed, error))
                silent += 1
                continue
            if found is not None:
                return found
            notes.append(_note(seed))
        raise self.unknown(notes, silent)


class FoundConnection(redis.Connection):
    """A connection to wherever the pool is; taken up again, it moves there."""

    def __init__(self, *, finder: Finder, **options: Any) -> None:
        """Takes what redis-py's takes, and who knows the address."""
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._finder = finder
        self._left: tuple[str, int] | None = None

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """Connect, or stay connected if the pool is still there. A failure is retried by who asked, maybe elsewhere."""
        if self.is_connected and self._finder.known != self._left:
            self.disconnect()  # type: ignore[no-untyped-call]
        if not self.is_connected:
            self._left = self.host, self.port = self._finder.find(self._left)
        super().connect_check_health(check_health, False)


class FoundTlsConnection(FoundConnection, redis.SSLConnection):
    """As ``FoundConnection``, over TLS."""


class AsyncFoundConnection(redis.asyncio.Connection):
    """As ``FoundConnection``, awaited."""

    def __init__(self, *, finder: AsyncFinder, **options: Any) -> None:
        """As ``FoundConnection``."""
        super().__init__(**options)
        self._finder = finder
        self._left: tuple[str, int] | None = None

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """As ``FoundConnection.connect_check_health``."""
        if self.is_connected and self._finder.known != self._left:
            await self.disconnect()
        if not self.is_connected:
            self._left = self.host, self.port = await self._finder.find(self._left)
        await super().connect_check_health(check_health, False)


class AsyncFoundTlsConnection(AsyncFoundConnection, redis.asyncio.SSLConnection):
    """As ``FoundTlsConnection``, awaited."""


def connect(address: Address, finder: Finder, greet: Any) -> redis.Redis:
    """A client of the server that the finder finds."""
    kind = FoundTlsConnection if address.tls else FoundConnection
    options = usual(redis.Redis, _RETRIES) | address.options
    return redis.Redis.from_pool(
        redis.ConnectionPool(connection_class=kind, finder=finder, redis_connect_func=greet, **options)
    )


def connect_async(address: Address, finder: AsyncFinder, greet: Any) -> redis.asyncio.Redis:
    """As ``connect``, for an event loop."""
    kind = AsyncFoundTlsConnection if address.tls else AsyncFoundConnection
    options = usual(redis.asyncio.Redis, _RETRIES) | address.options
    return redis.asyncio.Redis.from_pool(
        redis.asyncio.ConnectionPool(connection_class=kind, finder=finder, redis_connect_func=greet, **options)
    )
