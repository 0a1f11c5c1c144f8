"""What a fleet of cards asks of its Redis servers, reckoned from what the other benchmarks measured here.

Method: no measurement. ``growth.json`` and ``memory.json`` are read from ``--out``, where those benchmarks wrote them,
and the formulas of ``docs/scale.md`` are applied to the numbers of the fleet, which are options. A call costs a master
the processor time that the server took for it in the largest pool measured, with the reading, the reply and all else
around its script. Everything is an extrapolation of figures of one machine.

``python -m benchmarks.scale [--cards N] [--lease-seconds S] ...``
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks import frame
from benchmarks.filled import CARDS_OF_A_HOST
from benchmarks.memory import JOURNAL, TOMBSTONE_SECONDS
from benchmarks.memory import SAMPLE as WIRED_SAMPLE
from benchmarks.operations import PUBLISH_LEASES
from broker.units import GIB, MIB

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: What an agent sends: its cards, and a word on two leases of each.
SAMPLE = "sample"


@dataclass(frozen=True, slots=True)
class Fleet:
    """What there is, and what it does."""

    cards: int = 100_000
    leases_a_card: float = 2.0
    #: How long a job holds its lease.
    lease_seconds: float = 100.0
    #: Between two renewals of a lease: a third of its TTL.
    renew_seconds: float = 10.0
    #: Between two samples of a host of eight cards.
    sample_seconds: float = 3.0
    waiters: int = 10_000
    #: Between two signs of life of a waiter.
    beat_seconds: float = 3.0
    #: Share of a core that a master may be busy: the rest is for bursts, and for the pools of a neighbour that died.
    busy: float = 0.5

    #: To a master, of each lease: the process that renews it, and the worker's own.
    connections_a_lease: float = 2.0

    @property
    def connections(self) -> float:
        """Of all agents, leases and waiters."""
        return self.cards / CARDS_OF_A_HOST + self.leases * self.connections_a_lease + self.waiters

    @property
    def leases(self) -> float:
        """Leases that are held."""
        return self.cards * self.leases_a_card

    def rates(self) -> dict[str, float]:
        """Calls a second, by operation."""
        started = self.leases / self.lease_seconds
        return {
            SAMPLE: self.cards / CARDS_OF_A_HOST / self.sample_seconds,
            "renew": self.leases / self.renew_seconds,
            "acquire": started,
            "check": started,
            "release": started,
            "queued acquire": self.waiters / self.beat_seconds,
        }


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured."""

    #: Microseconds of a server's processor for a call, by operation.
    call_us: dict[str, float]
    #: Bytes of memory, by kind of thing.
    memory: dict[str, float]
    #: Bytes to a server for each call, by name.
    wire: dict[str, float]


