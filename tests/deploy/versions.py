"""Which server the tests found."""

from __future__ import annotations

import functools
import subprocess

from broker.embedded import find_binary


@functools.cache
def acl_version() -> str:
    """Which commands the server's program knows, as `gpubroker acl --server` has it."""
    told = subprocess.run([find_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return "7.0" if "v=7.0." in told else "7.2"
