"""`gpubroker drain` and `undrain`: take a GPU out of service, and back."""

from __future__ import annotations

import click

from broker.cli.options import broker_from, pool_options


@click.command()
@click.argument("uuid")
@pool_options
def drain(uuid: str, redis_url: str, pool: str) -> None:
    """Grant nothing more on the GPU of this UUID; running leases stay."""
    broker_from(redis_url, pool).drain(uuid)
    click.echo(f"drained {uuid}")


@click.command()
@click.argument("uuid")
@pool_options
def undrain(uuid: str, redis_url: str, pool: str) -> None:
    """Grant on the GPU of this UUID again."""
    broker_from(redis_url, pool).undrain(uuid)
    click.echo(f"undrained {uuid}")
