"""A process as ``/proc`` shows it: told from a later one that got its pid, and from its namesake in a container."""

from __future__ import annotations

import os
from pathlib import Path


def began(pid: int, proc: Path = Path("/proc")) -> str | None:
    """When a process began (clock ticks since its host's boot) and, after a slash, in which namespace of pids it runs.

    The second part is left out where it may not be read. ``None`` if there is no such process.
    """
    fields = stat(pid, proc)
    # A zombie holds no memory any more.
    if fields is None or fields[0] in ("Z", "X"):
        return None
    space = namespace(pid, proc)
    return f"{fields[19]}/{space}" if space else fields[19]


def namespace(pid: int | str, proc: Path = Path("/proc")) -> int | None:
    """The number of the namespace in which a process has its pid; ``None`` where it may not be read."""
    try:
        return os.stat(f"{proc}/{pid}/ns/pid").st_ino
    except OSError:
        return None


def stat(pid: int, proc: Path = Path("/proc")) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` from the state on (field 3 in ``proc(5)``); ``None`` without such a process."""
    try:
        # No Path here: it interns every pid, and an agent asks for thousands of them.
        with open(f"{proc}/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    # `pid (comm) state ppid …`: comm may itself hold blanks and brackets.
    return text.rpartition(")")[2].split()
