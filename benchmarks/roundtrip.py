"""One acquire and one release beside a bare ``EVALSHA "return 1"``.

Method: one embedded server, one connection, one process. The three calls are made in turn, N times, so that a machine
that slows down slows all three; each is timed with ``perf_counter``. Medians and their ratios are printed. The bare
call goes through the same redis-py client. Round trips are counted by the server (``total_commands_processed``), not
assumed. Server time comes from ``INFO commandstats`` and is printed beside, for each call alone.

``python -m benchmarks.roundtrip [--calls N] [--json]``
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import click

from broker import Broker
from broker.embedded import EmbeddedServer
from broker.publish import Publisher
from broker.units import GIB, MIB
from broker.values import GpuReport, State

TARGETS = {"acquire": 1.5, "release": 1.3}


def prepared(url: str) -> Broker:
    """A broker on a pool of two hosts with two 6 GiB cards each."""
    broker = Broker.from_url(url)
    for host in ("a", "b"):
        cards = [
            GpuReport(
                f"GPU-{host}{i}", i, "card", State.OPTIMAL, State.OPTIMAL, "", memory_total_bytes=6 * GIB,
                memory_used_bytes=0, unmanaged_bytes=0, temperature_c=40,
            )
            for i in range(2)
        ]  # fmt: skip
        Publisher(broker, host).publish(cards, 600_000)
    return broker


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call took, and what it returned."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def measure(broker: Broker, calls: int) -> dict[str, float]:
    """Median microseconds of each call, as its caller waits for it."""
    sha = broker.redis.script_load("return 1")
    times: dict[str, list[float]] = {"bare": [], "acquire": [], "release": []}
    for turn in range(calls + 200):
        bare, _ = timed(lambda: broker.redis.execute_command("EVALSHA", sha, 0))
        acquire, lease = timed(lambda: broker.acquire(64 * MIB))
        release, _ = timed(lease.release)
        if turn >= 200:  # the first ones warm caches on both sides
            for name, seconds in (("bare", bare), ("acquire", acquire), ("release", release)):
                times[name].append(seconds * 1e6)
    return {name: median(values) for name, values in times.items()}


def server_side(broker: Broker, calls: int) -> dict[str, tuple[float, float]]:
    """Microseconds of server time, and commands sent, for each call alone."""
    sha = broker.redis.script_load("return 1")
    leases: list[Any] = []
    steps: dict[str, Callable[[], Any]] = {
        "bare": lambda: broker.redis.execute_command("EVALSHA", sha, 0),
        "acquire": lambda: leases.append(broker.acquire(MIB)),
        "release": lambda: leases.pop().release(),
    }
    result = {}
    for name, step in steps.items():
        broker.redis.config_resetstat()
        for _ in range(calls):
            step()
        stats: dict[str, Any] = broker.redis.info("commandstats")  # type: ignore[assignment]
        sent = stats["cmdstat_evalsha"]["calls"] / calls
        result[name] = (float(stats["cmdstat_evalsha"]["usec_per_call"]), sent)
    return result


@click.command()
@click.option("--calls", default=5000, show_default=True, help="Of each kind.")
@click.option("--json", "as_json", is_flag=True)
def main(calls: int, as_json: bool) -> None:
    """Print the table."""
    with EmbeddedServer() as server, prepared(server.url) as broker:
        waits = measure(broker, calls)
        inside = server_side(broker, min(calls, 2000))
    ratios = {name: waits[name] / waits["bare"] for name in TARGETS}
    if as_json:
        click.echo(
            json.dumps({"median_us": waits, "ratios": ratios, "server_us": {n: s for n, (s, _) in inside.items()}})
        )
        return
    click.echo(f"{'call':<10}{'median µs':>10}{'× bare':>8}{'target':>8}{'round trips':>13}{'server µs':>11}")
    for name, value in waits.items():
        target = f"≤ {TARGETS[name]}" if name in TARGETS else ""
        server_us, trips = inside[name]
        click.echo(f"{name:<10}{value:>10.1f}{value / waits['bare']:>8.2f}{target:>8}{trips:>13.2f}{server_us:>11.1f}")


if __name__ == "__main__":
    main()
