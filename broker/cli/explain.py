"""`gpubroker explain`: why a request waits, or what one would meet now."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from broker.cli.options import (
    alternatives,
    broker_from,
    completes,
    json_option,
    pool_options,
    print_json,
    redis_cli_option,
    request_options,
)

if TYPE_CHECKING:
    from broker.explain import Explanation


@click.command()
@click.argument("what", shell_complete=completes("waiter"))
@click.option("--cards", is_flag=True, help="Also the verdict on each card.")
@click.option("--named", is_flag=True, help="WHAT is a name, even if it reads like a size.")
@request_options
@pool_options
@redis_cli_option
@json_option
def explain(
    what: str, cards: bool, named: bool, request: dict[str, Any], redis_url: str, pool: str, as_json: bool
) -> None:
    """Say why WHAT waits: a job of RQ, a request or lease by name, or a size to ask for, 20GiB or 16GiB,2x8GiB.

    The options say more about a size; a request that waits has said all that already.
    """
    from broker.explain import explain as ask
    from broker.explain import explain_named

    broker = broker_from(redis_url, pool)
    told = explain_named(broker, what) if named else ask(broker, alternatives(what), **request)
    if as_json:
        print_json(asdict(told) | {"ahead": told.ahead, "fits": told.fits, "words": told.words()})
    else:
        click.echo(str(told))
        if cards:
            _print_cards(told)
    if told.kind == "unknown":
        click.get_current_context().exit(1)


def _print_cards(told: Explanation) -> None:
    from broker.cli.table import print_table
    from broker.units import format_size

    sizes = ("NEEDED", "FREE", "BUDGET", "CAPACITY")
    rows = [
        [
            card.host, card.uuid, card.why, format_size(card.need_bytes), format_size(card.free_bytes),
            format_size(card.budget_bytes), format_size(card.capacity_bytes), card.detail,
        ]
        for card in told.cards
    ]  # fmt: skip
    print_table(("HOST", "GPU", "VERDICT", *sizes, "DETAIL"), rows, sizes)
