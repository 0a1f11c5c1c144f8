"""A job's hands: what RQ jobs and workers use to borrow GPU memory, and to keep pace with the card.

No key names of the ledger here (``broker``), no hardware (``agent``). Each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker_hooks.again import RunAgain, run_again
    from worker_hooks.decorator import gpu_job
    from worker_hooks.environment import cap_frameworks
    from worker_hooks.pacing import at_speed, current_lease, pace, paced, throttle
    from worker_hooks.worker import GpuSimpleWorker, GpuSpawnWorker, GpuWorker

__all__ = [
    "GpuSimpleWorker", "GpuSpawnWorker", "GpuWorker", "RunAgain", "at_speed", "cap_frameworks", "current_lease",
    "gpu_job", "pace", "paced", "run_again", "throttle",
]  # fmt: skip

_HOMES = {
    "GpuSimpleWorker": "worker_hooks.worker",
    "GpuSpawnWorker": "worker_hooks.worker",
    "GpuWorker": "worker_hooks.worker",
    "RunAgain": "worker_hooks.again",
    "at_speed": "worker_hooks.pacing",
    "cap_frameworks": "worker_hooks.environment",
    "current_lease": "worker_hooks.pacing",
    "gpu_job": "worker_hooks.decorator",
    "pace": "worker_hooks.pacing",
    "paced": "worker_hooks.pacing",
    "run_again": "worker_hooks.again",
    "throttle": "worker_hooks.pacing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
