"""`gpubroker trend`: where one GPU's temperature goes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import click

from broker.cli.options import broker_from, completes, json_option, pool_options, print_json, redis_cli_option

_SPARKS = "▁▂▃▄▅▆▇█"
#: A sparkline is not wider: of more readings each sign is a mean of several.
_WIDEST = 60
_COLUMNS = ("GPU", "°C", "°C/MIN", "±", "TREND", "NEXT", "NEXT °C", "IN", "SAMPLES", "SPAN")
_NUMBERS = ("°C", "°C/MIN", "±", "NEXT °C", "IN", "SAMPLES", "SPAN")


@click.command()
@click.argument("gpu", shell_complete=completes("gpu"))
@click.option("--minutes", type=float, default=5.0, show_default=True, help="Of the last so many, 0.1 to 1440.")
@pool_options
@redis_cli_option
@json_option
def trend(gpu: str, minutes: float, redis_url: str, pool: str, as_json: bool) -> None:
    """Say where the temperature of the GPU of this UUID goes, and when it crosses the next threshold.

    It sees the samples that the pool keeps of the card, history_size of them.
    """
    from dataclasses import asdict

    told = broker_from(redis_url, pool).trend(gpu, minutes)
    if as_json:
        return print_json(asdict(told) | {"words": told.words()})
    from broker.cli.table import print_table
    from broker.units import duration

    click.echo(told.words())
    if heats := told.temperatures:
        click.echo(f"{min(heats)} °C {sparkline(heats)} {max(heats)} °C")
    ahead, slope, error = told.seconds_to_threshold, told.slope_c_per_minute, told.stderr_c_per_minute
    row = [
        told.gpu,
        "-" if told.temperature_c is None else str(told.temperature_c),
        "-" if slope is None else f"{slope:+.2f}",
        "-" if error is None else f"{error:.2f}",
        told.direction,
        told.next_threshold or "-",
        "-" if told.threshold_c is None else str(told.threshold_c),
        "-" if ahead is None else duration(round(ahead * 1000)),
        str(told.samples),
        duration(round(told.span_seconds * 1000)),
    ]
    return print_table(_COLUMNS, [row], _NUMBERS)


def sparkline(values: Sequence[float], widest: int = _WIDEST) -> str:
    """A sign a value, scaled between the least and the greatest; all are the lowest where those are one."""
    width = min(widest, len(values))
    bounds = [round(i * len(values) / width) for i in range(width + 1)] if width else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]
    least, span = min(values, default=0.0), max(values, default=0.0) - min(values, default=0.0)
    return "".join(_SPARKS[int((mean - least) / span * (len(_SPARKS) - 1) + 0.5) if span else 0] for mean in means)
