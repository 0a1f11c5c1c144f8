"""What a process reads from its environment, by the standard library alone: every spawned work-horse imports it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

DEFAULT_URL = "redis://127.0.0.1:6379/0"


def _of(name: str, default: str) -> str:
    return os.environ.get(name) or default


@dataclass(frozen=True, slots=True)
class Settings:
    """``GPUBROKER_REDIS_URL`` and ``GPUBROKER_POOL``; the URL may carry a password, so it is never printed."""

    redis_url: str = field(default_factory=lambda: _of("GPUBROKER_REDIS_URL", DEFAULT_URL), repr=False)
    pool: str = field(default_factory=lambda: _of("GPUBROKER_POOL", "default"))
