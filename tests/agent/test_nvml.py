"""The real `pynvml` against a library with NVML's ABI: what is read, and what is not taken for a reading."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.agent.conftest import GIB, Cards

#: Reads cards in a process of its own; for each line on stdin once more. Prints readings, or why there are none.
_READER = """
import json, sys
from dataclasses import asdict
from agent.sources import NoGpuError
from agent.sources.nvml import NvmlSource
now = [0.0]
source = NvmlSource(clock=lambda: now[0])
for line in sys.stdin:
    now[0] += float(line)
    try:
        print(json.dumps([asdict(reading) for reading in source.read(lambda uuids: {})]), flush=True)
    except NoGpuError as error:
        print(json.dumps(str(error)), flush=True)
"""


@pytest.fixture
def read(nvml_library: Path, mock_cards: Cards) -> Any:
    """Reads once, some seconds after the last time."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(nvml_library), "NVML_MOCK": str(mock_cards.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", _READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    told, heard = process.stdin, process.stdout
    assert told is not None
    assert heard is not None

    def once(seconds: float = 3.0) -> Any:
        told.write(f"{seconds}\n")
        told.flush()
        return json.loads(heard.readline())

    yield once
    told.close()
    assert process.wait(timeout=10) == 0


Read = Callable[..., Any]


