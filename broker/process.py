"""A process of this host as ``/proc`` shows it: told apart from a later one that got its pid."""

from __future__ import annotations

from pathlib import Path


def began(pid: int, proc: Path = Path("/proc")) -> str | None:
    """When a process began, in the words of its host (clock ticks since its boot); ``None`` if there is none."""
    fields = stat(pid, proc)
    # A zombie holds no memory any more.
    return None if fields is None or fields[0] in ("Z", "X") else fields[19]


def stat(pid: int, proc: Path = Path("/proc")) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` from the state on (field 3 in ``proc(5)``); ``None`` without such a process."""
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # `pid (comm) state ppid …`: comm may itself hold blanks and brackets.
    return text.rpartition(")")[2].split()
