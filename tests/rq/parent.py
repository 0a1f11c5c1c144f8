"""A worker's stand-in: a process that borrows, forks a job, and has a keeper hold the lease. One line of JSON says how.

It is spoken to on its standard input: ``tend``, ``drop``, ``keep``, and ends at its end.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from redis import Redis

from broker import Broker, LeaseLost
from tests.rq.jobs import say
from worker_hooks import losing
from worker_hooks.holding import JobLease, granted_of
from worker_hooks.keeper import Keeper

_PR_SET_PDEATHSIG = 1


def wait_for_go() -> None:
    with Redis.from_url(os.environ["GPUBROKER_REDIS_URL"]) as redis:
        while not redis.blpop(["go"], timeout=2):
            pass


def told(lease: JobLease) -> None:
    """A callback: the job goes on."""
    say(told=lease.id, at=time.monotonic(), lost=lease.lost)


def job(view: JobLease, choice: str) -> None:
    """Wait until told to go on, or that the lease is over."""
    try:
        with losing.listening(view.id, lambda: view, choice):
            say(ready=os.getpid())
            wait_for_go()
    except LeaseLost as error:
        say(raised=type(error).__name__, at=time.monotonic(), lost=view.lost)


def horse(how: dict[str, object], view: JobLease) -> None:
    os.setpgrp()
    if how.get("dies_with_its_worker", True):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if how.get("child"):
        say(child=subprocess.Popen(["sleep", "100"], stdout=subprocess.DEVNULL).pid)
    job(view, str(how.get("choice", losing.RAISE)))
    os._exit(0)


def wait_until_it_watches(keeper: int) -> None:
    """It ignores SIGTERM from just before it begins: a worker starts it long before its first job."""
    while True:
        ignored = next(line for line in Path(f"/proc/{keeper}/status").read_text().splitlines() if "SigIgn" in line)
        if int(ignored.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.005)


def main() -> None:
    how = json.loads(sys.argv[1])
    url = str(how["url"])
    keeper = Keeper(url, "default")
    wait_until_it_watches(keeper.pid or 0)
    with Broker.from_url(url) as broker:
        lease = broker.acquire("4GiB", ttl=how.get("ttl", 3))
    pid = os.fork()
    if pid == 0:
        horse(how, JobLease(granted_of(lease)))
    keeper.hold(lease, pid, losing.told_by(str(how.get("choice", losing.RAISE))))
    stray = (
        subprocess.Popen(["sleep", "100"], stdout=subprocess.DEVNULL, pass_fds=[keeper._to])
        if how.get("stray")
        else None
    )
    print(json.dumps({
        "pid": os.getpid(), "horse": pid, "keeper": keeper.pid, "lease": lease.id, "token": lease.token,
        "stray": stray.pid if stray else 0,
    }), flush=True)  # fmt: skip
    for line in sys.stdin:
        if line == "tend\n":
            print(json.dumps({"new": keeper.tend(), "keeper": keeper.pid}), flush=True)
        elif line == "wait\n":
            os.waitpid(pid, 0)
            print(json.dumps({"why": keeper.loss(lease)}), flush=True)
        else:
            print(json.dumps({"heard": keeper.drop(lease, release=line == "drop\n")}), flush=True)
    keeper.end()


if __name__ == "__main__":
    main()
