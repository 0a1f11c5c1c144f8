"""``gpubroker worker``."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.resources import files

import click

from broker.cli.options import broker_from, pool_options


@click.command()
@click.option("--queue", "queues", multiple=True, default=["default"], show_default=True, help="Repeatable; in order.")
@click.option("--host", envvar="GPUBROKER_HOST", help="Borrow on this host's cards.  [default: the host name]")
@click.option("--name", help="Of the worker, unique.  [default: random]")
@click.option("--burst", is_flag=True, help="Quit when the queues are empty.")
@click.option("--require-module", "modules", multiple=True, help="Import before the first job, so that forks are warm.")
@click.option("--with-scheduler", is_flag=True, help="Also move RQ's scheduled jobs into their queues.")
@click.option("--unit", is_flag=True, help="Print a unit for systemd, and do nothing more.")
@pool_options
def worker(
    queues: tuple[str, ...],
    host: str | None,
    name: str | None,
    burst: bool,
    modules: tuple[str, ...],
    with_scheduler: bool,
    unit: bool,
    redis_url: str,
    pool: str,
) -> None:
    """Run RQ jobs; those that borrow GPU memory wait for it before they start."""
    if unit:
        click.echo((files("worker_hooks") / "gpubroker-worker@.service").read_text(encoding="utf-8"), nl=False)
        return
    from broker.calls import check_name
    from worker_hooks.queue_connection import queue_connection

    connection = queue_connection(redis_url)
    broker_from(redis_url, pool).close()  # says now whether there is a ledger
    os.environ["GPUBROKER_REDIS_URL"], os.environ["GPUBROKER_POOL"] = redis_url, pool
    if host is not None:
        os.environ["GPUBROKER_HOST"] = check_name("host", host)

    from worker_hooks.worker import GpuWorker

    sys.path.insert(0, os.getcwd())  # as `rq worker` does: jobs live where their worker is started
    for module in modules:
        importlib.import_module(module)
    GpuWorker(list(queues), name=name, connection=connection).work(burst=burst, with_scheduler=with_scheduler)
