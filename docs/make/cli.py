"""The reference of the command, from click: every verb, argument and option."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from broker.cli import main
from docs.make.markdown import code, docstring, table


def has_top() -> bool:
    """Whether the command has a live screen."""
    return main.get_command(click.Context(main), "top") is not None


def page() -> str:
    """A section a verb, in the order of ``gpubroker --help``."""
    context = click.Context(main, info_name="gpubroker")
    return "\n".join(_section(command, inner, 2) for command, inner in verbs(main, context))


def verbs(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Each verb, and those below it, with the context that knows its whole name."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        yield command, inner
        if isinstance(command, click.Group):
            yield from verbs(command, inner)


def _section(command: click.Command, context: click.Context, level: int) -> str:
    named = context.command_path
    usage = " ".join([named, *command.collect_usage_pieces(context)])
    out = [f"{'#' * level} {named}\n", docstring(_help(command)), f"\n```text\n{usage}\n```\n"]
    rows = [row for parameter in command.get_params(context) if (row := _row(parameter, context))]
    if rows:
        out.append(table(("option", "meaning"), rows))
    return "\n".join(out)


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").replace("\b\n", "").partition("\f")[0]


def _row(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    """Option and meaning, as ``--help`` has them: default and environment variable are in it."""
    if "--help" in parameter.opts:
        return None
    record = parameter.get_help_record(context)
    if record is None:
        return None if isinstance(parameter, click.Option) else (code(parameter.human_readable_name), "")
    option, meaning = record
    return code(option), meaning.replace("<", "&lt;")
