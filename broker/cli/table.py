"""Tables for people: as wide as the terminal there, whole lines without colour elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from broker import plans

if TYPE_CHECKING:
    from rich.text import Text

    from broker.client import Broker

#: Wider than any row: what is piped into another program is neither wrapped nor cut.
_PIPE_WIDTH = 10_000


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], numbers: Sequence[str] = ()) -> None:
    """Print ``rows`` under ``columns``; those in ``numbers`` are aligned to the right. No cell is ever cut short."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from broker.cli.words import printable

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


def state_text(state: str) -> Text:
    """A state in its colour."""
    from rich.text import Text

    from broker.cli.words import STATE_STYLES, printable

    return Text(printable(state), style=STATE_STYLES.get(state, ""))


def timestamp(milliseconds: int) -> str:
    """A time of the ledger, UTC, to the millisecond."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ledger_now(broker: Broker) -> int:
    """The ledger's time in milliseconds: Redis's clock, as the scripts correct it."""
    return broker.run(plans.now(broker.keys))
