"""What a keeper holds: processes that cannot be mistaken for others, and leases with the times that matter."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from dataclasses import dataclass

from broker.process import began
from worker_hooks.signals import LOST_SIGNAL

#: What becomes of a job whose lease is over: it is told and has a grace, it is killed at once, or it is left alone.
CHOICES = ("signal", "kill", "nothing")

#: Renewals in a TTL, and the longest time between two: a revocation, and a ledger without data, want to be heard of.
RENEWALS, BEAT_MOST_SECONDS = 6, 5.0
#: After this part of a TTL without a confirmed renewal the job is told, while its lease still lives.
GIVE_UP = 2 / 3
#: From a job's being told that its lease is over to its SIGKILL.
GRACE_SECONDS = 10.0
#: How long a job may outlive its worker. The kernel kills a horse with its worker; this is for all others.
ORPHAN_SECONDS = 2.0
#: What a worker has for returning the lease of a job that ended, before its helper does.
OWNER_SECONDS = 0.5

#: ``pidfd_send_signal(2)``, since Linux 6.9: to the whole group that the process leads, or led.
_PROCESS_GROUP = 1 << 2


class Process:
    """A handle on a process: never on a stranger who got its pid."""

    def __init__(self, pid: int, started: str) -> None:
        """Open it. ``started`` is what ``broker.process.began`` said of it."""
        self.pid = pid
        self.fd: int | None = None
        self.gone = False
        if not hasattr(os, "pidfd_open"):
            return  # who cannot be watched is not signalled either
        with contextlib.suppress(OSError):
            self.fd = os.pidfd_open(pid)
        # Opened first, compared then: the handle is on whoever had the pid when it was opened.
        if self.fd is None or began(pid) != started:
            self.close()

    def send(self, number: int) -> None:
        """Signal it."""
        if self.fd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.fd, number)

    def send_group(self, number: int) -> None:
        """Signal the rest of the group that it led: nobody else can get that number while one of them lives."""
        if self.fd is not None:
            with contextlib.suppress(OSError):  # there is none, or this kernel cannot do it
                signal.pidfd_send_signal(self.fd, number, None, _PROCESS_GROUP)

    def close(self) -> None:
        """It is gone."""
        self.gone = True
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


@dataclass(slots=True, eq=False)
class Held:
    """One lease and its job. Times in seconds of the monotonic clock, which is the same in all processes of a machine.

    ``own``: the job runs in the very process that started the keeper. ``watch``: pids without whom it may not go on.
    """

    url: str
    pool: str
    lease_id: str
    token: int
    ttl: float
    confirmed: float
    claim: tuple[str | int, ...]
    on_lost: str
    job: Process
    own: bool
    watch: frozenset[int]
    beat: float = 0.0
    due: float = 0.0
    give_up: float = 0.0
    kill_at: float = math.inf
    revoke_at: int = 0
    asked: bool = False  # the ledger, and it has not answered yet
    lost: bool = False
    told: bool = False
    orphan: bool = False
    releasing: bool = False
    tries: int = 0

    def __post_init__(self) -> None:
        """One try at least before it is given up: a keeper that died before may have renewed meanwhile."""
        self.beat = min(self.ttl / RENEWALS, BEAT_MOST_SECONDS)
        self.due = self.confirmed + self.beat
        self.give_up = max(self.confirmed + self.ttl * GIVE_UP, time.monotonic() + self.beat)

    @property
    def end(self) -> float:
        """When the lease is over unless renewed. By the ledger's clock a little later, since asking took time."""
        return self.confirmed + self.ttl

    @property
    def next(self) -> float:
        """When the clock has something to say, unless something happens before."""
        ask = math.inf if self.asked else self.due
        if self.releasing:
            return ask
        return self.kill_at if self.lost else min(self.kill_at, self.give_up, ask)

    def confirm(self, asked: float) -> None:
        """The ledger renewed it; its time counts from before the question."""
        self.confirmed, self.give_up = asked, asked + self.ttl * GIVE_UP

    def was_frozen(self, now: float) -> bool:
        """Whether this process slept through a renewal while the lease lives: then one more try is due."""
        return not self.asked and now - self.due > self.beat and now < self.end

    def kill_by(self, at: float) -> None:
        """SIGKILL then, unless sooner."""
        if self.on_lost != "nothing" or self.orphan:
            self.kill_at = min(self.kill_at, at)

    def tell(self) -> None:
        """Tell the job that it has to end."""
        self.told = True
        if self.on_lost == "signal":
            self.job.send(LOST_SIGNAL)

    def kill(self) -> None:
        """Memory is returned by dead processes only."""
        self.kill_at = math.inf
        self.job.send(signal.SIGKILL)

    def kill_leftovers(self) -> None:
        """What the job had started, when it is gone and had no right to go on. A worker's horse leads a group, and they
        are in it; the group of a process that borrows for itself may be its whole shell's.
        """
        if (self.orphan or self.lost) and not self.own:
            self.job.send_group(signal.SIGKILL)
