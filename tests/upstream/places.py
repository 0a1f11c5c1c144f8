"""The ``conftest.py`` beside RQ's tests: wherever RQ names one of its workers, it finds ours."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import rq.cli
import rq.worker
import rq.worker_pool

from worker_hooks.worker import GpuSimpleWorker, GpuSpawnWorker, GpuWorker


def _places() -> dict[type, type]:
    """RQ's workers, and ours. Those that only choose among queues, or end otherwise, are ours with their ways."""
    places: dict[type, type] = {
        rq.worker.Worker: GpuWorker, rq.worker.SimpleWorker: GpuSimpleWorker, rq.worker.SpawnWorker: GpuSpawnWorker,
    }  # fmt: skip
    for name in ("HerokuWorker", "RandomWorker", "RoundRobinWorker"):
        theirs = getattr(rq.worker, name)
        places[theirs] = type(name, (GpuWorker, theirs), {})
    return places


_PLACES = _places()


def _ours(value: Any) -> Any:
    return _PLACES.get(value, value) if isinstance(value, type) else value


def _in_defaults(function: Callable[..., Any]) -> None:
    """``def start(worker_class=Worker)`` took RQ's when it was defined."""
    if function.__defaults__:  # type: ignore[attr-defined]
        function.__defaults__ = tuple(map(_ours, function.__defaults__))  # type: ignore[attr-defined]
    for name, value in (function.__kwdefaults__ or {}).items():  # type: ignore[attr-defined]
        function.__kwdefaults__[name] = _ours(value)  # type: ignore[attr-defined]


def _in_module(module: Any) -> None:
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) == module.__name__:
            for function in vars(value).values() if inspect.isclass(value) else (value,):
                if inspect.isfunction(function):
                    _in_defaults(function)
        # Where RQ defines its workers they are each other's bases, and stay.
        if not module.__name__.startswith("rq.worker.") and _ours(value) is not value:
            setattr(module, name, _ours(value))


for _name, _module in list(sys.modules.items()):
    if _name == "rq" or _name.startswith("rq."):
        _in_module(_module)
