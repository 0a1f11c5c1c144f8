"""A job in a module that imports nothing of ours."""

from __future__ import annotations

import sys


def modules() -> list[str]:
    """What its process has imported."""
    return sorted(sys.modules)
