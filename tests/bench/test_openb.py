"""The replay of the production trace, on a tiny one of the same form."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.openb_field import simulated
from benchmarks.openb_replay import replay
from benchmarks.openb_trace import NODES, TASKS, Host, NoTrace, Task, Trace, read
from broker import Broker

HOSTS = [Host("big", 96000, 393216, 8), Host("rich", 104000, 524288, 2), Host("poor", 16000, 122880, 2)]
JOBS = [Task(11000, 40000, 1, 1000)] * 6 + [Task(3000, 5000, 1, 810)] * 2 + [Task(8000, 30000, 0, 0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trace of three hosts and nine tasks."""
    nodes = [f"{h.name},{h.cpu_milli},{h.memory_mib},{h.gpus},T4" for h in HOSTS]
    tasks = [f"p{i},{t.cpu_milli},{t.memory_mib},{t.gpus},{t.gpu_milli},,LS" for i, t in enumerate(JOBS)]
    (tmp_path / NODES).write_text("\n".join(["sn,cpu_milli,memory_mib,gpu,model", *nodes]))
    (tmp_path / TASKS).write_text("\n".join(["name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos", *tasks]))
    return tmp_path


def test_a_sample_has_every_task_once_and_then_more_up_to_what_arrives(folder: Path) -> None:
    trace = read(folder)
    assert trace == Trace(HOSTS, JOBS)
    sample = trace.sample(1, 1.3)
    assert not Counter(JOBS) - Counter(sample[: len(JOBS)])
    arrived = sum(task.wants_milli for task in sample)
    assert arrived <= 1.3 * 12_000 < arrived + 1000
    assert sample == trace.sample(1, 1.3) != trace.sample(2, 1.3)
    assert {host.gpus for host in trace.shuffled_hosts(3)} == {8, 2}


@pytest.mark.parametrize("through", [False, True])
def test_a_replay_lends_no_more_than_hosts_have_and_counts_what_it_lends(broker: Broker, through: bool) -> None:
    tasks = Trace(HOSTS, JOBS).sample(1, 1.3)
    found = replay(broker, HOSTS, tasks, "balanced", through=through)
    leases = [lease for lease in broker.leases() if lease.memory_bytes > 1]
    assert found.allocated_milli == sum(lease.memory_bytes >> 20 for lease in leases)
    assert found.allocated_milli > 0.8 * found.gpus_milli
    assert sum(found.asked.values()) == len(tasks)
    assert found.arrived_milli == sum(task.wants_milli for task in tasks)
    for host in HOSTS:
        told = broker.redis.hgetall(broker.keys.host(host.name))
        assert int(told["leased_cpus_milli"]) <= int(told["cpus_milli"]) <= host.cpu_milli
        assert int(told["leased_memory_bytes"]) <= int(told["memory_bytes"]) <= host.memory_mib << 20
    own = sum(host.cpu_milli for host in HOSTS) - sum(
        int(broker.redis.hget(broker.keys.host(host.name), "cpus_milli") or 0) for host in HOSTS
    )
    assert own == (0 if through else 8000 * (found.asked["no GPU"] - found.refused["no GPU"]))


def test_the_simulated_ways_leave_what_does_not_fit() -> None:
    one = [Host("a", 10_000, 10_000, 1)]
    fits, too_much = Task(4000, 4000, 1, 500), Task(4000, 4000, 1, 600)
    for way in ("random", "best fit"):
        assert simulated(one, [fits, too_much, fits], way, 1) == 100
        assert simulated(one, [Task(8000, 1, 0, 0), fits], way, 1) == 0


def test_every_figure_is_there(folder: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.openb", "--data", str(folder), "--out", str(tmp_path / "out"), "--long",
         "--seeds", "2", "--json"], capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    told = json.loads(run.stdout)
    assert len(told["tables"]) == 3
    assert len(told["goals"]) == 4
    assert len(told["tables"][0]["rows"]) == 6 + 8 + 2
    assert (tmp_path / "out" / "openb.png").stat().st_size > 10_000


def test_without_a_trace_it_says_so_and_ends(tmp_path: Path) -> None:
    with pytest.raises(NoTrace, match=NODES):
        read(tmp_path)
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.openb", "--data", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "openb:" in run.stderr
