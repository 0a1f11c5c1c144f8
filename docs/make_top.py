"""Draws ``docs/top.svg``: the screen of `gpubroker top` on a small pool, as Textual sees it.

Runs the real screen on a real ledger. ``python docs/make_top.py [WHERE]``
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from broker import Broker
from broker.cli.top.app import Top
from broker.embedded import EmbeddedServer
from broker.publish import Publisher
from broker.units import GIB, MIB
from broker.values import GpuReport, HostReport, State

_CARDS = (
    ("studio-a", 0, "RTX 3060", 61, 2600, 0), ("studio-a", 1, "RTX 3060", 58, 1200, 0),
    ("studio-b", 0, "RTX 2060", 79, 4300, 900), ("studio-c", 0, "GTX 1660 Ti", 47, 0, 0),
)  # fmt: skip
_SECONDS = 30.0


def _fill(broker: Broker) -> None:
    """Three machines, what runs on them, and who waits."""
    hosts: dict[str, list[GpuReport]] = {}
    for host, index, name, heat, used_mib, strange_mib in _CARDS:
        state = State.THROTTLED if heat >= 75 else State.OPTIMAL
        hosts.setdefault(host, []).append(GpuReport(
            uuid=f"GPU-{host}-{index}", index=index, name=name, state=state, job_state=state, reason=f"{heat} °C",
            memory_total_bytes=6 * GIB, memory_used_bytes=used_mib * MIB, unmanaged_bytes=strange_mib * MIB,
            temperature_c=heat,
        ))  # fmt: skip
    for host, reports in hosts.items():
        vitals = {"cpu_percent": 31, "memory_used_bytes": 9 * GIB}
        told = HostReport(memory_bytes=32 * GIB, cpus_milli=8000, vitals=vitals)
        Publisher(broker, host).publish(reports, 600_000, host_report=told)
    for number, (gpu, size) in enumerate((("a-0", 3), ("a-0", 2), ("a-1", 4), ("b-0", 4)), start=7):
        broker.acquire(
            f"{size}GiB", lease_id=f"enhance-{number}", gpu=f"GPU-studio-{gpu}", owner=f"studio-{gpu[0]}.{number}",
            ttl=600,
        )  # fmt: skip
    broker.call("acquire", "export-12", 6 * GIB * 9 // 10, 600_000, "studio-a", "", 0, "studio", "paul", "", "", "", 1)


async def _drawn(broker: Broker) -> str:
    app = Top(broker)
    async with app.run_test(size=(124, 34)) as pilot:
        for _ in range(int(_SECONDS / 0.1)):
            if app.picture is not None and app.picture.whys:
                break
            await pilot.pause(0.1)
        await pilot.press("down")
        await pilot.pause(0.2)
        return app.export_screenshot(title="gpubroker top")


def main(where: Path) -> None:
    """Draw it once."""
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        _fill(broker)
        where.write_text(asyncio.run(_drawn(broker)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("top.svg"))
