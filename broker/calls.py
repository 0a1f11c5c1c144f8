"""Requests checked and replies read: all that the sync and the async client share. No input or output here."""

from __future__ import annotations

import functools
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

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
from broker.units import MAX_SAFE_INTEGER, format_size, parse_seconds, parse_size

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


@dataclass(frozen=True, slots=True)
class Ask:
    """A checked request for a lease, as ``acquire.lua`` takes it."""

    id: str
    memory_bytes: int
    ttl_ms: int
    wait_seconds: float
    argv: tuple[str | int, ...]


def ask(
    memory: int | str,
    *,
    lease_id: str | None,
    ttl: float,
    wait: float,
    gpus: int,
    host: str | None,
    gpu: str | None,
    priority: int,
    tenant: str,
    placement: str,
    token: int | None,
    owner: str | None,
    job_id: str | None,
    pid: int | None,
) -> Ask:
    """Check a request at the edge.

    Raises:
        InvalidRequest: a value is not allowed; names the field, the value and what is allowed.
    """
    check_whole("gpus", gpus, 1, 1)
    if placement != "pack":
        raise InvalidRequest("placement", placement, '"pack": the card with the least room that is enough')
    identity = check_name("lease_id", lease_id) if lease_id is not None else os.urandom(16).hex()
    memory_bytes, life_ms = parse_size(memory), ttl_ms(ttl)
    wait_seconds = parse_seconds(wait, "wait", least=0, most=30 * 86_400) / 1000
    argv = (
        identity,
        memory_bytes,
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
    return Ask(identity, memory_bytes, life_ms, wait_seconds, argv)


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease as its holder was given it. Times in milliseconds of Redis's clock; ``left_ms`` when replying."""

    id: str
    token: int
    gpu_uuids: tuple[str, ...]
    host: str
    memory_bytes: int
    ttl_ms: int
    expires_at: int
    waited_ms: int
    left_ms: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """The request stands in the queue; ``place`` 1 is next."""

    place: int


def read_acquire(reply: Sequence[str], request: Ask) -> Granted | Waiting:
    """What ``acquire.lua`` answered.

    Raises:
        InsufficientMemory: no room now, or the queue is full.
        ImpossibleRequest: no known GPU could ever hold it.
    """
    if reply[0] == "granted":
        return Granted(
            request.id, int(reply[1]), (reply[2],), reply[3], request.memory_bytes, int(reply[6]),
            int(reply[4]), int(reply[5]), int(reply[7]),
        )  # fmt: skip
    if reply[0] == "waiting":
        return Waiting(int(reply[1]))
    raise refusal(reply, request)


def refusal(reply: Sequence[str], request: Ask) -> BrokerError:
    """What a refusal means, in words and numbers."""
    asked, where = format_size(request.memory_bytes), _selector(request)
    if reply[0] == "impossible":
        return ImpossibleRequest(
            f"{asked} can never fit: the largest budget of any GPU{where} is {format_size(int(reply[1]))}; ask for less"
        )
    if reply[0] == "full":
        return InsufficientMemory(f"{asked} cannot wait: {reply[1]} requests wait already; try again later")
    if reply[3] == "0":
        why = f"no GPU{where} that is open for grants has any; see `gpubroker status`"
    else:
        free = int(reply[1])
        kept = "; it is kept for those who wait already" if free >= request.memory_bytes else ""
        why = f"the most that is free on one GPU{where} is {format_size(free)}{kept}"
    return InsufficientMemory(f"no room for {asked}: {why}; wait longer or ask for less")


def _selector(request: Ask) -> str:
    host, gpu = request.argv[3], request.argv[4]
    return (f" {gpu}" if gpu else "") + (f" on host {host}" if host else "")


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
