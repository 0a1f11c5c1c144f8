"""What the doctor looks at. Reads only; each look gives findings, wrong ones with what mends them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker import fsck
from broker.cli.table import duration, ledger_now
from broker.explain import explain_named
from broker.models import Host
from broker.units import format_size

if TYPE_CHECKING:
    from broker.client import Broker
    from broker.models import LeaseRecord

#: A waiter shows itself every few seconds, and each of its calls would be granted: after this long it is stuck.
_STUCK_MS = 20_000
#: A lease that ended so long ago and still counts has a process that goes on with its memory.
_OVERTIME_MS = 60_000
_NAMED = 5  # things of a kind that are named one by one
_MEND_SUMS = "`gpubroker doctor --repair` recomputes them from the leases"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it stands in words, and what mends it."""

    about: str
    fine: bool
    says: str
    mend: str = ""


def findings(broker: Broker) -> list[Finding]:
    """Everything that was looked at, in the order in which a person should read it."""
    server: dict[str, Any] = broker.redis.info()
    now = ledger_now(broker)
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _version(server),
        lambda: _persistence(server),
        lambda: _eviction(server),
        lambda: _clock(broker, now),
        lambda: _agents(broker, now),
        lambda: _cards(broker),
        lambda: _leases(broker, now),
        lambda: _waiters(broker, now),
        lambda: _sums(broker),
    )
    return [finding for look in looks for finding in look()]


def _version(server: dict[str, Any]) -> Iterator[Finding]:
    valkey = server.get("valkey_version")
    yield Finding("server", True, f"Valkey {valkey}" if valkey else f"Redis {server.get('redis_version')}")


def _persistence(server: dict[str, Any]) -> Iterator[Finding]:
    about = "persistence"
    if not server.get("aof_enabled"):
        yield Finding(
            about, False, "no append-only file: a restart loses leases, and their holders must register them again",
            "redis-cli CONFIG SET appendonly yes, and the same in its configuration file",
        )  # fmt: skip
    elif server.get("aof_last_write_status") != "ok" or server.get("aof_last_bgrewrite_status") != "ok":
        yield Finding(about, False, "the append-only file could not be written", "look at the server's log and disk")
    else:
        yield Finding(about, True, "append-only file")


def _eviction(server: dict[str, Any]) -> Iterator[Finding]:
    policy, most, used = server.get("maxmemory_policy"), int(server.get("maxmemory") or 0), int(server["used_memory"])
    if policy != "noeviction":
        yield Finding(
            "eviction", False, f"maxmemory-policy is {policy}: a full server would throw leases away",
            "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in its configuration file",
        )  # fmt: skip
    elif most and used > 0.9 * most:
        yield Finding(
            "memory", False, f"{format_size(used)} of {format_size(most)} used: soon nothing new is granted",
            "raise maxmemory, or keep less: `gpubroker config set history_size=... events_max=...`",
        )  # fmt: skip
    else:
        yield Finding("eviction", True, "noeviction")


def _clock(broker: Broker, now: int) -> Iterator[Finding]:
    ledger: dict[str, str] = broker.redis.hgetall(broker.keys.ledger)  # type: ignore[assignment]
    behind, settling = int(ledger.get("clock_offset_ms") or 0), int(ledger.get("settling_until") or 0)
    if not ledger:
        yield Finding("ledger", True, "not begun: nobody has published or borrowed yet")
    elif behind > 1000:
        yield Finding(
            "clock", False, f"the server's clock stepped back by {behind / 1000:.0f} s; the ledger's own went on",
            "let a time service slew the server's clock; the two agree again by themselves",
        )  # fmt: skip
    else:
        yield Finding("clock", True, "agrees with the ledger's")
    if settling > now:
        yield Finding(
            "epoch", False, f"data was lost or another server took over: nothing new is granted for "
            f"{duration(settling - now)}, while holders register", "wait",
        )  # fmt: skip


def _agents(broker: Broker, now: int) -> Iterator[Finding]:
    hosts = [Host.from_hash(fields) for fields in broker.hosts()]
    if not hosts:
        yield Finding("agents", False, "no host has an agent", "start `gpubroker agent` on each machine with GPUs")
    bad = False
    for host in hosts:
        if host.fresh_until < now:
            bad = True
            says = f"its agent has been silent for {duration(now - host.sampled_at)}: nothing is granted there"
            yield Finding(
                f"host {host.host}",
                False,
                says,
                f"start `gpubroker agent` on {host.host} again, or `gpubroker retire {host.host}`",
            )
        elif host.state != "OK":
            bad = True
            yield Finding(f"host {host.host}", False, host.reason or host.state, f"look at the driver of {host.host}")
    if hosts and not bad:
        yield Finding("agents", True, f"{len(hosts)} of {len(hosts)} hosts publish")


def _cards(broker: Broker) -> Iterator[Finding]:
    gpus = broker.gpus()
    if gpus and not any(gpu.lends for gpu in gpus):
        drained = sum(gpu.drained for gpu in gpus)
        says = f"none of {len(gpus)} cards lends, {drained} of them drained"
        yield Finding("cards", False, says, "`gpubroker status` says why; `gpubroker undrain` opens a drained one")
    for gpu in gpus:
        if gpu.short_bytes:
            yield Finding(
                f"GPU {gpu.uuid}", False,
                f"its leases exceed what there is by {format_size(gpu.short_bytes)}: processes without a lease have "
                f"{format_size(gpu.unmanaged_bytes or 0)}",
                f"end them on {gpu.host} (nvidia-smi), or `gpubroker adopt PID MEMORY --host {gpu.host}`",
            )  # fmt: skip


def _leases(broker: Broker, now: int) -> Iterator[Finding]:
    over = [lease for lease in broker.leases() if _is_overtime(lease, now)]
    for lease in over[:_NAMED]:
        who = f"process {lease.pid}" if lease.pid is not None else "its process"
        yield Finding(
            f"lease {lease.id}", False,
            f"its time was over {duration(now - lease.expires_at)} ago, and {who} still has the memory",
            f"end {who} on {lease.host}",
        )  # fmt: skip
    if len(over) > _NAMED:
        yield Finding("leases", False, f"{len(over) - _NAMED} more whose time is over", "`gpubroker leases` shows them")


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
            yield Finding(f"waiter {waiter.id}", False, says, _MEND_SUMS.replace("them", "the sums, and serves it"))
        elif whys and whys <= {"small", "selector"}:
            wrong += 1
            says = f"no GPU that is known could ever hold {waiter.memory} as it asks for it"
            yield Finding(f"waiter {waiter.id}", False, says, f"`gpubroker explain {waiter.id}` says why")
    if not wrong:
        yield Finding("waiters", True, f"{len(queue)}, none of them stuck" if queue else "none")


def _sums(broker: Broker) -> Iterator[Finding]:
    found = fsck.check(broker, readings=2)
    for difference in found[:_NAMED]:
        yield Finding("ledger", False, str(difference), _MEND_SUMS)
    if len(found) > _NAMED:
        yield Finding("ledger", False, f"{len(found) - _NAMED} more that do not follow from the leases", _MEND_SUMS)
    if not found:
        yield Finding("ledger", True, "every sum and index follows from the leases")
