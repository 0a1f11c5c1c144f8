"""Server time of every script of the ledger beside ``return 1``, and the commands that each makes."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Any

from benchmarks.counts import Counter
from benchmarks.filled import CROWDED, cards
from benchmarks.meter import Meter
from broker import Broker, calls
from broker.publish import Publisher
from broker.units import GIB, MIB

HOUR_MS = 3_600_000
#: How often acquire, release and ``return 1`` are compared: the ratio that is judged is the median of so many.
ROUNDS = 5
#: Calls that need something before or after each of them are made so often.
SINGLES = 60


@dataclass(frozen=True, slots=True)
class Row:
    """One script, called in one way. ``before`` and ``after`` each call something is done that is not measured."""

    name: str
    script: str
    call: Callable[[int], object]
    before: Callable[[int], object] | None = None
    after: Callable[[int], object] | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What one row cost the server: mean and p99.9 in microseconds, multiples of ``return 1``, commands inside."""

    name: str
    script: str
    mean_us: float
    ratio: float
    tail_us: float
    inside: int


def measured(broker: Broker, counter: Counter, times: int) -> list[Cost]:
    """Every row, each beside a ``return 1`` of its own, in a pool of one card (``filled.fill``)."""
    meter, found = Meter(broker, times), list[Cost]()
    for row in rows(broker):
        bare = meter.bare()
        mean_us, tail_us = _measured(meter, row)
        inside = _inside(meter, counter, row)
        found.append(Cost(row.name, row.script, mean_us, mean_us / bare.mean_us, tail_us, inside))
    bare = meter.bare()
    return [Cost("return 1", "", bare.mean_us, 1.0, bare.tail_us, 0), *found]


def judged(broker: Broker, times: int) -> dict[str, float]:
    """Acquire and release in multiples of ``return 1``: medians of rounds in which all three are called in turn."""
    meter, ratios = Meter(broker, times), dict[str, list[float]](acquire=[], release=[])
    for _ in range(ROUNDS):
        held = list[Any]()
        before = meter.bare().mean_us
        acquire = meter.measure(lambda i: held.append(broker.acquire(MIB, lease_id=f"r{i}"))).mean_us  # noqa: B023
        release = meter.measure(lambda _: held.pop().release()).mean_us  # noqa: B023
        bare = (before + meter.bare().mean_us) / 2
        ratios["acquire"].append(acquire / bare)
        ratios["release"].append(release / bare)
    return {name: median(those) for name, those in ratios.items()}


def of_a_command(broker: Broker, times: int) -> float:
    """Microseconds that Lua takes to have the server run one of the cheapest commands: in a loop of many."""
    number, keys = 20, [broker.keys.config]
    sha = broker.redis.script_load(f"for _ = 1, {number} do redis.call('HGET', KEYS[1], 'version') end return 1")
    meter = Meter(broker, times)
    bare = meter.bare().mean_us
    looped = meter.measure(lambda _: broker.redis.execute_command("EVALSHA", sha, 1, *keys))  # type: ignore[no-untyped-call]
    return (looped.mean_us - bare) / number


def _measured(meter: Meter, row: Row) -> tuple[float, float]:
    if row.before is None and row.after is None:
        cost = meter.measure(row.call)
        return cost.mean_us, cost.tail_us
    found = []
    for _ in range(min(SINGLES, meter.calls)):
        number = meter.number + 1
        if row.before is not None:
            row.before(number)
        found.append(meter.measure(row.call, times=1))
        if row.after is not None:
            row.after(number)
    return mean(cost.mean_us for cost in found), max(cost.tail_us for cost in found)


def _inside(meter: Meter, counter: Counter, row: Row) -> int:
    meter.number += 1
    number = meter.number
    if row.before is not None:
        row.before(number)
    seen = counter.count(lambda: row.call(number))
    if row.after is not None:
        row.after(number)
    return len(seen.inside)


def rows(broker: Broker) -> Iterator[Row]:
    """Every script. What a row needs is prepared when it is asked for."""
    yield from _of_a_lease(broker)
    yield from _of_waiters(broker)
    yield from _of_agents(broker)
    yield from _of_operators(broker)


def _of_a_lease(b: Broker) -> Iterator[Row]:
    held = deque[Any]()

    def next_one() -> Any:
        held.rotate(-1)
        return held[-1]

    yield Row("acquire", "acquire", lambda i: held.append(b.acquire(MIB, lease_id=f"m{i}", ttl=86_400)))
    yield Row("check", "start", lambda _: b.check((one := next_one()).id, one.token, 4711))
    yield Row("renew", "renew", lambda _: b.renew((one := next_one()).id, one.token))
    yield Row("resize", "resize", lambda i: b.resize((one := next_one()).id, one.token, MIB * (1 + i % 2)))
    token = (b.epoch() << 23) - 1  # of the generation before: it was lost
    yield Row("release", "release", lambda _: held.popleft().release())
    yield Row(
        "revoke", "revoke", lambda _: b.call("revoke", held[0].id, HOUR_MS, "bench", held[0].token),
        before=lambda i: held.appendleft(b.acquire(MIB, lease_id=f"v{i}")), after=lambda _: held.popleft().release(),
    )  # fmt: skip
    while held:
        held.popleft().release()
    yield Row("register", "register", lambda i: b.call(
        "register", f"g{i}", token, "GPU-0-0", MIB, 86_400_000, "default", "bench", "", 0, "", 0, 0, "", "",
    ), after=lambda i: b.release(f"g{i}", token))  # fmt: skip


