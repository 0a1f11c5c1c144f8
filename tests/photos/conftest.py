"""A photo with detail, colour and EXIF, made from a bundled photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gpubroker_photos.files import Pixels
from gpubroker_photos.source import sample_photos
from PIL import ExifTags, Image


@pytest.fixture(scope="session")
def cat() -> Pixels:
    """A cat, 300 × 200: neither side is a multiple of the tile."""
    path = next(path for path in sample_photos() if path.stem == "chelsea")
    with Image.open(path) as image:
        return np.array(image.convert("RGB").resize((300, 200)))


@pytest.fixture
def folder(tmp_path: Path, cat: Pixels) -> Path:
    """A user's folder with one photo, `cat.jpg`, that a camera named in its EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Example Optics"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 1 / 125
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    home = tmp_path / "shoot"
    home.mkdir()
    Image.fromarray(cat).save(home / "cat.jpg", quality=92, exif=exif)
    return home
