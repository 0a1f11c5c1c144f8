"""A studio with three machines in the middle of its work: what the pictures of the documentation show."""

from __future__ import annotations

import math

from broker import Broker, State
from broker.cli.table import ledger_now
from broker.publish import Publisher
from broker.units import GIB, MIB
from broker.values import GpuReport, HostReport, LeaseVerdict, ListedProcess

#: host, cards of it, MiB of each, °C around which each stands, whether it has a browser on it
MACHINES = (
    ("atelier", "GeForce RTX 3060", 12, (57, 63)), ("darkroom", "GeForce RTX 2060", 6, (71, 78, 61)),
    ("printshop", "GeForce GTX 1660", 6, (49, 88)),
)  # fmt: skip
STEP_MS, STEPS = 3000, 200


def fill(broker: Broker) -> None:
    """Ten minutes of samples, leases in every condition, and some who wait."""
    publishers = {host: Publisher(broker, host) for host, *_ in MACHINES}
    now = ledger_now(broker)
    for step in range(STEPS):
        if step == STEPS - 60:
            lend(broker)
        for host, publisher in publishers.items():
            at = now - (STEPS - step) * STEP_MS
            publisher.publish(reports(host, step), 600_000, read_at=at, host_report=vitals(host))
    wait(broker)
    broker.drain(uuid("printshop", 0))
    for host, publisher in publishers.items():
        publisher.publish(reports(host, STEPS), 600_000, host_report=vitals(host), verdicts=seen(broker, host))


def uuid(host: str, index: int) -> str:
    """A UUID as NVML gives them."""
    return f"GPU-{sum(map(ord, host)):08x}-{index:04x}-4d5e-8f90-{sum(map(ord, host)) * 7919 + index:012x}"


def reports(host: str, step: int) -> list[GpuReport]:
    """The cards of a host at a step."""
    _, name, size, heats = next(machine for machine in MACHINES if machine[0] == host)
    return [one(host, name, size, index, heat, step) for index, heat in enumerate(heats)]


def judged(degrees: int) -> State:
    """The state by temperature alone."""
    bands = ((65, State.OPTIMAL), (75, State.NORMAL), (86, State.THROTTLED))
    return next((state for limit, state in bands if degrees < limit), State.CRITICAL)


def one(host: str, name: str, size: int, index: int, heat: int, step: int) -> GpuReport:
    """One card: it breathes, and is at work for the last three minutes."""
    wave = math.sin(step / 17 + index * 2) * 3 + math.sin(step / 5 + index) + min(0, (step - STEPS) / 12)
    degrees, busy = round(heat + wave), step > STEPS - 60
    load = max(0, min(100, round((55 if busy else 8) + 35 * math.sin(step / 7 + index) * busy)))
    state = judged(degrees)
    strange = 700 * MIB if (host, index) == ("darkroom", 2) else 120 * MIB if index == 0 else 0
    used = strange + (round((1.4 + 0.5 * math.sin(step / 9)) * GIB) if busy else 0)
    listed = (ListedProcess(2211, "7", strange, "firefox", ""),) if strange else ()
    return GpuReport(
        uuid=uuid(host, index), index=index, name=name, state=state, job_state=state,
        reason="" if degrees < 75 else f"{degrees} °C is {'above 85' if degrees > 85 else '75 or more'}",
        memory_total_bytes=size * GIB, memory_used_bytes=used, unmanaged_bytes=strange, temperature_c=degrees,
        utilization_percent=load, power_mw=30_000 + load * 1300, capability="8.6" if size == 12 else "7.5",
        listed=listed, hardware={
            "fan_percent": min(100, degrees), "clock_sm_mhz": 1320 + load * 5, "power_limit_mw": 170_000,
            "driver": "580.95.05",
        },
    )  # fmt: skip


def vitals(host: str) -> HostReport:
    """What an agent tells of its host."""
    told = {
        "cpu_percent": 20 + len(host) * 3,
        "load_milli": 1900,
        "memory_used_bytes": 11 * GIB,
        "disk_free_bytes": 420 * GIB,
    }
    return HostReport(memory_bytes=32 * GIB, cpus_milli=16_000, labels=f"room={host}", vitals=told)


def lend(broker: Broker) -> None:
    """Jobs that enhance, score and export."""
    work = (
        ("enhance", "3GiB", "atelier", 0), ("enhance", "4GiB", "atelier", 1), ("score", "2GiB", "darkroom", 0),
        ("enhance", "3GiB", "darkroom", 1), ("export", "1GiB", "darkroom", 2), ("score", "2GiB", "atelier", 0),
    )  # fmt: skip
    for number, (function, memory, host, index) in enumerate(work):
        name, pid = f"{function}-{411 + number}", 2300 + number
        broker.acquire(
            memory, lease_id=name, ttl=900, gpu=uuid(host, index), tenant="wedding" if number % 2 else "press",
            job_id=name, owner=f"{host}:{pid}", function=f"studio.{function}", pid=pid,
        )  # fmt: skip


def seen(broker: Broker, host: str) -> list[LeaseVerdict]:
    """What agents see of the leases: one takes more than it borrowed, one does nothing."""
    told = []
    for lease in broker.leases():
        if lease.host == host:
            over = lease.id == "score-413"
            used = round(lease.memory_bytes * (1.1 if over else 0.35 + 0.1 * (lease.token % 5)))
            idle = 900 if lease.id == "export-415" else 0
            told.append(
                LeaseVerdict(lease.id, lease.token, "alive", used, used - lease.memory_bytes if over else 0, idle)
            )
    return told


def wait(broker: Broker) -> None:
    """Three who wait: for a large card, for any, and for one host."""
    from broker import calls

    for name, memory, host in (
        ("album-7", "10GiB", None),
        ("enhance-420", "9GiB", None),
        ("score-421", "2x4GiB", "darkroom"),
    ):
        request = calls.ask(
            memory, lease_id=name, wait=3600, ttl=60, host=host, tenant="wedding", job_id=name, owner="atelier:2299"
        )
        broker.call("acquire", *request.asking(True))
