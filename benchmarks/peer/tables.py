"""How a run over the peers is told: tables, aims, and the picture."""

from __future__ import annotations

import math
from dataclasses import asdict
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from benchmarks.frame import Cell, Found, Goal, Table
from benchmarks.peer import facts, scripts
from benchmarks.peer.found import Back, Results

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, OUR_QUEUE = facts.OURS.name, facts.QUEUES[0].name
#: Whose SIGKILL is told, in this order.
VICTIMS = ("the process", "the job's process", "its worker")
#: Where a peer is ahead: what it does not do.
_WHY_PAIR = "an acquire also places, counts bytes, writes a journal and can be tried again; see what the peer is not"
_WHY_HAND_OVER = "its release only pushes to a list, and who wakes tries with everybody else"
_WHY_JOB_HAND_OVER = (
    "RQ's limit has no lease to grant and to check at the start gate; Dask's task begins in a thread that is there"
)
_WHY_JOB = "a lease is granted, noted in the job's record, checked at the start gate and kept by a helper"
_WHY_TTL = (
    "nobody watches a plain script: its TTL, and then 5 s, since a holder that is only paused has its memory still"
)


def mid(values: list[float]) -> float | None:
    """The median, if there is one."""
    return median(values) if values else None


def _by(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _row(found: Results, name: str, what: str, cells: list[Cell], width: int) -> list[Cell]:
    """A peer's row; or why it has none."""
    why = found.missing.get(name) or found.failed.get((name, "start")) or found.failed.get((name, what))
    return [name, *[None] * (width - 2), why] if why else [name, *cells]


def all_of(found: Results) -> list[Table]:
    """Every table."""
    return [_pairs(found), _hands(found), _jobs(found), _kills(found), _losses(found), _laws(found)]


def _pairs(found: Results) -> Table:
    columns = [
        "borrow and give back",
        "µs",
        "pairs/s",
        "× bare EVALSHA",
        "round trips",
        "what it is not, or does beside",
    ]
    rows = []
    for peer in facts.LENDERS:
        pair, bare = mid(found.pair_us[peer.name]), mid(found.bare_us[peer.name])
        cells: list[Cell] = [pair, _by(1e6, pair), _by(pair, bare), found.trips.get(peer.name), peer.note]
        rows.append(_row(found, peer.name, "pair", cells, len(columns)))
    return Table(
        "Borrow and give back, one client", columns, rows, "The bare EVALSHA is of the same process and client."
    )


def _hands(found: Results) -> Table:
    columns = ["hand-over", "median ms", "90 % ms", "how one who waits learns of it"]
    rows = []
    for peer in (*facts.LENDERS, *facts.QUEUES):
        spans = found.hand_ms[peer.name]
        late = quantiles(spans, n=10, method="inclusive")[-1] if len(spans) > 1 else None
        rows.append(_row(found, peer.name, "hand-over", [mid(spans), late, peer.waits], len(columns)))
    note = "The last rows are between two jobs; RQ's workers fork for each, and Ray starts a process for each."
    return Table("Hand-over to one who waits in another process", columns, rows, note)


def _jobs(found: Results) -> Table:
    columns = ["a job that does nothing", "jobs/s", "ms a job", "ms more than RQ's", "ms one by one", "note"]
    plain = mid(found.job_ms[facts.AROUND_JOBS[0].name])
    rows = []
    for peer in (*facts.AROUND_JOBS, *facts.QUEUES):
        took = mid(found.job_ms[peer.name])
        more = None if took is None or plain is None or peer.module != "rq_jobs" else took - plain
        rows.append(
            _row(
                found,
                peer.name,
                "burst",
                [_by(1e3, took), took, more, mid(found.each_ms[peer.name]), peer.note],
                len(columns),
            )
        )
    return Table("Jobs that do nothing, one at a time under the limit", columns, rows)


def _kills(found: Results) -> Table:
    columns = [
        "SIGKILL to a process of",
        "which",
        "lent again after s",
        "while the job ran on",
        "time to live by default",
    ]
    told = {peer.name: peer.ttl for peer in (*facts.LENDERS, *facts.QUEUES)} | dict.fromkeys(
        scripts.SCRIPTS, facts.OURS.ttl
    )
    rows: list[list[Cell]] = []
    for name, ttl in told.items():
        for victim in VICTIMS:
            one = found.killed.get((name, victim))
            if one is not None:
                rows.append([_whose(name), victim, back(one), "yes: lent twice" if one.still_ran else "", ttl])
        for (other, what), why in found.failed.items():
            if other == name and what.startswith("killed"):
                rows.append([name, what.removeprefix("killed: "), None, "", why])
        if name in found.missing:
            rows.append([name, "", None, "", found.missing[name]])
    return Table("A holder is killed", columns, rows, "Right after it borrowed: the longest that a TTL can take.")


def _whose(name: str) -> str:
    """Of whom a process was killed: a script that calls the broker by itself is one of several kinds of ours."""
    return "gpubroker in a plain script" if name == OURS else name


def back(one: Back | None) -> Cell:
    """Seconds, or that it was not back before the cap."""
    if one is None:
        return None
    return f"> {one.cap_seconds:g}" if one.seconds is None else one.seconds


def _losses(found: Results) -> Table:
    columns = ["replies lost", "lost", "loans", "beyond capacity", "names nobody holds and nobody gets", "errors told"]
    rows = []
    for peer in facts.LENDERS:
        one = found.losses.get(peer.name)
        cells: list[Cell] = [None] * 5 if one is None else [one.lost, one.loans, one.over, one.leaked, one.errors]
        rows.append(_row(found, peer.name, "lost replies", cells, len(columns)))
    note = "Three clients, each name once for each. A call that raised is an error told: its caller knows of no loan."
    return Table("Every seventh reply is lost, and the library tries again", columns, rows, note)


def _laws(found: Results) -> Table:
    columns = ["", "pair µs", "hand-over ms", "killed: s", "names lost", *facts.LAWS]
    rows: list[list[Cell]] = []
    for peer in (*facts.LENDERS, *facts.QUEUES):
        killed = next((found.killed[peer.name, one] for one in VICTIMS if (peer.name, one) in found.killed), None)
        lost = found.losses.get(peer.name)
        numbers: list[Cell] = [mid(found.pair_us[peer.name]), mid(found.hand_ms[peer.name]), back(killed)]
        rows.append([peer.name, *numbers, None if lost is None else lost.leaked, *peer.laws])
    return Table(
        "What each keeps to", columns, rows, "By documentation and source; what was measured is in the tables above."
    )


def goals(found: Results) -> list[Goal]:
    """Ahead of every peer at the same work; where not, why. What failed of ours is missed, not left out."""
    lenders, queues = facts.LENDERS[1:], facts.QUEUES[1:]
    jobs = (*facts.AROUND_JOBS[1:-1], *queues)
    return [
        *_aims("borrow and give back", found, (OURS, "pair"), lenders, found.pair_us, _WHY_PAIR),
        *_aims("hand-over", found, (OURS, "hand-over"), lenders, found.hand_ms, _WHY_HAND_OVER),
        *_aims("hand-over of a job", found, (OUR_QUEUE, "hand-over"), queues, found.hand_ms, _WHY_JOB_HAND_OVER),
        *_aims("a job that does nothing", found, (OUR_QUEUE, "burst"), jobs, found.job_ms, _WHY_JOB),
        *_aims_at_faults(found),
    ]


def _failure(found: Results, name: str, what: str) -> str:
    return found.failed.get((name, what)) or found.failed.get((name, "start"), "")


def _aims(
    title: str, found: Results, ours: tuple[str, str], peers: Iterable[facts.Peer], seen: Mapping[str, list[float]],
    why: str,
) -> Iterator[Goal]:  # fmt: skip
    mine, failure = mid(seen.get(ours[0], [])), _failure(found, *ours)
    for peer in peers:
        theirs = mid(seen.get(peer.name, []))
        if failure and theirs:
            yield Goal(f"{title}, × {peer.name}", math.nan, most=1, why=failure)
        elif (ratio := _by(mine, theirs)) is not None:
            yield Goal(f"{title}, × {peer.name}", ratio, most=1, why=why)


def _aims_at_faults(found: Results) -> Iterator[Goal]:
    whose = [(OUR_QUEUE, victim) for victim in VICTIMS[1:]] + [(name, VICTIMS[0]) for name in (*scripts.SCRIPTS, OURS)]
    for name, victim in whose:
        one, title = found.killed.get((name, victim)), f"{_whose(name)}: {victim} killed, lent again, s"
        failure = _failure(found, name, f"killed: {victim}")
        if one is not None:
            seconds = one.cap_seconds if one.seconds is None else one.seconds
            yield Goal(title, seconds, most=1, why=_WHY_TTL if name == OURS else "")
        elif failure:
            yield Goal(title, math.nan, most=1, why=failure)
    losses, failure = found.losses.get(OURS), _failure(found, OURS, "lost replies")
    if losses is not None or failure:
        over, leaked = (math.nan, math.nan) if losses is None else (losses.over, losses.leaked)
        yield Goal("lost replies: loans beyond capacity", over, most=0, why=failure)
        yield Goal("lost replies: names nobody holds and nobody gets", leaked, most=0, why=failure)


def _seen(spans: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {name: values for name, values in spans.items() if values}


def raw(found: Results) -> dict[str, Any]:
    """What the picture is drawn from, and what a table leaves out."""
    return {
        "pair_us": {name: mid(spans) for name, spans in found.pair_us.items() if spans},
        "bare_us": {name: mid(spans) for name, spans in found.bare_us.items() if spans},
        "hand_ms": _seen(found.hand_ms),
        "job_ms": _seen(found.job_ms),
        "each_ms": _seen(found.each_ms),
        "killed": [[name, victim, asdict(one)] for (name, victim), one in found.killed.items()],
        "losses": {name: asdict(one) for name, one in found.losses.items()},
        "missing": found.missing,
        "failed": [[name, what, why] for (name, what), why in found.failed.items()],
    }


_OUR_COLOUR, _THEIR_COLOUR, _SECOND_COLOUR = "#2a6f97", "#9e2a2b", "#e09f3e"


def draw(found: Found, figure: Figure) -> None:
    """Pair and hand-over; recovery after a kill; what is lost with replies."""
    figure.set_size_inches(15, 5.5)
    first, second, third = figure.subplots(1, 3, width_ratios=[1.1, 1.2, 0.7])
    _draw_times(found.raw, first)
    _draw_kills(found.raw, second)
    _draw_losses(found.raw, third)


def _draw_times(seen: dict[str, Any], axes: Axes) -> None:
    names = [peer.name for peer in facts.LENDERS if seen["pair_us"].get(peer.name)][::-1]
    pairs = [seen["pair_us"][name] for name in names]
    hands = [median(seen["hand_ms"][name]) * 1e3 if seen["hand_ms"].get(name) else 0 for name in names]
    for shift, spans, label, colour in (
        (0.2, pairs, "borrow and give back", _OUR_COLOUR), (-0.2, hands, "hand-over to one who waits", _SECOND_COLOUR),
    ):  # fmt: skip
        bars = axes.barh([at + shift for at in range(len(names))], spans, 0.38, label=label, color=colour)
        words = [f"{span:.0f} µs" if span < 1000 else f"{span / 1e3:.3g} ms" for span in spans]
        axes.bar_label(bars, words, padding=2, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xscale("log")
    axes.set_xlim(left=10, right=max(pairs + hands, default=1e4) * 8)
    axes.set_xlabel("µs, median")
    _legend(axes)


def _draw_kills(seen: dict[str, Any], axes: Axes) -> None:
    rows = [
        (f"{_whose(name)}: {victim}", one, name in (OURS, OUR_QUEUE, *scripts.SCRIPTS))
        for name, victim, one in seen["killed"]
    ]
    rows.sort(key=lambda row: 1e9 if row[1]["seconds"] is None else row[1]["seconds"], reverse=True)
    for at, (_, one, own) in enumerate(rows):
        never, colour = one["seconds"] is None, _OUR_COLOUR if own else _THEIR_COLOUR
        length = one["cap_seconds"] if never else one["seconds"]
        axes.barh(at, length, color="white" if never else colour, edgecolor=colour, hatch="//" * never)
        words = f" > {length:g}" if never else f" {length:.2g}{', lent twice' * one['still_ran']}"
        axes.text(length, at, words, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(left=0.005, right=max([row[1]["cap_seconds"] for row in rows], default=1) * 6)
    axes.set_xlabel("s from SIGKILL until it is lent again (blue: gpubroker)")


def _draw_losses(seen: dict[str, Any], axes: Axes) -> None:
    names = [peer.name for peer in facts.LENDERS if peer.name in seen["losses"]][::-1]
    for shift, key, label, colour in (
        (0.2, "leaked", "nobody gets", _THEIR_COLOUR), (-0.2, "over", "lent twice", _SECOND_COLOUR),
    ):  # fmt: skip
        counts = [seen["losses"][name][key] for name in names]
        bars = axes.barh([at + shift for at in range(len(names))], counts, 0.38, label=label, color=colour)
        axes.bar_label(bars, padding=2, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("names, while replies were lost")
    axes.margins(x=0.15)
    _legend(axes)


def _legend(axes: Axes) -> None:
    if axes.patches:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2, frameon=False, fontsize=9)
