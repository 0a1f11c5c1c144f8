"""Who is who on this host, from ``/proc``: whose child a process is, in whose container, and whom a lease means."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from broker.process import namespace, stat
from broker.values import HeldLease

#: A process tree deeper than this is a reading gone wrong.
_DEEPEST = 64
#: The number that Linux gives the first namespace of pids, in which every process of the host has one:
#: ``PROC_PID_INIT_INO`` in include/linux/proc_ns.h.
_FIRST_NAMESPACE = 0xEFFFFFFC
#: A control group that one container or service has for itself, by the names that docker, podman, containerd, CRI-O,
#: Kubernetes and systemd give them. In others (a user's session) strangers live side by side.
_OWN_GROUP = re.compile(r"docker[/-][0-9a-f]{12,}|libpod-|containerd|crio-|kubepods|\.service$")


@dataclass(frozen=True, slots=True)
class Seen:
    """A process: its parent, when it began in clock ticks since boot, its pid in each namespace, outermost first, its
    control group and the name of its program."""

    pid: int
    parent: int
    started: str
    pids: tuple[int, ...] = ()
    group: str = ""
    name: str = ""


class ProcessTable:
    """What was read of the host's processes. What cannot change is remembered while a process lives."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        """Nothing is read yet."""
        self._proc = proc
        self._own = namespace("self", proc)
        self._known: dict[tuple[int, str], Seen] = {}
        self._found: dict[tuple[str, int], int] = {}  # the host's pid of a lease's process in another namespace

    @property
    def tells(self) -> bool:
        """Whether this host shows its processes at all."""
        return (self._proc / "self" / "stat").exists()

    @property
    def sees_all(self) -> bool:
        """Whether every process of the host can be seen from here; not from inside a container with pids of its own."""
        return self._own == _FIRST_NAMESPACE

    def look(self, pid: int) -> Seen | None:
        """A process, or ``None`` if there is none; a zombie holds no memory any more and is none."""
        fields = stat(pid, self._proc)
        if fields is None or fields[0] in ("Z", "X"):
            return None
        key = pid, fields[19]
        if key not in self._known:
            self._known[key] = Seen(
                pid, int(fields[1]), fields[19], self._pids(pid), self._group(pid), self._text(pid, "comm").strip()
            )  # fmt: skip
        return replace(self._known[key], parent=int(fields[1]))

    def parents(self, pids: Iterable[int], holders: Iterable[int] = ()) -> dict[int, int]:
        """The parent of each of these processes and of all their ancestors; one that is gone is left out.

        A daemon that left its parent is still in its container or service: if one holder alone is there too, it counts
        as that one's child.
        """
        homes = self._homes(holders)
        family: dict[int, int] = {}
        for pid in pids:
            own = pid
            for _ in range(_DEEPEST):
                if pid <= 1 or pid in family:
                    break
                seen = self.look(pid)
                if seen is None:
                    break
                family[pid] = seen.parent
                pid = seen.parent
            first = self.look(own) if homes else None
            home = homes.get(first.group) if first else None
            if home is not None and home != own and not _descends(own, set(homes.values()), family):
                family[own] = home
        return family

    def locate(self, held: Mapping[str, Sequence[HeldLease]]) -> tuple[dict[str, list[HeldLease]], dict[str, str]]:
        """The leases with the pids that their processes have here, and what is known of each: alive, gone or ``""``.

        A holder in a container has a pid of its own there. It is found by that and by when it began, which is the same
        for everybody on one host. A lease whose process is gone has pid 0, so that no later one is taken for it.
        """
        lives: dict[str, str] = {}
        located: dict[str, HeldLease] = {}
        for lease in {lease.id: lease for leases in held.values() for lease in leases}.values():
            pid = self._pid_of(lease)
            lives[lease.id] = "" if lease.pid is None or pid is None else "alive" if pid else "gone"
            located[lease.id] = replace(lease, pid=pid)
        self._forget(located)
        return {uuid: [located[lease.id] for lease in leases] for uuid, leases in held.items()}, lives

    def programs(self, names: Iterable[str]) -> dict[str, set[int]]:
        """The pids of the programs of these names that run on this host."""
        wanted: dict[str, set[int]] = {name: set() for name in names}
        shortened = {name[:15]: name for name in wanted}  # as long as the kernel keeps them
        for pid in self._all() if wanted else ():
            command = self._text(pid, "comm").strip()
            if command in shortened:
                wanted[shortened[command]].add(pid)
        return wanted

    def kill(self, pid: int, started: str) -> bool:
        """End a process, if it is still the one that began then; never another that got its pid."""
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            seen = self.look(pid)  # read after the handle was taken: of the process that the handle means
            if seen is None or seen.started != started:
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except OSError:
            return False
        else:
            return True
        finally:
            os.close(handle)

    # -- one lease's process -------------------------------------------------------------------------------------------

    def _pid_of(self, lease: HeldLease) -> int | None:
        """The pid that a lease's process has here; 0 if it is gone, ``None`` if that cannot be known."""
        if lease.pid is None:
            return None
        started, _, space = lease.pid_started.partition("/")
        ours = not space or int(space) == self._own
        seen = self.look(lease.pid)
        if ours:
            return lease.pid if seen is not None and started in ("", seen.started) else 0
        return self._elsewhere(lease, started)

    def _elsewhere(self, lease: HeldLease, started: str) -> int | None:
        """The process of another namespace that has the lease's pid there and began when it did."""
        assert lease.pid is not None
        known = self._found.get((lease.id, lease.token))
        for pid in (known,) if known else self._all():
            fields = stat(pid, self._proc)
            seen = self.look(pid) if fields is not None and fields[19] == started else None
            if seen is not None and lease.pid in seen.pids:
                self._found[lease.id, lease.token] = pid
                return pid
        return 0 if self.sees_all else None

    def _homes(self, holders: Iterable[int]) -> dict[str, int]:
        """The control groups that belong to one holder alone."""
        homes: dict[str, list[int]] = {}
        for pid in set(holders):
            seen = self.look(pid) if pid > 1 else None
            if seen is not None and _OWN_GROUP.search(seen.group):
                homes.setdefault(seen.group, []).append(pid)
        return {group: pids[0] for group, pids in homes.items() if len(pids) == 1}

    # -- /proc ---------------------------------------------------------------------------------------------------------

    def _all(self) -> list[int]:
        return [int(entry.name) for entry in os.scandir(self._proc) if entry.name.isdigit()]

    def _pids(self, pid: int) -> tuple[int, ...]:
        found = re.search(r"^NSpid:\s*(.*)$", self._text(pid, "status"), re.MULTILINE)
        return tuple(map(int, found[1].split())) if found else (pid,)

    def _group(self, pid: int) -> str:
        """Its control group in the unified hierarchy (``cgroups(7)``), or the longest of the older ones."""
        lines = [line.split(":", 2)[2] for line in self._text(pid, "cgroup").splitlines() if line.count(":") >= 2]
        return max(lines, key=len, default="")

    def _text(self, pid: int, name: str) -> str:
        try:
            with open(f"{self._proc}/{pid}/{name}", encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def _forget(self, located: Mapping[str, HeldLease]) -> None:
        """What is known of leases and processes that are gone."""
        live = {(lease.id, lease.token) for lease in located.values()}
        self._found = {key: pid for key, pid in self._found.items() if key in live}
        if len(self._known) > 4096:
            self._known.clear()


def _descends(pid: int, holders: set[int], family: Mapping[int, int]) -> bool:
    for _ in range(_DEEPEST):
        if pid in holders:
            return True
        pid = family.get(pid, 0)
        if pid <= 1:
            break
    return False
