"""The errors that the NVIDIA driver tells of its cards as they happen: XIDs, through NVML's events."""

from __future__ import annotations

import ctypes
import logging
from typing import Any

import pynvml

from agent.sources.nvml_calls import query

log = logging.getLogger("gpubroker.agent")

#: Most events that are taken at once.
_MOST_EVENTS = 256
#: XIDs are below it; 999 is NVML's own for one that it does not know.
_XIDS_END = 1000


class XidWatch:
    """The driver's errors (XIDs) of the cards as they happen, https://docs.nvidia.com/deploy/xid-errors/."""

    def __init__(self) -> None:
        """NVML is asked for nothing before the first card."""
        self._set: Any = None
        self._cards: dict[int | None, str] = {}

    def register(self, handle: Any, uuid: str) -> None:
        """Watch a card. One that has no such events is left alone; one that is watched already keeps its place."""
        address = ctypes.cast(handle, ctypes.c_void_p).value
        if address in self._cards:
            self._cards[address] = uuid
            return
        try:
            offered = query(pynvml.nvmlDeviceGetSupportedEventTypes, handle) or 0
            if not offered & pynvml.nvmlEventTypeXidCriticalError:
                return
            if self._set is None:
                self._set = pynvml.nvmlEventSetCreate()
            pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, self._set)
        except pynvml.NVMLError as error:
            log.debug("event=no_xids gpu=%s error=%s", uuid, error)
            return
        self._cards[address] = uuid

    def drain(self) -> dict[str, tuple[int, ...]]:
        """The XIDs since the last time, by UUID; under ``""`` those of a card that is not known. Does not wait."""
        found: dict[str, tuple[int, ...]] = {}
        for _ in range(_MOST_EVENTS if self._set is not None else 0):
            try:
                event = query(pynvml.nvmlEventSetWait_v2, self._set, 0)
            except pynvml.NVMLError:  # above all a timeout: there is no more
                break
            if event is None:
                break
            if event.eventType & pynvml.nvmlEventTypeXidCriticalError and 0 < event.eventData < _XIDS_END:
                uuid = self._cards.get(ctypes.cast(event.device, ctypes.c_void_p).value, "")
                found[uuid] = (*found.get(uuid, ()), event.eventData)
        return found

    def close(self) -> None:
        """Let the events go. To be done before NVML is closed; the watch may be used again."""
        events, self._set, self._cards = self._set, None, {}
        if events is not None:
            try:
                pynvml.nvmlEventSetFree(events)
            except pynvml.NVMLError:
                return  # the driver is gone, and the events with it
