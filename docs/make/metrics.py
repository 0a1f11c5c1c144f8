"""The reference of metrics: what the exporter tells of a small pool on a server of its own."""

from __future__ import annotations

from importlib.util import find_spec

from docs.make.markdown import code, table


def is_there() -> bool:
    """Whether there is an exporter, and what it stands on."""
    return all(find_spec(name) is not None for name in ("broker.metrics", "prometheus_client"))


def page() -> str:
    """Every metric: name, kind, labels, meaning."""
    from prometheus_client.parser import text_string_to_metric_families  # type: ignore[import-not-found,unused-ignore]

    rows = []
    for family in text_string_to_metric_families(exposition()):
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label not in ("le",))
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append((code(name), family.type, ", ".join(map(code, labels)), family.documentation))
    return table(("metric", "kind", "labels", "meaning"), sorted(rows))


def exposition() -> str:
    """What a scrape of a pool with a card, a lease, one that ended and a waiter tells."""
    from broker.metrics import Exporter  # type: ignore[import-not-found,unused-ignore]

    from broker import Broker, calls
    from broker.embedded import EmbeddedServer
    from broker.publish import Publisher
    from broker.units import GIB
    from broker.values import GpuReport, HostReport, State

    vitals = dict.fromkeys(
        ("cpu_percent", "load_milli", "memory_used_bytes", "memory_available_bytes", "swap_used_bytes",
         "disk_free_bytes", "disk_total_bytes"), 1,
    )  # fmt: skip
    card = GpuReport(
        uuid="GPU-1", index=0, name="Card", state=State.OPTIMAL, job_state=State.OPTIMAL, reason="",
        memory_total_bytes=6 * GIB, memory_used_bytes=GIB, memory_reserved_bytes=0, unmanaged_bytes=0, temperature_c=40,
        utilization_percent=50, power_mw=90_000,
    )  # fmt: skip
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        exporter = Exporter(broker, after="0")
        told = HostReport(memory_bytes=16 * GIB, cpus_milli=4000, vitals=vitals)
        Publisher(broker, "host").publish([card], 600_000, host_report=told)
        broker.acquire("1GiB", function="enhance").release()
        broker.acquire("4GiB", function="enhance", job_id="job", ttl=600)
        broker.call("acquire", *calls.ask("4GiB", lease_id="waiter", wait=60).asking(True))
        text: str = exporter.render().decode()
        return text
