"""Rows of the screen, from a picture: plain texts and their styles. Nothing here knows of a terminal.

All that others wrote into the ledger passes ``printable`` on its way into a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from broker.cli import words
from broker.cli.top.feed import Fields, Picture
from broker.cli.words import printable
from broker.models import asks_text
from broker.units import GIB, duration, format_size


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its least width, whether it is aligned to the right, and its share of what is left over."""

    title: str
    width: int
    right: bool = False
    grows: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what it stands for (``"gpu"`` and its UUID, for instance), its cells and their styles, its bar.

    Where it has fewer cells than there are columns, the last one takes all the room that is left.
    """

    kind: str
    name: str
    cells: tuple[str, ...]
    styles: tuple[str, ...] = ()
    bar: tuple[int, int, int, int] | None = None  # used by leases, lent beyond that, unmanaged, of which total
    more: str = ""  # what is told of it where it is the chosen one


Sort = Callable[[Fields], object]

#: Where a bar goes; its cell is empty.
BAR = "MEMORY"
CARDS = (
    Column("GPU", 18, grows=1), Column("°C", 3, True), Column("STATE", 11), Column(BAR, 10, grows=1),
    Column("LENT/TOTAL", 11, True), Column("USED", 5, True), Column("LEASES", 8, grows=2),
)  # fmt: skip
LEASES = (
    Column("LEASE", 14, grows=2), Column("HOST", 8, grows=1), Column("MEMORY", 9, True), Column("ENDS IN", 7, True),
    Column("STATE", 10), Column("USED", 9, True), Column("HELD", 7, True), Column("OWNER", 6, grows=2),
)  # fmt: skip
WAITERS = (
    Column("#", 3, True), Column("REQUEST", 16, grows=1), Column("MEMORY", 9, True), Column("WAITED", 7, True),
    Column("WHY", 20, grows=4),
)  # fmt: skip
EVENTS = (Column("TIME", 8), Column("EVENT", 10), Column("", 30, grows=1))

_RANK: dict[str, int] = {state: rank for rank, state in enumerate(words.STATE_STYLES)}

CARD_SORTS: dict[str, Sort | None] = {
    "host": None,
    "heat": lambda gpu: -int(gpu.get("temperature_c") or -1),
    "lent": lambda gpu: -_share(gpu),
    "free": lambda gpu: -int(gpu.get("free_bytes") or 0),
    "state": lambda gpu: -_RANK.get(gpu.get("state", ""), 9),
}
LEASE_SORTS: dict[str, Sort | None] = {
    "end": None,
    "memory": lambda lease: -int(lease.get("memory_bytes") or 0),
    "age": lambda lease: int(lease.get("created_at") or 0),
    "owner": lambda lease: lease.get("owner", ""),
}
WAITER_SORTS: dict[str, Sort | None] = {
    "place": None,
    "memory": lambda waiter: -int(waiter.get("memory_bytes") or 0),
    "waited": lambda waiter: int(waiter.get("since") or 0),
}
EVENT_SORTS: dict[str, Sort | None] = {"newest": None}


def cards(picture: Picture, sort: str, sought: str) -> list[Row]:
    """A row a card; by host, also one a host, in front of its cards."""
    by = CARD_SORTS[sort]
    shown = [gpu for gpu in picture.gpus if _matches(gpu, sought)]
    if by is not None:
        shown.sort(key=by)  # type: ignore[arg-type]
        return [_card(gpu, picture.now, f"{gpu['host']} [{gpu['index']}] {gpu['name']}") for gpu in shown]
    rows, of_host = list[Row](), dict[str, list[Fields]]()
    for gpu in shown:
        of_host.setdefault(gpu["host"], []).append(gpu)
    hosts = {host["host"]: host for host in picture.hosts}
    bare = [
        name for name, host in hosts.items() if name not in of_host and _matches(host, sought) and not host.get("gpus")
    ]
    for name in sorted({*of_host, *bare}):
        own = of_host.get(name, [])
        rows.append(_host(hosts.get(name, {"host": name}), own, picture.now))
        rows += [_card(gpu, picture.now, f"  [{gpu['index']}] {gpu['name']}") for gpu in own]
    return rows


def _card(gpu: Fields, now: int, title: str) -> Row:
    state, heat = words.state_of(gpu, now), gpu.get("temperature_c")
    style = words.STATE_STYLES.get(state, "")
    total = words.number(gpu, "memory_total_bytes")
    lent, used = int(gpu.get("leased_bytes") or 0), words.number(gpu, "memory_used_bytes")
    strange = words.number(gpu, "unmanaged_bytes") or 0
    by_leases = min(lent, max(0, (used or 0) - strange))
    told = " ".join(f"{name}({size / GIB:.1f}G)" for name, size in words.leases_on(gpu).items())
    why = "; ".join(words.reasons(gpu, now)) if not words.lends(gpu, now) or gpu.get("short_bytes", "0") != "0" else ""
    return Row(
        "gpu", gpu["uuid"],
        (
            printable(title), printable(heat or "-"), printable(state), "",
            f"{lent / GIB:.1f} / {'-' if total is None else f'{total / GIB:.1f}'}G",
            "-" if used is None else f"{used / GIB:.1f}G", printable("; ".join(filter(None, (why, told)))),
        ),
        ("", style, style, "", "bold", "", "yellow" if why else ""),
        None if total is None else (by_leases, max(0, lent - by_leases), strange, total),
        printable(f"{gpu['uuid']}  {'; '.join(words.reasons(gpu, now))}  {told}"),
    )  # fmt: skip


def _host(host: Fields, own: Sequence[Fields], now: int) -> Row:
    silent = words.silent(host, now)
    ill = silent or host.get("state", "OK") != "OK"
    facts = [words.silence(host, now) if silent else host.get("reason", "")]
    facts += ["drained"] if host.get("drained") == "1" else []
    if own:
        lent = sum(int(gpu.get("leased_bytes") or 0) for gpu in own)
        facts.append(f"{len(own)} {'card' if len(own) == 1 else 'cards'}, {format_size(lent)} lent")
    if not silent and host.get("cpu_percent"):
        facts.append(f"cpu {host['cpu_percent']} %")
    if not silent and host.get("memory_used_bytes") and host.get("memory_bytes"):
        used, there = int(host["memory_used_bytes"]), int(host["memory_bytes"])
        facts.append(f"memory {format_size(used)} of {format_size(there)}")
    told = printable(", ".join(filter(None, facts)))
    title = printable(host["host"])
    return Row("host", host["host"], (title, told), ("bold", "red" if ill else "dim"), more=f"{title}: {told}")


def leases(picture: Picture, sort: str, sought: str) -> list[Row]:
    """A row a lease, the next to end first."""
    return [_lease(lease, picture.now) for lease in _sorted(picture.leases, LEASE_SORTS[sort], sought)]


def _lease(lease: Fields, now: int) -> Row:
    count = lease.get("gpu_uuids", "").count(",") + 1
    used = words.number(lease, "used_bytes")
    revoked = bool(lease.get("revoke_at")) and lease.get("state") != "reclaiming"
    state = "revoked" if revoked else lease.get("state", "")
    return Row(
        "lease", lease["id"],
        (
            printable(lease["id"]), printable(lease.get("host", "")),
            ("" if count == 1 else f"{count}x") + format_size(int(lease.get("memory_bytes") or 0)),
            duration(int(lease.get("expires_at") or 0) - now), printable(state),
            "-" if used is None else format_size(used), duration(now - int(lease.get("created_at") or now)),
            printable(lease.get("owner", "")),
        ),
        ("", "", "bold", "", "yellow" if state != "active" else "green"),
        more=printable(_more(lease)),
    )  # fmt: skip


def _more(lease: Fields) -> str:
    names = ("gpu_uuids", "owner", "tenant", "job_id", "function", "pid", "peak_bytes", "revoke_reason")
    return " ".join([lease["id"], *(f"{name}={lease[name]}" for name in names if lease.get(name))])


def waiters(picture: Picture, sort: str, sought: str) -> list[Row]:
    """A row a waiter, the next to be served first, with the reason that is nearest to coming right."""
    place = {waiter["id"]: at for at, waiter in enumerate(picture.waiters, start=1)}
    return [
        Row(
            "waiter", waiter["id"],
            (
                str(place[waiter["id"]]), printable(waiter["id"]), printable(_asked(waiter)),
                duration(picture.now - int(waiter.get("since") or picture.now)),
                printable(picture.whys.get(waiter["id"], "")),
            ),
            ("", "", "bold"),
            more=printable(f"{waiter['id']}: {picture.whys.get(waiter['id'], 'waits')}"),
        )
        for waiter in _sorted(picture.waiters, WAITER_SORTS[sort], sought)
    ]  # fmt: skip


def _asked(waiter: Fields) -> str:
    return asks_text(waiter.get("asks") or f"{waiter.get('gpus', '1')}x{waiter.get('memory_bytes', '0')}")


def events(picture: Picture, _sort: str, sought: str) -> list[Row]:
    """A row an event, the newest first."""
    shown = (entry for entry in reversed(picture.events) if _matches(entry[1], sought))
    return [_event(stream_id, fields) for stream_id, fields in shown]


def _event(stream_id: str, fields: Fields) -> Row:
    at = datetime.fromtimestamp(int(fields.get("at") or 0) / 1000, UTC)
    told = " ".join(f"{name}={value}" for name, value in fields.items() if name not in ("seq", "kind", "at") and value)
    kind, told = printable(fields.get("kind", "")), printable(told)
    return Row("event", stream_id, (f"{at:%H:%M:%S}", kind, told), ("dim", "cyan"), more=f"{kind} {told}")


def summary(picture: Picture) -> str:
    """All of it in one line."""
    lending = sum(words.lends(gpu, picture.now) for gpu in picture.gpus)
    lent = sum(int(gpu.get("leased_bytes") or 0) for gpu in picture.gpus)
    there = sum(int(gpu.get("budget_bytes") or 0) for gpu in picture.gpus)
    return (
        f"{lending} of {len(picture.gpus)} cards lend, {format_size(lent)} of {format_size(there)} lent, "
        f"{picture.lease_count} {'lease' if picture.lease_count == 1 else 'leases'}, {picture.waiter_count} waiting"
    )


def _share(gpu: Fields) -> float:
    return int(gpu.get("leased_bytes") or 0) / max(1, int(gpu.get("memory_total_bytes") or 0))


def _sorted(hashes: Iterable[Fields], by: Sort | None, sought: str) -> list[Fields]:
    shown = [one for one in hashes if _matches(one, sought)]
    return shown if by is None else sorted(shown, key=by)  # type: ignore[arg-type]


def _matches(fields: Fields, sought: str) -> bool:
    """Whether a word stands in any value, or in the name of a lease on the card."""
    if not sought:
        return True
    word = sought.casefold()
    return any(word in value.casefold() for value in fields.values()) or any(
        word in name.casefold() for name in words.leases_on(fields)
    )
