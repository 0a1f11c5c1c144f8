"""The trace's pool in a real ledger, and its tasks asked for one after the other."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.openb_trace import WHOLE, Host, Task
from broker import Broker, calls
from broker.ledger.scripts import script
from broker.publish import Publisher
from broker.units import MIB
from broker.values import GpuReport, HostReport, State

_HOUR_MS, _DAY, _BATCH = 3_600_000, 86_400, 250
#: Bytes that each card has beside its 1000 MiB. The ledger lends nothing without GPU memory, so that a task that wants
#: none asks for one byte: these are for them, and no GPU task is in need of them.
SPARE = 1024


@dataclass
class Replay:
    """What became of one sample of tasks."""

    gpus_milli: int
    arrived_milli: int = 0
    allocated_milli: int = 0
    #: Arrived and allocated in percent of the GPUs, each time another percent had arrived.
    curve: list[tuple[float, float]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    #: Server time of an asking in microseconds: ``mean``, ``p50``, ``p99``, ``p99.9``.
    server_us: dict[str, float] = field(default_factory=dict)

    @property
    def percent(self) -> float:
        """GPU milli allocated, in percent of all."""
        return 100 * self.allocated_milli / self.gpus_milli

    def add(self, task: Task, granted: bool) -> None:
        """Count one task."""
        self.arrived_milli += task.wants_milli
        self.asked[task.kind] += 1
        if granted:
            self.allocated_milli += task.wants_milli
        else:
            self.refused[task.kind] += 1
        arrived = 100 * self.arrived_milli / self.gpus_milli
        if not self.curve or arrived >= int(self.curve[-1][0]) + 1:
            self.curve.append((arrived, self.percent))


def card_name(host: str, index: int, scattered: bool = False) -> str:
    """A card's name: beside those of its host, or ``scattered``, as a driver's random names are."""
    if not scattered:
        return f"GPU-{host}-{index}"
    return f"GPU-{hashlib.md5(f'{host}/{index}'.encode(), usedforsecurity=False).hexdigest()}"


def build(broker: Broker, hosts: Sequence[Host], scattered: bool) -> None:
    """Publish every host with its cards: 1000 MiB each, and what the host itself has."""
    broker.update_config(monitor_interval=3600, memory_reserve_mb=0, events_max=1000)
    for host in hosts:
        cards = [
            GpuReport(
                card_name(host.name, i, scattered), i, "card", State.OPTIMAL, State.OPTIMAL, "",
                memory_total_bytes=WHOLE * MIB + SPARE, memory_used_bytes=0, unmanaged_bytes=0, temperature_c=40,
            )
            for i in range(host.gpus)
        ]  # fmt: skip
        told = HostReport(memory_bytes=host.memory_mib * MIB, cpus_milli=host.cpu_milli)
        Publisher(broker, host.name).publish(cards, _HOUR_MS, host_report=told)


def request(number: int, task: Task, placement: str) -> calls.Ask:
    """A task as a request."""
    return calls.ask(
        task.gpu_milli * MIB or 1, gpus=max(1, task.gpus), lease_id=f"task-{number}", ttl=_DAY, placement=placement,
        host_memory=task.memory_mib * MIB or None, cpus=task.cpu_milli / 1000 or None, owner="trace",
    )  # fmt: skip


def replay(
    broker: Broker, hosts: Sequence[Host], tasks: Sequence[Task], placement: str, *, scattered: bool = False
) -> Replay:
    """Ask for every task in turn, in a pool that is empty before; nothing is given back, what is refused is dropped."""
    broker.redis.flushall()
    build(broker, hosts, scattered)
    broker.redis.config_resetstat()
    found = Replay(WHOLE * sum(host.gpus for host in hosts))
    for task, granted in zip(tasks, _answers(broker, tasks, placement), strict=True):
        found.add(task, granted)
    found.server_us = _server_us(broker)
    return found


def _answers(broker: Broker, tasks: Sequence[Task], placement: str) -> Iterator[bool]:
    """Whether each is granted. Sent many at once, and served one after the other."""
    keys, sha = broker.keys.all, broker.redis.script_load(script("acquire").text)
    for start in range(0, len(tasks), _BATCH):
        pipe = broker.redis.pipeline(transaction=False)
        for number, task in enumerate(tasks[start : start + _BATCH], start):
            pipe.evalsha(sha, len(keys), *keys, *request(number, task, placement).asking(False))
        for reply in pipe.execute():
            if reply[0] not in ("granted", "refused", "impossible"):
                raise AssertionError(f"not an answer to such a request: {reply}")
            yield reply[0] == "granted"


def _server_us(broker: Broker) -> dict[str, float]:
    """What the server says of its own time for the askings."""
    stats: Any = broker.redis.info("commandstats")
    latency: Any = broker.redis.info("latencystats")
    told = latency["latency_percentiles_usec_evalsha"]
    return {
        "mean": float(stats["cmdstat_evalsha"]["usec_per_call"]),
        **{name: float(value) for name, value in told.items()},
    }


def totals(broker: Broker) -> dict[str, tuple[int, int, int]]:
    """By host: bytes lent of its cards, of its memory, and thousandths of its processors, as its leases add up."""
    by_host: dict[str, tuple[int, int, int]] = {}
    for lease in broker.leases():
        bytes_, memory, cpus = by_host.get(lease.host, (0, 0, 0))
        by_host[lease.host] = (
            bytes_ + lease.memory_bytes * len(lease.gpu_uuids),
            memory + lease.host_memory_bytes,
            cpus + lease.cpus_milli,
        )
    return by_host
