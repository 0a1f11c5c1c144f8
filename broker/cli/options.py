"""Options that every verb shares, and the way from them to a connected broker."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from broker.client import Broker

DEFAULT_URL = "redis://127.0.0.1:6379/0"
DEFAULT_POOL = "default"

#: Where the context keeps the URL in use, for the line that says which server could not be reached.
URL_META = "gpubroker.url"
#: Where it keeps who writes down what is sent, where somebody asked for that.
WITNESS_META = "gpubroker.witness"

#: A shell that completes a word waits no longer.
_COMPLETE_SECONDS = 0.3

_NAME = re.compile(r"[A-Za-z0-9_.:/@+-]+", re.ASCII)

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


def redis_cli_option(command: _F) -> _F:
    """Add ``--redis-cli``: the verb prints what it would send, as commands to paste, and changes nothing."""

    def begin(context: click.Context, _param: click.Parameter, wanted: bool) -> None:
        if wanted:
            from broker.cli.recipe import Recipe

            context.meta[WITNESS_META] = context.with_resource(Recipe())

    return click.option(
        "--redis-cli", is_flag=True, expose_value=False, callback=begin,
        help="Change nothing, and print the same as commands of redis-cli.",
    )(command)  # fmt: skip


def completes(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """For ``shell_complete``: names of that kind (gpu, host, lease, waiter, tenant, function) that the ledger knows, if
    it answers at once."""

    def complete(context: click.Context, _param: click.Parameter, begun: str) -> list[str]:
        from broker.errors import BrokerError
        from broker.glance import Line, Unusual, names
        from broker.ledger.keys import Keys

        url = context.params.get("redis_url") or os.environ.get("GPUBROKER_REDIS_URL") or DEFAULT_URL
        pool = context.params.get("pool") or os.environ.get("GPUBROKER_POOL") or DEFAULT_POOL
        try:
            with Line(url, _COMPLETE_SECONDS) as line:
                known = line.run(names(Keys(pool)))[kind]
        except (Unusual, BrokerError):
            return []
        # A shell puts what it is offered on its line: nothing but what a name of ours may be.
        return [name for name in known if name.startswith(begun) and _NAME.fullmatch(name)]

    return complete


def request_options(command: _F) -> _F:
    """Add what a request for memory may say; the command receives it as ``request``."""

    @functools.wraps(command)
    def with_request(*args: Any, **values: Any) -> Any:
        request = {name: values.pop(name) for name in _REQUEST}
        request["labels"] = _labels(values.pop("label"))
        return command(*args, request=request, **values)

    for option in reversed(_REQUEST_OPTIONS):
        with_request = option(with_request)
    return with_request  # type: ignore[return-value]


_REQUEST = (
    "gpus", "host", "gpu", "priority", "tenant", "capability", "mig", "host_memory", "cpus", "placement", "function",
)  # fmt: skip
_REQUEST_OPTIONS = (
    click.option("--gpus", type=int, default=1, show_default=True, help="GPUs of one host, so much of each of them."),
    click.option("--host", shell_complete=completes("host"), help="Only on this host."),
    click.option("--gpu", shell_complete=completes("gpu"), help="Only on the GPU of this UUID."),
    click.option("--label", multiple=True, metavar="NAME=VALUE", help="Only where the agent has this label."),
    click.option("--capability", help="Only on GPUs of this compute capability or higher, such as 8.6."),
    click.option("--mig", help="any, none, only, or a profile such as 1g.5gb."),
    click.option("--host-memory", help="Of the host's own memory, such as 16GiB."),
    click.option("--cpus", type=float, help="Of the host's processors, such as 2 or 0.5."),
    click.option("--placement", help="balanced, pack, spread or cool.  [default: the pool's]"),
    click.option("--function", help="What the memory is for: leases of one function are accounted together."),
    click.option(
        "--tenant", default="default", show_default=True, shell_complete=completes("tenant"), help="On whose account."
    ),
    click.option("--priority", type=int, default=0, show_default=True, help="A higher one waits in front."),
)


def _labels(given: tuple[str, ...]) -> dict[str, str] | None:
    labels = {}
    for one in given:
        label, equals, value = one.partition("=")
        if not equals:
            raise click.BadParameter(f"{one!r} is not NAME=VALUE", param_hint="--label")
        labels[label] = value
    return labels or None


def alternatives(memory: str) -> str | list[str]:
    """What MEMORY means: one size, or several joined by commas, best first."""
    return memory.split(",") if "," in memory else memory


def broker_from(redis_url: str, pool: str) -> Broker:
    """A connected broker, closed when the command ends.

    Raises:
        PoolUnavailable: the server cannot be reached or is too old; the ``gpubroker`` command then exits with 3.
        InvalidRequest: the URL or the pool's name is not allowed; it then exits with 2.
    """
    from redis.exceptions import NoPermissionError, RedisError

    from broker import connection
    from broker.client import Broker
    from broker.ledger.server import require_version, shown_url

    context = click.get_current_context()
    context.find_root().meta[URL_META] = redis_url
    broker = Broker.from_url(redis_url, pool=pool)
    context.call_on_close(broker.close)
    try:
        require_version(broker.redis.info("server"), redis_url)
    except NoPermissionError:  # a user who may not ask: the first script will tell
        pass
    except RedisError as error:
        raise connection.translate(error, shown_url(redis_url)) from error
    if recipe := context.meta.get(WITNESS_META):
        recipe.reach(redis_url, broker.place)
        broker.witness = recipe
    return broker


def note_if_bytes(size: str) -> None:
    """Say what a small number without a unit was taken for."""
    if size.isdigit() and 0 < int(size) < 1 << 20:
        click.echo(f"note: {size} is a number of bytes; write {size}GiB for GiB", err=True)


def print_json(value: object) -> None:
    """Print ``value`` as indented JSON; what JSON does not know is printed as its text."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print a few values, ``name=value`` on one line or as JSON."""
    if as_json:
        print_json(facts)
    else:
        click.echo(" ".join(f"{name}={value}" for name, value in facts.items()))
