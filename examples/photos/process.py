"""One photo from file to file, at the pace that its caller allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from .files import Pixels, decode, export, output_name
from .pipeline import Device, best_device, enhance_batch, join, plan, score, tiles

FULL_BATCH = 8
"""Tiles in a batch at full speed; what a card's memory for this work is sized by."""


@dataclass(frozen=True)
class PhotoResult:
    """What became of a photo. `name` is the output's path below the output folder; sizes are upright pixels."""

    name: str
    source: str
    output: str
    width: int
    height: int
    sharpness: float
    exposure: float
    shadows: float
    highlights: float
    tiles: int
    batches: int
    device: Device

    def as_dict(self) -> dict[str, str | int | float]:
        """The same as a plain dict that JSON takes."""
        return asdict(self)


def process_photo(
    src: Path, dest_dir: Path, *, root: Path, pace: Callable[[int], int], device: Device | None = None
) -> PhotoResult:
    """Decode, score, enhance and export one photo; the output lies in `dest_dir` as `output_name(src, root)` says.

    Before each batch `pace(full)` is asked how many tiles may go now, 1 to `full`; it may block as long as none may,
    and what it raises ends the work with nothing written. The same photo gives the same bytes at any pace, so a
    second run, after a retry, replaces the output by its like. `device` unset means the best that there is.
    Raises PhotoError when the photo cannot be used, ValueError when `src` is not below `root`.
    """
    name = output_name(src, root)
    chosen = device or best_device()
    photo = decode(src)
    scores = score(photo.pixels)
    how = plan(photo.pixels)
    cut = tiles(photo.pixels)
    enhanced: list[Pixels] = []
    batches = 0
    while len(enhanced) < len(cut):
        allowed = pace(FULL_BATCH)
        if allowed < 1:
            raise ValueError(f"pace allowed {allowed} tiles; it must block until at least 1 may go")
        start = len(enhanced)
        enhanced += enhance_batch(cut[start : start + min(allowed, FULL_BATCH)], how, chosen)
        batches += 1
    output = dest_dir / name
    export(photo, join(cut, enhanced), output)
    return PhotoResult(
        name=name,
        source=str(src),
        output=str(output),
        width=photo.width,
        height=photo.height,
        sharpness=scores.sharpness,
        exposure=scores.exposure,
        shadows=scores.shadows,
        highlights=scores.highlights,
        tiles=len(cut),
        batches=batches,
        device=chosen,
    )
