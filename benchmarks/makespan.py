"""500 mixed jobs on four machines: how long until all are done, and how many ran out of memory on the way.

Method: one embedded server, real RQ workers as processes, real jobs that hold their memory on a counted card and sleep
for their time. The cards are simulated: one of 24 GB on each of four hosts, and one of 12 GB on the fourth; a job
whose bytes the card has not left is out of memory. Sizes are log-uniform from 0.5 to 20 GB, times log-normal (sigma
0.6); all are sent at the start, to workers that stand ready:

- *gpubroker, large first*: ``GpuSimpleWorker``, twelve for a card, one queue; each job says its size, and they are sent
  by size. Whoever fills a bag puts the large things in first. No card is kept for a job that others passed
  (``bypass_max`` at its most): in a batch that is to end soon there is nobody to starve.
- *gpubroker, first come*: in the order of the others, and as a pool is set by default.
- *one job a card*: RQ's ``SimpleWorker``, one for a card. Jobs above 12 GB have a queue of their own, which workers of
  large cards alone serve, and first.
- *fixed workers a card*: the same, three for a card, who know nothing of memory. Who runs out of memory goes back into
  the queue.

No schedule can be shorter than the packing bound: the largest of the longest job; the byte-seconds of all jobs by the
bytes of all cards; the same of the jobs above 12 GB on the large cards; and the seconds of those by the number of large
cards, since two of them do not share one. Printed are seconds, their ratio to the bound, and jobs out of memory. A
``--quick`` run has fewer and shorter jobs, so that what lies between two jobs weighs more in it, and leaves out what
takes longest.

``python -m benchmarks.makespan [--jobs N] [--seconds S] [--quick] [--png PATH] [--json] [--out DIR]``
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import psutil
from redis import Redis
from rich.progress import Progress
from rq import Queue, Retry

from benchmarks import frame
from benchmarks.makespan_job import enhance
from broker import Broker
from broker.embedded import EmbeddedServer
from broker.publish import Publisher
from broker.values import GpuReport, State
from worker_hooks.request import GpuRequest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GB = 10**9
LARGE, SMALL = 24 * GB, 12 * GB
HOSTS = {"h1": (LARGE,), "h2": (LARGE,), "h3": (LARGE,), "h4": (LARGE, SMALL)}
CARDS = {f"GPU-{host}-{i}": size for host, sizes in HOSTS.items() for i, size in enumerate(sizes)}
LARGE_FIRST = "gpubroker, large first"
STRATEGIES = (LARGE_FIRST, "gpubroker, first come", "one job a card", "fixed workers a card")
WORKERS_A_CARD = dict(zip(STRATEGIES, (12, 12, 1, 3), strict=True))
OURS = "gpubroker"
TARGET = 1.10
#: A quick run: so many jobs, such a bound in seconds, and these strategies, with fewer workers a card.
QUICK_JOBS, QUICK_SECONDS, QUICK_STRATEGIES = 120, 8.0, (LARGE_FIRST, "fixed workers a card")
QUICK_WORKERS = {LARGE_FIRST: 5, "fixed workers a card": 2}


class Task(NamedTuple):
    """One job: bytes and seconds."""

    size: int
    seconds: float


class Run(NamedTuple):
    """One job on a card: from and to in seconds since the start."""

    card: str
    size: int
    begun: float
    ended: float


def tasks(count: int, seconds: float, seed: int) -> list[Task]:
    """The jobs, scaled so that their packing bound is ``seconds``."""
    dice = random.Random(seed)
    drawn = [
        Task(int(0.5 * GB * 40 ** dice.random()), dice.lognormvariate(0, 0.6)) for _ in range(count)
    ]  # 0.5 GB to 20 GB
    scale = seconds / bound(drawn)
    return [Task(task.size, task.seconds * scale) for task in drawn]


def bound(jobs: Sequence[Task]) -> float:
    """Seconds that no schedule can beat: see the method."""
    large = [job for job in jobs if job.size > SMALL]
    number = sum(size == LARGE for size in CARDS.values())
    return max(
        max(job.seconds for job in jobs),
        sum(job.size * job.seconds for job in jobs) / sum(CARDS.values()),
        sum(job.size * job.seconds for job in large) / (number * LARGE),
        sum(job.seconds for job in large) / number,
    )


@contextmanager
def worker(url: str, strategy: str, card: str) -> Iterator[None]:
    """One worker beside a card."""
    env = {
        **os.environ, "MAKESPAN_REDIS_URL": url, "MAKESPAN_CARDS": json.dumps(CARDS), "GPUBROKER_REDIS_URL": url,
        "GPUBROKER_HOST": card.split("-")[1], "MAKESPAN_CARD": card,
    }  # fmt: skip
    env.pop("CUDA_VISIBLE_DEVICES", None)
    kind, queues = "rq.worker.SimpleWorker", ["large", "small"] if CARDS[card] == LARGE else ["small"]
    if strategy.startswith(OURS):
        kind, queues = "worker_hooks.GpuSimpleWorker", ["jobs"]
    command = [sys.executable, "-m", "rq.cli", "worker", "-q", "-u", url, "-w", kind, *queues]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def send(redis: Redis, strategy: str, jobs: Sequence[Task]) -> None:
    """All jobs into their queues, in their order."""
    if strategy == LARGE_FIRST:
        jobs = sorted(jobs, key=lambda job: -job.size)
    for number, job in enumerate(jobs):
        if strategy.startswith(OURS):
            meta = {"gpu": GpuRequest.checked(job.size).as_meta()}
            Queue("jobs", connection=redis).enqueue(enhance, number, *job, meta=meta)
        else:
            queue = Queue("large" if job.size > SMALL else "small", connection=redis)
            # A large one may run out of memory thousands of times.
            queue.enqueue(enhance, number, *job, retry=Retry(max=1_000_000))


def play(strategy: str, jobs: Sequence[Task], workers_a_card: int, progress: Progress) -> dict[str, Any]:
    """One strategy, from an empty server to the last job's end."""
    with EmbeddedServer() as server, Redis.from_url(server.url, socket_timeout=600) as redis, ExitStack() as workers:
        with Broker.from_url(server.url) as broker:
            broker.update_config(memory_reserve_mb=0, bypass_max=1_000_000 if strategy == LARGE_FIRST else None)
            for host, sizes in HOSTS.items():
                Publisher(broker, host).publish([_card(f"GPU-{host}-{i}", i, s) for i, s in enumerate(sizes)], 600_000)
        count = workers_a_card * len(CARDS)
        step = progress.add_task(f"{strategy}: {count} workers", total=count + len(jobs))
        for card in CARDS:
            for _ in range(workers_a_card):
                workers.enter_context(worker(server.url, strategy, card))
        while (ready := redis.scard("rq:workers")) < count:
            progress.update(step, completed=ready)
            time.sleep(0.1)
        _quiet()
        start = time.time()
        send(redis, strategy, jobs)
        runs, out_of_memory = list[Run](), 0
        while len(runs) < len(jobs):
            told = redis.blpop(["told"], timeout=300)
            if told is None:
                raise click.ClickException(f"{strategy}: {len(jobs) - len(runs)} jobs did not end")
            one = json.loads(told[1])
            if one["ran"]:
                runs.append(Run(one["card"], one["size"], one["from"] - start, one["to"] - start))
            out_of_memory += not one["ran"]
            progress.update(step, completed=count + len(runs))
    return {"seconds": max(run.ended for run in runs), "out_of_memory": out_of_memory, "runs": runs}


