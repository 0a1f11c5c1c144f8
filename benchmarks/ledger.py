"""Server time of every command of the ledger, for pools of many sizes; and the hand-over to a waiter.

Method: one embedded server (or ``--server``), nothing persisted, one connection. A pool is filled through the real
scripts, by pipelines: cards by ``publish_sample`` (64 a host), leases by ``acquire``, waiters by ``acquire`` that may
wait. Then each command is called ``--calls`` times, one after the other. The time of a command is what the server
itself took for it: mean from ``INFO commandstats`` (``usec_per_call`` of EVALSHA between two CONFIG RESETSTAT), p99.9
from the server's own histogram (``LATENCY HISTOGRAM``, whose buckets double: the figure is a bucket's upper end).
``return 1`` is called in the same way, so a slow machine slows both; ratios are to its mean in the same pool.

The hand-over is timed from the call of ``release`` to the return of the waiter's ``acquire``, which sleeps in another
process with a connection of its own, beside 1,000 others in the queue; in multiples of the median round trip of
``return 1`` in the same run.

``python -m benchmarks.ledger [--full] [--calls N] [--json FILE] [--server PATH]``
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.progress import Progress

from benchmarks.filled import CROWDED, FULL, Size, fill
from broker import Broker, calls
from broker.embedded import EmbeddedServer
from broker.units import MIB

CORNERS = (
    Size(1, 0, 0), Size(100, 1_000, 0), Size(10_000, 0, 0), Size(10_000, 50_000, 0), Size(100, 0, 10_000),
    Size(10_000, 50_000, 10_000),
)  # fmt: skip
GRID = tuple(Size(g, le, w) for g in (1, 100, 10_000) for le in (0, 1_000, 50_000) for w in (0, 1_000, 10_000))

#: What is aimed at; see ``docs/costs.md`` for what was seen.
ACQUIRE_MOST, RELEASE_MOST, GROWTH_MOST, TAIL_MOST_US, HAND_OVER_MOST = 12.0, 10.0, 1.5, 1000, 3.0


def _pairs(reply: Any) -> dict[Any, Any]:
    """A map of the server's, however the client's protocol shows it."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


class Meter:
    """Server time of one command, as the server counted it."""

    def __init__(self, broker: Broker, calls_: int) -> None:
        self.broker, self.calls = broker, calls_
        self.bare_sha = broker.redis.script_load("return 1")
        self.number = 0

    def _stats(self) -> tuple[float, float]:
        """Mean, and the bucket in which the p99.9 lies, in microseconds."""
        told: Any = self.broker.redis.info("commandstats")
        flat: Any = self.broker.redis.execute_command("LATENCY", "HISTOGRAM", "evalsha")  # type: ignore[no-untyped-call]
        histogram = flat["evalsha"]["histogram_usec"] if isinstance(flat, dict) else flat[1][3]
        pairs = (
            list(histogram.items())
            if isinstance(histogram, dict)
            else list(zip(histogram[::2], histogram[1::2], strict=True))
        )
        total = int(pairs[-1][1])
        tail = next(int(edge) for edge, count in pairs if int(count) >= 0.999 * total)
        return float(told["cmdstat_evalsha"]["usec_per_call"]), float(tail)

    def bare(self) -> tuple[float, float]:
        """``return 1``."""
        return self.measure(lambda _: self.broker.redis.execute_command("EVALSHA", self.bare_sha, 0))  # type: ignore[no-untyped-call]

    def measure(
        self, call: Callable[[int], object], after: Callable[[], object] | None = None, times: int | None = None
    ) -> tuple[float, float]:
        """Mean and p99.9 of ``call``, which is given a number that it never had; ``after`` is not measured."""
        self.broker.redis.config_resetstat()
        for _ in range(times or self.calls):
            self.number += 1
            call(self.number)
        result = self._stats()
        if after is not None:
            after()
        return result


