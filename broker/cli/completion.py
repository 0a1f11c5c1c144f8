"""`gpubroker completion`: what makes a shell complete verbs, options and the names of things in the ledger."""

from __future__ import annotations

import click

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print what makes SHELL complete `gpubroker`, UUIDs, hosts and leases included.

    In this shell: eval "$(gpubroker completion bash)"; fish: gpubroker completion fish | source. In all: the same line
    in ~/.bashrc or ~/.zshrc; fish: the output in ~/.config/fish/completions/gpubroker.fish.
    """
    from click.shell_completion import get_completion_class

    from broker.cli import main

    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(main, {}, "gpubroker", "_GPUBROKER_COMPLETE").source())
