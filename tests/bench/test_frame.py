"""What all benchmarks have in common: what they write, what they print, and what counts as met."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from benchmarks import frame, keep


def a_benchmark(found: frame.Found) -> click.Command:
    """A command as benchmarks have it, that finds this."""

    @click.command()
    @click.option("--more", default=1)
    @frame.options
    def main(run: frame.Run, more: int) -> None:
        """Say what it is for."""
        found.raw["more"], found.raw["long"] = more, run.long
        run.tell(found, draw)

    return main


def draw(told: frame.Found, figure: Figure) -> None:
    """A line."""
    figure.subplots().plot([0, told.raw["more"]])


def found(*goals: frame.Goal, **raw: Any) -> frame.Found:
    """Something found."""
    table = frame.Table("Times", ["call", "µs", "times"], [["acquire", 12.345, 1234], ["none", None, 0]], "Read it so.")
    return frame.Found("made-up", "A benchmark", "As it is done.", [table], list(goals), dict(raw))


@pytest.mark.parametrize(("goal", "met", "aim"), [
    (frame.Goal("x", 1.25, most=1.25), True, "≤ 1.25"),
    (frame.Goal("x", 1.26, most=1.25), False, "≤ 1.25"),
    (frame.Goal("x", 2640, least=2640), True, "≥ 2,640"),
    (frame.Goal("x", 0.94, least=0.95), False, "≥ 0.95"),
    (frame.Goal("x", 0.5, most=0.6, least=0.4), True, "≥ 0.4, ≤ 0.6"),
    (frame.Goal("x", 0.3, most=0.6, least=0.4), False, "≥ 0.4, ≤ 0.6"),
    (frame.Goal("x", math.nan, most=1), False, "≤ 1"),
    (frame.Goal("x", math.nan, least=1), False, "≥ 1"),
    (frame.Goal("x", math.inf, most=1), False, "≤ 1"),
])  # fmt: skip
def test_a_goal_is_met_or_missed_and_what_is_no_number_is_missed(goal: frame.Goal, met: bool, aim: str) -> None:
    assert (goal.met, goal.aim) == (met, aim)


def test_a_goal_without_an_aim_is_refused() -> None:
    with pytest.raises(ValueError, match="the most or the least"):
        frame.Goal("x", 1)


@pytest.mark.parametrize(("cell", "text"), [
    (None, ""), ("as it is", "as it is"), (12.345, "12.3"), (0.01234, "0.0123"), (123.4, "123"), (12345.6, "12,346"),
    (12345, "12,345"), (math.nan, "none"), (0.0, "0"),
])  # fmt: skip
def test_cells_show_the_digits_that_count(cell: frame.Cell, text: str) -> None:
    assert frame.shown(cell) == text


def test_a_run_writes_json_and_a_picture_and_prints_table_and_goals(tmp_path: Path) -> None:
    goals = (frame.Goal("slow", 2.0, most=1.0, why="the disk"), frame.Goal("fast", 0.5, most=1.0, why="never said"))
    out = CliRunner().invoke(a_benchmark(found(*goals, odd=math.nan)), ["--out", str(tmp_path / "new"), "--more", "7"])
    assert out.exit_code == 0, out.output
    lines = out.output.splitlines()
    assert [line.split() for line in lines[1:5]] == [
        ["Times"], ["call", "µs", "times"], ["acquire", "12.3", "1,234"], ["none", "0"]
    ]  # fmt: skip
    assert "Read it so." in lines
    assert "slow: 2, aim ≤ 1: missed (the disk)" in lines
    assert "fast: 0.5, aim ≤ 1: met" in lines
    assert (tmp_path / "new" / "made-up.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads((tmp_path / "new" / "made-up.json").read_text())
    assert [(goal["name"], goal["met"], goal["aim"]) for goal in told["goals"]] == [
        ("slow", False, "≤ 1"), ("fast", True, "≤ 1")
    ]  # fmt: skip
    assert told["tables"][0]["rows"] == [["acquire", 12.345, 1234], ["none", None, 0]]
    assert told["raw"] == {"odd": None, "more": 7, "long": False}
    assert told["machine"]["cores"] >= 1
    assert {"name", "title", "method", "date", "took_seconds", "long"} <= set(told)


def test_json_is_printed_alone(tmp_path: Path) -> None:
    out = CliRunner().invoke(a_benchmark(found()), ["--json", "--long", "--out", str(tmp_path)])
    told = json.loads(out.output)
    assert told == json.loads((tmp_path / "made-up.json").read_text())
    assert told["long"] is True


def test_what_is_written_reads_as_lines_and_means_the_same() -> None:
    told = {"a": [{"b": [1, {"c": None}], "d": {}}, "µ"], "e": [], "f": 1.5}
    text = frame.dumped(told)
    assert json.loads(text) == told
    assert text.splitlines()[2:4] == ["  {", '   "b": [1, {"c": null}],']


def test_what_was_measured_is_kept_with_its_picture(tmp_path: Path) -> None:
    CliRunner().invoke(a_benchmark(found(frame.Goal("x", 1, most=2))), ["--out", str(tmp_path / "out")])
    (tmp_path / "out" / "other.json").write_text("no picture, so not kept")
    done = CliRunner().invoke(keep.main, ["--from", str(tmp_path / "out"), "--to", str(tmp_path / "kept")])
    assert "made-up: " in done.output
    assert "1 of 1 goals met" in done.output
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["made-up.json", "made-up.png"]
