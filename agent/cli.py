"""`gpubroker agent`: watch this host's GPUs until told to stop."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

import click

from broker.cli.options import broker_from, pool_options

if TYPE_CHECKING:
    from agent.sources import Source


@click.command()
@click.option("--simulate", metavar="SPEC", help="Simulated cards, such as 2x6GiB, 1xA100-80GB or 2x6GiB,tau=5,hot=1.")
@click.option("--host", envvar="GPUBROKER_HOST", show_envvar=True, help="This host's name.  [default: its own]")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="For requests that select; repeatable.")
@click.option("--host-memory", metavar="SIZE", help="Memory of this host that jobs may borrow.  [default: all]")
@click.option("--cpus", type=float, help="Processors of this host that jobs may borrow.  [default: all]")
@click.option("--once", is_flag=True, help="One sample, then leave it standing.")
@pool_options
def agent(
    simulate: str | None, host: str | None, labels: tuple[str, ...], host_memory: str | None, cpus: float | None,
    once: bool, redis_url: str, pool: str,
) -> None:  # fmt: skip
    """Watch this host's GPUs and publish what they do, until SIGTERM or Ctrl-C."""
    from agent.host import report
    from agent.sampler import Sampler
    from broker.calls import check_name, cpus_milli, labels_text, this_host
    from broker.units import TIB, parse_size

    name = check_name("--host", host or this_host())
    source = _source(name, simulate)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    told = report(
        labels=labels_text(dict(_pair(label) for label in labels)),
        memory_bytes=None if host_memory is None else parse_size(host_memory, "--host-memory", most=1024 * TIB),
        cpus_milli=None if cpus is None else cpus_milli(cpus),
    )
    sampler = Sampler(broker_from(redis_url, pool), name, source, told)
    if once:
        sampler.sample()
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sampler.stop())
    sampler.run()


def _pair(label: str) -> tuple[str, str]:
    from broker.errors import InvalidRequest

    name, equals, value = label.partition("=")
    if not equals:
        raise InvalidRequest("--label", label, "NAME=VALUE")
    return name, value


def _source(host: str, simulate: str | None) -> Source:
    if simulate is not None:
        from agent.sources.simulated import SimulatedSource, parse_spec

        return SimulatedSource(host, parse_spec(simulate))
    from agent.sources.nvml import NvmlSource

    return NvmlSource()
