"""`gpubroker status`: the GPUs of the pool, and hosts that have none: a line each, as gpustat has it, or a table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from broker.cli import words
from broker.cli.options import WITNESS_META, broker_from, json_option, pool_options, print_json, redis_cli_option
from broker.cli.words import printable
from broker.glance import Line, Seen, Unusual
from broker.glance import pool as glance
from broker.units import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

_COLUMNS = (
    "HOST", "GPU", "NAME", "°C", "STATE", "JOB SPEED", "LEASED", "USED", "FREE", "TOTAL", "UUID", "REASON",
)  # fmt: skip
_NUMBERS = ("GPU", "°C", "JOB SPEED", "LEASED", "USED", "FREE", "TOTAL")


@click.command()
@click.option("--table", "as_table", is_flag=True, help="Show more of each GPU, its UUID among it, as a table.")
@pool_options
@redis_cli_option
@json_option
def status(as_table: bool, redis_url: str, pool: str, as_json: bool) -> None:
    """Show every GPU on a line: temperature, state, memory, and the leases on it; then whether all is well.

    lent: MiB of the card's total that are leased; used: what the driver says is in use. The state judges temperature
    and memory; in the table, JOB SPEED is what a job on the GPU is told, by temperature and health alone.
    """
    if as_json:
        return _print_json(redis_url, pool)
    seen = _look(redis_url, pool)
    if not seen.gpus and not seen.hosts:
        return click.echo(f"pool {pool} has no GPU and no host: start `gpubroker agent` on a machine with GPUs")
    if as_table:
        return _print_table(seen)
    # https://no-color.org: set to anything, it is meant.
    colour = False if os.environ.get("NO_COLOR") else None
    return click.echo("\n".join([*_lines(seen), _summary(seen)]), color=colour)


def _look(redis_url: str, pool: str) -> Seen:
    from broker.ledger.keys import Keys

    keys = Keys(pool)
    if click.get_current_context().meta.get(WITNESS_META):
        return broker_from(redis_url, pool).run(glance(keys))
    try:
        with Line(redis_url) as line:
            return line.run(glance(keys))
    except Unusual:
        return broker_from(redis_url, pool).run(glance(keys))


def _print_json(redis_url: str, pool: str) -> None:
    from broker.cli.table import ledger_now

    broker = broker_from(redis_url, pool)
    gpus, hosts, now = broker.gpus(), broker.hosts(), ledger_now(broker)
    print_json({"pool": pool, "now": now, "hosts": hosts, "gpus": [gpu.model_dump(mode="json") for gpu in gpus]})


# -- a line a card -----------------------------------------------------------------------------------------------------


def _lines(seen: Seen) -> list[str]:
    rows = [_card(gpu, seen.now) for gpu in seen.gpus]
    rows += [_bare(host, seen.now) for host in _without_cards(seen)]
    widths = [max(len(row[place]) for row in rows) for place in range(6)]
    return [_coloured(row, widths) for row in rows]


def _card(gpu: dict[str, str], now: int) -> list[str]:
    """Index, host, name, heat, state, lent MiB; then what need not stand under each other."""
    heat = gpu.get("temperature_c")
    used = words.mib(words.number(gpu, "memory_used_bytes"))
    more = " ".join(f"{name}({size // MIB}M)" for name, size in words.leases_on(gpu).items())
    reasons = "; ".join(words.reasons(gpu, now))
    return [
        f"[{gpu['index']}]", printable(gpu["host"]), printable(gpu["name"]), printable(f"{heat}°C") if heat else "",
        printable(words.state_of(gpu, now)), words.mib(words.number(gpu, "leased_bytes")),
        f" / {words.mib(words.number(gpu, 'memory_total_bytes'))} MiB lent, {used} used",
        *(f" | {printable(part)}" for part in (more, reasons) if part),
    ]  # fmt: skip


def _bare(host: dict[str, str], now: int) -> list[str]:
    return ["[-]", printable(host["host"]), "-", "", "UNAVAILABLE", "", f" | {printable(_why_bare(host, now))}"]


def _why_bare(host: dict[str, str], now: int) -> str:
    return words.silence(host, now) if words.silent(host, now) else host.get("reason") or "no GPU"


def _coloured(row: list[str], widths: Sequence[int]) -> str:
    index, host, name, heat, state, lent = (
        text.rjust(width) if place in (3, 5) else text.ljust(width)
        for place, (text, width) in enumerate(zip(row, widths, strict=False))
    )
    *style, colour = words.STATE_STYLES.get(row[4], "white").split()

    def mark(text: str) -> str:
        return click.style(text, fg=colour, bold="bold" in style)

    told = "".join(row[6:])
    return (
        f"{click.style(index, fg='cyan')} {host}  {click.style(name, fg='blue')}  {mark(heat)}  "
        f"{mark(state)}  {click.style(lent, fg='yellow', bold=True)}{told}"
    ).rstrip()


# -- all of them in one line -------------------------------------------------------------------------------------------


def _summary(seen: Seen) -> str:
    lending = sum(words.lends(gpu, seen.now) for gpu in seen.gpus)
    lent = sum(words.number(gpu, "leased_bytes") or 0 for gpu in seen.gpus)
    there = sum(words.number(gpu, "budget_bytes") or 0 for gpu in seen.gpus)
    drained = sum(bool(words.drained_by(gpu)) for gpu in seen.gpus)
    facts = [
        f"{lending} of {len(seen.gpus)} cards lend",
        *([f"{drained} drained"] if drained else []),
        f"{format_size(lent)} of {format_size(there)} lent",
        f"{seen.waiters} waiting" if seen.waiters else "nobody waits",
    ]
    troubles = _troubles(seen)
    if not troubles:
        return f"{click.style('all is well', fg='green')}: {', '.join(facts)}"
    head = click.style("not all is well", fg="red", bold=True)
    return f"{head}: {', '.join(troubles)}; {', '.join(facts)}; `gpubroker doctor` says what mends it"


def _troubles(seen: Seen) -> list[str]:
    """What somebody should look at; that a person drained a card is nothing of the kind."""
    counts = {
        "silent": sum(words.silent(gpu, seen.now) for gpu in seen.gpus),
        "UNAVAILABLE": sum(
            not words.silent(gpu, seen.now) and words.state_of(gpu, seen.now) == "UNAVAILABLE" for gpu in seen.gpus
        ),
        "CRITICAL": sum(words.state_of(gpu, seen.now) == "CRITICAL" for gpu in seen.gpus),
        "slowed down by heat": sum(
            gpu.get("job_state") == "THROTTLED" and not words.silent(gpu, seen.now) for gpu in seen.gpus
        ),
        "drained for health": sum("health" in words.drained_by(gpu) for gpu in seen.gpus),
        "with more lent than there is": sum(bool(words.number(gpu, "short_bytes")) for gpu in seen.gpus),
    }
    told = [f"{count} {'card' if count == 1 else 'cards'} {what}" for what, count in counts.items() if count]
    bare = len(_without_cards(seen))
    if not told and seen.gpus and not any(words.lends(gpu, seen.now) for gpu in seen.gpus):
        told.append("nothing lends")  # whoever drained the last card should know
    return [*told, *([f"{bare} {'host' if bare == 1 else 'hosts'} without a card"] if bare else [])]


def _without_cards(seen: Seen) -> list[dict[str, str]]:
    hosts = {gpu["host"] for gpu in seen.gpus}
    return [host for host in seen.hosts if host["host"] not in hosts]


# -- the table ---------------------------------------------------------------------------------------------------------


def _print_table(seen: Seen) -> None:
    from broker.cli.table import print_table

    rows = [_gpu_row(gpu, seen.now) for gpu in seen.gpus]
    rows += [_host_row(host, seen.now) for host in _without_cards(seen)]
    print_table(_COLUMNS, rows, _NUMBERS)


def _gpu_row(gpu: dict[str, str], now: int) -> list[str | Text]:
    from broker.cli.table import state_text

    speed = "0.0" if words.silent(gpu, now) else f"{float(gpu.get('job_speed') or 0):.1f}"
    return [
        gpu["host"], gpu["index"], gpu["name"], gpu.get("temperature_c") or "-",
        state_text(words.state_of(gpu, now)), speed,
        *(_size(gpu, f"{what}_bytes") for what in ("leased", "memory_used", "free", "memory_total")),
        gpu["uuid"], "; ".join(words.reasons(gpu, now)),
    ]  # fmt: skip


def _host_row(host: dict[str, str], now: int) -> list[str | Text]:
    from broker.cli.table import state_text

    return [
        host["host"], "-", "-", "-", state_text("UNAVAILABLE"), "0.0", *["-"] * 5, _why_bare(host, now),
    ]  # fmt: skip


def _size(fields: dict[str, str], name: str) -> str:
    value = words.number(fields, name)
    return "-" if value is None else format_size(value)