def figures(growth: dict[str, Any], memory: dict[str, Any]) -> Figures:
    """The figures of two benchmarks' JSON."""
    call_us = {one["operation"]: one["cpu_us"][-1] for one in growth["raw"]["curves"] if one["grows"] == "cards"}
    call_us[SAMPLE] = call_us[PUBLISH_LEASES]
    weights = {one["kind"]: one["used"] for one in memory["raw"]["weights"]}
    wire = {name: sent for name, (sent, _) in memory["raw"]["wire"].items()}
    return Figures(call_us, weights, wire)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the fleet asks for."""

    #: Cores of masters, by operation.
    cores: dict[str, float]
    #: Bytes in all masters together, by kind of thing.
    memory: dict[str, float]
    #: Bytes a second to all masters together, by operation.
    carried: dict[str, float]
    masters: int

    @property
    def busy(self) -> float:
        """Cores in all."""
        return sum(self.cores.values())


def planned(fleet: Fleet, seen: Figures) -> Plan:
    """The formulas of ``docs/scale.md``."""
    rates = fleet.rates()
    cores = {operation: rate * seen.call_us[operation] / 1e6 for operation, rate in rates.items()}
    masters = max(1, math.ceil(sum(cores.values()) / fleet.busy))
    named = {SAMPLE: WIRED_SAMPLE, "queued acquire": "acquire"}
    counts = {
        "card": fleet.cards, "history": fleet.cards, "lease": fleet.leases, "waiter": fleet.waiters,
        "ended": rates["release"] * TOMBSTONE_SECONDS, "journal": JOURNAL * masters,
        "connection": fleet.connections,
    }  # fmt: skip
    return Plan(
        cores,
        {kind: count * seen.memory[kind] for kind, count in counts.items()},
        {operation: rate * seen.wire[named.get(operation, operation)] for operation, rate in rates.items()},
        masters,
    )


def tables(fleet: Fleet, seen: Figures, plan: Plan) -> list[frame.Table]:
    """Calls, and what they come to."""
    rates = fleet.rates()
    calls: list[list[frame.Cell]] = [
        [operation, rate, seen.call_us[operation], plan.cores[operation], plan.carried[operation] / MIB]
        for operation, rate in rates.items()
    ]  # fmt: skip
    calls.append(["all", sum(rates.values()), None, plan.busy, sum(plan.carried.values()) / MIB])
    whole = sum(plan.memory.values())
    sums: list[list[frame.Cell]] = [
        ["masters", plan.masters],
        ["cards of a master, and of its pools together", math.ceil(fleet.cards / plan.masters)],
        ["memory of all, GiB", whole / GIB],
        ["memory of a master, MiB", whole / plan.masters / MIB],
        ["connections of a master", math.ceil(fleet.connections / plan.masters)],
        ["to a master, MiB a second", sum(plan.carried.values()) / plan.masters / MIB],
    ]
    return [
        frame.Table(
            f"{fleet.cards:,} cards, {fleet.leases:,.0f} leases, {fleet.waiters:,} waiters",
            ["call", "a second", "server µs each", "cores", "MiB/s to servers"], calls,
        ),
        frame.Table(f"Masters that are busy for {100 * fleet.busy:g} % of a core", ["what", "how much"], sums),
    ]  # fmt: skip


def draw(found: frame.Found, figure: Figure) -> None:
    """What takes the masters' time, and their memory."""
    panels = figure.subplots(1, 2)
    figure.set_size_inches(11, 4)
    for panel, key, unit in ((panels[0], "cores", "cores"), (panels[1], "memory_gib", "GiB")):
        parts = sorted(found.raw[key].items(), key=lambda part: float(part[1]))
        bars = panel.barh([name for name, _ in parts], [value for _, value in parts])
        panel.bar_label(bars, [f"{value:.2f}" for _, value in parts], padding=3, fontsize=8)
        panel.set_xlim(right=1.2 * float(parts[-1][1]))
        panel.set_xlabel(f"{unit}, all masters together")
    figure.suptitle(found.title)


def read(folder: Path) -> Figures:
    """The figures in a folder.

    Raises:
        click.UsageError: a benchmark did not write there yet.
    """
    told = []
    for name in ("growth", "memory"):
        path = folder / f"{name}.json"
        if not path.exists():
            raise click.UsageError(f"{path} is not there yet: python -m benchmarks.{name} --out {folder}")
        told.append(json.loads(path.read_text()))
    return figures(*told)


@click.command()
@click.option("--cards", default=100_000, show_default=True)
@click.option("--leases-a-card", default=2.0, show_default=True, help="Held at a time.")
@click.option("--lease-seconds", default=100.0, show_default=True, help="How long a job holds its lease.")
@click.option("--renew-seconds", default=10.0, show_default=True, help="Between renewals: a third of the TTL.")
@click.option("--sample-seconds", default=3.0, show_default=True, help="monitor_interval.")
@click.option("--waiters", default=10_000, show_default=True)
@click.option("--busy", default=0.5, show_default=True, help="Share of a core that a master may be busy.")
@frame.options
def main(
    run: frame.Run, cards: int, leases_a_card: float, lease_seconds: float, renew_seconds: float,
    sample_seconds: float, waiters: int, busy: float,
) -> None:  # fmt: skip
    """Print how many masters a fleet needs."""
    seen = read(run.out)
    fleet = Fleet(cards, leases_a_card, lease_seconds, renew_seconds, sample_seconds, waiters, busy=busy)
    plan = planned(fleet, seen)
    raw = {
        "cores": plan.cores, "memory_gib": {kind: size / GIB for kind, size in plan.memory.items()},
        "carried": plan.carried, "masters": plan.masters,
    }  # fmt: skip
    title, method = f"What {cards:,} cards ask of their servers (extrapolated)", __doc__.split("\n\n")[1]
    run.tell(frame.Found("scale", title, method, tables(fleet, seen, plan), [], raw), draw)


if __name__ == "__main__":
    main()
