"""`gpubroker drain`, `undrain` and `retire`: take a GPU or a whole host out of service, and back, or for good."""

from __future__ import annotations

import click

from broker.cli.options import broker_from, completes, json_option, pool_options, print_json, redis_cli_option


@click.command()
@click.argument("gpu", required=False, shell_complete=completes("gpu"))
@click.option(
    "--host",
    shell_complete=completes("host"),
    help="Every GPU of this host instead, also those that are still to come.",
)
@pool_options
@redis_cli_option
@json_option
def drain(gpu: str | None, host: str | None, redis_url: str, pool: str, as_json: bool) -> None:
    """Grant nothing more on the GPU of this UUID; running leases stay."""
    _require_one(gpu, host)
    broker_from(redis_url, pool).drain(gpu, host=host)
    _tell("drained", gpu, host, as_json)


@click.command()
@click.argument("gpu", required=False, shell_complete=completes("gpu"))
@click.option(
    "--host", shell_complete=completes("host"), help="A host instead; its GPUs that are drained themselves stay so."
)
@pool_options
@redis_cli_option
@json_option
def undrain(gpu: str | None, host: str | None, redis_url: str, pool: str, as_json: bool) -> None:
    """Grant on the GPU of this UUID again."""
    _require_one(gpu, host)
    broker_from(redis_url, pool).undrain(gpu, host=host)
    _tell("undrained", gpu, host, as_json)


@click.command()
@click.argument("host", shell_complete=completes("host"))
@pool_options
@redis_cli_option
@json_option
def retire(host: str, redis_url: str, pool: str, as_json: bool) -> None:
    """Forget HOST, whose agent is gone for good; its GPUs go with their last leases."""
    broker_from(redis_url, pool).retire(host)
    _tell("retired", None, host, as_json)


def _tell(done: str, gpu: str | None, host: str | None, as_json: bool) -> None:
    if as_json:
        print_json({"done": done, "gpu": gpu, "host": host})
    else:
        click.echo(f"{done} {gpu or host}")


def _require_one(gpu: str | None, host: str | None) -> None:
    if (gpu is None) == (host is None):
        raise click.UsageError("name either a GPU or a --host")
