"""PyTorch's share of the card: set when CUDA starts, in whichever order things are imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from broker.units import GIB, MIB
from worker_hooks.environment import torch_fraction

# What of PyTorch matters here: CUDA starts at its first use, and runs what was queued for that moment.
TORCH = """
class cuda:
    queued, fraction = [], None
    @staticmethod
    def _lazy_call(call): cuda.queued.append(call)
    @staticmethod
    def get_device_properties(index): return type("P", (), {"total_memory": 8 << 30})
    @staticmethod
    def set_per_process_memory_fraction(fraction, index): cuda.fraction = fraction
    @staticmethod
    def start(): [call() for call in cuda.queued]
"""


def run(code: str, folder: Path) -> str:
    (folder / "torch.py").write_text(TORCH)
    start = f"import sys; sys.path.insert(0, {str(folder)!r})\nfrom worker_hooks.environment import cap_torch\n"
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("order", ["import torch; cap_torch(4 << 30)", "cap_torch(4 << 30); import torch"])
def test_torch_is_capped_once_cuda_starts(tmp_path: Path, order: str) -> None:
    out = run(f"{order}\nprint(torch.cuda.fraction); torch.cuda.start(); print(torch.cuda.fraction)", tmp_path)
    assert out.split() == ["None", str((4 * GIB - 500 * MIB) / (8 * GIB))]


def test_a_later_import_gets_its_own_loader_back(tmp_path: Path) -> None:
    out = run("cap_torch(4 << 30); import torch; print(type(torch.__spec__.loader).__name__)", tmp_path)
    assert out == "SourceFileLoader"


def test_a_job_without_torch_imports_none(tmp_path: Path) -> None:
    assert run("cap_torch(4 << 30); print('torch' in sys.modules)", tmp_path) == "False"


def test_a_missing_torch_is_still_missing() -> None:
    code = (
        "import sys\nfrom worker_hooks.environment import cap_torch\ncap_torch(1)\nsys.modules.pop('torch', None)\n"
        "sys.path[:] = []\n"
        "try:\n    import torch\nexcept ModuleNotFoundError:\n    print('missing')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "missing", done.stderr


def test_the_fraction_never_exceeds_the_card() -> None:
    assert torch_fraction(80 * GIB, 6 * GIB) == 1.0
    assert torch_fraction(600 * MIB, 6 * GIB) == pytest.approx(0.0977, abs=1e-3)
