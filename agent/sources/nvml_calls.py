"""Asking NVML: what a card does not offer is ``None``, and one failing reading does not cost the others.

Errors: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceEnumvs.html.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pynvml

log = logging.getLogger("gpubroker.agent")

#: These say that the card, or the whole driver, is gone: no other reading of it can be trusted.
LOST = (
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
)
#: These say that a card, or its driver, has no such reading.
_NOT_OFFERED = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
)
#: "Not available", as 32 and as 64 bits; no counter gets there.
NOT_AVAILABLE = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
#: nvmlValueType_t: where in the union a field's whole number is.
_UNION = {1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}

#: A function of NVML and what it takes after the handle.
Call = tuple[Any, ...]


#: Hears the name of each call before it begins.
entering: Callable[[str], None] = lambda name: None  # noqa: E731


def query(function: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML answers, or ``None`` where the card does not offer it.

    Raises:
        pynvml.NVMLError: anything else, above all a lost card.
    """
    entering(function.__name__)
    try:
        return function(*arguments)
    except pynvml.NVMLLibraryMismatchError:
        return None  # the driver's library is older than the call
    except pynvml.NVMLError as error:
        if error.value in _NOT_OFFERED:
            return None
        raise


def newest(handle: Any, calls: tuple[Call, ...]) -> Any:
    """What the first of these calls answers that is offered; raises like ``query``."""
    answers = (query(function, handle, *rest) for function, *rest in calls)
    return next((answer for answer in answers if answer is not None), None)


def quietly(ask: Callable[..., Any], *arguments: Any) -> Any:
    """What a call answers, or ``None`` where it fails: one reading must not cost the others, unless the card is lost.

    Raises:
        pynvml.NVMLError: one of ``LOST``.
    """
    try:
        return ask(*arguments)
    except pynvml.NVMLError as error:
        if error.value in LOST:
            raise
    except Exception:  # an answer that cannot be taken apart
        log.debug("event=answer_unreadable", exc_info=True)
    return None


def ask(handle: Any, *calls: Call) -> Any:
    return quietly(newest, handle, calls)


def number(value: Any, low: int, high: int) -> int | None:
    """The whole number, unless it is no number, not available or cannot be."""
    if not isinstance(value, int) or value in NOT_AVAILABLE or not low <= value <= high:
        return None
    return value


def field_value(handle: Any, wanted: int) -> int | None:
    """A value of ``nvmlDeviceGetFieldValues``, which gives each its own error and type."""
    answer = ask(handle, (pynvml.nvmlDeviceGetFieldValues, [wanted]))
    if answer is None:
        return None
    if answer[0].nvmlReturn in LOST:
        raise pynvml.NVMLError(answer[0].nvmlReturn)
    place = _UNION.get(answer[0].valueType)
    return int(getattr(answer[0].value, place)) if place and not answer[0].nvmlReturn else None
