"""One photo from file to file: any pace, the same bytes; any failure, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gpubroker_photos.files import PhotoError
from gpubroker_photos.process import FULL_BATCH, process_photo
from PIL import Image


def at_most(tiles: int) -> Callable[[int], int]:
    return lambda full: min(tiles, full)


@pytest.mark.parametrize("tiles", [1, 3])
def test_a_slower_pace_takes_more_batches_and_changes_no_byte(folder: Path, tmp_path: Path, tiles: int) -> None:
    src = folder / "cat.jpg"
    fast = process_photo(src, tmp_path / "fast", root=folder, pace=lambda full: 1000, device="cpu")
    slow = process_photo(src, tmp_path / "slow", root=folder, pace=at_most(tiles), device="cpu")
    assert Path(slow.output).read_bytes() == Path(fast.output).read_bytes()
    assert slow.batches == -(-slow.tiles // tiles)
    assert fast.batches == -(-fast.tiles // FULL_BATCH)


def test_a_second_process_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    here = process_photo(folder / "cat.jpg", tmp_path / "here", root=folder, pace=at_most(8), device="cpu")
    code = (
        "import sys; from pathlib import Path; from gpubroker_photos.process import process_photo\n"
        "src, out, root = map(Path, sys.argv[1:])\n"
        "process_photo(src, out, root=root, pace=lambda full: 2, device='cpu')"
    )
    subprocess.run([sys.executable, "-c", code, folder / "cat.jpg", tmp_path / "there", folder], check=True)
    assert (tmp_path / "there" / "cat.jpg").read_bytes() == Path(here.output).read_bytes()


def test_pace_is_asked_before_every_batch_with_the_full_one(folder: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def pace(full: int) -> int:
        asked.append(full)
        return 2

    result = process_photo(folder / "cat.jpg", tmp_path, root=folder, pace=pace)
    assert asked == [FULL_BATCH] * result.batches


def test_a_job_that_loses_its_lease_midway_writes_nothing(folder: Path, tmp_path: Path) -> None:
    calls = iter([1])

    def pace(full: int) -> int:
        return next(calls)

    with pytest.raises(StopIteration):
        process_photo(folder / "cat.jpg", tmp_path / "out", root=folder, pace=pace)
    assert not (tmp_path / "out").exists()


def test_a_pace_of_nothing_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must block until"):
        process_photo(folder / "cat.jpg", tmp_path, root=folder, pace=lambda full: 0)


def test_a_corrupt_photo_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    bad = folder / "bad.jpg"
    bad.write_bytes((folder / "cat.jpg").read_bytes()[:-4000])
    with pytest.raises(PhotoError, match=r"bad\.jpg"):
        process_photo(bad, tmp_path / "out", root=folder, pace=at_most(8))
    assert not (tmp_path / "out").exists()


def test_photos_of_one_name_in_two_folders_get_two_outputs(folder: Path, tmp_path: Path) -> None:
    for day in ("monday", "tuesday"):
        (folder / day).mkdir()
        (folder / day / "cat.jpg").write_bytes((folder / "cat.jpg").read_bytes())
    sources = [folder / "cat.jpg", folder / "monday" / "cat.jpg", folder / "tuesday" / "cat.jpg"]
    results = [process_photo(src, tmp_path / "out", root=folder, pace=at_most(8)) for src in sources]
    assert [result.name for result in results] == ["cat.jpg", "monday/cat.jpg", "tuesday/cat.jpg"]
    assert len({result.output for result in results}) == 3
    assert all(Path(result.output).is_file() for result in results)


def test_a_photo_from_outside_the_root_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="subpath"):
        process_photo(folder / "cat.jpg", tmp_path / "out", root=tmp_path / "elsewhere", pace=at_most(8))


def test_a_result_says_what_was_done_in_plain_json(folder: Path, tmp_path: Path) -> None:
    result = process_photo(folder / "cat.jpg", tmp_path / "out", root=folder, pace=at_most(8), device="cpu")
    told = json.loads(json.dumps(result.as_dict()))
    assert (told["width"], told["height"], told["tiles"], told["device"]) == (300, 200, 6, "cpu")
    with Image.open(told["output"]) as out:
        assert out.size == (300, 200)
