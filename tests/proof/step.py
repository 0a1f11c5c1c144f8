"""One script as it was seen from outside, and the word that it broke a law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from broker.errors import BrokerError

Event = dict[str, str]


@dataclass(slots=True)
class Step:
    """One script as it was seen from outside: what was asked, what came back, what the journal says."""

    name: str
    argv: tuple[str | int, ...]
    reply: Any = None
    error: BrokerError | None = None
    events: Sequence[Event] = ()
    #: Redis's clock before and after, the ledger's as the script left it, and how far that is ahead; in milliseconds.
    early: int = 0
    late: int = 0
    clock_ms: int = 0
    offset_ms: int = 0

    @property
    def word(self) -> str:
        """How it was answered."""
        word = self.reply[0] if isinstance(self.reply, list) else self.reply
        return type(self.error).__name__ if self.error else word if isinstance(word, str) and word.isalpha() else ""

    def __str__(self) -> str:
        """The call, its answer and what it did, in one line each."""
        told = "".join(f"\n    {event}" for event in self.events)
        return f"{self.name} {' '.join(map(str, self.argv))}\n  -> {self.error or self.reply}{told}"


class Unlawful(AssertionError):
    """The ledger did, or failed to do, what a law says otherwise."""
