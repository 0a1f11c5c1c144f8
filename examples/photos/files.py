"""The pipeline's border to the disk: a photo file in, upright pixels out, and a JPEG back, whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from .source import PHOTO_SUFFIXES

Pixels = NDArray[np.uint8]
"""An image as height × width × 3, RGB, 0 to 255."""

MAX_PIXELS = 120_000_000
"""Larger photos are refused before they are unpacked: width × height, about 360 MB as RGB."""

JPEG_QUALITY = 92

_MAX_EXIF_BYTES = 65_533 - 6  # a JPEG segment, less the "Exif\0\0" in front
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# How a TIFF lays out its own pixels; a lie, and against the EXIF standard, inside a JPEG.
_LAYOUT_TAGS = (
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 317, 320),
    *(322, 323, 324, 325, 330, 338, 339, 347, 512, 513, 514, 529, 530, 531, 532, 34675),
)
# Everything that Pillow raises on files that are not what they claim.
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
# A camera's odd tag types make writing them back fail in these ways.
_EXIF_TROUBLE = (OSError, ValueError, TypeError, KeyError, AttributeError, SyntaxError, struct.error)


class PhotoError(Exception):
    """A photo that cannot be used. `path` says which, `why` says why in words for a person."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(path, why)  # both as args, so that the error survives pickling on its way out of a job
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


@dataclass(frozen=True)
class Photo:
    """A decoded photo: `pixels` upright, `exif` with its orientation reset to 1 (b"" if none), `icc` an RGB profile."""

    path: Path
    pixels: Pixels
    exif: bytes
    icc: bytes | None

    @property
    def width(self) -> int:
        """Pixels from left to right, upright."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Pixels from top to bottom, upright."""
        return int(self.pixels.shape[0])


def decode(path: Path) -> Photo:
    """Read a photo of any common kind as upright RGB; of several frames, the first.

    Grey, CMYK, palette and 16-bit images become 8-bit RGB; what is transparent becomes white.
    Raises PhotoError when the file is missing, truncated, no image, or larger than MAX_PIXELS.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns from 89 megapixels; the bound below is ours and is an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise PhotoError(path, f"{image.width} × {image.height} pixels; the most is {MAX_PIXELS:,}")
            image.load()
            exif = image.getexif()
            upright = _to_rgb(image)
            turn = _UPRIGHT.get(exif.get(ExifTags.Base.Orientation, 1))
            if turn is not None:
                upright = upright.transpose(turn)
            return Photo(path, np.array(upright), _exif_bytes(exif, upright.size), _rgb_profile(image))
    except _UNREADABLE as error:
        raise PhotoError(path, f"not a readable photo ({error})") from error


def export(photo: Photo, pixels: Pixels, dest: Path) -> None:
    """Write `pixels` as a JPEG with the photo's EXIF and ICC profile; the same input gives the same bytes."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=JPEG_QUALITY, exif=photo.exif, icc_profile=photo.icc)
    write_atomically(dest, encoded.getvalue())


def write_atomically(dest: Path, content: bytes) -> None:
    """Put `content` at `dest` in one step: a reader, or a crash of this process, meets the old file or the new one."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    # Unique, because a retried job may write beside its paused predecessor, also from another machine.
    part = dest.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        os.replace(part, dest)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def output_name(src: Path, root: Path) -> str:
    """Where a photo's output goes below the output folder: its path below `root`, as a JPEG, in `/` form.

    No two photos share one: `a/x.jpg` stays, `b/x.jpg` keeps its folder, `x.png` becomes `x.png.jpg`, and a name that
    already looks like that gets one more `.jpg`. Raises ValueError when `src` is not below `root`.
    """
    inside = src.relative_to(root)
    plain = inside.suffix == ".jpg" and Path(inside.stem).suffix.lower() not in PHOTO_SUFFIXES
    return inside.as_posix() if plain else f"{inside.as_posix()}.jpg"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point samples have no known white")
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling.
        deep = np.clip(np.asarray(image, dtype=np.int64), 0, 65_535)
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        paper = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(paper, layered).convert("RGB")
    return image.convert("RGB")


def _exif_bytes(exif: Image.Exif, size: tuple[int, int]) -> bytes:
    if not exif:
        return b""
    for tag in _LAYOUT_TAGS:
        if tag in exif:
            del exif[tag]
    exif[ExifTags.Base.Orientation] = 1
    try:
        details = exif.get_ifd(ExifTags.IFD.Exif)
        if ExifTags.Base.ExifImageWidth in details:
            details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight] = size
        written = exif.tobytes()
    except _EXIF_TROUBLE:
        written = b""
    # A photo without its tags is worth more to its owner than no photo.
    return written if len(written) <= _MAX_EXIF_BYTES else b""


def _rgb_profile(image: Image.Image) -> bytes | None:
    """The ICC profile, where it describes RGB: a CMYK or grey one would be wrong for the converted pixels."""
    icc = image.info.get("icc_profile")
    with contextlib.suppress(TypeError):
        if icc and bytes(icc)[16:20] == b"RGB ":
            return bytes(icc)
    return None
