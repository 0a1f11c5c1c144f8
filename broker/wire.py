"""The way to a pool's server, for threads and for an event loop: scripts by their hash, batches, and errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import redis
import redis.asyncio

from broker import connection, plans
from broker.ledger.keys import Keys
from broker.ledger.scripts import script
from broker.ledger.server import require_version, shown_url

T = TypeVar("T")


class Wire:
    """One pool on its server. Safe to share between threads, not across ``fork``."""

    def __init__(self, client: redis.Redis, *, pool: str = "default", url: str = "") -> None:
        """Use an existing client, which must decode its replies (``decode_responses=True``)."""
        self.redis = client
        self.keys = Keys(pool)
        self.pool = pool
        self.url = url or connection.url_of(client)

    @classmethod
    def from_url(cls, url: str, pool: str = "default") -> Self:
        """A broker on ``redis://``, ``rediss://`` or ``unix://``. Connects at the first request.

        Raises:
            InvalidRequest: not such a URL, or the pool's name is not allowed.
        """
        connection.check_url(url)
        return cls(connection.connect(redis.Redis, url), pool=pool, url=shown_url(url))

    def call(self, name: str, *argv: str | int) -> Any:
        """Run one command of the ledger; a server that forgot the script gets it again.

        Raises:
            BrokerError: what the script refused. PoolUnavailable: Redis cannot be reached.
        """
        command = script(name)
        keys = self.keys.all
        try:
            return self._run_command("EVALSHA", command.sha, len(keys), *keys, *argv)
        except redis.exceptions.NoScriptError:
            require_version(cast("Mapping[str, Any]", self._run_command("INFO", "server")), self.url)
            return self._run_command("EVAL", command.text, len(keys), *keys, *argv)

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
        with self._errors():
            pipe = self.redis.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            return pipe.execute()

    def _run_command(self, *command: Any) -> Any:
        try:
            return self.redis.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.exceptions.NoScriptError:
            raise
        except redis.RedisError as error:
            raise connection.translate(error, self.url) from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise connection.translate(error, self.url) from error

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
        """Use an existing client, which must decode its replies (``decode_responses=True``)."""
        self.redis = client
        self.keys = Keys(pool)
        self.pool = pool
        self.url = url or connection.url_of(client)

    @classmethod
    def from_url(cls, url: str, pool: str = "default") -> Self:
        """As ``Broker.from_url``."""
        connection.check_url(url)
        return cls(connection.connect(redis.asyncio.Redis, url), pool=pool, url=shown_url(url))

    async def call(self, name: str, *argv: str | int) -> Any:
        """As ``Broker.call``."""
        command = script(name)
        keys = self.keys.all
        try:
            return await self._run_command("EVALSHA", command.sha, len(keys), *keys, *argv)
        except redis.exceptions.NoScriptError:
            require_version(await self._run_command("INFO", "server"), self.url)
            return await self._run_command("EVAL", command.text, len(keys), *keys, *argv)

    async def run(self, plan: plans.Plan[T]) -> T:
        """As ``Broker.run``."""
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
            return await pipe.execute()
        except redis.RedisError as error:
            raise connection.translate(error, self.url) from error

    async def _run_command(self, *command: Any) -> Any:
        try:
            return await self.redis.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.exceptions.NoScriptError:
            raise
        except redis.RedisError as error:
            raise connection.translate(error, self.url) from error

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
