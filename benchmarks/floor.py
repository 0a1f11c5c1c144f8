"""The ledger against the floor: a bare ``EVALSHA`` of ``return 1`` on the same connection of the same server.

Method: one embedded server without persistence (but for the last but one part), a pool of one card of 80 GiB.

- *A round trip*, as its caller waits: ``return 1``, ``acquire`` and ``release`` are called in turn, so that a machine
  that slows down slows all; medians and their ratios. Where the time goes is told by the same bytes sent in other ways
  in the same turns: ``return 1`` with all the keys and arguments of the call by redis-py and by a socket alone, and the
  call itself by redis-py. *Our client* is the call less that of redis-py; *redis-py* what it takes more than a socket;
  *socket* a bare script's round trip less its server time: two passes through the kernel, two switches of process, and
  what the server does around a script.
- *Server time* of every script: the mean from ``INFO commandstats`` between two ``CONFIG RESETSTAT``, the p99.9 from
  the server's own histogram, whose buckets double: the figure is a bucket's upper end. Each beside a ``return 1`` of
  its own. Scripts that cannot be called again and again (a card can be drained but once) are called fewer times, each
  alone: the server is colder then. Commands inside are counted by ``MONITOR`` (``benchmarks/counts.py``).
- *Pairs* of acquire and release by 1, 8 and 64 clients, as sockets served by at most two processes
  (``benchmarks/load.py``), beside pairs of ``return 1`` that carry as much; and the processor time of both sides.
- *Append-only file*: the same with the file off, synced every second, and synced before each answer; on this machine's
  disk, in turn.
- *Hand-over*: from the call of ``release`` to the return of the waiter's ``acquire``, which sleeps in another process,
  alone in the queue and beside 1,000 others; in round trips of ``return 1`` asked before each.

``python -m benchmarks.floor [--long] [--json] [--out DIR]``
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from benchmarks import callers_time, every_script, frame, hand_over, load
from benchmarks.callers_time import Spent
from benchmarks.counts import Counter
from benchmarks.every_script import Cost
from benchmarks.filled import Size, fill
from benchmarks.hand_over import HandOver
from benchmarks.load import Load
from broker import Broker
from broker.embedded import EmbeddedServer
from broker.ledger import scripts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACQUIRE_MOST, RELEASE_MOST = 1.25, 1.15
ACQUIRE_SERVER_MOST, RELEASE_SERVER_MOST, HAND_OVER_MOST = 10.0, 8.0, 2.5
CLIENTS, CLIENTS_ON_DISK = (1, 8, 64), (1, 8)
#: What the server does with its append-only file: Redis's own words.
FILES = ("off", "everysec", "always")


@dataclass(frozen=True, slots=True)
class Much:
    """How much of everything."""

    turns: int
    calls: int
    seconds: float
    rounds: int
    hand_overs: int


QUICK, LONG = Much(2000, 600, 1.0, 2, 60), Much(10_000, 3000, 5.0, 5, 300)


@contextmanager
def pool(server: EmbeddedServer) -> Iterator[Broker]:
    """An empty server's pool of one card."""
    with Broker.from_url(server.url, pool="floor") as broker:
        broker.redis.flushall()
        for name in scripts.names():
            broker.redis.script_load(scripts.script(name).text)
        fill(broker, Size(1, 0, 0))
        yield broker


def loads(broker: Broker, much: Much) -> list[tuple[Load, Load]]:
    """For each number of clients the median run of pairs, and that of bare ones, called in turn."""
    found = []
    for clients in CLIENTS:
        runs: dict[bool, list[Load]] = {False: [], True: []}
        for _ in range(much.rounds):
            for bare in (True, False):
                runs[bare].append(load.measured(broker, clients, much.seconds, bare=bare))
        found.append((_middle(runs[False]), _middle(runs[True])))
    return found