def _quiet() -> None:
    """Until what was started is: the start of fifty processes is not what is measured."""
    for _ in range(60):
        if psutil.cpu_percent(interval=0.5) < 40:
            return


def _card(uuid: str, index: int, size: int) -> GpuReport:
    return GpuReport(
        uuid, index, "card", State.OPTIMAL, State.OPTIMAL, "", memory_total_bytes=size, memory_used_bytes=0,
        unmanaged_bytes=0, temperature_c=40,
    )  # fmt: skip


def draw(told: frame.Found, figure: Figure) -> None:
    """Memory in use on each card over time, a column of charts for each strategy, and the bound as a line."""
    found = told.raw
    charts = figure.subplots(len(CARDS), len(found["strategies"]), sharex=True, squeeze=False)
    for column, (strategy, one) in enumerate(found["strategies"].items()):
        for row, (card, capacity) in enumerate(CARDS.items()):
            chart = charts[row][column]
            changes = sorted(
                change for run in one["runs"] if run.card == card for change in
                ((run.begun, run.size), (run.ended, -run.size))
            )  # fmt: skip
            times, used = [0.0], [0.0]
            for at, size in changes:
                times.append(at)
                used.append(used[-1] + size / GB)
            chart.fill_between(times, used, step="post", color="#4878a8")
            chart.axvline(found["bound"], color="#c44e52", linewidth=1)
            chart.set_ylim(0, capacity / GB)
            if column == 0:
                chart.set_ylabel(f"{card[4:]}\nGB", fontsize=8)
        charts[0][column].set_title(
            f"{strategy}: {one['seconds']:.0f} s ({one['ratio']:.2f} × bound), {one['out_of_memory']} out of memory",
            fontsize=9,
        )
        charts[-1][column].set_xlabel("seconds; the red line is the packing bound")


