"""Requests checked and replies read: all that the sync and the async client share. No input or output here."""

from __future__ import annotations

import functools
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from broker.errors import (
    BrokerError,
    ImpossibleRequest,
    InsufficientMemory,
    InvalidRequest,
    LeaseConflict,
    LeaseLost,
    LeaseNotFound,
    PoolUnavailable,
    StaleToken,
)
from broker.units import MAX_SAFE_INTEGER, TIB, format_size, parse_seconds, parse_size

#: A lease lives from a tenth of a second to a day before it must be renewed.
TTL_LEAST, TTL_MOST = 0.1, 86_400.0
#: Seconds between two signs of life of a waiter; the ledger drops it after ``waiter_seconds`` (15).
WAITER_BEAT_SECONDS = 3.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,127}", re.ASCII)
_NAME_ALLOWED = "1 to 128 letters, digits or _ . : / @ -, a letter or digit first"
_ERROR = re.compile(r"BROKER_(?P<word>[A-Z_]+) (?P<rest>.*)", re.DOTALL)


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
_MIG = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+]{0,31}", re.ASCII)
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
    given = [memory] if isinstance(memory, (int, str)) else list(memory) if isinstance(memory, Sequence) else [memory]
    if not 1 <= len(given) <= ALTERNATIVES_MOST:
        raise InvalidRequest("memory", memory, f"1 to {ALTERNATIVES_MOST} alternatives")
    return tuple(_want(one, gpus) for one in given)


def _want(one: object, gpus: int) -> Want:
    gang = _GANG.fullmatch(one.strip()) if isinstance(one, str) else None
    if gang is None:
        return Want(gpus, parse_size(one))  # type: ignore[arg-type]
    return Want(check_whole("gpus", int(gang["count"]), 1, GPUS_MOST), parse_size(gang["size"]))


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
) -> tuple[str | int, ...]:
    """Names and values in turn, of what differs from the defaults."""
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
    }
    return tuple(part for name, value in given.items() if value for part in (name, value))


@dataclass(frozen=True, slots=True)
class Ask:
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


def new_nonce() -> str:
    """A text that no other call has: a request delivered once more after its end is known by it."""
    return os.urandom(8).hex()


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
) -> Ask:
    """Check a request at the edge.

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
    options = _options(placement, labels, capability, mig, host_memory, cpus, function, nonce)
    return Ask(identity, asked, life_ms, wait_seconds, argv, options, nonce)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a holder tells a ledger that lost its lease (law 11): the arguments of ``register.lua``."""

    argv: tuple[str | int, ...]

    @classmethod
    def of(cls, request: Ask, reply: Sequence[str]) -> Claim:
        """Of what was just granted."""
        given = dict(zip(request.options[::2], request.options[1::2], strict=True))
        _, _, _, host, gpu, priority, tenant, owner, job_id, pid, _ = request.argv
        shape = [request.argv[1], host, gpu, priority, tenant]
        selects = {name: given.get(name, "") for name in ("capability", "mig", "labels")}
        if selects["mig"] == "any":
            selects["mig"] = ""
        memory, cpus = given.get("host_memory", 0), given.get("cpus", 0)
        selector = ";".join(map(str, selects.values())) if any(selects.values()) else ""
        if selector or given.get("placement") or memory or cpus:
            shape += [given.get("placement", ""), selector, memory, cpus]
        return cls((
            request.id, int(reply[1]), reply[2], int(reply[8]), request.ttl_ms, tenant, owner, pid, priority, job_id,
            memory, cpus, given.get("function", ""), "|".join(map(str, shape)),
        ))  # fmt: skip

    def changed(self, *, memory_bytes: int | None = None, ttl_ms: int | None = None) -> Claim:
        """After a resize, or a renewal with another TTL."""
        argv = list(self.argv)
        argv[3] = argv[3] if memory_bytes is None else memory_bytes
        argv[4] = argv[4] if ttl_ms is None else ttl_ms
        return Claim(tuple(argv))


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a renewal brought, in ms of Redis's clock. ``revoke_at`` is 0 unless the lease was revoked."""

    expires_at: int
    revoke_at: int


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease as its holder was given it. Times in milliseconds of Redis's clock; ``left_ms`` when replying.

    ``memory_bytes`` are of each GPU; ``choice`` is the alternative that was granted, 1 the first.
    """

    id: str
    token: int
    gpu_uuids: tuple[str, ...]
    host: str
    memory_bytes: int
    ttl_ms: int
    expires_at: int
    waited_ms: int
    left_ms: int
    choice: int = 1
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The request stands in the queue; ``place`` 1 is next."""

    place: int


