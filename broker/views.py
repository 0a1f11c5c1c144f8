"""What a pool tells: leases, cards, waiters, samples, configuration and events. For threads and for an event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from broker import calls, connection, plans
from broker.errors import InvalidRequest
from broker.wire import AsyncWire, Wire

if TYPE_CHECKING:
    import redis

    from broker.journal import Subscription
    from broker.models import Event, Gpu, LeaseRecord, Sample, Waiter
    from broker.sizes import Learned, RightSize
    from broker.thresholds import Thresholds
    from broker.trend import Trend
    from broker.values import ListedProcess, Throttle


class Views(Wire):
    """What a pool tells to whom it asks."""

    def __init__(self, client: redis.Redis, *, pool: str = "default", url: str = "") -> None:
        """As ``Wire``."""
        super().__init__(client, pool=pool, url=url)
        self._subscription: Subscription | None = None

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

    def unknown(self, lease_ids: Sequence[str]) -> list[str]:
        """Which of these names neither wait nor hold a lease."""
        return self.run(plans.unknown(self.keys, lease_ids))

    def waiters(self) -> list[Waiter]:
        """Every waiter, the next to be served first."""
        return self.run(plans.waiters(self.keys))

    def gpus(self) -> list[Gpu]:
        """Every GPU, by host and index; one whose agent is silent reads UNAVAILABLE."""
        return self.run(plans.gpus(self.keys))

    def hardware(self, gpu: str) -> dict[str, int | str]:
        """What a GPU's newest sample offers beside memory, heat and load: ``broker.hardware.FIELDS`` has the names."""
        return self.run(plans.hardware(self.keys, gpu))

    def processes(self, gpu: str) -> list[ListedProcess]:
        """Every process that the newest sample saw on a GPU, with the lease that it works under."""
        return self.run(plans.processes(self.keys, gpu))

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

    def trend(self, gpu: str, minutes: float = 5.0) -> Trend:
        """Where one GPU's temperature goes: the line through the samples of the last ``minutes``, and what it crosses.

        Raises:
            InvalidRequest: ``minutes`` is no number from 0.1 to 1440. BrokerError: the pool knows no such GPU.
        """
        return self.run(plans.trend(self.keys, gpu, minutes))

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

    # -- the pool's configuration --------------------------------------------------------------------------------------

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

    # -- right sizes ---------------------------------------------------------------------------------------------------

    def sizes(self) -> list[Learned]:
        """What was learned of every function's runs, by the size of their input; the function that ran last first."""
        return self.run(plans.sizes(self.keys))

    def right_size(
        self, function: str, default: int | str, *, size: float | None = None, tenant: str = "default",
        gpu: str | None = None, too_little: int = 0,
    ) -> RightSize:  # fmt: skip
        """What a request of "auto" asks for now, by what was learned of its function. One round trip.

        ``default`` is asked before there is anything to learn from; with ``too_little`` bytes this very job ran out of
        memory.

        Raises:
            InvalidRequest: a value is not allowed.
        """
        return self.run(plans.right_size(self.keys, function, default, size, tenant, gpu, too_little))

    def learn(
        self, function: str, run: str, asked_bytes: int, *, size: float | None = None, peak_bytes: int | None = None,
        default: int | str | None = None,
    ) -> None:  # fmt: skip
        """Remember what a run of a function took that had ``asked_bytes``: ``peak_bytes`` of them, as agents saw it.

        Without a peak it ran out of memory: its next runs ask for half as much again, and for ``default`` at least,
        which is what its author would ask for. ``run`` is the name of its lease: told twice, it is learned once.
        ``size`` is its input's, in any unit.

        Raises:
            InvalidRequest: a value is not allowed.
        """
        self.call("learn", *calls.learning(
            function, run, asked_bytes, size=size, peak_bytes=peak_bytes, default=default,
        ))  # fmt: skip

    def forget(self, function: str) -> bool:
        """Forget what was learned of a function; False if there was nothing."""
        return bool(self.call("forget", calls.check_name("function", function)) == "forgotten")

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
        """Call back on ``optimal``, ``normal``, ``throttle``, ``critical``, ``unavailable``, ``recovered``,
        ``lease_lost`` or a kind of the journal. Returns a function that ends it.

        ``recovered`` is a GPU that went from THROTTLED, CRITICAL or UNAVAILABLE to NORMAL or OPTIMAL.
        Callbacks run on one thread of this broker's, one after the other.
        """
        from broker.journal import Subscription

        if self._subscription is None:
            self._subscription = Subscription(self)
        return self._subscription.add(kind, callback)

    def close(self) -> None:
        """End callbacks and close the connections."""
        if self._subscription is not None:
            self._subscription.stop()
        super().close()


