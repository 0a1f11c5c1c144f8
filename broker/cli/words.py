"""How a card is told in words and colours, on any screen; next to no imports."""

from __future__ import annotations

from collections.abc import Mapping

from broker.units import MIB, duration, format_size

#: A state's colour, as rich, Textual and click name it.
STATE_STYLES = {
    "OPTIMAL": "green",
    "NORMAL": "cyan",
    "THROTTLED": "yellow",
    "CRITICAL": "bold red",
    "UNAVAILABLE": "red",
}
_DRAINED = {
    "gpu": "drained",
    "host": "drained with its host",
    "health": "drained for its health",
    "people": "drained for people",
}


def printable(text: str) -> str:
    """``text`` without what would steer a terminal: others may write names and reasons into the ledger."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def number(fields: Mapping[str, str], name: str) -> int | None:
    """A whole number of a hash, ``None`` where it is not told: unknown is never 0."""
    return int(fields[name]) if fields.get(name) else None


def mib(size_bytes: int | None) -> str:
    """Whole MiB, as nvidia-smi counts them."""
    return "-" if size_bytes is None else f"{size_bytes / MIB:.0f}"


def silent(fields: Mapping[str, str], now: int) -> bool:
    """Whether the newest word of a card's or a host's agent is too old to go by."""
    return (number(fields, "fresh_until") or 0) < now


def state_of(gpu: Mapping[str, str], now: int) -> str:
    """The card's state as a grant would see it: a sample past its freshness is no news."""
    return "UNAVAILABLE" if silent(gpu, now) else gpu.get("state", "UNAVAILABLE")


def lends(gpu: Mapping[str, str], now: int) -> bool:
    """Whether a grant on the card is possible, given room."""
    return state_of(gpu, now) not in ("CRITICAL", "UNAVAILABLE") and not drained_by(gpu)


def drained_by(gpu: Mapping[str, str]) -> list[str]:
    """Who drained a card: ``gpu``, ``host``, ``health``, ``people``."""
    return [mark for mark in gpu.get("drained_by", "").split(",") if mark]


def silence(fields: Mapping[str, str], now: int) -> str:
    """For how long there was no sample."""
    return f"no sample for {duration(now - (number(fields, 'sampled_at') or 0))}"


def reasons(gpu: Mapping[str, str], now: int) -> list[str]:
    """Why a card does not lend, or not all that it has."""
    marks = drained_by(gpu)
    told = [words for mark, words in _DRAINED.items() if mark in marks]
    told += [f"kept for {gpu['reserved_for']}" if gpu.get("reserved_for") else ""]
    told += [silence(gpu, now) if silent(gpu, now) else gpu.get("reason", "")]
    if short := number(gpu, "short_bytes"):
        told.append(f"leases exceed the budget by {format_size(short)}")
    return [one for one in told if one]


def leases_on(gpu: Mapping[str, str]) -> dict[str, int]:
    """Bytes of each lease on a card."""
    return {name.removeprefix("lease:"): int(size) for name, size in gpu.items() if name.startswith("lease:")}