def read_granted(lease_id: str, reply: Sequence[str]) -> Granted:
    """A reply that begins with ``granted``."""
    return Granted(
        lease_id, int(reply[1]), tuple(reply[2].split(",")), reply[3], int(reply[8]), int(reply[6]), int(reply[4]),
        int(reply[5]), int(reply[7]), int(reply[9]),
    )  # fmt: skip


def read_acquire(reply: Sequence[str], request: Ask) -> Granted | Waiting:
    """What ``acquire.lua`` answered.

    Raises:
        InsufficientMemory: no room now, or the queue is full.
        ImpossibleRequest: no known GPU could ever hold it.
    """
    if reply[0] == "granted":
        return replace(read_granted(request.id, reply), claim=Claim.of(request, reply))
    if reply[0] == "waiting":
        return Waiting(int(reply[1]))
    raise refusal(reply, request)


def read_registered(reply: Sequence[str], claim: Claim) -> int:
    """The lease's end, from what ``register.lua`` answered.

    Raises:
        PoolUnavailable: its GPU is not known yet; ask again. LeaseLost: the ledger will not have it back.
    """
    if reply[0] == "registered":
        return int(reply[1])
    if reply[0] == "unknown":
        raise PoolUnavailable("the ledger lost its data and does not know the lease's GPU yet; ask again in a moment")
    raise LeaseLost(
        f"lease {claim.argv[0]} is over (the ledger lost it, and {reply[1]}); stop using its memory and acquire again"
    )


def read_resize(reply: Sequence[str], lease_id: str, memory_bytes: int) -> int | Waiting:
    """The bytes that a lease has of each GPU now, or its place in the queue.

    Raises:
        InsufficientMemory: no room to grow. ImpossibleRequest: its GPU is not so large.
    """
    asked = format_size(memory_bytes)
    if reply[0] == "resized":
        return int(reply[1])
    if reply[0] == "waiting":
        return Waiting(int(reply[1]))
    if reply[0] == "impossible":
        raise ImpossibleRequest(
            f"lease {lease_id} can never have {asked}: the budget of its GPU is {format_size(int(reply[1]))}; ask for less"
        )
    if reply[0] == "full":
        raise InsufficientMemory(f"lease {lease_id} cannot wait for {asked}: {reply[1]} requests wait; try again later")
    raise InsufficientMemory(
        f"no room for lease {lease_id} to have {asked}: beyond what it has, {format_size(int(reply[1]))} are free on its"
        " GPU; wait longer or ask for less"
    )


def read_revoke(reply: Sequence[str], lease_id: str) -> int:
    """The deadline of a revoked lease in ms.

    Raises:
        LeaseNotFound: there is no such lease. LeaseLost: it is over already.
    """
    if reply[0] == "revoked":
        return int(reply[1])
    if reply[0] == "gone":
        raise LeaseLost(f"lease {lease_id} is over already; its bytes come back when its process is seen gone")
    raise LeaseNotFound(f"the ledger holds no lease {lease_id}; see `gpubroker leases`")


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


def read_adopt(reply: Sequence[str], request: Sequence[str | int]) -> Granted:
    """What ``adopt.lua`` answered.

    Raises:
        LeaseNotFound: no agent has seen the process. InsufficientMemory: no room beyond what it has.
    """
    name, pid, memory, _, host = request[:5]
    if reply[0] == "granted":
        return read_granted(str(name), reply)
    if reply[0] == "unknown":
        raise LeaseNotFound(
            f"no agent has seen process {pid} on a GPU of host {host}: is it running there, and has an interval passed?"
        )
    raise InsufficientMemory(
        f"no room for process {pid} to have {format_size(int(memory))}: with what it has, {format_size(int(reply[1]))}"
        " would be its; ask for less"
    )


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


