"""Every command on every page is one that the command line takes: verbs, options and arguments."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from broker.cli import main
from docs.make.site import absent
from tests.docs.pages import blocks, pages

_ASSIGNMENTS = re.compile(r"^(?:[A-Z_]+=\S+ )+")
_PIPED = re.compile(r"\s(?:\||[<>]).*")
COMMANDS = [
    (page, _ASSIGNMENTS.sub("", line))
    for page in pages()
    if page not in absent()
    for block in blocks(page, "sh")
    for line in block.commands
    if _ASSIGNMENTS.sub("", line).startswith("gpubroker ")
]


def test_there_are_many() -> None:
    assert len(COMMANDS) >= 60


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_it_is_taken(page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cert.pem", "key.pem"):  # files that are there where a page names them
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    line = re.sub(r"\b(?:TOKEN|PID)\b", "7", _PIPED.sub("", line))  # what a reader fills in
    taken(main, click.Context(main, info_name="gpubroker"), shlex.split(line)[1:])


def taken(group: click.Group, context: click.Context, words: list[str]) -> None:
    """As click takes it, without running it.

    Raises:
        click.UsageError: it does not.
    """
    command = group.get_command(context, words[0])
    if command is None:
        raise click.UsageError(f"no verb {words[0]}")
    inner = command.make_context(words[0], words[1:], parent=context)
    with inner:
        if isinstance(command, click.Group):
            taken(command, inner, words[1:])


def test_what_is_not_a_command_is_refused() -> None:
    context = click.Context(main, info_name="gpubroker")
    for words in (["stat"], ["status", "--jsn"], ["release", "ID"], ["config", "put", "a=1"]):
        with pytest.raises(click.UsageError):
            taken(main, context, words)
