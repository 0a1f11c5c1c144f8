"""Requests, checked at the edge once for the sync and the async client. No input or output here."""

from __future__ import annotations

import functools
import itertools
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from broker import sizes
from broker.errors import BrokerError, InvalidRequest, NotInPool
from broker.units import MAX_MEMORY_BYTES, MAX_SAFE_INTEGER, TIB, format_size, parse_seconds, parse_size

#: A lease lives from a tenth of a second to a day before it must be renewed.
TTL_LEAST, TTL_MOST = 0.1, 86_400.0
#: Seconds between two signs of life of a waiter; the ledger drops it after ``waiter_seconds`` (15).
WAITER_BEAT_SECONDS = 3.0
#: Seconds without an answer after which a waiter's place is gone, and between two tries meanwhile.
PLACE_SECONDS, AWAY_PAUSE_SECONDS = 30.0, 1.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,127}", re.ASCII)
_NAME_ALLOWED = "1 to 128 letters, digits or _ . : / @ -, a letter or digit first"


def check_name(field: str, value: object) -> str:
    """The name, if it may stand in a key: a lease id, host, UUID, tenant or owner.

    Raises:
        InvalidRequest: anything else.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidRequest(field, value, _NAME_ALLOWED)
    return value


def check_whole(field: str, value: object, least: int, most: int) -> int:
    """The whole number, if it lies between ``least`` and ``most``.

    Raises:
        InvalidRequest: anything else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidRequest(field, value, f"a whole number from {least} to {most}")
    return value


def check_token(value: object) -> int:
    """A fencing token: 1 to 2^53 - 1.

    Raises:
        InvalidRequest: anything else.
    """
    return check_whole("token", value, 1, MAX_SAFE_INTEGER)


def epoch_of(token: int) -> int:
    """The ledger's generation in which a token was given: its high part."""
    return token >> 23


def ttl_ms(ttl: float, field: str = "ttl") -> int:
    """Milliseconds of a TTL given in seconds.

    Raises:
        InvalidRequest: not between a tenth of a second and a day.
    """
    return parse_seconds(ttl, field, least=TTL_LEAST, most=TTL_MOST)


def this_host() -> str:
    """This machine's name in the pool: ``GPUBROKER_HOST``, else the host name."""
    return os.environ.get("GPUBROKER_HOST") or _host_name()


_host_name = functools.cache(socket.gethostname)


#: What a lease may span, and how many alternatives a request may name.
GPUS_MOST, ALTERNATIVES_MOST = 16, 8
#: How a request is placed: the default weighs fit, heat and what would be left stranded.
PLACEMENTS = ("balanced", "pack", "spread", "cool")

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_LABEL_VALUE = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_CAPABILITY = re.compile(r"\d{1,2}\.\d{1,2}", re.ASCII)
_MIG = re.compile(r"any|none|only|[0-9]{1,2}g\.[0-9]{1,4}gb(\+[a-z0-9.]{1,16})?", re.ASCII)
_GANG = re.compile(r"(?P<count>\d{1,3}) ?[xX] ?(?P<size>.+)", re.ASCII)

Memory = int | str | Sequence[int | str]


@dataclass(frozen=True, slots=True)
class Want:
    """One alternative of a request: so many bytes of each of so many GPUs."""

    count: int
    memory_bytes: int

    def __str__(self) -> str:
        """As ``acquire.lua`` takes it."""
        return str(self.memory_bytes) if self.count == 1 else f"{self.count}x{self.memory_bytes}"

    @property
    def words(self) -> str:
        """For people: ``"2 x 8.0 GiB"``."""
        size = format_size(self.memory_bytes)
        return size if self.count == 1 else f"{self.count} x {size}"


def wants(memory: Memory, gpus: int = 1) -> tuple[Want, ...]:
    """The alternatives of a request, best first: ``"4GiB"``, ``"2x8GiB"``, or a list of such.

    ``gpus`` is the number of GPUs where an alternative does not name one itself; bytes are of each GPU.

    Raises:
        InvalidRequest: not such a size, more than 16 GPUs, more than 8 alternatives, or none.
    """
    check_whole("gpus", gpus, 1, GPUS_MOST)
    if isinstance(memory, int):
        return (Want(gpus, parse_size(memory)),)
    given = [memory] if isinstance(memory, str) else list(memory) if isinstance(memory, Sequence) else [memory]
    if not 1 <= len(given) <= ALTERNATIVES_MOST:
        raise InvalidRequest("memory", memory, f"1 to {ALTERNATIVES_MOST} alternatives")
    return tuple(_want(one, gpus) for one in given)


