"""A reading as a line, and recordings of an agent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sources import NoGpuError, Process, Reading
from agent.sources.codec import from_line, to_line
from agent.sources.replay import Recorder, ReplaySource
from broker.errors import InvalidRequest
from broker.hardware import FIELDS, WORDS

BYTES = st.none() | st.integers(0, 1 << 50)
PERCENT = st.none() | st.integers(0, 100)
READINGS = st.builds(
    Reading,
    uuid=st.text(min_size=1), index=st.integers(0, 65535), name=st.text(), memory_total_bytes=BYTES,
    memory_used_bytes=BYTES, memory_reserved_bytes=BYTES, temperature_c=st.none() | st.integers(-50, 150),
    utilization_percent=PERCENT, power_mw=st.none() | st.integers(0, 1 << 30),
    processes=st.none() | st.lists(st.builds(Process, st.integers(1, 1 << 22), BYTES, PERCENT)).map(tuple),
    capability=st.sampled_from(["", "8.6"]), mig=st.sampled_from(["", "1g.5gb"]), fault=st.text(),
    hardware=st.dictionaries(st.sampled_from(sorted(FIELDS.keys() - WORDS)), st.integers(0, 1 << 53))
    | st.dictionaries(st.sampled_from(sorted(WORDS)), st.text()),
    xids=st.lists(st.integers(1, 999)).map(tuple),
)  # fmt: skip


@given(READINGS)
def test_a_reading_is_the_same_after_its_journey(reading: Reading) -> None:
    line = to_line(reading)
    assert "\n" not in line
    assert from_line(line) == reading


def test_what_is_not_known_is_not_there() -> None:
    assert json.loads(to_line(Reading("GPU-a", 0, "card"))) == {"uuid": "GPU-a", "index": 0, "name": "card"}


@pytest.mark.parametrize(("said", "named"), [
    ([], "an object"), ({"uuid": "GPU-a", "name": "card"}, "index is missing"), ({"uuid": 7}, "uuid=7"),
    ({"uuid": "a", "index": 0, "name": "b", "mood": 1}, "mood"), ({"index": -1}, "index=-1"),
    ({"index": True}, "index"),
    ({"temperature_c": 1.5}, "temperature_c=1.5"), ({"processes": [[0, 1, 2]]}, "processes"),
    ({"processes": [[1, 2]]}, "processes"), ({"hardware": {"mood": 1}}, "hardware"),
    ({"hardware": {"margin_c": "x"}}, "hardware"), ({"xids": ["48"]}, "xids"),
    ({"memory_used_bytes": 1 << 70}, "memory"),
])  # fmt: skip
def test_a_line_that_is_no_reading_is_refused_by_name(said: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        from_line(json.dumps(said))


HOT = Reading("GPU-a", 0, "card", 8, 4, 0, temperature_c=80, processes=(Process(os.getpid(), 4),))
COOL = Reading("GPU-a", 0, "card", 8, 4, 0, temperature_c=40)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "samples.jsonl"
    with Recorder(path) as recorder:
        recorder.write(1000.0, [COOL], "")
        recorder.write(1003.0, [HOT], "")
        recorder.write(1006.0, [], "the driver restarts")
    return path


def heats(source: ReplaySource, seconds: list[float], now: list[float]) -> list[int | str | None]:
    told: list[int | str | None] = []
    for at in seconds:
        now[0] = at
        try:
            told.append(source.read(lambda uuids: {})[0].temperature_c)
        except NoGpuError as error:
            told.append(str(error))
    return told


def test_a_recording_is_played_in_its_own_time(recording: Path) -> None:
    now = [0.0]
    source = ReplaySource(recording, clock=lambda: now[0])
    assert heats(source, [50, 52.9, 53, 56, 58.9], now) == [40, 40, 80, "the driver restarts", "the driver restarts"]
    assert "is over" in str(heats(source, [59], now)[0])


def test_it_may_be_played_faster_and_over_and_over(recording: Path) -> None:
    now = [0.0]
    source = ReplaySource(recording, speed=3, loop=True, clock=lambda: now[0])
    assert heats(source, [0, 1, 2, 5, 6, 7], now) == [40, 80, "the driver restarts", 40, 80, "the driver restarts"]


def test_its_processes_are_not_taken_for_this_hosts(recording: Path) -> None:
    now = [0.0]
    source = ReplaySource(recording, clock=lambda: now[0])
    source.read(lambda uuids: {})
    now[0] = 3.0
    assert source.read(lambda uuids: {})[0].processes is None


@pytest.mark.parametrize(("text", "named"), [
    ("", "not empty"), ("{", "line 1"), ('{"at":1,"readings":[],"why":""}', "line 1"),
    ('{"at":2,"readings":[],"why":"x"}\n{"at":1,"readings":[],"why":"x"}', "line 2"), ("[1]", "line 1"),
    ('{"at":1,"readings":[{"uuid":"a"}],"why":""}', "index is missing"), ("\xff", "recording"),
])  # fmt: skip
def test_a_broken_recording_is_refused_at_once(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "broken"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidRequest, match=named):
        ReplaySource(path)


def test_a_recording_that_is_not_there_and_one_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="--replay"):
        ReplaySource(tmp_path / "none")
    with pytest.raises(InvalidRequest, match="--record"):
        Recorder(tmp_path / "no" / "folder")


def test_a_full_disk_is_said_once_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(Path("/dev/full"))
    for _ in range(3):
        recorder.write(1.0, [COOL], "")
    recorder.close()
    assert caplog.text.count("event=record_failed") <= 2
