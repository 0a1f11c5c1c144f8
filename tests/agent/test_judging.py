"""What is published of a card: its state with its past, its health, people who want it, the heat to come."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from agent.host import HostWatch, memory_state
from agent.judging import Around, Judge
from agent.sources import Reading
from broker.state import worse
from broker.thresholds import Thresholds
from broker.units import GIB
from broker.values import GpuReport, State

CARD = Reading("GPU-a", 0, "card", 8 * GIB, GIB, 0, temperature_c=50, processes=())
LIMITS = Thresholds()


class Court:
    """One card before its judge."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.judge = Judge(lambda: self.now)

    def see(self, seconds: float = 3.0, around: Around | None = None, **changes: Any) -> GpuReport:
        self.now += seconds
        return self.judge.report(replace(CARD, **changes), [], LIMITS, around or Around({}))[0]


@pytest.fixture
def court() -> Court:
    return Court()


@pytest.mark.parametrize("word", ["hw_slowdown", "hw_thermal", "sw_thermal", "power_brake"])
def test_a_card_that_slows_itself_down_is_throttled_whatever_its_temperature(court: Court, word: str) -> None:
    report = court.see(hardware={"clock_reasons": f"idle,{word}"})
    assert (report.state, report.job_state) == (State.THROTTLED, State.THROTTLED)
    assert "slows" in report.reason or "save power" in report.reason


def test_a_cap_of_power_is_normal_at_load(court: Court) -> None:
    assert court.see(hardware={"clock_reasons": "power_cap"}).state is State.OPTIMAL


def test_a_host_without_memory_lends_nothing_and_its_jobs_go_on_slowly(court: Court) -> None:
    report = court.see(around=Around({}, State.CRITICAL, "98 % of the host's memory is used: CRITICAL"))
    assert (report.state, report.job_state) == (State.CRITICAL, State.THROTTLED)
    assert report.job_state.speed == 0.5  # a job that is paused gives no memory back
    assert "host's memory" in report.reason


def test_a_sick_card_is_marked_and_opened_after_clean_probes(court: Court) -> None:
    report = court.see(xids=(79,))
    assert (report.marks, report.xids) == (("health",), (79,))
    assert "XID 79" in report.reason
    for _ in range(199):
        assert court.see().marks == ("health",)
    court.see()
    assert court.see().marks == ()


def test_an_agent_that_starts_goes_on_with_the_drain_it_finds(court: Court) -> None:
    court.judge.resume("GPU-a", "gpu,health", "XID 79: it fell off the bus")
    report = court.see()
    assert report.marks == ("health",)
    assert "XID 79" in report.reason
    court.judge.resume("GPU-b", "gpu,people", "")
    assert court.judge.report(replace(CARD, uuid="GPU-b"), [], LIMITS, Around({}))[0].marks == ()


def test_a_card_that_people_want_is_theirs_until_they_leave(court: Court) -> None:
    report = court.see(around=Around({}, wanted_by=["game"]))
    assert (report.marks, report.reason) == (("people",), "kept for game")
    assert court.see().marks == ()


def test_heat_to_come_is_told_before_it_is_there(court: Court) -> None:
    heats = [60 + step for step in range(12)]  # 20 °C a minute
    warnings = [court.see(temperature_c=heat).warning for heat in heats]
    assert warnings[0] is None
    threshold, seconds, slope = warnings[3] or ("", 0.0, 0.0)
    assert (threshold, round(slope)) == ("temp_optimal", 20)
    assert 5 < seconds < 7
    assert (warnings[-1] or ("",))[0] == "temp_normal"


def test_a_card_that_cools_right_now_is_not_warned_of(court: Court) -> None:
    heats = [41] * 9 + [88] * 9 + [50] * 3
    assert [court.see(temperature_c=heat).warning for heat in heats][-3:] == [None] * 3


def test_a_steady_card_is_not_warned_of(court: Court) -> None:
    assert [court.see(temperature_c=60 + step % 2).warning for step in range(30)] == [None] * 30


def test_no_temperature_and_no_memory_are_not_taken_for_good_ones(court: Court) -> None:
    assert court.see(temperature_c=None).job_state is State.THROTTLED
    assert court.see(memory_used_bytes=None).state is State.UNAVAILABLE


def test_a_hosts_memory_has_states_and_a_past(tmp_path: Any) -> None:
    memory, now = HostWatch(tmp_path), 0.0
    said = {"memory_used_bytes": 98, "memory_available_bytes": 2}
    state, why = memory.judge(said, LIMITS, now)
    assert (state, why) == (State.CRITICAL, "98 % of the host's memory is used: CRITICAL")
    well = {"memory_used_bytes": 50, "memory_available_bytes": 50}
    assert memory.judge(well, LIMITS, now + 1)[0] is State.CRITICAL
    assert memory.judge(well, LIMITS, now + 120)[0] is State.OPTIMAL
    assert memory.judge({}, LIMITS, now)[0] is State.OPTIMAL


def test_the_states_of_a_hosts_memory_only_worsen_with_its_use() -> None:
    states = [memory_state(percent / 2, LIMITS) for percent in range(201)]
    assert all(worse(*pair) is pair[1] for pair in itertools.pairwise(states))
    assert (states[0], states[-1]) == (State.OPTIMAL, State.CRITICAL)


def test_what_a_host_hides_is_not_there_and_ends_nobody(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = HostWatch(tmp_path)

    def hidden() -> None:
        raise PermissionError

    monkeypatch.setattr("psutil.virtual_memory", hidden)
    assert "memory_used_bytes" not in watch.vitals()
    assert "cpu_percent" in watch.vitals()


def test_what_a_host_says_of_itself(tmp_path: Any) -> None:
    said = HostWatch(tmp_path).vitals()
    assert said["memory_available_bytes"] > 0
    assert said["disk_free_bytes"] <= said["disk_total_bytes"]
    assert set(said) == {
        "cpu_percent", "load_milli", "memory_used_bytes", "memory_available_bytes", "swap_used_bytes",
        "disk_free_bytes", "disk_total_bytes",
    }  # fmt: skip
    assert "disk_free_bytes" not in HostWatch(tmp_path / "nowhere").vitals()
