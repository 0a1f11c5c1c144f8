"""The results page is made from what benchmarks wrote: every goal, table and picture of each is on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import frame
from docs.make import results
from docs.make.site import assembled
from tests.bench.test_frame import a_benchmark, found


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with two results, one of them without goals."""
    goals = (
        frame.Goal("a | b", 3.25, most=2.0, why="the disk"),
        frame.Goal("c", float("nan"), least=1.0),
        frame.Goal("d", 1.5, most=2.0),
    )
    assert CliRunner().invoke(a_benchmark(found(*goals)), ["--out", str(tmp_path)]).exit_code == 0
    told = json.loads((tmp_path / "made-up.json").read_text())
    floor = {**told, "name": "floor", "title": "The floor", "goals": [], "long": True}
    (tmp_path / "floor.json").write_text(json.dumps(floor))
    shutil.copy(tmp_path / "made-up.png", tmp_path / "floor.png")
    return tmp_path


def test_every_goal_table_and_picture_is_on_the_page(kept: Path) -> None:
    page = results.made(kept)
    assert "| a \\| b | 3.25 | ≤ 2 | **missed**: the disk |" in page
    assert "| c | none | ≥ 1 | **missed** |" in page
    assert "| d | 1.5 | ≤ 2 | met |" in page
    assert page.count("| acquire | 12.3 | 1,234 |") == 2
    assert page.count("Read it so.") == 2
    for name in ("made-up", "floor"):
        assert f"(results/{name}.png)" in page
        assert f"(results/{name}.json)" in page
        assert f"{{#{name}}}" in page
    assert page.count("As it is done.") == 2


def test_it_begins_with_all_of_them_in_the_order_in_which_they_run(kept: Path) -> None:
    overview = results.made(kept).split("\n## ")[0].splitlines()
    assert overview[-2].startswith("| [The floor](#floor) |  |  | 2")
    assert overview[-1].startswith("| [A benchmark](#made-up) | 1 of 3 | a \\| b: 3.25; c: none | 2")


def test_it_says_where_and_when_figures_are_from(kept: Path) -> None:
    page = results.made(kept)
    told = json.loads((kept / "floor.json").read_text())
    assert told["date"] in page
    assert told["machine"]["cpu"] in page
    assert page.count(", the long run.") == 1


def test_without_results_it_says_how_to_get_them(tmp_path: Path) -> None:
    assert "`make bench-keep`" in results.made(tmp_path)


def test_what_is_kept_in_the_project_makes_a_page() -> None:
    page = assembled((results.FOLDER.parent / "results.md").read_text("utf-8"), "results.md")
    assert "## What changed, and by how much" in page
    for path in results.FOLDER.glob("*.json"):
        assert path.with_suffix(".png").exists(), path
        assert f"{{#{path.stem}}}" in page
