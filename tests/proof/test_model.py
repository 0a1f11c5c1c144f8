"""The Promela model of the protocol, searched through to the end; and each of its guards, without which it fails."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).resolve().parents[2] / "docs/model/lease.pml"
#: Each guard, and the assertion that fails without it.
GUARDS = {
    "NO_START_GATE": "(n<=1)",
    "NO_TWO_PHASE": "(n<=1)",
    "NO_TOKEN_CHECK": "(n<=1)",
    "CONFIRM_WITHOUT_TOKEN": "(n<=1)",
    "NO_EPOCH": "(counter>highest)",
    "NO_SETTLING": "(n<=1)",
    "NO_NONCE": "((turn[i]==round)&&(ended[i]<round))",
    "NO_IDEMPOTENCE": "0",
}

pytestmark = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("cc") is None,
    reason="needs spin and a C compiler (apt install spin gcc)",
)


def searched(folder: Path, *words: str) -> str:
    """What spin's search says of the model, with these words defined."""
    shutil.copy(MODEL, folder)
    defined = [f"-D{word}" for word in words]
    subprocess.run(["spin", *defined, "-a", MODEL.name], cwd=folder, check=True, capture_output=True)
    subprocess.run(["cc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c"], cwd=folder, check=True)
    return subprocess.run(["./pan", "-E", "-m500000"], cwd=folder, check=False, capture_output=True, text=True).stdout


@pytest.mark.parametrize("capacity", [1, 2])
def test_nothing_goes_wrong_in_any_order(tmp_path: Path, capacity: int) -> None:
    told = searched(tmp_path, f"CAPACITY={capacity}")
    assert "errors: 0" in told, told
    assert "max search depth too small" not in told
    assert "Search not completed" not in told
    states = re.search(r"(\d+) states, stored", told)
    assert states is not None
    assert int(states[1]) > 100_000  # it did go through the whole of it


@pytest.mark.parametrize("guard", sorted(GUARDS))
def test_each_guard_is_needed(tmp_path: Path, guard: str) -> None:
    told = searched(tmp_path, guard, *(["CAPACITY=2"] if guard == "NO_IDEMPOTENCE" else []))
    assert f"assertion violated {GUARDS[guard]} " in told, told