def _middle(runs: list[Load]) -> Load:
    return sorted(runs, key=lambda one: one.pairs_per_second)[len(runs) // 2]


def on_disk(much: Much) -> list[tuple[str, Load]]:
    """For each way to keep the append-only file, and number of clients, the median run; the ways in turn."""
    runs: dict[tuple[str, int], list[Load]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-floor-") as folder, ExitStack() as stack:
        brokers = {}
        for how in FILES:
            server = stack.enter_context(EmbeddedServer(f"{folder}/{how}", persist=how != "off"))
            brokers[how] = stack.enter_context(pool(server))
            if how != "off":
                brokers[how].redis.config_set("appendfsync", how)
        for _ in range(much.rounds):
            for clients in CLIENTS_ON_DISK:
                for how, broker in brokers.items():
                    runs.setdefault((how, clients), []).append(load.measured(broker, clients, much.seconds))
    return [(how, _middle(runs[how, clients])) for clients in CLIENTS_ON_DISK for how in FILES]


@click.command()
@frame.options
def main(run: frame.Run) -> None:
    """Measure, and print what was seen beside what is aimed at."""
    much = LONG if run.long else QUICK
    with run.progress() as progress, EmbeddedServer() as server:
        bar = progress.add_task("round trips", total=5)
        with pool(server) as broker:
            spent = callers_time.measured(broker, much.turns)
        progress.update(bar, advance=1, description="every script")
        with pool(server) as broker, Counter(server.url, broker.keys) as counter:
            judged = every_script.judged(broker, much.calls)
            command_us = every_script.of_a_command(broker, much.calls)
            costs = every_script.measured(broker, counter, much.calls)
        progress.update(bar, advance=1, description="pairs")
        with pool(server) as broker:
            pairs = loads(broker, much)
        progress.update(bar, advance=1, description="append-only file")
        disk = on_disk(much)
        progress.update(bar, advance=1, description="hand-over")
        hands = [hand_over.measured(server.url, others, much.hand_overs) for others in (0, 1000)]
    run.tell(found(spent, judged, command_us, costs, pairs, disk, hands), draw, (12, 9))


def found(
    spent: list[Spent], judged: dict[str, float], command_us: float, costs: list[Cost],
    pairs: list[tuple[Load, Load]], disk: list[tuple[str, Load]], hands: list[HandOver],
) -> frame.Found:  # fmt: skip
    """All of it as tables, goals and raw figures."""
    return frame.Found(
        "floor", "Against the floor: a bare EVALSHA", __doc__ or "",
        [_trips(spent), _where(spent), _scripts(costs, command_us), _pairs(pairs), _disk(disk), _hands(hands)],
        _goals({one.name: one for one in spent}, judged, {one.name: one for one in costs}, command_us, hands),
        {
            "spent": [asdict(one) for one in spent], "judged": judged,
            "command_us": command_us, "scripts": [asdict(one) for one in costs],
            "pairs": [{"pairs": asdict(ours), "bare": asdict(bare)} for ours, bare in pairs],
            "disk": [{"file": how, **asdict(one)} for how, one in disk], "hand_over": [asdict(one) for one in hands],
        },
    )  # fmt: skip


def _goals(
    spent: dict[str, Spent], judged: dict[str, float], costs: dict[str, Cost], command_us: float, hands: list[HandOver],
) -> list[frame.Goal]:  # fmt: skip
    goals = [
        frame.Goal(f"{name}, × a bare EVALSHA's round trip", spent[name].ratio, most, why=_why(spent[name], most))
        for name, most in (("acquire", ACQUIRE_MOST), ("release", RELEASE_MOST))
    ]
    goals += [
        frame.Goal(f"server time of {name}, × `return 1`", judged[name], most, why=_why_slow(costs, name, command_us))
        for name, most in (("acquire", ACQUIRE_SERVER_MOST), ("release", RELEASE_SERVER_MOST))
    ]
    return goals + [
        frame.Goal(
            f"hand-over beside {one.others:,} others, round trips",
            one.round_trips,
            HAND_OVER_MOST,
            why=(
                f"{one.hand_over_us:.0f} µs hold two scripts, one of which serves, and the wake of a process that slept"
            ),
        )
        for one in hands
    ]


def _why(one: Spent, most: float) -> str:
    """The largest of what a call takes beyond a bare one."""
    beyond = {
        "our client": one.client_us,
        "what it carries": one.carrying_us - one.bare_us,
        "the script": one.script_us,
    }
    part = max(beyond, key=lambda name: beyond[name])
    return f"{one.whole_us - most * one.bare_us:.0f} µs too long; {part} alone takes {beyond[part]:.0f} µs"


def _why_slow(costs: dict[str, Cost], name: str, command_us: float) -> str:
    """What the commands inside would take alone, were each as cheap as the cheapest."""
    alone = costs[name].inside * command_us / costs["return 1"].mean_us
    inside = f"{alone:.1f} × are its {costs[name].inside} commands at the price of the cheapest"
    return f"{inside}; the rest is what they do beyond that, and Lua"


def _trips(spent: list[Spent]) -> frame.Table:
    rows: list[list[frame.Cell]] = [
        [one.name, one.whole_us, one.ratio, one.carrying_us, one.whole_us / one.carrying_us] for one in spent
    ]
    return frame.Table(
        "A round trip, as its caller waits",
        ["call", "median µs", "× bare", "`return 1` that carries as much, µs", "× that"], rows,
    )  # fmt: skip


def _where(spent: list[Spent]) -> frame.Table:
    rows: list[list[frame.Cell]] = []
    for one in spent:
        parts = (one.client_us, one.redis_py_us, one.socket_us, one.script_us)
        rows.append([one.name, one.whole_us, *parts, one.whole_us - sum(parts)])
    return frame.Table(
        "Where a caller's time goes, µs",
        ["call", "whole", "our client", "redis-py", "socket", "script on the server", "not explained"], rows,
        "Parts are differences of medians; what they do not add up to is told last.",
    )  # fmt: skip


def _scripts(costs: list[Cost], command_us: float) -> frame.Table:
    rows: list[list[frame.Cell]] = [
        [one.name, f"{one.script}.lua" if one.script else "", one.mean_us, one.ratio, one.tail_us, one.inside]
        for one in costs
    ]
    return frame.Table(
        "Server time of every script, one card",
        ["call", "script", "mean µs", "× return 1", "p99.9 ≤ µs", "commands inside"], rows,
        f"One of the cheapest commands (HGET), called from Lua in a loop, takes the server {command_us:.2f} µs. "
        "Ratios are to a `return 1` just before each row; those that are aimed at are medians of many turns.",
    )  # fmt: skip


def _pairs(pairs: list[tuple[Load, Load]]) -> frame.Table:
    rows: list[list[frame.Cell]] = [
        [str(ours.clients), round(ours.pairs_per_second), ours.pair_us, round(bare.pairs_per_second),
         bare.pairs_per_second / ours.pairs_per_second, 100 * ours.server_core, 100 * ours.clients_core, ours.bound_by]
        for ours, bare in pairs
    ]  # fmt: skip
    return frame.Table(
        "Pairs of acquire and release by many clients",
        ["clients", "pairs/s", "median µs of a pair", "bare pairs/s", "× fewer", "server, % of a core",
         "clients, % of a core", "bound by"], rows,
    )  # fmt: skip


def _disk(disk: list[tuple[str, Load]]) -> frame.Table:
    without = {one.clients: one.pairs_per_second for how, one in disk if how == "off"}
    rows: list[list[frame.Cell]] = [
        [f"{how}, {one.clients} client{'s' * (one.clients > 1)}", round(one.pairs_per_second), one.pair_us,
         one.pairs_per_second / without[one.clients]]
        for how, one in disk
    ]  # fmt: skip
    return frame.Table(
        "The append-only file", ["file", "pairs/s", "median µs of a pair", "of pairs/s without it"], rows,
        "`always` syncs before each answer, once for all clients that wait: its price is the disk's.",
    )  # fmt: skip


def _hands(hands: list[HandOver]) -> frame.Table:
    rows: list[list[frame.Cell]] = [
        [f"{one.others:,}", one.hand_over_us, one.round_trip_us, one.round_trips] for one in hands
    ]
    return frame.Table("A hand-over", ["others in the queue", "median µs", "a round trip, µs", "round trips"], rows)


def draw(told: frame.Found, figure: Figure) -> None:
    """Where a caller's time goes, every script's time, pairs by clients, and the file."""
    (trips, scripts), (pairs, disk) = figure.subplots(2, 2, width_ratios=[1, 1.2])
    _draw_spent(trips, told.raw["spent"])
    _draw_scripts(scripts, told.raw["scripts"])
    clients = [str(one["pairs"]["clients"]) for one in told.raw["pairs"]]
    for name, words, shift in (("bare", "`return 1` twice", -0.2), ("pairs", "acquire and release", 0.2)):
        heights = [one[name]["pairs_per_second"] for one in told.raw["pairs"]]
        bars = pairs.bar([at + shift for at in range(len(clients))], heights, 0.4, label=words)
        pairs.bar_label(bars, fmt="{:,.0f}", fontsize=7)
    pairs.set_xticks(range(len(clients)), clients)
    pairs.set(xlabel="clients", title="pairs a second")
    pairs.legend(fontsize=8)
    for at, how in enumerate(FILES):
        those = [one for one in told.raw["disk"] if one["file"] == how]
        places = [place + (at - 1) * 0.27 for place in range(len(those))]
        bars = disk.bar(places, [one["pairs_per_second"] for one in those], 0.27, label=how)
        disk.bar_label(bars, fmt="{:,.0f}", fontsize=7)
    disk.set_xticks(range(len(CLIENTS_ON_DISK)), [f"{count} client{'s' * (count > 1)}" for count in CLIENTS_ON_DISK])
    disk.set(title="pairs a second, by append-only file")
    disk.legend(fontsize=8)


def _draw_spent(chart: Any, spent: list[dict[str, Any]]) -> None:
    names, left = [one["name"] for one in spent], [0.0] * len(spent)
    for part, words in (("client_us", "our client"), ("redis_py_us", "redis-py"), ("socket_us", "socket"),
                        ("script_us", "script")):  # fmt: skip
        widths = [max(0.0, one[part]) for one in spent]
        chart.barh(names, widths, left=left, label=words)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for most, name in ((ACQUIRE_MOST, "acquire"), (RELEASE_MOST, "release")):
        at = names.index(name)
        chart.plot([most * spent[at]["bare_us"]] * 2, [at - 0.45, at + 0.45], color="black", linewidth=2)
    chart.set(title="where a caller's time goes, µs; black: the aim", xlabel="µs")
    chart.legend(fontsize=8)


def _draw_scripts(chart: Any, costs: list[dict[str, Any]]) -> None:
    costs = sorted(costs, key=lambda one: one["ratio"])
    chart.barh([one["name"] for one in costs], [one["ratio"] for one in costs], color="#4878a8")
    for at, one in enumerate(costs):
        chart.text(one["ratio"], at, f" {one['mean_us']:.0f} µs, {one['inside']}", va="center", fontsize=6)
    most = max(3 * median(one["ratio"] for one in costs), costs[-1]["ratio"])
    chart.set(title="server time, × `return 1`; µs, commands inside", xlim=(0, 1.2 * most))
    chart.tick_params(axis="y", labelsize=6)


if __name__ == "__main__":
    main()
