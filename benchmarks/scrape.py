"""A scrape of a pool by an event loop: how long it takes, and for how long the loop hears of nothing else meanwhile.

Method: one embedded server with so many cards (80 GiB, eight a host), leases and waiters; one process. A task that does
nothing runs beside the scrapes, and the processor time of its thread between two of its turns is what the loop was kept
for. Processor time, so that what else the machine does is not counted.

``python -m benchmarks.scrape [--cards N] [--leases N] [--waiters N] [--long] [--json] [--out DIR]``
"""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from benchmarks import frame
from benchmarks.filled import Size, fill
from broker import AsyncBroker, Broker
from broker.embedded import EmbeddedServer
from broker.metrics import AsyncExporter, exposition

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCRAPES, SCRAPES_LONG = 10, 100
#: The figures of a scrape, in words.
FIGURES = {
    "scrape_ms": "a scrape, as its caller waits, ms", "processor_ms": "of the processor, ms",
    "longest_turn_ms": "the longest turn of the loop, ms", "turn_of_1000_ms": "all turns but one of 1,000, ms",
    "samples": "samples", "bytes": "bytes",
}  # fmt: skip


async def measure(url: str, scrapes: int) -> dict[str, Any]:
    """Milliseconds of a scrape as its caller waits and of the processor, the longest turns, and what it comes to."""
    waited, used, turns, body = list[float](), list[float](), list[float](), b""
    async with AsyncBroker.from_url(url) as broker:
        exporter = AsyncExporter(broker, fsck_seconds=0)
        await exporter.render()

        async def beside() -> None:
            before = time.thread_time()
            while True:
                await asyncio.sleep(0)
                now = time.thread_time()
                turns.append(now - before)
                before = now

        task = asyncio.create_task(beside())
        for _ in range(scrapes):
            began, own = time.perf_counter(), time.thread_time()
            body = await exporter.render()
            waited.append(time.perf_counter() - began)
            used.append(time.thread_time() - own)
        task.cancel()
    turns.sort()
    return {
        "scrape_ms": 1000 * median(waited), "processor_ms": 1000 * median(used),
        "longest_turn_ms": 1000 * turns[-1], "turn_of_1000_ms": 1000 * turns[-len(turns) // 1000],
        "turns_ms": [1000 * turn for turn in turns[-2000:]],
        "samples": body.count(b"\n") - body.count(b"\n#"), "bytes": len(body),
    }  # fmt: skip


@click.command()
@click.option("--cards", type=int, default=1000, show_default=True)
@click.option("--leases", type=int, default=1000, show_default=True)
@click.option("--waiters", type=int, default=100, show_default=True)
@frame.options
def main(run: frame.Run, cards: int, leases: int, waiters: int) -> None:
    """Time scrapes of a pool of so many cards."""
    exposition.FRESH_SECONDS = 0.0
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        fill(broker, Size(cards, leases, waiters))
        told = asyncio.run(measure(server.url, SCRAPES_LONG if run.long else SCRAPES))
    title = f"{cards:,} cards, {leases:,} leases, {waiters:,} waiters"
    rows: list[list[frame.Cell]] = [[words, told[name]] for name, words in FIGURES.items()]
    tables = [frame.Table(title, ["figure", "seen"], rows)]
    run.tell(frame.Found("scrape", "A scrape by Prometheus", __doc__ or "", tables, raw=told), draw)


def draw(told: frame.Found, figure: Figure) -> None:
    """The longest turns of the loop, in their order."""
    chart, turns = figure.subplots(), told.raw["turns_ms"]
    chart.plot(range(len(turns), 0, -1), turns)
    chart.set(
        xscale="log",
        xlabel="turns, the longest first",
        ylabel="ms",
        title="for how long the loop hears of nothing else",
    )


if __name__ == "__main__":
    main()
