"""Calls that never return, and a library that takes its process with it: one card fails, the others are read."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agent.sources import NoGpuError, Reading
from agent.sources.call_slot import CallSlot
from agent.sources.nvml import NvmlSource, OtherProcess
from broker.process import began
from tests.agent.conftest import Cards
from tests.agent.test_nvml_functions import CALLS, WHOLE

#: What the mock answers with several readings in one call, under the name of each.
READ_TOGETHER = {"memory_temp", "recovery"}
#: Seconds that a call may take here.
PATIENCE = 0.4


@pytest.fixture
def clock() -> list[float]:
    return [100.0]


@pytest.fixture
def source(
    nvml_library: Path, mock_cards: Cards, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> Iterator[NvmlSource]:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml_library))
    monkeypatch.setenv("NVML_MOCK", str(mock_cards.path))
    mock_cards.set(
        {"count": 3, **{f"2.{name[2:]}": value for name, value in mock_cards.values.items() if name[0] == "1"}}
    )
    mock_cards.set({"2.uuid": "GPU-mock-2"})
    source = NvmlSource(lambda: clock[0], start=partial(OtherProcess, PATIENCE))
    yield source
    source.close()


def read(source: NvmlSource) -> dict[str, Reading]:
    return {reading.uuid: reading for reading in source.read(lambda uuids: {})}


def pid_of(source: NvmlSource) -> int:
    child = source._child
    assert isinstance(child, OtherProcess)
    return child.process.pid


def faults(found: dict[str, Reading]) -> list[str]:
    return [uuid for uuid, reading in found.items() if reading.fault]


def test_a_card_whose_call_hangs_fails_alone_and_says_in_which(source: NvmlSource, mock_cards: Cards) -> None:
    read(source)
    first = pid_of(source)
    mock_cards.set({"1.temp.hang": 0})
    found = read(source)
    assert faults(found) == ["GPU-mock-1"]
    assert "nvmlDeviceGetTemperatureV has not answered for" in found["GPU-mock-1"].fault
    assert "tried again in 5 s" in found["GPU-mock-1"].fault
    assert found["GPU-mock-2"].temperature_c == 42
    assert began(first) is None


def test_it_is_tried_again_in_ever_longer_pauses_and_after_the_others(
    source: NvmlSource, mock_cards: Cards, clock: list[float]
) -> None:
    read(source)
    mock_cards.set({"0.power.hang": 0})
    read(source)
    quiet = pid_of(source)
    clock[0] += 3
    assert faults(read(source)) == ["GPU-mock-0"]
    assert pid_of(source) == quiet  # it was not touched
    clock[0] += 3
    found = read(source)
    assert "tried again in 10 s" in found["GPU-mock-0"].fault
    assert [found[f"GPU-mock-{card}"].fault for card in (1, 2)] == ["", ""]
    mock_cards.set({"0.power.hang": None})
    clock[0] += 9
    assert faults(read(source)) == ["GPU-mock-0"]
    clock[0] += 2
    assert faults(read(source)) == []


def test_whichever_call_hangs_only_its_card_fails_and_it_comes_back(
    source: NvmlSource, mock_cards: Cards, clock: list[float]
) -> None:
    mock_cards.set({f"{card}.{name}": value for card in range(3) for name, value in WHOLE.items()})
    read(source)
    wrong = []
    for call in (*CALLS.keys() - READ_TOGETHER, "events"):
        mock_cards.set({f"0.{call}.hang": 0})
        source.close()  # some things are asked once in a process's life
        clock[0] += 1000
        found = read(source)
        if faults(found) != ["GPU-mock-0"] or "has not answered for" not in found["GPU-mock-0"].fault:
            wrong.append(f"{call}: {[reading.fault for reading in found.values()]}")
        mock_cards.set({f"0.{call}.hang": None})
        clock[0] += 1000
        wrong += [f"{call} does not heal: {name}" for name in faults(read(source))]
    assert wrong == []


def test_two_cards_that_hang_cost_nobody_else_a_look(source: NvmlSource, mock_cards: Cards) -> None:
    read(source)
    mock_cards.set({"0.power.hang": 0, "1.load.hang": 0})
    assert faults(read(source)) == ["GPU-mock-0", "GPU-mock-1"]


def test_a_library_that_takes_its_process_with_it_costs_one_card(source: NvmlSource, mock_cards: Cards) -> None:
    read(source)
    mock_cards.set({"1.fan.crash": 1, "1.power.crash": 1})
    found = read(source)
    assert faults(found) == ["GPU-mock-1"]
    assert "SIGABRT" in found["GPU-mock-1"].fault
    assert "nvmlDeviceGetPowerUsage" in found["GPU-mock-1"].fault


def test_a_driver_that_hangs_while_it_is_asked_how_many_cards_there_are(
    source: NvmlSource, mock_cards: Cards, clock: list[float]
) -> None:
    read(source)
    mock_cards.set({"system.count.hang": 0})
    with pytest.raises(NoGpuError, match="nvmlDeviceGetCount has not answered"):
        read(source)
    with pytest.raises(NoGpuError, match="nvmlDeviceGetCount has not answered"):
        read(source)  # at once: it is tried again later
    mock_cards.set({"system.count.hang": None})
    clock[0] += 60
    assert faults(read(source)) == []


def test_after_an_upgrade_of_the_driver_a_new_process_loads_the_new_library(
    source: NvmlSource, mock_cards: Cards, clock: list[float]
) -> None:
    read(source)
    old = pid_of(source)
    mock_cards.set({"driver": 18})  # what a library of before says: it and the driver are of different versions
    with pytest.raises(NoGpuError, match=r"(?i)version mismatch"):
        read(source)
    assert began(old) is None
    mock_cards.set({"driver": 0})
    clock[0] += 60
    assert faults(read(source)) == []


def test_a_driver_that_takes_long_to_open_is_waited_for_and_the_look_ends_meanwhile(
    nvml_library: Path, mock_cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml_library))
    monkeypatch.setenv("NVML_MOCK", str(mock_cards.path))
    mock_cards.set({"system.init.hang": 1.5})
    source = NvmlSource(look_seconds=0.7, start=partial(OtherProcess, 0.1))
    with pytest.raises(NoGpuError, match="has not come to an end yet"):
        read(source)
    while True:
        try:
            assert faults(read(source)) == []
        except NoGpuError:
            continue
        break
    source.close()


def test_a_process_that_was_killed_is_followed_by_another(source: NvmlSource) -> None:
    read(source)
    os.kill(pid_of(source), signal.SIGKILL)
    with pytest.raises(NoGpuError, match="SIGKILL"):
        read(source)


def test_a_paused_process_is_not_waited_for(source: NvmlSource, clock: list[float]) -> None:
    read(source)
    os.kill(pid_of(source), signal.SIGSTOP)
    with pytest.raises(NoGpuError, match="has not answered"):
        read(source)
    clock[0] += 60
    assert faults(read(source)) == []


def test_an_idle_process_is_not_taken_for_one_that_hangs(source: NvmlSource) -> None:
    read(source)
    slot = source._child._slot  # type: ignore[union-attr]
    while slot.now()[1] < 2 * PATIENCE:
        pass
    assert slot.now()[0] == "nothing"
    assert faults(read(source)) == []


def test_no_further_process_is_risked_while_the_driver_holds_too_many(
    source: NvmlSource, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OtherProcess, "end", lambda child: child.process)  # as one that waits for the driver itself
    children = []
    for _ in range(4):
        read(source)
        os.kill(pid_of(source), signal.SIGSTOP)
        with pytest.raises(NoGpuError):
            read(source)
        children.append(source._stuck[-1])
        clock[0] += 60
    with pytest.raises(NoGpuError, match="driver holds 4 processes"):
        read(source)
    for child in children:
        child.kill()
        child.wait()
    monkeypatch.undo()


@pytest.mark.parametrize("toggle", [True, False])
def test_mig_toggled_under_way(source: NvmlSource, mock_cards: Cards, toggle: bool) -> None:
    instances: dict[str, object] = {
        "1.instances": 2,
        **{f"1.mig{n}.{name}": value for n in range(2) for name, value in (
            ("uuid", f"MIG-{n}"), ("name", "NVIDIA A100 MIG 1g.5gb"), ("total", 5 << 30), ("used", 0), ("reserved", 0),
        )},
    }  # fmt: skip
    mock_cards.set(instances | {"1.mig": 0 if toggle else 1})
    read(source)
    mock_cards.set({"1.mig": 1 if toggle else 0})
    found = read(source)
    if toggle:
        assert found["GPU-mock-1"].fault == "it is divided: its MIG instances are lent"
        assert [(found[f"MIG-{n}"].mig, found[f"MIG-{n}"].temperature_c) for n in range(2)] == [("1g.5gb", 42)] * 2
    else:
        assert faults(found) == ["MIG-0", "MIG-1"]
        assert found["MIG-0"].fault == "NVML does not find it any more"


def test_what_befalls_a_divided_card_befalls_its_parts(source: NvmlSource, mock_cards: Cards) -> None:
    mock_cards.set({"1.mig": 1, "1.instances": 1, "1.mig0.uuid": "MIG-0", "1.mig0.total": 5 << 30, "1.mig0.used": 0})
    read(source)
    mock_cards.set({"xids": "1:79"})
    found = read(source)
    assert found["MIG-0"].xids == (79,)
    assert found["GPU-mock-0"].xids == ()


def test_a_card_that_fell_off_the_bus_says_so_though_it_cannot_be_read(source: NvmlSource, mock_cards: Cards) -> None:
    read(source)
    mock_cards.set({"1.lost": 15, "xids": "1:79"})
    found = read(source)
    assert (found["GPU-mock-1"].xids, faults(found)) == ((79,), ["GPU-mock-1"])
    assert read(source)["GPU-mock-1"].xids == ()


def test_an_error_is_heard_though_another_card_hangs_before(source: NvmlSource, mock_cards: Cards) -> None:
    read(source)
    mock_cards.set({"0.temp.hang": 0, "xids": "1:48"})
    found = read(source)
    assert (found["GPU-mock-1"].xids, faults(found)) == ((48,), ["GPU-mock-0"])


def test_the_drivers_errors_come_with_the_next_reading_once(source: NvmlSource, mock_cards: Cards) -> None:
    read(source)
    mock_cards.set({"xids": "1:48,1:31"})
    assert [read(source)["GPU-mock-1"].xids for _ in range(2)] == [(48, 31), ()]


def test_the_word_between_two_processes_says_the_call_and_its_time() -> None:
    fd = CallSlot.make()
    one, other = CallSlot(fd), CallSlot(fd)
    one.enter("x" * 100)
    call, seconds = other.now()
    assert call == "x" * 56
    assert 0 <= seconds < 60
    one.close()
    other.close()
    os.close(fd)
