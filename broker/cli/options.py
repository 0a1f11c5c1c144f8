"""Options that every verb shares, and the way from them to a connected broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from broker.client import Broker

DEFAULT_URL = "redis://127.0.0.1:6379/0"
DEFAULT_POOL = "default"

#: Where the context keeps the URL in use, for the line that says which server could not be reached.
URL_META = "gpubroker.url"

_F = TypeVar("_F", bound=Callable[..., Any])


def pool_options(command: _F) -> _F:
    """Add ``--redis-url`` and ``--pool``; the command receives ``redis_url`` and ``pool``."""
    command = click.option(
        "--pool",
        envvar="GPUBROKER_POOL",
        default=DEFAULT_POOL,
        show_default=True,
        show_envvar=True,
        help="Name of the pool.",
    )(command)
    return click.option(
        "--redis-url",
        envvar="GPUBROKER_REDIS_URL",
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        help="Where the ledger is.",
    )(command)


def json_option(command: _F) -> _F:
    """Add ``--json``; the command receives ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def broker_from(redis_url: str, pool: str) -> Broker:
    """A connected broker, closed when the command ends.

    Raises:
        PoolUnavailable: the server cannot be reached or is too old; the ``gpubroker`` command then exits with 3.
        InvalidRequest: the URL or the pool's name is not allowed; it then exits with 2.
    """
    from redis.exceptions import RedisError

    from broker import connection
    from broker.client import Broker
    from broker.ledger.server import require_version, shown_url

    context = click.get_current_context()
    context.find_root().meta[URL_META] = redis_url
    broker = Broker.from_url(redis_url, pool=pool)
    context.call_on_close(broker.close)
    try:
        require_version(broker.redis.info("server"), redis_url)
    except RedisError as error:
        raise connection.translate(error, shown_url(redis_url)) from error
    return broker


def print_json(value: object) -> None:
    """Print ``value`` as indented JSON; what JSON does not know is printed as its text."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
