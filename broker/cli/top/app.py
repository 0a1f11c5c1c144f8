"""The screen of `gpubroker top`: four panes, a line above and the keys below."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import DescendantFocus, Resize
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Static

from broker.cli.top import rows
from broker.cli.top.feed import Feed, Picture
from broker.cli.top.pane import Pane
from broker.cli.words import printable
from broker.errors import BrokerError

if TYPE_CHECKING:
    from broker.client import Broker

#: From this size on all panes are in sight at once.
_WIDE, _HIGH = 120, 32
_GRACE_SECONDS = 10.0
_HELP = """\
1 2 3 4 Tab  cards, leases, waiters, events
↑ ↓ j k      choose a row; PgUp PgDn Home End
s            another order
/            only rows with a word: host, name, UUID, lease; Esc: all
d u          drain, undrain the chosen card, or host by its row
r            ask the holder of the chosen lease to end it (10 s)
q            quit

█ used by leases            ▒ lent, not used
▚ used without a lease      · free"""


class Taken(Message):
    """A picture was taken."""

    def __init__(self, picture: Picture) -> None:
        """Carry it."""
        self.picture = picture
        super().__init__()


class Away(Message):
    """No picture can be taken."""

    def __init__(self, why: str) -> None:
        """Say why."""
        self.why = why
        super().__init__()


class Words(ModalScreen[bool]):
    """A box with words: closed by any of its keys, ``y`` being yes."""

    CSS = """
    Words { align: center middle; }
    Words > Static { width: auto; max-width: 90%; height: auto; max-height: 90%; border: round $primary; padding: 0 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "close(True)", "yes"), Binding("n,escape,q,question_mark,enter,space", "close(False)", "no"),
    ]  # fmt: skip

    def __init__(self, text: str) -> None:
        """Show ``text`` as it is."""
        super().__init__()
        self.text = text

    def compose(self) -> ComposeResult:
        """The box."""
        yield Static(self.text, markup=False)

    def action_close(self, yes: bool) -> None:
        """Say yes or no."""
        self.dismiss(yes)


