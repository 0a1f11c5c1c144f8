"""Who started whom on this host, from ``/proc``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from broker.process import stat

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


def visible(proc: Path = Path("/proc")) -> bool:
    """Whether this host shows its processes at all."""
    return (proc / "self" / "stat").exists()


def _parent(pid: int, proc: Path) -> int | None:
    fields = stat(pid, proc)
    return None if fields is None else int(fields[1])
