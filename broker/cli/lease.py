"""`gpubroker acquire`, `renew`, `resize` and `release`: a lease from the shell."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from broker.cli.options import (
    alternatives,
    broker_from,
    completes,
    json_option,
    note_if_bytes,
    pool_options,
    print_facts,
    print_json,
    redis_cli_option,
    request_options,
)

if TYPE_CHECKING:
    from broker.lease import Lease


@click.command()
@click.argument("memory")
@click.option("--ttl", type=float, default=30.0, show_default=True, help="Seconds until it ends unless renewed.")
@click.option("--wait", type=float, default=0.0, show_default=True, help="Seconds to wait for room.")
@click.option("--lease-id", help="Its name; the same name and request again take nothing twice.")
@request_options
@pool_options
@redis_cli_option
@json_option
def acquire(
    memory: str,
    ttl: float,
    wait: float,
    lease_id: str | None,
    request: dict[str, Any],
    redis_url: str,
    pool: str,
    as_json: bool,
) -> None:
    """Borrow MEMORY (such as 4GiB) of one GPU and print the lease: `gpubroker release ID TOKEN` ends it.

    2x8GiB is 8 GiB of each of two GPUs of one host; 16GiB,2x8GiB takes the first of the two that there is room for. A
    number without a unit is bytes.
    """
    broker = broker_from(redis_url, pool)
    lease = broker.acquire(alternatives(memory), ttl=ttl, wait=wait, lease_id=lease_id, owner=shell_owner(), **request)
    print_facts(lease_facts(lease), as_json)
    note_if_bytes(memory)


def lease_facts(lease: Lease) -> dict[str, Any]:
    """What the shell is told of a lease."""
    return {
        "id": lease.id,
        "token": lease.token,
        "gpu_uuids": ",".join(lease.gpu_uuids),
        "host": lease.host,
        "memory_bytes": lease.memory_bytes,
        "expires_at": lease.expires_at,
        "choice": lease.choice,
    }


def shell_owner() -> str:
    """Who runs the shell: this process is over before its lease is."""
    from getpass import getuser

    from broker.calls import this_host

    try:
        return f"{getuser()}@{this_host()}"
    except (KeyError, OSError):  # a container's user need not have a name
        return f"{os.getuid()}@{this_host()}"


@click.command()
@click.argument("lease_id", metavar="ID", shell_complete=completes("lease"))
@click.argument("token", type=int)
@click.option("--ttl", type=float, help="Seconds from now until it ends, also from the next renewal on.")
@pool_options
@redis_cli_option
@json_option
def renew(lease_id: str, token: int, ttl: float | None, redis_url: str, pool: str, as_json: bool) -> None:
    """Put off the end of lease ID, held under TOKEN."""
    renewal = broker_from(redis_url, pool).prolong(lease_id, token, ttl)
    facts = {"id": lease_id, "expires_at": renewal.expires_at}
    if renewal.revoke_at:
        facts |= {"revoke_at": renewal.revoke_at, "reason": renewal.reason}
        click.echo(f"{lease_id} is wanted back: {renewal.reason}; release it before revoke_at", err=True)
    print_facts(facts, as_json)


@click.command()
@click.argument("lease_id", metavar="ID", shell_complete=completes("lease"))
@click.argument("token", type=int)
@click.argument("memory")
@click.option("--wait", type=float, default=0.0, show_default=True, help="Seconds to wait for room to grow.")
@pool_options
@redis_cli_option
@json_option
def resize(lease_id: str, token: int, memory: str, wait: float, redis_url: str, pool: str, as_json: bool) -> None:
    """Give lease ID, held under TOKEN, MEMORY of each of its GPUs instead of what it has."""
    memory_bytes = broker_from(redis_url, pool).resize(lease_id, token, memory, wait=wait)
    print_facts({"id": lease_id, "memory_bytes": memory_bytes}, as_json)


@click.command()
@click.argument("lease_id", metavar="ID", shell_complete=completes("lease"))
@click.argument("token", type=int)
@pool_options
@redis_cli_option
@json_option
def release(lease_id: str, token: int, redis_url: str, pool: str, as_json: bool) -> None:
    """Give lease ID back, held under TOKEN."""
    in_time = broker_from(redis_url, pool).release(lease_id, token)
    if as_json:
        print_json({"id": lease_id, "in_time": in_time})
    else:
        click.echo(f"released {lease_id}" + ("" if in_time else ", whose time had passed"))
