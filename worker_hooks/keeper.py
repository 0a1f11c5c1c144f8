"""A helper process that keeps leases alive beside the jobs under them, as the worker that starts it sees it.

Job code that holds the GIL, or a stopped job, cannot starve it; and it is still there to return the leases of a worker
that was killed. What it does is told in ``worker_hooks.keeping``; which end leads to what, in ``docs/fate.md``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import broker
from broker.process import began
from worker_hooks.signals import LOST_SIGNAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.lease import LeaseFacts

_LOOK_SECONDS = 0.25  # between two looks whether it is still waited for


class Keeper:
    """One helper for one process, for as many leases as it likes, one after the other or at once.

    No thread, no waiting: a lease costs one write to a pipe at its start and one at its end. A helper that died is
    replaced by the next ``hold`` or ``tend``, and the new one is told of all that is held.
    """

    def __init__(self, url: str, pool: str, *, says_ready: bool = False) -> None:
        """Start the helper, by spawn: from a process that will fork, before it forks anything. ``says_ready``: it is to
        be waited for (``ready``).
        """
        self._url, self._pool = url, pool
        self._me = _myself()
        self._lines: dict[str, bytes] = {}
        self._losses: dict[str, str] = {}
        self._heard = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: list[subprocess.Popen[bytes]] = []  # still to be waited for
        self._calls = self._tending = False
        _keepers.add(self)
        self._words = ["ready"] if says_ready else []
        self._start()

    @property
    def alive(self) -> bool:
        """Whether the helper runs. Looks; waits for nothing."""
        self._ending = [process for process in self._ending if process.poll() is None]
        if self._process is not None and not self._listen():
            self._abandon()
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The helper's process; ``None`` without one."""
        return self._process.pid if self._process is not None else None

    def ready(self, seconds: float, given_up: Callable[[], bool]) -> bool:
        """Wait until the helper can renew leases, for so long at most. Whether it can: a busy machine may take seconds
        to start it, in which a lease would come to its end.
        """
        ends = time.monotonic() + seconds
        while self.alive and not self._ready and not given_up() and (left := ends - time.monotonic()) > 0:
            select.select([self._from], [], [], min(left, _LOOK_SECONDS))
        return self._ready

    def hold(self, lease: LeaseFacts, pid: int, on_lost: str = "signal") -> None:
        """Renew ``lease`` from now on until the process ``pid`` is gone or the lease is dropped, then release it.

        ``pid`` is this process or a child of it that was not waited for yet. When the lease is over, ``signal`` sends
        it ``LOST_SIGNAL``, and SIGKILL after a grace; ``kill`` SIGKILL at once; ``nothing`` leaves it alone.
        """
        own = pid == self._me[0]
        self._lines[lease.id] = _line({"hold": {
            "url": self._url, "pool": self._pool, "lease_id": lease.id, "token": lease.token,
            "ttl": lease.ttl_ms / 1000, "confirmed": lease.confirmed_at,
            "claim": lease.claim.argv if lease.claim is not None else (), "on_lost": on_lost,
            "pid": self._me if own else (pid, began(pid) or ""), "watch": [] if own else [self._me],
        }})  # fmt: skip
        self._losses.pop(lease.id, None)
        if self._process is None or not self._send(self._lines[lease.id]):
            self.tend()

    def drop(self, lease: LeaseFacts, release: bool = True) -> bool:
        """The job ended: have its lease released, or only stop renewing it. False if no helper heard it: then release
        it yourself.
        """
        self._losses.pop(lease.id, None)
        if self._lines.pop(lease.id, None) is None or self._process is None:
            return False
        return self._send(_line({"drop": lease.id, "release": release}))

    def tend(self) -> bool:
        """Replace a helper that died. Now and then, while something is held; it costs next to nothing. Whether it had.

        Raises:
            OSError: no process can be started.
        """
        if self._tending or not self._lines or self.alive:
            return False
        self._tending = True  # a signal's handler may come in between
        try:
            self._start()
            for line in list(self._lines.values()):
                self._send(line)
        finally:
            self._tending = False
        return True

    def loss(self, lease: LeaseFacts) -> str:
        """Why the job had to end: its lease was revoked, is over, or could not be renewed; empty if nothing is wrong.

        The helper says so just before it tells the job. To be asked before ``drop``.
        """
        self._listen()
        return self._losses.get(lease.id, "")

    def call_me(self) -> None:
        """From now on send this process ``LOST_SIGNAL`` when the helper says something, or dies. Where Linux can."""
        self._calls = True
        if self._process is not None:
            self._let_call()

    def well(self, lease: LeaseFacts) -> bool:
        """Whether nothing is wrong with the lease, after a call: a helper that died is replaced.

        Raises:
            OSError: no process can be started.
        """
        self.tend()
        return not self.loss(lease)

    def end(self) -> None:
        """No more leases. The helper ends by itself once none is held."""
        if self._process is not None:
            self._close()
            self._ending.append(self._process)
            self._process = None
        self._lines.clear()
        _ending.extend(self._ending)
        _ending[:] = [process for process in _ending if process.poll() is None]

    # -- the process and its two pipes ---------------------------------------------------------------------------------

    def _start(self) -> None:
        """In a session of its own: what kills the job's process group does not reach it."""
        self._ready = False
        theirs, self._to = os.pipe()
        self._from, answers = os.pipe()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        try:
            self._process = subprocess.Popen(
                # Without `site`: all of its path is told, and it starts in half the time.
                [sys.executable, "-P", "-S", "-m", "worker_hooks.keeping", str(self._me[0]), *self._words],
                stdin=theirs, stdout=answers, cwd="/", env={**os.environ, "PYTHONPATH": _path()},
                start_new_session=True,
            )  # fmt: skip
        except OSError:
            self._close()
            raise
        finally:
            os.close(theirs)
            os.close(answers)
        if self._calls:
            self._let_call()

    def _let_call(self) -> None:
        if sys.platform == "linux":
            fcntl.fcntl(self._from, fcntl.F_SETOWN, self._me[0])
            fcntl.fcntl(self._from, fcntl.F_SETSIG, LOST_SIGNAL)
            fcntl.fcntl(self._from, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)

    def _send(self, line: bytes) -> bool:
        """Whether it went into the pipe. A helper that left the pipe full for so long is of no use: another is."""
        try:
            if os.write(self._to, line) == len(line):
                return True
        except OSError:  # nobody reads, or not for a long time
            pass
        self._abandon()
        return False

    def _listen(self) -> bool:
        """What it has to say. Whether it can say more: its end of the pipe closes even before it can be waited for."""
        if self._process is None:
            return False
        silent = False
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._from, 65536):
                self._heard += data
            silent = True
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "ready" in told:
                self._ready = True
            elif told["lost"] in self._lines:
                self._losses[told["lost"]] = told["why"]
        return not silent

    def _abandon(self) -> None:
        """It is dead, or as good as: what it said last is heard, and it will not act beside the next one."""
        if self._process is None:
            return
        self._listen()
        self._heard = b""
        self._close()
        self._process.kill()
        self._ending.append(self._process)
        self._process = None

    def _close(self) -> None:
        os.close(self._to)
        os.close(self._from)

    def _forked(self) -> None:
        """In a forked child: the parent's helper must see the pipe's end when the parent is gone."""
        if self._process is not None:
            self._close()
            self._process.returncode = 0  # not our child: nobody here waits for it
            self._process = None
        for process in self._ending:
            process.returncode = 0
        self._ending, self._lines = [], {}
        self._me = _myself()


def _myself() -> tuple[int, str]:
    return os.getpid(), began(os.getpid()) or ""


def _line(told: object) -> bytes:
    return json.dumps(told).encode() + b"\n"


def _path() -> str:
    """Where this process finds modules, and the packages that are found in another way."""
    roots = [str(Path(one.__path__[0]).parent) for one in (broker, sys.modules["worker_hooks"])]
    return os.pathsep.join(os.path.abspath(entry) for entry in [*roots, *(entry for entry in sys.path if entry)])


def _after_fork() -> None:
    for process in _ending:
        process.returncode = 0
    _ending.clear()
    for keeper in _keepers:
        keeper._forked()


_keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()
#: Helpers of keepers that were ended, still to be waited for.
_ending: list[subprocess.Popen[bytes]] = []
os.register_at_fork(after_in_child=_after_fork)
