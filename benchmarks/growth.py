"""How the cost of each operation grows with a pool: from 1 to 10,000 cards, to 100,000 leases, to 10,000 waiters.

Method: one embedded server, nothing persisted, one connection. One number grows at a time (leases and waiters in pools
of 100 cards); every pool is filled through the real scripts, all on the same server, and stays there. Then every
operation is called in every pool in turn, again and again, so that a spell in which the machine is slow falls on all
pools alike. An operation's cost is the server's own count of its time (``INFO commandstats``) as a multiple of that of
``return 1`` in the same round, the median of all pools there; the round trip is what the caller waits, in multiples of
that of ``return 1``. The median of the rounds counts.

Two curves are fitted to each operation by least squares, ``a + b · log2 n`` and ``a + b · n``; the one that misses the
points by less says how it grows, and it is flat where the rise over the whole range is below a fifth of the least cost
or below three times the noise of the rounds. A pool without any lease or waiter is shown, but no curve goes through it:
there the scripts take another way.

``python -m benchmarks.growth [--long]``: with ``--long`` to 100,000 leases, more points and more rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import click

from benchmarks import frame
from benchmarks.filled import Size, fill
from benchmarks.fit import Fit, Kind, fit
from benchmarks.operations import BARE, Operations
from broker import Broker
from broker.embedded import EmbeddedServer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Cards of the pools whose leases or waiters grow.
GROUND = 100
#: What is aimed at.
ACQUIRE_MOST = 1.4
NOTE = (
    "A decade: what ten times as many cost more, by a + b · log2 n. R²: of the curve that fits better, which says "
    "little where nothing grows."
)
#: What is allowed to grow with a number itself, since ``docs/scale.md`` says so.
DOCUMENTED = {
    ("status", "cards"): "reads every card",
    ("available", "cards"): "reads every card",
    ("status", "leases"): "reads every card, with the names of its leases",
    ("available", "leases"): "reads every card, with the names of its leases",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    cards: tuple[int, ...] = (1, 10, 100, 1000, 10_000)
    leases: tuple[int, ...] = (0, 10, 100, 1000, 10_000)
    waiters: tuple[int, ...] = (0, 10, 100, 1000, 10_000)
    rounds: int = 8
    calls: int = 30

    @property
    def dimensions(self) -> dict[str, dict[int, Size]]:
        """What grows, and the pools in which it does."""
        return {
            "cards": {n: Size(n, 0, 0) for n in self.cards},
            "leases": {n: Size(GROUND, n, 0) for n in self.leases},
            "waiters": {n: Size(GROUND, 0, n) for n in self.waiters},
        }


QUICK = Plan()
LONG = Plan(leases=(0, 10, 100, 1000, 10_000, 100_000), rounds=60)


@dataclass(slots=True)
class Seen:
    """What one operation cost in one pool, a figure a round: its server time and its round trip in multiples of those
    of ``return 1``, and the server's processor time for a call with all around it, in microseconds."""

    server: list[float] = field(default_factory=list)
    round_trip: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    @property
    def noise(self) -> float:
        """How far the median of the server's time may be off: by the rounds' median deviation from it."""
        middle = median(self.server)
        return float(1.86 * median(abs(one - middle) for one in self.server) / len(self.server) ** 0.5)


