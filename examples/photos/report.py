"""What a person looks at afterwards: the scores as a table, the photos as one sheet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .files import write_atomically
from .process import PhotoResult

MAX_THUMBNAILS = 400
"""More photos than this are shown by an even choice of them."""

THUMBNAIL_PX = 120
"""Long side of a thumbnail."""

_GAP_PX, _CAPTION_PX = 6, 14
_CELL_WIDTH, _CELL_HEIGHT = THUMBNAIL_PX + _GAP_PX, THUMBNAIL_PX + _CAPTION_PX + _GAP_PX
_PAPER, _INK = (24, 24, 24), (208, 208, 208)
_MAX_COLUMNS = 400
_COLUMNS = ("name", "width", "height", "sharpness", "exposure", "shadows", "highlights", "tiles", "source")


def write_scores(results: Iterable[PhotoResult], path: Path) -> None:
    """The results as CSV with a header, sorted by name; the same results give the same bytes, in whatever order."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for result in sorted(results, key=lambda result: result.name):
        row = result.as_dict()
        writer.writerow(f"{row[key]:.4f}" if isinstance(row[key], float) else row[key] for key in _COLUMNS)
    write_atomically(path, table.getvalue().encode("utf-8", "surrogateescape"))


def contact_sheet(outputs: Sequence[Path], dest: Path, columns: int | None = None) -> None:
    """A JPEG of captioned thumbnails, in the order given, at most MAX_THUMBNAILS of them; `columns` unset: squarish.

    Raises ValueError when there is nothing to show or `columns` is not 1 to 400.
    """
    if not outputs:
        raise ValueError("a contact sheet needs at least one photo")
    if columns is not None and not 1 <= columns <= _MAX_COLUMNS:
        raise ValueError(f"columns must be 1 to {_MAX_COLUMNS}, not {columns}")
    shown = _evenly(outputs, MAX_THUMBNAILS)
    across = min(columns or math.ceil(math.sqrt(len(shown) * _CELL_HEIGHT / _CELL_WIDTH)), len(shown))
    down = math.ceil(len(shown) / across)
    sheet = Image.new("RGB", (across * _CELL_WIDTH + _GAP_PX, down * _CELL_HEIGHT + _GAP_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    # The bitmap font is the same bytes everywhere; the scalable one depends on how Pillow was built.
    font = ImageFont.load_default_imagefont()
    for position, path in enumerate(shown):
        left = _GAP_PX + position % across * _CELL_WIDTH
        top = _GAP_PX + position // across * _CELL_HEIGHT
        thumbnail = _thumbnail(path)
        sheet.paste(thumbnail, (left + (THUMBNAIL_PX - thumbnail.width) // 2, top + THUMBNAIL_PX - thumbnail.height))
        caption = _caption(path, font)
        draw.text((left + (THUMBNAIL_PX - font.getlength(caption)) // 2, top + THUMBNAIL_PX + 2), caption, _INK, font)
    encoded = io.BytesIO()
    sheet.save(encoded, "JPEG", quality=85)
    write_atomically(dest, encoded.getvalue())


def _evenly(paths: Sequence[Path], most: int) -> list[Path]:
    count = min(len(paths), most)
    return [paths[position * len(paths) // count] for position in range(count)]


def _thumbnail(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.draft("RGB", (2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX))  # lets libjpeg decode at a fraction of the size
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return small


def _caption(path: Path, font: ImageFont.ImageFont) -> str:
    text = path.stem.encode("ascii", "replace").decode()  # all that the bitmap font has for certain
    while font.getlength(text) > THUMBNAIL_PX:
        text = text[:-1]
    return text
