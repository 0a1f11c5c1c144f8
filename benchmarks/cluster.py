"""Many pools on a cluster of three masters against one master: pairs a second, and what each server does for them.

Method: a real cluster of three masters and one of a single master, on loopback, nothing persisted, both running all
the while. The same pools in each, of a hundred cards; each is in the slot of its name, so on one master, and as many
are on each of the three. Processes take and give back leases, each in a pool of its own, for a few seconds on one
cluster, then on the other, in turns; medians of the turns. "One after another" is a caller that waits for each reply.
"50 at a time" are 50 acquires in one pipeline and then their 50 releases: a client then takes little of the machine,
and the servers are what is busy.

All of it shares the cores of this machine: with as many masters as cores, or more, pairs a second are bound by the
cores and not by the number of masters. So each server's own processor time is read (``INFO cpu``), and pairs by the
time of the *busiest* master are what the cluster does where each master has a core of its own and clients enough. A
master with few clients has a turn of its event loop for each command and takes longer for a pair than one that finds
several waiting: that shows in "one after another", where each of three masters has a third of the clients.

``python -m benchmarks.cluster [--long]``
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median
from typing import TYPE_CHECKING

import click
import redis

from benchmarks import frame
from benchmarks.cluster_servers import HOST, ClusterServers
from benchmarks.filled import Size, fill
from broker import Broker, calls
from broker.ledger.keys import Keys
from broker.ledger.scripts import script
from broker.units import MIB

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MASTERS, CLIENTS, CARDS, BATCH = 3, 6, 100, 50
#: What is aimed at: pairs by the busiest master's processor time against those of one master, of 3 that are possible,
#: and the least share of all work that a master has, of a third that is possible.
SCALE_LEAST, SHARE_LEAST = 2.6, 0.28
WAYS = ("one after another", f"{BATCH} at a time")


@dataclass(frozen=True, slots=True)
class Turn:
    """What was done in one turn on one cluster."""

    pairs: int
    seconds: float
    #: Processor time of each master, in seconds.
    cpu: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Pairs a second."""
        return self.pairs / self.seconds

    @property
    def us_per_pair(self) -> float:
        """Microseconds of all masters' processor time for a pair."""
        return 1e6 * sum(self.cpu) / self.pairs

    @property
    def by_busiest(self) -> float:
        """Pairs for each second of the busiest master's processor time."""
        return self.pairs / max(self.cpu)

    @property
    def shares(self) -> list[float]:
        """Each master's share of all processor time, least first."""
        return sorted(one / sum(self.cpu) for one in self.cpu)


def one_by_one(url: str, port: int, pool: str, deadline: float) -> int:
    """Pairs of one caller until then, by the clock that all processes share."""
    pairs = 0
    with Broker.from_url(url, pool=pool) as broker:
        while time.monotonic() < deadline:
            broker.acquire(MIB).release()
            pairs += 1
    return pairs


def by_fifties(url: str, port: int, pool: str, deadline: float) -> int:
    """Pairs until then, in pipelines to the master that has the pool."""
    keys, take, give, pairs = Keys(pool).declared, script("acquire"), script("release"), 0
    with redis.Redis(host=HOST, port=port, decode_responses=True) as server:
        server.script_load(take.text)
        server.script_load(give.text)
        while time.monotonic() < deadline:
            some = [calls.ask(MIB, lease_id=f"c{os.getpid()}-{pairs + at}") for at in range(BATCH)]
            pipe = server.pipeline(transaction=False)
            for request in some:
                pipe.evalsha(take.sha, len(keys), *keys, *request.asking(False))
            granted = pipe.execute()
            for request, reply in zip(some, granted, strict=True):
                pipe.evalsha(give.sha, len(keys), *keys, request.id, reply[1])
            pipe.execute()
            pairs += BATCH
    return pairs


def client(url: str, port: int, pool: str, told: Connection) -> None:
    """A process that works whenever it is told how, and until when; it says how many pairs it did."""
    told.send("ready")
    while job := told.recv():
        way, deadline = job
        work: Callable[..., int] = one_by_one if way == WAYS[0] else by_fifties
        told.send(work(url, port, pool, deadline))


class Crowd:
    """A cluster with its pools, and a process for each of them."""

    def __init__(self, servers: ClusterServers, pools: Sequence[str], cards: int = CARDS) -> None:
        """Fill the pools and start the processes; returns when all are ready."""
        self.servers = servers
        context = get_context("spawn")
        self._ends, self._processes = list[Connection](), []
        for pool in pools:
            with Broker.from_url(servers.url, pool=pool) as broker:
                fill(broker, Size(cards, 0, 0))
            near, far = context.Pipe()
            process = context.Process(
                target=client, args=(servers.url, servers.master_of(pool).port, pool, far), daemon=True
            )
            process.start()
            far.close()
            self._ends.append(near)
            self._processes.append(process)
        for end in self._ends:
            end.recv()

    def work(self, way: str, seconds: float) -> Turn:
        """All processes at once, for so long."""
        before, begun = [master.cpu_seconds() for master in self.servers.masters], time.monotonic()
        for end in self._ends:
            end.send((way, begun + seconds))
        pairs = sum(end.recv() for end in self._ends)
        lasted = time.monotonic() - begun
        after = [master.cpu_seconds() for master in self.servers.masters]
        return Turn(pairs, lasted, tuple(late - early for late, early in zip(after, before, strict=True)))

    def close(self) -> None:
        """End the processes."""
        for end in self._ends:
            end.send(None)
        for process in self._processes:
            process.join()


