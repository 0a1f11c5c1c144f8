"""`gpubroker agent`: watch this host's GPUs until told to stop."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from importlib.resources import files
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli.options import broker_from, pool_options

if TYPE_CHECKING:
    from agent.sources import Source
    from agent.sources.replay import Recorder


@click.command()
@click.option("--simulate", metavar="SPEC", help="Simulated cards, such as 2x6GiB, 1xA100-80GB or 2x6GiB,tau=5,hot=1.")
@click.option("--replay", type=Path, help="Play a recording of another agent, over and over.")
@click.option("--record", type=Path, help="Write what is read to this file, for --replay.")
@click.option("--host", envvar="GPUBROKER_HOST", show_envvar=True, help="This host's name.  [default: its own]")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="For requests that select; repeatable.")
@click.option("--host-memory", metavar="SIZE", help="Memory of this host that jobs may borrow.  [default: all]")
@click.option("--cpus", type=float, help="Processors of this host that jobs may borrow.  [default: all]")
@click.option(
    "--folder", type=Path, default=Path(), help="Where this host's jobs write: its room is told.  [default: .]"
)
@click.option("--yield-to", multiple=True, metavar="NAME", help="A program that gets the cards for itself; repeatable.")
@click.option(
    "--job-mapping", type=Path, metavar="DIR",
    help="Keep a file a card with the jobs on it there, as dcgm-exporter --hpc-job-mapping-dir reads them.",
)  # fmt: skip
@click.option("--log-json", is_flag=True, help="Log lines as JSON.")
@click.option("--unit", is_flag=True, help="Print a unit for systemd, and do nothing more.")
@click.option("--once", is_flag=True, help="One sample, then leave it standing.")
@pool_options
def agent(
    simulate: str | None, replay: Path | None, record: Path | None, host: str | None, labels: tuple[str, ...],
    host_memory: str | None, cpus: float | None, folder: Path, yield_to: tuple[str, ...], job_mapping: Path | None,
    log_json: bool, unit: bool, once: bool, redis_url: str, pool: str,
) -> None:  # fmt: skip
    """Watch this host's GPUs and publish what they do, until SIGTERM or Ctrl-C."""
    if unit:
        return click.echo((files("agent") / "gpubroker-agent.service").read_text(encoding="utf-8"), nl=False)
    from agent.host import report
    from agent.mapping import JobMapping
    from agent.sampler import Sampler
    from agent.service import HostLock, Watchdog, configure_logging, machine
    from broker.calls import check_name, cpus_milli, labels_text, this_host
    from broker.units import TIB, parse_size

    name = check_name("--host", host or this_host())
    source = _source(name, simulate, replay)
    configure_logging(log_json)
    told = report(
        labels=labels_text(dict(_pair(label) for label in labels)),
        memory_bytes=None if host_memory is None else parse_size(host_memory, "--host-memory", most=1024 * TIB),
        cpus_milli=None if cpus is None else cpus_milli(cpus),
        machine=machine(),
    )
    with ExitStack() as stack:
        stack.enter_context(HostLock(redis_url, pool, name))
        witness = stack.enter_context(_recorder(record)).write if record else None
        watchdog = Watchdog()
        words = chain([watchdog.ready], repeat(watchdog.alive))

        def alive(status: str, interval_seconds: float) -> None:
            watchdog.pace(interval_seconds)
            next(words)(status)

        sampler = Sampler(
            broker_from(redis_url, pool), name, source, told, folder=folder, yield_to=yield_to,
            witness=witness, alive=alive, mapping=None if job_mapping is None else JobMapping(job_mapping),
        )  # fmt: skip
        if once:
            sampler.sample()
            return source.close()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sampler.stop())
        sampler.run()
        return watchdog.stopping()


def _pair(label: str) -> tuple[str, str]:
    from broker.errors import InvalidRequest

    name, equals, value = label.partition("=")
    if not equals:
        raise InvalidRequest("--label", label, "NAME=VALUE")
    return name, value


def _recorder(path: Path) -> Recorder:
    from agent.sources.replay import Recorder

    return Recorder(path)


def _source(host: str, simulate: str | None, replay: Path | None) -> Source:
    if simulate is not None and replay is not None:
        raise click.UsageError("--simulate and --replay are two ways to do without GPUs: give one of them")
    if simulate is not None:
        from agent.sources.simulated import SimulatedSource, parse_spec

        return SimulatedSource(host, parse_spec(simulate))
    if replay is not None:
        from agent.sources.replay import ReplaySource

        return ReplaySource(replay, loop=True)
    from agent.sources.nvml import NvmlSource

    return NvmlSource()
