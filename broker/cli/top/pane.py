"""A list of thousands of rows on the screen: only what is in sight is drawn; a thousand cards cost what ten do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import ClassVar

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from broker.cli.top.feed import Picture
from broker.cli.top.rows import BAR, Column, Row, Sort

_MARK = 2
#: Used by leases, lent beyond that, unmanaged, the rest: told apart without colour too.
_BAR = (("█", "green"), ("▒", "cyan"), ("▚", "red"), ("·", "dim"))
_HEADER, _CHOSEN = Style(bold=True, underline=True), Style(reverse=True)

MakeRows = Callable[[Picture, str, str], list[Row]]


class Pane(ScrollView, can_focus=True):
    """Rows under a header, one of them chosen, which stays chosen wherever it moves."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "go(0)", show=False),
        Binding("end,G", "go(-1)", show=False),
    ]

    class Chosen(Message):
        """Another row is the chosen one, or the same one has other words."""

        def __init__(self, pane: Pane) -> None:
            """Of this pane."""
            self.pane = pane
            super().__init__()

    def __init__(
        self, title: str, columns: Sequence[Column], sorts: dict[str, Sort | None], make: MakeRows, name: str
    ) -> None:
        """Show nothing yet."""
        super().__init__(id=name, classes="pane")
        self.title, self._columns, self._make = title, columns, make
        self._sorts, self.sort, self.sought = list(sorts), next(iter(sorts)), ""
        self.rows: list[Row] = []
        self._at = 0

    # -- what is shown -------------------------------------------------------------------------------------------------

    def show(self, picture: Picture) -> None:
        """The rows of a picture, in this pane's order, as far as they have the word that is sought."""
        before = self.chosen
        self.rows = self._make(picture, self.sort, self.sought)
        if before is not None:
            same = (at for at, row in enumerate(self.rows) if (row.kind, row.name) == (before.kind, before.name))
            self._at = next(same, self._at)
        self._at = max(0, min(self._at, len(self.rows) - 1))
        self.virtual_size = Size(self.size.width, len(self.rows) + 1)
        order = f", by {self.sort}" if len(self._sorts) > 1 else ""
        count = sum(row.kind != "host" for row in self.rows)
        self.border_title = f"{self.title} {count}{order}"
        self._tell()

    def sort_otherwise(self) -> None:
        """The next order; the next picture has it."""
        self.sort = self._sorts[(self._sorts.index(self.sort) + 1) % len(self._sorts)]

    @property
    def chosen(self) -> Row | None:
        """The row that the mark stands at."""
        return self.rows[self._at] if self._at < len(self.rows) else None

    # -- drawing -------------------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """One line of what is in sight; the header stays on top."""
        width = self.size.width
        widths = _widths(tuple(self._columns), width)
        if y == 0:
            cells = [_fit(one.title, space, one.right) for one, space in zip(self._columns, widths, strict=True)]
            gap = " " * _gap(tuple(self._columns), width)
            segments = [Segment("  " + gap.join(cells), _HEADER)]
        else:
            at = self.scroll_offset.y + y - 1
            segments = self._segments(at, widths) if at < len(self.rows) else []
        return Strip(segments).crop_extend(0, width, None).apply_style(self.rich_style)

    def _segments(self, at: int, widths: Sequence[int]) -> list[Segment]:
        row, chosen, gap = self.rows[at], at == self._at, _gap(tuple(self._columns), self.size.width)
        over = _CHOSEN if chosen and self.has_focus else Style()
        segments = [Segment("> " if chosen else "  ", over)]
        for place, (column, space) in enumerate(zip(self._columns, widths, strict=True)):
            if place == len(row.cells) - 1 < len(self._columns) - 1:
                segments.append(Segment(row.cells[place], _style(row.styles[place]) + over))
                break
            if column.title == BAR and row.bar is not None:
                segments += bar(row.bar, space)
            else:
                style = row.styles[place] if place < len(row.styles) else ""
                segments.append(Segment(_fit(row.cells[place], space, column.right), _style(style) + over))
            segments.append(Segment(" " * gap, over))
        return segments

    # -- moving --------------------------------------------------------------------------------------------------------

    def action_move(self, by: int) -> None:
        """So many rows on."""
        self._choose(self._at + by)

    def action_page(self, by: int) -> None:
        """A screenful on."""
        self._choose(self._at + by * max(1, self.size.height - 2))

    def action_go(self, at: int) -> None:
        """To the first row, or the last."""
        self._choose(at if at >= 0 else len(self.rows) - 1)

    def _choose(self, at: int) -> None:
        self._at = max(0, min(at, len(self.rows) - 1))
        # The header covers one line, so that line above has to be in sight as well.
        self.scroll_to_region(Region(0, self._at, 1, 2), animate=False)
        self._tell()

    def _tell(self) -> None:
        self.refresh()
        self.post_message(self.Chosen(self))

    def on_click(self, event: Click) -> None:
        """Choose the row under the pointer."""
        if event.y > 0:
            self._choose(min(self.scroll_offset.y + event.y - 1, len(self.rows) - 1))


def bar(parts: tuple[int, int, int, int], space: int) -> list[Segment]:
    """Bytes as signs: used by leases, lent beyond that, unmanaged, out of a total. What is there is never invisible."""
    *shares, total = parts
    counts, left = [], space
    for share in shares:
        count = min(left, max(round(share * space / max(total, 1)), 1 if share else 0))
        counts.append(count)
        left -= count
    return [Segment(sign * count, _style(style)) for (sign, style), count in zip(_BAR, [*counts, left], strict=True)]


@cache
def _style(text: str) -> Style:
    return Style.parse(text)


@cache
def _gap(columns: tuple[Column, ...], width: int) -> int:
    """Between two columns: one sign where there is no room for two."""
    return 2 if width >= _MARK + sum(one.width + 2 for one in columns) else 1


@cache
def _widths(columns: tuple[Column, ...], width: int) -> list[int]:
    """What each column gets: its own width, and its share of what is left over."""
    left = max(0, width - _MARK - sum(one.width + _gap(columns, width) for one in columns))
    shares = sum(one.grows for one in columns)
    return [one.width + (left * one.grows // shares if shares else 0) for one in columns]


def _fit(text: str, space: int, right: bool) -> str:
    fitted = set_cell_size(text, space)
    if not right or fitted != text.ljust(space):
        return fitted
    return text.rjust(space)
