"""What is read and configured, as plans: generators that yield batches of commands and are sent their replies.

A plan does no input or output, so the sync and the async client run the same ones. Each batch is one round trip.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from broker.calls import check_name, check_whole
from broker.errors import InvalidRequest, NotInPool
from broker.sizes import Learned, RightSize, bucket_of, check_input_size, size_to_ask
from broker.units import MAX_MEMORY_BYTES, parse_size
from broker.values import HeldLease, ListedProcess, State, Throttle

if TYPE_CHECKING:
    from broker.ledger.keys import Keys
    from broker.models import Event, Gpu, LeaseRecord, Sample, Tenant, Waiter
    from broker.thresholds import Thresholds
    from broker.trend import Trend

T = TypeVar("T")
Command = tuple[Any, ...]
Plan = Generator[Sequence[Command], list[Any], T]

#: Records fetched in one batch: bounds the size of a pipeline and of its replies.
_BATCH = 500


def _hashes(names: Sequence[str]) -> Plan[list[dict[str, str]]]:
    """Every hash of these names that exists."""
    found: list[dict[str, str]] = []
    for start in range(0, len(names), _BATCH):
        replies = yield [("HGETALL", name) for name in names[start : start + _BATCH]]
        found += [reply for reply in replies if reply]
    return found


def lease(keys: Keys, lease_id: str) -> Plan[LeaseRecord | None]:
    """One lease, or ``None``."""
    from broker.models import LeaseRecord

    (fields,) = yield [("HGETALL", keys.lease(check_name("lease_id", lease_id)))]
    return LeaseRecord.from_hash(fields) if fields else None


def leases(keys: Keys) -> Plan[list[LeaseRecord]]:
    """Every lease whose bytes count, by end."""
    from broker.models import LeaseRecord

    (ids,) = yield [("ZRANGE", keys.leases, 0, -1)]
    return [LeaseRecord.from_hash(fields) for fields in (yield from _hashes([keys.lease(i) for i in ids]))]


def abandoned(keys: Keys, lease_ids: Sequence[str]) -> Plan[list[str]]:
    """Which of these names their holder gave up within the last minute: the lease ended by its time or with its dead
    holder, or the waiter fell silent, and nobody has asked under the name since."""
    if not lease_ids:
        return []
    names = [check_name("lease_id", one) for one in lease_ids]
    replies = yield [
        command
        for one in names
        for command in (("GET", keys.ended(one)), ("EXISTS", keys.lease(one), keys.waiter(one)))
    ]
    told = zip(names, replies[::2], replies[1::2], strict=True)
    return [one for one, how, there in told if how and _given_up(how) and not there]


def unknown(keys: Keys, lease_ids: Sequence[str]) -> Plan[list[str]]:
    """Which of these names neither wait nor hold a lease."""
    names = [check_name("lease_id", one) for one in lease_ids]
    if not names:
        return []
    # The waiter first: one that becomes a lease meanwhile is then seen as that.
    waits = yield [("EXISTS", keys.waiter(one)) for one in names]
    holds = yield [("EXISTS", keys.lease(one)) for one in names]
    return [one for one, waiting, held in zip(names, waits, holds, strict=True) if not waiting and not held]


def of_job(keys: Keys, job_id: str) -> Plan[str | None]:
    """The request that waits for a job of RQ's, else the lease that it holds: the newest of its attempts."""
    for index in (keys.waiters, keys.leases):
        cursor, found = "0", list[tuple[float, str]]()
        while True:
            ((cursor, flat),) = yield [("ZSCAN", index, cursor, "MATCH", f"{job_id}.*", "COUNT", 1000)]
            found += [(float(score), name) for name, score in _pairs(flat)]
            if str(cursor) == "0":
                break
        if found:
            return max(found)[1]
    return None


def _pairs(flat: Sequence[Any]) -> Iterable[tuple[str, Any]]:
    """Members and scores, however the client's protocol nests them."""
    return flat if flat and not isinstance(flat[0], str) else zip(flat[::2], flat[1::2], strict=True)


def _given_up(ended: str) -> bool:
    """Of a tombstone: token, how, nonce, and the nonce of a call under the name since then that was refused."""
    _, how, *calls = ended.split(" ")
    return how in ("expired", "dropped", "orphaned") and not any(calls[1:])


