"""Whether a card should go on lending, by what it says of its own health. Pure: looks in, findings out.

XIDs and what to do about them are NVIDIA's, https://docs.nvidia.com/deploy/xid-errors/ with its catalog at
https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html: what asks there for a reset of the card, a
restart of the machine or a look at its mechanics is ``drain`` here. What an application meets by its own fault or on
its own channel is ``ignore``: the application has its error already, and the card is well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from broker.errors import InvalidRequest

#: Nothing to do; the jobs on the card should start again; the card should lend nothing more.
IGNORE, RESTART, DRAIN = "ignore", "restart", "drain"
#: XIDs are numbers up to here.
XID_MOST = 65_535

_ENGINES = {
    "copy engine error, the application's": (39, 40, 41, 70, 71, 72, 75, 76, 77, 85, *range(126, 136)),
    "video decoder error, the application's": (60, 68, 83, 84, 88, 89, 96, 97, 98),
    "JPEG decoder error, the application's": (82, *range(99, 106)),
    "optical flow error, the application's": (86, 139),
    "NVLink 5 error: `recovery` tells a fatal one": (*range(144, 151),),
}
#: What to do about each XID, and what it means in a line. One that is not here is ignored, and reported.
TABLE: dict[int, tuple[str, str]] = {
    **{xid: (IGNORE, meaning) for meaning, xids in _ENGINES.items() for xid in xids},
    8: (IGNORE, "an application's channel stopped"),
    11: (IGNORE, "invalid commands of an application"),
    13: (IGNORE, "graphics engine exception: an application's fault, mostly"),
    25: (IGNORE, "invalid commands of an application"),
    31: (IGNORE, "memory page fault: an application's fault, mostly"),
    32: (IGNORE, "invalid commands of an application"),
    43: (IGNORE, "an application's channel was reset, the card is well"),
    44: (IGNORE, "graphics engine fault at a context switch"),
    45: (IGNORE, "an application was cleaned away, for an error before"),
    46: (DRAIN, "the card stopped processing: it needs a reset"),
    48: (DRAIN, "memory error of two bits, not corrected"),
    54: (DRAIN, "auxiliary power is not connected"),
    62: (DRAIN, "internal micro-controller halted: the card needs a reset"),
    63: (IGNORE, "memory row remapped: `rows_pending` tells whether a reset is needed"),
    64: (DRAIN, "memory row could not be remapped: the card needs a reset"),
    69: (IGNORE, "graphics engine class error: an application's fault"),
    74: (DRAIN, "NVLink error: jobs across cards fail on it"),
    79: (DRAIN, "the card fell off the bus: the machine needs a restart"),
    80: (IGNORE, "corrupted commands of an application"),
    92: (IGNORE, "many single-bit memory errors, all corrected"),
    93: (IGNORE, "the InfoROM is written too often"),
    94: (RESTART, "memory error that stayed within one application"),
    95: (DRAIN, "memory error that reached several applications: the card needs a reset"),
    # The catalog asks for a reset here too, but a kernel that runs too long is the usual cause: `recovery` tells.
    109: (IGNORE, "context switch timed out: an application's fault, mostly"),
    110: (DRAIN, "security fault: the card needs a reset"),
    119: (DRAIN, "the card's system processor does not answer: the card needs a reset"),
    120: (DRAIN, "the card's system processor failed: the card needs a reset"),
    121: (IGNORE, "error on the chip-to-chip link, corrected"),
    136: (DRAIN, "NVLink training failed: the card needs a reset"),
    137: (IGNORE, "NVLink privilege error: a page fault on another card"),
    140: (DRAIN, "memory error not corrected: the card needs a reset"),
    143: (DRAIN, "the card could not be initialized: it needs a reset"),
    151: (DRAIN, "key rotation failed: the machine needs a restart"),
    # It says that the action changed, also back to none, and not to which: the card's `recovery` does.
    154: (IGNORE, "another recovery action is needed: `recovery` tells which"),
    155: (DRAIN, "NVLink error found by software: the card needs a reset"),
    156: (DRAIN, "a part of the card is retired at its next reset"),
    157: (IGNORE, "a part of the card could not be retired"),
    158: (DRAIN, "fatal timeout: the card needs a reset"),
    171: (DRAIN, "memory error not corrected, in DRAM: comes with 48"),
    172: (DRAIN, "memory error not corrected, in SRAM: comes with 48"),
}
#: Between the causes of a reason; stands in none of them.
_BETWEEN = "; "


def actions(overrides: Mapping[str, str] | None = None) -> dict[int, str]:
    """The action of every XID: ``TABLE``'s, but for those that ``xid_ignore``, ``xid_restart`` and ``xid_drain`` name.

    Their texts are like ``"48,79"``; other names in ``overrides`` are not looked at.

    Raises:
        InvalidRequest: a text is no list of XIDs, or one of them is named twice.
    """
    result = {xid: action for xid, (action, _) in TABLE.items()}
    named: dict[int, str] = {}
    for action in (IGNORE, RESTART, DRAIN):
        name = f"xid_{action}"
        text = (overrides or {}).get(name, "")
        for xid in _xids(name, text):
            if xid in named:
                raise InvalidRequest(name, text, f"XID {xid} stands in {named[xid]} already")
            named[xid], result[xid] = name, action
    return result


def _xids(name: str, text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")] if text else []
    if not all(word.isascii() and word.isdecimal() and len(word) < 9 and 1 <= int(word) <= XID_MOST for word in words):
        raise InvalidRequest(name, text, f"whole numbers from 1 to {XID_MOST} between commas, such as 48,79")
    return [int(word) for word in words]


@dataclass(frozen=True, slots=True)
class Xid:
    """One XID with what is done about it, and what it means."""

    xid: int
    action: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look came to: whether the card is drained for its health and why, whether the jobs on it should start
    again now, and the XIDs that are new."""

    drained: bool
    reason: str
    restart: bool
    xids: tuple[Xid, ...]

    @property
    def why_restart(self) -> str:
        """Why the jobs on the card should start again; empty where they need not."""
        return _BETWEEN.join(f"XID {one.xid}: {one.meaning}" for one in self.xids if one.action == RESTART)


