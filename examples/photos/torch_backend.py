"""The enhancement on a card, through PyTorch: the arithmetic of `pipeline._enhance`, to the last bit.

Imported only where PyTorch is installed; nothing else here needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .files import Pixels
from .pipeline import HALO, KERNEL, EnhancePlan, Tile, blend_weights


def has_card() -> bool:
    """Whether PyTorch can use a card in this process."""
    return bool(torch.cuda.is_available())


def enhance_on(batch: Sequence[Tile], how: EnhancePlan, device: str) -> list[Pixels]:
    """Enhance all tiles of a batch at once on a PyTorch device ("cuda", "cpu"); the inner parts, in order."""
    if not batch:
        return []
    with torch.inference_mode():
        framed = torch.from_numpy(_stack(batch)).to(device)
        pixels = framed[:, HALO:-HALO, HALO:-HALO].to(torch.int32)
        weights = torch.from_numpy(blend_weights()).to(device)
        weight = weights[_contrast(framed)].unsqueeze(-1)
        blended = (pixels + (((_blurred(framed) - pixels) * weight + 128) >> 8)).clamp(0, 255).long()
        tone = torch.from_numpy(how.tone).to(device)
        toned = torch.stack([tone[channel][blended[..., channel]] for channel in range(3)], dim=-1)
        results: Pixels = toned.cpu().numpy()
    return [
        np.ascontiguousarray(result[: tile.pixels.shape[0] - 2 * HALO, : tile.pixels.shape[1] - 2 * HALO])
        for tile, result in zip(batch, results, strict=True)
    ]


def _stack(batch: Sequence[Tile]) -> Pixels:
    """All tiles in one array; the smaller ones stand in its corner, and their halo keeps the filling away."""
    height = max(tile.pixels.shape[0] for tile in batch)
    width = max(tile.pixels.shape[1] for tile in batch)
    stacked = np.zeros((len(batch), height, width, 3), dtype=np.uint8)
    for row, tile in zip(stacked, batch, strict=True):
        row[: tile.pixels.shape[0], : tile.pixels.shape[1]] = tile.pixels
    return stacked


def _blurred(framed: Any) -> Any:
    # Shifted sums instead of a convolution: that one may round to 10 bits (TF32) on a card, and knows no integers.
    rows, columns = framed.shape[1] - 2 * HALO, framed.shape[2] - 2 * HALO
    wide = framed.to(torch.int32)
    across = sum(tap * wide[:, :, shift : shift + columns] for shift, tap in enumerate(KERNEL))
    down = sum(tap * across[:, shift : shift + rows] for shift, tap in enumerate(KERNEL))
    return (down + 128) >> 8


def _contrast(framed: Any) -> Any:
    channels = framed.permute(0, 3, 1, 2).to(torch.float32)
    side = 2 * HALO + 1
    spread = F.max_pool2d(channels, side, stride=1) + F.max_pool2d(-channels, side, stride=1)
    return spread.amax(dim=1).long()
