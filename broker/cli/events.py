"""`gpubroker events` and `history`: what happened in the pool, and how one GPU was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from broker.cli.options import broker_from, completes, json_option, pool_options, print_json, redis_cli_option

if TYPE_CHECKING:
    from rich.text import Text

    from broker.models import Event


@click.command()
@click.option("--count", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="The last so many.")
@click.option("--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@pool_options
@redis_cli_option
@json_option
def events(count: int, follow: bool, redis_url: str, pool: str, as_json: bool) -> None:
    """Print the journal, oldest first: one line an event. With --follow, --json prints one object a line."""
    broker = broker_from(redis_url, pool)
    recent = broker.recent_events(count)
    if as_json and not follow:
        return print_json([event.model_dump(mode="json") for event in recent])
    for event in recent:
        _print_event(event, as_json)
    if follow:
        try:
            for following in broker.follow(recent[-1].stream_id if recent else "0"):
                if following is not None:
                    _print_event(following, as_json)
        except KeyboardInterrupt:
            return None
    return None


def _print_event(event: Event, as_json: bool) -> None:
    if as_json:
        return click.echo(json.dumps(event.model_dump(mode="json"), ensure_ascii=False))
    from broker.cli.table import timestamp
    from broker.cli.words import printable

    words = " ".join(f"{name}={_word(printable(value))}" for name, value in event.fields.items())
    return click.echo(f"{timestamp(event.at)} {event.seq} {printable(event.kind)} {words}".rstrip())


def _word(value: str) -> str:
    return f'"{value}"' if " " in value or not value else value


@click.command()
@click.argument("uuid", shell_complete=completes("gpu"))
@pool_options
@redis_cli_option
@json_option
def history(uuid: str, redis_url: str, pool: str, as_json: bool) -> None:
    """Print the samples kept of the GPU of this UUID, oldest first."""
    samples = broker_from(redis_url, pool).history(uuid)
    if as_json:
        return print_json([sample.model_dump(mode="json") for sample in samples])
    from broker.cli.table import print_table, state_text, timestamp
    from broker.units import format_size

    rows: list[list[str | Text]] = [
        [
            timestamp(sample.at),
            "-" if sample.temperature_c is None else str(sample.temperature_c),
            state_text(sample.state),
            "-" if sample.memory_used_bytes is None else format_size(sample.memory_used_bytes),
            "-" if sample.utilization_percent is None else str(sample.utilization_percent),
            "-" if sample.power_mw is None else f"{sample.power_mw / 1000:.0f}",
        ]
        for sample in samples
    ]
    return print_table(("TIME", "°C", "STATE", "USED", "UTIL %", "WATT"), rows, ("°C", "USED", "UTIL %", "WATT"))
