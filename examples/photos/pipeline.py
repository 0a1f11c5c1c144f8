"""What is done to pixels: score, plan, cut into tiles, enhance, join. Pure functions of arrays.

All arithmetic on pixels is in whole numbers, so every tile comes out the same to the last bit whatever its batch, its
process or its device: a job that was paused, retried or moved writes the same bytes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from .files import Pixels

# One thread a process: the jobs are the parallelism, and they would only fight over the cores.
cv2.setNumThreads(1)

Device = Literal["cpu", "cuda"]

HALO = 2
"""Pixels around a tile that its result depends on: the reach of the 5 × 5 windows below."""

TILE_SIZE = 128
"""Side of a tile in pixels, without its halo."""

KERNEL = (1, 4, 6, 4, 1)
"""The Gaussian's taps; in both directions they sum to 256."""

SHADOW_LUMA, HIGHLIGHT_LUMA = 2, 253
"""At or below the first, at or above the second, a pixel counts as clipped."""

_FLAT_RANGE, _EDGE_RANGE = 12, 60  # local contrast, in grey levels, below which it is noise, above which it is detail
_DENOISE_WEIGHT, _SHARPEN_WEIGHT = 160, -64  # share of the blurred picture in 256ths; negative turns it into unsharp
_MAX_GAIN = 1.06  # a sunset may stay warm: grey-world alone would make it grey
_MAX_BLACK, _MIN_WHITE = 24, 224  # nor does a foggy photo become a hard one
_TAIL = 0.005  # share of pixels that may fall outside black and white
_CURVE = 0.25  # share of the S-curve in the tone


@dataclass(frozen=True)
class Scores:
    """How good a photo is, before anything is done to it. All but `sharpness` lie between 0 and 1."""

    sharpness: float
    exposure: float
    shadows: float
    highlights: float


@dataclass(frozen=True)
class EnhancePlan:
    """What a whole photo says about each of its tiles: `tone[channel, value]` is the value to write, 3 × 256."""

    tone: NDArray[np.uint8]


@dataclass(frozen=True)
class Tile:
    """A piece of a photo: `pixels` include HALO on every side, `x` and `y` are where the inner part belongs."""

    x: int
    y: int
    pixels: Pixels


def score(pixels: Pixels) -> Scores:
    """Sharpness as the variance of the Laplacian, exposure as mean luma, shadows and highlights as clipped shares.

    The variance of the Laplacian as a focus measure: Pech-Pacheco, Cristóbal, Chamorro-Martínez, Fernández-Valdivia,
    "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000. Luma is that of ITU-R BT.601.
    Higher is sharper; figures compare photos of like size and subject.
    """
    luma = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    edges = np.asarray(cv2.Laplacian(luma, cv2.CV_16S, ksize=1)).astype(np.int64)
    count = luma.size
    # Sums of whole numbers: no order of adding can change them.
    variance = (int((edges * edges).sum()) - int(edges.sum()) ** 2 / count) / count
    histogram = np.bincount(luma.ravel(), minlength=256)
    return Scores(
        sharpness=variance,
        exposure=float(histogram @ np.arange(256)) / count / 255,
        shadows=int(histogram[: SHADOW_LUMA + 1].sum()) / count,
        highlights=int(histogram[HIGHLIGHT_LUMA:].sum()) / count,
    )


def plan(pixels: Pixels) -> EnhancePlan:
    """White balance (grey-world gains, bounded) and a gentle contrast curve, from the statistics of the whole photo."""
    area = pixels.shape[0] * pixels.shape[1]
    means = [int(pixels[..., channel].sum(dtype=np.int64)) / area for channel in range(3)]
    grey = sum(means) / 3
    gains = [min(max(grey / mean, 1 / _MAX_GAIN), _MAX_GAIN) if mean else 1.0 for mean in means]
    black, white = _black_and_white(pixels)
    values = np.arange(256, dtype=np.float64)
    curves = []
    for gain in gains:
        level = np.clip((values * gain - black) / (white - black), 0.0, 1.0)
        curve = level + _CURVE * (level * level * (3.0 - 2.0 * level) - level)
        curves.append(np.floor(curve * 255.0 + 0.5).astype(np.uint8))
    return EnhancePlan(tone=np.stack(curves))


