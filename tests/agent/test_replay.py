"""A recording is written look by look and played again at its own pace, or refused by its line."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.accounting import strangers, unmanaged_bytes, verdicts
from agent.processes import ProcessTable
from agent.sources import NoGpuError, Process, Reading
from agent.sources.replay import FOREIGN_PIDS, Recorder, ReplaySource
from broker.errors import InvalidRequest
from broker.process import began
from broker.values import HeldLease

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def card(heat: int, uuid: str = "GPU-a") -> Reading:
    own = (Process(os.getpid(), 300 * MIB, 5), Process(1, None))
    return Reading(uuid, 0, "Card", 8 << 30, 400 * MIB, None, heat, 5, 30_000, own, hardware={"fan_percent": 40})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three looks, at 0, 3 and 5 s; the second found nothing."""
    path = tmp_path / "day.jsonl"
    with Recorder(path) as recorder:
        recorder.write(1e9, [card(40), card(50, "GPU-b")], "")
        recorder.write(1e9 + 3, [], "no NVIDIA driver: libnvidia-ml.so.1 is missing")
        recorder.write(1e9 + 5, [card(42)], "")
    return path


def heats(source: ReplaySource) -> list[int | None] | str:
    try:
        return [reading.temperature_c for reading in source.read(lambda _: {})]
    except NoGpuError as error:
        return str(error)


def test_a_recording_is_told_at_its_own_pace_then_over(path: Path) -> None:
    clock = Clock()
    source = ReplaySource(path, clock=clock)
    clock.now += 100  # its time begins with the first look
    assert (heats(source), source.age()) == ([40, 50], 0.0)
    clock.now += 2.5
    assert (heats(source), source.age()) == ([40, 50], 2.5)
    clock.now += 0.5
    assert heats(source) == "no NVIDIA driver: libnvidia-ml.so.1 is missing"
    clock.now += 4.4  # the last look stands for as long as the mean one, 2.5 s
    assert heats(source) == [42]
    assert source.age() == pytest.approx(2.4)
    clock.now += 0.2
    assert heats(source) == "the recording is over"
    clock.now += 1000
    assert heats(source) == "the recording is over"
    source.close()


def test_a_loop_begins_again_however_long_nobody_looked(path: Path) -> None:
    clock = Clock()
    source = ReplaySource(path, clock=clock, loop=True, speed=2.0)
    assert heats(source) == [40, 50]
    clock.now += 2.5
    assert heats(source) == [42]
    clock.now += 1.25  # 7.5 s of the recording: one round
    assert (heats(source), source.age()) == ([40, 50], 0.0)
    clock.now += 1_000_000 * 3.75 + 2.5
    assert heats(source) == [42]


def test_what_is_read_is_what_was_written_but_for_processes(path: Path) -> None:
    [first, _] = ReplaySource(path).read(lambda _: {})
    assert first.processes is None
    assert (first.uuid, first.hardware, first.memory_used_bytes) == ("GPU-a", {"fan_percent": 40}, 400 * MIB)
    [first, _] = ReplaySource(path, processes=True).read(lambda _: {})
    assert first.processes == (Process(os.getpid() + FOREIGN_PIDS, 300 * MIB, 5), Process(1 + FOREIGN_PIDS, None))


@pytest.mark.parametrize("processes", [False, True])
def test_a_recorded_process_is_never_taken_for_one_of_this_host(path: Path, processes: bool) -> None:
    readings = ReplaySource(path, processes=processes).read(lambda _: {})
    held = [HeldLease("mine", 100 * MIB, os.getpid(), "active", 1, pid_started=began(os.getpid()) or "")]
    family = ProcessTable().parents(process.pid for reading in readings for process in reading.processes or ())
    assert family == {}
    assert unmanaged_bytes(readings[0], held, family) == 300 * MIB  # 400 in use, 100 of them lent
    assert all(pid > FOREIGN_PIDS for pid, _ in strangers(readings[0], held, family))
    [verdict] = verdicts(readings, {"GPU-a": held}, family, {"mine": "alive"})
    assert (verdict.verdict, verdict.used_bytes) == ("alive", None)  # the recorded list has a size that is not known


def test_pids_end_below_the_foreign_ones() -> None:
    assert int(Path("/proc/sys/kernel/pid_max").read_text()) <= FOREIGN_PIDS


def test_a_clock_set_back_while_recording_loses_no_look(tmp_path: Path) -> None:
    clock = Clock()
    with Recorder(tmp_path / "r") as recorder:
        for at, heat in ((100.0, 40), (40.0, 41), (42.0, 42)):
            recorder.write(at, [card(heat)], "")
    source = ReplaySource(tmp_path / "r", clock=clock)
    assert heats(source) == [41]
    clock.now += 2
    assert heats(source) == [42]


def test_one_look_alone_stands_for_a_while(tmp_path: Path) -> None:
    clock = Clock()
    with Recorder(tmp_path / "r") as recorder:
        recorder.write(1.0, [card(40)], "")
    source = ReplaySource(tmp_path / "r", clock=clock, loop=True)
    for _ in range(3):
        assert heats(source) == [40]
        clock.now += 3600


def test_what_is_written_while_it_plays_waits_for_the_next_time(path: Path) -> None:
    clock = Clock()
    source = ReplaySource(path, clock=clock)
    with path.open("a") as file:
        file.write('{"at":half')
    clock.now += 6
    assert heats(source) == [40, 50]
    clock.now += 6
    assert heats(source) == [42]


