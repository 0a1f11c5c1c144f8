"""Loads the Lua commands, calls them by their hash, and survives a server that forgot them.

``python -m broker.ledger.scripts acquire`` prints a command as it is sent, for ``redis-cli --eval``.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from broker.ledger.keys import Keys

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
    text = _with_keys(text)
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

    An include names the functions it ``gives`` and the values it ``shares``: they are fields of a table, since Lua
    makes every function anew for every call, and looks for each local variable that one uses among all that others
    use. Includes that the command lists are run at once, into ``our``; each of the others when something of it is first
    asked for, into ``seldom.NAME``: a call of a command seldom comes to most of it.
    """
    bodies = {name: _read(f"include/{name}.lua") for name in _reachable([*eager, *needed])}
    rest = [name for name in bodies if name not in eager]
    words = _Words()
    for name, body in bodies.items():
        into = "our" if name in eager else f"seldom.{name}"
        words.functions.update({word: f"{into}.{word}" for word in _listed(_GIVES, body)})
        words.values.update({word: f"{into}.{word}" for word in _listed(_SHARES, body)})
    room = ", ".join(f"{word} = 0" for word in words.of("our"))  # the table has its full size from the start
    plain = [name for name in eager if name != "keys" and not _GIVES.search(bodies[name])]
    return "".join(
        [
            bodies["keys"],
            f"local our = {{ {room} }}\nlocal seldom, make_seldom\n",
            *(words.placed(bodies[name]) for name in plain),
            _NEAR if "ledger" in plain else "",
            _seldom({name: words.placed(bodies[name]) for name in rest}),
            *(f"do\n{words.placed(bodies[name])}end\n" for name in eager if name != "keys" and name not in plain),
            words.placed(command),
        ]
    )


@dataclass(frozen=True, slots=True)
class _Words:
    """Where the functions and the values of includes are, by name."""

    functions: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    def of(self, table: str) -> list[str]:
        """The names that are fields of this table."""
        return [word for word, place in (self.functions | self.values).items() if place == f"{table}.{word}"]

    def placed(self, text: str) -> str:
        """The code with the field that each such name is. A function's name may be a local value's as well."""
        if self.functions:
            text = _in_code(rf"(?<![\w.'])(?:{'|'.join(self.functions)})(?=\()", self.functions, text)
        return _in_code(rf"(?<![\w.'])(?:{'|'.join(self.values)})\b", self.values, text) if self.values else text


#: What most functions use, once more: Lua finds first what was declared last.
_NEAR = "local call, int, now, our = call, int, now, our\n"


def _seldom(bodies: dict[str, str]) -> str:
    """Makers of the includes that are needed now and then: one function, whose price every call pays, makes them."""
    makers = "".join(f"{name} = function()\n{body}end,\n" for name, body in bodies.items())
    return (
        "seldom = setmetatable({}, { __index = function(_, name) return make_seldom(name) end })\n"
        f"function make_seldom(first)\nlocal makers = {{\n{makers}}}\n"
        "local function make(_, name)\nrawset(seldom, name, {})\nmakers[name]()\nreturn seldom[name]\nend\n"
        "setmetatable(seldom, { __index = make })\nreturn make(seldom, first)\nend\n"
    )


def _in_code(words: str, instead: dict[str, str], text: str) -> str:
    """The text with something instead of each of these words, but not in comments."""
    pattern = re.compile(words)

    def mended(line: str) -> str:
        code, dashes, comment = line.partition("--")
        return pattern.sub(lambda found: instead[found[0]], code) + dashes + comment

    return "\n".join(mended(line) for line in text.split("\n"))


def _with_keys(text: str) -> str:
    """The text with ``KEYS[1] .. 'ledger'`` for ``LEDGER`` and so on: variables would be made for every call."""
    root = Keys("any").root
    names = (key.removeprefix(root) for key in Keys("any").all)
    keys = {word: f"KEYS[1] .. '{name}'" if name else "KEYS[1]" for word, name in zip(_key_names(), names, strict=True)}
    return _in_code(rf"\b(?:{'|'.join(keys)})\b", keys, text)


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
    if len(sys.argv) > 1 and sys.argv[1] not in names():
        sys.exit(f"no script {sys.argv[1]!r}; there are: {', '.join(names())}")
    print(script(sys.argv[1]).text if len(sys.argv) > 1 else "\n".join(names()))
