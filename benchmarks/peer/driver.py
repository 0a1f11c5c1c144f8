"""What is measured, the same way for every peer: hand-over, recovery after a kill, and lost replies."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.peer.far import FarError
from benchmarks.peer.found import Back, Losses
from benchmarks.peer.losing import LosingProxy
from benchmarks.peer.overlap import over_admitted

#: One who waits has asked, was refused and sleeps by then, in seconds; jobs also have to be parked.
_ASLEEP, _PARKED = 0.05, 0.2
_TRIES = 5
_PATIENCE = 30.0


def hand_over(holder: Any, waiter: Any, name: str, poll_seconds: float, chance: random.Random) -> float:
    """Milliseconds from the call of a release to the answer of the waiter's call, in another process.

    The release falls anywhere between two tries of one who polls.

    Raises:
        FarError: the waiter did not get it, or never asked in time.
    """
    for _ in range(_TRIES):
        if not holder.call("acquire", name, 0)["held"]:
            raise FarError(f"{name} is held by somebody else")
        waiter.tell("acquire", name, _PATIENCE)
        time.sleep(_ASLEEP + chance.uniform(0, poll_seconds))
        begun = holder.call("release")
        answer = waiter.result(_PATIENCE + 5)
        if not answer["held"]:
            raise FarError(f"{name} was released, and not handed over")
        waiter.call("release")
        if begun - answer["asked"] >= _ASLEEP / 2:  # else this machine was too slow, and it never waited
            return float(answer["at"] - begun) * 1e3
    raise FarError("the waiter's process was never in time")


def recovery(holder: Any, waiter: Any, name: str, cap: float) -> Back:
    """From SIGKILL of a holder until one who waits has what it held.

    Raises:
        FarError: it could not be held at all.
    """
    if not holder.call("acquire", name, 0)["held"]:
        raise FarError(f"{name} is held by somebody else")
    waiter.tell("acquire", name, cap + 5)
    time.sleep(_PARKED)
    killed = holder.kill()
    return answered(waiter, killed, cap)


def answered(waiter: Any, killed: float, cap: float) -> Back:
    """From a kill to a waiter's answer, if that comes before the cap."""
    try:
        answer = waiter.result(killed + cap - time.perf_counter())
    except FarError as error:
        if "in time" in str(error):
            return Back(None, cap)
        raise
    return Back(float(answer["at"] - killed) if answer["held"] else None, cap)


class Stage:
    """The driver's side of jobs that hold (``benchmarks.peer.job.hold``) under one key."""

    def __init__(self, redis: Any, key: str) -> None:
        """``redis`` waits longer for an answer than any cap."""
        self.redis, self.key, self._number = redis, key, 0

    def hears(self, seconds: float) -> dict[str, Any] | None:
        """Which job begins next, if one does."""
        said = self.redis.blpop([f"told:{self.key}"], timeout=seconds)
        return None if said is None else json.loads(said[1])

    def go(self, tag: str) -> float:
        """Let a job end; when it did.

        Raises:
            FarError: it did not.
        """
        self.redis.rpush(f"go:{self.key}:{tag}", "on")
        ended = self.redis.blpop([f"ended:{self.key}"], timeout=_PATIENCE)
        if ended is None:
            raise FarError("a job did not end")
        return float(ended[1])

    def two(self, queue: Any) -> tuple[dict[str, Any], str]:
        """Send two jobs: what the first said when it began, and the tag of the second, which waits.

        Raises:
            FarError: the first did not begin.
        """
        self._number += 1
        first, second = f"{self._number}a", f"{self._number}b"
        queue.call("submit", self.key, first)
        said = self.hears(_PATIENCE)
        if said is None or said["tag"] != first:
            raise FarError("a job did not begin")
        queue.call("submit", self.key, second)
        return said, second

    def hand_over(self, queue: Any, chance: random.Random) -> float:
        """Milliseconds from the end of a job to the first line of the one that waited for it.

        Raises:
            FarError: it did not begin.
        """
        first, second = self.two(queue)
        time.sleep(_PARKED + chance.uniform(0, 0.1))
        ended = self.go(first["tag"])
        said = self.hears(_PATIENCE)
        if said is None:
            raise FarError("the job that waited did not begin")
        self.go(second)
        return float(said["at"] - ended) * 1e3

    def recovery(self, queue: Any, victim: str, cap: float) -> Back:
        """From SIGKILL of a job's process (``pid``) or its ``parent`` until a job begins, the killed one or the other.

        Raises:
            FarError: the first did not begin.
        """
        first, second = self.two(queue)
        time.sleep(5 * _PARKED)
        killed = time.perf_counter()
        os.kill(first[victim], signal.SIGKILL)
        said = self.hears(cap)
        if said is None:
            return Back(None, cap)
        still_ran = runs(first["pid"])
        if said["tag"] == second:
            self.go(second)
        return Back(float(said["at"] - killed), cap, still_ran)


def runs(pid: int) -> bool:
    """Whether a process is there and no mere entry of a dead one."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def lost_replies(
    peer: Any, url: str, batches: list[list[str]], *, clients: int = 3, every: int = 7, hold: float = 0.003
) -> Losses:
    """Several clients borrow the same names in turn, over a proxy that loses every so many replies.

    After each batch of names, when all clients have given back what they know of, another client without the proxy
    looks which of them it can borrow: one that it cannot is held by nobody, and lost until its TTL ends.
    """
    at, found = urlsplit(url), Losses()
    spans: list[tuple[str, float, float]] = []
    with ExitStack() as stack:
        proxy = stack.enter_context(LosingProxy(str(at.hostname), int(at.port or 0), every))
        proxy.quiet = True  # until all are connected
        fars = [stack.enter_context(peer.started(proxy.url)) for _ in range(clients)]
        looker = stack.enter_context(peer.started(url))
        proxy.quiet = False
        for batch in batches:
            for far in fars:
                far.tell("cycle", batch, 1, hold)
            for far in fars:
                told = far.result()
                spans += [(name, begin, end) for name, begin, end in told["spans"]]
                found.errors += told["errors"]
            found.leaked += len(batch) - len(looker.call("free", batch))
        found.lost = proxy.done["drop"]
    found.loans, found.over = len(spans), over_admitted(spans)
    return found
