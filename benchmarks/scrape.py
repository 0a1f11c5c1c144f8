"""A scrape of a pool by an event loop: how long it takes, and for how long the loop hears of nothing else meanwhile.

Method: one embedded server with so many cards (80 GiB, eight a host), leases and waiters; one process. A task that does
nothing runs beside the scrapes, and the processor time of its thread between two of its turns is what the loop was kept
for. Processor time, so that what else the machine does is not counted.

``python -m benchmarks.scrape [--cards N] [--leases N] [--waiters N] [--json]``
"""

from __future__ import annotations

import asyncio
import json
import time
from statistics import median

import click

from benchmarks.filled import Size, fill
from broker import AsyncBroker, Broker
from broker.embedded import EmbeddedServer
from broker.metrics import AsyncExporter, exposition

SCRAPES = 10


async def measure(url: str) -> dict[str, float]:
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
        for _ in range(SCRAPES):
            began, own = time.perf_counter(), time.thread_time()
            body = await exporter.render()
            waited.append(time.perf_counter() - began)
            used.append(time.thread_time() - own)
        task.cancel()
    turns.sort()
    return {
        "scrape_ms": 1000 * median(waited), "processor_ms": 1000 * median(used),
        "longest_turn_ms": 1000 * turns[-1], "turn_of_1000_ms": 1000 * turns[-len(turns) // 1000],
        "samples": body.count(b"\n") - body.count(b"\n#"), "bytes": len(body),
    }  # fmt: skip


@click.command()
@click.option("--cards", type=int, default=1000, show_default=True)
@click.option("--leases", type=int, default=1000, show_default=True)
@click.option("--waiters", type=int, default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def main(cards: int, leases: int, waiters: int, as_json: bool) -> None:
    """Time scrapes of a pool of so many cards."""
    exposition.FRESH_SECONDS = 0.0
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        fill(broker, Size(cards, leases, waiters))
        found = asyncio.run(measure(server.url))
    if as_json:
        click.echo(json.dumps(found))
    else:
        for name, value in found.items():
            click.echo(f"{name:<16} {value:12.1f}" if name.endswith("_ms") else f"{name:<16} {value:12.0f}")


if __name__ == "__main__":
    main()
