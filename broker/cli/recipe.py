"""`--redis-cli`: what a verb sends, written down as commands that a shell can run.

What only asks is sent as well, since later questions depend on the answers. What would change something is written down
instead, and the verb ends there.
"""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, redirect_stdout
from types import TracebackType
from typing import Any, Self, TextIO
from urllib.parse import urlsplit

import click

#: Commands of the ledger that only ask.
_ASKING = frozenset({"explain"})


class Recipe:
    """Sees what a broker sends. While it does, nothing else is printed."""

    def __init__(self) -> None:
        """Write where the verb would."""
        self._out: TextIO = sys.stdout
        self._hushed = ExitStack()
        self._seen: set[str] = set()
        self._way = ["redis-cli"]

    def __enter__(self) -> Self:
        """From now on."""
        self._hushed.enter_context(redirect_stdout(io.StringIO()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """No more."""
        self._hushed.close()

    def reach(self, url: str, place: tuple[str, int] | None) -> None:
        """How redis-cli gets to the server of that URL, found at ``place`` where several are named.

        A password is never written: redis-cli reads it from REDISCLI_AUTH.
        """
        self._way = way_to(url, place)
        if urlsplit(url).password:
            self._write("# redis-cli reads the password from REDISCLI_AUTH")

    def sees(self, command: Sequence[Any]) -> None:
        """A plain command, once however often it is sent.

        Raises:
            click.exceptions.Exit: it would wait for what happens.
        """
        line = quoted([*self._way, *map(str, command)])
        if line not in self._seen:
            self._seen.add(line)
            self._write(line)
        if "BLOCK" in command:
            raise click.exceptions.Exit(0)

    def sees_script(self, name: str, keys: Sequence[str], argv: Sequence[str | int]) -> None:
        """A command of the ledger: its text into a file, and the call.

        Raises:
            click.exceptions.Exit: it would change something.
        """
        file = f"{name}.lua"
        self._write(f"{shlex.quote(sys.executable)} -m broker.ledger.scripts {name} > {file}")
        self._write(quoted([*self._way, "--eval", file, *keys, ",", *map(str, argv)]))
        if name not in _ASKING:
            raise click.exceptions.Exit(0)

    def _write(self, line: str) -> None:
        print(line, file=self._out)


def way_to(url: str, place: tuple[str, int] | None = None) -> list[str]:
    """The first words of a call of redis-cli, without the password."""
    parts = urlsplit(url)
    *_, database = ("", *filter(str.isdecimal, parts.path.split("/")))
    words = ["redis-cli"]
    if parts.scheme == "unix":
        words += ["-s", parts.path]
    else:
        host, port = place or (parts.hostname or "localhost", parts.port or 6379)
        words += ["-h", host, "-p", str(port), *(["-n", database] if database.strip("0") else [])]
    words += ["--user", parts.username] if parts.username else []
    return [*words, *(["--tls"] if parts.scheme.startswith("rediss") else [])]


def quoted(words: Iterable[str]) -> str:
    """Words for a shell, on one line. What would steer a terminal, or end the line, is written as ``$'...'`` has it."""
    return " ".join(shlex.quote(word) if word.isprintable() else f"$'{''.join(map(_letter, word))}'" for word in words)


def _letter(letter: str) -> str:
    if letter.isprintable():
        return f"\\{letter}" if letter in "'\\" else letter
    return "".join(f"\\{byte:03o}" for byte in letter.encode("utf-8", "surrogateescape"))
