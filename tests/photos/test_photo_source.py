"""Photos come from the packages that are installed, or from the user's own folder, and from nowhere else."""

from __future__ import annotations

import hashlib
import importlib.util
import socket
from pathlib import Path

import numpy as np
import pytest
from gpubroker_photos import source
from gpubroker_photos.files import decode
from gpubroker_photos.source import find_photos, make_folder, sample_photos
from PIL import ExifTags, Image


def digests(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_every_bundled_sample_is_there_and_used_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real_open = Image.open

    def watched(path: Path) -> Image.Image:
        opened.append(Path(path).name)
        return real_open(path)

    monkeypatch.setattr(Image, "open", watched)
    monkeypatch.setattr(socket, "socket", lambda *a, **k: pytest.fail("the network was asked"))
    make_folder(tmp_path, 1)
    assert opened == [Path(name).name for _, name in source._SAMPLES]


def test_without_the_packages_a_person_reads_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install"):
        sample_photos()


def test_a_made_folder_has_distinct_photos_and_is_the_same_every_time(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    first = make_folder(tmp_path / "a", 60, lambda done, total: steps.append((done, total)))
    again = make_folder(tmp_path / "b", 60)
    assert digests(first) == digests(again)
    assert len({decode(path).pixels.tobytes() for path in first}) == 60
    assert steps == [(done, 60) for done in range(1, 61)]
    assert [first[0].name, first[-1].name] == ["photo-0001.jpg", "photo-0060.jpg"]


def test_a_smaller_folder_is_the_start_of_a_larger_one(tmp_path: Path) -> None:
    assert digests(make_folder(tmp_path / "a", 5)) == digests(make_folder(tmp_path / "b", 9)[:5])


def test_made_photos_are_of_modest_size_and_look_as_from_a_camera(tmp_path: Path) -> None:
    for path in make_folder(tmp_path, 20):
        with Image.open(path) as image:
            assert 320 <= max(image.size) <= 800
            exif = image.getexif()
            assert exif[ExifTags.Base.Make]
            assert exif[ExifTags.Base.DateTime].startswith("2025:06:14")
            assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] > 0


def test_made_photos_are_stored_turned_in_all_eight_ways_and_stand_upright_once_decoded(tmp_path: Path) -> None:
    samples = []
    for path in sample_photos():
        with Image.open(path) as image:
            samples.append(image.convert("RGB"))
    seen = set()
    for number, path in enumerate(make_folder(tmp_path, 60), start=1):
        with Image.open(path) as image:
            seen.add(image.getexif()[ExifTags.Base.Orientation])
        shot = source._plan_shot(number, len(samples))
        upright = np.asarray(source._frame(samples[shot.sample], shot)).astype(int)
        decoded = decode(path).pixels
        assert decoded.shape == upright.shape
        assert np.abs(decoded - upright).mean() < 8
    assert seen == set(range(1, 9))


def test_no_photos_are_not_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_folder(tmp_path, 0)


def test_photos_are_found_below_in_any_case_and_sorted_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/z.TIFF", "a/y.webp", "c.Png", ".hidden.jpg", ".trash/x.jpg", "notes.txt", "d.jpeg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "folder.jpg").mkdir()
    names = [path.relative_to(tmp_path).as_posix() for path in find_photos(tmp_path)]
    assert names == ["a/y.webp", "a/z.TIFF", "b.JPG", "c.Png", "d.jpeg"]


def test_a_hidden_place_above_the_folder_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / ".cache" / "shoot").mkdir(parents=True)
    (tmp_path / ".cache" / "shoot" / "a.jpg").touch()
    assert len(find_photos(tmp_path / ".cache" / "shoot")) == 1


def test_a_folder_without_photos_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no photos in .*empty"):
        find_photos(tmp_path / "empty")
    with pytest.raises(ValueError, match="missing is not a folder"):
        find_photos(tmp_path / "missing")
