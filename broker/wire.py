"""The way to a pool's server, for threads and for an event loop: scripts by their hash, batches, and errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import redis
import redis.asyncio
from redis.exceptions import NoPermissionError, NoScriptError

from broker import connection, finding, plans
from broker.greeting import Greeter
from broker.ledger.keys import Keys
from broker.ledger.scripts import script
from broker.ledger.server import require_version, shown_url

T = TypeVar("T")


class Witness(Protocol):
    """Sees what a wire sends, before it does. A script that is not to be sent it stops with an exception of its own."""

    def sees(self, command: plans.Command) -> None:
        """A plain command of Redis's."""

    def sees_script(self, name: str, keys: Sequence[str], argv: Sequence[str | int]) -> None:
        """A command of the ledger's."""


class Wire:
    """One pool on its server. Safe to share between threads, not across ``fork``."""

    def __init__(self, client: redis.Redis, *, pool: str = "default", url: str = "") -> None:
        """Use an existing client, which must decode its replies (``decode_responses=True``).

        Note: its connections do not say hello to the ledger, see ``docs/deployments.md``.
        """
        self.redis = client
        self.keys = Keys(pool)
        self.pool = pool
        self.url = url or connection.url_of(client)
        #: Where somebody wants to see what is sent.
        self.witness: Witness | None = None
        self._finder: finding.Finder | None = None
        self._greeter: Greeter | None = None

    @classmethod
    def from_url(cls, url: str, pool: str = "default") -> Self:
        """A broker on ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://`` or ``redis+cluster://``. Connects
        at the first request.

        Raises:
            InvalidRequest: not such a URL, or the pool's name is not allowed.
        """
        address, keys, finder = connection.parse_url(url), Keys(pool), None
        greeter = Greeter(keys, primary_only=address.kind != "server")
        if address.kind == "server":
            options = connection.usual(redis.Redis)
            client = redis.Redis.from_url(url, redis_connect_func=greeter.greet, **options)
        else:
            finder = finding.Finder(address, keys.ledger)
            client = finding.connect(address, finder, greeter.greet)
        made = cls(client, pool=pool, url=shown_url(url))
        made._finder, made._greeter = finder, greeter
        return made

    @property
    def place(self) -> tuple[str, int] | None:
        """Host and port that Sentinels or a cluster named last; ``None`` where the URL says it."""
        return None if self._finder is None else self._finder.known

    def call(self, name: str, *argv: str | int) -> Any:
        """Run one command of the ledger; a server that forgot the script gets it again.

        Raises:
            BrokerError: what the script refused. PoolUnavailable: Redis cannot be reached.
        """
        command = script(name)
        keys = self.keys.declared
        if self.witness is not None:
            self.witness.sees_script(name, keys, argv)
        if self._greeter is not None and self._greeter.unsaid:
            self._drop_idle()
        try:
            return self._run_command("EVALSHA", command.sha, len(keys), *keys, *argv)
        except NoScriptError:
            self._require_version()
            return self._run_command("EVAL", command.text, len(keys), *keys, *argv)

    def call_after(self, key: str, seconds: float, name: str, *argv: str | int) -> Any:
        """Sleep until something is pushed on ``key``, ``seconds`` at most, then run a command: in one round trip.

        The server keeps the command in the connection's buffer meanwhile, and runs it in the moment of the push.
        """
        keys = self.keys.declared
        if self._greeter is not None and self._greeter.unsaid:
            self._drop_idle()
        try:
            ask = "EVALSHA", script(name).sha, len(keys), *keys, *argv
            return (self._run_batch([("BLPOP", key, seconds), ask]))[1]
        except NoScriptError:
            return self.call(name, *argv)

    def _require_version(self) -> None:
        try:
            told = self.redis.execute_command("INFO", "server")  # type: ignore[no-untyped-call]
        except NoPermissionError:
            return
        except redis.RedisError as error:
            raise connection.translate(error, self.url) from error
        require_version(cast("Mapping[str, Any]", told), self.url)

    def run(self, plan: plans.Plan[T]) -> T:
        """Carry a plan out: each batch in one round trip."""
        replies: list[Any] | None = None
        try:
            while True:
                commands = plan.send(cast("list[Any]", replies))
                replies = self._run_batch(commands)
        except StopIteration as done:
            return cast("T", done.value)

    def _run_batch(self, commands: Sequence[plans.Command]) -> list[Any]:
        for command in commands if self.witness is not None else ():
            cast("Witness", self.witness).sees(command)
        try:
            pipe = self.redis.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            replies = pipe.execute(raise_on_error=False)
        except redis.RedisError as error:
            raise connection.translate(error, self.url) from error
        for place, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):
                raise reply
            if isinstance(reply, redis.RedisError):
                replies[place] = self._run_again(reply, commands[place])
        return replies

    def _run_command(self, *command: Any) -> Any:
        if self.witness is not None and command[0] not in ("EVALSHA", "EVAL"):
            self.witness.sees(command)
        try:
            return self.redis.execute_command(*command)  # type: ignore[no-untyped-call]
        except NoScriptError:
            raise
        except redis.RedisError as error:
            return self._run_again(error, command)

    def _run_again(self, error: redis.RedisError, command: Sequence[Any]) -> Any:
        """Go on after a refusal as long as another server may be the one to ask."""
        tries = connection.Tries(self._finder, self.url)
        while True:
            time.sleep(tries.after(error))
            try:
                if tries.aside is not None:
                    return self._run_aside(tries.aside, command)
                if self._finder is None or (self._greeter is not None and self._greeter.unsaid):
                    self._drop_idle()  # a name may lead to another server by now
                return self.redis.execute_command(*command)  # type: ignore[no-untyped-call]
            except NoScriptError:
                raise
            except redis.RedisError as again:
                error = again

    def _run_aside(self, where: tuple[str, int], command: Sequence[Any]) -> Any:
        """Ask the node that a slot is being moved to: it answers for what has arrived."""
        options = dict(self.redis.connection_pool.connection_kwargs)
        for ours in ("finder", "redis_connect_func"):
            options.pop(ours, None)
        kind = redis.SSLConnection if self._finder and self._finder.address.tls else redis.Connection
        pool = redis.ConnectionPool(connection_class=kind, **options | {"host": where[0], "port": where[1]})
        with redis.Redis.from_pool(pool) as client:
            pipe = client.pipeline(transaction=False)
            pipe.execute_command("ASKING")
            pipe.execute_command(*command)
            reply = pipe.execute(raise_on_error=False)[1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _drop_idle(self) -> None:
        self.redis.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()

    def __enter__(self) -> Self:
        """The broker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class AsyncWire:
    """As ``Wire``, awaited."""

    def __init__(self, client: redis.asyncio.Redis, *, pool: str = "default", url: str = "") -> None:
        """As ``Wire``."""
        self.redis = client
        self.keys = Keys(pool)
        self.pool = pool
        self.url = url or connection.url_of(client)
        self._finder: finding.AsyncFinder | None = None
        self._greeter: Greeter | None = None

    @classmethod
    def from_url(cls, url: str, pool: str = "default") -> Self:
        """As ``Wire.from_url``."""
        address, keys, finder = connection.parse_url(url), Keys(pool), None
        greeter = Greeter(keys, primary_only=address.kind != "server")
        if address.kind == "server":
            options = connection.usual(redis.asyncio.Redis)
            client = redis.asyncio.Redis.from_url(url, redis_connect_func=greeter.greet_async, **options)
        else:
            finder = finding.AsyncFinder(address, keys.ledger)
            client = finding.connect_async(address, finder, greeter.greet_async)
        made = cls(client, pool=pool, url=shown_url(url))
        made._finder, made._greeter = finder, greeter
        return made

    async def call(self, name: str, *argv: str | int) -> Any:
        """As ``Wire.call``."""
        command = script(name)
        keys = self.keys.declared
        if self._greeter is not None and self._greeter.unsaid:
            await self._drop_idle()
        try:
            return await self._run_command("EVALSHA", command.sha, len(keys), *keys, *argv)
        except NoScriptError:
            await self._require_version()
            return await self._run_command("EVAL", command.text, len(keys), *keys, *argv)

    async def call_after(self, key: str, seconds: float, name: str, *argv: str | int) -> Any:
        """As ``Wire.call_after``."""
        keys = self.keys.declared
        if self._greeter is not None and self._greeter.unsaid:
            await self._drop_idle()
        try:
            ask = "EVALSHA", script(name).sha, len(keys), *keys, *argv
            return (await self._run_batch([("BLPOP", key, seconds), ask]))[1]
        except NoScriptError:
            return await self.call(name, *argv)

    async def _require_version(self) -> None:
        try:
            told = await self.redis.execute_command("INFO", "server")  # type: ignore[no-untyped-call]
        except NoPermissionError:
            return
        except redis.RedisError as error:
            raise connection.translate(error, self.url) from error
        require_version(told, self.url)

    async def run(self, plan: plans.Plan[T]) -> T:
        """As ``Wire.run``."""
        replies: list[Any] | None = None
        try:
            while True:
                commands = plan.send(cast("list[Any]", replies))
                replies = await self._run_batch(commands)
        except StopIteration as done:
            return cast("T", done.value)

    async def _run_batch(self, commands: Sequence[plans.Command]) -> list[Any]:
        try:
            pipe = self.redis.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            replies = await pipe.execute(raise_on_error=False)
        except redis.RedisError as error:
            raise connection.translate(error, self.url) from error
        for place, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):
                raise reply
            if isinstance(reply, redis.RedisError):
                replies[place] = await self._run_again(reply, commands[place])
        return replies

    async def _run_command(self, *command: Any) -> Any:
        try:
            return await self.redis.execute_command(*command)  # type: ignore[no-untyped-call]
        except NoScriptError:
            raise
        except redis.RedisError as error:
            return await self._run_again(error, command)

    async def _run_again(self, error: redis.RedisError, command: Sequence[Any]) -> Any:
        tries = connection.Tries(self._finder, self.url)
        while True:
            await asyncio.sleep(tries.after(error))
            try:
                if tries.aside is not None:
                    return await self._run_aside(tries.aside, command)
                if self._finder is None or (self._greeter is not None and self._greeter.unsaid):
                    await self._drop_idle()
                return await self.redis.execute_command(*command)  # type: ignore[no-untyped-call]
            except NoScriptError:
                raise
            except redis.RedisError as again:
                error = again

    async def _run_aside(self, where: tuple[str, int], command: Sequence[Any]) -> Any:
        options = dict(self.redis.connection_pool.connection_kwargs)
        for ours in ("finder", "redis_connect_func"):
            options.pop(ours, None)
        tls = self._finder is not None and self._finder.address.tls
        kind = redis.asyncio.SSLConnection if tls else redis.asyncio.Connection
        pool = redis.asyncio.ConnectionPool(connection_class=kind, **options | {"host": where[0], "port": where[1]})
        async with redis.asyncio.Redis.from_pool(pool) as client:
            pipe = client.pipeline(transaction=False)
            pipe.execute_command("ASKING")
            pipe.execute_command(*command)
            reply = (await pipe.execute(raise_on_error=False))[1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _drop_idle(self) -> None:
        await self.redis.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()

    async def __aenter__(self) -> Self:
        """The broker itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()
