"""Loads the Lua commands, calls them by their hash, and survives a server that forgot them.

``python -m broker.ledger.scripts acquire`` prints a command as it is sent, for ``redis-cli --eval``.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_INCLUDE = re.compile(r"^-- include: (?P<names>[a-z ]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One command of the ledger: its whole text, and the SHA-1 under which a server keeps it."""

    name: str
    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """The command of that name, put together from ``broker/lua``.

    Raises:
        FileNotFoundError: there is no such command.
    """
    text = _INCLUDE.sub(lambda found: "\n".join(map(_include, found["names"].split())), _read(f"{name}.lua"))
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def names() -> list[str]:
    """Every command, sorted."""
    return sorted(
        entry.name.removesuffix(".lua") for entry in files("broker.lua").iterdir() if entry.name.endswith(".lua")
    )


def _read(path: str) -> str:
    return files("broker.lua").joinpath(path).read_text(encoding="utf-8")


def _include(name: str) -> str:
    return _read(f"include/{name}.lua")


if __name__ == "__main__":
    print(script(sys.argv[1]).text if len(sys.argv) > 1 else "\n".join(names()))
