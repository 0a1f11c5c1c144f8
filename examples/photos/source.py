"""Where photos come from: the user's own folder, or one made from photographs that ship inside Python packages."""

from __future__ import annotations

import datetime as dt
import importlib.util
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, ImageEnhance, ImageFilter

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"})

# Real photographs that the wheels themselves carry; scikit-image fetches its other samples from the network.
_SAMPLES = (
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/camera.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/coins.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/moon.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/rocket.jpg"),
)
_ASPECTS = (3 / 2, 2 / 3, 4 / 3, 3 / 4, 1.0, 16 / 9)
_LONG_SIDES_PX = (320, 400, 480, 560, 640, 720, 800)
_CAMERAS = (("Example Optics", "Studio One"), ("Example Optics", "Studio Two"), ("Sample Works", "Field 6"))
_EXPOSURES_S = (1 / 30, 1 / 60, 1 / 125, 1 / 250, 1 / 500)
_FIRST_SHOT = dt.datetime(2025, 6, 14, 9, 0, 0)

# What a camera held that way stores: the inverse of what a viewer does for the orientation.
_STORE_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class _Shot:
    """One photo to be made; every choice is fixed by its number."""

    number: int
    sample: int
    aspect: float
    zoom: float
    left: float
    top: float
    long_side_px: int
    brightness: float
    blur_px: float
    orientation: int


def sample_photos() -> list[Path]:
    """The photographs bundled with scikit-learn and scikit-image, as files; nothing is imported or downloaded.

    Raises FileNotFoundError when neither package is installed.
    """
    found = []
    for package, inside in _SAMPLES:
        # The spec names the folder without running the package: importing scikit-learn takes most of a second.
        spec = importlib.util.find_spec(package)
        folders = spec.submodule_search_locations if spec else None
        found += [path for folder in folders or () if (path := Path(folder, inside)).is_file()]
    if not found:
        raise FileNotFoundError("no sample photographs: install them with `pip install 'gpubroker[demo]'`")
    return found


def make_folder(dest: Path, count: int = 320, progress: Callable[[int, int], None] | None = None) -> list[Path]:
    """Write `count` distinct JPEG photos into `dest`, the same ones every time, and return their paths in order.

    They are crops of the sample photographs in several sizes, some darker, brighter or out of focus, half of them
    stored the way a turned camera stores them (EXIF orientations 2 to 8). `progress(done, count)` follows each photo.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    dest.mkdir(parents=True, exist_ok=True)
    samples = []
    for path in sample_photos():
        with Image.open(path) as image:
            samples.append(image.convert("RGB"))
    digits = max(4, len(str(count)))
    written = []
    for number in range(1, count + 1):
        shot = _plan_shot(number, len(samples))
        target = dest / f"photo-{number:0{digits}d}.jpg"
        stored = _frame(samples[shot.sample], shot)
        if shot.orientation in _STORE_AS:
            stored = stored.transpose(_STORE_AS[shot.orientation])
        stored.save(target, "JPEG", quality=90, exif=_camera_exif(shot, stored.size))
        written.append(target)
        if progress is not None:
            progress(number, count)
    return written


def find_photos(folder: Path) -> list[Path]:
    """Every photo below `folder`, sorted by path; hidden files and folders are skipped, suffixes match in any case.

    Raises ValueError, naming the folder, when it is not a folder or holds no photo.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    photos = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PHOTO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not photos:
        raise ValueError(f"no photos in {folder}: looked for {', '.join(sorted(PHOTO_SUFFIXES))}, also in its folders")
    return sorted(photos)


def _plan_shot(number: int, samples: int) -> _Shot:
    dice = random.Random(number)
    return _Shot(
        number=number,
        sample=(number - 1) % samples,
        aspect=dice.choice(_ASPECTS),
        zoom=0.45 + 0.55 * dice.random(),
        left=dice.random(),
        top=dice.random(),
        long_side_px=dice.choice(_LONG_SIDES_PX),
        brightness=dice.choice((0.5, 0.8, 1.0, 1.0, 1.0, 1.3)),
        blur_px=dice.choice((0.0, 0.0, 0.0, 0.0, 1.0, 2.0)),
        orientation=dice.choice((1, 2, 3, 4, 5, 6, 7, 8)) if number % 2 else 1,
    )


def _frame(sample: Image.Image, shot: _Shot) -> Image.Image:
    """The upright photo: the widest crop of the aspect, zoomed in, moved, scaled, and treated by light and focus."""
    width = min(sample.width, sample.height * shot.aspect) * shot.zoom
    height = width / shot.aspect
    left = (sample.width - width) * shot.left
    top = (sample.height - height) * shot.top
    scale = shot.long_side_px / max(width, height)
    frame = sample.resize(
        (round(width * scale), round(height * scale)),
        Image.Resampling.BICUBIC,
        box=(left, top, left + width, top + height),
    )
    if shot.brightness != 1.0:
        frame = ImageEnhance.Brightness(frame).enhance(shot.brightness)
    if shot.blur_px:
        frame = frame.filter(ImageFilter.GaussianBlur(shot.blur_px))
    return frame


def _camera_exif(shot: _Shot, stored_size: tuple[int, int]) -> Image.Exif:
    taken = f"{_FIRST_SHOT + dt.timedelta(seconds=37 * shot.number):%Y:%m:%d %H:%M:%S}"
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = _CAMERAS[shot.number % len(_CAMERAS)]
    exif[ExifTags.Base.Orientation] = shot.orientation
    exif[ExifTags.Base.DateTime] = taken
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.DateTimeOriginal] = taken
    details[ExifTags.Base.ExposureTime] = _EXPOSURES_S[shot.number % len(_EXPOSURES_S)]
    details[ExifTags.Base.FNumber] = 2.8
    details[ExifTags.Base.ISOSpeedRatings] = 100 * 2 ** (shot.number % 5)
    details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight] = stored_size
    return exif
