"""What leads nowhere fails the build."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.make.diagrams import as_pictures
from docs.make.site import assembled
from tests.docs.pages import ROOT


def test_a_broken_link_and_a_broken_anchor_fail_the_build(tmp_path: Path) -> None:
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name not in ("docs", "build"):
            (tmp_path / entry.name).symlink_to(entry)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    page = tmp_path / "docs" / "quick-start.md"
    page.write_text(f"{page.read_text('utf-8')}\n\n[a](not-there.md) [b](fate.md#nor-here)\n", encoding="utf-8")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert built.returncode != 0
    assert "not-there.md" in built.stdout + built.stderr
    assert "#nor-here" in built.stdout + built.stderr


def test_a_part_that_nobody_makes_and_a_file_that_is_not_there_are_refused() -> None:
    with pytest.raises(KeyError, match="nobody"):
        assembled("<!-- made: nobody -->", "fate.md")
    with pytest.raises(FileNotFoundError):
        assembled("<!-- file: examples/nothing.py -->", "fate.md")


def test_a_diagram_that_was_not_drawn_since_it_changed_is_refused() -> None:
    with pytest.raises(FileNotFoundError, match=r"fate\.md: a diagram"):
        as_pictures("# Fate\n\n```mermaid\nflowchart LR\n  a --> b\n```\n", "fate.md")
