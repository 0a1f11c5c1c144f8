"""The broker's client, in the order of a lease's life."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from broker.lease import Lease, Renewer
from broker.units import parse_seconds, parse_size
from broker.views import Views

if TYPE_CHECKING:
    from broker.models import Tenant


class Broker(Views):
    """One pool's ledger, as a client sees it. Safe to share between threads, not across ``fork``."""

    # -- a lease's life ------------------------------------------------------------------------------------------------

    def acquire(
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
    ) -> Lease:
        """Borrow ``memory`` (bytes or ``"4GiB"``) of one GPU for ``ttl`` seconds, waiting up to ``wait`` seconds.

        The same ``lease_id`` and request again return the same lease and token: a retry takes nothing twice. ``host``
        and ``gpu`` limit where; a higher ``priority`` (-1000 to 1000) waits in front. ``token`` continues that very
        lease and takes no new one.

        Raises:
            InsufficientMemory: no room before ``wait`` ran out. ImpossibleRequest: could never fit; at once.
            LeaseConflict: the name asked for something else before. LeaseLost: the name's lease is over, its bytes
            not back yet. StaleToken, LeaseNotFound: with ``token``. InvalidRequest. PoolUnavailable.
        """
        request = calls.ask(
            memory, lease_id=lease_id, ttl=ttl, wait=wait, gpus=gpus, host=host, gpu=gpu, priority=priority,
            tenant=tenant, placement=placement, token=token, owner=owner, job_id=job_id, pid=pid, labels=labels,
            capability=capability, mig=mig, host_memory=host_memory, cpus=cpus, function=function,
        )  # fmt: skip
        with tracing.acquiring(self.pool, request) as traced:
            asked = time.monotonic()
            try:
                reply = self.call("acquire", *request.asking(request.wait_seconds > 0))
            except KeyboardInterrupt:
                if lease_id is None:  # nobody else knows the name: whatever was granted has no holder
                    self._withdraw(request)
                raise
            answer = answers.read_acquire(reply, request)
            if isinstance(answer, Waiting):
                answer, asked = self._wait(request, answer.place)
            granted: Lease = traced.held(Lease(self, answer, asked))
            return granted

    def _wait(self, request: calls.Ask, place: int) -> tuple[Granted, float]:
        """Sleep until pushed, showing a sign of life now and then; bounded by this process's monotonic clock."""
        heard = time.monotonic()
        ends = heard + request.wait_seconds
        try:
            while True:
                try:
                    asked, reply = self._sleep_and_ask(request, ends, calls.beats(place))
                    answer = answers.read_acquire(reply, request)
                except PoolAway:
                    if time.monotonic() >= min(ends, heard + calls.PLACE_SECONDS):
                        raise
                    time.sleep(calls.AWAY_PAUSE_SECONDS)  # another one may take over: its place is kept meanwhile
                    continue
                if isinstance(answer, Granted):
                    return answer, asked
                heard, place = asked, answer.place
        except (InsufficientMemory, ImpossibleRequest, LeaseConflict):
            raise  # the ledger keeps no place of ours; the name may be somebody else's by now
        except BaseException:
            self._withdraw(request)
            raise

    def _sleep_and_ask(self, request: calls.Ask, ends: float, beats: int) -> tuple[float, Any]:
        """Until this waiter is pushed, a sign of life is due, or its time is over; then ask. When, and the reply."""
        last = calls.WAITER_BEAT_SECONDS
        pushed = beats > 1 and self._sleep(request.id, ends, beats - 1)
        asked = time.monotonic()
        # In one round trip, where a lease may count as begun when the sleep did.
        if not pushed and ends - asked > last and request.ttl_ms >= 4000 * last:
            key = self.keys.wake(request.id)
            return asked, self.call_after(key, last, "acquire", *request.asking(True))
        if not pushed:
            self._sleep(request.id, ends, 1)
            asked = time.monotonic()
        return asked, self.call("acquire", *request.asking(ends > asked))

    def _sleep(self, lease_id: str, ends: float, beats: int) -> bool:
        """Until this waiter is pushed (true), a sign of life is due, or its time is over."""
        for _ in range(beats):
            left = min(ends - time.monotonic(), calls.WAITER_BEAT_SECONDS)
            if left <= 0 or self._run_command("BLPOP", self.keys.wake(lease_id), left):
                return left > 0
        return False

    def _withdraw(self, request: calls.Ask) -> None:
        """Leave nothing behind: no waiter, no grant, no lease. Without Redis the ledger drops them by itself."""
        try:
            if self.call("cancel", request.id, request.nonce) == "claimed":
                held = self.get(request.id)
                if held is not None:
                    self.release(held.id, held.token)
        except BrokerError:
            return

    @contextmanager
    def lease(self, memory: int | str, **request: Any) -> Iterator[Lease]:
        """Borrow for the length of a ``with``: renews itself and releases at the end. Takes what ``acquire`` takes.

        Inside, ``lease.lost`` says when to stop.

        Raises:
            LeaseLost, StaleToken, LeaseNotFound: at the end, if the lease was lost on the way.
        """
        held = self.acquire(memory, **request)
        renewer = Renewer(held)
        try:
            with tracing.inside(held):
                yield held
        except BaseException:
            renewer.stop()
            self._release_after_error(held)
            raise
        renewer.stop()
        held.release()

    def _release_after_error(self, held: Lease) -> None:
        """The caller's own exception is the one to see; an unreleased lease ends by its TTL."""
        try:
            held.release()
        except BrokerError:
            return

    def lease_handle(self, lease_id: str, token: int) -> Lease:
        """The lease of that name and token, which somebody granted to this process. Three round trips.

        Raises:
            LeaseNotFound: there is none.
        """
        found = self.get(lease_id)
        if found is None or found.token != check_token(token):
            # Says which of lost, stale and never there it is; changes nothing, since the token does not match.
            self.check(lease_id, token)
            raise BrokerError(f"lease {lease_id} ended a moment ago")
        uuids = tuple(found.gpu_uuids.split(","))
        totals = self._run_batch([("HGET", self.keys.gpu(uuid), "memory_total_bytes") for uuid in uuids])
        granted = Granted(
            found.id, found.token, uuids, found.host, found.memory_bytes, found.ttl_ms, found.expires_at,
            found.waited_ms, found.expires_at - self.reap(), total_bytes=tuple(int(total or 0) for total in totals),
        )  # fmt: skip
        return Lease(self, granted)

    def check(self, lease_id: str, token: int, pid: int | None = None, pid_started: str = "") -> int:
        """The start gate: confirm a lease right before its job's code runs, and note the process that will use it,
        with when it began (``broker.process.began``), since its pid may be another's one day.

        Starts the TTL afresh; returns the new end in ms.

        Raises:
            LeaseLost, StaleToken, LeaseNotFound: do not start.
        """
        shown = "" if pid is None else calls.check_whole("pid", pid, 1, 1 << 22)
        return int(self.call("start", check_name("lease_id", lease_id), check_token(token), shown, pid_started))

    def renew(self, lease_id: str, token: int, ttl: float | None = None) -> int:
        """Put a lease's end off to one TTL from now; ``ttl`` in seconds changes it. Returns the new end in ms.

        Raises:
            LeaseLost, StaleToken, LeaseNotFound: it is not this holder's any more.
        """
        return self.prolong(lease_id, token, ttl).expires_at

    def prolong(self, lease_id: str, token: int, ttl: float | None = None, claim: Claim | None = None) -> Renewal:
        """As ``renew``; tells also whether the lease was revoked, and, with a ``claim``, a ledger that lost the lease.

        Raises:
            LeaseLost, StaleToken, LeaseNotFound: it is not this holder's any more. PoolUnavailable: ask again.
        """
        life = ("",) if ttl is None else (calls.ttl_ms(ttl), calls.new_nonce())
        try:
            reply = self.call("renew", check_name("lease_id", lease_id), check_token(token), *life)
        except LeaseNotFound:
            if claim is None:
                raise
            return Renewal(answers.read_registered(self.call("register", *claim.argv), claim), 0)
        return Renewal(int(reply[0]), int(reply[1]), *reply[2:])

    def release(self, lease_id: str, token: int) -> bool:
        """End a lease, serving waiters in the same step. True if in time; False if its time had passed.

        Raises:
            LeaseLost, StaleToken, LeaseNotFound: it is not this holder's any more; nothing was changed.
        """
        return bool(self.call("release", check_name("lease_id", lease_id), check_token(token)) == "released")

    def release_orphan(self, lease_id: str, token: int) -> None:
        """Release a lease whose holder is dead: ``abandoned`` names it then.

        Raises:
            As ``release``.
        """
        self.call("release", check_name("lease_id", lease_id), check_token(token), "orphan")

    def cancel(self, lease_id: str) -> bool:
        """Take a waiting request back, and a grant that it has not claimed. False if there was nothing to take back."""
        return bool(self.call("cancel", check_name("lease_id", lease_id)) == "cancelled")

    def resize(self, lease_id: str, token: int, memory: int | str, wait: float = 0) -> int:
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
                answer = answers.read_resize(self.call("resize", *argv, int(stay), nonce), lease_id, size)
                if not isinstance(answer, Waiting):
                    return answer
                self._sleep(f"{lease_id}+", ends, calls.beats(answer.place))
        except BrokerError:
            raise  # the ledger keeps no place of ours
        except BaseException:
            self.call("cancel", f"{lease_id}+", nonce)
            raise

    def revoke(self, lease_id: str, grace: float = 10, reason: str = "revoked") -> int:
        """Ask for a lease's end: its holder hears it at its next renewal and has ``grace`` seconds; then it ends as if
        its time were over. Returns the deadline in ms of Redis's clock; asked again it only moves nearer.

        Raises:
            LeaseNotFound: there is no such lease. LeaseLost: it is over already.
        """
        grace_ms = parse_seconds(grace, "grace", least=0, most=86_400)
        held = self.get(check_name("lease_id", lease_id))
        reply = self.call("revoke", lease_id, grace_ms, reason, held.token if held else "")
        return answers.read_revoke(reply, lease_id)

    def adopt(
        self, pid: int, memory: int | str, *, host: str | None = None, gpu: str | None = None, ttl: float = 30,
        tenant: str = "default", lease_id: str | None = None, owner: str | None = None, pid_started: str = "",
    ) -> Lease:  # fmt: skip
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
        granted = answers.read_adopt(self.call("adopt", *request), request)
        return Lease(self, granted, asked)

    def explain(self, what: calls.Memory, **request: Any) -> Explanation:
        """Why the waiter of that name (or RQ's job) waits, or what such a request would meet now: card by card, by the
        very predicate that grants, with its place and an estimate of when. ``request`` is what ``acquire`` takes.

        Raises:
            InvalidRequest: neither a size nor a name, or an option that ``acquire`` does not take.
        """
        from broker.explain import explain

        return explain(self, what, **request)

    def peak_bytes(self, lease_id: str) -> int:
        """The most memory that agents saw a lease's processes use; 0 if none has seen any, or the lease is over."""
        return int(self._run_command("HGET", self.keys.lease(check_name("lease_id", lease_id)), "peak_bytes") or 0)

    def epoch(self) -> int:
        """The ledger's generation: seconds since 2025 at its birth or at a change of primary; 0 without one."""
        return int(self._run_command("HGET", self.keys.ledger, "epoch") or 0)

    def reap(self) -> int:
        """End what is over and serve waiters, as every script does on its way. Returns the ledger's time in ms."""
        return int(self.call("reap"))

    # -- what an operator does -----------------------------------------------------------------------------------------

    def drain(self, gpu: str | None = None, *, host: str | None = None) -> None:
        """Grant nothing more on this GPU; running leases stay.

        Raises:
            BrokerError: the pool knows no such GPU.
        """
        self._mark("drain", gpu, host)

    def undrain(self, gpu: str | None = None, *, host: str | None = None) -> None:
        """Grant on this GPU again, and serve those who waited for it.

        Raises:
            BrokerError: the pool knows no such GPU.
        """
        self._mark("undrain", gpu, host)

    def retire(self, host: str) -> None:
        """Forget a host whose agent is gone for good; its cards go with their last leases.

        Raises:
            BrokerError: the pool knows no such host, or its agent is at work.
        """
        calls.retired(self.call("leave", check_name("host", host), 1), host)

    def _mark(self, name: str, gpu: str | None, host: str | None) -> None:
        kind, what = calls.marked(gpu, host)
        if self.call(name, kind, what) == "unknown":
            raise NotInPool(
                f"the pool knows no {'GPU' if kind == 'gpu' else 'host'} {what}; see `gpubroker status --table`"
            )

    def tenants(self) -> list[Tenant]:
        """Every tenant: quota, weight, what it holds, what it used lately and what each of its functions took."""
        return self.run(plans.tenants(self.keys))

    def set_tenant(self, name: str, *, quota: int | str | None = None, weight: float | None = None) -> None:
        """A tenant's hard quota (``0`` lifts it) and its weight (1.0) among tenants of one priority.

        Raises:
            InvalidRequest: a value is not allowed.
        """
        self.call("tenant", *calls.tenant(name, quota, weight))


@functools.cache
def get_broker() -> Broker:
    """This process's broker, from ``GPUBROKER_REDIS_URL`` and ``GPUBROKER_POOL``.

    Note: cached; after a ``fork`` the child makes its own.

    Raises:
        PoolUnavailable: Redis is too old. InvalidRequest: the URL or the pool's name.
    """
    from broker.settings import Settings

    settings = Settings()
    return Broker.from_url(settings.redis_url, pool=settings.pool)


# law: a connection is never shared over a fork.
os.register_at_fork(after_in_child=get_broker.cache_clear)

__all__ = ["Broker", "PoolUnavailable", "get_broker"]