def _of_waiters(b: Broker) -> Iterator[Row]:
    def ask(i: int, wait: bool) -> Any:
        return b.call("acquire", *calls.ask("20GiB", lease_id=f"q{i}", gpu=f"GPU-{CROWDED}-0").asking(wait))

    queued = deque[int]()
    yield Row("acquire, refused", "acquire", lambda i: ask(i, False))
    yield Row("acquire, queued", "acquire", lambda i: queued.append(i) if ask(i, True) else None)
    yield Row("explain a waiter", "explain", lambda _: b.call("explain", "lease", f"q{queued[-1]}", 0))
    yield Row("cancel", "cancel", lambda _: b.cancel(f"q{queued.popleft()}"))
    while queued:
        b.cancel(f"q{queued.popleft()}")

    worker, seat = ("bench", "host-0", "photos"), "host-0 bench photos"
    yield Row("attend", "attend", lambda _: b.call("attend", *worker, "sit", 15_000, 120_000))
    handed = calls.ask(MIB, lease_id="handed", crew="photos", ttl=86_400, seat=seat)
    tokens = dict[str, int]()

    def hand(_: int) -> None:
        b.call("attend", *worker, "look", 15_000, 120_000)
        b.call("acquire", *calls.ask(MIB, lease_id="handed", crew="photos", ttl=86_400, wait=60).asking(True))
        b.call("attend", *worker, "sit", 15_000, 120_000)

    def claim(_: int) -> None:
        tokens["handed"] = int(b.call("claim", handed.id, "bench")[1])

    yield Row("claim", "claim", claim, before=hand, after=lambda _: b.release(handed.id, tokens["handed"]))
    b.call("attend", *worker, "away", 15_000, 120_000)


def _of_agents(b: Broker) -> Iterator[Row]:
    agent, reports = Publisher(b, "host-0"), cards(0, 1)
    yield Row("publish 1 card", "publish_sample", lambda _: agent.publish(reports, HOUR_MS))
    eight, those = Publisher(b, "eight"), cards("eight", 8)
    yield Row("publish 8 cards", "publish_sample", lambda _: eight.publish(those, HOUR_MS))
    yield Row("leave", "leave", lambda _: eight.leave(), before=lambda _: eight.publish(those, HOUR_MS))
    full = [replace(reports[0], processes=((4711, GIB),), unmanaged_bytes=GIB, memory_used_bytes=GIB, process_count=1)]
    adopted = list[Any]()
    yield Row(
        "adopt", "adopt", lambda i: adopted.append(b.adopt(4711, GIB, host="host-0", lease_id=f"a{i}")),
        before=lambda _: agent.publish(full, HOUR_MS), after=lambda _: adopted.pop().release(),
    )  # fmt: skip
    agent.publish(reports, HOUR_MS)
    yield Row("reap, nothing due", "reap", lambda _: b.reap())
    run_id = str(dict[str, Any](b.redis.info("server"))["run_id"])
    yield Row("hello", "hello", lambda _: b.call("hello", run_id))


def _of_operators(b: Broker) -> Iterator[Row]:
    gpu = "GPU-0-0"
    yield Row("drain", "drain", lambda _: b.drain(gpu), after=lambda _: b.undrain(gpu))
    yield Row("undrain", "undrain", lambda _: b.undrain(gpu), before=lambda _: b.drain(gpu))
    yield Row("explain a request", "explain", lambda _: b.call("explain", "ask", *calls.ask(MIB).asking(False)[1:]))
    yield Row("set a tenant", "tenant", lambda i: b.set_tenant("bench", weight=1 + i % 2))
    versions = itertools.count(int(b.redis.hget(b.keys.config, "version") or 0))
    kept = {name: value for name, value in dict[str, str](b.redis.hgetall(b.keys.config)).items() if name != "version"}  # type: ignore[arg-type]
    flat = [word for pair in kept.items() for word in pair]
    yield Row("configure", "configure", lambda _: b.call("configure", next(versions), *flat))
    yield Row("learn", "learn", lambda i: b.learn("bench", f"run-{i}", GIB, size=24, peak_bytes=GIB // 2))
    yield Row(
        "forget", "forget", lambda _: b.forget("bench"),
        before=lambda i: b.learn("bench", f"again-{i}", GIB, size=24, peak_bytes=GIB // 2),
    )  # fmt: skip
    yield Row("repair a card", "repair", lambda _: b.call("repair", "gpu", gpu))
