"""Whether the page can be tested here."""

from __future__ import annotations

import subprocess

import pytest

from tests.page import CHROMIUM, HOW


def test_chromium_is_here() -> None:
    if CHROMIUM is None:
        pytest.skip(HOW)
    told = subprocess.run([CHROMIUM, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert "Chrom" in told.stdout
