"""All benchmarks by one command: those that are asked for, a summary of all goals, and a word on what was left out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import all as together
from benchmarks.all import ALL, Bench, Ended

ROOT = Path(__file__).parents[2]
#: Parts of benchmarks, and what is done with what they found.
PARTS = {"__init__", "__main__", "all", "keep", "frame"}


def test_one_that_is_asked_for_runs_alone_and_its_goals_are_summed_up(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "right_size", "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=True,
    )  # fmt: skip
    assert "[1 of 1] right_size" in done.stdout
    assert re.search(r"^right_size +\d+ s +measured$", done.stdout, re.MULTILINE)
    assert json.loads((tmp_path / "right_size.json").read_text())["name"] == "right_size"
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["right_size.json", "right_size.png"]


def test_the_summary_names_every_goal_and_why_one_is_missed() -> None:
    goals = [
        {"name": "fast", "seen": 1.0, "aim": "≤ 2", "met": True, "why": "not said"},
        {"name": "slow", "seen": None, "aim": "≤ 2", "met": False, "why": "the disk"},
    ]
    ended = [Ended("floor", 61.4, {"goals": goals}), Ended("peers", 3.0, None, "it failed with exit status 1")]
    told, times = together.summary(ended)
    assert told.rows == [["floor: fast", 1.0, "≤ 2", "met"], ["floor: slow", None, "≤ 2", "missed"]]
    assert told.note.strip() == "floor: slow: the disk"
    assert times.rows == [["floor", "61 s", "1 of 2 goals met"], ["peers", "3 s", "it failed with exit status 1"]]
    assert times.title == "1.1 minutes in all"


def test_one_that_fails_is_told_and_the_others_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = {"goals": [{"name": "x", "seen": 1, "aim": "≤ 2", "met": True, "why": ""}]}
    ways = {"bad": Ended("bad", 1.0, None, "it failed with exit status 3"), "good": Ended("good", 2.0, told)}
    monkeypatch.setattr(together, "ALL", (Bench("bad", 1), Bench("data", 1, wants_data=True), Bench("good", 1)))
    monkeypatch.setattr(together, "find_spec", lambda name: name)
    monkeypatch.setattr(together, "one", lambda bench, *_: ways[bench.name])
    out = CliRunner().invoke(together.main, ["--out", str(tmp_path)])
    assert out.exit_code == 1
    assert "data is left out: its trace was not given: --data DIR" in out.output
    assert re.search(r"^bad +1 s +it failed with exit status 3$", out.output, re.MULTILINE)
    assert re.search(r"^good: x +1 +≤ 2 +met$", out.output, re.MULTILINE)


def test_a_benchmark_that_writes_nothing_has_not_measured(tmp_path: Path) -> None:
    old = tmp_path / "keep.json"
    old.write_text("{}")
    assert together.one(Bench("keep", 1, ("--help",)), tmp_path, False, None).why == "it failed with exit status 2"
    assert together.one(Bench("__init__", 1), tmp_path, False, None).why == f"it wrote no {tmp_path}/__init__.json"


def test_every_benchmark_is_among_them() -> None:
    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - PARTS
    commands = {name for name in modules if "@frame.options" in (ROOT / "benchmarks" / f"{name}.py").read_text()}
    assert commands <= {bench.name for bench in ALL}
    assert {bench.name for bench in ALL if find_spec(f"benchmarks.{bench.name}")} <= commands


def test_all_together_are_quick() -> None:
    assert sum(bench.seconds for bench in ALL if not bench.wants_data) <= 600
