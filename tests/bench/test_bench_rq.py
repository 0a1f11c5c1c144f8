"""The benchmark of RQ jobs, for seconds: every figure is there, and is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_every_figure_is_there(tmp_path: Path) -> None:
    short = ["--pairs", "1", "--batch", "2", "--times", "3", "--json", "--out", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.rq", *short], capture_output=True, text=True, timeout=110, check=True
    )
    told = json.loads(run.stdout)["raw"]
    assert len(told["jobs"]) == 9
    assert all(0 < row["ratio"] < 10 and row["ours_ms"] > 0 for row in told["jobs"].values())
    assert 0 < told["imports"]["rq"] <= told["imports"]["with @gpu_job"] * 1.5
    assert all(0 < seconds < 30 for victims in told["killed"].values() for seconds in victims)
    assert 0 < told["parked"]["p50_ms"] < 30_000
