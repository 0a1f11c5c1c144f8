"""Tables for people: as wide as the terminal there, whole lines without colour elsewhere."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from broker.client import Broker

#: Wider than any row: what is piped into another program is neither wrapped nor cut.
_PIPE_WIDTH = 10_000

STATE_STYLES = {
    "OPTIMAL": "green",
    "NORMAL": "cyan",
    "THROTTLED": "yellow",
    "CRITICAL": "bold red",
    "UNAVAILABLE": "red",
}


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], numbers: Sequence[str] = ()) -> None:
    """Print ``rows`` under ``columns``; those in ``numbers`` are aligned to the right. No cell is ever cut short."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
    if console.is_terminal:
        console.print(table)
    else:
        with console.capture() as captured:
            console.print(table)
        console.file.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def printable(text: str) -> str:
    """``text`` without what would steer a terminal: others may write names and reasons into the ledger."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(printable(state), style=STATE_STYLES.get(state, ""))


def duration(milliseconds: int) -> str:
    """``"12 s"``, ``"5 min"``, ``"3.2 h"``; ``"over"`` for a time that has passed."""
    seconds = milliseconds / 1000
    if seconds < 0:
        return "over"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def timestamp(milliseconds: int) -> str:
    """A time of the ledger, UTC, to the millisecond."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ledger_now(broker: Broker) -> int:
    """The ledger's time in milliseconds: Redis's clock, as the scripts correct it."""
    return broker.run(_read_clock(broker.keys.ledger))


def _read_clock(ledger: str) -> Generator[Sequence[tuple[Any, ...]], list[Any], int]:
    (seconds, microseconds), offset = yield [("TIME",), ("HGET", ledger, "clock_offset_ms")]
    return int(seconds) * 1000 + int(microseconds) // 1000 + int(offset or 0)
