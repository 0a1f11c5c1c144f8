"""How much of a production pool's GPUs the placements lend, beside what was published of others' on the same trace.

The trace is that of the ATC'23 paper "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation
Gradient Descent": 1,213 hosts with 6,212 GPUs, 8,152 tasks that want a part of a GPU, one, or several, and processors
and memory of the same host. It is found by ``--data``, by ``GPUBROKER_OPENB``, or downloaded from where it was
published (https://github.com/hkust-adsl/kubernetes-scheduler-simulator) into ``build/openb``.

Method, as in the authors' simulator: for each of ten seeds (two in a quick run) all tasks are shuffled, then tasks are
drawn with replacement, until 130 % of the GPUs' capacity has arrived; the hosts stand in another order for each seed.
Tasks arrive one after the other, none ends, one that is refused is dropped. The figure is what is allocated at the end,
in percent of the pool's GPU milli, mean over the seeds.

Here every task is an ``acquire`` of the real script on an embedded server: a GPU is a card of 1000 MiB with no reserve,
the host's processors and memory are its ``cpus`` and ``host_memory``. The broker lends nothing of a host without GPU
memory, so it cannot place the tasks that want no GPU (1,088 of them), which take processors and memory in the paper.
The benchmark puts each where the share of processors that is free exceeds the share of GPUs that is free the most, and
the host's agent tells so much less: the broker finds smaller hosts, as the paper's ways do, and none of these tasks is
refused. That is a good place for them and not the broker's merit: of four rules that were tried for them in a
simulation it left most room (where most processors are free: nearly two points less, where fewest are: thirteen). So
two rows show the effect: ``tasks of no GPU
through the broker``, where each asks for one byte of a card (which has 1 KiB more for that), and ``without tasks of no
GPU``. Cards are named by their hosts, so that cards with equally much free stand host by host in the ledger's index;
``names at random`` names them as drivers do, and shows what that costs.

Server time is the server's own (``INFO latencystats``) for one asking, be it granted or refused. Two ways of the paper
are also simulated on the very samples: that they come to what was published shows that the samples are like theirs.

``python -m benchmarks.openb [--data DIR] [--seeds N] [--long] [--json] [--out DIR]``
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

import click

from benchmarks import frame
from benchmarks.openb_field import simulated
from benchmarks.openb_replay import Replay, replay
from benchmarks.openb_trace import KINDS, NoTrace, Trace, fetch, read
from broker import Broker
from broker.embedded import EmbeddedServer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARRIVED = 1.3
#: The authors' seeds.
SEEDS = tuple(range(42, 52))
#: Published: mean of ten seeds at 130 % arrived.
PUBLISHED = {"FGD": 95.4, "BestFit": 93.1, "Packing": 92.0, "Clustering": 91.9, "DotProd": 90.8, "Random": 87.5}
#: The broker's ways: name, placement, and what is otherwise in this row.
WAYS = {
    "balanced (the default)": ("balanced", ""),
    "pack": ("pack", ""),
    "spread": ("spread", ""),
    "cool": ("cool", ""),
    "balanced, tasks of no GPU through the broker": ("balanced", "through"),
    "balanced, these through the broker, names at random": ("balanced", "both"),
    "balanced, without tasks of no GPU": ("balanced", "without"),
    "balanced, names at random": ("balanced", "scattered"),
}
#: On every seed: the ways that are aimed with, and the first of them without the benchmark's help.
ALWAYS = ("balanced (the default)", "pack", "balanced, tasks of no GPU through the broker")
BALANCED, PACK, THROUGH = ALWAYS
TAIL_MOST_US = 1000


def replays(trace: Trace, seeds: tuple[int, ...], long: bool, run: frame.Run) -> dict[str, list[Replay]]:
    """Every way on every seed; those that only explain on the first one."""
    turns = [
        (name, seed)
        for at, seed in enumerate(seeds)
        for name in (WAYS if long and at == 0 else ALWAYS)
    ]  # fmt: skip
    found: dict[str, list[Replay]] = {}
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker, run.progress() as bar:
        for name, seed in bar.track(turns, description="replays"):
            placement, but = WAYS[name]
            tasks = [task for task in trace.sample(seed, ARRIVED) if task.gpus or but != "without"]
            one = replay(
                broker,
                trace.shuffled_hosts(seed),
                tasks,
                placement,
                scattered=but in ("scattered", "both"),
                through=but in ("through", "both"),
            )
            found.setdefault(name, []).append(one)
    return found


def allocation(found: dict[str, list[Replay]], field: dict[str, list[float]]) -> frame.Table:
    """What was allocated, best first."""
    rows: list[list[frame.Cell]] = [[f"{name}, published", value, 10, None] for name, value in PUBLISHED.items()]
    values = {name: [one.percent for one in each] for name, each in found.items()}
    values.update({f"{name}, simulated here": each for name, each in field.items()})
    rows += [
        [name, round(mean(each), 2), len(each), round(stdev(each), 2) if len(each) > 1 else None]
        for name, each in values.items()
    ]
    rows.sort(key=lambda row: -float(row[1] or 0))
    return frame.Table(
        "Allocated at 130 % arrived",
        ["placement", "% of GPU milli", "seeds", "deviation"],
        [[name, round(float(value or 0), 2), *more] for name, value, *more in rows],
        "Unless a row says otherwise the benchmark itself places the tasks that want no GPU, which FGD places by "
        "itself, and cards are named by their hosts.",
    )


def latency(found: dict[str, list[Replay]]) -> frame.Table:
    """The server's own time for an asking, medians of the seeds."""
    names = ("mean", "p50", "p99", "p99.9")
    rows: list[list[frame.Cell]] = [
        [name, *(sorted(one.server_us[of] for one in each)[len(each) // 2] for of in names)]
        for name, each in found.items()
    ]
    return frame.Table("Server time of an asking, µs", ["placement", *names], rows)


def refusals(found: dict[str, list[Replay]]) -> frame.Table:
    """Who was refused, by kind of task."""
    rows: list[list[frame.Cell]] = [
        [
            name,
            *(f"{sum(one.refused[kind] for one in each)} of {sum(one.asked[kind] for one in each)}" for kind in KINDS),
        ]
        for name, each in found.items()
    ]
    return frame.Table("Refused, by what they want", ["placement", *KINDS], rows)


def goals(found: dict[str, list[Replay]]) -> list[frame.Goal]:
    """What is aimed at: more than the best of the field, and more than its best fit."""
    balanced, pack, through = (mean(one.percent for one in found[name]) for name in ALWAYS)
    tail = max(sorted(one.server_us["p99"] for one in found[name])[len(found[name]) // 2] for name in (BALANCED, PACK))
    return [
        frame.Goal("balanced, % allocated, tasks of no GPU placed by the benchmark (FGD has 95.4)", balanced,
                   least=PUBLISHED["FGD"]),
        frame.Goal("balanced, % allocated, these through the broker (FGD has 95.4)", through, least=PUBLISHED["FGD"],
                   why="such a task has to ask for a byte of a card, and is refused on hosts whose cards are full"),
        frame.Goal("pack, % allocated (BestFit has 93.1)", pack, least=PUBLISHED["BestFit"]),
        frame.Goal("p99 server time of an asking, µs", tail, most=TAIL_MOST_US,
                   why="it is wall time: run it on a machine that does nothing else before believing it"),
    ]  # fmt: skip


def draw(found: frame.Found, figure: Figure) -> None:
    """Allocated over arrived: the whole, and the end, where ways part."""
    whole, end = figure.subplots(1, 2)
    for name, curve in found.raw["curves"].items():
        for axes in (whole, end):
            axes.plot([x for x, _ in curve], [y for _, y in curve], label=name)
    for axes in (whole, end):
        for name, value in PUBLISHED.items():
            axes.axhline(value, linewidth=0.6, linestyle=":", color="0.4")
            if axes is end:
                # Two lie so near to each other that one would be written over the other.
                at = value - 0.25 if name == "Clustering" else value
                axes.annotate(f"{name} {value}", (131, at), fontsize=7, va="center", annotation_clip=False)
        axes.set_xlabel("arrived, % of the GPUs")
    end.set_xlim(84, 130)
    end.set_ylim(84, 98)
    whole.set_ylabel("allocated, % of the GPUs")
    whole.legend(fontsize=7, loc="lower right")
    end.set_title("the end; dotted: published at 130 %", fontsize=9)


def found_of(trace: Trace, seeds: tuple[int, ...], run: frame.Run) -> frame.Found:
    """Replay, simulate, and put it together."""
    found = replays(trace, seeds, run.long, run)
    field = {
        name: [simulated(trace.shuffled_hosts(seed), trace.sample(seed, ARRIVED), way, seed) for seed in seeds]
        for name, way in (("BestFit", "best fit"), ("Random", "random"))
    }
    return frame.Found(
        "openb",
        "Placement on a production trace",
        (__doc__ or "").strip(),
        [allocation(found, field), latency(found), refusals(found)],
        goals(found),
        {
            "curves": {name: each[0].curve for name, each in found.items()},
            "percent": {name: [one.percent for one in each] for name, each in found.items()},
            "server_us": {name: [one.server_us for one in each] for name, each in found.items()},
            "simulated": field,
            "seeds": list(seeds),
        },
    )


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="GPUBROKER_OPENB",
    help="The folder of the trace's two files; GPUBROKER_OPENB, or they are downloaded.",
)
@click.option("--seeds", type=click.IntRange(1, len(SEEDS)), help="So many of the ten; 2, or all with --long.")
@frame.options
def main(run: frame.Run, data: Path | None, seeds: int | None) -> None:
    """Print tables, write JSON and picture."""
    try:
        trace = read(data) if data is not None else fetch(Path("build/openb"))
    except NoTrace as error:
        click.echo(f"openb: {error}", err=True)
        sys.exit(2)
    count = seeds or (len(SEEDS) if run.long else 2)
    run.tell(found_of(trace, SEEDS[:count], run), draw)


if __name__ == "__main__":
    main()