class AsyncViews(AsyncWire):
    """As ``Views``, awaited."""

    async def get(self, lease_id: str) -> LeaseRecord | None:
        """As ``Broker.get``."""
        return await self.run(plans.lease(self.keys, lease_id))

    async def leases(self) -> list[LeaseRecord]:
        """As ``Broker.leases``."""
        return await self.run(plans.leases(self.keys))

    async def abandoned(self, lease_ids: Sequence[str]) -> list[str]:
        """As ``Broker.abandoned``."""
        return await self.run(plans.abandoned(self.keys, lease_ids))

    async def unknown(self, lease_ids: Sequence[str]) -> list[str]:
        """As ``Broker.unknown``."""
        return await self.run(plans.unknown(self.keys, lease_ids))

    async def waiters(self) -> list[Waiter]:
        """As ``Broker.waiters``."""
        return await self.run(plans.waiters(self.keys))

    async def gpus(self) -> list[Gpu]:
        """As ``Broker.gpus``."""
        return await self.run(plans.gpus(self.keys))

    async def hardware(self, gpu: str) -> dict[str, int | str]:
        """As ``Broker.hardware``."""
        return await self.run(plans.hardware(self.keys, gpu))

    async def processes(self, gpu: str) -> list[ListedProcess]:
        """As ``Broker.processes``."""
        return await self.run(plans.processes(self.keys, gpu))

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

    async def trend(self, gpu: str, minutes: float = 5.0) -> Trend:
        """As ``Broker.trend``."""
        return await self.run(plans.trend(self.keys, gpu, minutes))

    async def throttle(self, gpu: str | None = None) -> Throttle:
        """As ``Broker.throttle``."""
        return await self.run(plans.throttle(self.keys, gpu))

    async def should_throttle(self, gpu: str | None = None) -> bool:
        """As ``Broker.should_throttle``."""
        return (await self.throttle(gpu)).speed < 1.0

    async def speed(self, gpu: str | None = None) -> float:
        """As ``Broker.speed``."""
        return (await self.throttle(gpu)).speed

    async def config(self, gpu: str | None = None) -> Thresholds:
        """As ``Broker.config``."""
        return await self.run(plans.config(self.keys, gpu))

    async def update_config(self, gpu: str | None = None, **changes: Any) -> Thresholds:
        """As ``Broker.update_config``."""
        while True:
            result, argv = await self.run(plans.new_config(self.keys, changes, gpu))
            if await self.call("configure", *argv) != "changed":
                return result

    async def sizes(self) -> list[Learned]:
        """As ``Broker.sizes``."""
        return await self.run(plans.sizes(self.keys))

    async def right_size(
        self, function: str, default: int | str, *, size: float | None = None, tenant: str = "default",
        gpu: str | None = None, too_little: int = 0,
    ) -> RightSize:  # fmt: skip
        """As ``Broker.right_size``."""
        return await self.run(plans.right_size(self.keys, function, default, size, tenant, gpu, too_little))

    async def learn(
        self, function: str, run: str, asked_bytes: int, *, size: float | None = None, peak_bytes: int | None = None,
        default: int | str | None = None,
    ) -> None:  # fmt: skip
        """As ``Broker.learn``."""
        await self.call("learn", *calls.learning(
            function, run, asked_bytes, size=size, peak_bytes=peak_bytes, default=default,
        ))  # fmt: skip

    async def forget(self, function: str) -> bool:
        """As ``Broker.forget``."""
        told = await self.call("forget", calls.check_name("function", function))
        return bool(told == "forgotten")