def commands(meter: Meter, size: Size) -> Iterator[tuple[str, tuple[float, float]]]:
    """Every command in turn, on a pool of that size."""
    b, n = meter.broker, meter.calls
    held: list[Any] = []
    yield "return 1", meter.bare()
    yield "acquire", meter.measure(lambda i: held.append(b.acquire(MIB, lease_id=f"m{i}")))
    turn = iter(held * 3)
    yield "renew", meter.measure(lambda _: (lease := next(turn)) and b.renew(lease.id, lease.token))
    yield "start", meter.measure(lambda _: (lease := next(turn)) and b.check(lease.id, lease.token))
    yield (
        "resize",
        meter.measure(lambda i: (lease := held[i % n]) and b.resize(lease.id, lease.token, MIB * (1 + i % 2))),
    )
    yield "release", meter.measure(lambda _: held.pop().release())
    waiting = [calls.ask("20GiB", lease_id=f"w{size}{i}", wait=60, priority=-9) for i in range(n)]
    impossible_now = [calls.ask("20GiB", lease_id=f"r{size}{i}") for i in range(n)]
    refused = iter(impossible_now)  # of a card that is full
    yield "acquire refused", meter.measure(lambda _: b.call("acquire", *_no_room(next(refused), False)))
    queue = iter(waiting)
    yield "acquire waits", meter.measure(lambda _: b.call("acquire", *_no_room(next(queue), True)))
    back = iter(waiting)
    yield "cancel", meter.measure(lambda _: b.cancel(next(back).id))
    yield (
        "explain",
        meter.measure(lambda _: b.call("explain", "ask", *calls.ask(MIB).asking(False)[1:]), times=min(n, 200)),
    )
    yield "drain", meter.measure(lambda _: b.drain("GPU-0-0"), times=1)
    yield "undrain", meter.measure(lambda _: b.undrain("GPU-0-0"), times=1)
    agent = size.agent(b)
    yield f"publish {size.cards_of_first_host} cards", meter.measure(lambda _: agent(), times=min(n, 300))
    yield "reap", meter.measure(lambda _: b.reap())


def _no_room(request: calls.Ask, wait: bool) -> tuple[str | int, ...]:
    """The request for more than any card has free, of a card that is full: there it waits."""
    argv = list(request.asking(wait))
    argv[4] = f"GPU-{CROWDED}-0"
    return tuple(argv)


def hand_over(url: str, waiters: int, turns: int) -> tuple[float, float]:
    """Median microseconds from a release to the return of the waiter's call; and of a bare round trip."""
    near, far = get_context("spawn").Pipe()
    other = get_context("spawn").Process(target=wait_again_and_again, args=(url, far), daemon=True)
    with Broker.from_url(url, pool="handover") as broker:
        fill(broker, Size(2, 0, waiters))  # they wait for another card: only one of a thousand can be served
        other.start()
        sha, bare, spans = broker.redis.script_load("return 1"), [], []
        for _ in range(turns):
            begun = time.perf_counter()
            broker.redis.execute_command("EVALSHA", sha, 0)  # type: ignore[no-untyped-call]
            bare.append(time.perf_counter() - begun)
            spans.append(_one_hand_over(broker, near))
        near.send(False)
        other.join()
    return median(spans) * 1e6, median(bare) * 1e6


def wait_again_and_again(url: str, far: Connection) -> None:
    """The waiter, a process of its own: asks when it is told to, and says when it had its lease."""
    with Broker.from_url(url, pool="handover") as broker:
        while far.recv():
            lease = broker.acquire(FULL, gpu="GPU-0-0", wait=30, lease_id="next")
            ended = time.perf_counter()  # one clock for all processes of a machine
            lease.release()
            far.send(ended)


def _one_hand_over(broker: Broker, near: Connection) -> float:
    holder = broker.acquire(FULL, gpu="GPU-0-0")
    near.send(True)
    while "cmd=blpop" not in broker.redis.execute_command("CLIENT", "LIST"):  # type: ignore[no-untyped-call]
        time.sleep(0.001)  # until it sleeps
    begun = time.perf_counter()
    holder.release()
    ended: float = near.recv()
    return ended - begun


