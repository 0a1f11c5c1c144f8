"""What agents say, at the terminal: hardware, processes, hosts, and the marks of cards and leases."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from broker import Broker
from broker.publish import Publisher
from broker.units import GIB
from broker.values import HostReport, LeaseVerdict, ListedProcess
from tests.conftest import report

Cli = Callable[..., Any]
LISTED = (ListedProcess(77, "123", GIB, "python", "job"), ListedProcess(78, "124", None, "game", ""))
VITALS = {"cpu_percent": 12, "load_milli": 1500, "memory_used_bytes": 3 * GIB, "disk_free_bytes": 9 * GIB}


def publish(broker: Broker, **changes: Any) -> Publisher:
    agent = Publisher(broker, "h1")
    told = HostReport(memory_bytes=16 * GIB, cpus_milli=4000, labels="rack=a", vitals=VITALS)
    agent.publish([report("GPU-a", **changes)], 60_000, host_report=told)
    return agent


def test_hardware_says_what_a_card_offers_with_its_meaning(cli: Cli, broker: Broker) -> None:
    publish(broker, hardware={"margin_c": 21, "clock_reasons": "power_cap"})
    rows = cli("hardware").stdout.splitlines()
    assert rows[1].split()[:4] == ["h1", "0", "margin_c", "21"]
    assert "until the card slows itself down" in rows[1]
    assert json.loads(cli("hardware", "GPU-a", "--json").stdout) == {
        "GPU-a": {"margin_c": 21, "clock_reasons": "power_cap"}
    }
    refused = cli("hardware", "GPU-x")
    assert refused.exit_code == 2
    assert "GPU-x" in refused.stderr


def test_nothing_to_say_is_said(cli: Cli, broker: Broker) -> None:
    publish(broker)
    assert "says more than `gpubroker status` shows" in cli("hardware").stdout
    assert "no process is on these GPUs" in cli("processes").stdout


def test_processes_stand_beside_the_lease_that_they_work_under(cli: Cli, broker: Broker) -> None:
    publish(broker, listed=LISTED)
    rows = [row.split() for row in cli("processes").stdout.splitlines()[1:]]
    assert rows == [["h1", "0", "77", "python", "1.0", "GiB", "job"], ["h1", "0", "78", "game", "-", "none"]]
    (first, _) = json.loads(cli("processes", "GPU-a", "--json").stdout)["GPU-a"]
    assert first == {"pid": 77, "started": "123", "memory_bytes": GIB, "name": "python", "lease": "job"}
    assert broker.processes("GPU-a") == list(LISTED)


def test_hosts_say_how_they_are(cli: Cli, broker: Broker) -> None:
    assert "has no host" in cli("hosts").stdout
    publish(broker)
    (row,) = cli("hosts").stdout.splitlines()[1:]
    assert row.split()[:8] == ["h1", "1", "12", "1.50", "3.0", "GiB", "16.0", "GiB"]
    (host,) = json.loads(cli("hosts", "--json").stdout)
    assert host["disk_free_bytes"] == str(9 * GIB)


def test_status_says_who_drained_a_card(cli: Cli, broker: Broker) -> None:
    publish(broker, marks=("health", "people"), reason="XID 79: the card fell off the bus, kept for game")
    broker.drain("GPU-a")
    row, _ = cli("status").stdout.splitlines()
    assert "drained; drained for its health; drained for people; XID 79" in row


def test_leases_say_what_is_used_and_what_is_wrong(cli: Cli, broker: Broker) -> None:
    agent = publish(broker)
    lease = broker.acquire("1GiB", lease_id="job", pid=77)
    seen = LeaseVerdict("job", lease.token, "alive", 2 * GIB, GIB, 400)
    agent.publish([report("GPU-a")], 60_000, verdicts=(seen,))
    (row,) = cli("leases").stdout.splitlines()[1:]
    assert "active overused idle" in row
    assert row.split()[-2:] == ["2.0", "GiB"]
