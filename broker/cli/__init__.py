"""The `gpubroker` command: a file a verb. A verb's file is imported when that verb runs, not before."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import click

from broker.cli.options import URL_META

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from click.shell_completion import CompletionItem

#: Verb, where it is, and its line in ``gpubroker --help``.
_VERBS = {
    "up": ("broker.cli.up:up", "A server, an agent and workers on this machine, until Ctrl-C."),
    "serve": ("broker.cli.serve:serve", "The pool over HTTP: the page, and an API for programs."),
    "status": ("broker.cli.status:status", "The GPUs: temperature, memory, state, what is lent."),
    "top": ("broker.cli.top:top", "The pool on a live screen, to look at and to act on."),
    "hardware": ("broker.cli.hardware:hardware", "What cards say beside: limits, clocks, errors, links."),
    "processes": ("broker.cli.hosts:processes", "What runs on the GPUs, and under which lease."),
    "hosts": ("broker.cli.hosts:hosts", "The machines: processors, memory, room on their disks."),
    "leases": ("broker.cli.leases:leases", "Who holds memory now."),
    "waiters": ("broker.cli.leases:waiters", "Who waits for memory."),
    "acquire": ("broker.cli.lease:acquire", "Take a lease and print its id and token."),
    "run": ("broker.cli.run:run", "Run a command on borrowed memory of this machine."),
    "renew": ("broker.cli.lease:renew", "Put off the end of a lease."),
    "resize": ("broker.cli.lease:resize", "Give a lease more or less memory."),
    "release": ("broker.cli.lease:release", "Give a lease back."),
    "revoke": ("broker.cli.adopt:revoke", "Ask a lease's holder to end it, or end it."),
    "adopt": ("broker.cli.adopt:adopt", "Make a lease of what a process uses without one."),
    "explain": ("broker.cli.explain:explain", "Why a request waits, or what one would meet."),
    "tenants": ("broker.cli.tenants:tenants", "Who shares the pool: quotas, weights, use."),
    "sizes": ("broker.cli.sizes:sizes", "What functions took, and ask for by themselves."),
    "drain": ("broker.cli.drain:drain", "Grant nothing more on a GPU or host; running leases stay."),
    "undrain": ("broker.cli.drain:undrain", "Open a drained GPU or host again."),
    "retire": ("broker.cli.drain:retire", "Forget a host that is gone for good."),
    "doctor": ("broker.cli.doctor:doctor", "Look for what is wrong with pool and server, and mend it."),
    "metrics": ("broker.cli.metrics:metrics", "What Prometheus reads of the pool, printed once."),
    "events": ("broker.cli.events:events", "The journal, or what happens from now on."),
    "history": ("broker.cli.events:history", "The samples of one GPU."),
    "trend": ("broker.cli.trend:trend", "Where one GPU's temperature goes, and what it crosses next."),
    "config": ("broker.cli.config:config", "Read or change the pool's configuration."),
    "healthy": ("broker.cli.healthy:healthy", "Whether an agent, worker or server does its work, for supervisors."),
    "acl": ("broker.cli.acl:acl", "The server's users: one a role, with few rights."),
    "completion": ("broker.cli.completion:completion", "What makes a shell complete words after `gpubroker`."),
}
_PLUGIN_GROUP = "gpubroker.commands"
_PLUGIN_HELP = {
    "agent": "Watch this machine's GPUs and publish what they do.",
    "worker": "Run RQ jobs that borrow GPU memory.",
    "demo": "The photo pipeline on three simulated machines.",
}


class _Verbs(click.Group):
    """Finds verbs here and among the entry points of ``gpubroker.commands``, and turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_VERBS, *sorted(set(_plugins()) - set(_VERBS))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _VERBS:
            module, _, name = _VERBS[cmd_name][0].partition(":")
            command = getattr(importlib.import_module(module), name)
        else:
            plugin = _plugins().get(cmd_name)
            command = None if plugin is None else _loaded(plugin)
        return command if isinstance(command, click.Command) else None

    # Click would import every verb to ask for its help, in both of these.

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(_help_lines())

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        verbs = [CompletionItem(name, help=line) for name, line in _help_lines() if name.startswith(incomplete)]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        from broker.errors import BrokerError, InvalidRequest, PoolUnavailable

        try:
            return super().invoke(ctx)
        except InvalidRequest as error:
            _fail(ctx, str(error), 2)
        except PoolUnavailable as error:
            _fail(ctx, str(error), 3)
        except BrokerError as error:
            _fail(ctx, str(error), 1)
        except Exception as error:
            from redis.exceptions import ConnectionError, RedisError, TimeoutError

            from broker.ledger.server import shown_url

            if not isinstance(error, RedisError):
                raise
            unreachable = isinstance(error, (ConnectionError, TimeoutError))
            url = shown_url(str(ctx.meta.get(URL_META, "?")))
            _fail(ctx, f"Redis at {url}: {error}", 3 if unreachable else 1)


def _loaded(plugin: EntryPoint) -> Any:
    """The verb of another package; what it imports may be in an extra that is not installed."""
    try:
        return plugin.load()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in plugin.module:
            raise
        raise click.UsageError(
            f"No module named {error.name!r}: `{plugin.name}` takes an extra, pip install 'gpubroker[{plugin.name}]'"
        ) from None


def _plugins() -> dict[str, EntryPoint]:
    """Verbs of other packages by name; nothing of theirs is imported for the list."""
    from importlib.metadata import entry_points

    return {plugin.name: plugin for plugin in entry_points(group=_PLUGIN_GROUP)}


def _help_lines() -> list[tuple[str, str]]:
    """Every verb with its line."""
    rows = [(name, line) for name, (_, line) in _VERBS.items()]
    for name, plugin in sorted(_plugins().items()):
        if name not in _VERBS:
            rows.append((name, _PLUGIN_HELP.get(name) or f"From {plugin.value.partition(':')[0]}."))
    return rows


def _fail(ctx: click.Context, message: str, code: int) -> None:
    click.echo(f"gpubroker: {' '.join(message.split())}", err=True)
    ctx.exit(code)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gpubroker", prog_name="gpubroker")
def main() -> None:
    """Lend GPU memory, across machines, to jobs.

    Exit codes: 0 done, 1 refused, 2 wrong usage, 3 Redis unreachable.
    """
