"""Photo files: any common kind comes in upright as RGB, and goes out whole, with its EXIF and ICC."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpubroker_photos.files import Photo, PhotoError, Pixels, decode, export, output_name
from PIL import ExifTags, Image, ImageCms

# The EXIF standard says which visual side the first stored row and column are, for example 6: right and top.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright[::-1].swapaxes(0, 1),
}


def save(path: Path, pixels: object, mode: str | None = None, **options: Any) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize("orientation", STORED)
def test_a_photo_stands_upright_whichever_way_the_camera_was_held(
    tmp_path: Path, cat: Pixels, orientation: int
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    photo = decode(save(tmp_path / "turned.png", STORED[orientation](cat), exif=exif))
    assert np.array_equal(photo.pixels, cat)
    assert (photo.width, photo.height) == (300, 200)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_exported_photo_is_not_turned_a_second_time(tmp_path: Path, cat: Pixels, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    photo = decode(save(tmp_path / "turned.png", STORED[orientation](cat), exif=exif))
    export(photo, photo.pixels, tmp_path / "out.jpg")
    again = decode(tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as out:
        assert out.getexif()[ExifTags.Base.Orientation] == 1
    assert np.abs(again.pixels.astype(int) - cat).mean() < 3


def test_exif_with_its_camera_and_place_survives(folder: Path, tmp_path: Path) -> None:
    photo = decode(folder / "cat.jpg")
    export(photo, photo.pixels, tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as out:
        exif = out.getexif()
        assert exif[ExifTags.Base.Make] == "Example Optics"
        assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] == 1 / 125
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"


def test_the_size_told_in_exif_is_that_of_the_upright_photo(tmp_path: Path, cat: Pixels) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight] = 200, 300
    kept = Image.Exif()
    kept.load(decode(save(tmp_path / "turned.jpg", STORED[6](cat), exif=exif)).exif)
    details = kept.get_ifd(ExifTags.IFD.Exif)
    assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (300, 200)


def test_an_rgb_profile_survives_and_a_grey_one_does_not_colour_rgb(tmp_path: Path, cat: Pixels) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = decode(save(tmp_path / "in.jpg", cat, icc_profile=profile))
    export(photo, photo.pixels, tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as out:
        assert out.info["icc_profile"] == profile
    grey = profile[:16] + b"GRAY" + profile[20:]
    assert decode(save(tmp_path / "grey.jpg", cat, "L", icc_profile=grey)).icc is None


def test_a_tiff_leaves_its_layout_behind_and_keeps_its_words(tmp_path: Path, cat: Pixels) -> None:
    path = save(tmp_path / "scan.tif", cat, tiffinfo={270: "a scanned cat"})
    exif = Image.Exif()
    exif.load(decode(path).exif)
    assert exif[ExifTags.Base.ImageDescription] == "a scanned cat"
    assert not {256, 257, 258, 273, 279} & set(exif)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("g.jpg", "L"), ("c.jpg", "CMYK"), ("c.tif", "CMYK"), ("a.png", "RGBA"), ("la.png", "LA"), ("p.png", "P"),
     ("p.gif.webp", "RGB"), ("b.png", "1")],
)  # fmt: skip
def test_every_common_kind_becomes_rgb_of_like_brightness(tmp_path: Path, cat: Pixels, name: str, mode: str) -> None:
    photo = decode(save(tmp_path / name, cat, mode))
    assert photo.pixels.shape == cat.shape
    assert photo.pixels.dtype == np.uint8
    assert abs(photo.pixels.mean() - cat.mean()) < 10


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, cat: Pixels) -> None:
    deep = cat[..., 1].astype(np.uint16) * 257
    for name in ("deep.png", "deep.tif"):
        assert np.array_equal(decode(save(tmp_path / name, deep)).pixels[..., 0], cat[..., 1])


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    clear = np.zeros((4, 4, 4), dtype=np.uint8)
    assert decode(save(tmp_path / "clear.png", clear)).pixels.min() == 255
    palette = Image.new("P", (4, 4), 0)
    assert decode(save(tmp_path / "clear-palette.png", palette, transparency=0)).pixels.min() == 255


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "missing", "folder"])
def test_an_unusable_photo_is_one_error_that_names_it(folder: Path, damage: str) -> None:
    path = folder / "bad.jpg"
    if damage == "truncated":
        path.write_bytes((folder / "cat.jpg").read_bytes()[:4000])
    elif damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(b"" if damage == "empty" else b"no photo at all")
    with pytest.raises(PhotoError, match=r"bad\.jpg: not a readable photo"):
        decode(path)


@pytest.mark.parametrize(("width", "why"), [(13_000, "13000 × 10000 pixels"), (20_000, "200000000 pixels")])
def test_a_huge_photo_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, why: str
) -> None:
    path = save(tmp_path / "bomb.png", Image.new("1", (width, 10_000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("unpacked"))
    with pytest.raises(PhotoError, match=why):
        decode(path)


def test_a_photo_error_survives_the_way_out_of_a_job() -> None:
    error = PhotoError(Path("a.jpg"), "broken")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a.jpg: broken"


def test_tags_too_long_for_a_jpeg_cost_the_tags_and_not_the_photo(tmp_path: Path, cat: Pixels) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "x" * 70_000
    photo = decode(save(tmp_path / "wordy.png", cat, exif=exif))
    export(photo, photo.pixels, tmp_path / "out.jpg")
    assert photo.exif == b""


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, cat: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    dest = tmp_path / "out.jpg"
    dest.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        export(Photo(tmp_path / "in.jpg", cat, b"", None), cat, dest)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jpg"]
    assert dest.read_bytes() == b"old"


def test_no_two_photos_share_an_output() -> None:
    sources = ["x.jpg", "x.JPG", "x.jpeg", "x.png", "x.png.jpg", "x.png.jpg.jpg", "x.jpg.jpg", "a/x.jpg", "b/x.jpg"]
    names = [output_name(Path("/shoot", source), Path("/shoot")) for source in sources]
    assert len(set(names)) == len(names)
    assert all(name.endswith(".jpg") for name in names)
    assert names[0] == "x.jpg"
    assert names[-1] == "b/x.jpg"
