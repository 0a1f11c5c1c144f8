"""The client for asyncio: the same names as ``broker.client``, awaited. Requests, replies and plans are shared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import redis
import redis.asyncio

from broker import calls, connection, plans
from broker.calls import Granted, Waiting, check_name, check_token
from broker.errors import BrokerError, ImpossibleRequest, InsufficientMemory, LeaseConflict, PoolUnavailable
from broker.lease import AsyncLease
from broker.ledger.keys import Keys
from broker.ledger.scripts import script
from broker.ledger.server import require_version, shown_url

if TYPE_CHECKING:
    from broker.models import Event, Gpu, LeaseRecord, Sample, Waiter
    from broker.thresholds import Thresholds
    from broker.values import Throttle

T = TypeVar("T")


class AsyncBroker:
    """One pool's ledger for an event loop. See ``Broker`` for what each name does and raises."""

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

    async def acquire(
        self,
        memory: int | str,
        *,
        lease_id: str | None = None,
        ttl: float = 30,
        wait: float = 0,
        gpus: int = 1,
        host: str | None = None,
        gpu: str | None = None,
        priority: int = 0,
        tenant: str = "default",
        placement: str = "pack",
        token: int | None = None,
        owner: str | None = None,
        job_id: str | None = None,
        pid: int | None = None,
    ) -> AsyncLease:
        """As ``Broker.acquire``."""
        request = calls.ask(
            memory, lease_id=lease_id, ttl=ttl, wait=wait, gpus=gpus, host=host, gpu=gpu, priority=priority,
            tenant=tenant, placement=placement, token=token, owner=owner, job_id=job_id, pid=pid,
        )  # fmt: skip
        asked = time.monotonic()
        try:
            reply = await self.call("acquire", *request.argv, int(request.wait_seconds > 0))
        except asyncio.CancelledError:
            if lease_id is None:  # nobody else knows the name: whatever was granted has no holder
                await asyncio.shield(asyncio.ensure_future(self._withdraw(request.id)))
            raise
        answer = calls.read_acquire(reply, request)
        if isinstance(answer, Waiting):
            answer, asked = await self._wait(request)
        return AsyncLease(self, answer, asked)

    async def _wait(self, request: calls.Ask) -> tuple[Granted, float]:
        ends = time.monotonic() + request.wait_seconds
        try:
            while True:
                left = ends - time.monotonic()
                if left > 0:
                    await self._run_command("BLPOP", self.keys.wake(request.id), min(left, calls.WAITER_BEAT_SECONDS))
                asked = time.monotonic()
                stay = ends > asked
                answer = calls.read_acquire(await self.call("acquire", *request.argv, int(stay)), request)
                if isinstance(answer, Granted):
                    return answer, asked
        except (InsufficientMemory, ImpossibleRequest, LeaseConflict):
            raise  # the ledger keeps no place of ours; the name may be somebody else's by now
        except BaseException:
            # Also when this task is cancelled: a shielded task of its own leaves the queue.
            await asyncio.shield(asyncio.ensure_future(self._withdraw(request.id)))
            raise

    async def _withdraw(self, lease_id: str) -> None:
        """Leave nothing behind: no waiter, no grant, no lease. Without Redis the ledger drops them by itself."""
        try:
            if not await self.cancel(lease_id):
                held = await self.get(lease_id)
                if held is not None:
                    await self.release(held.id, held.token)
        except BrokerError:
            return

    @asynccontextmanager
    async def lease(self, memory: int | str, **request: Any) -> AsyncIterator[AsyncLease]:
        """As ``Broker.lease``; renewed by a task of this event loop, so do not block the loop for a TTL."""
        held = await self.acquire(memory, **request)
        renewer = asyncio.create_task(self._renew_until_cancelled(held))
        try:
            yield held
        except BaseException:
            renewer.cancel()
            with suppress(BrokerError):  # the caller's own exception is the one to see; the lease ends by its TTL
                await held.release()
            raise
        renewer.cancel()
        await held.release()

    async def _renew_until_cancelled(self, held: AsyncLease) -> None:
        while True:
            await asyncio.sleep(held.ttl_ms / 3000)
            try:
                await held.renew()
            except PoolUnavailable:
                continue  # the lease lives on until its end, and `lost` says when that is
            except BrokerError:
                return

    async def check(self, lease_id: str, token: int, pid: int | None = None) -> int:
        """As ``Broker.check``."""
        shown = "" if pid is None else calls.check_whole("pid", pid, 1, 1 << 22)
        return int(await self.call("start", check_name("lease_id", lease_id), check_token(token), shown))

    async def renew(self, lease_id: str, token: int, ttl: float | None = None) -> int:
        """As ``Broker.renew``."""
        life = "" if ttl is None else calls.ttl_ms(ttl)
        return int(await self.call("renew", check_name("lease_id", lease_id), check_token(token), life))

    async def release(self, lease_id: str, token: int) -> bool:
        """As ``Broker.release``."""
        reply = await self.call("release", check_name("lease_id", lease_id), check_token(token))
        return bool(reply == "released")

    async def cancel(self, lease_id: str) -> bool:
        """As ``Broker.cancel``."""
        return bool(await self.call("cancel", check_name("lease_id", lease_id)) == "cancelled")

    async def reap(self) -> int:
        """As ``Broker.reap``."""
        return int(await self.call("reap"))

    async def get(self, lease_id: str) -> LeaseRecord | None:
        """As ``Broker.get``."""
        return await self.run(plans.lease(self.keys, lease_id))

    async def leases(self) -> list[LeaseRecord]:
        """As ``Broker.leases``."""
        return await self.run(plans.leases(self.keys))

    async def abandoned(self, lease_ids: Sequence[str]) -> list[str]:
        """As ``Broker.abandoned``."""
        return await self.run(plans.abandoned(self.keys, lease_ids))

    async def waiters(self) -> list[Waiter]:
        """As ``Broker.waiters``."""
        return await self.run(plans.waiters(self.keys))

    async def gpus(self) -> list[Gpu]:
        """As ``Broker.gpus``."""
        return await self.run(plans.gpus(self.keys))

    async def hosts(self) -> list[dict[str, str]]:
        """As ``Broker.hosts``."""
        return await self.run(plans.hosts(self.keys))

    async def available(self) -> dict[str, int]:
        """As ``Broker.available``."""
        return {gpu.uuid: gpu.free_bytes for gpu in await self.gpus() if gpu.lends}

    async def events(self, after: str = "0", count: int = 1000) -> list[Event]:
        """As ``Broker.events``."""
        return await self.run(plans.events(self.keys, after, count))

    async def history(self, gpu: str) -> list[Sample]:
        """As ``Broker.history``."""
        return await self.run(plans.history(self.keys, gpu))

    async def throttle(self, gpu: str | None = None) -> Throttle:
        """As ``Broker.throttle``."""
        return await self.run(plans.throttle(self.keys, gpu))

    async def should_throttle(self, gpu: str | None = None) -> bool:
        """As ``Broker.should_throttle``."""
        return (await self.throttle(gpu)).speed < 1.0

    async def speed(self, gpu: str | None = None) -> float:
        """As ``Broker.speed``."""
        return (await self.throttle(gpu)).speed

    async def drain(self, gpu: str) -> None:
        """As ``Broker.drain``."""
        await self._mark("drain", gpu)

    async def undrain(self, gpu: str) -> None:
        """As ``Broker.undrain``."""
        await self._mark("undrain", gpu)

    async def _mark(self, name: str, gpu: str) -> None:
        if await self.call(name, check_name("gpu", gpu)) == "unknown":
            raise BrokerError(f"the pool knows no GPU {gpu}; see `gpubroker status`")

    async def config(self, gpu: str | None = None) -> Thresholds:
        """As ``Broker.config``."""
        return await self.run(plans.config(self.keys, gpu))

    async def update_config(self, gpu: str | None = None, **changes: Any) -> Thresholds:
        """As ``Broker.update_config``."""
        while True:
            result, argv = await self.run(plans.new_config(self.keys, changes, gpu))
            if await self.call("configure", *argv) != "changed":
                return result

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
