"""One reading of the pool for all who ask: cards, hosts, leases and waiters, as they were a moment ago.

A pool of a thousand cards takes a tenth of a second of a processor to read. So one reader reads it, once a second while
anybody asks, in slices so small that an answer in between is not held up; everybody else gets what was read last.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from broker import plans
from broker.aio import AsyncBroker
from broker.errors import BrokerError, PoolUnavailable
from broker.ledger.keys import Keys
from broker.models import Gpu, LeaseRecord, Waiter
from broker.values import State

log = logging.getLogger("gpubroker.http")

#: Seconds from the begin of a reading to the next; longer where reading takes longer, so that it costs a fifth of a
#: processor at most.
PERIOD_SECONDS, _SHARE = 1.0, 5.0
#: Seconds after the last question for which the reader goes on.
_IDLE_SECONDS = 10.0
#: Hashes in one round trip: about a millisecond of work.
_SLICE = 10

Facts = dict[str, Any]
Hash = Mapping[str, str]


@dataclass(slots=True)
class Item:
    """One card, host, lease or waiter: its hash and what else it was made from, its facts, and they as JSON."""

    made_from: tuple[Hash, object]
    facts: Facts
    text: str


@dataclass(slots=True)
class Shelf:
    """Everything of one kind by its name, in order; what changed against the reading before, as JSON."""

    items: dict[str, Item] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)

    def put(self, before: Shelf, name: str, made_from: tuple[Hash, object], make: Callable[[], Facts]) -> None:
        """Add an item; one that is as it was is not made again, one that cannot be read is left out."""
        old = before.items.get(name)
        if old is not None and old.made_from == made_from:
            self.items[name] = old
            return
        try:
            facts = make()
        except ValueError as error:
            log.warning("event=unreadable name=%r error=%r", name, str(error)[:200])
            return
        self.items[name] = Item(made_from, facts, _json(facts))
        known = old.facts if old is not None else {}
        news = {key: value for key, value in facts.items() if key not in known or known[key] != value}
        news |= {key: None for key in known if key not in facts}
        if news:
            self.changed[name] = _json(news)

    def close(self, before: Shelf) -> None:
        """After the last item: what is not there any more."""
        self.gone = [name for name in before.items if name not in self.items]

    def array(self) -> str:
        """All of it as a JSON array."""
        return f"[{','.join(item.text for item in self.items.values())}]"

    def changes(self) -> str:
        """What changed, as a JSON object by name."""
        return "{" + ",".join(f"{_json(name)}:{text}" for name, text in self.changed.items()) + "}"


@dataclass(slots=True)
class Reading:
    """The pool as it was at ``now`` (the ledger's time in ms). ``began`` is this process's monotonic clock."""

    now: int = 0
    began: float = 0.0
    took: float = 0.0
    gpus: Shelf = field(default_factory=Shelf)
    hosts: Shelf = field(default_factory=Shelf)
    leases: Shelf = field(default_factory=Shelf)
    waiters: Shelf = field(default_factory=Shelf)
    #: Answers that were made of it, by what makes them: each is made once.
    answers: dict[str, bytes] = field(default_factory=dict)

    def answer(self, name: str, make: Callable[[], str]) -> bytes:
        """An answer as bytes, made at the first question."""
        if name not in self.answers:
            self.answers[name] = make().encode("utf-8")
        return self.answers[name]

    @property
    def oldest_seconds(self) -> float:
        """How old it may be when it is told: the next one is due long before."""
        return max(2 * PERIOD_SECONDS, (_SHARE + 2) * self.took)


class Reader:
    """Reads the pool for everybody, once a second while anybody asks."""

    def __init__(self, broker: AsyncBroker) -> None:
        """Nothing is read until somebody asks."""
        self._broker = broker
        self._current: Reading | None = None
        self._listeners: list[Callable[[Reading | None, BrokerError | None], None]] = []
        self._asked = 0.0
        self._touched = 0.0
        self._wanted = asyncio.Event()
        self._hurry = asyncio.Event()
        self._flying: asyncio.Future[Reading] | None = None  # the reading under way, and when it began
        self._flying_began = 0.0
        self._next: asyncio.Future[Reading] | None = None  # the one after it, if somebody waits for that
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Be ready to read; needs a running loop."""
        self._task = asyncio.create_task(self._run(), name="gpubroker-reader")

    async def stop(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    @property
    def last(self) -> Reading | None:
        """What was read last; ``None`` before the first, and while Redis is away."""
        return self._current

    def touch(self) -> None:
        """This server changed something: who asks after it sees it."""
        self._touched = time.monotonic()

    def listen(self, listener: Callable[[Reading | None, BrokerError | None], None]) -> Callable[[], None]:
        """Hear of each reading, or of what it failed of; as long as anybody listens, the pool is read."""
        self._listeners.append(listener)
        self._wanted.set()
        return lambda: self._listeners.remove(listener)

    async def current(self) -> Reading:
        """The last reading, at most a period and its own time old, and not older than the last ``touch``.

        Raises:
            PoolUnavailable: Redis cannot be reached.
        """
        self._asked = time.monotonic()
        self._wanted.set()
        last = self._current
        if last is not None and last.began >= self._touched and self._asked - last.began <= last.oldest_seconds:
            return last
        if self._flying is not None and self._flying_began >= self._touched:
            return await asyncio.shield(self._flying)
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        self._hurry.set()
        return await asyncio.shield(self._next)

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            took = await self._once()
            if not self._listeners and time.monotonic() - self._asked > _IDLE_SECONDS:
                self._wanted.clear()
            await asyncio.sleep(took)  # however much it is asked, half of a processor is left for the answers
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(PERIOD_SECONDS - 2 * took, (_SHARE - 2) * took)):
                    await self._hurry.wait()

    async def _once(self) -> float:
        """Read, and tell everybody. Returns the seconds that it took."""
        self._hurry.clear()
        began = self._flying_began = time.monotonic()
        flying = self._flying = self._next or asyncio.get_running_loop().create_future()
        self._next = None
        reading, failed = None, None
        try:
            reading = await self._broker.run(_read(self._broker.keys, self._current or Reading(), began))
        except BrokerError as error:
            failed = error
        except Exception as error:
            log.exception("event=reading_failed")
            failed = PoolUnavailable(f"the pool cannot be read: {type(error).__name__}")
        took = time.monotonic() - began
        self._current, self._flying = reading, None  # what is not known now is not told as if it were
        if reading is not None:
            reading.took = took
            flying.set_result(reading)
        elif failed is not None:
            flying.set_exception(failed)
            flying.exception()  # nobody may have waited for it
        for listener in list(self._listeners):
            listener(reading, failed)
        return took


def _read(keys: Keys, before: Reading, began: float) -> plans.Plan[Reading]:
    """A plan: each batch is a slice of the work, so that the loop can answer others in between."""
    uuids, hosts, leases, waiters, clock, offset = yield [
        ("SMEMBERS", keys.gpus), ("SMEMBERS", keys.hosts), ("ZRANGE", keys.leases, 0, -1),
        ("ZRANGE", keys.waiters, 0, -1), ("TIME",), ("HGET", keys.ledger, "clock_offset_ms"),
    ]  # fmt: skip
    now = int(clock[0]) * 1000 + int(clock[1]) // 1000 + int(offset or 0)
    reading = Reading(now, began)
    yield from _fill(reading.hosts, before.hosts, sorted(hosts), keys.host, lambda fields, _: dict(fields))
    yield from _fill(
        reading.gpus, before.gpus, _in_order(uuids, before.gpus), keys.gpu, lambda fields, _: gpu_facts(fields, now),
        lambda fields, _: int(fields.get("fresh_until") or 0) < now,
    )  # fmt: skip
    yield from _fill(reading.leases, before.leases, leases, keys.lease, lambda fields, _: lease_facts(fields))
    yield from _fill(
        reading.waiters, before.waiters, waiters, keys.waiter, lambda fields, place: waiter_facts(fields, place),
        lambda _, place: place,
    )  # fmt: skip
    if reading.gpus.items.keys() != before.gpus.items.keys():
        # By host and index; sorted anew only where a card came or went, as that alone takes milliseconds.
        reading.gpus.items = dict(sorted(reading.gpus.items.items(), key=_place_of))
    for shelf, old in zip(_shelves(reading), _shelves(before), strict=True):
        shelf.close(old)
    return reading


def _in_order(uuids: Iterable[str], before: Shelf) -> list[str]:
    """As they stood before; new ones behind."""
    known = set(uuids)
    listed = [uuid for uuid in before.items if uuid in known]
    return listed + sorted(known.difference(listed))


def _place_of(named: tuple[str, Item]) -> tuple[str, int, str]:
    uuid, item = named
    return item.facts["host"], item.facts["index"], uuid


def _fill(
    shelf: Shelf,
    before: Shelf,
    names: Sequence[str],
    key: Callable[[str], str],
    make: Callable[[Hash, int], Facts],
    beside: Callable[[Hash, int], object] = lambda _fields, _place: None,
) -> plans.Plan[None]:
    """Put the hashes of these names on a shelf. ``beside``: what else an item is made from."""
    for start in range(0, len(names), _SLICE):
        some = names[start : start + _SLICE]
        replies = yield [("HGETALL", key(name)) for name in some]
        for place, (name, fields) in enumerate(zip(some, replies, strict=True), start=start + 1):
            if fields:
                shelf.put(before, name, (fields, beside(fields, place)), partial(make, fields, place))


def _shelves(reading: Reading) -> tuple[Shelf, ...]:
    return reading.gpus, reading.hosts, reading.leases, reading.waiters


def gpu_facts(fields: Hash, now: int) -> Facts:
    """A card as a grant would see it now."""
    return plans.as_seen_now(Gpu.from_hash(fields), now).model_dump(mode="json")


def lease_facts(fields: Hash) -> Facts:
    """A lease as anybody may see it: without its token, which is its holder's secret."""
    return LeaseRecord.from_hash(fields).model_dump(mode="json", exclude={"token"})


def waiter_facts(fields: Hash, place: int) -> Facts:
    """A waiter and its place, 1 the next to be served."""
    return {"place": place, **Waiter.from_hash(fields).model_dump(mode="json")}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def worst_state(reading: Reading) -> str:
    """The worst state of any card; UNAVAILABLE without one: nothing fails open."""
    states = [State(item.facts["state"]) for item in reading.gpus.items.values()]
    return max(states, key=lambda state: state.rank, default=State.UNAVAILABLE).value
