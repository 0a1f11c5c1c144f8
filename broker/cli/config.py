"""`gpubroker config get` and `config set`: what the pool runs by."""

from __future__ import annotations

import click

from broker.cli.options import broker_from, completes, json_option, pool_options, print_json, redis_cli_option


@click.group()
def config() -> None:
    """Read or change the pool's configuration; agents pick a change up within one interval."""


@config.command("get")
@click.argument("name", required=False)
@click.option("--gpu", shell_complete=completes("gpu"), help="As it holds for the GPU of this UUID.")
@pool_options
@redis_cli_option
@json_option
def get_config(name: str | None, gpu: str | None, redis_url: str, pool: str, as_json: bool) -> None:
    """Print the configuration, or the value of NAME alone."""
    if name is not None:
        _require_known(name)
    values = broker_from(redis_url, pool).config(gpu).model_dump(mode="json")
    if name is not None:
        values = {name: values[name]}
    if as_json:
        print_json(values)
    elif name is not None:
        click.echo(_text(values[name]))
    else:
        _print_values(values)


@config.command("set")
@click.argument("assignments", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option("--gpu", shell_complete=completes("gpu"), help="For the GPU of this UUID only.")
@pool_options
@redis_cli_option
@json_option
def set_config(assignments: tuple[str, ...], gpu: str | None, redis_url: str, pool: str, as_json: bool) -> None:
    """Change values, all of them or none; NAME= without a value restores the default."""
    changes: dict[str, str | None] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{assignment!r} is not NAME=VALUE", param_hint="NAME=VALUE")
        _require_known(name)
        changes[name] = value.strip() or None
    broker = broker_from(redis_url, pool)
    values = broker.update_config(gpu, **changes).model_dump(mode="json")
    values = {name: values[name] for name in changes}
    if as_json:
        print_json(values)
    else:
        _print_values(values)


def _require_known(name: str) -> None:
    from broker.errors import InvalidRequest
    from broker.thresholds import Thresholds

    if name not in Thresholds.model_fields:
        raise InvalidRequest("NAME", name, "one of " + ", ".join(Thresholds.model_fields))


def _print_values(values: dict[str, object]) -> None:
    for name, value in values.items():
        click.echo(f"{name}={_text(value)}")


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
