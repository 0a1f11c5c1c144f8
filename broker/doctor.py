"""What the doctor looks at. Reads only; each look gives findings, and for what is not fine what mends it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import redis

from broker import fsck, plans
from broker.connection import not_allowed
from broker.errors import BrokerError
from broker.explain import explain_named
from broker.ledger import scripts
from broker.models import Host
from broker.units import duration, format_size
from broker.values import State

if TYPE_CHECKING:
    from broker.client import Broker
    from broker.models import Gpu, LeaseRecord

Severity = Literal["fine", "warning", "wrong"]

#: A waiter shows itself every few seconds, and each of its calls would be granted: after this long it is stuck.
_STUCK_MS = 20_000
#: A lease that ended so long ago and still counts has a process that goes on with its memory.
_OVERTIME_MS = 60_000
_NAMED = 5  # things of a kind that are named one by one
_MEND_SUMS = "`gpubroker doctor --repair` recomputes them from the leases"
_DURABLE = "redis-cli CONFIG SET appendonly yes, and the same in its configuration file"
_NO_EVICTION = "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in its configuration file"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it stands in words, and what mends it.

    A ``warning`` is what will hurt one day, or could not be looked at; ``wrong`` is what hurts now, or loses leases.
    """

    about: str
    severity: Severity
    says: str
    mend: str = ""

    @property
    def fine(self) -> bool:
        """Whether nothing need be done about it."""
        return self.severity == "fine"

    def as_dict(self) -> dict[str, object]:
        """For programs."""
        return {**asdict(self), "fine": self.fine}


#: One look of somebody else's: of the broker, and RQ's Redis by its URL where that is known.
Look = Callable[["Broker", "str | None"], Iterable[Finding]]


def findings(broker: Broker, looks: Iterable[Look] = (), rq_url: str | None = None) -> list[Finding]:
    """Everything that was looked at, in the order in which a person should read it; ``looks`` come last.

    Raises:
        PoolUnavailable: the server cannot be reached.
    """
    now = broker.run(plans.now(broker.keys))
    gpus = broker.gpus()
    own: tuple[tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        ("server", lambda: of_server(broker.redis.info())),
        ("rights", lambda: _rights(broker)),
        ("clock", lambda: _clock(broker, now)),
        ("agents", lambda: _agents(broker, now)),
        ("cards", lambda: _cards(gpus, now)),
        ("drivers", lambda: _drivers(broker, gpus)),
        ("leases", lambda: _leases(broker, now)),
        ("waiters", lambda: _waiters(broker, now)),
        ("ledger", lambda: _sums(broker)),
        *((_name(look), lambda look=look: look(broker, rq_url)) for look in looks),
    )
    return [finding for about, look in own for finding in _allowed(about, look)]


def _name(look: Look) -> str:
    return getattr(look, "__name__", "look")


