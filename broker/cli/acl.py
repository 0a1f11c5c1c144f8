"""`gpubroker acl`: the users of a pool's server, each with the rights of its role."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli.options import DEFAULT_POOL

if TYPE_CHECKING:
    from broker.secret_file import SecretFile

_ROLES = ("agent", "worker", "broker", "viewer", "producer", "replica", "sentinel", "admin")


@click.command()
@click.option(
    "--role", "roles", multiple=True, type=click.Choice(_ROLES),
    help="Repeatable.  [default: agent, worker, broker, viewer, producer]",
)  # fmt: skip
@click.option("--pool", envvar="GPUBROKER_POOL", default=DEFAULT_POOL, show_default=True, help="Name of the pool.")
@click.option(
    "--passwords", type=click.Choice(["generate", "env", "hashes"]), default="generate", show_default=True,
    help="Make them; or read GPUBROKER_ROLE_PASSWORD, or GPUBROKER_ROLE_SHA256, from the environment.",
)  # fmt: skip
@click.option(
    "--secrets", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Keep passwords that are made in this file of NAME=VALUE lines (0600), not on the screen; those that stand "
    "there already are taken, and what else ends in _PASSWORD= or _TOKEN= without a value gets one.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write to this file (0600); other users that stand there stay.",
)  # fmt: skip
@click.option("--setuser", is_flag=True, help="ACL SETUSER commands for a server that runs, not the lines of a file.")
@click.option("--rq-prefix", envvar="RQ_KEY_PREFIX", default="rq", show_default=True, help="What RQ's keys begin with.")
@click.option(
    "--server", type=click.Choice(["7.0", "7.2"]), default="7.2", show_default=True,
    help="The oldest server that is to read it: 7.0 knows fewer commands than Redis or Valkey 7.2 and newer.",
)  # fmt: skip
def acl(
    roles: tuple[str, ...], pool: str, passwords: str, secrets: Path | None, out: Path | None, setuser: bool,
    rq_prefix: str, server: str,
) -> None:  # fmt: skip
    """Print the users of a pool for a server's `aclfile`: one a role, with the rights that it needs and no more."""
    from broker import acl as users
    from broker.secret_file import SecretFile, write_private

    named = list(dict.fromkeys(roles)) or list(users.USUAL)
    for role in named:
        users.rules(role, pool, rq_prefix, server)  # refuses a bad name before anything is made
    if secrets is not None and passwords != "generate":
        raise click.UsageError("--secrets keeps passwords that are made: give it with --passwords generate")
    kept = SecretFile.read(secrets) if secrets is not None else None
    shown: dict[str, str] = {}
    hashes = {role: _hash(role, passwords, kept, shown) for role in named}
    make: Callable[..., list[str]] = users.commands if setuser else users.aclfile
    lines = make(hashes, pool, rq_prefix, server)
    if not setuser:
        lines = ["user default off", *lines]
    if kept is not None:
        kept.fill(users.new_password)
        kept.write()
    if out is None:
        click.echo("\n".join(lines))
    else:
        write_private(out, lines if setuser else _merged(out, lines))
    for name, password in shown.items():
        click.echo(f"{name}={password}", err=True)


def _hash(role: str, passwords: str, kept: SecretFile | None, shown: dict[str, str]) -> str:
    from broker import acl as users

    name = f"GPUBROKER_{role.upper()}_PASSWORD"
    if passwords == "hashes":
        name = f"GPUBROKER_{role.upper()}_SHA256"
        return users.check_hash(name, os.environ.get(name, ""))
    if passwords == "env":
        return users.hash_of(users.check_password(name, os.environ.get(name, "")))
    if kept is not None:
        if not kept.get(name):
            kept.set(name, users.new_password())
        return users.hash_of(users.check_password(name, kept.get(name)))
    shown[name] = users.new_password()
    return users.hash_of(shown[name])


def _merged(out: Path, lines: Iterable[str]) -> list[str]:
    """The file's users that are not made now, `default` among them, then those that are."""
    ours = {_name(line): line for line in lines}
    there = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    if any(_name(line) == "default" for line in there):
        del ours["default"]
    return [*(line for line in there if line.strip() and _name(line) not in ours), *ours.values()]


def _name(line: str) -> str:
    return [*line.split(), "", ""][1]