@dataclass(slots=True)
class Health:
    """The health of one card. Times are seconds of any monotonic clock.

    A cause drains the card; ``clean_seconds`` of readable looks without any lift that. Of marks that an operator made
    it knows nothing. ``table`` is what ``actions`` gave. ``events`` are the causes that came and went since the drain
    began, ``standing`` those that stood at the last readable look; ``clean`` counts the seconds without any, and
    ``seen_at`` is the last look if that was readable.
    """

    clean_seconds: float = 600.0
    table: Mapping[int, str] = field(default_factory=actions)
    drained: bool = False
    events: tuple[str, ...] = ()
    standing: tuple[str, ...] = ()
    clean: float = 0.0
    seen_at: float | None = None
    ecc_uncorrected: int | None = None

    def resume(self, now: float, reason: str) -> None:
        """Go on with a drain that this card's agent had marked before it ended; the clean time begins anew."""
        self.drained, self.clean, self.seen_at = True, 0.0, now
        self.events = _once(*filter(None, reason.split(_BETWEEN)))

    def see(self, now: float, xids: Sequence[int], hardware: Mapping[str, int | str], readable: bool) -> Finding:
        """Take in one look: the XIDs since the last, and the fields of ``broker.hardware`` if the card is readable.

        A look at a card that cannot be read adds no clean time and takes none away; its XIDs count.
        """
        new = tuple(Xid(xid, self.table.get(xid, IGNORE), _meaning(xid)) for xid in dict.fromkeys(xids))
        events = [f"XID {one.xid}: {one.meaning}" for one in new if one.action == DRAIN]
        if readable:
            events += self._grown_errors(hardware)
            self.standing = _standing(hardware)
        if events or (readable and self.standing):
            self.drained, self.clean = True, 0.0
            self.events = _once(*self.events, *events)
        elif readable and self.seen_at is not None:
            self.clean += max(0.0, now - self.seen_at)
        self.seen_at = now if readable else None
        if readable and not events and not self.standing and self.clean >= self.clean_seconds:
            self.drained, self.events = False, ()
        restart = any(one.action == RESTART for one in new)
        return Finding(self.drained, self._reason(), restart, new)

    def _grown_errors(self, hardware: Mapping[str, int | str]) -> list[str]:
        """A counter that fell was reset with the driver: it is where counting begins again."""
        errors, before = hardware.get("ecc_uncorrected"), self.ecc_uncorrected
        if not isinstance(errors, int):
            return []
        self.ecc_uncorrected = errors
        return ["memory errors that could not be corrected"] if before is not None and errors > before else []

    def _reason(self) -> str:
        if not self.drained:
            return ""
        causes = _once(*self.events, *self.standing)
        return _BETWEEN.join(causes) or f"its trouble is over, once it has been for {self.clean_seconds:g} s"


def _standing(hardware: Mapping[str, int | str]) -> tuple[str, ...]:
    """The causes that hold as long as the card says so."""
    causes = ["remapping of a memory row failed"] if hardware.get("rows_failed") == 1 else []
    causes += ["remapping of a memory row waits: a reset is needed"] if hardware.get("rows_pending") == 1 else []
    recovery = str(hardware.get("recovery", ""))
    return (*causes, *([f"the driver asks for recovery: {recovery}"] if recovery not in ("", "none") else []))


def _once(*causes: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(causes))


def _meaning(xid: int) -> str:
    return TABLE[xid][1] if xid in TABLE else "not in NVIDIA's list as known here"