def tenants(keys: Keys) -> Plan[list[Tenant]]:
    """Every tenant, by name."""
    from broker.models import Tenant

    (names,) = yield [("SMEMBERS", keys.tenants)]
    found: list[Tenant] = []
    listed = sorted(names)
    for start in range(0, len(listed), _BATCH):
        some = listed[start : start + _BATCH]
        replies = yield [("HGETALL", keys.tenant(name)) for name in some]
        found += [
            Tenant.from_hash({"name": name, **fields}) for name, fields in zip(some, replies, strict=True) if fields
        ]
    return found


def sizes(keys: Keys) -> Plan[list[Learned]]:
    """What was learned of every function, the last that ran first."""
    (names,) = yield [("ZREVRANGE", keys.sizes, 0, -1)]
    found: list[Learned] = []
    for start in range(0, len(names), _BATCH):
        some = names[start : start + _BATCH]
        replies = yield [("HGETALL", keys.size(name)) for name in some]
        for name, told in zip(some, replies, strict=True):
            found += Learned.of_hash(name, told)
    return found


def right_size(
    keys: Keys, function: str, default: int | str, size: float | None, tenant: str, gpu: str | None, too_little: int
) -> Plan[RightSize]:
    """What a request of "auto" asks for now. One round trip."""
    stated, bucket = parse_size(default, "default"), bucket_of(None if size is None else check_input_size(size))
    check_whole("too_little", too_little, 0, MAX_MEMORY_BYTES)
    which = ("ZREVRANGE", "ZRANGE") if gpu is None else ()
    told, quota, *cards = yield [
        ("HGETALL", keys.size(check_name("function", function))),
        ("HGET", keys.tenant(check_name("tenant", tenant)), "quota_bytes"),
        *((way, keys.capacity, 0, 0, "WITHSCORES") for way in which),
        *([] if gpu is None else [("ZSCORE", keys.capacity, check_name("gpu", gpu))]),
    ]
    if gpu is None:
        cards = [next((score for _, score in _pairs(one)), None) for one in cards]
    budgets = [int(float(score or 0)) for score in cards]
    bounds = [bound for bound in (max(budgets), int(quota or 0)) if bound > 0]
    found = size_to_ask(
        Learned.of_hash(function, told), bucket, stated, largest=min(bounds, default=0), too_little=too_little
    )
    return replace(found, smallest_bytes=min(budgets))


def waiters(keys: Keys) -> Plan[list[Waiter]]:
    """Every waiter, next first."""
    from broker.models import Waiter

    (ids,) = yield [("ZRANGE", keys.waiters, 0, -1)]
    return [Waiter.from_hash(fields) for fields in (yield from _hashes([keys.waiter(i) for i in ids]))]


def as_seen_now(gpu: Gpu, now_ms: int) -> Gpu:
    """The GPU as a grant would see it: a sample past its freshness is no news."""
    if gpu.fresh_until >= now_ms or gpu.state is State.UNAVAILABLE:
        return gpu
    return gpu.model_copy(
        update={
            "state": State.UNAVAILABLE,
            "speed": 0.0,
            "job_state": State.UNAVAILABLE,
            "job_speed": 0.0,
            "reason": f"no sample since {gpu.sampled_at}",
        }
    )


def gpus(keys: Keys) -> Plan[list[Gpu]]:
    """Every GPU, by host and index."""
    from broker.models import Gpu

    uuids, now, offset = yield [("SMEMBERS", keys.gpus), ("TIME",), ("HGET", keys.ledger, "clock_offset_ms")]
    now_ms = _milliseconds(now) + int(offset or 0)
    found = yield from _hashes([keys.gpu(uuid) for uuid in uuids])
    seen = [as_seen_now(Gpu.from_hash(fields), now_ms) for fields in found]
    return sorted(seen, key=lambda gpu: (gpu.host, gpu.index, gpu.uuid))


def gpu(keys: Keys, uuid: str) -> Plan[Gpu | None]:
    """One GPU, or ``None``."""
    from broker.models import Gpu

    fields, now, offset = yield [
        ("HGETALL", keys.gpu(check_name("gpu", uuid))), ("TIME",), ("HGET", keys.ledger, "clock_offset_ms"),
    ]  # fmt: skip
    return as_seen_now(Gpu.from_hash(fields), _milliseconds(now) + int(offset or 0)) if fields else None


def hosts(keys: Keys) -> Plan[list[dict[str, str]]]:
    """Every host's hash: host, state, reason, source, gpus, sampled_at, fresh_until."""
    (names,) = yield [("SMEMBERS", keys.hosts)]
    return (yield from _hashes([keys.host(name) for name in sorted(names)]))