def check_wait(wait: float) -> float:
    """Seconds that a request may wait.

    Raises:
        InvalidRequest: not between 0 and 30 days.
    """
    return parse_seconds(wait, "wait", least=0, most=30 * 86_400) / 1000


def beats(place: int) -> int:
    """After how many sleeps of ``WAITER_BEAT_SECONDS`` a waiter at this place shows itself: those far back seldom."""
    return 1 if place <= 100 else 3


def refusal(reply: Sequence[str], request: Ask) -> BrokerError:
    """What a refusal means, in words and numbers."""
    asked, where = " or ".join(want.words for want in request.wants), _selector(request)
    if reply[0] == "impossible":
        return ImpossibleRequest(f"{asked} can never fit: {_never(reply, request, where)}; ask for less")
    if reply[0] == "full":
        return InsufficientMemory(f"{asked} cannot wait: {reply[1]} requests wait already; try again later")
    return InsufficientMemory(f"no room for {asked}: {_not_now(reply, request, where)}; wait longer or ask for less")


def _never(reply: Sequence[str], request: Ask, where: str) -> str:
    if reply[2] == "quota":
        return f"it is more than the quota of tenant {request.argv[6]}"
    if reply[2] == "host":
        return f"host {request.argv[3]} has not got so much memory or so many processors"
    return f"the largest budget of any GPU{where} is {format_size(int(reply[1]))}"


def _not_now(reply: Sequence[str], request: Ask, where: str) -> str:
    if reply[4] == "settling":
        return "the ledger lost data a moment ago, and its holders are given time to register what they hold"
    if reply[4] == "quota":
        return f"tenant {request.argv[6]} has its quota lent"
    if reply[3] == "0":
        return f"no GPU{where} that is open for grants has any; see `gpubroker status`"
    free = int(reply[1])
    kept = ""
    if free >= min(want.memory_bytes for want in request.wants):
        several = any(want.count > 1 for want in request.wants) or "host_memory" in request.options
        kept = "; its host has not got the rest" if several or "cpus" in request.options else "; it is kept for others"
    return f"the most that is free on one GPU{where} is {format_size(free)}{kept}"


def _selector(request: Ask) -> str:
    host, gpu = request.argv[3], request.argv[4]
    by_class = " of the class asked for" if {"labels", "capability", "mig"} & set(map(str, request.options)) else ""
    return (f" {gpu}" if gpu else "") + (f" on host {host}" if host else "") + by_class


_ERRORS: dict[str, tuple[type[BrokerError], str]] = {
    "LEASE_CONFLICT": (LeaseConflict, "the name is taken by another request ({rest}); choose another lease_id"),
    "LEASE_NOT_FOUND": (LeaseNotFound, "the ledger holds no such lease ({rest}); acquire it first"),
    "STALE_TOKEN": (StaleToken, "the lease has another holder now ({rest}); stop using its memory"),
    "LEASE_LOST": (LeaseLost, "the lease is over ({rest}); stop using its memory and acquire again under a new name"),
}
_INVALID = re.compile(r"field=(?P<field>\S*) value=(?P<value>.*?) allowed=(?P<allowed>.*)", re.DOTALL)


def broker_error(message: str) -> BrokerError | None:
    """The exception that an error reply of a script means; ``None`` if it is not one of ours."""
    found = _ERROR.match(message)
    if not found:
        return None
    if found["word"] == "INVALID" and (parts := _INVALID.match(found["rest"])):
        return InvalidRequest(parts["field"], parts["value"], parts["allowed"])
    kind, text = _ERRORS.get(found["word"], (BrokerError, "{rest}"))
    return kind(text.format(rest=found["rest"]))