@contextmanager
def running(server: Path | None) -> Iterator[str]:
    """The URL of a server that is there for this run only."""
    if server is not None:  # found by its name, first of all on the way there
        os.environ["PATH"] = f"{server.parent}{os.pathsep}{os.environ['PATH']}"
    with EmbeddedServer() as embedded:
        yield embedded.url


def table(size: Size, rows: dict[str, tuple[float, float]]) -> None:
    """Print one pool's figures."""
    bare = rows["return 1"][0]
    click.echo(f"\n{size.gpus:,} GPUs, {size.leases:,} leases, {size.waiters:,} waiters")
    click.echo(f"{'command':<18}{'mean µs':>9}{'× return 1':>12}{'p99.9 ≤ µs':>12}")
    for name, (average, tail) in rows.items():
        click.echo(f"{name:<18}{average:>9.1f}{average / bare:>12.1f}{tail:>12.0f}")


def judged(
    found: dict[Size, dict[str, tuple[float, float]]], hand: tuple[float, float]
) -> list[tuple[str, float, float]]:
    """What is aimed at: name, figure, and the most that it should be."""
    small, large = found.get(Size(1, 0, 0)), found.get(Size(10_000, 0, 0))
    goals = []
    if small is not None:
        goals += [("acquire, × return 1", small["acquire"][0] / small["return 1"][0], ACQUIRE_MOST),
                  ("release, × return 1", small["release"][0] / small["return 1"][0], RELEASE_MOST)]  # fmt: skip
    if small is not None and large is not None:
        growth = (large["acquire"][0] / large["return 1"][0]) / (small["acquire"][0] / small["return 1"][0])
        goals.append(("acquire, 10,000 GPUs × 1 GPU", growth, GROWTH_MOST))
    worst = max(
        rows[name][1] for rows in found.values() for name in rows if not name.startswith(("publish", "explain"))
    )
    goals.append(("p99.9 of the slowest command, µs", worst, TAIL_MOST_US))
    goals.append(("hand-over, × a round trip", hand[0] / hand[1], HAND_OVER_MOST))
    return goals


@click.command()
@click.option("--full", is_flag=True, help="The whole grid instead of its corners.")
@click.option("--calls", "calls_", default=1000, show_default=True, help="Of each command.")
@click.option("--json", "to", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here too.")
@click.option(
    "--server", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Another server's program."
)
def main(full: bool, calls_: int, to: Path | None, server: Path | None) -> None:
    """Print a table for each pool, and what is met."""
    found: dict[Size, dict[str, tuple[float, float]]] = {}
    with running(server) as url, Progress(disable=not sys.stderr.isatty(), transient=True) as progress:
        bar = progress.add_task("pools", total=len(GRID if full else CORNERS) + 1)
        for at, size in enumerate(GRID if full else CORNERS):
            with Broker.from_url(url, pool=f"bench{at}") as broker:
                fill(broker, size)
                found[size] = dict(commands(Meter(broker, calls_), size))
                broker.redis.flushall()
            table(size, found[size])
            progress.advance(bar)
        hand = hand_over(url, 1_000, max(50, calls_ // 10))
    click.echo(f"\nhand-over with 1,000 waiters: {hand[0]:.0f} µs, a round trip {hand[1]:.0f} µs\n")
    for name, figure, most in judged(found, hand):
        click.echo(f"{name:<36}{figure:>9.2f}   at most {most:g}: {'met' if figure <= most else 'missed'}")
    if to is not None:
        pools = [{"gpus": s.gpus, "leases": s.leases, "waiters": s.waiters, "us": rows} for s, rows in found.items()]
        to.write_text(json.dumps({"pools": pools, "hand_over_us": hand[0], "round_trip_us": hand[1]}, indent=1))


if __name__ == "__main__":
    main()