def now(keys: Keys) -> Plan[int]:
    """The ledger's time in milliseconds: Redis's clock, as the scripts correct it."""
    time, offset = yield [("TIME",), ("HGET", keys.ledger, "clock_offset_ms")]
    return _milliseconds(time) + int(offset or 0)


def _milliseconds(time: Sequence[str]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000


def throttle(keys: Keys, uuid: str | None) -> Plan[Throttle]:
    """What a holder on this GPU should do; without one, on this process's own GPU, else on the pool's worst.

    Unknown is UNAVAILABLE: nothing fails open.
    """
    own = uuid or os.environ.get("GPUBROKER_GPU_UUIDS", "")
    if own:
        seen = []
        for name in own.split(","):
            one = yield from gpu(keys, name)
            if one is None:
                return Throttle(State.UNAVAILABLE, 0.0, f"the pool knows no GPU {name}")
            seen.append(one)
    else:
        seen = yield from gpus(keys)
        if not seen:
            return Throttle(State.UNAVAILABLE, 0.0, "the pool has no GPU; is an agent running?")
    worst = max(seen, key=lambda one: one.job_state.rank)
    return Throttle(worst.job_state, worst.job_state.speed, worst.reason or f"{worst.name} is {worst.job_state}")


def events(keys: Keys, after: str, count: int) -> Plan[list[Event]]:
    """The journal after a stream id, oldest first."""
    check_whole("count", count, 1, 1_000_000)
    (entries,) = yield [("XRANGE", keys.events, f"({after}" if after not in ("-", "0") else "-", "+", "COUNT", count)]
    return [event(stream_id, fields) for stream_id, fields in entries]


def recent_events(keys: Keys, count: int) -> Plan[list[Event]]:
    """The journal's last entries, oldest first."""
    check_whole("count", count, 1, 1_000_000)
    (entries,) = yield [("XREVRANGE", keys.events, "+", "-", "COUNT", count)]
    return [event(stream_id, fields) for stream_id, fields in reversed(entries)]


def last_event_id(keys: Keys) -> Plan[str]:
    """Where the journal ends now."""
    (entries,) = yield [("XREVRANGE", keys.events, "+", "-", "COUNT", 1)]
    return str(entries[0][0]) if entries else "0"


def event(stream_id: str, fields: dict[str, str]) -> Event:
    """A journal entry as it stands in the stream."""
    from broker.models import Event

    own = {name: value for name, value in fields.items() if name not in ("seq", "kind", "at")}
    return Event(
        stream_id=stream_id, seq=int(fields["seq"]), kind=fields["kind"], at=int(fields["at"]), fields=own
    )  # fmt: skip


def history(keys: Keys, uuid: str) -> Plan[list[Sample]]:
    """The samples kept of one GPU, oldest first."""
    from broker.models import Sample

    (host,) = yield [("HGET", keys.gpu(check_name("gpu", uuid)), "host")]
    if not host:
        raise NotInPool(f"the pool knows no GPU {uuid}; see `gpubroker status --table`")
    (entries,) = yield [("XRANGE", keys.metrics(host), "-", "+")]
    return [
        Sample.from_hash({"stream_id": stream_id, **fields}) for stream_id, fields in entries if fields["uuid"] == uuid
    ]


def trend(keys: Keys, uuid: str, minutes: float) -> Plan[Trend]:
    """Where one GPU's temperature goes, by its samples of the last minutes and its own thresholds."""
    from broker.thresholds import Thresholds
    from broker.trend import check_minutes
    from broker.trend import trend as trend_of

    check_minutes(minutes)
    samples = yield from history(keys, uuid)
    stored, now, offset = yield [("HGETALL", keys.config), ("TIME",), ("HGET", keys.ledger, "clock_offset_ms")]
    limits = Thresholds.parse(effective(dict(stored), uuid))
    return trend_of(samples, limits, minutes, _milliseconds(now) + int(offset or 0), gpu=uuid)


def config(keys: Keys, uuid: str | None) -> Plan[Thresholds]:
    """The pool's configuration; with a GPU, as it holds for that one (``NAME@UUID`` wins over ``NAME``)."""
    from broker.thresholds import Thresholds

    return Thresholds.parse(effective((yield from stored_config(keys)), uuid))


def stored_config(keys: Keys) -> Plan[dict[str, str]]:
    """The configuration as it is stored: what differs from the defaults, for the pool and for single cards."""
    (stored,) = yield [("HGETALL", keys.config)]
    return dict(stored)


def effective(stored: dict[str, str], uuid: str | None) -> dict[str, str]:
    """The stored names and texts that hold for one GPU, or for the pool."""
    values = {name: value for name, value in stored.items() if "@" not in name and name != "version"}
    if uuid is not None:
        parted = ((name.partition("@"), value) for name, value in stored.items())
        values |= {name: value for (name, _, card), value in parted if card == uuid}
    return values


def new_config(keys: Keys, changes: dict[str, Any], uuid: str | None) -> Plan[tuple[Thresholds, list[Any]]]:
    """The configuration with these changes, checked, and the arguments that store it. ``None`` restores a default."""
    from broker.thresholds import Thresholds

    stored = yield from stored_config(keys)
    merged = effective(stored, uuid)
    for name, value in changes.items():
        if name not in Thresholds.model_fields:
            raise InvalidRequest(name, value, "one of " + ", ".join(Thresholds.model_fields))
        merged.pop(name, None)
        if value is not None:
            merged[name] = value
    result = Thresholds.parse(merged)
    texts = result.changed() if uuid is None else result.as_text()
    kept = {name: text for name, text in stored.items() if name != "version"}
    for name, value in changes.items():
        at = name if uuid is None else f"{name}@{check_name('gpu', uuid)}"
        kept.pop(at, None)
        if value is not None and name in texts:
            kept[at] = texts[name]
    return result, [stored.get("version", "0"), *(part for pair in kept.items() for part in pair)]


def hardware(keys: Keys, uuid: str) -> Plan[dict[str, int | str]]:
    """What one GPU's newest sample says beside what lending needs, in the order of ``broker.hardware.FIELDS``."""
    from broker.hardware import FIELDS, WORDS

    (said,) = yield [("HGETALL", keys.hardware(check_name("gpu", uuid)))]
    return {name: said[name] if name in WORDS else int(said[name]) for name in FIELDS if name in said}


def drivers(keys: Keys, uuids: Sequence[str]) -> Plan[list[str | None]]:
    """The version of the driver, as each of these GPUs tells it."""
    return (yield [("HGET", keys.hardware(uuid), "driver") for uuid in uuids]) if uuids else []


def processes(keys: Keys, uuid: str) -> Plan[list[ListedProcess]]:
    """Every process that the newest sample saw on one GPU."""
    (listed,) = yield [("HGET", keys.hardware(check_name("gpu", uuid)), "processes")]
    return [ListedProcess(*one) for one in json.loads(listed or "[]")]


def marks(keys: Keys, uuids: Sequence[str]) -> Plan[dict[str, tuple[str, str]]]:
    """Who drained each GPU, and the reason of its state."""
    rows = yield [("HMGET", keys.gpu(uuid), "drained_by", "reason") for uuid in uuids]
    return {uuid: (by or "", reason or "") for uuid, (by, reason) in zip(uuids, rows, strict=True)}


def agent_view(keys: Keys, uuids: Sequence[str]) -> Plan[tuple[dict[str, list[HeldLease]], dict[str, str]]]:
    """What an agent asks before it publishes: the leases on each of these GPUs, and the stored configuration.

    Two round trips, or one where there are no leases.
    """
    *names, stored = yield [*(("HKEYS", keys.gpu(uuid)) for uuid in uuids), ("HGETALL", keys.config)]
    on: dict[str, list[HeldLease]] = {uuid: [] for uuid in uuids}
    pairs = [
        (uuid, name.removeprefix("lease:"))
        for uuid, fields in zip(uuids, names, strict=True)
        for name in sorted(fields)
        if name.startswith("lease:")
    ]
    if not pairs:
        return on, dict(stored)
    rows = yield [
        (
            "HMGET", keys.lease(lease_id), "memory_bytes", "pid", "state", "created_at", "token", "pid_started",
            "adopted", "job_id",
        )
        for _, lease_id in pairs
    ]  # fmt: skip
    for (uuid, lease_id), (memory, pid, state, created, token, started, adopted, job) in zip(pairs, rows, strict=True):
        if memory is not None:
            on[uuid].append(
                HeldLease(
                    lease_id, int(memory), int(pid) if pid else None, state, int(created), int(token), started or "",
                    adopted == "1", job or "",
                )
            )  # fmt: skip
    return on, dict(stored)