class Top(App[None]):
    """Cards, leases, waiters and events of one pool, live."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary { height: 1; padding: 0 1; text-style: bold; }
    #panes { height: 1fr; }
    .pane { border-top: solid $primary; height: 1fr; display: none; overflow-x: hidden; scrollbar-size-vertical: 1; }
    .pane:focus { border-top: solid $accent; }
    .pane.-shown { display: block; }
    .wide .pane { display: block; }
    .wide #panes { layout: grid; grid-size: 2 3; grid-rows: 3fr 2fr 1fr; }
    .wide #cards, .wide #events { column-span: 2; }
    #detail { height: 2; padding: 0 2; color: $text-muted; }
    #filter { display: none; height: 1; border: none; padding: 0 1; }
    #filter.-shown { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "pane('cards')", "panes", key_display="1-4"), Binding("2", "pane('leases')", show=False),
        Binding("3", "pane('waiters')", show=False), Binding("4", "pane('events')", show=False),
        Binding("tab", "next_pane", show=False, priority=True), Binding("s", "sort", "sort"),
        Binding("slash", "filter", "filter"), Binding("escape", "all", show=False), Binding("d", "drain", "drain"),
        Binding("u", "undrain", "undrain"), Binding("r", "revoke", "revoke"),
        Binding("question_mark,f1", "help", "help", key_display="?"), Binding("q", "quit", "quit"),
    ]  # fmt: skip

    def __init__(self, broker: Broker) -> None:
        """Watch the broker's pool."""
        # Without colour, a terminal's own instead of Textual's greys.
        super().__init__(ansi_color="NO_COLOR" in os.environ)
        self._broker = broker
        self.picture: Picture | None = None
        # Kept here, since a query finds nothing of them while a box with words is on top.
        self._panes = [
            Pane("cards", rows.CARDS, rows.CARD_SORTS, rows.cards, "cards"),
            Pane("leases", rows.LEASES, rows.LEASE_SORTS, rows.leases, "leases"),
            Pane("waiters", rows.WAITERS, rows.WAITER_SORTS, rows.waiters, "waiters"),
            Pane("events", rows.EVENTS, rows.EVENT_SORTS, rows.events, "events"),
        ]
        self._summary = Static("…", id="summary", markup=False)
        self._detail = Static("", id="detail", markup=False)
        self._box = Input(placeholder="a word", id="filter")
        self._feed = Feed(
            broker, lambda picture: self.post_message(Taken(picture)), lambda why: self.post_message(Away(why))
        )

    def compose(self) -> ComposeResult:
        """A line, the panes, the word that is sought, the keys."""
        yield self._summary
        with Container(id="panes"):
            yield from self._panes
        yield self._detail
        yield self._box
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to watch."""
        self.action_pane("cards")
        self._feed.start()

    def on_unmount(self) -> None:
        """Stop watching."""
        self._feed.stop()

    def on_resize(self, event: Resize) -> None:
        """All panes, where there is room for all."""
        self.set_class(event.size.width >= _WIDE and event.size.height >= _HIGH, "wide")
        self.call_after_refresh(self._draw)

    # -- what is new ---------------------------------------------------------------------------------------------------

    @on(Taken)
    def _taken(self, message: Taken) -> None:
        self.picture = message.picture
        self._draw()

    @on(Away)
    def _is_away(self, message: Away) -> None:
        self._summary.update(printable(f"no news: {message.why}"))

    def _draw(self) -> None:
        if self.picture is None:
            return
        self._summary.update(f"pool {self._broker.pool}: {rows.summary(self.picture)}")
        for pane in self._panes:
            if pane.display:
                pane.show(self.picture)

    @on(Pane.Chosen)
    def _tell(self, message: Pane.Chosen) -> None:
        if message.pane is self.pane:
            row = message.pane.chosen
            self._detail.update("" if row is None else row.more)

    # -- panes ---------------------------------------------------------------------------------------------------------

    @property
    def pane(self) -> Pane:
        """The one that keys go to."""
        return next((one for one in self._panes if one.has_class("-shown")), self._panes[0])

    def action_pane(self, name: str) -> None:
        """Go to the pane of that name."""
        for pane in self._panes:
            pane.set_class(pane.id == name, "-shown")
        self.pane.focus()
        self.call_after_refresh(self._draw)

    @on(DescendantFocus)
    def _focused(self, event: DescendantFocus) -> None:
        """A pane that was clicked is the one that keys go to."""
        if isinstance(event.widget, Pane) and event.widget is not self.pane:
            self.action_pane(cast("str", event.widget.id))

    def action_next_pane(self) -> None:
        """Go to the next pane."""
        names = [cast("str", pane.id) for pane in self._panes]
        self.action_pane(names[(names.index(cast("str", self.pane.id)) + 1) % len(names)])

    def action_sort(self) -> None:
        """Another order of the pane."""
        self.pane.sort_otherwise()
        self._draw()

    def action_filter(self) -> None:
        """Ask for a word."""
        self._box.add_class("-shown")
        self._box.focus()

    @on(Input.Changed, "#filter")
    def _seek(self, event: Input.Changed) -> None:
        for pane in self._panes:
            pane.sought = event.value.strip()
        self._draw()

    @on(Input.Submitted, "#filter")
    def _sought(self) -> None:
        self.pane.focus()

    def action_all(self) -> None:
        """Seek nothing any more."""
        self._box.value = ""
        self._box.remove_class("-shown")
        self.pane.focus()

    # -- acting --------------------------------------------------------------------------------------------------------

    def action_help(self) -> None:
        """The keys."""
        self.push_screen(Words(_HELP))

    def action_drain(self) -> None:
        """Grant nothing more on the chosen card or host."""
        self._mark("drain", self._broker.drain)

    def action_undrain(self) -> None:
        """Grant on the chosen card or host again."""
        self._mark("undrain", self._broker.undrain)

    def _mark(self, verb: str, mark: Callable[..., object]) -> None:
        row = self.pane.chosen
        if row is None or row.kind not in ("gpu", "host"):
            self.notify("choose a card or a host (1)", severity="warning")
            return
        what = {"gpu": row.name} if row.kind == "gpu" else {"host": row.name}
        self._after_yes(f"{verb} {'card' if row.kind == 'gpu' else 'host'} {row.name}?", lambda: mark(**what))

    def action_revoke(self) -> None:
        """Ask the holder of the chosen lease to end it."""
        row = self.pane.chosen
        if row is None or row.kind != "lease":
            self.notify("choose a lease (2)", severity="warning")
            return
        question = f"revoke lease {row.name}? Its holder has {_GRACE_SECONDS:.0f} s to end it"
        self._after_yes(
            question, lambda: self._broker.revoke(row.name, grace=_GRACE_SECONDS, reason="revoked in gpubroker top")
        )

    def _after_yes(self, question: str, act: Callable[[], object]) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self.run_worker(lambda: self._act(question, act), thread=True)

        self.push_screen(Words(printable(f"{question}  y / n")), answered)

    def _act(self, question: str, act: Callable[[], object]) -> None:
        """On a thread of its own: a ledger that is away keeps no key waiting."""
        try:
            act()
        except BrokerError as error:
            self.call_from_thread(self.notify, printable(str(error)), severity="error", markup=False)
        else:
            done = printable(question.partition("?")[0])
            self.call_from_thread(self.notify, f"done: {done}", markup=False)
