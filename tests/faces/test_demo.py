"""The demo, whole: as `make demo` runs it, and on a folder of the user's own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from gpubroker_photos.source import make_folder

from broker import Broker
from broker.audit import audit

pytestmark = pytest.mark.timeout(300)


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "broker.cli", "demo", *arguments], capture_output=True, text=True, timeout=240
    )


def test_every_photo_comes_out_though_a_worker_is_killed_and_a_card_throttles(tmp_path: Path) -> None:
    run = demo("--dir", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"photos done +320 of 320", run.stdout)
    assert re.search(r"photos lost +0", run.stdout)
    assert re.search(r"throttles seen +[1-9]\d*, recovered [1-9]", run.stdout)
    assert re.search(r"worker killed +studio-\S+; its (job ran again|photo had just come out)", run.stdout)
    assert re.search(r"laws +0 broken", run.stdout)
    assert len(list((tmp_path / "out").rglob("photo-*"))) == 320
    assert (tmp_path / "out" / "scores.csv").read_text().count("\n") == 321
    assert "\x1b" not in run.stdout  # no terminal, plain lines


def test_a_folder_of_ones_own_gives_the_same_bytes_as_one_process(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    make_folder(photos, 24)
    run = demo("--photos", str(photos), "--out", str(out), "--dir", str(tmp_path / "data"))
    assert run.returncode == 0, run.stdout + run.stderr
    alone = tmp_path / "alone"
    subprocess.run(
        [sys.executable, "-m", "gpubroker_photos", str(photos), "--out", str(alone)], check=True, capture_output=True
    )
    made = {path.name: path.read_bytes() for path in (alone / "photos").rglob("*.jpg")}
    assert len(made) == 24
    assert {name: (out / name).read_bytes() for name in made} == made


def test_a_photo_that_cannot_be_read_is_lost_and_said_so(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    make_folder(photos, 3)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 not a photo")
    run = demo("--photos", str(photos), "--out", str(tmp_path / "out"), "--dir", str(tmp_path / "data"))
    assert run.returncode == 1
    assert re.search(r"photos done +3 of 4", run.stdout)
    assert "broken.jpg" in run.stdout


def test_bad_folders_are_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert demo("--photos", str(tmp_path / "nowhere")).returncode == 2
    assert demo("--photos", str(tmp_path / "empty"), "--dir", str(tmp_path / "data")).returncode == 2
    inside = demo("--photos", str(tmp_path), "--out", str(tmp_path / "out"))
    assert inside.returncode == 2
    assert "not inside" in inside.stderr


def test_keep_leaves_it_running_and_says_how_to_end_it(tmp_path: Path) -> None:
    run = demo("--dir", str(tmp_path), "--count", "12", "--keep")
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    try:
        assert run.returncode == 0, run.stdout + run.stderr
        url = re.search(r"--redis-url (\S+)", run.stdout)
        assert url is not None
        assert f"xargs kill < {tmp_path / 'pids'}" in run.stdout
        page = re.search(r"^The page: (http://127\.0\.0\.1:\d+/)$", run.stdout, re.MULTILINE)
        assert page is not None
        assert httpx.get(f"{page[1]}api/gpu/status", trust_env=False).json()["gpus"] == 6
        with Broker.from_url(url[1]) as broker:
            assert len([gpu for gpu in broker.gpus() if gpu.lends]) == 6
            assert audit(broker.events(count=100_000)).violations == []
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
