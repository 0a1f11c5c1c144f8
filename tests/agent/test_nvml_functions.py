"""Every function of NVML that is asked, with every error and with garbage: one answer that fails costs nothing else.

Cases run in a child process, where the real `pynvml` finds the mock library; the ``child_…`` functions are its work.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pynvml
import pytest

from agent.sources import NoGpuError, Reading
from agent.sources.nvml import NvmlSource
from agent.sources.nvml_card import Card, XidWatch, mig_devices
from agent.sources.nvml_child import Reader
from broker.hardware import FIELDS, WORDS
from tests.agent.conftest import GIB, Cards

#: What a card offers that offers everything, beside what every mock card has.
WHOLE: dict[str, object] = {
    "slowdown": 90, "shutdown": 95, "maximum": 83, "margin": 40, "memory_temp": 55, "fan": 30, "memory_load": 3,
    "limit": 350_000, "energy": 123_456_789_012, "clock_sm": 1410, "clock_memory": 1215, "clock_sm_max": 1980,
    "clock_memory_max": 2619, "reasons": 4 | 32, "ecc": 1, "corrected": 5, "uncorrected": 1, "corrected_total": 50,
    "uncorrected_total": 2, "rows": "3 1 0 0", "pcie_generation": 4, "pcie_width": 8, "pcie_generation_max": 5,
    "pcie_width_max": 16, "pcie_tx": 1500, "pcie_rx": 2500, "pcie_replays": 7, "nvlinks": 18, "nvlinks_down": 1,
    "nvlink_errors": 2, "recovery": 0, "capability": "9.0", "procs": "4242:1048576,4243", "drawing": "4242:5242880",
    "mps": "4244:2097152", "procload": "4242:61,4244:7",
}  # fmt: skip
#: What each call feeds: if it fails, this is absent and nothing else is.
CALLS = {
    "temp": {"temperature_c"}, "margin": {"margin_c"}, "threshold": {"slowdown_c", "shutdown_c", "maximum_c"},
    "load": {"utilization_percent", "memory_utilization_percent"}, "power": {"power_mw"}, "limit": {"power_limit_mw"},
    "energy": {"energy_mj"}, "fan": {"fan_percent"}, "clocks": {"clock_sm_mhz", "clock_memory_mhz"},
    "max_clocks": {"clock_sm_max_mhz", "clock_memory_max_mhz"}, "reasons": {"clock_reasons"}, "ecc": {"ecc"},
    "ecc_errors": {"ecc_corrected", "ecc_uncorrected", "ecc_corrected_total", "ecc_uncorrected_total"},
    "rows": {"rows_corrected", "rows_uncorrected", "rows_pending", "rows_failed"},
    "pcie_generation": {"pcie_generation"}, "pcie_width": {"pcie_width"}, "pcie_replays": {"pcie_replays"},
    "pcie_generation_max": {"pcie_generation_max"}, "pcie_width_max": {"pcie_width_max"},
    "pcie": {"pcie_tx_bytes_s", "pcie_rx_bytes_s"}, "nvlink": {"nvlinks", "nvlink_errors"},
    "nvlink_errors": {"nvlink_errors"}, "fields": {"memory_temperature_c", "recovery"},
    "memory_temp": {"memory_temperature_c"}, "recovery": {"recovery"}, "capability": {"capability"},
    "procs": {"processes", "shares"}, "drawing": {"processes", "shares"}, "mps": {"processes", "shares"},
    "procload": {"shares"}, "memory": {"memory_total_bytes", "memory_used_bytes", "memory_reserved_bytes"},
    "name": {"name"}, "uuid": {"uuid"}, "handle": {"handle"},
}  # fmt: skip
SYSTEM = ("system.version", "system.count", "system.init", "system.shutdown")
ERRORS = (*range(1, 29), 999)
NOT_OFFERED, LOST, OLD_CALL_HELPS = (3, 4, 13, 25), (1, 9, 15, 16, 18), (13, 25)
#: Calls that have an older form, which is asked where the driver does not know the newer one.
HAVE_OLDER = ("temp", "reasons", "ecc_errors", "procs", "drawing", "mps")
LISTS = ("procs", "drawing", "mps")


class Inside:
    """Asks NVML in this very process: thousands of cases in seconds."""

    def __init__(self) -> None:
        self.asked, self._reader = False, Reader()
        self._told: Iterator[str] = iter(())

    def ask(self, wish: dict[str, Any]) -> None:
        self.asked, self._told = True, self._reader.look(wish["now"], wish["skip"], wish["late"], wish["costly"])

    def answers(self, ends: float) -> Iterator[tuple[str, str]]:
        for told in self._told:
            kind, _, text = told.partition(" ")
            yield kind, text
        self.asked = False

    def at(self) -> str:
        return "inside"

    def end(self) -> None:
        self._reader.close()


def whole_cards() -> Cards:
    cards = Cards(Path(os.environ["NVML_MOCK"]))
    own = {f"{card}.{name}": value for card in range(2) for name, value in WHOLE.items()}
    cards.set({"version": "580.95.05", **own})
    return cards


def flat(reading: Reading) -> dict[str, Any]:
    """A reading by names, without what is absent."""
    found = {name: value for name, value in asdict(reading).items() if value is not None and value != ""}
    found |= found.pop("hardware")
    processes = found.pop("processes", None)
    if processes is not None:
        found["processes"] = [[each["pid"], each["memory_bytes"]] for each in processes]
        found["shares"] = [each["utilization_percent"] for each in processes]
    return found


def child_table() -> dict[str, Any]:
    """What is wrong about each call: it fails from the beginning on, with each error and with garbage, then heals."""
    cards = whole_cards()
    healthy = [flat(reading) for reading in NvmlSource(start=Inside).read(lambda uuids: {})]
    wrong: dict[str, list[str]] = {}
    for call in (*(f"0.{name}" for name in CALLS), *SYSTEM):
        wrong[call] = []
        garbage = () if call in ("system.init", "system.shutdown") else ("garbage",)
        for fault in (*ERRORS, *garbage):
            key, value = (f"{call}.garbage", 1) if fault == "garbage" else (f"{call}.error", fault)
            wrong[call] += [f"{fault}: {what}" for what in complaints(cards, call, fault, {key: value}, healthy)]
    return {"healthy": healthy, "wrong": wrong}


def complaints(
    cards: Cards, call: str, fault: int | str, change: Mapping[str, object], healthy: list[dict[str, Any]]
) -> Iterator[str]:
    now = [100.0]
    source = NvmlSource(clock=lambda: now[0], start=Inside)

    def read() -> list[dict[str, Any]] | str:
        now[0] += 60
        try:
            return [flat(reading) for reading in source.read(lambda uuids: {})]
        except NoGpuError as error:
            return str(error)

    cards.set(dict(change))
    first = read()
    cards.set(dict.fromkeys(change))
    again = read()
    if again != healthy and read() != healthy:  # a lost card is looked for by opening anew, after this reading
        yield f"does not heal: {again}"
    source.close()
    if call in ("system.count", "system.init"):
        if not isinstance(first, str):
            yield f"read as {first}"
        return
    if isinstance(first, str):
        yield first
        return
    if call == "system.version":
        for reading, whole in zip(first, healthy, strict=True):
            if fault in LOST:
                yield from () if reading.get("fault") else ("no fault",)
            else:
                yield from differences(reading, whole, {"driver"})
        return
    if first[-1] != healthy[1]:
        yield f"the other card differs: {first[-1]}"
    if call == "system.shutdown":
        yield from differences(first[0], healthy[0], set())
    else:
        mine = first[0] if len(first) == 2 else None
        yield from judged(call.removeprefix("0."), fault, mine, healthy[0])


def judged(call: str, fault: int | str, mine: dict[str, Any] | None, whole: dict[str, Any]) -> Iterator[str]:
    """What is wrong about the reading of the card whose call fails."""
    if call in ("handle", "uuid"):
        if mine is not None:
            yield f"a card without identity: {mine}"
    elif mine is None:
        yield "the card is not told"
    elif fault in LOST or (call in ("memory", "name") and isinstance(fault, int) and fault not in NOT_OFFERED):
        yield from () if set(mine) <= {"uuid", "index", "name", "fault", "xids"} and mine["fault"] else (f"{mine}",)
    elif call == "name":
        if not (mine.get("fault") if fault == "garbage" else mine["name"] == "NVIDIA GPU"):
            yield f"{mine}"
    elif call == "memory" and fault in OLD_CALL_HELPS:
        if mine["memory_used_bytes"] != GIB // 4 + GIB // 8:
            yield f"{mine['memory_used_bytes']} bytes"
        yield from differences(mine | {"memory_used_bytes": GIB // 4}, whole, {"memory_reserved_bytes"})
    elif call == "memory":  # what a process holds cannot be judged without
        if {bytes_ for _, bytes_ in mine["processes"]} != {None}:
            yield f"processes: {mine['processes']}"
        yield from differences(mine | {"processes": whole["processes"]}, whole, CALLS[call])
    elif call in HAVE_OLDER and fault in OLD_CALL_HELPS:
        yield from differences(mine, whole, set())
    elif call in LISTS and fault in NOT_OFFERED:
        without = {name: value for name, value in mine.items() if name not in ("processes", "shares")}
        if not 0 < len(mine["processes"]) <= 3 or mine["processes"] == whole["processes"]:
            yield f"processes: {mine['processes']}"
        yield from differences(without, whole, CALLS[call])
    elif call == "procload":
        if mine["shares"] != [None] * 3:
            yield f"shares: {mine['shares']}"
        yield from differences(mine | {"shares": whole["shares"]}, whole, set())
    else:
        yield from differences(mine, whole, CALLS[call])


def differences(mine: dict[str, Any], whole: dict[str, Any], absent: set[str]) -> Iterator[str]:
    for name in whole.keys() | mine.keys():
        if name in absent:
            if name in mine:
                yield f"{name} is {mine[name]}"
        elif mine.get(name) != whole.get(name):
            yield f"{name} is {mine.get(name)}, not {whole.get(name)}"


def child(work: str, library: Path, path: Path, *, aborts: bool = False) -> Any:
    """What a function of this module gives in a process of its own."""
    code = f"import json; from tests.agent.test_nvml_functions import {work} as work; print(json.dumps(work()))"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "LD_LIBRARY_PATH": str(library), "NVML_MOCK": str(path)},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if aborts:
        return ran.returncode
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def table(nvml_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return child("child_table", nvml_library, tmp_path_factory.mktemp("table") / "cards")


def test_a_card_that_offers_everything_is_read_whole(table: Any) -> None:
    for index, reading in enumerate(table["healthy"]):
        assert reading.keys() >= FIELDS.keys()
        assert {name for name in FIELDS if isinstance(reading[name], str)} == WORDS
        wanted = {
            "uuid": f"GPU-mock-{index}", "capability": "9.0", "driver": "580.95.05", "temperature_c": 41 + index,
            "slowdown_c": 90, "shutdown_c": 95, "maximum_c": 83, "margin_c": 40, "memory_temperature_c": 55,
            "fan_percent": 30, "memory_utilization_percent": 3, "power_limit_mw": 350_000,
            "energy_mj": 123_456_789_012, "clock_sm_mhz": 1410, "clock_memory_mhz": 1215, "clock_sm_max_mhz": 1980,
            "clock_memory_max_mhz": 2619, "clock_reasons": "power_cap,sw_thermal", "ecc": 1, "ecc_corrected": 5,
            "ecc_uncorrected": 1, "ecc_corrected_total": 50, "ecc_uncorrected_total": 2, "rows_corrected": 3,
            "rows_uncorrected": 1, "rows_pending": 0, "rows_failed": 0, "pcie_generation": 4, "pcie_width": 8,
            "pcie_generation_max": 5, "pcie_width_max": 16, "pcie_tx_bytes_s": 1_500_000,
            "pcie_rx_bytes_s": 2_500_000, "pcie_replays": 7, "nvlinks": 17, "nvlink_errors": 17 * 2 * 2,
            "recovery": "none", "shares": [61, None, 7],
            "processes": [[4242, 5_242_880], [4243, None], [4244, 2_097_152]],
        }  # fmt: skip
        assert {name: reading[name] for name in wanted} == wanted


@pytest.mark.parametrize("call", [*(f"0.{name}" for name in CALLS), *SYSTEM])
def test_a_call_that_fails_costs_nothing_but_its_own_answer(table: Any, call: str) -> None:
    assert table["wrong"][call] == []


def opened() -> tuple[Cards, list[Any]]:
    cards = whole_cards()
    pynvml.nvmlInit()
    return cards, [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(2)]


def child_xids() -> list[Any]:
    cards, handles = opened()
    told: list[Any] = []
    watch = XidWatch()
    told.append(watch.drain())
    for index, handle in enumerate(handles):
        watch.register(handle, f"GPU-mock-{index}")
        watch.register(handle, f"GPU-mock-{index}")
    told.append(watch.drain())
    story = "0:79,1:31,0:48,?:13"
    cards.set({"xids": story})
    told += [watch.drain(), watch.drain()]
    for change in ({"system.wait.error": error} for error in ERRORS):
        cards.set(change)
        assert watch.drain() == {}
    cards.set({"system.wait.error": None, "system.wait.garbage": 1})
    assert watch.drain() == {}
    many = [str(100 + at) for at in range(300)]
    cards.set({"system.wait.garbage": None, "xids": ",".join([story, *(f"1:{xid}" for xid in many)])})
    told += [{uuid: len(xids) for uuid, xids in watch.drain().items()} for _ in range(3)]
    watch.close()
    return [*told, watch.drain()]


def test_xids_are_told_once_and_by_card(nvml_library: Path, tmp_path: Path) -> None:
    assert child("child_xids", nvml_library, tmp_path / "cards") == [
        {}, {}, {"GPU-mock-0": [79, 48], "GPU-mock-1": [31], "": [13]}, {},
        {"GPU-mock-1": 256}, {"GPU-mock-1": 44}, {}, {},
    ]  # fmt: skip


def child_no_xids() -> list[Any]:
    cards, handles = opened()
    told: list[Any] = []
    changes = [{f"{call}.error": error} for call in ("0.events", "0.register", "system.eventset") for error in ERRORS]
    for change in [{"0.events": 0}, {"0.events": 2}, *changes]:
        cards.set({"xids": None, **change})
        watch = XidWatch()
        watch.register(handles[0], "GPU-mock-0")
        cards.set({"xids": "0:79"})
        told.append(watch.drain())
        watch.close()
        cards.set(dict.fromkeys(change))
    return told


def test_a_card_without_events_is_quietly_without(nvml_library: Path, tmp_path: Path) -> None:
    assert child("child_no_xids", nvml_library, tmp_path / "cards") == [{}] * (2 + 3 * len(ERRORS))


def child_mig() -> list[Any]:
    cards, (handle, _) = opened()
    told: list[Any] = [mig_devices(handle)]
    one = {"uuid": "MIG-a", "name": "Mock H200 MIG 1g.18gb", "total": 16 * GIB, "used": GIB, "reserved": 0,
           "procs": "4243:1024"}  # fmt: skip
    other = {"uuid": "MIG-b", "name": "Mock", "slices": 2, "compute_slices": 1, "memory_mb": 9856}
    instances = {f"0.mig{at}.{name}": value for at, own in enumerate((one, other)) for name, value in own.items()}
    cards.set({"0.mig": 1, "0.instances": 2, **instances})
    found = mig_devices(handle)
    told.append([[uuid, profile] for _, uuid, profile in found])
    instance = Card(found[0][0], "MIG-a", 0, "Mock", mig=found[0][2], parent=handle)
    told.append(flat(instance.read(costly=True)))
    for change in ({"0.mig_handle.error": 999}, {"0.mig_count.error": 3}, {"0.mig_count.garbage": 1},
                   {"0.mig.error": 3}, {"0.mig.garbage": 1}, {"0.mig": 0}):  # fmt: skip
        cards.set(change)
        told.append(mig_devices(handle))
        cards.set({**dict.fromkeys(change), "0.mig": 1})
    cards.set({"0.mig1.uuid.error": 999})
    told.append([uuid for _, uuid, _ in mig_devices(handle)])
    cards.set({"0.lost": 15})
    try:
        mig_devices(handle)
    except pynvml.NVMLError_GpuIsLost:
        told.append("lost")
    return told


def test_mig_instances_have_memory_of_their_own_and_heat_of_their_card(nvml_library: Path, tmp_path: Path) -> None:
    off, on, reading, *broken, one_left, lost = child("child_mig", nvml_library, tmp_path / "cards")
    assert (off, on) == ([], [["MIG-a", "1g.18gb"], ["MIG-b", "1c.2g.10gb"]])
    wanted = {"uuid": "MIG-a", "mig": "1g.18gb", "memory_total_bytes": 16 * GIB, "memory_used_bytes": GIB,
              "temperature_c": 41, "power_mw": 30_000, "slowdown_c": 90, "capability": "9.0",
              "processes": [[4243, 1024]], "shares": [None]}  # fmt: skip
    assert {name: reading[name] for name in wanted} == wanted
    assert "utilization_percent" not in reading
    assert broken == [[]] * 6
    assert (one_left, lost) == (["MIG-a"], "lost")


def child_under_way() -> list[Any]:
    cards, (handle, _) = opened()
    card = Card(handle, "GPU-mock-0", 0, "Mock")

    def read(costly: bool, changes: dict[str, object] | None = None) -> dict[str, Any]:
        cards.set(changes)
        return flat(card.read(costly))

    def some(reading: dict[str, Any], *names: str) -> list[Any]:
        return [reading.get(name) for name in names]

    told = [some(read(False, {"0.procload_at": 1000}), "slowdown_c", "clock_sm_mhz", "fan_percent", "shares")]
    told.append(some(read(True), "fan_percent", "shares"))
    seldom: dict[str, object] = {
        "0.fan": 99, "0.clock_sm": 500, "0.procload_at": 2000, "0.pcie.crash": 1, "0.threshold.crash": 1,
    }  # fmt: skip
    told.append(some(read(False, seldom), "fan_percent", "clock_sm_mhz", "shares", "pcie_tx_bytes_s"))
    told.append(some(read(True, {"0.pcie.crash": None, "0.fan.error": 999}), "fan_percent", "slowdown_c"))
    heats = ((50, -1), (88, -1), (50, -3), (50, 0), (50, 4000))
    told += [some(read(False, {"0.temp": heat, "0.margin": margin}), "margin_c") for heat, margin in heats]
    masks = (0, 1, 1 << 20, 0x7FF, 0xFFFFFFFF)
    told += [some(read(False, {"0.reasons": mask}), "clock_reasons") for mask in masks]
    told += [some(read(True, {"0.recovery": wish}), "recovery") for wish in range(1, 9)]
    nothing = {"0.clock_sm": 0, "0.memory_temp": 0, "0.limit": 0, "0.rows": "0 0 1 7", "0.nvlinks_down": 18}
    names = "clock_sm_mhz", "memory_temperature_c", "rows_pending", "rows_failed", "nvlinks", "nvlink_errors"
    told.append(some(read(True, nothing), *names))
    began = time.monotonic()
    read(False, {"0.power.hang": 0.2})
    told.append(time.monotonic() - began >= 0.2)
    cards.set({"count": 0})
    try:
        card.read(False)
    except pynvml.NVMLError_GpuIsLost:
        told.append("lost")
    return told


def test_what_a_card_says_under_way(nvml_library: Path, tmp_path: Path) -> None:
    told = child("child_under_way", nvml_library, tmp_path / "cards")
    assert told[:4] == [
        [90, 1410, None, [61, None, 7]], [30, [None, None, None]], [30, 500, [61, None, 7], 1_500_000], [None, 90],
    ]  # fmt: skip
    assert told[4:9] == [[None], [-1], [-3], [0], [None]]
    every = ("idle,application_clocks,power_cap,hw_slowdown,sync_boost,sw_thermal,hw_thermal,power_brake,"
             "display_clocks,board_limit,reliability")  # fmt: skip
    assert told[9:14] == [["none"], ["idle"], ["other"], [every], [None]]
    words = ["reset", "reboot", "drain", "drain", "drain", "reset", "reboot", None]
    assert told[14:22] == [[word] for word in words]
    assert told[22:] == [[None, None, 1, None, 0, None], True, "lost"]


def child_old() -> list[Any]:
    whole_cards()
    return [flat(reading) for reading in NvmlSource(start=Inside).read(lambda uuids: {})]


def test_an_old_driver_is_read_by_the_old_calls(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler
    source = Path(__file__).with_name("nvml_mock.c")
    library = str(tmp_path / "libnvidia-ml.so.1")
    subprocess.run([compiler, "-shared", "-fPIC", "-DOLD_DRIVER", "-o", library, str(source)], check=True)
    reading, _ = child("child_old", tmp_path, tmp_path / "cards")
    too_new = {"margin_c", "memory_temperature_c", "recovery", "rows_corrected", "rows_uncorrected", "rows_pending",
               "rows_failed"}  # fmt: skip
    assert FIELDS.keys() - reading.keys() == too_new
    assert (reading["temperature_c"], reading["memory_used_bytes"]) == (41, GIB // 4 + GIB // 8)
    assert reading["processes"] == [[4242, 5_242_880], [4243, None]]
    assert "memory_reserved_bytes" not in reading


def child_crash() -> list[Any]:
    whole_cards().set({"1.fan.crash": 1})
    return [flat(reading) for reading in NvmlSource(start=Inside).read(lambda uuids: {})]


def test_the_mock_takes_its_process_with_it(nvml_library: Path, tmp_path: Path) -> None:
    assert child("child_crash", nvml_library, tmp_path / "cards", aborts=True) == -6
