"""`gpubroker up`: everything on one machine, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli.options import DEFAULT_POOL

if TYPE_CHECKING:
    from broker.client import Broker
    from broker.stack import Stack

_DEFAULT_PORT = 6390  # beside a Redis of the machine's own on 6379
_HTTP_PORT = 8390
_AGENT_SECONDS = 30.0
_CHECK_SECONDS = 3600.0  # the wait ends at the death of any child, or at a signal


@click.command()
@click.option(
    "--dir", "folder", type=click.Path(file_okay=False, path_type=Path), help="Where data and logs are kept.  "
    "[default: ~/.local/share/gpubroker]",
)  # fmt: skip
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=_DEFAULT_PORT,
    show_default=True,
    help="Of the server; 0: a free one.",
)
@click.option(
    "--http-port", type=click.IntRange(0, 65535), default=None,
    help="Of the page; 0: a free one.  [default: 8390, if that is free]",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(0, 256), default=1, show_default=True, help="GPU workers to start.")
@click.option(
    "--queue", "queues", multiple=True, default=("default",), show_default=True, help="An RQ queue to work on."
)
@click.option("--simulate", metavar="SPEC", help="Simulated cards instead of real ones, such as 2x6GiB.")
@click.option("--pool", envvar="GPUBROKER_POOL", default=DEFAULT_POOL, show_default=True, help="Name of the pool.")
def up(
    folder: Path | None, port: int, http_port: int | None, workers: int, queues: tuple[str, ...], simulate: str | None,
    pool: str,
) -> None:  # fmt: skip
    """Run a server, the agent of this machine's GPUs, GPU workers and the page, until Ctrl-C ends them all."""
    from broker.ledger.keys import Keys
    from broker.stack import Stack

    Keys(pool)  # refuses a bad name before anything starts
    # All of them end the stack as Ctrl-C does, also while it starts; nohup has asked not to hear of the terminal's end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    folder = folder or _default_folder()
    try:
        with Stack(folder, port=port, pool=pool, restart=True) as stack:
            _serve(stack, workers, queues, simulate, http_port)
    except KeyboardInterrupt:
        click.echo("all ended")


def _serve(
    stack: Stack, workers: int, queues: tuple[str, ...], simulate: str | None, http_port: int | None
) -> None:  # fmt: skip
    click.echo(f"server   {stack.url}  pid {stack.server.pid}, data and logs in {stack.folder}")
    # What a folder of an earlier run still says of its hosts is not the agent's word.
    before = _samples(stack.broker).items()
    stack.agent("agent", simulate=simulate)
    # Workers start while the agent looks for its cards; what they cannot get yet, their jobs wait for.
    for number in range(1, workers + 1):
        stack.worker(f"{_short_host()}-{os.getpid()}-{number}", queues)
    stack.wait_ready(lambda broker: bool(_samples(broker).items() - before), _AGENT_SECONDS, "the agent")
    click.echo(_page(stack, http_port))
    for line in _introduction(stack, workers, queues):
        click.echo(line)
    while True:
        for ended in stack.check(_CHECK_SECONDS):
            click.echo(str(ended), err=True)


def _page(stack: Stack, port: int | None) -> str:
    """Where the page is; without the libraries that serve it, how to get them."""
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        return "page     none: it takes the extra, pip install 'gpubroker[web]'"
    if port is None:
        port = _HTTP_PORT if _is_free(_HTTP_PORT) else 0
    return f"page     {stack.serve(port)}"


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _samples(broker: Broker) -> dict[str, str]:
    """When each host was sampled last."""
    return {host["host"]: host.get("sampled_at", "") for host in broker.hosts()}


def _introduction(stack: Stack, workers: int, queues: tuple[str, ...]) -> list[str]:
    from broker.units import format_size

    gpus = stack.broker.gpus()
    lines = [
        f"GPU      {gpu.uuid}  {gpu.name}, {format_size(gpu.budget_bytes)} to lend, {gpu.state}  {gpu.reason}".rstrip()
        for gpu in gpus
    ]
    if not gpus:
        reasons = {host.get("reason", "") for host in stack.broker.hosts()}
        lines.append(f"GPU      none: {'; '.join(sorted(reasons))}; --simulate 2x6GiB shows how it works without")
    lines.append(f"workers  {workers} on {', '.join(queues)}" if workers else "workers  none")
    keys, port = stack.broker.keys, stack.server.port
    first = gpus[0].uuid if gpus else "UUID"
    return [
        *lines,
        "",
        "In other shells:",
        f"  export GPUBROKER_REDIS_URL={stack.url} RQ_REDIS_URL={stack.url} GPUBROKER_POOL={stack.pool}",
        "  gpubroker status",
        f"  redis-cli -p {port} HGETALL '{keys.gpu(first)}'",
        f"  redis-cli -p {port} ZRANGE '{keys.leases}' 0 -1 WITHSCORES",
        f"  redis-cli -p {port} XREVRANGE '{keys.events}' + - COUNT 20",
        "",
        "Ctrl-C ends all of it; the data stays.",
    ]


def _default_folder() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "gpubroker"


def _short_host() -> str:
    from broker.calls import this_host

    return this_host().partition(".")[0]


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
