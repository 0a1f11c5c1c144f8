"""`gpubroker hardware`: what cards say of themselves beside memory, heat and load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli.options import broker_from, completes, json_option, pool_options, print_json, redis_cli_option

if TYPE_CHECKING:
    from rich.text import Text

    from broker import Broker
    from broker.models import Gpu

_COLUMNS = ("HOST", "GPU", "WHAT", "VALUE", "MEANING")


def chosen(broker: Broker, gpu: str | None) -> list[Gpu]:
    """The GPU of a UUID, or every GPU.

    Raises:
        InvalidRequest: the pool has no such GPU.
    """
    from broker.errors import InvalidRequest

    gpus = [one for one in broker.gpus() if gpu in (None, one.uuid)]
    if gpu is not None and not gpus:
        raise InvalidRequest("GPU", gpu, "the UUID of a GPU in the pool; `gpubroker status --table` lists them")
    return gpus


@click.command()
@click.argument("gpu", required=False, shell_complete=completes("gpu"))
@pool_options
@redis_cli_option
@json_option
def hardware(gpu: str | None, redis_url: str, pool: str, as_json: bool) -> None:
    """Show all that the GPU of this UUID, or every GPU, offers in its newest sample: limits, clocks, errors, links.

    What a card does not offer is not there.
    """
    from broker.cli.table import print_table
    from broker.hardware import FIELDS

    broker = broker_from(redis_url, pool)
    gpus = chosen(broker, gpu)
    said = {one.uuid: broker.hardware(one.uuid) for one in gpus}
    if as_json:
        return print_json(said)
    rows: list[list[str | Text]] = [
        [one.host, str(one.index), name, str(value), FIELDS[name]]
        for one in gpus
        for name, value in said[one.uuid].items()
    ]
    if not rows:
        return click.echo(f"no GPU of pool {pool} says more than `gpubroker status` shows")
    return print_table(_COLUMNS, rows, ("GPU", "VALUE"))
