"""`gpubroker leases` and `gpubroker waiters`: who holds memory, and who waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli.options import broker_from, json_option, pool_options, print_json, redis_cli_option

if TYPE_CHECKING:
    from broker.models import LeaseRecord


@click.command()
@pool_options
@redis_cli_option
@json_option
def leases(redis_url: str, pool: str, as_json: bool) -> None:
    """Show every lease, the next to end first. A reclaiming one is over, but its memory was not seen back yet."""
    from broker.cli.table import ledger_now, print_table
    from broker.units import duration

    broker = broker_from(redis_url, pool)
    held = broker.leases()
    if as_json:
        return print_json([lease.model_dump(mode="json") for lease in held])
    if not held:
        return click.echo(f"pool {pool} has no lease")
    now = ledger_now(broker)
    rows = [
        [
            lease.id, lease.host, lease.gpu_uuids, _size_of(lease), str(lease.token), _state_of(lease),
            lease.owner, lease.job_id or "-", duration(now - lease.created_at), duration(lease.expires_at - now),
            _used(lease),
        ]
        for lease in held
    ]  # fmt: skip
    columns = ("ID", "HOST", "GPU", "MEMORY", "TOKEN", "STATE", "OWNER", "JOB", "HELD", "ENDS IN", "USED")
    return print_table(columns, rows, ("MEMORY", "TOKEN", "HELD", "ENDS IN", "USED"))


def _used(lease: LeaseRecord) -> str:
    """What its process takes, on all its cards; ``-`` where nobody could see it."""
    from broker.units import format_size

    return "-" if lease.used_bytes is None else format_size(lease.used_bytes)


def _size_of(lease: LeaseRecord) -> str:
    from broker.units import format_size

    return ("" if lease.gpus == 1 else f"{lease.gpus}x") + format_size(lease.memory_bytes)


def _state_of(lease: LeaseRecord) -> str:
    """Its state, and what else is special about it."""
    marks = {
        "revoked": lease.revoke_at is not None and lease.state != "reclaiming",
        "adopted": lease.adopted,
        "registered": lease.registered,
        "overused": bool(lease.over_bytes),
        "idle": bool(lease.idle_seconds),
    }
    return " ".join([lease.state, *(mark for mark, there in marks.items() if there)])


@click.command()
@pool_options
@redis_cli_option
@json_option
def waiters(redis_url: str, pool: str, as_json: bool) -> None:
    """Show every request that waits, the next to be served first."""
    from broker.cli.table import ledger_now, print_table
    from broker.units import duration

    broker = broker_from(redis_url, pool)
    queue = broker.waiters()
    if as_json:
        return print_json([waiter.model_dump(mode="json") for waiter in queue])
    if not queue:
        return click.echo(f"nobody waits in pool {pool}")
    now = ledger_now(broker)
    rows = [
        [
            waiter.id, waiter.memory, waiter.host or "any", waiter.gpu or "any", str(waiter.priority), waiter.tenant,
            waiter.owner, waiter.job_id or "-", duration(now - waiter.since), waiter.reserved_gpus or "-",
        ]
        for waiter in queue
    ]  # fmt: skip
    columns = ("ID", "MEMORY", "HOST", "GPU", "PRIORITY", "TENANT", "OWNER", "JOB", "WAITED", "KEPT FOR IT")
    return print_table(columns, rows, ("MEMORY", "PRIORITY", "WAITED"))