@click.command()
@click.option("--jobs", "count", type=int, help="[500; quick: 120]")
@click.option("--seconds", type=float, help="The packing bound to scale the jobs' times to [45; quick: 8].")
@click.option("--seed", default=1, show_default=True)
@click.option("--quick", is_flag=True, help="A minute instead of nine.")
@click.option("--png", type=click.Path(path_type=Path), help="Draw here too.")
@frame.options
def main(run: frame.Run, count: int | None, seconds: float | None, seed: int, quick: bool, png: Path | None) -> None:
    """Play all strategies, print the comparison, draw it."""
    count = count or (QUICK_JOBS if quick else 500)
    jobs = tasks(count, seconds or (QUICK_SECONDS if quick else 45.0), seed)
    raw: dict[str, Any] = {"bound": bound(jobs), "strategies": {}}
    workers = QUICK_WORKERS if quick else WORKERS_A_CARD
    with run.progress() as progress:
        for strategy in QUICK_STRATEGIES if quick else STRATEGIES:
            one = play(strategy, jobs, workers[strategy], progress)
            raw["strategies"][strategy] = {**one, "ratio": one["seconds"] / raw["bound"]}
    found = _found(count, raw, quick)
    run.tell(found, draw, (5 * len(raw["strategies"]), 1.5 * len(CARDS)))
    if png is not None:
        png.parent.mkdir(parents=True, exist_ok=True)
        png.write_bytes((run.out / f"{found.name}.png").read_bytes())


def _found(count: int, raw: dict[str, Any], quick: bool) -> frame.Found:
    """All of it as tables, goals and raw figures."""
    rows: list[list[frame.Cell]] = [
        [name, one["seconds"], one["ratio"], one["out_of_memory"]] for name, one in raw["strategies"].items()
    ]
    ours = raw["strategies"][LARGE_FIRST]
    why = "a quick run: its jobs are so short that what lies between two of them shows" if quick else (
        "what lies between two jobs, and a last few that leave cards half empty"
    )  # fmt: skip
    lost = sum(one["out_of_memory"] for name, one in raw["strategies"].items() if name.startswith(OURS))
    return frame.Found(
        "makespan", "Many jobs on few cards", __doc__ or "",
        [frame.Table(
            f"{count} jobs of 0.5 to 20 GB on {len(CARDS)} cards of {len(HOSTS)} hosts; bound {raw['bound']:.1f} s",
            ["strategy", "seconds", "× bound", "out of memory"], rows,
        )],
        [
            frame.Goal(f"{LARGE_FIRST}: × the packing bound", ours["ratio"], TARGET, why=why),
            frame.Goal(f"{OURS}: jobs out of memory", lost, 0),
        ],
        raw,
    )  # fmt: skip


if __name__ == "__main__":
    main()
