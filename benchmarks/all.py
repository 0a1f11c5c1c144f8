"""Every benchmark in turn, each a process of its own; at the end all that was aimed at, and whether it was met.

``python -m benchmarks [--long] [--only NAME]... [--data DIR] [--out DIR]``
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from benchmarks import frame


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark: its module's name, what a quick run is given, and roughly how long that takes."""

    name: str
    seconds: int
    quick: tuple[str, ...] = ()
    #: Whether it wants the folder of the production trace.
    wants_data: bool = False


#: In the order in which they run, and in which the results page shows them. Together within ten minutes on two cores.
ALL = (
    Bench("floor", 80),
    Bench("peers", 110),
    Bench("openb", 60, wants_data=True),
    Bench("growth", 75),
    Bench("memory", 20),
    Bench("cluster", 40),
    Bench("failover", 30),
    Bench("scale", 5),
    Bench("rq", 60),
    Bench("makespan", 45, ("--quick",)),
    Bench("right_size", 15),
    Bench("agent", 60),
    Bench("http", 40),
    Bench("scrape", 10),
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How one benchmark went: what it told, or why it told nothing."""

    name: str
    seconds: float
    told: dict[str, Any] | None
    why: str = ""


def left_out(bench: Bench, data: Path | None) -> str:
    """Why a benchmark is not run; nothing if it is."""
    if bench.wants_data and data is None:
        return "its trace was not given: --data DIR"
    return "" if find_spec(f"benchmarks.{bench.name}") else "it is not there"


def one(bench: Bench, out: Path, long: bool, data: Path | None) -> Ended:
    """Run one, which prints its own tables."""
    path, begun, stamp = out / f"{bench.name}.json", time.monotonic(), time.time()
    more = ["--long"] if long else list(bench.quick)
    if bench.wants_data:
        more += ["--data", str(data)]
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{bench.name}", "--out", str(out), *more], check=False)
    took = time.monotonic() - begun
    if done.returncode != 0:
        return Ended(bench.name, took, None, f"it failed with exit status {done.returncode}")
    if not path.exists() or path.stat().st_mtime < stamp - 1:
        return Ended(bench.name, took, None, f"it wrote no {path}")
    return Ended(bench.name, took, json.loads(path.read_text(encoding="utf-8")))


def summary(ended: Sequence[Ended]) -> list[frame.Table]:
    """All goals, and the time that each benchmark took."""
    told = [(end.name, goal) for end in ended if end.told for goal in end.told["goals"]]
    goals: list[list[frame.Cell]] = [
        [f"{name}: {goal['name']}", goal["seen"], goal["aim"], "met" if goal["met"] else "missed"]
        for name, goal in told
    ]  # fmt: skip
    why = [f"{name}: {goal['name']}: {goal['why']}" for name, goal in told if goal["why"] and not goal["met"]]
    times: list[list[frame.Cell]] = [
        [end.name, f"{end.seconds:.0f} s" if end.seconds else "", _outcome(end)] for end in ended
    ]
    total = sum(end.seconds for end in ended)
    return [
        frame.Table("What was aimed at", ["benchmark: figure", "seen", "aim", ""], goals, "\n".join(["", *why])),
        frame.Table(f"{total / 60:.1f} minutes in all", ["benchmark", "took", ""], times),
    ]


def _outcome(end: Ended) -> str:
    if end.told is None:
        return end.why
    met = sum(bool(goal["met"]) for goal in end.told["goals"])
    return f"{met} of {len(end.told['goals'])} goals met" if end.told["goals"] else "measured"


@click.command()
@click.option("--long", is_flag=True, help="More of everything: hours instead of minutes.")
@click.option("--only", multiple=True, type=click.Choice([bench.name for bench in ALL]), help="This one; repeatable.")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="The folder of the production trace (openb_*.csv), for the benchmark of placements.")  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=frame.OUT, show_default=True,
              help="Where NAME.json and NAME.png go.")  # fmt: skip
def main(long: bool, only: tuple[str, ...], data: Path | None, out: Path) -> None:
    """Run all benchmarks; exit 1 if one of them fails (not if it misses what is aimed at)."""
    chosen = [bench for bench in ALL if not only or bench.name in only]
    ended = []
    for at, bench in enumerate(chosen, 1):
        if why := left_out(bench, data):
            ended.append(Ended(bench.name, 0, None, f"left out: {why}"))
            click.echo(f"\n[{at} of {len(chosen)}] {bench.name} is left out: {why}")
            continue
        about = "" if long else f", about {bench.seconds} s"
        click.echo(f"\n[{at} of {len(chosen)}] {bench.name}{about}")
        ended.append(one(bench, out, long, data))
    for table in summary(ended):
        if table.rows:
            click.echo(f"\n{table.title}\n{frame.columns(table)}{table.note}")
    if any(end.seconds and end.told is None for end in ended):
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
