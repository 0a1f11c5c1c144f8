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
_NEEDS = re.compile(r"^-- needs: (?P<names>[a-z ]+)$", re.MULTILINE)
_GIVES = re.compile(r"^-- gives: (?P<names>[a-z_ ]+)$", re.MULTILINE)
_KEYS = re.compile(r"^-- keys: (?P<names>[A-Z_ ]+)$", re.MULTILINE)
_SHARES = re.compile(r"^-- shares: (?P<names>[A-Za-z_ ]+)$", re.MULTILINE)


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
    command = _read(f"{name}.lua")
    listed = _INCLUDE.search(command)
    if listed is None:
        raise ValueError(f"{name}.lua includes nothing")
    head, _, tail = command.partition(listed[0])
    text = head + _put_together(listed["names"].split(), _listed(_NEEDS, command), tail)
    text = "\n".join(_with_keys(line) for line in text.split("\n"))
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def names() -> list[str]:
    """Every command, sorted."""
    return sorted(
        entry.name.removesuffix(".lua") for entry in files("broker.lua").iterdir() if entry.name.endswith(".lua")
    )


def _read(path: str) -> str:
    return files("broker.lua").joinpath(path).read_text(encoding="utf-8")


def _put_together(eager: list[str], needed: list[str], command: str) -> str:
    """A command after the includes that it lists, and all that these and itself need.

    An include names the functions it ``gives`` and the values it ``shares``, which are declared first. One that the
    command lists is run at once. All that is only needed becomes one function, run when the first name of it is asked
    for: a call of a command seldom comes to most of it, and to make a function costs Lua a search for each variable
    that it shares.
    """
    bodies = {name: _read(f"include/{name}.lua") for name in _reachable([*eager, *needed])}
    given = {name: (*_listed(_SHARES, body), *_listed(_GIVES, body)) for name, body in bodies.items()}
    rest = [name for name in bodies if name not in eager]
    words = [word for name in rest for word in given[name]]
    return "".join(
        [
            bodies["keys"],
            _declared([word for name in eager for word in given[name]]),
            _SELDOM,
            *(_reaching(bodies[name], words) for name in eager if not given[name] and name != "keys"),
            _bundle([bodies[name] for name in rest], words),
            *(f"do\n{_reaching(bodies[name], words)}end\n" for name in eager if given[name]),
            _reaching(command, words),
        ]
    )


#: What is only needed now and then, by name; the first name that is asked for makes them all.
_SELDOM = """local make_seldom
local seldom = setmetatable({}, { __index = function(_, name) return make_seldom()[name] end })
"""


def _bundle(bodies: list[str], words: list[str]) -> str:
    return (
        f"function make_seldom()\n{_declared(words)}"
        + "".join(f"do\n{body}end\n" for body in bodies)
        + "setmetatable(seldom, nil)\n"
        + "".join(f"seldom.{word} = {word}\n" for word in words)
        + "return seldom\nend\n"
    )


def _reaching(text: str, words: list[str]) -> str:
    """The text with ``seldom.word`` for each of these words."""
    return re.sub(rf"\b({'|'.join(words)})\b(?=[(\[])", r"seldom.\1", text) if words else text


def _declared(words: list[str]) -> str:
    return f"local {', '.join(words)}\n" if words else ""


def _with_keys(line: str) -> str:
    """A line of code with ``KEYS[1]`` for ``LEDGER`` and so on. As variables they would be made for every call."""
    code, dashes, comment = line.partition("--")
    return _key().sub(lambda found: f"KEYS[{_key_names().index(found[0]) + 1}]", code) + dashes + comment


@cache
def _key() -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(_key_names())})\b")


@cache
def _key_names() -> list[str]:
    return [word for line in _KEYS.finditer(_read("include/keys.lua")) for word in line["names"].split()]


def _reachable(names: list[str]) -> list[str]:
    found = list(names)
    for name in found:  # grows on the way
        found += [one for one in _listed(_NEEDS, _read(f"include/{name}.lua")) if one not in found]
    return found


def _listed(header: re.Pattern[str], body: str) -> list[str]:
    found = header.search(body)
    return found["names"].split() if found else []


if __name__ == "__main__":
    print(script(sys.argv[1]).text if len(sys.argv) > 1 else "\n".join(names()))
