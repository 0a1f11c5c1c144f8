"""Peers that do wrong on purpose, in processes of their own as the real ones: what the driver must notice."""

from __future__ import annotations

from typing import Any

from benchmarks.peer.borrower import Borrower


class AdmitsTwo(Borrower):
    """Lends a name twice at once: a counter whose limit is one too high."""

    def take(self, name: str, wait: float) -> Any:
        """As ``Borrower.take``."""
        if self.redis.incr(name) > 2:
            self.redis.decr(name)
            return None
        return name

    def give(self, held: Any) -> None:
        """As ``Borrower.give``."""
        self.redis.decr(held)


class Forgets(Borrower):
    """A lock that tries again after a lost reply and then takes its own loan for another's."""

    def take(self, name: str, wait: float) -> Any:
        """As ``Borrower.take``."""
        return name if self.redis.set(name, "somebody", nx=True) else None

    def give(self, held: Any) -> None:
        """As ``Borrower.give``."""
        self.redis.delete(held)


def opened(url: str, kind: str) -> Borrower:
    """The one of that name."""
    return {"AdmitsTwo": AdmitsTwo, "Forgets": Forgets}[kind](url)
