"""`gpubroker adopt` and `revoke`: memory that nobody asked for, and memory that is wanted back."""

from __future__ import annotations

import click

from broker.cli.lease import lease_facts, shell_owner
from broker.cli.options import broker_from, completes, json_option, pool_options, print_facts, redis_cli_option


@click.command()
@click.argument("pid", type=int)
@click.argument("memory")
@click.option("--host", shell_complete=completes("host"), help="Where the process runs.  [default: this machine]")
@click.option(
    "--gpu",
    shell_complete=completes("gpu"),
    help="UUID of the GPU it uses.  [default: the one on which it has most]",
)
@click.option("--ttl", type=float, default=30.0, show_default=True, help="Seconds it counts when its agent is silent.")
@click.option("--tenant", default="default", show_default=True, help="On whose account.")
@click.option("--lease-id", help="Its name.")
@pool_options
@redis_cli_option
@json_option
def adopt(
    pid: int,
    memory: str,
    host: str | None,
    gpu: str | None,
    ttl: float,
    tenant: str,
    lease_id: str | None,
    redis_url: str,
    pool: str,
    as_json: bool,
) -> None:
    """Make a lease of the MEMORY that process PID uses without one; its agent renews it while the process runs."""
    broker = broker_from(redis_url, pool)
    lease = broker.adopt(
        pid, memory, host=host, gpu=gpu, ttl=ttl, tenant=tenant, lease_id=lease_id, owner=shell_owner()
    )
    print_facts(lease_facts(lease), as_json)


@click.command()
@click.argument("lease_id", metavar="ID", shell_complete=completes("lease"))
@click.option("--grace", type=float, default=10.0, show_default=True, help="Seconds that its holder has to end it.")
@click.option("--reason", default="revoked", show_default=True, help="What its holder is told.")
@pool_options
@redis_cli_option
@json_option
def revoke(lease_id: str, grace: float, reason: str, redis_url: str, pool: str, as_json: bool) -> None:
    """Ask the holder of lease ID to end it; after the grace it ends as if its time were over."""
    revoke_at = broker_from(redis_url, pool).revoke(lease_id, grace=grace, reason=reason)
    print_facts({"id": lease_id, "revoke_at": revoke_at}, as_json)
