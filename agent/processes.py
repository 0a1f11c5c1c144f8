"""Who started whom on this host, from ``/proc``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

#: A process tree deeper than this is a reading gone wrong.
_DEEPEST = 64


def parents(pids: Iterable[int], proc: Path = Path("/proc")) -> dict[int, int]:
    """The parent of each of these processes and of all their ancestors; one that is gone is left out."""
    known: dict[int, int] = {}
    for pid in pids:
        for _ in range(_DEEPEST):
            if pid <= 1 or pid in known:
                break
            parent = _parent(pid, proc)
            if parent is None:
                break
            known[pid] = parent
            pid = parent
    return known


def _parent(pid: int, proc: Path) -> int | None:
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # `pid (comm) state ppid …`: comm may itself hold blanks and brackets.
    return int(text.rpartition(")")[2].split()[1])
