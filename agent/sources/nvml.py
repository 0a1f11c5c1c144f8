"""GPUs through NVIDIA's management library, wrapped once: what a card does not offer is ``None``, never 0."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import pynvml

from agent.sources import Held, NoGpuError, Process, Reading, sane
from broker.calls import check_name
from broker.values import State

log = logging.getLogger("gpubroker.agent")

_NAMELESS = "NVIDIA GPU"
#: Seconds between two tries to open a driver that is not there, doubled up to the second number.
_RETRY_SECONDS = (1.0, 30.0)
#: These say that every card's handle is void: close, and open again.
_ALL_VOID = (
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
)
#: These say that one card is gone. NVML may find it again only when it is opened anew, which costs: seldom.
_ONE_LOST = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)
#: These say that a card, or its driver, has no such reading.
_NOT_OFFERED = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
)


def query(function: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML answers, or ``None`` where the card does not offer it.

    Raises:
        pynvml.NVMLError: anything else, above all a lost card.
    """
    try:
        return function(*arguments)
    except pynvml.NVMLLibraryMismatchError:
        return None  # the driver's library is older than the call
    except pynvml.NVMLError as error:
        if error.value in _NOT_OFFERED:
            return None
        raise


class NvmlSource:
    """The host's NVIDIA GPUs. A lost card fails alone; a driver that went away is tried again with growing pauses."""

    name = "nvml"

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is opened before the first reading."""
        self._clock = clock
        self._open = False
        self._why = ""
        self._pause = _RETRY_SECONDS[0]
        self._not_before = 0.0
        self._opened_at = 0.0
        self._stale = False
        self._known: dict[str, tuple[int, str]] = {}

    def read(self, held: Held) -> list[Reading]:
        """Read every GPU. One that was seen before and cannot be found now has a fault; it is not forgotten.

        Raises:
            NoGpuError: no library, no driver, or no card.
        """
        self._ensure_open()
        try:
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self._give_up(f"NVML: {error}")
        readings: dict[str, Reading] = {}
        faults: dict[int, str] = {}
        for index in range(count):
            self._read_one(index, readings, faults)
        if self._stale:
            self.close()  # only now: the other cards were still to be read. The next reading opens it anew
        for uuid, (index, name) in self._known.items():
            if uuid not in readings:
                fault = faults.get(index, "NVML does not find it any more")
                readings[uuid] = Reading(uuid, index, name, fault=fault)
        if not readings:
            raise NoGpuError("; ".join(faults.values()) or "NVML finds no GPU on this host")
        return sorted(readings.values(), key=lambda reading: reading.index)

    def published(self, states: Mapping[str, State]) -> None:
        """Hardware feels what jobs do."""

    def _ensure_open(self) -> None:
        if self._open:
            return
        if self._clock() < self._not_before:
            raise NoGpuError(self._why)
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self._give_up(f"no NVIDIA driver can be opened: {error}")
        self._open, self._stale, self._pause = True, False, _RETRY_SECONDS[0]
        self._opened_at = self._clock()

    def _give_up(self, why: str) -> NoReturn:
        self.close()
        self._why = why
        self._not_before = self._clock() + self._pause
        self._pause = min(self._pause * 2, _RETRY_SECONDS[1])
        raise NoGpuError(why)

    def _read_one(self, index: int, readings: dict[str, Reading], faults: dict[int, str]) -> None:
        """Read the card at an index. Its identity is its UUID: an index may mean another card after one was lost."""
        uuid = ""
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = check_name("UUID", pynvml.nvmlDeviceGetUUID(handle))
            name = query(pynvml.nvmlDeviceGetName, handle) or _NAMELESS
            self._known[uuid] = (index, name)
            readings[uuid] = sane(_read_card(handle, uuid, index, name))
        except pynvml.NVMLError as error:
            faults[index] = f"NVML: {error}"
            old = self._clock() - self._opened_at >= _RETRY_SECONDS[1]
            self._stale = self._stale or error.value in _ALL_VOID or (old and error.value in _ONE_LOST)
        except Exception as error:  # an answer that makes no sense is this card's trouble, not the others'
            faults[index] = f"NVML's answer makes no sense: {error}"
            log.debug("event=card_unreadable index=%d", index, exc_info=True)
        if index in faults and uuid:
            readings[uuid] = Reading(uuid, index, self._known.get(uuid, (index, _NAMELESS))[1], fault=faults[index])

    def close(self) -> None:
        """Close NVML; a driver that is gone already cannot object."""
        if self._open:
            self._open = False
            try:
                pynvml.nvmlShutdown()
            except pynvml.NVMLError:
                return


def _read_card(handle: Any, uuid: str, index: int, name: str) -> Reading:
    memory = query(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    if memory is None:  # a driver before 510: its `used` includes what the driver reserves
        memory = query(pynvml.nvmlDeviceGetMemoryInfo, handle)
    load = query(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return Reading(
        uuid=uuid,
        index=index,
        name=name,
        memory_total_bytes=None if memory is None else int(memory.total),
        memory_used_bytes=None if memory is None else int(memory.used),
        memory_reserved_bytes=getattr(memory, "reserved", None),
        temperature_c=_temperature(handle),
        utilization_percent=None if load is None else int(load.gpu),
        power_mw=query(pynvml.nvmlDeviceGetPowerUsage, handle),
        processes=_processes(handle),
        capability=_capability(handle),
    )


def _capability(handle: Any) -> str:
    found = query(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    return "" if found is None else f"{found[0]}.{found[1]}"


def _temperature(handle: Any) -> int | None:
    found = query(pynvml.nvmlDeviceGetTemperatureV, handle, pynvml.NVML_TEMPERATURE_GPU)
    if found is None:  # a driver that has only the old call
        found = query(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    return None if found is None else int(found)


def _processes(handle: Any) -> tuple[Process, ...] | None:
    """Every process on the card once, with the larger of its figures: one may compute and draw."""
    lists = [
        query(pynvml.nvmlDeviceGetComputeRunningProcesses, handle),
        query(pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle),
        query(pynvml.nvmlDeviceGetMPSComputeRunningProcesses, handle),
    ]
    if all(one is None for one in lists):
        return None
    found: dict[int, int | None] = {}
    for process in (each for one in lists if one for each in one):
        bytes_, before = process.usedGpuMemory, found.get(process.pid)
        found[process.pid] = bytes_ if before is None else max(before, bytes_ or 0)
    return tuple(Process(pid, bytes_) for pid, bytes_ in sorted(found.items()))
