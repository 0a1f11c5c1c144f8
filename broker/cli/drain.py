"""`gpubroker drain`, `undrain` and `retire`: take a GPU or a whole host out of service, and back, or for good."""

from __future__ import annotations

import click

from broker.cli.options import broker_from, pool_options


@click.command()
@click.argument("gpu", required=False)
@click.option("--host", help="Every GPU of this host instead, also those that are still to come.")
@pool_options
def drain(gpu: str | None, host: str | None, redis_url: str, pool: str) -> None:
    """Grant nothing more on the GPU of this UUID; running leases stay."""
    _require_one(gpu, host)
    broker_from(redis_url, pool).drain(gpu, host=host)
    click.echo(f"drained {gpu or host}")


@click.command()
@click.argument("gpu", required=False)
@click.option("--host", help="A host instead; its GPUs that are drained themselves stay so.")
@pool_options
def undrain(gpu: str | None, host: str | None, redis_url: str, pool: str) -> None:
    """Grant on the GPU of this UUID again."""
    _require_one(gpu, host)
    broker_from(redis_url, pool).undrain(gpu, host=host)
    click.echo(f"undrained {gpu or host}")


@click.command()
@click.argument("host")
@pool_options
def retire(host: str, redis_url: str, pool: str) -> None:
    """Forget HOST, whose agent is gone for good; its GPUs go with their last leases."""
    broker_from(redis_url, pool).retire(host)
    click.echo(f"retired {host}")


def _require_one(gpu: str | None, host: str | None) -> None:
    if (gpu is None) == (host is None):
        raise click.UsageError("name either a GPU or a --host")
