"""One card through NVML: all that it tells of itself, by name and unit. What it does not offer is absent, never 0.

The calls, their units and their errors: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import ceil
from typing import Any, NamedTuple

import pynvml

from agent.sources import TEMPERATURES, Process, Reading
from agent.sources.nvml_calls import LOST, NOT_AVAILABLE, Call, ask, field_value, newest, number, query, quietly
from agent.sources.nvml_events import XidWatch

__all__ = ["LOST", "Card", "XidWatch", "mig_devices", "query"]

#: Counters beyond it would not be exact in the ledger.
_MOST = 1 << 53
#: Linux gives no pid beyond it (PID_MAX_LIMIT).
_LARGEST_PID = 1 << 22
#: A margin of -1 °C has the same bits as "not available": believed of a card that is at least this hot.
_HOT_C = 60

#: Bits of nvmlClocksEventReasons, https://docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html
_REASONS = (
    "idle", "application_clocks", "power_cap", "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal", "power_brake",
    "display_clocks", "board_limit", "reliability",
)  # fmt: skip
#: nvmlDeviceGpuRecoveryAction_t: none, reset, node reboot, drain peers, drain and reset, IMEX domain, bus, system.
_RECOVERY = ("none", "reset", "reboot", "drain", "drain", "drain", "reset", "reboot")


class _Number(NamedTuple):
    """A whole number of a card: its name, the calls that give it, the newest first, and what it may be."""

    field: str
    calls: tuple[Call, ...]
    low: int
    high: int
    scale: int = 1


def _ecc(field: str, kind: int, since: int) -> _Number:
    whole = (pynvml.nvmlDeviceGetTotalEccErrors, kind, since)
    memory_only = (pynvml.nvmlDeviceGetMemoryErrorCounter, kind, since, pynvml.NVML_MEMORY_LOCATION_DRAM)
    return _Number(field, (whole, memory_only), 0, _MOST)


_HEAT = (pynvml.nvmlDeviceGetTemperatureV, pynvml.NVML_TEMPERATURE_GPU)
_OLD_HEAT = (pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU)
_LIMIT = pynvml.nvmlDeviceGetTemperatureThreshold
_CLOCK, _CLOCK_MAX = pynvml.nvmlDeviceGetClockInfo, pynvml.nvmlDeviceGetMaxClockInfo
_SM, _MEM = pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM
_BAD, _WORSE = pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
_PCIE = pynvml.nvmlDeviceGetPcieThroughput

#: What cannot change while the driver is loaded.
_ONCE = (
    _Number("slowdown_c", ((_LIMIT, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),), 1, TEMPERATURES.stop - 1),
    _Number("shutdown_c", ((_LIMIT, pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),), 1, TEMPERATURES.stop - 1),
    _Number("maximum_c", ((_LIMIT, pynvml.NVML_TEMPERATURE_THRESHOLD_GPU_MAX),), 1, TEMPERATURES.stop - 1),
    _Number("power_limit_mw", ((pynvml.nvmlDeviceGetEnforcedPowerLimit,),), 1, 10_000_000),
    _Number("clock_sm_max_mhz", ((_CLOCK_MAX, _SM),), 1, 100_000),
    _Number("clock_memory_max_mhz", ((_CLOCK_MAX, _MEM),), 1, 100_000),
    _Number("pcie_generation_max", ((pynvml.nvmlDeviceGetMaxPcieLinkGeneration,),), 1, 32),
    _Number("pcie_width_max", ((pynvml.nvmlDeviceGetMaxPcieLinkWidth,),), 1, 64),
)
#: What may change at any moment and costs microseconds.
_ALWAYS = (
    _Number("clock_sm_mhz", ((_CLOCK, _SM),), 1, 100_000),
    _Number("clock_memory_mhz", ((_CLOCK, _MEM),), 1, 100_000),
    _ecc("ecc_corrected", _BAD, pynvml.NVML_VOLATILE_ECC),
    _ecc("ecc_uncorrected", _WORSE, pynvml.NVML_VOLATILE_ECC),
)
#: What costs, or changes seldom. PCIe is counted over 20 ms a direction, in thousands of bytes a second.
_SELDOM = (
    _Number("fan_percent", ((pynvml.nvmlDeviceGetFanSpeed,),), 0, 1000),
    _Number("energy_mj", ((pynvml.nvmlDeviceGetTotalEnergyConsumption,),), 0, _MOST),
    _ecc("ecc_corrected_total", _BAD, pynvml.NVML_AGGREGATE_ECC),
    _ecc("ecc_uncorrected_total", _WORSE, pynvml.NVML_AGGREGATE_ECC),
    _Number("pcie_generation", ((pynvml.nvmlDeviceGetCurrPcieLinkGeneration,),), 1, 32),
    _Number("pcie_width", ((pynvml.nvmlDeviceGetCurrPcieLinkWidth,),), 1, 64),
    _Number("pcie_tx_bytes_s", ((_PCIE, pynvml.NVML_PCIE_UTIL_TX_BYTES),), 0, 1 << 31, 1000),
    _Number("pcie_rx_bytes_s", ((_PCIE, pynvml.NVML_PCIE_UTIL_RX_BYTES),), 0, 1 << 31, 1000),
    _Number("pcie_replays", ((pynvml.nvmlDeviceGetPcieReplayCounter,),), 0, 1 << 31),
)
#: The lists of processes, each with its older form of the same layout.
_LISTS: tuple[tuple[Call, ...], ...] = (
    ((pynvml.nvmlDeviceGetComputeRunningProcesses_v3,), (pynvml.nvmlDeviceGetComputeRunningProcesses_v2,)),
    ((pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3,), (pynvml.nvmlDeviceGetGraphicsRunningProcesses_v2,)),
    ((pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3,), (pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v2,)),
)


def _numbers(handle: Any, wanted: tuple[_Number, ...]) -> Iterator[tuple[str, int]]:
    for field, calls, low, high, scale in wanted:
        found = number(ask(handle, *calls), low, high)
        if found is not None:
            yield field, found * scale


class Card:
    """One card, or one MIG instance of the card ``parent``: memory and processes are its own, all else the parent's.

    A handle is good until NVML is closed; so is a card.
    """

    def __init__(self, handle: Any, uuid: str, index: int, name: str, mig: str = "", parent: Any = None) -> None:
        """Nothing is asked before the first reading."""
        self.handle, self.uuid, self.index, self.name, self.mig = handle, uuid, index, name, mig
        self.capability = ""
        self.parent = parent
        self._once: dict[str, int | str] = {}
        self._seldom: dict[str, int | str] = {}
        self._began = False
        self._sampled_at = 0

    @property
    def _body(self) -> Any:
        return self.handle if self.parent is None else self.parent

    def read(self, costly: bool) -> Reading:
        """Read the card; what takes long or changes seldom only if ``costly``, else as it was then.

        Raises:
            pynvml.NVMLError: the card or the driver is lost, or its memory cannot be read.
        """
        memory = query(pynvml.nvmlDeviceGetMemoryInfo, self.handle, pynvml.nvmlMemory_v2)
        if memory is None:  # a driver before 510: its `used` includes what the driver reserves
            memory = query(pynvml.nvmlDeviceGetMemoryInfo, self.handle)
        if costly or not self._began:
            self._ask_once()
            self._began = True
        if costly:
            self._seldom = dict(self._ask_seldom())
        load = ask(self.handle, (pynvml.nvmlDeviceGetUtilizationRates,))
        heat = ask(self._body, _HEAT, _OLD_HEAT)
        now = dict(_numbers(self._body, _ALWAYS)) | dict(self._momentary(load, heat))
        return Reading(
            uuid=self.uuid,
            index=self.index,
            name=self.name,
            memory_total_bytes=None if memory is None else int(memory.total),
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_reserved_bytes=getattr(memory, "reserved", None),
            temperature_c=heat,
            utilization_percent=None if load is None else int(load.gpu),
            power_mw=number(ask(self._body, (pynvml.nvmlDeviceGetPowerUsage,)), 0, 10_000_000),
            processes=self._processes(),
            capability=self.capability,
            mig=self.mig,
            hardware=self._once | self._seldom | now,
        )

    def _ask_once(self) -> None:
        """Ask what cannot change and is not known yet: a call that failed once may be answered the next time."""
        missing = tuple(wanted for wanted in _ONCE if wanted.field not in self._once)
        self._once |= dict(_numbers(self._body, missing))
        if not self.capability:
            found = ask(self.handle, (pynvml.nvmlDeviceGetCudaComputeCapability,))
            if found is None:
                found = ask(self._body, (pynvml.nvmlDeviceGetCudaComputeCapability,))
            if found is not None and 0 < found[0] < 100 and 0 <= found[1] < 100:
                self.capability = f"{found[0]}.{found[1]}"
        if "driver" not in self._once:
            version = quietly(query, pynvml.nvmlSystemGetDriverVersion)
            if version and version.isascii() and version.isprintable():
                self._once["driver"] = version

    def _momentary(self, load: Any, heat: Any) -> Iterator[tuple[str, int | str]]:
        share = None if load is None else number(load.memory, 0, 100)
        if share is not None:
            yield "memory_utilization_percent", share
        margin = ask(self._body, (pynvml.nvmlDeviceGetMarginTemperature,))
        hot = isinstance(heat, int) and _HOT_C <= heat < TEMPERATURES.stop
        if margin is not None and -TEMPERATURES.stop < margin < TEMPERATURES.stop and (margin != -1 or hot):
            yield "margin_c", margin
        memory_heat = number(field_value(self._body, pynvml.NVML_FI_DEV_MEMORY_TEMP), 1, TEMPERATURES.stop - 1)
        if memory_heat is not None:
            yield "memory_temperature_c", memory_heat
        reasons = ask(
            self._body,
            (pynvml.nvmlDeviceGetCurrentClocksEventReasons,),
            (pynvml.nvmlDeviceGetCurrentClocksThrottleReasons,),
        )
        if reasons is not None and reasons not in NOT_AVAILABLE:
            words = [word for bit, word in enumerate(_REASONS) if reasons >> bit & 1]
            yield "clock_reasons", ",".join(words) or ("other" if reasons else "none")

    def _ask_seldom(self) -> Iterator[tuple[str, int | str]]:
        yield from _numbers(self._body, _SELDOM)
        mode = ask(self._body, (pynvml.nvmlDeviceGetEccMode,))
        if mode is not None and mode[0] in (0, 1):
            yield "ecc", mode[0]
        rows = ask(self._body, (pynvml.nvmlDeviceGetRemappedRows,))
        if rows is not None:
            names = ("rows_corrected", "rows_uncorrected", "rows_pending", "rows_failed")
            for field, row, most in zip(names, rows, (1 << 31, 1 << 31, 1, 1), strict=True):
                if number(row, 0, most) is not None:
                    yield field, row
        wish = field_value(self._body, pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)
        if wish is not None and 0 <= wish < len(_RECOVERY):
            yield "recovery", _RECOVERY[wish]
        yield from self._nvlinks()

    def _nvlinks(self) -> Iterator[tuple[str, int]]:
        """How many links are up, and their errors; neither where a link does not tell, for it would be too few."""
        up, any_known = [], False
        for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
            try:
                state = query(pynvml.nvmlDeviceGetNvLinkState, self._body, link)
            except pynvml.NVMLError as error:
                if error.value == pynvml.NVML_ERROR_INVALID_ARGUMENT:
                    break  # the card has so many links and no more
                if error.value in LOST:
                    raise
                return
            if state is None:
                continue
            if state not in (0, 1):
                return
            any_known = True
            if state:
                up.append(link)
        if not any_known:
            return
        yield "nvlinks", len(up)
        kinds = (pynvml.NVML_NVLINK_ERROR_DL_REPLAY, pynvml.NVML_NVLINK_ERROR_DL_RECOVERY)
        counter = pynvml.nvmlDeviceGetNvLinkErrorCounter
        errors = [number(ask(self._body, (counter, link, kind)), 0, _MOST) for link in up for kind in kinds]
        known = [count for count in errors if count is not None]
        if known and len(known) == len(errors):
            yield "nvlink_errors", sum(known)

    def _processes(self) -> tuple[Process, ...] | None:
        """Every process on the card once, with the larger of its figures: one may compute and draw."""
        lists = quietly(lambda: [newest(self.handle, calls) for calls in _LISTS])
        if lists is None or all(one is None for one in lists):
            return None
        found: dict[int, int | None] = {}
        for process in (each for one in lists if one for each in one):
            if 0 < process.pid <= _LARGEST_PID:
                bytes_, before = process.usedGpuMemory, found.get(process.pid)
                found[process.pid] = bytes_ if before is None else max(before, bytes_ or 0)
        shares = self._shares() if found else {}
        return tuple(Process(pid, bytes_, shares.get(pid)) for pid, bytes_ in sorted(found.items()))

    def _shares(self) -> dict[int, int]:
        """How busy each process kept the card since the last time; the driver names only those that did."""
        before = self._sampled_at
        samples = ask(self.handle, (pynvml.nvmlDeviceGetProcessUtilization, before))
        shares: dict[int, int] = {}
        for sample in sorted(samples or (), key=lambda sample: int(sample.timeStamp)):
            if 0 <= sample.smUtil <= 100 and before < sample.timeStamp < _MOST:
                shares[sample.pid] = sample.smUtil
                self._sampled_at = sample.timeStamp
        return shares


def mig_devices(handle: Any) -> list[tuple[Any, str, str]]:
    """The MIG instances of a card: handle, UUID and profile, such as ``1g.5gb``. None where MIG is off.

    Raises:
        pynvml.NVMLError: the card or the driver is lost.
    """
    mode = ask(handle, (pynvml.nvmlDeviceGetMigMode,))
    if mode is None or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return []
    count = number(ask(handle, (pynvml.nvmlDeviceGetMaxMigDeviceCount,)), 1, 64) or 0
    found = []
    for index in range(count):
        instance = ask(handle, (pynvml.nvmlDeviceGetMigDeviceHandleByIndex, index))
        uuid = None if instance is None else ask(instance, (pynvml.nvmlDeviceGetUUID,))
        if uuid:
            found.append((instance, str(uuid), _profile(instance)))
    return found


def _profile(instance: Any) -> str:
    """The profile as the instance's name ends with it (``… MIG 1g.5gb``), else from its slices and memory."""
    named = re.search(r"\bMIG (\S+)$", ask(instance, (pynvml.nvmlDeviceGetName,)) or "")
    if named:
        return named[1]
    has = ask(instance, (pynvml.nvmlDeviceGetAttributes_v2,))
    if has is None or not (0 < has.gpuInstanceSliceCount < 64 and 0 < has.memorySizeMB < 1 << 30):
        return ""
    whole, part = has.gpuInstanceSliceCount, has.computeInstanceSliceCount
    return (f"{part}c." if 0 < part < whole else "") + f"{whole}g.{ceil(has.memorySizeMB / 1024)}gb"
