"""`gpubroker sizes`: what functions took, by the size of their input, and so ask for by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli.options import broker_from, completes, json_option, pool_options, print_json, redis_cli_option

if TYPE_CHECKING:
    from broker.sizes import Learned


@click.command()
@click.option(
    "--forget",
    metavar="FUNCTION",
    shell_complete=completes("function"),
    help="Forget all of FUNCTION: it asks for its default again.",
)
@pool_options
@redis_cli_option
@json_option
def sizes(forget: str | None, redis_url: str, pool: str, as_json: bool) -> None:
    """Show what functions that ask for memory="auto" had and used, by the size of their input."""
    broker = broker_from(redis_url, pool)
    if forget is not None:
        return _forgotten(forget, broker.forget(forget), as_json)
    listed = broker.sizes()
    if as_json:
        return print_json([one.as_dict() for one in listed])
    if not listed:
        return click.echo(f'pool {pool} has learned nothing: no @gpu_job with memory="auto" was seen by an agent yet')
    return _print_sizes(listed)


def _forgotten(function: str, known: bool, as_json: bool) -> None:
    from broker.errors import BrokerError

    if not known:
        raise BrokerError(f"nothing was learned of function {function}; see `gpubroker sizes`")
    if as_json:
        return print_json({"forgotten": function})
    return click.echo(f"forgot {function}")


def _print_sizes(listed: list[Learned]) -> None:
    from broker.cli.table import print_table
    from broker.units import format_size

    def shown(size_bytes: int) -> str:
        return format_size(size_bytes) if size_bytes else "-"

    rows = [
        [
            one.function, "-" if one.size is None else f"{one.size:.3g}", str(one.runs), shown(one.asked_bytes),
            shown(one.peak_bytes), "-" if one.wasted_percent is None else f"{one.wasted_percent:.0f}", str(one.oom),
            shown(one.floor_bytes),
        ]
        for one in listed
    ]  # fmt: skip
    columns = ("FUNCTION", "INPUT SIZE", "RUNS", "ASKED", "PEAK", "WASTED %", "OOM", "AT LEAST")
    print_table(columns, rows, columns[1:])
