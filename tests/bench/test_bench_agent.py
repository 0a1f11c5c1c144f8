"""The agent's benchmark, for seconds: every figure is there, and is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.agent import found
from benchmarks.agent_cost import AGENT, READER


def test_every_figure_is_there(tmp_path: Path) -> None:
    short = ["--seconds", "2", "--samples", "30", "--fleet-seconds", "3", "--day", "60", "--json"]
    command = [sys.executable, "-m", "benchmarks.agent", *short, "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
    told = json.loads(run.stdout)["raw"]
    assert set(told["cost"]) == {"gpubroker agent", "its reader of NVML", "nvitop", "gpustat"}
    assert all(10 < one["rss_mib"] < 200 and one["cpu_percent"] < 100 for one in told["cost"].values())
    assert 0 < told["visible"]["p50_ms"] <= told["visible"]["p99_ms"]
    assert told["fleet"]["samples_per_second"] > 0
    assert told["fleet"]["script_mean_us"] > 0
    assert told["fleet"]["publish_p99_ms"] > 0
    assert 0 < told["fleet"]["acquire_p50_ms"] <= told["fleet"]["acquire_p99_ms"]
    assert 0 < told["fleet"]["server_core_percent"] <= 100
    assert told["day"]["samples"] == 60
    assert told["day"]["descriptors_growth"] == 0
    assert told["day"]["stream_entries_per_card"] == 60
    assert told["day"]["stream_kib"] > 0


def test_every_target_is_judged() -> None:
    one = {"cpu_percent": 0.2, "rss_mib": 30.0, "growth_mib": 0.0, "descriptors": 9}
    told = {
        "cost": dict.fromkeys((AGENT, READER, "nvitop", "gpustat"), one),
        "visible": {"p50_ms": 1.0, "p99_ms": 5.1},
        "fleet": dict.fromkeys(
            ("server_core_percent", "script_mean_us", "publish_p99_ms", "acquire_p50_ms", "acquire_p99_ms"), 1.0
        ) | {"samples_per_second": 2600.0},
        "day": dict.fromkeys(
            ("agent_growth_kib", "descriptors_growth", "server_growth_kib", "stream_entries_per_card", "stream_kib",
             "journal_entries", "seconds"), 0.0,
        ) | {"samples": 60},
    }  # fmt: skip
    goals = found(told).goals
    assert {goal.name for goal in goals if not goal.met} == {
        "with its reader, % of a core, beside the leanest other", "with its reader, MiB, beside the leanest other",
        "sample to visible, ms, p99", "1,000 hosts: samples a second",
    }  # fmt: skip
    assert [goal.met for goal in goals].count(True) == 7
