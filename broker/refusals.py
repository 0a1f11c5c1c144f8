"""What a refusal of the ledger means, in words and numbers, and what to do about it. No input or output here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from broker.calls import Ask
from broker.errors import (
    BrokerError,
    ImpossibleRequest,
    InsufficientMemory,
    InvalidRequest,
    LeaseConflict,
    LeaseLost,
    LeaseNotFound,
    StaleToken,
)
from broker.units import format_size


def refusal(reply: Sequence[str], request: Ask) -> BrokerError:
    """The exception for what ``acquire.lua`` refused."""
    asked = " or ".join(want.words for want in request.wants)
    if reply[0] == "full":
        return InsufficientMemory(f"{asked} cannot wait: {reply[1]} requests wait already; try again later")
    if reply[0] == "impossible":
        why = reply[2] or "size"
        told = f"{_lacks(why, request, int(reply[1]))}; {_ADVICE[why]}"
        error = ImpossibleRequest(f"{asked} can never fit: {told}")
        error.largest_bytes = int(reply[1]) if why == "size" else 0
        return error
    if reply[4] in _ADVICE:
        told = f"{_lacks(reply[4], request, int(reply[2]))}; {_ADVICE[reply[4]]}"
        return InsufficientMemory(f"no room for {asked}: {told}")
    return InsufficientMemory(f"no room for {asked}: {_not_now(reply, request)}; wait longer or ask for less")


#: What to do about what the pool, or the tenant, has not got at all; waiting does not help by itself.
_ADVICE = {
    "size": "ask for less",
    "quota": "ask for less, or raise it with `gpubroker tenants set`",
    "host": "start its `gpubroker agent`, or name another; see `gpubroker status`",
    "gpu": "start its `gpubroker agent`, or name another; see `gpubroker status --table`",
    "selector": "see `gpubroker status --json` for what the cards are",
    "host_memory": "ask for less of it",
    "cpus": "ask for fewer",
    "cards": "ask for fewer",
}


def _lacks(why: str, request: Ask, capacity: int) -> str:
    given = dict(zip(request.options[::2], request.options[1::2], strict=True))
    host, gpu, tenant = (str(request.argv[at]) for at in (3, 4, 6))
    on_host = f" on host {host}" if host else ""
    if why == "size":
        return f"the largest budget of any GPU{where(request)} is {format_size(capacity)}"
    if why == "quota":
        return f"it is more than the quota of tenant {tenant}"
    if why == "host":
        return f"the pool has no host {host} now"
    if why == "gpu":
        return f"the pool has no GPU {gpu}{on_host} now"
    if why == "selector":
        kind = ", ".join(f"{name} {given[name]}" for name in ("labels", "capability", "mig") if name in given)
        return f"the pool has no GPU of {kind}{on_host} now"
    those = f"host {host} has not got" if host else "no host has"
    if why == "host_memory":
        return f"{those} {format_size(int(given.get('host_memory', 0)))} of memory to lend"
    if why == "cpus":
        return f"{those} {int(given.get('cpus', 0)) / 1000:g} processors to lend"
    return f"{those} {max(want.count for want in request.wants)} GPUs"


def _not_now(reply: Sequence[str], request: Ask) -> str:
    if reply[4] == "settling":
        return "the ledger lost data a moment ago, and its holders are given time to register what they hold"
    if reply[4] == "quota":
        return f"tenant {request.argv[6]} has its quota lent"
    if reply[3] == "0":
        return f"no GPU{where(request)} that is open for grants has any; see `gpubroker status`"
    free, more = int(reply[1]), ""
    if free >= min(want.memory_bytes for want in request.wants):
        if any(want.count > 1 for want in request.wants):
            more = ", but not on so many GPUs of one host"
        elif {"host_memory", "cpus"} & set(map(str, request.options)):
            more = ", but its host has too little memory or too few processors left"
        else:
            more = "; it is kept for others"
    return f"the most that is free on one GPU{where(request)} is {format_size(free)}{more}"


def where(request: Ask) -> str:
    """Where the request limits itself to, for a sentence about GPUs."""
    host, gpu = request.argv[3], request.argv[4]
    by_class = " of the class asked for" if {"labels", "capability", "mig"} & set(map(str, request.options)) else ""
    return (f" {gpu}" if gpu else "") + (f" on host {host}" if host else "") + by_class


# -- error replies -----------------------------------------------------------------------------------------------------

_ERROR = re.compile(r"BROKER_(?P<word>[A-Z_]+) (?P<rest>.*)", re.DOTALL)
_INVALID = re.compile(r"field=(?P<field>\S*) value=(?P<value>.*?) allowed=(?P<allowed>.*)", re.DOTALL)
_CONFLICT = re.compile(r"lease=(?P<lease>\S+) asked=(?P<asked>\S+) now=(?P<now>\S+)")
_ERRORS: dict[str, tuple[type[BrokerError], str]] = {
    "LEASE_CONFLICT": (LeaseConflict, "the name is taken by another request ({rest}); choose another lease_id"),
    "LEASE_NOT_FOUND": (
        LeaseNotFound, "the ledger holds no such lease ({rest}): it ended, or never was; see `gpubroker leases`",
    ),
    "STALE_TOKEN": (
        StaleToken,
        "the token is not the lease's ({rest}): mistyped, or another holds it now; who held it must not use its memory",
    ),
    "LEASE_LOST": (LeaseLost, "the lease is over ({rest}); stop using its memory and acquire again under a new name"),
}  # fmt: skip


def broker_error(message: str) -> BrokerError | None:
    """The exception that an error reply of a script means; ``None`` if it is not one of ours."""
    found = _ERROR.match(message)
    if not found:
        return None
    if found["word"] == "INVALID" and (parts := _INVALID.match(found["rest"])):
        return InvalidRequest(parts["field"], parts["value"], parts["allowed"])
    if found["word"] == "LEASE_CONFLICT" and (parts := _CONFLICT.match(found["rest"])):
        return LeaseConflict(
            f"the name {parts['lease']} is taken by another request (before: {_request(parts['asked'])}; now: "
            f"{_request(parts['now'])}); choose another lease_id"
        )
    kind, text = _ERRORS.get(found["word"], (BrokerError, "{rest}"))
    return kind(text.format(rest=found["rest"]))


def _request(text: str) -> str:
    """A request's text, as ``include/asks.lua`` writes it, for people."""
    asks, *rest = text.split("|")
    if asks == "adopted":
        return f"process {rest[0]}"
    names = ("host", "gpu", "priority", "tenant", "placement", "selector", "host memory", "cpus")
    usual: Mapping[str, str] = {"priority": "0", "tenant": "default", "host memory": "0", "cpus": "0"}
    told = [_size(one) for one in asks.split(",")]
    more = [f"{name} {value}" for name, value in zip(names, rest, strict=False) if value != usual.get(name, "")]
    return ", ".join([" or ".join(told), *more])


def _size(text: str) -> str:
    count, _, size = text.rpartition("x")
    if not size.isdigit():
        return text
    return f"{count} x {format_size(int(size))}" if count else format_size(int(size))
