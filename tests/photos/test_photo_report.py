"""The table and the sheet are the same bytes for the same results, and bounded; the command makes both."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from gpubroker_photos.__main__ import main
from gpubroker_photos.process import PhotoResult
from gpubroker_photos.report import MAX_THUMBNAILS, contact_sheet, write_scores
from gpubroker_photos.source import make_folder
from PIL import Image


def result(name: str, sharpness: float) -> PhotoResult:
    return PhotoResult(name, f"in/{name}", f"out/{name}", 30, 20, sharpness, 0.5, 0.0, 0.0, 1, 1, "cpu")


def test_scores_are_sorted_by_name_in_whatever_order_jobs_ended(tmp_path: Path) -> None:
    ended = [result("b.jpg", 2.0), result("a, or so.jpg", 1 / 3), result("c/ü.jpg", 3.0)]
    write_scores(ended, tmp_path / "one.csv")
    write_scores(reversed(ended), tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    with (tmp_path / "one.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [(row["name"], row["sharpness"]) for row in rows] == [
        ("a, or so.jpg", "0.3333"),
        ("b.jpg", "2.0000"),
        ("c/ü.jpg", "3.0000"),
    ]


def test_a_contact_sheet_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    photos = make_folder(tmp_path / "in", 7)
    contact_sheet(photos, tmp_path / "one.jpg")
    contact_sheet(photos, tmp_path / "two.jpg")
    assert (tmp_path / "one.jpg").read_bytes() == (tmp_path / "two.jpg").read_bytes()


def test_a_contact_sheet_has_the_columns_asked_for(tmp_path: Path) -> None:
    photos = make_folder(tmp_path / "in", 5)
    contact_sheet(photos, tmp_path / "wide.jpg", columns=5)
    contact_sheet(photos, tmp_path / "tall.jpg", columns=1)
    with Image.open(tmp_path / "wide.jpg") as wide, Image.open(tmp_path / "tall.jpg") as tall:
        assert wide.width > 4 * wide.height
        assert tall.height > 5 * tall.width * 0.9


def test_a_contact_sheet_of_thousands_stays_bounded_and_shows_them_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def seen(path: Path) -> Image.Image:
        shown.append(path.name)
        return Image.new("RGB", (120, 80))

    monkeypatch.setattr("gpubroker_photos.report._thumbnail", seen)
    contact_sheet([Path(f"{number}.jpg") for number in range(4000)], tmp_path / "sheet.jpg")
    assert shown == [f"{number}.jpg" for number in range(0, 4000, 4000 // MAX_THUMBNAILS)]
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert max(sheet.size) < 3000


def test_a_name_in_any_script_gets_a_caption(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "in", 1)[0]
    contact_sheet([path.rename(path.with_name("写真-наше-" + "very-" * 9 + "long.jpg"))], tmp_path / "sheet.jpg")
    assert (tmp_path / "sheet.jpg").stat().st_size > 0


def test_a_sheet_of_nothing_or_of_no_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one photo"):
        contact_sheet([], tmp_path / "sheet.jpg")
    with pytest.raises(ValueError, match="columns must be"):
        contact_sheet([tmp_path / "a.jpg"], tmp_path / "sheet.jpg", columns=0)


def test_the_command_does_a_whole_folder_and_names_what_it_skips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path / "in", 3)
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no photo")
    assert main([str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert "3 of 4 photos" in told.out
    assert "broken.jpg" in told.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["contact-sheet.jpg", "photos", "scores.csv"]


def test_the_command_refuses_to_write_among_the_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert "lies inside" in capsys.readouterr().err
