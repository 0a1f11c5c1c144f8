"""What a demo looks like while it runs: live bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from broker.units import GIB, format_size

if TYPE_CHECKING:
    from broker.models import Event, Gpu

_COLOURS = {
    "OPTIMAL": "green",
    "NORMAL": "cyan",
    "THROTTLED": "yellow",
    "CRITICAL": "red",
    "UNAVAILABLE": "bright_black",
}
_LIVE_SECONDS, _PLAIN_SECONDS = 0.2, 2.0
_NEWS = 6


class Screen(Protocol):
    """Where a demo shows itself; used as a context manager while photos are under way."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End, leaving the last picture."""

    def say(self, line: str) -> None:
        """One line of news."""

    def making(self, done: int, total: int) -> None:
        """Progress of making the sample photos."""

    def event(self, event: Event) -> None:
        """Something happened in the ledger."""

    def due(self) -> bool:
        """Whether it is time to show the numbers again."""

    def show(self, done: int, failed: int, total: int, gpus: Sequence[Gpu], waiting: int) -> None:
        """The numbers now."""


def screen_for(stream: IO[str]) -> Screen:
    """The right screen for a stream."""
    return LiveScreen(Console(file=stream)) if stream.isatty() else PlainScreen(Console(file=stream, width=160))


class _Paced:
    """News of the ledger in words, and a pace for the numbers."""

    def __init__(self, console: Console, seconds: float) -> None:
        self.console = console
        self._seconds = seconds
        self._shown = 0.0
        self.began = time.monotonic()

    def due(self) -> bool:
        """Whether the pace allows another picture."""
        if time.monotonic() - self._shown < self._seconds:
            return False
        self._shown = time.monotonic()
        return True

    def say(self, line: str) -> None:
        """One line of news."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def event(self, event: Event) -> None:
        """Tell of states that changed and of leases that ended by themselves; grants come by the hundred."""
        f = event.fields
        if event.kind == "state" and f["from"] and f["from"] != f["to"]:
            self.say(f"{f['host']} {f['gpu'][:12]} {f['from']} → {f['to']}: {f['reason']}".removesuffix(": "))
        elif event.kind in ("expired", "reclaimed"):
            what = "is over, its bytes still count" if event.kind == "expired" else "gave its bytes back"
            self.say(f"lease {f['id']} {what}")


class PlainScreen(_Paced):
    """Plain lines, no colours, no cursor movements."""

    def __init__(self, console: Console) -> None:
        """Print to this console, every two seconds."""
        super().__init__(console, _PLAIN_SECONDS)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End."""

    def making(self, done: int, total: int) -> None:
        """Only the end is news."""
        if done == total:
            self.say(f"made {total} photos")

    def show(self, done: int, failed: int, total: int, gpus: Sequence[Gpu], waiting: int) -> None:
        """One line for all."""
        cards = "  ".join(
            f"{gpu.host}/{gpu.index} {gpu.leased_bytes / GIB:.1f}G {_degrees(gpu)} {gpu.state}" for gpu in gpus
        )
        self.say(f"photos {done}/{total}, failed {failed}, waiting {waiting}  {cards}")


class LiveScreen(_Paced):
    """Bars for the photos and for each card, redrawn in place, with the last news below."""

    def __init__(self, console: Console) -> None:
        """Draw on this terminal, five times a second."""
        super().__init__(console, _LIVE_SECONDS)
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._running = False
        self._news: list[str] = []

    def __enter__(self) -> Self:
        """Take the terminal."""
        self._live.start()
        self._running = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Give it back with the last picture on it."""
        self._running = False
        self._live.stop()

    def say(self, line: str) -> None:
        """Into the last lines of the picture, or plainly before it stands."""
        if self._running:
            self._news = [*self._news, f"{time.monotonic() - self.began:5.1f} s  {line}"][-_NEWS:]
        else:
            super().say(line)

    def making(self, done: int, total: int) -> None:
        """A counter on one line."""
        self.console.print(f"made {done} of {total} photos", end="\n" if done == total else "\r", highlight=False)

    def show(self, done: int, failed: int, total: int, gpus: Sequence[Gpu], waiting: int) -> None:
        """Redraw."""
        self._live.update(picture(done, failed, total, gpus, waiting, self._news), refresh=True)


def picture(done: int, failed: int, total: int, gpus: Sequence[Gpu], waiting: int, news: Sequence[str]) -> Group:
    """The whole picture: photos, cards, news."""
    photos = Table.grid(padding=(0, 1))
    photos.add_row(
        Text("photos", style="bold"),
        ProgressBar(total=max(1, total), completed=done, width=48),
        Text(f"{done}/{total} done, {failed} failed, {waiting} requests waiting"),
    )
    return Group(photos, _cards(gpus), Text("\n".join(news), style="bright_black"))


def _cards(gpus: Sequence[Gpu]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for heading in ("host", "card", "leased of budget", "", "used", "°C", "state", "speed"):
        table.add_column(heading, justify="right" if heading in ("°C", "speed", "used") else "left", no_wrap=True)
    for gpu in gpus:
        table.add_row(
            gpu.host,
            str(gpu.index),
            ProgressBar(total=max(1, gpu.budget_bytes), completed=gpu.leased_bytes, width=20),
            f"{gpu.leased_bytes / GIB:.1f}/{gpu.budget_bytes / GIB:.1f} GiB",
            "" if gpu.memory_used_bytes is None else format_size(gpu.memory_used_bytes),
            _degrees(gpu),
            Text(gpu.state, style=_COLOURS[gpu.state]),
            f"{gpu.job_speed:g}",
        )
    return table


def _degrees(gpu: Gpu) -> str:
    return "?" if gpu.temperature_c is None else f"{gpu.temperature_c}°"
