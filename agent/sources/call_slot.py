"""Which call a process is in, and since when: a word in memory that two processes share."""

from __future__ import annotations

import mmap
import os
import struct
import time

_LAYOUT = struct.Struct("<q56s")


class CallSlot:
    """The word. Times are of the monotonic clock, which all processes of a host share."""

    def __init__(self, fd: int) -> None:
        """Share the memory behind a file descriptor of ``make``."""
        self._memory = mmap.mmap(fd, _LAYOUT.size)

    @staticmethod
    def make() -> int:
        """A file descriptor for a new word, to be given to the other process."""
        fd = os.memfd_create("gpubroker-call")
        os.ftruncate(fd, _LAYOUT.size)
        return fd

    def enter(self, name: str) -> None:
        """A call begins; what was called before has ended."""
        _LAYOUT.pack_into(self._memory, 0, time.monotonic_ns(), name.encode()[:56])

    def now(self) -> tuple[str, float]:
        """The call and for how many seconds it has lasted."""
        began, name = _LAYOUT.unpack_from(self._memory, 0)
        return name.rstrip(b"\0").decode(errors="replace"), max(0.0, (time.monotonic_ns() - began) / 1e9)

    def close(self) -> None:
        """Let the memory go."""
        self._memory.close()
