"""The benchmark of the HTTP face, for seconds: every figure is there, and is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_every_figure_is_there(tmp_path: Path) -> None:
    short = ["--cards", "16", "--streams", "5", "--seconds", "1", "--json", "--out", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.http", *short], capture_output=True, text=True, timeout=110, check=True
    )
    told = json.loads(run.stdout)["raw"]
    assert told["cards"] == 16
    assert len(told["reads"]) == 7
    assert all(0 < row["p50_ms"] <= row["p99_ms"] <= row["most_ms"] for row in told["reads"].values())
    assert {name: row["streams"] for name, row in told["streams"].items()} == {"live": 5, "events": 5}
    assert all(row["bytes_a_second"] > 0 and row["rss_mb"] > 10 for row in told["streams"].values())
