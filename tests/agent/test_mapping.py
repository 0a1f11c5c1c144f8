"""Files that say which jobs are on which card, as DCGM-exporter reads them."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.mapping import JobMapping, jobs_on
from agent.sources import Reading
from broker import Broker
from broker.errors import InvalidRequest
from broker.values import HeldLease
from tests.agent.conftest import Cards, state, wait_for

Agent = Callable[..., "subprocess.Popen[str]"]


def as_dcgm_reads(folder: Path) -> dict[str, list[str]]:
    """Names that are numbers, and a job a line: ``internal/pkg/transformation/hpc.go`` of DCGM-exporter."""
    return {
        entry.name: entry.read_text().splitlines()
        for entry in folder.iterdir()
        if entry.is_file() and re.fullmatch(r"[+-]?\d+", entry.name)
    }


def until(folder: Path, wanted: dict[str, list[str]]) -> None:
    """Wait for the files to say that."""
    for _ in range(200):
        if folder.exists() and as_dcgm_reads(folder) == wanted:
            return
        subprocess.run(["sleep", "0.1"], check=True)
    assert as_dcgm_reads(folder) == wanted


def test_an_agent_keeps_a_file_a_card_and_empties_it_at_the_end(
    quick: Broker, agent: Agent, mock_cards: Cards, tmp_path: Path
) -> None:
    folder = tmp_path / "jobs" / "of"
    process = agent("--job-mapping", str(folder), mock=mock_cards)
    wait_for(quick, state("GPU-mock-1", "OPTIMAL"))
    until(folder, {"0": [], "1": []})
    first = quick.acquire("1GiB", gpu="GPU-mock-0", job_id="job-b")
    quick.acquire("1GiB", gpu="GPU-mock-0", job_id="job-a")
    quick.acquire("1GiB", gpu="GPU-mock-0", job_id="job-a")
    quick.acquire("1GiB", gpu="GPU-mock-1", lease_id="by-hand")
    until(folder, {"0": ["job-a", "job-b"], "1": ["by-hand"]})
    first.release()
    until(folder, {"0": ["job-a"], "1": ["by-hand"]})
    assert stat.S_IMODE((folder / "0").stat().st_mode) == 0o644
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    assert as_dcgm_reads(folder) == {"0": [], "1": []}


def test_an_agent_that_was_killed_leaves_nothing_that_the_next_one_believes(tmp_path: Path) -> None:
    for name, text in {"0": "old\n", "7": "old\n", "README": "mine\n"}.items():
        (tmp_path / name).write_text(text)
    JobMapping(tmp_path)
    assert as_dcgm_reads(tmp_path) == {"0": [], "7": []}
    assert (tmp_path / "README").read_text() == "mine\n"


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapping = JobMapping(tmp_path)
    mapping.tell({0: ["old"]})
    replaced = Path.replace

    def looked_at_first(fresh: Path, path: Path) -> Path:
        assert as_dcgm_reads(tmp_path) == {"0": ["old"]}
        assert fresh.read_text() == "new\n"
        return replaced(fresh, path)

    monkeypatch.setattr(Path, "replace", looked_at_first)
    mapping.tell({0: ["new"]})
    assert as_dcgm_reads(tmp_path) == {"0": ["new"]}


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    mapping = JobMapping(tmp_path)
    mapping.tell({0: ["a"], 1: ["b"]})
    before = {name: (tmp_path / name).stat().st_ino for name in ("0", "1")}
    mapping.tell({0: ["a"], 1: ["c"]})
    after = {name: (tmp_path / name).stat().st_ino for name in ("0", "1")}
    assert before["0"] == after["0"]
    assert before["1"] != after["1"]


def test_another_user_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        JobMapping(tmp_path / "jobs").tell({0: ["a"]})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "jobs").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "jobs" / "0").stat().st_mode) == 0o644


def test_a_name_is_one_line_and_told_once() -> None:
    readings = [Reading("GPU-a", 0, "a"), Reading("MIG-1", 1, "m"), Reading("MIG-2", 1, "m")]
    held = {
        "GPU-a": [_held("l1", "x\ny"), _held("l2", "x\ny"), _held("l3", "")],
        "MIG-1": [_held("l4", "z" * 70_000)],
        "MIG-2": [_held("l5", "m2")],
    }
    assert jobs_on(readings, held) == {0: ["l3", "x_y"], 1: ["m2", "z" * 200]}


def _held(lease_id: str, job_id: str) -> HeldLease:
    return HeldLease(lease_id, 1, None, "active", 0, job_id=job_id)


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="--job-mapping"):
        JobMapping(tmp_path / "file")


def test_an_agent_publishes_on_where_the_files_cannot_be_written(
    quick: Broker, agent: Agent, mock_cards: Cards, tmp_path: Path
) -> None:
    folder = tmp_path / "jobs"
    agent("--job-mapping", str(folder), mock=mock_cards)
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"))
    until(folder, {"0": [], "1": []})
    folder.rename(tmp_path / "away")
    folder.write_text("no folder any more")
    quick.acquire("1GiB", gpu="GPU-mock-0", job_id="job-a")
    mock_cards.set({"0.temp": 86})
    wait_for(quick, state("GPU-mock-0", "CRITICAL"))
    # Once a reason: between the folder and the file in its place there was neither.
    assert 1 <= (tmp_path / "h1.log").read_text().count("event=job_mapping_failed") <= 2
    os.unlink(folder)
    folder.mkdir()
    until(folder, {"0": ["job-a"], "1": []})
