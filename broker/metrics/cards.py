"""Cards and hosts as metric families. Labels of cards are those of DCGM-exporter, so that panels of both can be joined.

What a card or a host does not tell is absent, never 0; so is what was read too long ago to be true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric, StateSetMetricFamily

from broker.metrics.labels import value
from broker.metrics.look import Card, Look, number
from broker.values import State

CARD = ("pool", "gpu", "UUID", "modelName", "Hostname")
HOST = ("pool", "Hostname")

_STATES = {state: {one.value: one is state for one in State} for state in State}
_MARKS = ("gpu", "host", "health", "people")

_Read = Callable[[Card], float | None]

#: Of the ledger: true while it stands there.
_KEPT: tuple[tuple[str, str, _Read], ...] = (
    ("memory_total_bytes", "Memory of the card", lambda gpu: gpu.memory_total_bytes),
    ("memory_capacity_bytes", "What it could lend with nothing unmanaged on it", lambda gpu: gpu.capacity_bytes),
    ("memory_budget_bytes", "What it may lend: min(total, limit) - reserve - unmanaged", lambda gpu: gpu.budget_bytes),
    ("memory_leased_bytes", "Bytes of the leases on it", lambda gpu: gpu.leased_bytes),
    ("memory_free_bytes", "Budget that is not leased; lent only while it lends", lambda gpu: gpu.free_bytes),
    ("memory_short_bytes", "Leases beyond a budget that shrank under them", lambda gpu: gpu.short_bytes),
    ("lends", "1 if a grant on it is possible, given room", lambda gpu: gpu.lends),
    ("drained", "1 while nothing new is lent on it, by an operator's or its agent's mark", lambda gpu: gpu.drained),
    ("kept_for_waiter", "1 while its free bytes gather for one waiter", lambda gpu: bool(gpu.reserved_for)),
    ("speed_ratio", "What people are told of its speed: temperature, health and memory", lambda gpu: gpu.state.speed),
    ("job_speed_ratio", "The speed that jobs on it are told: temperature and health", lambda gpu: gpu.job_state.speed),
)
#: Of its newest sample: true while that is fresh.
_SAMPLED: tuple[tuple[str, str, _Read], ...] = (
    ("memory_used_bytes", "Memory in use, whoever uses it", lambda gpu: gpu.memory_used_bytes),
    ("memory_unmanaged_bytes", "In use by processes that hold no lease", lambda gpu: gpu.unmanaged_bytes),
    ("memory_reserved_bytes", "What its driver keeps for itself", lambda gpu: gpu.memory_reserved_bytes),
    ("temperature_celsius", "Temperature", lambda gpu: gpu.temperature_c),
    ("power_watts", "Power drawn", lambda gpu: None if gpu.power_mw is None else gpu.power_mw / 1000),
    ("utilization_ratio", "Share of time in which it worked", lambda gpu: _ratio(gpu.utilization_percent)),
)

_HOST_BYTES = (
    ("lendable_memory_bytes", "memory_bytes", "Memory of the host that jobs may borrow"),
    ("leased_memory_bytes", "leased_memory_bytes", "Memory of the host that jobs have borrowed"),
    ("memory_used_bytes", "memory_used_bytes", "Memory of the host in use"),
    ("memory_available_bytes", "memory_available_bytes", "Memory of the host that a program could have"),
    ("swap_used_bytes", "swap_used_bytes", "Swap in use"),
    ("disk_free_bytes", "disk_free_bytes", "Room where the host's jobs write"),
    ("disk_total_bytes", "disk_total_bytes", "Size of the disk where the host's jobs write"),
)
_HOST_PARTS = (
    ("lendable_cpus", "cpus_milli", 1000, "Processors that jobs may borrow"),
    ("leased_cpus", "leased_cpus_milli", 1000, "Processors that jobs have borrowed"),
    ("load1", "load_milli", 1000, "Load average of a minute"),
    ("cpu_utilization_ratio", "cpu_percent", 100, "Share of the processors' time in use"),
)
#: What a host said with its newest sample, hence not true for ever.
_HOST_SAMPLED = frozenset({
    "memory_used_bytes", "memory_available_bytes", "swap_used_bytes", "disk_free_bytes", "disk_total_bytes",
    "load_milli", "cpu_percent",
})  # fmt: skip


def families(seen: Look) -> Iterator[Metric]:
    """Every card and every host of a look."""
    yield from _cards(seen)
    yield from _hosts(seen)


def _cards(seen: Look) -> Iterator[Metric]:
    cards = [
        ([seen.pool, value(gpu.nth), value(gpu.uuid), value(gpu.name), value(gpu.host)], gpu) for gpu in seen.cards
    ]  # fmt: skip
    fresh = [(labels, gpu) for labels, gpu in cards if gpu.fresh]
    for name, words, read in _KEPT:
        yield gauge(f"gpubroker_gpu_{name}", words, CARD, ((labels, read(gpu)) for labels, gpu in cards))
    for name, words, read in _SAMPLED:
        yield gauge(f"gpubroker_gpu_{name}", words, CARD, ((labels, read(gpu)) for labels, gpu in fresh))
    ages = ((labels, _age(seen.now, gpu.sampled_at)) for labels, gpu in cards)
    yield gauge("gpubroker_gpu_sample_age_seconds", "Since its newest sample was read", CARD, ages)
    states = StateSetMetricFamily("gpubroker_gpu_state", "State, by temperature, health and memory", labels=CARD)
    for labels, gpu in cards:
        states.add_metric(labels, _STATES[gpu.state])
    yield states
    marks = (([*labels, mark], 1.0) for labels, gpu in cards for mark in _MARKS if mark in gpu.drained_by)
    words = "Why it is drained: gpu or host by an operator, health or people by its agent"
    yield gauge("gpubroker_gpu_drain_mark", words, (*CARD, "by"), marks)


def _hosts(seen: Look) -> Iterator[Metric]:
    hosts = [([seen.pool, value(host.get("host", ""))], host) for host in seen.hosts]
    fresh = [(labels, host) for labels, host in hosts if (number(host.get("fresh_until")) or 0) >= seen.now]
    alive = {labels[1] for labels, _ in fresh}
    ages = ((labels, _age(seen.now, number(host.get("sampled_at")))) for labels, host in hosts)
    yield gauge("gpubroker_host_sample_age_seconds", "Since the host's agent last read its cards", HOST, ages)
    yield gauge(
        "gpubroker_host_agent_up", "1 while the host's agent is heard", HOST,
        ((labels, labels[1] in alive) for labels, _ in hosts),
    )  # fmt: skip
    yield gauge(
        "gpubroker_host_gpus_readable", "1 while the host's agent can read its cards at all", HOST,
        ((labels, host.get("state") == "OK") for labels, host in fresh),
    )  # fmt: skip
    drained = ((labels, host.get("drained") == "1") for labels, host in hosts)
    yield gauge("gpubroker_host_drained", "1 while an operator has the host drained", HOST, drained)
    for name, field, words in _HOST_BYTES:
        told = fresh if field in _HOST_SAMPLED else hosts
        yield gauge(f"gpubroker_host_{name}", words, HOST, ((labels, number(host.get(field))) for labels, host in told))
    for name, field, parts, words in _HOST_PARTS:
        told = fresh if field in _HOST_SAMPLED else hosts
        values = ((labels, _part(number(host.get(field)), parts)) for labels, host in told)
        yield gauge(f"gpubroker_host_{name}", words, HOST, values)


def gauge(
    name: str, words: str, labels: Iterable[str], values: Iterable[tuple[list[str], float | None]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=tuple(labels))
    for own, told in values:
        if told is not None:
            family.add_metric(own, float(told))
    return family


def _ratio(percent: int | None) -> float | None:
    return None if percent is None else percent / 100


def _part(told: int | None, parts: int) -> float | None:
    return None if told is None else told / parts


def _age(now: int, at: int | None) -> float | None:
    return None if not at else max(0, now - at) / 1000