def test_a_healthy_card_is_read_whole(read: Read, mock_cards: Cards) -> None:
    mock_cards.set({"1.procs": "4242:1048576,4243:2097152", "1.drawing": "4242:5242880"})
    first, second = read()
    assert (first["uuid"], first["name"], first["index"]) == ("GPU-mock-0", "Mock RTX 8GB", 0)
    assert (first["memory_total_bytes"], first["memory_used_bytes"]) == (8 * GIB, GIB // 4)
    assert (first["memory_reserved_bytes"], first["temperature_c"]) == (GIB // 8, 41)
    assert (first["utilization_percent"], first["power_mw"], first["processes"]) == (7, 30_000, [])
    listed = [(process["pid"], process["memory_bytes"]) for process in second["processes"]]
    assert listed == [(4242, 5242880), (4243, 2097152)]
    assert first["fault"] == second["fault"] == ""


def test_a_lost_card_fails_alone_and_comes_back(read: Read, mock_cards: Cards) -> None:
    read()
    mock_cards.set({"0.lost": 15})
    lost, fine = read()
    assert (lost["uuid"], lost["fault"], lost["temperature_c"]) == ("GPU-mock-0", "NVML: GPU is lost", None)
    assert (fine["uuid"], fine["fault"], fine["temperature_c"]) == ("GPU-mock-1", "", 42)
    mock_cards.set({"0.lost": None})
    assert [reading["fault"] for reading in read()] == ["", ""]


def test_a_card_that_fell_off_the_bus_is_missed_though_the_other_takes_its_index(read: Read, mock_cards: Cards) -> None:
    read()
    mock_cards.set({"count": 1, **{f"0.{name}": mock_cards.values[f"1.{name}"] for name in ("uuid", "temp")}})
    readings = {reading["uuid"]: reading for reading in read()}
    assert readings["GPU-mock-0"]["fault"] == "NVML does not find it any more"
    assert (readings["GPU-mock-1"]["fault"], readings["GPU-mock-1"]["temperature_c"]) == ("", 42)
    assert len(readings) == 2


@pytest.mark.parametrize(("reading", "field"), [
    ("temp", "temperature_c"), ("power", "power_mw"), ("load", "utilization_percent"),
])  # fmt: skip
def test_what_a_card_does_not_offer_is_absent(read: Read, mock_cards: Cards, reading: str, field: str) -> None:
    mock_cards.set({f"0.{reading}.error": 3})
    first, second = read()
    assert (first[field], first["fault"]) == (None, "")
    assert second[field] is not None


@pytest.mark.parametrize("garbage", [255, -1, -100, 4_000_000])
def test_a_temperature_that_cannot_be_is_none(read: Read, mock_cards: Cards, garbage: int) -> None:
    mock_cards.set({"0.temp": garbage})
    assert read()[0]["temperature_c"] is None


def test_more_used_than_there_is_is_no_reading(read: Read, mock_cards: Cards) -> None:
    mock_cards.set({"0.used": 9 * GIB})
    assert read()[0]["memory_used_bytes"] is None


def test_a_driver_that_does_not_tell_what_a_process_uses(read: Read, mock_cards: Cards) -> None:
    mock_cards.set({"0.procs": "4242"})
    (process,) = read()[0]["processes"]
    assert (process["pid"], process["memory_bytes"]) == (4242, None)


def test_a_card_without_any_list_of_processes(read: Read, mock_cards: Cards) -> None:
    mock_cards.set({"0.procs.error": 3, "0.drawing.error": 3, "0.mps.error": 3})
    assert read()[0]["processes"] is None


def test_an_old_driver_has_the_old_memory_call_only(read: Read, mock_cards: Cards) -> None:
    mock_cards.set({"0.memory.error": 13})
    first, _ = read()
    assert (first["memory_used_bytes"], first["memory_reserved_bytes"]) == (GIB // 4 + GIB // 8, None)


def test_a_driver_that_is_not_loaded_is_tried_again_after_a_pause(read: Read, mock_cards: Cards) -> None:
    mock_cards.set({"driver": 9})
    assert "Driver Not Loaded" in read()
    mock_cards.set({"driver": 0})
    assert "Driver Not Loaded" in read(seconds=0.5)  # too early to ask again
    assert len(read(seconds=1.0)) == 2


def test_a_driver_that_is_restarted_under_way_is_opened_anew(read: Read, mock_cards: Cards) -> None:
    assert len(read()) == 2
    mock_cards.set({"driver": 9})
    assert "Driver Not Loaded" in read()
    mock_cards.set({"driver": 0})
    assert len(read(seconds=60)) == 2


@pytest.mark.parametrize("error", [15, 16])  # lost, reset required
def test_one_lost_card_never_takes_the_others_with_it(read: Read, mock_cards: Cards, error: int) -> None:
    read()
    mock_cards.set({"0.lost": error})
    for _ in range(3):
        assert [bool(reading["fault"]) for reading in read(seconds=60)] == [True, False]
    mock_cards.set({"0.lost": None})
    assert [reading["fault"] for reading in read()] == ["", ""]


def test_a_lost_card_is_looked_for_by_opening_anew_but_seldom(read: Read, mock_cards: Cards) -> None:
    read()
    mock_cards.set({"0.opens": 2})
    assert [read(seconds=5)[0]["fault"] for _ in range(3)] == ["NVML: GPU is lost"] * 3
    read(seconds=60)
    assert [reading["fault"] for reading in read(seconds=1)] == ["", ""]


def test_an_answer_that_makes_no_sense_is_one_cards_trouble(read: Read, mock_cards: Cards) -> None:
    mock_cards.set({"0.name": "\xff\xfe"})  # no UTF-8
    first, second = read()
    assert (first["uuid"], second["fault"]) == ("GPU-mock-0", "")
    assert "makes no sense" in first["fault"]


def test_a_card_without_a_usable_uuid_is_left_out(read: Read, mock_cards: Cards) -> None:
    mock_cards.set({"0.uuid": "no such name"})
    (only,) = read()
    assert (only["uuid"], only["fault"]) == ("GPU-mock-1", "")


def test_a_host_whose_only_card_was_never_reached_says_why(read: Read, mock_cards: Cards) -> None:
    mock_cards.set({"count": 1, "0.lost": 15})
    assert read() == "NVML: GPU is lost"


def test_cards_that_swap_their_indexes_keep_their_names(read: Read, mock_cards: Cards) -> None:
    read()
    mock_cards.set({"0.uuid": "GPU-mock-1", "0.temp": 60, "1.uuid": "GPU-mock-0", "1.temp": 50})
    found = {reading["uuid"]: (reading["index"], reading["temperature_c"], reading["fault"]) for reading in read()}
    assert found == {"GPU-mock-0": (1, 50, ""), "GPU-mock-1": (0, 60, "")}


def test_a_host_without_cards_says_so(read: Read, mock_cards: Cards) -> None:
    mock_cards.set({"count": 0})
    assert read() == "NVML finds no GPU on this host"
