"""The photo pipeline on PyTorch: the same bytes as on the CPU. Run by `make test-gpu`, where PyTorch is installed."""

from __future__ import annotations

import numpy as np
import pytest
from gpubroker_photos.files import Pixels, decode
from gpubroker_photos.pipeline import Tile, enhance_batch, plan, tiles
from gpubroker_photos.source import sample_photos

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")


@pytest.fixture(scope="module")
def cat() -> Pixels:
    return decode(next(path for path in sample_photos() if "cat" in path.name or "chelsea" in path.name)).pixels


def test_pytorch_gives_the_bytes_that_opencv_gives(cat: Pixels) -> None:
    from gpubroker_photos.torch_backend import enhance_on

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dice = np.random.default_rng(2)
    cut: list[Tile] = [*tiles(cat, 64), *tiles(dice.integers(0, 256, cat.shape).astype(np.uint8), 64)]
    how = plan(cat)
    for ours, theirs in zip(enhance_batch(cut, how, "cpu"), enhance_on(cut, how, device), strict=True):
        assert np.array_equal(ours, theirs)
