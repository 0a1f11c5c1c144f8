"""The client for asyncio: the same names as ``broker.client``, awaited. Requests, replies and plans are shared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from broker import answers, calls, plans, tracing
from broker.calls import check_name, check_token, check_wait
from broker.errors import (
    BrokerError,
    ImpossibleRequest,
    InsufficientMemory,
    LeaseConflict,
    LeaseNotFound,
    NotInPool,
    PoolAway,
    PoolUnavailable,
)
from broker.explain import Explanation
from broker.granted import Claim, Granted, Renewal, Waiting
from broker.lease import AsyncLease
from broker.units import parse_seconds, parse_size
from broker.views import AsyncViews

if TYPE_CHECKING:
    from broker.models import Tenant


class AsyncBroker(AsyncViews):
    """One pool's ledger for an event loop. See ``Broker`` for what each name does and raises."""

    async def acquire(
        self,
        memory: calls.Memory,
        *,
        lease_id: str | None = None,
        ttl: float = 30,
        wait: float = 0,
        gpus: int = 1,
        host: str | None = None,
        gpu: str | None = None,
        priority: int = 0,
        tenant: str = "default",
        placement: str | None = None,
        token: int | None = None,
        owner: str | None = None,
        job_id: str | None = None,
        pid: int | None = None,
        labels: Mapping[str, str] | None = None,
        capability: str | None = None,
        mig: str | None = None,
        host_memory: int | str | None = None,
        cpus: float | None = None,
        function: str | None = None,
    ) -> AsyncLease:
        """As ``Broker.acquire``."""
        request = calls.ask(
            memory, lease_id=lease_id, ttl=ttl, wait=wait, gpus=gpus, host=host, gpu=gpu, priority=priority,
            tenant=tenant, placement=placement, token=token, owner=owner, job_id=job_id, pid=pid, labels=labels,
            capability=capability, mig=mig, host_memory=host_memory, cpus=cpus, function=function,
        )  # fmt: skip
        with tracing.acquiring(self.pool, request) as traced:
            asked = time.monotonic()
            try:
                reply = await self.call("acquire", *request.asking(request.wait_seconds > 0))
            except asyncio.CancelledError:
                if lease_id is None:  # nobody else knows the name: whatever was granted has no holder
                    await asyncio.shield(asyncio.ensure_future(self._withdraw(request)))
                raise
            answer = answers.read_acquire(reply, request)
            if isinstance(answer, Waiting):
                answer, asked = await self._wait(request, answer.place)
            granted: AsyncLease = traced.held(AsyncLease(self, answer, asked))
            return granted

    async def _wait(self, request: calls.Ask, place: int) -> tuple[Granted, float]:
        heard = time.monotonic()
        ends = heard + request.wait_seconds
        try:
            while True:
                try:
                    asked, reply = await self._sleep_and_ask(request, ends, calls.beats(place))
                    answer = answers.read_acquire(reply, request)
                except PoolAway:
                    if time.monotonic() >= min(ends, heard + calls.PLACE_SECONDS):
                        raise
                    await asyncio.sleep(
                        calls.AWAY_PAUSE_SECONDS
                    )  # another one may take over: its place is kept meanwhile
                    continue
                if isinstance(answer, Granted):
                    return answer, asked
                heard, place = asked, answer.place
        except (InsufficientMemory, ImpossibleRequest, LeaseConflict):
            raise  # the ledger keeps no place of ours; the name may be somebody else's by now
        except BaseException:
            # Also when this task is cancelled: a shielded task of its own leaves the queue.
            await asyncio.shield(asyncio.ensure_future(self._withdraw(request)))
            raise

    async def _sleep_and_ask(self, request: calls.Ask, ends: float, beats: int) -> tuple[float, Any]:
        """Until this waiter is pushed, a sign of life is due, or its time is over; then ask. When, and the reply."""
        last = calls.WAITER_BEAT_SECONDS
        pushed = beats > 1 and await self._sleep(request.id, ends, beats - 1)
        asked = time.monotonic()
        # In one round trip, where a lease may count as begun when the sleep did.
        if not pushed and ends - asked > last and request.ttl_ms >= 4000 * last:
            key = self.keys.wake(request.id)
            return asked, await self.call_after(key, last, "acquire", *request.asking(True))
        if not pushed:
            await self._sleep(request.id, ends, 1)
            asked = time.monotonic()
        return asked, await self.call("acquire", *request.asking(ends > asked))

    async def _sleep(self, lease_id: str, ends: float, beats: int) -> bool:
        """Until this waiter is pushed (true), a sign of life is due, or its time is over."""
        for _ in range(beats):
            left = min(ends - time.monotonic(), calls.WAITER_BEAT_SECONDS)
            if left <= 0 or await self._run_command("BLPOP", self.keys.wake(lease_id), left):
                return left > 0
        return False

    async def _withdraw(self, request: calls.Ask) -> None:
        """Leave nothing behind: no waiter, no grant, no lease. Without Redis the ledger drops them by itself."""
        try:
            if await self.call("cancel", request.id, request.nonce) == "claimed":
                held = await self.get(request.id)
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
            with tracing.inside(held):
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

    async def check(self, lease_id: str, token: int, pid: int | None = None, pid_started: str = "") -> int:
        """As ``Broker.check``."""
        shown = "" if pid is None else calls.check_whole("pid", pid, 1, 1 << 22)
        return int(await self.call("start", check_name("lease_id", lease_id), check_token(token), shown, pid_started))

    async def renew(self, lease_id: str, token: int, ttl: float | None = None) -> int:
        """As ``Broker.renew``."""
        return (await self.prolong(lease_id, token, ttl)).expires_at

    async def prolong(self, lease_id: str, token: int, ttl: float | None = None, claim: Claim | None = None) -> Renewal:
        """As ``renew``; tells also whether the lease was revoked, and, with a ``claim``, a ledger that lost the lease.

        Raises:
            LeaseLost, StaleToken, LeaseNotFound: it is not this holder's any more. PoolUnavailable: ask again.
        """
        life = ("",) if ttl is None else (calls.ttl_ms(ttl), calls.new_nonce())
        try:
            reply = await self.call("renew", check_name("lease_id", lease_id), check_token(token), *life)
        except LeaseNotFound:
            if claim is None:
                raise
            return Renewal(answers.read_registered(await self.call("register", *claim.argv), claim), 0)
        return Renewal(int(reply[0]), int(reply[1]), *reply[2:])

    async def release(self, lease_id: str, token: int) -> bool:
        """As ``Broker.release``."""
        reply = await self.call("release", check_name("lease_id", lease_id), check_token(token))
        return bool(reply == "released")

    async def release_orphan(self, lease_id: str, token: int) -> None:
        """As ``Broker.release_orphan``."""
        await self.call("release", check_name("lease_id", lease_id), check_token(token), "orphan")

    async def cancel(self, lease_id: str) -> bool:
        """As ``Broker.cancel``."""
        return bool(await self.call("cancel", check_name("lease_id", lease_id)) == "cancelled")

    async def resize(self, lease_id: str, token: int, memory: int | str, wait: float = 0) -> int:
        """Give a lease ``memory`` of each of its GPUs. Shrinking is done at once; growing waits up to ``wait`` seconds
        in the queue, in the lease's own priority. Returns the bytes it has.

        Raises:
            InsufficientMemory: no room to grow before ``wait`` ran out; it keeps what it had. ImpossibleRequest: its
            GPU is not so large. LeaseLost, StaleToken, LeaseNotFound: it is not this holder's any more.
        """
        size, ends = parse_size(memory), time.monotonic() + check_wait(wait)
        argv = check_name("lease_id", lease_id), check_token(token), size
        nonce = calls.new_nonce()
        try:
            while True:
                stay = ends > time.monotonic()
                answer = answers.read_resize(await self.call("resize", *argv, int(stay), nonce), lease_id, size)
                if not isinstance(answer, Waiting):
                    return answer
                await self._sleep(f"{lease_id}+", ends, calls.beats(answer.place))
        except BrokerError:
            raise  # the ledger keeps no place of ours
        except BaseException:
            await self.call("cancel", f"{lease_id}+", nonce)
            raise

    async def revoke(self, lease_id: str, grace: float = 10, reason: str = "revoked") -> int:
        """Ask for a lease's end: its holder hears it at its next renewal and has ``grace`` seconds; then it ends as if
        its time were over. Returns the deadline in ms of Redis's clock; asked again it only moves nearer.

        Raises:
            LeaseNotFound: there is no such lease. LeaseLost: it is over already.
        """
        grace_ms = parse_seconds(grace, "grace", least=0, most=86_400)
        held = await self.get(check_name("lease_id", lease_id))
        reply = await self.call("revoke", lease_id, grace_ms, reason, held.token if held else "")
        return answers.read_revoke(reply, lease_id)

    async def adopt(
        self, pid: int, memory: int | str, *, host: str | None = None, gpu: str | None = None, ttl: float = 30,
        tenant: str = "default", lease_id: str | None = None, owner: str | None = None, pid_started: str = "",
    ) -> AsyncLease:  # fmt: skip
        """Make a lease of the memory that a process, which runs already, has on a GPU of ``host`` (this one).

        What its agent counted as unmanaged becomes the lease's. The agent renews the lease while it sees the process.

        Raises:
            LeaseNotFound: no agent has seen the process on a GPU of that host. InsufficientMemory: it has less than
            ``memory``, and there is no room for the rest.
        """
        request = calls.adoption(
            pid, memory, host=host, gpu=gpu, ttl=ttl, tenant=tenant, lease_id=lease_id, owner=owner,
            pid_started=pid_started,
        )  # fmt: skip
        asked = time.monotonic()
        granted = answers.read_adopt(await self.call("adopt", *request), request)
        return AsyncLease(self, granted, asked)

    async def explain(self, what: calls.Memory, **request: Any) -> Explanation:
        """Why the waiter of that name (or RQ's job) waits, or what such a request would meet now: card by card, by the
        very predicate that grants, with its place and an estimate of when. ``request`` is what ``acquire`` takes.

        Raises:
            InvalidRequest: neither a size nor a name, or an option that ``acquire`` does not take.
        """
        from broker.explain import explain_async

        return await explain_async(self, what, **request)

    async def peak_bytes(self, lease_id: str) -> int:
        """As ``Broker.peak_bytes``."""
        key = self.keys.lease(check_name("lease_id", lease_id))
        return int(await self._run_command("HGET", key, "peak_bytes") or 0)

    async def epoch(self) -> int:
        """The ledger's generation: seconds since 2025 at its birth or at a change of primary; 0 without one."""
        return int(await self._run_command("HGET", self.keys.ledger, "epoch") or 0)

    async def reap(self) -> int:
        """As ``Broker.reap``."""
        return int(await self.call("reap"))

    async def drain(self, gpu: str | None = None, *, host: str | None = None) -> None:
        """As ``Broker.drain``."""
        await self._mark("drain", gpu, host)

    async def undrain(self, gpu: str | None = None, *, host: str | None = None) -> None:
        """As ``Broker.undrain``."""
        await self._mark("undrain", gpu, host)

    async def retire(self, host: str) -> None:
        """As ``Broker.retire``."""
        calls.retired(await self.call("leave", check_name("host", host), 1), host)

    async def _mark(self, name: str, gpu: str | None, host: str | None) -> None:
        kind, what = calls.marked(gpu, host)
        if await self.call(name, kind, what) == "unknown":
            raise NotInPool(
                f"the pool knows no {'GPU' if kind == 'gpu' else 'host'} {what}; see `gpubroker status --table`"
            )

    async def tenants(self) -> list[Tenant]:
        """Every tenant: quota, weight, what it holds, what it used lately and what each of its functions took."""
        return await self.run(plans.tenants(self.keys))

    async def set_tenant(self, name: str, *, quota: int | str | None = None, weight: float | None = None) -> None:
        """A tenant's hard quota (``0`` lifts it) and its weight (1.0) among tenants of one priority.

        Raises:
            InvalidRequest: a value is not allowed.
        """
        await self.call("tenant", *calls.tenant(name, quota, weight))
