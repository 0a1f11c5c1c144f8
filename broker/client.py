"""The broker's client, in the order of a lease's life."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import redis

from broker import calls, connection, plans
from broker.calls import Granted, Waiting, check_name, check_token
from broker.errors import (
    BrokerError,
    ImpossibleRequest,
    InsufficientMemory,
    InvalidRequest,
    LeaseConflict,
    PoolUnavailable,
)
from broker.lease import Lease, Renewer
from broker.ledger.keys import Keys
from broker.ledger.scripts import script
from broker.ledger.server import require_version, shown_url

if TYPE_CHECKING:
    from broker.journal import Subscription
    from broker.models import Event, Gpu, LeaseRecord, Sample, Waiter
    from broker.thresholds import Thresholds
    from broker.values import Throttle

T = TypeVar("T")


class Broker:
    """One pool's ledger, as a client sees it. Safe to share between threads, not across ``fork``."""

    def __init__(self, client: redis.Redis, *, pool: str = "default", url: str = "") -> None:
        """Use an existing client, which must decode its replies (``decode_responses=True``)."""
        self.redis = client
        self.keys = Keys(pool)
        self.pool = pool
        self.url = url or connection.url_of(client)
        self._subscription: Subscription | None = None

    @classmethod
    def from_url(cls, url: str, pool: str = "default") -> Self:
        """A broker on ``redis://``, ``rediss://`` or ``unix://``. Connects at the first request.

        Raises:
            InvalidRequest: not such a URL, or the pool's name is not allowed.
        """
        connection.check_url(url)
        return cls(connection.connect(redis.Redis, url), pool=pool, url=shown_url(url))

    # -- a lease's life ------------------------------------------------------------------------------------------------

    def acquire(
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
            tenant=tenant, placement=placement, token=token, owner=owner, job_id=job_id, pid=pid,
        )  # fmt: skip
        asked = time.monotonic()
        try:
            reply = self.call("acquire", *request.argv, int(request.wait_seconds > 0))
        except KeyboardInterrupt:
            if lease_id is None:  # nobody else knows the name: whatever was granted has no holder
                self._withdraw(request.id)
            raise
        answer = calls.read_acquire(reply, request)
        if isinstance(answer, Waiting):
            answer, asked = self._wait(request)
        return Lease(self, answer, asked)

    def _wait(self, request: calls.Ask) -> tuple[Granted, float]:
        """Sleep until pushed, showing a sign of life now and then; bounded by this process's monotonic clock."""
        ends = time.monotonic() + request.wait_seconds
        try:
            while True:
                left = ends - time.monotonic()
                if left > 0:
                    self._run_command("BLPOP", self.keys.wake(request.id), min(left, calls.WAITER_BEAT_SECONDS))
                asked = time.monotonic()
                stay = ends > asked
                answer = calls.read_acquire(self.call("acquire", *request.argv, int(stay)), request)
                if isinstance(answer, Granted):
                    return answer, asked
        except (InsufficientMemory, ImpossibleRequest, LeaseConflict):
            raise  # the ledger keeps no place of ours; the name may be somebody else's by now
        except BaseException:
            self._withdraw(request.id)
            raise

    def _withdraw(self, lease_id: str) -> None:
        """Leave nothing behind: no waiter, no grant, no lease. Without Redis the ledger drops them by itself."""
        try:
            if not self.cancel(lease_id):
                held = self.get(lease_id)
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
        """The lease of that name and token, which somebody granted to this process. One round trip.

        Raises:
            LeaseNotFound: there is none.
        """
        found = self.get(lease_id)
        if found is None or found.token != check_token(token):
            # Says which of lost, stale and never there it is; changes nothing, since the token does not match.
            self.check(lease_id, token)
            raise BrokerError(f"lease {lease_id} ended a moment ago")
        granted = Granted(
            found.id, found.token, tuple(found.gpu_uuids.split(",")), found.host, found.memory_bytes, found.ttl_ms,
            found.expires_at, found.waited_ms, found.expires_at - self.reap(),
        )  # fmt: skip
        return Lease(self, granted)

    def check(self, lease_id: str, token: int, pid: int | None = None) -> int:
        """The start gate: confirm a lease right before its job's code runs, and note the process that will use it.

        Starts the TTL afresh; returns the new end in ms.

        Raises:
            LeaseLost, StaleToken, LeaseNotFound: do not start.
        """
        shown = "" if pid is None else calls.check_whole("pid", pid, 1, 1 << 22)
        return int(self.call("start", check_name("lease_id", lease_id), check_token(token), shown))

    def renew(self, lease_id: str, token: int, ttl: float | None = None) -> int:
        """Put a lease's end off to one TTL from now; ``ttl`` in seconds changes it. Returns the new end in ms.

        Raises:
            LeaseLost, StaleToken, LeaseNotFound: it is not this holder's any more.
        """
        life = "" if ttl is None else calls.ttl_ms(ttl)
        return int(self.call("renew", check_name("lease_id", lease_id), check_token(token), life))

    def release(self, lease_id: str, token: int) -> bool:
        """End a lease, serving waiters in the same step. True if in time; False if its time had passed.

        Raises:
            LeaseLost, StaleToken, LeaseNotFound: it is not this holder's any more; nothing was changed.
        """
        return bool(self.call("release", check_name("lease_id", lease_id), check_token(token)) == "released")

    def cancel(self, lease_id: str) -> bool:
        """Take a waiting request back, and a grant that it has not claimed. False if there was nothing to take back."""
        return bool(self.call("cancel", check_name("lease_id", lease_id)) == "cancelled")

    def reap(self) -> int:
        """End what is over and serve waiters, as every script does on its way. Returns the ledger's time in ms."""
        return int(self.call("reap"))

    # -- what there is -------------------------------------------------------------------------------------------------

    def get(self, lease_id: str) -> LeaseRecord | None:
        """One lease, or ``None``."""
        return self.run(plans.lease(self.keys, lease_id))

    def leases(self) -> list[LeaseRecord]:
        """Every lease whose bytes count, the next to end first."""
        return self.run(plans.leases(self.keys))

    def abandoned(self, lease_ids: Sequence[str]) -> list[str]:
        """Which of these names were given up by their holder within the last minute."""
        return self.run(plans.abandoned(self.keys, lease_ids))

    def waiters(self) -> list[Waiter]:
        """Every waiter, the next to be served first."""
        return self.run(plans.waiters(self.keys))

    def gpus(self) -> list[Gpu]:
        """Every GPU, by host and index; one whose agent is silent reads UNAVAILABLE."""
        return self.run(plans.gpus(self.keys))

    def hosts(self) -> list[dict[str, str]]:
        """Every host's hash: host, state, reason, source, gpus, sampled_at, fresh_until."""
        return self.run(plans.hosts(self.keys))

    def available(self) -> dict[str, int]:
        """Bytes that could be borrowed now, by GPU; only GPUs open for grants."""
        return {gpu.uuid: gpu.free_bytes for gpu in self.gpus() if gpu.lends}

    def events(self, after: str = "0", count: int = 1000) -> list[Event]:
        """The journal after a stream id, oldest first."""
        return self.run(plans.events(self.keys, after, count))

    def recent_events(self, count: int = 1000) -> list[Event]:
        """The journal's last entries, oldest first."""
        return self.run(plans.recent_events(self.keys, count))

    def last_event_id(self) -> str:
        """The stream id at which the journal ends now."""
        return self.run(plans.last_event_id(self.keys))

    def history(self, gpu: str) -> list[Sample]:
        """The samples kept of one GPU, oldest first."""
        return self.run(plans.history(self.keys, gpu))

    # -- what a job asks -----------------------------------------------------------------------------------------------

    def throttle(self, gpu: str | None = None) -> Throttle:
        """What a holder should do: on this GPU, else on this process's own, else on the pool's worst."""
        return self.run(plans.throttle(self.keys, gpu))

    def should_throttle(self, gpu: str | None = None) -> bool:
        """Whether to work slower than full speed."""
        return self.throttle(gpu).speed < 1.0

    def speed(self, gpu: str | None = None) -> float:
        """The multiplier to scale work by, 0.0 to 1.0; 0.0 means pause."""
        return self.throttle(gpu).speed

    # -- what an operator does -----------------------------------------------------------------------------------------

    def drain(self, gpu: str) -> None:
        """Grant nothing more on this GPU; running leases stay.

        Raises:
            BrokerError: the pool knows no such GPU.
        """
        self._mark("drain", gpu)

    def undrain(self, gpu: str) -> None:
        """Grant on this GPU again, and serve those who waited for it.

        Raises:
            BrokerError: the pool knows no such GPU.
        """
        self._mark("undrain", gpu)

    def _mark(self, name: str, gpu: str) -> None:
        if self.call(name, check_name("gpu", gpu)) == "unknown":
            raise BrokerError(f"the pool knows no GPU {gpu}; see `gpubroker status`")

    def config(self, gpu: str | None = None) -> Thresholds:
        """The pool's configuration, or what holds for one GPU."""
        return self.run(plans.config(self.keys, gpu))

    def update_config(self, gpu: str | None = None, **changes: Any) -> Thresholds:
        """Change configuration, live; ``None`` restores a default. Agents pick it up within one interval.

        Raises:
            InvalidRequest: unknown name, or a value out of bounds; nothing was changed.
        """
        while True:
            result, argv = self.run(plans.new_config(self.keys, changes, gpu))
            if self.call("configure", *argv) != "changed":
                return result

    # -- events as they happen -----------------------------------------------------------------------------------------

    def follow(self, after: str = "$", block_ms: int = 3000) -> Iterator[Event | None]:
        """Events as they happen, for ever; ``None`` whenever ``block_ms`` passed without one."""
        if not 1 <= block_ms <= 4000:
            raise InvalidRequest("block_ms", block_ms, "1 to 4000: below the socket's own timeout")
        if after == "$":
            after = self.last_event_id()
        while True:
            reply = self._run_command("XREAD", "COUNT", 500, "BLOCK", block_ms, "STREAMS", self.keys.events, after)
            streams = reply.items() if isinstance(reply, Mapping) else reply or ()
            for _, entries in streams:
                for stream_id, fields in connection.entries(entries):
                    after = stream_id
                    yield plans.event(stream_id, fields)
            if not reply:
                yield None

    def on(self, kind: str, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call back on ``optimal``, ``normal``, ``throttle``, ``critical``, ``unavailable``, ``lease_lost`` or a kind
        of the journal. Returns a function that ends it.

        Callbacks run on one thread of this broker's, one after the other.
        """
        from broker.journal import Subscription

        if self._subscription is None:
            self._subscription = Subscription(self)
        return self._subscription.add(kind, callback)

    # -- the wire ------------------------------------------------------------------------------------------------------

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
        """End callbacks and close the connections."""
        if self._subscription is not None:
            self._subscription.stop()
        self.redis.close()

    def __enter__(self) -> Self:
        """The broker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


@functools.cache
def get_broker() -> Broker:
    """This process's broker, from ``GPUBROKER_REDIS_URL`` and ``GPUBROKER_POOL``.

    Note: cached; after ``fork`` the child must make its own (``get_broker.cache_clear()``), as ``worker_hooks`` does.

    Raises:
        PoolUnavailable: Redis is too old. InvalidRequest: the URL or the pool's name.
    """
    from broker.settings import Settings

    settings = Settings()
    return Broker.from_url(settings.redis_url.get_secret_value(), pool=settings.pool)


__all__ = ["Broker", "PoolUnavailable", "get_broker"]
