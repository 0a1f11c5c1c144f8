"""`gpubroker hosts` and `gpubroker processes`: the machines of the pool, and what runs on their GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli.options import broker_from, completes, json_option, pool_options, print_json, redis_cli_option

if TYPE_CHECKING:
    from rich.text import Text

_HOSTS = (
    "HOST", "GPUS", "CPU %", "LOAD", "MEMORY USED", "OF", "LEASED", "SWAP", "DISK FREE", "LABELS", "SOURCE",
    "NEWS IS OLD", "REASON",
)  # fmt: skip
_PROCESSES = ("HOST", "GPU", "PID", "PROGRAM", "MEMORY", "LEASE")


@click.command()
@pool_options
@redis_cli_option
@json_option
def hosts(redis_url: str, pool: str, as_json: bool) -> None:
    """Show every machine as its agent tells it: processors, memory, and the room where its jobs write."""
    from broker.cli.table import ledger_now, print_table
    from broker.units import duration

    broker = broker_from(redis_url, pool)
    found, now = broker.hosts(), ledger_now(broker)
    if as_json:
        return print_json(found)
    if not found:
        return click.echo(f"pool {pool} has no host: start `gpubroker agent` on a machine with GPUs")
    rows: list[list[str | Text]] = [
        [
            host["host"], str(len(host.get("gpus", "").split())), host.get("cpu_percent", "-"), _load(host),
            _size(host, "memory_used_bytes"), _size(host, "memory_bytes"), _size(host, "leased_memory_bytes"),
            _size(host, "swap_used_bytes"), _size(host, "disk_free_bytes"), host.get("labels") or "-",
            host.get("source", "-"), duration(now - int(host.get("sampled_at") or now)), host.get("reason", ""),
        ]
        for host in found
    ]  # fmt: skip
    return print_table(_HOSTS, rows, _HOSTS[1:9])


@click.command()
@click.argument("gpu", required=False, shell_complete=completes("gpu"))
@pool_options
@redis_cli_option
@json_option
def processes(gpu: str | None, redis_url: str, pool: str, as_json: bool) -> None:
    """Show every process on the GPU of this UUID, or on all, and the lease that it works under; without one it is a
    stranger, whose memory nobody can borrow."""
    from dataclasses import asdict

    from broker.cli.hardware import chosen
    from broker.cli.table import print_table
    from broker.units import format_size

    broker = broker_from(redis_url, pool)
    listed = {one.uuid: (one, broker.processes(one.uuid)) for one in chosen(broker, gpu)}
    if as_json:
        return print_json({uuid: [asdict(process) for process in found] for uuid, (_, found) in listed.items()})
    rows: list[list[str | Text]] = [
        [
            card.host, str(card.index), str(process.pid), process.name or "-",
            "-" if process.memory_bytes is None else format_size(process.memory_bytes), process.lease or "none",
        ]
        for card, found in listed.values()
        for process in found
    ]  # fmt: skip
    if not rows:
        return click.echo("no process is on these GPUs, or their drivers do not list them")
    return print_table(_PROCESSES, rows, ("GPU", "PID", "MEMORY"))


def _size(host: dict[str, str], name: str) -> str:
    from broker.units import format_size

    return format_size(int(host[name])) if host.get(name) else "-"


def _load(host: dict[str, str]) -> str:
    return f"{int(host['load_milli']) / 1000:.2f}" if host.get("load_milli") else "-"
