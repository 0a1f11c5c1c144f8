"""What ``memory="auto"`` wastes and how often it is too little, beside other rules, over made-up workloads.

Ours is the real ledger's, the others are a few lines here. An attempt that has less than it needs is repeated
with half as much again. For each rule: attempts for each job, and bytes asked for each byte needed, with
those of attempts in vain.

``python -m benchmarks.right_size [--seed N] [--long] [--json] [--out DIR]``
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING

import click

from benchmarks import frame
from broker import Broker
from broker.embedded import EmbeddedServer
from broker.units import GIB, MIB

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARD, DEFAULT = 24 * GIB, 4 * GIB
JOBS = 1000


@dataclass(frozen=True, slots=True)
class Run:
    """One job: the size of its input, what it needs, and what an agent sees of that."""

    size: float
    need: int
    seen: int


Workload = Iterator[Run]


def _run(rng: random.Random, size: float, gib: float, noise: float = 0.03, seen: float = 1.0) -> Run:
    need = max(64 * MIB, min(CARD, round(gib * GIB * rng.gauss(1, noise))))
    return Run(size, need, round(need * seen))


def alike(rng: random.Random) -> Workload:
    """Photos of one camera: 2 GiB each, within a few percent."""
    return (_run(rng, 24, 2) for _ in range(JOBS))


def of_all_sizes(rng: random.Random) -> Workload:
    """From 6 to 100 megapixels: 0.6 GiB and 50 MiB a megapixel."""
    return (_run(rng, size, 0.6 + size / 20) for size in (6 * 2 ** rng.uniform(0, 4) for _ in range(JOBS)))


def with_peaks(rng: random.Random) -> Workload:
    """Every twentieth needs twice as much, as no size tells."""
    return (_run(rng, 24, 4 if rng.random() < 0.05 else 2) for _ in range(JOBS))


def badly_seen(rng: random.Random) -> Workload:
    """Agents see but two thirds of a peak that is short."""
    return (_run(rng, 24, 3, seen=0.66) for _ in range(JOBS))


def growing(rng: random.Random) -> Workload:
    """A model that grows threefold, from week to week."""
    return (_run(rng, 24, 2 + 4 * number / JOBS) for number in range(JOBS))


WORKLOADS = (alike, of_all_sizes, with_peaks, badly_seen, growing)


@dataclass
class Fixed:
    """What its author stated, for ever."""

    peaks: list[int] = field(default_factory=list)

    def ask(self, size: float) -> int:
        return DEFAULT

    def ended(self, run: Run, asked: int) -> None:
        self.peaks.append(run.seen)

    def failed(self, run: Run, asked: int) -> None:
        """Learn nothing of it."""


class Largest(Fixed):
    """The largest that was ever seen."""

    def ask(self, size: float) -> int:
        return max(self.peaks, default=DEFAULT)


class Percentile(Fixed):
    """The 90th percentile of the last hundred, and 15 %; a failure counts as a peak of a fifth more."""

    def ask(self, size: float) -> int:
        last = sorted(self.peaks[-100:])
        return round(last[int(0.9 * len(last))] * 1.15) if last else DEFAULT

    def failed(self, run: Run, asked: int) -> None:
        self.peaks.append(round(asked * 1.2))


class Decaying(Fixed):
    """A maximum that falls by a sixteenth of the difference with each run, and 10 %."""

    def ask(self, size: float) -> int:
        top = 0.0
        for peak in self.peaks[-200:]:
            top = max(peak, top - (top - peak) / 16)
        return round(top * 1.1) if self.peaks else DEFAULT


class Ours(Fixed):
    """The ledger's."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker, self._name, self._number = broker, name, 0

    def ask(self, size: float) -> int:
        return self._broker.right_size(self._name, DEFAULT, size=size).asked_bytes

    def ended(self, run: Run, asked: int) -> None:
        self._told(run, asked, run.seen)

    def failed(self, run: Run, asked: int) -> None:
        self._told(run, asked, None)

    def _told(self, run: Run, asked: int, peak: int | None) -> None:
        self._number += 1
        name = f"run-{self._number}"
        self._broker.learn(self._name, name, asked, size=run.size, peak_bytes=peak, default=DEFAULT)


def measured(rule: Fixed, workload: Workload) -> tuple[float, float]:
    """Attempts for each job, and bytes asked for each byte needed."""
    attempts = asked_in_all = needed = 0
    for run in workload:
        asked = min(CARD, rule.ask(run.size))
        while True:
            attempts, asked_in_all = attempts + 1, asked_in_all + asked
            if asked >= run.need:
                break
            rule.failed(run, asked)
            asked = min(CARD, max(round(asked * 1.5), rule.ask(run.size)))
        rule.ended(run, asked)
        needed += run.need
    return attempts / JOBS, asked_in_all / needed


@click.command()
@click.option("--seed", default=1, show_default=True, help="Of the made-up workloads.")
@frame.options
def main(run: frame.Run, seed: int) -> None:
    """Attempts and waste of each rule on each workload; ``--long`` with the mean of five seeds."""
    seeds = range(seed, seed + (5 if run.long else 1))
    seen: dict[str, dict[str, tuple[float, float]]] = {}
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker, run.progress() as progress:
        for workload in progress.track(WORKLOADS, description="right sizes"):
            found: dict[str, list[tuple[float, float]]] = {}
            for one in seeds:
                for rule in (Fixed(), Largest(), Percentile(), Decaying(), Ours(broker, f"{workload.__name__}-{one}")):
                    told = measured(rule, workload(random.Random(one)))
                    found.setdefault(type(rule).__name__, []).append(told)
            seen[workload.__name__] = {
                rule: (mean(a for a, _ in those), mean(b for _, b in those)) for rule, those in found.items()
            }
    run.tell(_found(seen), draw)


def _found(seen: dict[str, dict[str, tuple[float, float]]]) -> frame.Found:
    """All of it as a table for each workload, and raw figures."""
    tables = []
    for workload in WORKLOADS:
        rows: list[list[frame.Cell]] = [[rule, *told] for rule, told in seen[workload.__name__].items()]
        title = f"{workload.__name__.replace('_', ' ')}: {(workload.__doc__ or '').rstrip('.')}"
        tables.append(frame.Table(title, ["rule", "attempts a job", "bytes asked a byte needed"], rows))
    return frame.Found(
        "right_size", "Right size by itself, beside other rules", __doc__ or "", tables, raw={"seen": seen}
    )


def draw(told: frame.Found, figure: Figure) -> None:
    """Waste against attempts, a chart for each workload: the lower left corner is best."""
    seen = told.raw["seen"]
    for chart, (workload, rules) in zip(figure.subplots(1, len(seen), sharey=True), seen.items(), strict=True):
        for rule, (attempts, asked) in rules.items():
            chart.plot([attempts], [asked], "*" if rule == "Ours" else "o", markersize=9, label=rule)
        chart.set(title=workload.replace("_", " "), xlabel="attempts a job")
        chart.margins(0.15)
    figure.axes[0].set_ylabel("bytes asked a byte needed")
    figure.axes[0].legend(fontsize=8)


if __name__ == "__main__":
    main()