def _want(one: object, gpus: int) -> Want:
    gang = _GANG.fullmatch(one.strip()) if isinstance(one, str) else None
    if gang is None:
        return Want(gpus, parse_size(one))  # type: ignore[arg-type]
    count = check_whole("gpus", int(gang["count"]), 1, GPUS_MOST)
    if gpus not in (1, count):
        raise InvalidRequest("gpus", gpus, f"{count}, or nothing: the memory {one!r} says so already")
    return Want(count, parse_size(gang["size"]))


def labels_text(labels: Mapping[str, str] | None) -> str:
    """Labels as the ledger keeps them: ``"rack=a,zone=b"``, sorted.

    Raises:
        InvalidRequest: a name or value with other characters than letters, digits, ``_``, ``.`` and ``-``.
    """
    for label, value in (labels or {}).items():
        if not (isinstance(value, str) and _LABEL.fullmatch(label) and _LABEL_VALUE.fullmatch(value)):
            raise InvalidRequest("labels", f"{label}={value}", "letters, digits, '_', '.' and '-' in name and value")
    text = ",".join(f"{label}={value}" for label, value in sorted((labels or {}).items()))
    if len(text) > 256:
        raise InvalidRequest("labels", text, "at most 256 characters")
    return text


def _matching(field: str, value: str | None, pattern: re.Pattern[str], allowed: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidRequest(field, value, allowed)
    return value


def cpus_milli(cpus: float | None) -> int:
    """Thousandths of processors.

    Raises:
        InvalidRequest: not a number from 0.001 to 100,000.
    """
    return 0 if cpus is None else parse_seconds(cpus, "cpus", least=0.001, most=100_000, unit="processors")


def _options(
    placement: str | None,
    labels: Mapping[str, str] | None,
    capability: str | None,
    mig: str | None,
    host_memory: int | str | None,
    cpus: float | None,
    function: str | None,
    nonce: str,
    crew: str | None,
    seat: str,
    sits: bool,
) -> tuple[str | int, ...]:
    """Names and values in turn, of what differs from the defaults."""
    if (placement, labels, capability, mig, host_memory, cpus) == (None,) * 6 and not (function or crew or seat):
        return "nonce", nonce
    if placement is not None and placement not in PLACEMENTS:
        raise InvalidRequest("placement", placement, "one of " + ", ".join(PLACEMENTS))
    given: dict[str, str | int] = {
        "placement": "" if placement in (None, "balanced") else str(placement),
        "labels": labels_text(labels),
        "capability": _matching(
            "capability", capability, _CAPABILITY, 'a version such as "8.6": the least that will do'
        ),
        "mig": _matching("mig", mig, _MIG, '"any", "none", "only" or a profile such as "1g.5gb"'),
        "host_memory": 0 if host_memory is None else parse_size(host_memory, "host_memory", most=1024 * TIB),
        "cpus": cpus_milli(cpus),
        "function": "" if not function else check_name("function", function),
        "nonce": nonce,
        "crew": "" if not crew else check_name("crew", crew),
        "seat": seat,
        "sits": int(sits),
    }
    return tuple(part for name, value in given.items() if value for part in (name, value))


class Ask(NamedTuple):
    """A checked request for a lease, as ``acquire.lua`` takes it: ``argv``, whether it may wait, ``options``."""

    id: str
    wants: tuple[Want, ...]
    ttl_ms: int
    wait_seconds: float
    argv: tuple[str | int, ...]
    options: tuple[str | int, ...]
    nonce: str

    def asking(self, wait: bool) -> tuple[str | int, ...]:
        """All arguments of one asking."""
        return (*self.argv, int(wait), *self.options)


class _Nonces:
    """The calls of this process, counted: ``random-1``, ``random-2``, ... A forked child counts anew."""

    def __init__(self) -> None:
        self.restart()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.restart)

    def restart(self) -> None:
        self.client, self.numbers = os.urandom(8).hex(), itertools.count(1)


_nonces = _Nonces()


def new_nonce() -> str:
    """A text that no other call has, and that tells which of two calls of this process is the later one.

    A copy that is delivered late, when its caller has gone on, is known by it and changes nothing.
    """
    return f"{_nonces.client}-{next(_nonces.numbers)}"


