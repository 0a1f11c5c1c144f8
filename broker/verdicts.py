"""What speaks against a request, in plain English: the words of ``broker.explain``, each with what to do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from broker.units import format_size

if TYPE_CHECKING:
    from broker.explain import CardVerdict, Explanation


def words(e: Explanation) -> list[str]:
    """A headline, then the reasons: the one that is nearest to coming right first."""
    if e.kind == "unknown":
        gone = f"the ledger knows no request or lease {e.what}: it ended, or never was"
        return [f"{gone}; `gpubroker events` says what happened"]
    if e.kind == "granted":
        return [f"{e.what} holds its lease; it waits for nothing"]
    if e.fits:
        return [_headline(e)]
    return [_headline(e), *_reasons(e)]


def _headline(e: Explanation) -> str:
    if e.kind == "ask":
        best = next((card for card in e.cards if card.fits), None)
        if best is not None:
            return f"{e.request} would be granted now, for instance on {best.uuid} of {best.host}"
        if e.never:
            return f"{e.request} can never be granted as the pool is: {_NEVER[e.never].format(e=e)}"
        before = f", behind {_count(e.waiters, 'request')} at most" if e.waiters else ""
        return f"{e.request} would have to wait{before}{_at_the_earliest(e)}"
    room = next(
        (f"; there is room on {card.uuid} of {card.host}, at its next sign of life" for card in e.cards if card.fits),
        "",
    )
    never = f"; as the pool is, it can never be granted: {_NEVER[e.never].format(e=e)}" if e.never else ""
    return f"{e.what} waits for {e.request}, at place {e.place} of {e.waiters}{room}{never}{_at_the_earliest(e)}"


#: What the pool, or the tenant, has not got at all.
_NEVER = {
    "size": "no GPU that it may use is so large",
    "quota": "it is more than the quota of tenant {e.tenant}",
    "host": "the pool has no such host now",
    "gpu": "the pool has no such GPU now, or on another host",
    "selector": "the pool has no GPU of that kind now",
    "host_memory": "no host that it may use has so much memory to lend",
    "cpus": "no host that it may use has so many processors to lend",
    "cards": "no host that it may use has {e.gpus} GPUs",
}


def _at_the_earliest(e: Explanation) -> str:
    if e.estimate_seconds is None or e.fits:
        return ""
    seconds = e.estimate_seconds
    told = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"; there may be room in {told} at the earliest, if leases are held as long as they were before"


def _reasons(e: Explanation) -> list[str]:
    if not e.cards:
        return ["the pool has no card: start `gpubroker agent` on a machine with GPUs"]
    by_reason: dict[str, list[CardVerdict]] = defaultdict(list)
    for card in e.cards:
        by_reason[card.why].append(card)
    return [say(e, by_reason[why]) for why, say in _SAID.items() if why in by_reason]


def _settling(e: Explanation, cards: Sequence[CardVerdict]) -> str:
    left = max(0, (e.settling_until or 0) - e.now) / 1000
    return f"the ledger lost data, and its holders have {left:.0f} s more to register what they hold; wait for that"


def _quota(e: Explanation, cards: Sequence[CardVerdict]) -> str:
    need, left = cards[0].need_bytes * e.gpus, e.quota_left_bytes or 0
    mend = "ask for less" if e.never == "quota" else "give something back"
    return (
        f"tenant {e.tenant} has {format_size(left)} of its quota left and {format_size(need)} are needed: {mend}, or "
        f"raise it with `gpubroker tenants set {e.tenant} --quota SIZE`"
    )


def _leased(e: Explanation, cards: Sequence[CardVerdict]) -> str:
    near = min(cards, key=lambda card: card.missing_bytes)
    return (
        f"{_count(len(cards), 'card')} with too little free: nearest is {near.uuid} on {near.host}, "
        f"{format_size(near.free_bytes)} free of {format_size(near.budget_bytes)} where {format_size(near.need_bytes)} "
        f"are needed; wait for {format_size(near.missing_bytes)} more, or ask for less"
    )


def _gang(e: Explanation, cards: Sequence[CardVerdict]) -> str:
    most = max(cards, key=lambda card: int(card.detail or 0))
    return (
        f"{e.gpus} cards of one host are needed: {most.host} has {most.detail} with "
        f"{format_size(most.need_bytes)} free; {'ask for fewer' if e.never == 'cards' else 'wait, or ask for fewer'}"
    )


def _unmanaged(e: Explanation, cards: Sequence[CardVerdict]) -> str:
    near = min(cards, key=lambda card: card.missing_bytes)
    return (
        f"{_count(len(cards), 'card')} where processes without a lease are in the way: {near.uuid} on {near.host} can "
        f"lend {format_size(near.budget_bytes)} of {format_size(near.capacity_bytes)}; end them, or make leases of "
        f"them with `gpubroker adopt PID MEMORY --host {near.host}`"
    )


def _reserved(e: Explanation, cards: Sequence[CardVerdict]) -> str:
    return f"{_count(len(cards), 'card')} kept for those who came before: {_list(card.detail for card in cards)}; wait"


def _passed(e: Explanation, cards: Sequence[CardVerdict]) -> str:
    who = _list(card.detail for card in cards)
    return f"{_count(len(cards), 'card')} with room, but {who} came before and was passed often enough; wait"


def _host_lacks(what: str) -> Callable[[Explanation, Sequence[CardVerdict]], str]:
    def say(e: Explanation, cards: Sequence[CardVerdict]) -> str:
        hosts = _list(card.host for card in cards)
        mend = "ask for less" if e.never in ("host_memory", "cpus") else "wait, or ask for less"
        return f"too {what} left on {hosts}; {mend}"

    return say


def _drained(e: Explanation, cards: Sequence[CardVerdict]) -> str:
    own = next((card.uuid for card in cards if card.detail != "host"), "")
    host = next((card.host for card in cards if "host" in card.detail), "")
    opens = [f"`gpubroker undrain {own}` opens one again"] if own else []
    opens += [f"`gpubroker undrain --host {host}` opens a host's"] if host else []
    return f"{_count(len(cards), 'card')} drained: {_list(card.uuid for card in cards)}; {', '.join(opens)}"


def _seat(e: Explanation, cards: Sequence[CardVerdict]) -> str:
    hosts, queue = _list(card.host for card in cards), cards[0].detail
    return (
        f"{_count(len(cards), 'card')} on hosts where no worker of queue {queue} is idle: {hosts}; wait, or start one "
        f"there: `gpubroker worker --queue {queue}`"
    )


def _silent(e: Explanation, cards: Sequence[CardVerdict]) -> str:
    number, oldest = _count(len(cards), "card"), max(e.now - int(card.detail or e.now) for card in cards) / 1000
    hosts = _list(card.host for card in cards)
    return f"{number} without a sample for up to {oldest:.0f} s: does `gpubroker agent` run on {hosts}?"


def _closed(e: Explanation, cards: Sequence[CardVerdict]) -> str:
    first = cards[0]
    return f"{_count(len(cards), 'card')} closed: {first.uuid} on {first.host} is {first.detail.rstrip(': ')}"


def _selector(e: Explanation, cards: Sequence[CardVerdict]) -> str:
    wanted = " ".join(filter(None, re.split(r"[ ;]", cards[0].detail)))
    return f"{_count(len(cards), 'card')} not of the kind that was asked for: {wanted}"


def _small(e: Explanation, cards: Sequence[CardVerdict]) -> str:
    most = max(cards, key=lambda card: card.capacity_bytes)
    return (
        f"{_count(len(cards), 'card')} too small even when empty: the largest, {most.uuid} on {most.host}, lends at "
        f"most {format_size(most.capacity_bytes)} where {format_size(most.need_bytes)} are needed; ask for less"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _list(names: Iterable[str]) -> str:
    """Up to three of them, each once."""
    told = sorted(set(names))
    return ", ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")


#: What is said of each verdict: first what holds everything back, then what is nearest to coming right by itself, then
#: what a person can mend, last what cannot be.
_SAID: dict[str, Callable[[Explanation, Sequence[CardVerdict]], str]] = {
    "settling": _settling,
    "quota": _quota,
    "passed": _passed,
    "leased": _leased,
    "gang": _gang,
    "reserved": _reserved,
    "host_memory": _host_lacks("little of the host's memory is"),
    "cpus": _host_lacks("few of the host's processors are"),
    "unmanaged": _unmanaged,
    "drained": _drained,
    "seat": _seat,
    "silent": _silent,
    "closed": _closed,
    "selector": _selector,
    "small": _small,
}