Costs = dict[Size, dict[str, Seen]]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured."""

    costs: Costs
    #: Seconds that it took to fill each pool.
    filling: dict[Size, float]
    #: Server time of ``return 1``, in microseconds: to turn multiples into times.
    bare_us: float


def measure(url: str, plan: Plan, progress: Callable[[], object] = lambda: None) -> Measured:
    """The cost of every operation in every pool."""
    sizes = list(dict.fromkeys(size for pools in plan.dimensions.values() for size in pools.values()))
    pools, filling = dict[Size, Operations](), dict[Size, float]()
    for at, size in enumerate(sizes):
        broker = Broker.from_url(url, pool=f"growth{at}")
        begun = time.monotonic()
        fill(broker, size)
        filling[size] = time.monotonic() - begun
        pools[size] = Operations(broker, size, plan.calls)
        progress()
    seen: Costs = {size: {} for size in sizes}
    bares = list[float]()
    for _ in range(plan.rounds):
        turns = {size: dict(operations.turn()) for size, operations in pools.items()}
        bare = [turn.pop(BARE) for turn in turns.values()]
        bare_us, bare_trip_us = median(one.mean_us for one in bare), median(one.round_trip_us for one in bare)
        for size, turn in turns.items():
            for name, cost in turn.items():
                one = seen[size].setdefault(name, Seen())
                one.server.append(cost.mean_us / bare_us)
                one.round_trip.append(cost.round_trip_us / bare_trip_us)
                one.cpu_us.append(cost.cpu_us)
        bares.append(bare_us)
        progress()
    for operations in pools.values():
        operations.meter.broker.close()
    return Measured(seen, filling, median(bares))


@dataclass(frozen=True, slots=True)
class Curve:
    """One operation as one number grows."""

    operation: str
    grows: str
    numbers: list[int]
    costs: list[float]
    round_trips: list[float]
    cpu_us: list[float]
    fit: Fit

    @property
    def growth(self) -> float:
        """Cost at the largest number as a multiple of that at the smallest that is not 0."""
        return self.costs[-1] / self.costs[self.numbers.index(min(n for n in self.numbers if n > 0))]

    @property
    def excused(self) -> str:
        """Why it may grow with the number itself; '' if it may not."""
        return DOCUMENTED.get((self.operation, self.grows), "")

    @property
    def too_fast(self) -> bool:
        """Whether it grows faster than the logarithm though nothing says that it does."""
        return self.fit.kind is Kind.LINEAR and not self.excused


def curves(seen: Costs, plan: Plan) -> list[Curve]:
    """A curve for each operation and each number that grows."""
    found = []
    for grows, pools in plan.dimensions.items():
        for operation in seen[max(pools.values(), key=lambda size: size.gpus)]:
            there = {n: seen[size][operation] for n, size in pools.items() if operation in seen[size]}
            costs = [median(one.server) for one in there.values()]
            trips = [median(one.round_trip) for one in there.values()]
            some = [at for at, n in enumerate(there) if n > 0]  # with none at all, another way is taken
            noise = median(one.noise for one in there.values())
            fitted = fit([list(there)[at] for at in some], [costs[at] for at in some], noise)
            cpu_us = [median(one.cpu_us) for one in there.values()]
            found.append(Curve(operation, grows, list(there), costs, trips, cpu_us, fitted))
    return found


def tables(found: list[Curve], plan: Plan) -> list[frame.Table]:
    """A table for each number that grows."""
    made = []
    for grows, pools in plan.dimensions.items():
        rows: list[list[frame.Cell]] = []
        for curve in (one for one in found if one.grows == grows):
            costs: list[frame.Cell] = [*[None] * (len(pools) - len(curve.costs)), *curve.costs]
            shape = f"{curve.fit.kind}, documented" if curve.excused else str(curve.fit.kind)
            better = curve.fit.better
            rows.append([curve.operation, *costs, shape, curve.fit.per_decade, better.r2, curve.growth])
        ground = "" if grows == "cards" else f" on {GROUND} cards"
        made.append(frame.Table(
            f"Server time with so many {grows}{ground}, × return 1",
            ["operation", *(f"{n:,}" for n in pools), "grows with", "a decade", "R²", "last ÷ first"], rows, NOTE,
        ))  # fmt: skip
    return made


def goals(found: list[Curve]) -> list[frame.Goal]:
    """What is aimed at."""
    acquire = next(one for one in found if (one.operation, one.grows) == ("acquire", "cards"))
    fast = [f"{one.operation} with {one.grows}" for one in found if one.too_fast]
    span = f"acquire on {acquire.numbers[-1]:,} cards, × on {acquire.numbers[0]}"
    return [
        frame.Goal(f"{span}: server time", acquire.growth, most=ACQUIRE_MOST),
        frame.Goal(f"{span}: round trip", acquire.round_trips[-1] / acquire.round_trips[0], most=ACQUIRE_MOST),
        frame.Goal(
            "operations that grow faster than O(log n) and do not say so", len(fast), most=0, why=", ".join(fast)
        ),
    ]  # fmt: skip


def draw(found: frame.Found, figure: Figure) -> None:
    """Cost by number, a picture for each number that grows."""
    told = found.raw["curves"]
    names = list(dict.fromkeys(one["operation"] for one in told))
    dimensions = list(dict.fromkeys(one["grows"] for one in told))
    figure.set_size_inches(13, 5.2)
    panels = figure.subplots(1, len(dimensions), sharey=True, squeeze=False)[0]
    for panel, grows in zip(panels, dimensions, strict=True):
        for one in (one for one in told if one["grows"] == grows):
            colour = f"C{names.index(one['operation']) % 10}"
            style = "--" if names.index(one["operation"]) >= 10 else "-"
            panel.plot(
                one["numbers"], one["costs"], style, marker="o", ms=3.5, lw=1.3, color=colour, label=one["operation"]
            )
        panel.set_xscale("symlog" if grows != "cards" else "log", **({"linthresh": 10} if grows != "cards" else {}))
        panel.set_yscale("log")
        panel.set_xlabel(grows)
        panel.set_title(f"{grows}" if grows == "cards" else f"{grows} on {GROUND} cards", fontsize=10)
        panel.grid(alpha=0.25, which="major")
    panels[0].set_ylabel("server time, × that of return 1")
    figure.suptitle("What an operation costs as its pool grows")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)


@click.command()
@frame.options
def main(run: frame.Run) -> None:
    """Print how each operation's cost grows."""
    plan = LONG if run.long else QUICK
    with EmbeddedServer() as server, run.progress() as progress:
        bar = progress.add_task("pools", total=None)
        measured = measure(server.url, plan, lambda: progress.advance(bar))
    found = curves(measured.costs, plan)
    run.tell(
        frame.Found(
            "growth", "How cost grows with a pool", __doc__.split("\n\n")[1], tables(found, plan), goals(found),
            {
                "rounds": plan.rounds, "calls": plan.calls,
                "curves": [
                    {
                        "operation": one.operation, "grows": one.grows, "numbers": one.numbers, "costs": one.costs,
                        "round_trips": one.round_trips, "cpu_us": one.cpu_us, "kind": one.fit.kind,
                        "per_decade": one.fit.per_decade,
                        "r2_log": one.fit.log.r2, "r2_linear": one.fit.linear.r2,
                    }
                    for one in found
                ],
                "filling_seconds": {str(size): round(seconds, 2) for size, seconds in measured.filling.items()},
                "return_1_us": measured.bare_us,
            },
        ),
        draw,
    )  # fmt: skip


if __name__ == "__main__":
    main()
