"""`gpubroker acquire`, `renew` and `release`: a lease from the shell."""

from __future__ import annotations

import os

import click

from broker.cli.options import broker_from, json_option, pool_options, print_json


@click.command()
@click.argument("memory")
@click.option("--ttl", type=float, default=30.0, show_default=True, help="Seconds until it ends unless renewed.")
@click.option("--wait", type=float, default=0.0, show_default=True, help="Seconds to wait for room.")
@click.option("--lease-id", help="Its name; the same name and request again take nothing twice.")
@click.option("--host", help="Only on this host.")
@click.option("--gpu", help="Only on the GPU of this UUID.")
@click.option("--priority", type=int, default=0, show_default=True, help="A higher one waits in front.")
@pool_options
@json_option
def acquire(
    memory: str,
    ttl: float,
    wait: float,
    lease_id: str | None,
    host: str | None,
    gpu: str | None,
    priority: int,
    redis_url: str,
    pool: str,
    as_json: bool,
) -> None:
    """Borrow MEMORY (such as 4GiB) of one GPU and print the lease: `gpubroker release ID TOKEN` ends it."""
    broker = broker_from(redis_url, pool)
    lease = broker.acquire(
        memory, ttl=ttl, wait=wait, lease_id=lease_id, host=host, gpu=gpu, priority=priority, owner=_owner()
    )
    facts = {
        "id": lease.id,
        "token": lease.token,
        "gpu_uuids": ",".join(lease.gpu_uuids),
        "host": lease.host,
        "memory_bytes": lease.memory_bytes,
        "expires_at": lease.expires_at,
    }
    if as_json:
        print_json(facts)
    else:
        click.echo(" ".join(f"{name}={value}" for name, value in facts.items()))


def _owner() -> str:
    """Who runs the shell: this process is over before its lease is."""
    from getpass import getuser

    from broker.calls import this_host

    try:
        return f"{getuser()}@{this_host()}"
    except (KeyError, OSError):  # a container's user need not have a name
        return f"{os.getuid()}@{this_host()}"


@click.command()
@click.argument("lease_id", metavar="ID")
@click.argument("token", type=int)
@click.option("--ttl", type=float, help="Seconds from now until it ends, also from the next renewal on.")
@pool_options
@json_option
def renew(lease_id: str, token: int, ttl: float | None, redis_url: str, pool: str, as_json: bool) -> None:
    """Put off the end of lease ID, held under TOKEN."""
    expires_at = broker_from(redis_url, pool).renew(lease_id, token, ttl)
    if as_json:
        print_json({"id": lease_id, "expires_at": expires_at})
    else:
        click.echo(f"id={lease_id} expires_at={expires_at}")


@click.command()
@click.argument("lease_id", metavar="ID")
@click.argument("token", type=int)
@pool_options
@json_option
def release(lease_id: str, token: int, redis_url: str, pool: str, as_json: bool) -> None:
    """Give lease ID back, held under TOKEN."""
    in_time = broker_from(redis_url, pool).release(lease_id, token)
    if as_json:
        print_json({"id": lease_id, "in_time": in_time})
    else:
        click.echo(f"released {lease_id}" + ("" if in_time else ", whose time had passed"))
