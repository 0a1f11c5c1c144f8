"""The plan for a fleet is arithmetic: these are its formulas, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import memory, scale
from benchmarks.operations import PUBLISH_LEASES

OPERATIONS = (PUBLISH_LEASES, "renew", "acquire", "check", "release", "queued acquire")
KINDS = ("card", "history", "lease", "waiter", "ended", "journal", "connection")


def _measured(call_us: float = 100.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the benchmarks would have written of a server where every call takes as long and every thing 1,000 bytes."""
    curves = [{"operation": name, "grows": "cards", "cpu_us": [1.0, call_us]} for name in OPERATIONS]
    curves += [{"operation": name, "grows": "leases", "cpu_us": [7.0]} for name in OPERATIONS]
    wire = dict.fromkeys(("acquire", "renew", "check", "release"), (1000, 10)) | {memory.SAMPLE: (8000, 10)}
    weights = [{"kind": kind, "used": 1000.0} for kind in KINDS]
    return {"raw": {"curves": curves}}, {"raw": {"weights": weights, "wire": wire}}


def test_cores_are_rates_by_costs_and_masters_are_cores_by_what_may_be_busy() -> None:
    fleet = scale.Fleet(cards=8000, leases_a_card=1, lease_seconds=100, renew_seconds=10, sample_seconds=5, waiters=0)
    assert fleet.rates() == {
        "sample": 200, "renew": 800, "acquire": 80, "check": 80, "release": 80, "queued acquire": 0,
    }  # fmt: skip
    plan = scale.planned(fleet, scale.figures(*_measured(1000)))
    assert plan.cores["renew"] == pytest.approx(0.8)
    assert plan.busy == pytest.approx(1.24)
    assert plan.masters == 3, "at half a core each"
    assert plan.carried["sample"] == 200 * 8000


def test_memory_is_counts_by_weights() -> None:
    fleet = scale.Fleet(cards=800, leases_a_card=2, lease_seconds=100, waiters=50, connections_a_lease=1)
    plan = scale.planned(fleet, scale.figures(*_measured()))
    assert plan.memory == {
        "card": 800_000, "history": 800_000, "lease": 1_600_000, "waiter": 50_000,
        "ended": 16 * 60 * 1000, "journal": 20_000_000 * plan.masters, "connection": (100 + 1600 + 50) * 1000,
    }  # fmt: skip


def test_it_reads_what_the_benchmarks_wrote_and_says_what_is_missing(tmp_path: Path) -> None:
    growth, weighed = _measured()
    (tmp_path / "growth.json").write_text(json.dumps(growth))
    first = CliRunner().invoke(scale.main, ["--out", str(tmp_path)])
    assert first.exit_code == 2
    assert "python -m benchmarks.memory" in first.output
    (tmp_path / "memory.json").write_text(json.dumps(weighed))
    then = CliRunner().invoke(scale.main, ["--out", str(tmp_path), "--json", "--cards", "1000"])
    assert then.exit_code == 0, then.output
    assert json.loads((tmp_path / "scale.json").read_text())["raw"]["masters"] >= 1
    assert (tmp_path / "scale.png").stat().st_size > 1000