def test_a_recording_that_is_changed_while_it_plays_has_no_cards(tmp_path: Path) -> None:
    clock = Clock()
    with Recorder(tmp_path / "r") as recorder:
        for at in range(100):  # more than a buffer holds
            recorder.write(at, [card(at)], "")
    source = ReplaySource(tmp_path / "r", clock=clock, loop=True)
    heats(source)
    clock.now += 99
    assert heats(source) == [99]
    (tmp_path / "r").write_bytes(b"")
    clock.now += 1
    for _ in range(2):
        assert heats(source) == "the recording was changed: it is empty"
    (tmp_path / "r").write_bytes(b"now something else\n")
    assert str(heats(source)).startswith("the recording was changed: line 1 ")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("\n", "line 1 is cut off or begins as no look does"),
        ('{"at":1,"readings":[],"why":""}\n{"at":2,"readings":[],"why":""}', "line 2 is cut off"),
        ('{"at":1,"readings":[],"why":""}\n{"at":2,"readings":[],"why":7}\n', "line 2: readings is a list"),
        ('{"at":1,"readings":[]}\n', "line 1: not "),
        ('{"at":1,"readings":[{"index":0}],"why":""}\n', "line 1: uuid=None"),
        ('{"at":1,"readings":[{"uuid":"a","name":"A","index":0,"power_mw":-4}],"why":""}\n', "line 1: power_mw=-4"),
        ('{"at":1,"readings":[{"uuid":"a","name":"A","index":0}],"why":"none"}\n', "line 1: readings, and a reason"),
        ('{"at":1,"readings":' + str([{"uuid": "a", "name": "A", "index": 0}] * 2).replace("'", '"') + ',"why":""}\n',
         "line 1: a card twice"),
        ('{"at":NaN,"readings":[],"why":""}\n', "line 1 "),
        ('{"at":1,"at":2,"readings":[],"why":""}\n', "line 1: at=2 is not allowed: given twice"),
        ('{"at":1,"readings":[],"why":"\udcff"}\n', "line 1: 'utf-8' codec"),
    ],
)  # fmt: skip
def test_a_broken_recording_is_refused_by_its_line(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "r").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidRequest, match=f"^--replay=.*{why}"):
        ReplaySource(tmp_path / "r")


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "r").open("wb") as file:
        file.write(b'{"at":1,"readings":[],"why":""}\n{"at":2,')
        file.truncate(1 << 36)  # sparse: 64 GiB
    with pytest.raises(InvalidRequest, match="line 2 is cut off"):
        ReplaySource(tmp_path / "r")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe", "/dev/zero", "a\0b"):
        with pytest.raises(InvalidRequest, match=r"^--replay="):
            ReplaySource(path)
    for path in (tmp_path / "no" / "folder", tmp_path, tmp_path / "pipe", "/dev/full", "a\0b"):
        with pytest.raises(InvalidRequest, match=r"^--record="):
            Recorder(path)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_refused(path: Path, speed: float) -> None:
    with pytest.raises(InvalidRequest, match="--replay speed"):
        ReplaySource(path, speed=speed)


def test_a_recording_is_gone_on_with_after_a_cut_line(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"at":1000000007.000,"read')
    with Recorder(path) as recorder:
        assert path.read_bytes() == whole
        recorder.write(1e9 + 8, [], "over")
        assert path.read_bytes() == whole + b'{"at":1000000008.000,"readings":[],"why":"over"}\n'


def test_a_file_that_is_no_recording_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("milk\neggs")
    with pytest.raises(InvalidRequest, match="a new file, or a recording to go on with"):
        Recorder(tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "milk\neggs"


def test_only_its_owner_reads_a_new_recording(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_is_full_at_the_start_is_said_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = list(os.statvfs(tmp_path))
    facts[4] = 0  # f_bavail
    monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result(facts))
    with pytest.raises(InvalidRequest, match="No space left on device"):
        Recorder(tmp_path / "r")


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_cannot_be_written_is_said_once_and_spoils_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gpubroker.agent")
    whole = path.read_bytes()
    with Recorder(path) as recorder:
        with no_file_longer_than(len(whole) + 10):  # as a disk does that fills within a line
            for at in range(3):
                recorder.write(1e9 + 10 + at, [card(60)], "")
        assert path.read_bytes() == whole
        recorder.write(1e9 + 20, [card(61)], "")
    assert [record.getMessage().split()[0] for record in caplog.records] == ["event=record_failed", "event=recovered"]
    assert path.read_bytes().startswith(whole + b'{"at":1000000020.000,')
    ReplaySource(path).close()


def test_what_could_not_be_read_again_is_not_written(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = path.read_bytes()
    with Recorder(path) as recorder:
        recorder.write(float("nan"), [], "")
        recorder.write(1.0, [card(40), card(41)], "")
        recorder.write(1.0, [Reading("GPU-a", 0, "Card", power_mw=-1)], "")
    assert path.read_bytes() == whole
    assert len(caplog.records) == 1


@given(st.lists(st.tuples(st.floats(0.001, 100), st.integers(0, 150)), min_size=1, max_size=12), st.data())
def test_at_any_moment_the_latest_look_that_was_due_is_told(
    tmp_path_factory: pytest.TempPathFactory, looks: list[tuple[float, int]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("replay") / "r"
    at, due = 0.0, []
    with Recorder(path) as recorder:
        for gap, heat in looks:
            at = round(at + gap, 3)
            due.append((at, heat))
            recorder.write(at, [card(heat)], "")
    clock = Clock()
    clock.now = 0.0
    source = ReplaySource(path, clock=clock)
    heats(source)
    for _ in range(5):
        clock.now += data.draw(st.floats(0, 60))
        passed = clock.now + due[0][0]
        if passed < at and min(abs(passed - moment) for moment, _ in due) > 1e-6:
            assert heats(source) == [[heat for moment, heat in due if moment <= passed][-1]]
    source.close()
