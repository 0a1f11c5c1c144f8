"""`gpubroker tenants` and `tenants set`: who shares the pool, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli.options import (
    broker_from,
    completes,
    json_option,
    note_if_bytes,
    pool_options,
    print_json,
    redis_cli_option,
)

if TYPE_CHECKING:
    from broker.models import Tenant


@click.group(invoke_without_command=True)
@click.option("--functions", is_flag=True, help="What the leases of each function came to instead.")
@pool_options
@redis_cli_option
@json_option
@click.pass_context
def tenants(context: click.Context, functions: bool, redis_url: str, pool: str, as_json: bool) -> None:
    """Show every tenant: what it holds, may hold and has used lately; older use counts less."""
    if context.invoked_subcommand is not None:
        return None
    listed = broker_from(redis_url, pool).tenants()
    if as_json:
        return print_json([tenant.model_dump(mode="json") for tenant in listed])
    if not listed:
        return click.echo(f"pool {pool} has no tenant: nobody has borrowed anything yet")
    return _print_functions(listed) if functions else _print_tenants(listed)


def _print_tenants(listed: list[Tenant]) -> None:
    from broker.cli.table import print_table
    from broker.units import format_size

    rows = [
        [
            tenant.name, format_size(tenant.leased_bytes),
            "-" if tenant.quota_bytes is None else format_size(tenant.quota_bytes), f"{tenant.weight:g}",
            f"{tenant.usage_mib_seconds / 1024 / 3600:.2f}", str(sum(one.count for one in tenant.functions.values())),
        ]
        for tenant in listed
    ]  # fmt: skip
    columns = ("TENANT", "LEASED", "QUOTA", "WEIGHT", "USED GiB·h", "LEASES ENDED")
    print_table(columns, rows, columns[1:])


def _print_functions(listed: list[Tenant]) -> None:
    from broker.cli.table import print_table
    from broker.units import MIB, duration, format_size

    rows = []
    for tenant in listed:
        for name, account in tenant.functions.items():
            n = max(1, account.count)
            rows.append([
                tenant.name, name, str(account.count), duration(account.held_ms // n), duration(account.waited_ms // n),
                format_size(account.asked_mib * MIB // n),
                "-" if not account.peak_mib else format_size(account.peak_mib * MIB // n),
            ])  # fmt: skip
    numbers = ("LEASES", "HELD", "WAITED", "ASKED", "PEAK")
    print_table(("TENANT", "FUNCTION", *numbers), rows, numbers)


@tenants.command("set")
@click.argument("name", shell_complete=completes("tenant"))
@click.option("--quota", help="Most that it may hold at a time, over all GPUs, such as 32GiB; 0 is no limit.")
@click.option("--weight", type=float, help="Of two tenants that used the same, twice the weight counts as half of it.")
@pool_options
@redis_cli_option
@json_option
def set_tenant(name: str, quota: str | None, weight: float | None, redis_url: str, pool: str, as_json: bool) -> None:
    """Change the quota or the weight of tenant NAME; a quota below what it holds ends nothing."""
    if quota is None and weight is None:
        raise click.UsageError("name a --quota or a --weight")
    broker = broker_from(redis_url, pool)
    broker.set_tenant(name, quota=0 if quota == "0" else quota, weight=weight)
    note_if_bytes(quota or "")
    (tenant,) = [tenant for tenant in broker.tenants() if tenant.name == name]
    if as_json:
        return print_json(tenant.model_dump(mode="json"))
    return _print_tenants([tenant])