def ask(
    memory: Memory,
    *,
    lease_id: str | None = None,
    ttl: float = 30,
    wait: float = 0,
    gpus: int = 1,
    host: str | None = None,
    gpu: str | None = None,
    priority: int = 0,
    tenant: str = "default",
    placement: str | None = None,
    token: int | None = None,
    owner: str | None = None,
    job_id: str | None = None,
    pid: int | None = None,
    labels: Mapping[str, str] | None = None,
    capability: str | None = None,
    mig: str | None = None,
    host_memory: int | str | None = None,
    cpus: float | None = None,
    function: str | None = None,
    crew: str | None = None,
    seat: str = "",
    sits: bool = False,
) -> Ask:
    """Check a request at the edge. ``crew``, ``seat`` and ``sits``: of a worker's, see ``broker.crew``.

    Raises:
        InvalidRequest: a value is not allowed; names the field, the value and what is allowed.
    """
    identity = check_name("lease_id", lease_id) if lease_id is not None else os.urandom(16).hex()
    asked, life_ms, nonce = wants(memory, gpus), ttl_ms(ttl), new_nonce()
    if gpu is not None and any(want.count > 1 for want in asked):
        raise InvalidRequest("gpus", max(want.count for want in asked), "1 where a gpu is named")
    wait_seconds = check_wait(wait)
    argv = (
        identity,
        ",".join(map(str, asked)),
        life_ms,
        "" if host is None else check_name("host", host),
        "" if gpu is None else check_name("gpu", gpu),
        check_whole("priority", priority, -1000, 1000),
        check_name("tenant", tenant),
        check_name("owner", owner) if owner is not None else f"{this_host()}:{os.getpid()}",
        "" if not job_id else check_name("job_id", job_id),
        "" if pid is None else check_whole("pid", pid, 1, 1 << 22),
        "" if token is None else check_token(token),
    )
    options = _options(
        placement, labels, capability, mig, host_memory, cpus, function, nonce, crew, seat, sits and seat != ""
    )
    return Ask(identity, asked, life_ms, wait_seconds, argv, options, nonce)


def adoption(
    pid: int,
    memory: int | str,
    *,
    host: str | None,
    gpu: str | None,
    ttl: float,
    tenant: str,
    lease_id: str | None,
    owner: str | None,
    pid_started: str,
) -> tuple[str | int, ...]:
    """The arguments of ``adopt.lua``, checked. Without a name the lease is called after host and process.

    Raises:
        InvalidRequest: a value is not allowed.
    """
    on = check_name("host", host if host is not None else this_host())
    number = check_whole("pid", pid, 1, 1 << 22)
    return (
        check_name("lease_id", lease_id if lease_id is not None else f"adopted-{on}-{number}"), number,
        parse_size(memory), ttl_ms(ttl), on, "" if gpu is None else check_name("gpu", gpu),
        check_name("tenant", tenant), check_name("owner", owner if owner is not None else f"{on}:{number}"),
        check_name("pid_started", pid_started) if pid_started else "",
    )  # fmt: skip


def retired(answer: str, host: str) -> None:
    """What became of a host that a person retires.

    Raises:
        BrokerError: there is no such host, or its agent is at work.
    """
    if answer == "unknown":
        raise NotInPool(f"the pool knows no host {host}; see `gpubroker status`")
    if answer == "fresh":
        raise BrokerError(f"the agent of host {host} is at work; stop it, and the host leaves by itself")


def marked(gpu: str | None, host: str | None) -> tuple[str, str]:
    """What is to be drained: a GPU or a host.

    Raises:
        InvalidRequest: neither or both, or not a name.
    """
    if (gpu is None) == (host is None):
        raise InvalidRequest("gpu", gpu, "a GPU's UUID, or host= a host's name, not both")
    return ("gpu", check_name("gpu", gpu)) if host is None else ("host", check_name("host", host))


def tenant(name: str, quota: int | str | None, weight: float | None) -> tuple[str | int, ...]:
    """The arguments of ``tenant.lua``, checked.

    Raises:
        InvalidRequest: a value is not allowed.
    """
    if quota in (0, "0"):
        limit: int | str = 0
    else:
        limit = "" if quota is None else parse_size(quota, "quota", most=MAX_SAFE_INTEGER)
    share = "" if weight is None else parse_seconds(weight, "weight", least=0.001, most=1000, unit="shares")
    return check_name("tenant", name), limit, share


def learning(
    function: str,
    run: str,
    asked_bytes: int,
    *,
    size: float | None,
    peak_bytes: int | None,
    default: int | str | None,
) -> tuple[str | int, ...]:
    """The arguments of ``learn.lua``, checked.

    Raises:
        InvalidRequest: a value is not allowed.
    """
    bucket = sizes.bucket_of(None if size is None else sizes.check_input_size(size))
    peak = () if peak_bytes is None else (check_whole("peak_bytes", peak_bytes, 1, MAX_MEMORY_BYTES),)
    return (
        check_name("function", function), sizes.bucket_text(bucket), check_name("run", run), "done" if peak else "oom",
        check_whole("asked_bytes", asked_bytes, 1, MAX_MEMORY_BYTES),
        0 if default is None else parse_size(default, "default"), *peak,
    )  # fmt: skip


def check_wait(wait: float) -> float:
    """Seconds that a request may wait.

    Raises:
        InvalidRequest: not between 0 and 30 days.
    """
    return parse_seconds(wait, "wait", least=0, most=30 * 86_400) / 1000


def beats(place: int) -> int:
    """After how many sleeps of ``WAITER_BEAT_SECONDS`` a waiter at this place shows itself: those far back seldom."""
    return 1 if place <= 100 else 3
