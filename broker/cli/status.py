"""`gpubroker status`: the GPUs of the pool, and the hosts that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli.options import broker_from, json_option, pool_options, print_json

if TYPE_CHECKING:
    from rich.text import Text

    from broker.models import Gpu

_COLUMNS = (
    "HOST", "GPU", "NAME", "°C", "STATE", "JOB SPEED", "LEASED", "USED", "FREE", "TOTAL", "UUID", "REASON",
)  # fmt: skip
_DRAINED = {
    "gpu": "drained",
    "host": "drained with its host",
    "health": "drained for its health",
    "people": "drained for people",
}
_NUMBERS = ("GPU", "°C", "JOB SPEED", "LEASED", "USED", "FREE", "TOTAL")


@click.command()
@pool_options
@json_option
def status(redis_url: str, pool: str, as_json: bool) -> None:
    """Show every GPU: temperature, state, and its memory as leased, used and free of its total.

    STATE judges temperature and memory; JOB SPEED is what a job on the GPU is told, by temperature and health alone.
    """
    from broker.cli.table import ledger_now, print_table

    broker = broker_from(redis_url, pool)
    gpus, hosts, now = broker.gpus(), broker.hosts(), ledger_now(broker)
    if as_json:
        return print_json(
            {"pool": pool, "now": now, "hosts": hosts, "gpus": [gpu.model_dump(mode="json") for gpu in gpus]}
        )
    rows = [_gpu_row(gpu, now) for gpu in gpus]
    bare = {host["host"] for host in hosts} - {gpu.host for gpu in gpus}
    rows += [_host_row(host, now) for host in hosts if host["host"] in bare]
    if not rows:
        return click.echo(f"pool {pool} has no GPU and no host: start `gpubroker agent` on a machine with GPUs")
    return print_table(_COLUMNS, rows, _NUMBERS)


def _gpu_row(gpu: Gpu, now: int) -> list[str | Text]:
    from broker.cli.table import state_text

    reasons = [_DRAINED[mark] for mark in _DRAINED if mark in gpu.drained_by.split(",")]
    reasons += [f"kept for {gpu.reserved_for}" if gpu.reserved_for else ""]
    reasons += [_silence(gpu.sampled_at, now) if gpu.fresh_until < now else gpu.reason]
    if gpu.short_bytes:
        reasons.append(f"leases exceed the budget by {_size(gpu.short_bytes)}")
    return [
        gpu.host, str(gpu.index), gpu.name, _known(gpu.temperature_c), state_text(gpu.state), f"{gpu.job_speed:.1f}",
        _size(gpu.leased_bytes), _size(gpu.memory_used_bytes), _size(gpu.free_bytes), _size(gpu.memory_total_bytes),
        gpu.uuid, "; ".join(filter(None, reasons)),
    ]  # fmt: skip


def _host_row(host: dict[str, str], now: int) -> list[str | Text]:
    from broker.cli.table import state_text

    silent = int(host.get("fresh_until") or 0) < now
    reason = _silence(int(host.get("sampled_at") or 0), now) if silent else host.get("reason", "")
    unknown = _known(None)
    blanks = [unknown] * 4
    return [
        host["host"], unknown, unknown, unknown, state_text("UNAVAILABLE"), "0.0", *blanks, unknown, reason or "no GPU",
    ]  # fmt: skip


def _silence(sampled_at: int, now: int) -> str:
    from broker.cli.table import duration

    return f"no sample for {duration(now - sampled_at)}"


def _known(value: int | None) -> str:
    return "-" if value is None else str(value)


def _size(value: int | None) -> str:
    from broker.units import format_size

    return "-" if value is None else format_size(value)
