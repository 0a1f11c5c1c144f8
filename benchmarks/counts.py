"""What an operation makes the server do, as counts: they are the same on every machine, whatever else runs on it.

The server itself tells. Another connection follows ``MONITOR``, which names every command, whether a client sent it or
a script made it, and with what arguments; from these follows the length of what was sent. Round trips are the server's
``total_reads_processed``, less those of the counting itself: what is sent at once is read at once. How many steps of
Lua lie between two commands the server does not tell; commands are what a script's time mostly is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, Self, TypeVar

from redis import Redis

from broker.ledger import scripts
from broker.ledger.keys import Keys

T = TypeVar("T")

_LINE = re.compile(r"[\d.]+ \[\d+ (?P<who>[^\]]+)\] (?P<said>.*)", re.DOTALL)
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(?:x[0-9a-f]{2}|.)")
_CALLS_OF_SCRIPTS = ("EVALSHA", "EVAL", "FCALL")


@dataclass(frozen=True, slots=True)
class Counted:
    """What one operation made the server do."""

    #: How often a client sent something and waited for the answer.
    round_trips: int
    #: Commands that clients sent: ``acquire``, ``BLPOP wake:``.
    sent: tuple[str, ...]
    #: Commands that scripts made, in their order: ``HMGET lease:``.
    inside: tuple[str, ...]
    #: Length of what clients sent.
    bytes_sent: int


class Counter:
    """Counts on one server, for one pool. Close it."""

    def __init__(self, url: str, keys: Keys) -> None:
        self._asking = Redis.from_url(url, decode_responses=True, single_connection_client=True)
        self._own = str(dict[str, Any](self._asking.client_info())["addr"])
        self._keys = keys
        self._asked = 0

    def __enter__(self) -> Self:
        """The counter itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close its connection."""
        self._asking.close()

    def ask(self, question: Callable[[Redis], T]) -> T:
        """Ask the server something, by one command, while something is counted: it does not count."""
        self._asked += 1
        return question(self._asking)

    def count(self, act: Callable[[], object], *, of_pool_only: bool = False) -> Counted:
        """What ``act`` makes the server do; with ``of_pool_only`` only commands that name a key of the pool count."""
        watching: Any = self._asking.connection_pool.make_connection()
        watching.connect()
        watching.send_command("MONITOR")
        watching.read_response()
        try:
            before, self._asked = self._reads(), 0
            act()
            after = self._reads() - self._asked - 1  # less the question itself
            self._asking.echo("counted")
            lines = self._heard(watching)
        finally:
            watching.disconnect()
        told = [(who, words) for who, words in lines if not of_pool_only or self._of_pool(words)]
        sent = [words for who, words in told if who != "lua"]
        return Counted(
            after - before,
            tuple(self.named(words) for words in sent),
            tuple(self.named(words) for who, words in told if who == "lua"),
            sum(_length(words) for words in sent),
        )

    def _heard(self, watching: Any) -> list[tuple[str, list[str]]]:
        """Who said what, until the counting's own last word."""
        lines: list[tuple[str, list[str]]] = []
        while True:
            found = _LINE.fullmatch(watching.read_response(timeout=30))
            assert found is not None
            words = [_ESCAPED.sub("?", word) for word in _WORD.findall(found["said"])]
            if found["who"] != self._own:
                lines.append((found["who"], words))
            elif words[0].upper() == "ECHO":
                return lines

    def _reads(self) -> int:
        return int(dict[str, Any](self._asking.info("stats"))["total_reads_processed"])

    def _of_pool(self, words: list[str]) -> bool:
        return any(word.startswith(self._keys.root) for word in words)

    def named(self, words: list[str]) -> str:
        """A command by its name and key; a script by its own name, an entry of the journal by its kind."""
        name = words[0].upper()
        if name in _CALLS_OF_SCRIPTS:
            return _names_of_scripts().get(words[1], name)
        key = words[1] if len(words) > 1 and words[1].startswith(self._keys.root) else ""
        # `root` begins all of them, and a card's hash begins as that of its hardware does not: the longest is meant.
        known = max((one for one in self._keys.all if key.startswith(one)), key=len, default="")
        kind = words[words.index("kind") + 1] if name == "XADD" and "kind" in words else ""
        shown = key if known == self._keys.root else known
        return " ".join(part for part in (name, shown.removeprefix(self._keys.root), kind) if part)


@cache
def _names_of_scripts() -> dict[str, str]:
    return {scripts.script(name).sha: name for name in scripts.names()}


def _length(words: list[str]) -> int:
    """Bytes of a command as it is sent."""
    return len(f"*{len(words)}\r\n") + sum(len(f"${len(word)}\r\n") + len(word) + 2 for word in words)
