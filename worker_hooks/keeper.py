"""A helper process that renews one lease from outside the job's process, and returns it when that process is gone.

Job code that holds the GIL, or a stopped job, cannot starve it. It is bound to the job by a pipe and, on Linux, by a
pidfd: when the job's process ends, however it ends, the lease is returned at once. Run as ``python -m
worker_hooks.keeper``, with one line of JSON on its standard input: see ``Keeper``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from broker.answers import Claim
from broker.client import Broker
from broker.errors import BrokerError, LeaseLost, LeaseNotFound, PoolUnavailable, StaleToken
from broker.lease import RENEWAL_MOST_SECONDS

#: How the job hears that its lease is over. Ignored by a process that expects nothing, so it can harm nobody.
LOST_SIGNAL = signal.SIGURG


@dataclass(frozen=True, slots=True)
class Errand:
    """What a keeper is told: on standard input, since the URL may carry a password."""

    url: str
    pool: str
    lease_id: str
    token: int
    ttl: float
    pid: int
    signal_pid: bool
    #: What a ledger that lost the lease is told: see ``broker.answers.Claim``.
    claim: tuple[str | int, ...] = ()


class Keeper:
    """The keeper as its job sees it: started with the lease, ended with it."""

    _ended: list[subprocess.Popen[bytes]] = []  # noqa: RUF012 - of all keepers: processes still to be waited for

    def __init__(self, errand: Errand) -> None:
        """Start it, by spawn and in a session of its own: what kills the job's process group does not reach it."""
        Keeper._ended = [process for process in Keeper._ended if process.poll() is None]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker_hooks.keeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._lifeline = self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it died at once; the lease then ends by its TTL
            self._lifeline.write(json.dumps(asdict(errand)).encode() + b"\n")
            self._lifeline.flush()

    def end(self) -> None:
        """Let it go. It returns the lease once more, in case the job could not, and exits by itself."""
        with contextlib.suppress(BrokenPipeError):
            self._lifeline.close()
        Keeper._ended.append(self._process)


def keep(errand: Errand, lifeline: int) -> None:
    """Renew until the job's process is gone or the lease is over."""
    job = _pidfd(errand.pid)
    broker = Broker.from_url(errand.url, pool=errand.pool)
    watched = [lifeline] if job is None else [lifeline, job]
    # Closer than three times a TTL, since the start took a part of the first one; and a revocation is to be heard soon.
    every = min(errand.ttl / 5, RENEWAL_MOST_SECONDS)
    claim = Claim(tuple(errand.claim)) if errand.claim else None
    due = confirmed = time.monotonic()
    while not select.select(watched, [], [], max(0.0, due - time.monotonic()))[0]:
        asked = time.monotonic()
        due, lost = asked + every, False
        try:
            broker.prolong(errand.lease_id, errand.token, claim=claim)
            confirmed = asked
        except PoolUnavailable:
            lost = time.monotonic() - confirmed > errand.ttl  # until then the lease lives on
        except (LeaseLost, StaleToken, LeaseNotFound):
            lost = True
        if lost:
            if job is not None and errand.signal_pid:
                _tell(job)
            return
    with contextlib.suppress(BrokerError):  # over already, or nobody to say it to: it ends by its TTL
        broker.release(errand.lease_id, errand.token)


def _pidfd(pid: int) -> int | None:
    """A handle on the job's process; ``None`` where there are none. Never on a stranger who got its pid."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None  # gone already: the lifeline says so too
    return handle if os.getppid() == pid else None


def _tell(job: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(job, LOST_SIGNAL)


def main() -> None:
    """Read the errand, then keep."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the job's to answer
    # Unbuffered: the lifeline's end must be seen by select, not swallowed into a buffer.
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 1 if line else 4096)
        if not more:
            return
        line += more
    keep(Errand(**json.loads(line)), 0)


if __name__ == "__main__":
    main()
