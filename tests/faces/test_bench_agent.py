"""The agent's benchmark, for seconds: every figure is there, and is one."""

from __future__ import annotations

import json
import subprocess
import sys


def test_every_figure_is_there() -> None:
    short = ["--seconds", "2", "--samples", "30", "--fleet-seconds", "3", "--day", "60", "--json"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.agent", *short], capture_output=True, text=True, timeout=110, check=True
    )
    told = json.loads(run.stdout)
    assert set(told["cost"]) == {"gpubroker agent", "its reader of NVML", "nvitop", "gpustat"}
    assert all(10 < one["rss_mib"] < 200 and one["cpu_percent"] < 100 for one in told["cost"].values())
    assert 0 < told["visible"]["p50_ms"] <= told["visible"]["p99_ms"]
    assert told["fleet"]["samples_per_second"] > 0
    assert 0 < told["fleet"]["server_core_percent"] <= 100
    assert told["day"]["samples"] == 60
    assert told["day"]["descriptors_growth"] == 0
