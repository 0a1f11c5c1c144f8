"""The trace's pool in a real ledger, and its tasks asked for one after the other."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.openb_trace import WHOLE, Host, Task
from broker import Broker, calls
from broker.ledger.scripts import script
from broker.publish import Publisher
from broker.units import MIB
from broker.values import GpuReport, HostReport, State

_HOUR_MS, _DAY, _BATCH = 3_600_000, 86_400, 250
#: Bytes that each card has beside its 1000 MiB, for tasks that want no GPU and go through the broker all the same: they
#: ask for one byte, since nothing is lent without GPU memory.
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


class Book:
    """What is free of each host, as the benchmark itself knows it; and where it puts what wants no GPU."""

    def __init__(self, broker: Broker, hosts: Sequence[Host]) -> None:
        self.broker = broker
        self.names = [host.name for host in hosts]
        self.at = {name: at for at, name in enumerate(self.names)}
        self.cpus, self.memory, self.gpus = (
            np.array(column)
            for column in zip(*((host.cpu_milli, host.memory_mib, WHOLE * host.gpus) for host in hosts), strict=True)
        )
        self.told_cpus, self.told_memory = self.cpus.copy(), self.memory.copy()
        self.cpus_most, self.gpus_most = self.cpus.copy(), self.gpus.copy()

    def lent(self, host: str, task: Task) -> None:
        """The broker lent this."""
        at = self.at[host]
        self.cpus[at] -= task.cpu_milli
        self.memory[at] -= task.memory_mib
        self.gpus[at] -= task.wants_milli

    def take(self, task: Task) -> bool:
        """Put a task that wants no GPU where most processors are free beside the GPUs that are.

        What it takes is unmanaged: the host has so much less to lend, as its agent would tell with its next sample.
        """
        able = np.flatnonzero((self.cpus >= task.cpu_milli) & (self.memory >= task.memory_mib))
        if not len(able):
            return False
        spare = (self.cpus[able] - task.cpu_milli) / self.cpus_most[able] - self.gpus[able] / self.gpus_most[able]
        at = int(able[spare.argmax()])
        self.cpus[at] -= task.cpu_milli
        self.memory[at] -= task.memory_mib
        self.told_cpus[at] -= task.cpu_milli
        self.told_memory[at] -= task.memory_mib
        told: dict[Any, Any] = {"cpus_milli": int(self.told_cpus[at]), "memory_bytes": int(self.told_memory[at]) * MIB}
        self.broker.redis.hset(self.broker.keys.host(self.names[at]), mapping=told)
        return True


def replay(
    broker: Broker,
    hosts: Sequence[Host],
    tasks: Sequence[Task],
    placement: str,
    *,
    scattered: bool = False,
    through: bool = False,
) -> Replay:
    """Ask for every task in turn, in a pool that is empty before; nothing is given back, what is refused is dropped.

    Tasks that want no GPU are put somewhere by the benchmark's own book, or, ``through`` the broker, ask for one byte.
    """
    broker.redis.flushall()
    build(broker, hosts, scattered)
    broker.redis.config_resetstat()
    found, book = Replay(WHOLE * sum(host.gpus for host in hosts)), Book(broker, hosts)
    keys, sha = broker.keys.declared, broker.redis.script_load(script("acquire").text)
    batch: list[tuple[int, Task]] = []

    def ask() -> None:
        pipe = broker.redis.pipeline(transaction=False)
        for number, task in batch:
            pipe.evalsha(sha, len(keys), *keys, *request(number, task, placement).asking(False))
        for (_, task), reply in zip(batch, pipe.execute(), strict=True):
            if reply[0] not in ("granted", "refused", "impossible"):
                raise AssertionError(f"not an answer to such a request: {reply}")
            if reply[0] == "granted":
                book.lent(reply[3], task)
            found.add(task, reply[0] == "granted")
        batch.clear()

    for number, task in enumerate(tasks):
        own = task.gpus == 0 and not through
        if own or len(batch) == _BATCH:
            ask()
        if own:
            found.add(task, book.take(task))
        else:
            batch.append((number, task))
    ask()
    found.server_us = _server_us(broker)
    return found


def _server_us(broker: Broker) -> dict[str, float]:
    """What the server says of its own time for the askings."""
    stats: Any = broker.redis.info("commandstats")
    latency: Any = broker.redis.info("latencystats")
    told = latency["latency_percentiles_usec_evalsha"]
    return {
        "mean": float(stats["cmdstat_evalsha"]["usec_per_call"]),
        **{name: float(value) for name, value in told.items()},
    }