def measure(
    masters: Sequence[int], clients: int, turns: int, seconds: float, cards: int = CARDS, ways: Sequence[str] = WAYS
) -> dict[str, dict[int, list[Turn]]]:
    """Turns on a cluster of each number of masters, by the way in which is asked."""
    clusters, crowds = list[ClusterServers](), dict[int, Crowd]()
    found: dict[str, dict[int, list[Turn]]] = {way: {number: [] for number in masters} for way in ways}
    try:
        for number in masters:
            clusters.append(ClusterServers(number).__enter__())
        # The names that are spread over most masters are used in all: the same pools everywhere.
        pools = max(clusters, key=lambda one: one.wanted).pools(clients)
        for number, cluster in zip(masters, clusters, strict=True):
            crowds[number] = Crowd(cluster, pools, cards)
        for way in ways:
            for crowd in crowds.values():
                crowd.work(way, seconds / 4)  # everything is loaded and connected
            for _ in range(turns):
                for number, crowd in crowds.items():
                    found[way][number].append(crowd.work(way, seconds))
    finally:
        for crowd in crowds.values():
            crowd.close()
        for cluster in clusters:
            cluster.__exit__()
    return found


def table(found: dict[str, dict[int, list[Turn]]]) -> frame.Table:
    """A line for each way and number of masters."""
    rows: list[list[frame.Cell]] = []
    for way, by_masters in found.items():
        for number, turns in by_masters.items():
            shares = [median(column) for column in zip(*(turn.shares for turn in turns), strict=True)]
            rows.append([
                f"{way}, {number} master{'s' if number > 1 else ''}",
                median(turn.rate for turn in turns),
                median(turn.us_per_pair for turn in turns),
                " ".join(f"{100 * share:.0f}" for share in shares),
                median(100 * max(turn.cpu) / turn.seconds for turn in turns),
                median(turn.by_busiest for turn in turns),
            ])  # fmt: skip
    return frame.Table(
        f"{CLIENTS} processes, each in a pool of {CARDS} cards, on {os.cpu_count()} cores",
        ["how", "pairs/s", "server µs a pair", "% of it, each master", "busiest, % of a core", "pairs by its second"],
        rows,
        f"All share {os.cpu_count()} cores: pairs/s say what this machine does. Pairs by a second of the busiest "
        "master's processor time say what the masters do once each has a core of its own and clients enough.",
    )  # fmt: skip


def goals(found: dict[str, dict[int, list[Turn]]]) -> list[frame.Goal]:
    """Whether three masters do three times as much, and each its part."""
    made = []
    for way, by_masters in found.items():
        one, most = by_masters[1], by_masters[MASTERS]
        scale = median(b.by_busiest / a.by_busiest for a, b in zip(one, most, strict=True))
        least = median(turn.shares[0] for turn in most)
        made += [
            frame.Goal(
                f"{way}: pairs by the busiest master's time, {MASTERS} masters × 1", scale, least=SCALE_LEAST,
                why="a master with a third of the clients finds fewer commands waiting in each turn of its loop",
            ),
            frame.Goal(f"{way}: least share of the work that one of {MASTERS} has", least, least=SHARE_LEAST),
        ]  # fmt: skip
    return made


def draw(found: frame.Found, figure: Figure) -> None:
    """What the machine did, and what the masters' time says."""
    wall, work = figure.subplots(1, 2)
    figure.set_size_inches(11, 4.2)
    for panel, key, title in (
        (wall, "rate", f"pairs/s on these {os.cpu_count()} cores, clients included"),
        (work, "by_busiest", "pairs for each second of the busiest master's time"),
    ):
        names, values, colours = [], [], []
        for at, (way, by_masters) in enumerate(found.raw["seen"].items()):
            for number, one in by_masters.items():
                names.append(f"{way}\n{number} master{'s' if int(number) > 1 else ''}")
                values.append(one[key])
                colours.append(f"C{at}")
        bars = panel.barh(names[::-1], values[::-1], color=colours[::-1])
        panel.bar_label(bars, [f"{value:,.0f}" for value in values[::-1]], padding=3, fontsize=8)
        panel.set_xlim(right=max(values) * 1.2)
        panel.set_title(title, fontsize=10)
    figure.suptitle("Pools spread over the masters of a cluster")


@click.command()
@frame.options
def main(run: frame.Run) -> None:
    """Print pairs a second and each master's work."""
    turns, seconds = (15, 5.0) if run.long else (4, 1.5)
    found = measure((1, MASTERS), CLIENTS, turns, seconds)
    seen = {
        way: {
            str(number): {
                "rate": median(turn.rate for turn in turns_), "by_busiest": median(turn.by_busiest for turn in turns_),
                "us_per_pair": median(turn.us_per_pair for turn in turns_), "turns": [asdict(turn) for turn in turns_],
            }
            for number, turns_ in by_masters.items()
        }
        for way, by_masters in found.items()
    }  # fmt: skip
    told = {"clients": CLIENTS, "cards": CARDS, "seen": seen}
    title, method = "Many pools on a cluster", __doc__.split("\n\n")[1]
    run.tell(frame.Found("cluster", title, method, [table(found)], goals(found), told), draw)


if __name__ == "__main__":
    main()