def tiles(pixels: Pixels, size: int = TILE_SIZE) -> list[Tile]:
    """The photo cut into squares of `size` pixels (smaller at the right and bottom), row by row, each with its halo."""
    if size < 1:
        raise ValueError(f"a tile needs at least 1 pixel a side, not {size}")
    height, width = pixels.shape[:2]
    framed = np.asarray(cv2.copyMakeBorder(pixels, HALO, HALO, HALO, HALO, cv2.BORDER_REFLECT_101), dtype=np.uint8)
    return [
        Tile(x, y, framed[y : min(y + size, height) + 2 * HALO, x : min(x + size, width) + 2 * HALO])
        for y in range(0, height, size)
        for x in range(0, width, size)
    ]


def join(cut: Sequence[Tile], enhanced: Sequence[Pixels]) -> Pixels:
    """The photo put together from the enhanced inner parts of all its tiles, in the order of `cut`."""
    height, width = cut[-1].y + enhanced[-1].shape[0], cut[-1].x + enhanced[-1].shape[1]
    whole = np.empty((height, width, 3), dtype=np.uint8)
    for tile, part in zip(cut, enhanced, strict=True):
        whole[tile.y : tile.y + part.shape[0], tile.x : tile.x + part.shape[1]] = part
    return whole


@cache
def best_device() -> Device:
    """`cuda` where PyTorch is installed and sees a card, else `cpu`. Asked once a process."""
    if importlib.util.find_spec("torch") is None:
        return "cpu"
    from .torch_backend import has_card

    return "cuda" if has_card() else "cpu"


def enhance_batch(batch: Sequence[Tile], how: EnhancePlan, device: Device = "cpu") -> list[Pixels]:
    """Denoise what is flat, sharpen what is detailed, then white balance and tone: the inner parts, in order.

    Each result depends on its own tile and the plan alone; both devices give the same bytes.
    """
    if device == "cuda":
        from .torch_backend import enhance_on

        return enhance_on(batch, how, "cuda")
    return [_enhance(tile.pixels, how) for tile in batch]


@cache
def blend_weights() -> NDArray[np.int32]:
    """For each local contrast, 0 to 255: how many 256ths of the way to the blurred picture a pixel goes."""
    contrast = np.arange(256, dtype=np.int32)
    fall = (contrast - _FLAT_RANGE) * (_SHARPEN_WEIGHT - _DENOISE_WEIGHT) // (_EDGE_RANGE - _FLAT_RANGE)
    return np.clip(_DENOISE_WEIGHT + fall, _SHARPEN_WEIGHT, _DENOISE_WEIGHT).astype(np.int32)


def _enhance(framed: Pixels, how: EnhancePlan) -> Pixels:
    inner = (slice(HALO, -HALO), slice(HALO, -HALO))
    taps = np.array(KERNEL, dtype=np.float32)
    # Whole numbers below 2^24 are exact in float32, so no instruction set can round these sums differently.
    summed = np.asarray(cv2.sepFilter2D(framed, cv2.CV_32F, taps, taps))[inner]
    blurred = (summed.astype(np.int32) + 128) >> 8
    window = np.ones((5, 5), dtype=np.uint8)
    spread = np.asarray(cv2.subtract(cv2.dilate(framed, window), cv2.erode(framed, window)))[inner]
    contrast = np.maximum(np.maximum(spread[..., 0], spread[..., 1]), spread[..., 2])
    weight = blend_weights()[contrast][..., np.newaxis]
    pixels = framed[inner].astype(np.int32)
    blended = np.clip(pixels + (((blurred - pixels) * weight + 128) >> 8), 0, 255).astype(np.uint8)
    # OpenCV wants the three curves as the channels of one row.
    return np.asarray(cv2.LUT(blended, np.ascontiguousarray(how.tone.T[np.newaxis])), dtype=np.uint8)


def _black_and_white(pixels: Pixels) -> tuple[float, float]:
    luma = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    below = np.cumsum(np.bincount(luma.ravel(), minlength=256))
    black = int(np.searchsorted(below, _TAIL * luma.size, side="right"))
    white = int(np.searchsorted(below, (1 - _TAIL) * luma.size))
    return float(min(black, _MAX_BLACK)), float(max(white, _MIN_WHITE))
