"""What a pool takes in Redis: bytes of memory per thing in it, and bytes over the wire per call.

Method: one embedded server, nothing persisted. So many things of one kind are made through the real scripts, after a
few of them, so that scripts are loaded and buffers have their size; the difference of ``used_memory`` (less what
clients' buffers take) by their number is what one takes, its share of every index and of the server's own tables
included. ``MEMORY USAGE`` of one thing's own keys stands beside it. Cards are told of by an agent that says everything
that NVML does. The journal is held at its least length meanwhile, so that its entries count only where they are the
thing.

The server's tables double when they are full: a figure may be 16 bytes a key more or less at another number of things.

Then a pool with leases that are held is used: leases are taken and given back, in four rounds. Once the tombstones of
the ended ones are gone, ``used_memory`` has to be what it was after the round before. Of the three differences the
middle one counts: a table may grow or shrink in one of them, a leak would be in each.

``python -m benchmarks.memory [--long]``: a tenth, or all, of 10,000 things of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from benchmarks import frame
from benchmarks.filled import CARDS_OF_A_HOST, HOUR_MS, add_leases, cards, give_back, many
from benchmarks.operations import LEASES_OF_A_HOST
from benchmarks.weights import FUNCTIONS_MOST, Weight, pool, publish, used, weights
from broker import Broker, calls
from broker.embedded import EmbeddedServer
from broker.publish import Publisher
from broker.units import GIB, MIB
from broker.values import LeaseVerdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Entries of the journal that are kept, as a pool is set by default.
JOURNAL = 20_000
#: Bytes that a lease taken and given back may leave behind: whatever structure forgot an entry of it would keep more.
#: Not 0, since tables change their sizes when they like.
LEFT_MOST = 8.0
#: The pool for which the sum is drawn up.
PLANNED = {"cards": 100_000, "leases": 200_000, "waiters": 10_000, "ended a second": 2000}
TOMBSTONE_SECONDS = 60
SAMPLE = f"sample of {CARDS_OF_A_HOST} cards, {LEASES_OF_A_HOST} leases"


def left_behind(url: str, held: int, pairs: int) -> float:
    """Bytes that each lease left that was taken and given back beside ``held`` ones, once its tombstone was gone."""
    with pool(url, "used") as broker:
        for host in range(13):
            publish(broker, f"host-{host}")
        add_leases(broker, held)
        after = []
        for number in range(4):
            _pairs(broker, f"round-{number}", pairs)
            _forget_ended(broker)
            # The journal is cut by whole nodes, now and then: its length is not the leases' doing.
            after.append(used(broker) - int(broker.redis.memory_usage(broker.keys.events, samples=0) or 0))
    return a_round(after) / pairs


def a_round(after: Sequence[int]) -> float:
    """What a round left, by what was in use after each."""
    return median(late - early for early, late in pairwise(after))


def as_it_fills(url: str, counts: tuple[int, ...]) -> list[tuple[int, float]]:
    """Bytes for each lease, of all those in a pool of 104 cards as more and more are held."""
    with pool(url, "fills") as broker:
        for host in range(13):
            publish(broker, f"host-{host}")
        add_leases(broker, 10, "few")
        before, there, found = used(broker), 0, []
        for count in counts:
            add_leases(broker, count - there, f"to-{count}")
            there = count
            found.append((count, (used(broker) - before) / count))
    return found


def _pairs(broker: Broker, name: str, count: int) -> None:
    for start in range(0, count, 500):
        some = [calls.ask(MIB, lease_id=f"{name}-{start + at}") for at in range(min(500, count - start))]
        give_back(broker, [(ask.id, int(reply[1])) for ask, reply in zip(some, many(broker, some), strict=True)])


def _forget_ended(broker: Broker) -> None:
    """What the server would do by itself within a minute."""
    names = list(broker.redis.scan_iter(match=f"{broker.keys.ended('')}*", count=1000))
    for start in range(0, len(names), 500):
        broker.redis.unlink(*names[start : start + 500])


def of_connections(url: str, count: int) -> Weight:
    """What the server keeps for a client that called a moment ago; of one that is long idle it keeps less."""
    with pool(url, "connected") as broker:
        used(broker)
        broker.reap()
        before = _in_use(broker)
        others = [Broker.from_url(url, pool="connected") for _ in range(count)]
        for other in others:
            other.reap()
        used(broker)  # until all is at rest
        after = _in_use(broker)
        for other in others:
            other.close()
    return Weight("connection", count, (after - before) / count, None)


def _in_use(broker: Broker) -> int:
    told: dict[str, Any] = broker.redis.info("memory")
    return int(told["used_memory"])


def wire(url: str, calls_: int) -> dict[str, tuple[float, float]]:
    """Bytes that a server gets, and sends, for each call."""
    with pool(url, "wire") as broker:
        for host in range(13):
            publish(broker, f"host-{host}")
        held = list[Any]()
        agent, reports = Publisher(broker, "host-0"), cards("host-0", CARDS_OF_A_HOST, talkative=True)
        verdicts = [LeaseVerdict(f"lease-{at}", 1 << 40, "alive", MIB, 0, 0) for at in range(LEASES_OF_A_HOST)]
        kinds: dict[str, Callable[[int], object]] = {
            "acquire": lambda at: held.append(broker.acquire(4 * GIB // calls_, lease_id=f"wire-{at}")),
            "renew": lambda at: broker.renew(held[at].id, held[at].token),
            "check": lambda at: broker.check(held[at].id, held[at].token),
            "release": lambda at: held[at].release(),
            SAMPLE: lambda _: agent.publish(reports, HOUR_MS, verdicts=verdicts),
        }
        found = {}
        for name, call in kinds.items():
            before = _carried(broker)
            nothing = [after - start for after, start in zip(_carried(broker), before, strict=True)]
            before = _carried(broker)
            for at in range(calls_):
                call(at)
            took = [after - start - idle for after, start, idle in zip(_carried(broker), before, nothing, strict=True)]
            found[name] = took[0] / calls_, took[1] / calls_
    return found


def _carried(broker: Broker) -> tuple[int, int]:
    told: dict[str, Any] = broker.redis.info("stats")
    return int(told["total_net_input_bytes"]), int(told["total_net_output_bytes"])


def each_kind(found: dict[str, Weight]) -> frame.Table:
    """A line for each kind."""
    return frame.Table(
        "Memory of one thing, bytes", ["thing", "weighed", "in use for each", "MEMORY USAGE of its own keys"],
        [[one.thing, one.count, one.used, one.own] for one in found.values()],
        "The difference between the two columns is its share of indexes and of the server's tables.",
    )  # fmt: skip


def planned(found: dict[str, Weight]) -> list[tuple[str, int, float]]:
    """The sum for a large pool: what, how many, and MiB of it."""
    counts = {
        "card": PLANNED["cards"], "history": PLANNED["cards"], "lease": PLANNED["leases"],
        "waiter": PLANNED["waiters"], "ended": PLANNED["ended a second"] * TOMBSTONE_SECONDS, "journal": JOURNAL,
        "tenant": 1000, "size": FUNCTIONS_MOST,
    }  # fmt: skip
    return [(found[kind].thing, count, found[kind].used * count / MIB) for kind, count in counts.items()]


def draw(found: frame.Found, figure: Figure) -> None:
    """What one thing takes, and what a large pool is made of."""
    each, whole = figure.subplots(1, 2)
    things = found.raw["weights"]
    names = [one["thing"] for one in things][::-1]
    values = [one["used"] for one in things][::-1]
    bars = each.barh(names, values, color="C0")
    each.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=8)
    each.set_xscale("log")
    each.set_xlim(right=max(values) * 6)
    each.set_xlabel("bytes each")
    each.set_title("in use for one more", fontsize=10)
    parts = sorted(found.raw["planned"], key=lambda part: part[2])
    bars = whole.barh([f"{part[1]:,} × {part[0]}" for part in parts], [part[2] for part in parts], color="C1")
    whole.bar_label(bars, [f"{part[2]:,.0f}" for part in parts], padding=3, fontsize=8)
    whole.set_xlim(right=max(part[2] for part in parts) * 1.2)
    whole.set_xlabel("MiB")
    whole.set_title(f"a pool of {PLANNED['cards']:,} cards, by these", fontsize=10)
    figure.set_size_inches(12, 4.5)
    figure.suptitle("What a pool takes in Redis")


@click.command()
@frame.options
def main(run: frame.Run) -> None:
    """Print what each thing takes."""
    count = 10_000 if run.long else 1000
    with EmbeddedServer() as server:
        found = weights(server.url, count) | {"connection": of_connections(server.url, 500)}
        behind = left_behind(server.url, count, 2 * count)
        filling = as_it_fills(server.url, (100, 1000, 10_000, 100_000) if run.long else (100, 1000, 10_000))
        bytes_of = wire(server.url, 500)
    sums = planned(found)
    total = sum(part[2] for part in sums)
    rows: list[list[frame.Cell]] = [[thing, number, mib] for thing, number, mib in sums]
    rows.append(["all", None, total])
    whole = frame.Table(
        f"A pool of {PLANNED['cards']:,} cards, by these figures (extrapolated), MiB", ["things", "how many", "MiB"],
        rows,
    )  # fmt: skip
    carried = frame.Table(
        "Bytes over the wire for one call", ["call", "to the server", "back"],
        [[name, sent, back] for name, (sent, back) in bytes_of.items()],
    )  # fmt: skip
    fills = frame.Table("A lease's bytes as a pool of 104 cards fills", ["leases", "bytes each"],
                        [[f"{held:,}", size] for held, size in filling])  # fmt: skip
    left = frame.Goal(f"bytes left by a lease taken and given back beside {count:,} held", behind, most=LEFT_MOST)
    run.tell(
        frame.Found(
            "memory", "Memory of a pool", __doc__.split("\n\n")[1], [each_kind(found), fills, whole, carried], [left],
            {
                "weights": [{"kind": kind, "thing": one.thing, "count": one.count, "used": one.used, "own": one.own}
                            for kind, one in found.items()],
                "planned": sums, "planned_mib": total, "left_behind": behind, "filling": filling, "wire": bytes_of,
            },
        ),
        draw,
    )  # fmt: skip


if __name__ == "__main__":
    main()