def _allowed(about: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a look gave; that its user may not look is a finding too."""
    try:
        return list(look())
    except (redis.RedisError, BrokerError) as error:
        cause = error if isinstance(error, redis.RedisError) else error.__cause__
        if not isinstance(cause, redis.RedisError) or not not_allowed(cause):
            raise
        says = f"could not be looked at: {cause}"
        return [
            Finding(about, "warning", says, "run the doctor as a user who may; docs/deployments.md lists the rights")
        ]


# -- the server --------------------------------------------------------------------------------------------------------


def of_server(server: Mapping[str, Any], whose: str = "") -> Iterator[Finding]:
    """What ``INFO`` tells of a server: version, role, file, room. ``whose``: where it is not the ledger's."""
    yield from _version(server, whose)
    yield from _persistence(server, whose)
    yield from _eviction(server, whose)


def _version(server: Mapping[str, Any], whose: str) -> Iterator[Finding]:
    valkey = server.get("valkey_version")
    told = f"Valkey {valkey}" if valkey else f"Redis {server.get('redis_version')}"
    if server.get("role") == "slave":
        says = f"{told}, a replica: nothing can be written there"
        yield Finding(
            f"{whose}server", "wrong", says, "name its primary, or let Sentinels name it by redis+sentinel://"
        )
    else:
        yield Finding(f"{whose}server", "fine", told)


def _persistence(server: Mapping[str, Any], whose: str) -> Iterator[Finding]:
    about, lost = f"{whose}persistence", "jobs" if whose else "leases, and their holders must register them again"
    if not server.get("aof_enabled"):
        yield Finding(about, "wrong", f"no append-only file: a restart loses {lost}", _DURABLE)
    elif server.get("aof_last_write_status") != "ok" or server.get("aof_last_bgrewrite_status") != "ok":
        yield Finding(about, "wrong", "the append-only file could not be written", "look at the server's log and disk")
    else:
        yield Finding(about, "fine", "append-only file")


def _eviction(server: Mapping[str, Any], whose: str) -> Iterator[Finding]:
    policy, most, used = server.get("maxmemory_policy"), int(server.get("maxmemory") or 0), int(server["used_memory"])
    if policy != "noeviction":
        yield Finding(
            f"{whose}eviction", "wrong",
            f"maxmemory-policy is {policy}: a full server would throw {'jobs' if whose else 'leases'} away",
            _NO_EVICTION,
        )  # fmt: skip
    elif most and used > 0.9 * most:
        yield Finding(
            f"{whose}memory", "wrong", f"{format_size(used)} of {format_size(most)} used: soon nothing new is granted",
            "raise maxmemory, or keep less: `gpubroker config set history_size=... events_max=...`",
        )  # fmt: skip
    else:
        yield Finding(f"{whose}eviction", "fine", "noeviction")


#: Which of these commands the caller may not use on a key of the pool. Asked in a script: an own right to ask is rare.
_MAY_NOT = """local denied = {}
for _, command in ipairs(ARGV) do
  if not redis.acl_check_cmd(command, KEYS[1], KEYS[1], KEYS[1]) then table.insert(denied, command) end
end
return denied"""
#: What clients send beside scripts, and what for.
_CLIENTS = {"BLPOP": "wait", "XREAD": "follow the journal", "INFO": "tell one primary from another"}
_CALL = re.compile(r"call\('([A-Z]+)'")
#: What it does, whoever calls any script has done on the way: nobody takes part in the ledger without it.
_LEAST = "reap"


def _rights(broker: Broker) -> Iterator[Finding]:
    """What this user may not do and would have to, by what scripts and clients send."""
    sent = {name: set(_CALL.findall(scripts.script(name).text)) for name in scripts.names()}
    asked = sorted({*_CLIENTS, *(command for commands in sent.values() for command in commands)})
    user = broker.redis.connection_pool.connection_kwargs.get("username") or "default"
    try:
        denied: list[str] = broker.redis.eval(_MAY_NOT, 1, broker.keys.ledger, *asked)
    except redis.RedisError as error:
        if not not_allowed(error):
            raise
        says = f"{user} may run no script: it sees the pool, and can neither borrow nor publish nor act"
        yield Finding("rights", "warning", says, "right for who only looks; others need what docs/deployments.md lists")
        return
    mend = f"ACL SETUSER {user} {' '.join(f'+{command.lower()}' for command in denied)}"
    if not denied:
        yield Finding("rights", "fine", f"{user} may do all that agents, workers and operators do")
    elif lacking := sent[_LEAST].intersection(denied):
        says = f"{user} may not {', '.join(sorted(lacking))}, which every script sends: nothing is lent"
        yield Finding("rights", "wrong", says, mend)
    else:
        parts = [f"{_CLIENTS[command]} ({command})" for command in denied if command in _CLIENTS]
        lame = {name: commands.intersection(denied) for name, commands in sent.items()}
        parts += [f"{name} ({', '.join(sorted(commands))})" for name, commands in lame.items() if commands]
        yield Finding("rights", "warning", f"{user} may not {', '.join(parts)}", f"if it has to: {mend}")


# -- the pool ----------------------------------------------------------------------------------------------------------


def _clock(broker: Broker, now: int) -> Iterator[Finding]:
    ledger: dict[str, str] = broker.redis.hgetall(broker.keys.ledger)  # type: ignore[assignment]
    behind, settling = int(ledger.get("clock_offset_ms") or 0), int(ledger.get("settling_until") or 0)
    if not ledger:
        yield Finding("ledger", "fine", "not begun: nobody has published or borrowed yet")
    elif behind > 1000:
        yield Finding(
            "clock", "wrong", f"the server's clock stepped back by {behind / 1000:.0f} s; the ledger's own went on",
            "let a time service slew the server's clock; the two agree again by themselves",
        )  # fmt: skip
    else:
        yield Finding("clock", "fine", "agrees with the ledger's")
    if settling > now:
        yield Finding(
            "epoch", "wrong", f"data was lost or another server took over: nothing new is granted for "
            f"{duration(settling - now)}, while holders register", "wait",
        )  # fmt: skip


def _agents(broker: Broker, now: int) -> Iterator[Finding]:
    hosts = [Host.from_hash(fields) for fields in broker.hosts()]
    if not hosts:
        yield Finding("agents", "wrong", "no host has an agent", "start `gpubroker agent` on each machine with GPUs")
    bad = False
    for host in hosts:
        if host.fresh_until < now:
            bad = True
            says = f"its agent has been silent for {duration(now - host.sampled_at)}: nothing is granted there"
            mend = f"start `gpubroker agent` on {host.host} again, or `gpubroker retire {host.host}`"
            yield Finding(f"host {host.host}", "wrong", says, mend)
        elif host.state != "OK":
            bad = True
            yield Finding(f"host {host.host}", "wrong", host.reason or host.state, f"look at the driver of {host.host}")
    if hosts and not bad:
        yield Finding("agents", "fine", f"{len(hosts)} of {len(hosts)} hosts publish")


def _cards(gpus: list[Gpu], now: int) -> Iterator[Finding]:
    if gpus and not any(gpu.lends for gpu in gpus):
        drained = sum(gpu.drained for gpu in gpus)
        says = f"none of {len(gpus)} cards lends, {drained} of them drained"
        yield Finding("cards", "wrong", says, "`gpubroker status` says why; `gpubroker undrain` opens a drained one")
    for gpu in gpus:
        if gpu.short_bytes:
            yield Finding(
                f"GPU {gpu.uuid}", "wrong",
                f"its leases exceed what there is by {format_size(gpu.short_bytes)}: processes without a lease have "
                f"{format_size(gpu.unmanaged_bytes or 0)}",
                f"end them on {gpu.host} (nvidia-smi), or `gpubroker adopt PID MEMORY --host {gpu.host}`",
            )  # fmt: skip
    ill = [(gpu, *verdict) for gpu in gpus if gpu.fresh_until >= now and (verdict := _illness(gpu)) is not None]
    for gpu, severity, says, mend in ill[:_NAMED]:
        yield Finding(f"GPU {gpu.uuid}", severity, says, mend)
    if len(ill) > _NAMED:
        yield Finding("cards", "wrong", f"{len(ill) - _NAMED} more do not lend", "`gpubroker status` shows them")


def _illness(gpu: Gpu) -> tuple[Severity, str, str] | None:
    """What keeps a card whose agent speaks from lending, if it is no person's wish."""
    if gpu.state is State.UNAVAILABLE:
        return (
            "wrong",
            f"cannot be used: {gpu.reason}",
            f"look at card {gpu.index} of {gpu.host} with nvidia-smi, and at dmesg",
        )
    if "health" in gpu.drained_by.split(","):
        return "wrong", f"drained for its health: {gpu.reason}", f"`gpubroker hardware {gpu.uuid}`; reset or replace it"
    if gpu.state is State.CRITICAL:
        return "warning", f"lends nothing now: {gpu.reason}", "it lends again by itself when it has cooled, or has room"
    return None


def _drivers(broker: Broker, gpus: list[Gpu]) -> Iterator[Finding]:
    """Which driver each host has, as one of its cards tells."""
    first = {gpu.host: gpu.uuid for gpu in reversed(gpus)}
    told: list[str | None] = broker.run(plans.drivers(broker.keys, list(first.values())))
    hosts: dict[str, list[str]] = {}
    for host, version in zip(first, told, strict=True):
        if version:
            hosts.setdefault(version, []).append(host)
    if hosts:
        words = "; ".join(f"{version} on {_some(sorted(names))}" for version, names in sorted(hosts.items()))
        yield Finding("drivers", "fine", words)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _leases(broker: Broker, now: int) -> Iterator[Finding]:
    over = [lease for lease in broker.leases() if _is_overtime(lease, now)]
    for lease in over[:_NAMED]:
        who = f"process {lease.pid}" if lease.pid is not None else "its process"
        yield Finding(
            f"lease {lease.id}", "wrong",
            f"its time was over {duration(now - lease.expires_at)} ago, and {who} still has the memory",
            f"end {who} on {lease.host}",
        )  # fmt: skip
    if len(over) > _NAMED:
        yield Finding(
            "leases", "wrong", f"{len(over) - _NAMED} more whose time is over", "`gpubroker leases` shows them"
        )


def _is_overtime(lease: LeaseRecord, now: int) -> bool:
    return lease.state == "reclaiming" and now - lease.expires_at > _OVERTIME_MS


def _waiters(broker: Broker, now: int) -> Iterator[Finding]:
    queue = broker.waiters()
    wrong = 0
    for waiter in queue[:_NAMED]:
        told = explain_named(broker, waiter.id)
        if told.kind != "waiting":
            continue  # granted, or gone, in between
        whys = {card.why for card in told.cards}
        if told.fits and now - waiter.since > _STUCK_MS:
            wrong += 1
            says = f"there is room for it, and it has waited for {duration(now - waiter.since)}"
            yield Finding(f"waiter {waiter.id}", "wrong", says, _MEND_SUMS.replace("them", "the sums, and serves it"))
        elif whys and whys <= {"small", "selector"}:
            wrong += 1
            says = f"no GPU that is known could ever hold {waiter.memory} as it asks for it"
            yield Finding(f"waiter {waiter.id}", "wrong", says, f"`gpubroker explain {waiter.id}` says why")
    if not wrong:
        yield Finding("waiters", "fine", f"{len(queue)}, none of them stuck" if queue else "none")


def _sums(broker: Broker) -> Iterator[Finding]:
    found = fsck.check(broker, readings=2)
    for difference in found[:_NAMED]:
        yield Finding("ledger", "wrong", str(difference), _MEND_SUMS)
    if len(found) > _NAMED:
        yield Finding("ledger", "wrong", f"{len(found) - _NAMED} more that do not follow from the leases", _MEND_SUMS)
    if not found:
        yield Finding("ledger", "fine", "every sum and index follows from the leases")
