"""The keeper's own process: it renews leases for jobs that cannot be trusted to, and ends each with its job's process.

Run by ``worker_hooks.keeper.Keeper``: ``python -m worker_hooks.keeping PID``, where PID started it. It reads lines of
JSON from its standard input:

``{"hold": {url, pool, lease_id, token, ttl, confirmed, claim, on_lost, pid, watch}}``
    Renew that lease until its job's process is gone, then release it. ``pid`` names that process, ``watch`` others
    without whom the job may not go on (its worker): each as ``[pid, when it began]``. ``ttl`` in seconds; ``confirmed``
    is the monotonic clock when the lease was last known to be ours; ``on_lost`` one of ``worker_hooks.held.CHOICES``.
``{"drop": lease_id, "release": bool}``
    The job ended: release its lease, or only forget it.

On its standard output it says ``{"lost": lease_id, "why": text}``; run as ``PID ready`` it gets ready at once to speak
with the ledger, and says ``{"ready": true}`` when it is. It outlives who started it by as long as it takes to end what
it holds. One thread watches, another (``clerk``) waits for Redis; nothing here forks.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import sys
import time
from typing import Any

from worker_hooks.clerk import Answer, Clerk
from worker_hooks.held import GRACE_SECONDS, ORPHAN_SECONDS, OWNER_SECONDS, Held, Process


class Watch:
    """All that is held, until nothing is left and nobody who could bring more."""

    def __init__(self, starter: int, *, says_ready: bool = False) -> None:
        """``starter`` is the pid of who started this process."""
        self._starter, self._says_ready = starter, says_ready
        self._clerk = Clerk(0.0) if says_ready else Clerk()
        self._held: dict[str, Held] = {}
        self._owners: dict[int, Process] = {}
        self._line = b""
        self._open = True
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._selector.register(self._clerk.bell, selectors.EVENT_READ)

    def run(self) -> None:
        """Until the standard input has ended and every lease is returned."""
        while self._open or self._held:
            rest = min((held.next for held in self._held.values()), default=math.inf) - time.monotonic()
            ready = {key.fd for key, _ in self._selector.select(None if rest == math.inf else max(0.0, rest))}
            # Who is gone first: what else is told or answered is then seen in that light.
            self._look_at_processes(ready)
            if 0 in ready:
                self._read()
            if self._clerk.bell in ready:
                if self._says_ready and self._clerk.ready:
                    self._says_ready = False
                    self._say({"ready": True})
                for answer in self._clerk.heard():
                    self._take(answer)
            for held in list(self._held.values()):
                self._step(held, time.monotonic())

    # -- what it is told -----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        data = os.read(0, 65536)
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "hold" in told:
                self._hold(**told["hold"])
            elif held := self._held.get(told["drop"]):
                if not told["release"]:
                    self._forget(held)
                elif not held.releasing:  # else its process was seen gone before
                    self._end(held)
        if not data:
            self._open = False
            self._selector.unregister(0)
            for held in list(self._held.values()):
                if held.job.fd is None and not held.releasing:  # no handles on processes here: this is all we hear
                    self._end(held)

    def _hold(
        self, *, lease_id: str, pid: tuple[int, str], watch: list[tuple[int, str]], claim: list[str | int], **facts: Any
    ) -> None:
        """A new lease; or another process for one that is held."""
        if lease_id in self._held:
            self._forget(self._held[lease_id])
        job, owners = Process(*pid), [self._owner(*one) for one in watch]
        held = self._held[lease_id] = Held(
            lease_id=lease_id, job=job, own=job.pid == self._starter, claim=tuple(claim),
            watch=frozenset(owner.pid for owner in owners), **facts,
        )  # fmt: skip
        if any(owner.gone for owner in owners):
            self._orphaned(held)
        if job.fd is not None:
            self._selector.register(job.fd, selectors.EVENT_READ)
        if job.gone:
            self._end(held)

    def _owner(self, pid: int, started: str) -> Process:
        known = self._owners.get(pid)
        if known is None:
            known = self._owners[pid] = Process(pid, started)
            if known.fd is not None:
                self._selector.register(known.fd, selectors.EVENT_READ)
        return known

    # -- what happens --------------------------------------------------------------------------------------------------

    def _look_at_processes(self, ready: set[int]) -> None:
        for owner in self._owners.values():
            if owner.fd is not None and owner.fd in ready:
                self._selector.unregister(owner.fd)
                owner.close()
                for held in self._held.values():
                    if owner.pid in held.watch:
                        self._orphaned(held)
        for held in list(self._held.values()):
            if held.job.fd is not None and held.job.fd in ready and not held.releasing:
                self._end(held)

    def _orphaned(self, held: Held) -> None:
        held.orphan = True
        if held.releasing:  # its job was seen gone before its worker
            held.kill_leftovers()
            held.due = 0.0
        held.kill_by(time.monotonic() + ORPHAN_SECONDS)

    def _take(self, answer: Answer) -> None:
        held, now = answer.held, time.monotonic()
        held.asked = False
        if self._held.get(held.lease_id) is not held:
            return
        if held.releasing:
            if answer.release and answer.state != "away":
                self._forget(held)
        elif answer.state == "over":
            self._lose(held, answer.why, now + GRACE_SECONDS)
        elif answer.state == "ok" and not held.lost:
            held.confirm(answer.asked)
            if answer.deadline:
                held.revoke_at = answer.revoke_at
                held.kill_by(answer.deadline)
                self._tell(held, f"LeaseLost: lease {held.lease_id} was revoked: {answer.why}")

    def _step(self, held: Held, now: float) -> None:
        """What the clock asks for."""
        if held.releasing:
            if held.asked or now < held.due:
                return
            if held.tries and now >= held.end:  # over by its TTL, and nobody to say it to
                self._forget(held)
                return
            held.tries += 1
        else:
            if now >= held.kill_at:
                held.kill()
            if held.lost:
                return
            if now >= held.give_up:
                starts = not self._clerk.ready and now < held.end  # slowly; that is no silence of the ledger's
                if not starts and not held.was_frozen(now):
                    why = f"LeaseLost: lease {held.lease_id} was not renewed for {now - held.confirmed:.0f} s"
                    self._lose(held, why, held.end if now < held.end else now + GRACE_SECONDS)
                    return
                held.give_up = min(held.end, now + held.beat)
            if held.asked or now < held.due:
                return
        held.due = now + held.beat
        self._clerk.ask(held)

    def _lose(self, held: Held, why: str, kill_at: float) -> None:
        if not held.lost:
            held.lost = True
            held.kill_by(time.monotonic() if held.on_lost == "kill" else kill_at)
            self._tell(held, why)

    def _tell(self, held: Held, why: str) -> None:
        if not held.told:
            self._say({"lost": held.lease_id, "why": why})
            held.tell()

    def _say(self, told: object) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more, or not for a long time
            os.write(1, json.dumps(told).encode() + b"\n")

    # -- the end of a lease --------------------------------------------------------------------------------------------

    def _end(self, held: Held) -> None:
        """Its job is gone: release it at once, or as soon as somebody hears it.

        A worker that lives releases it itself, and says so; one that was killed with its job may be seen gone after it.
        """
        held.kill_leftovers()
        if held.job.fd is not None:
            self._selector.unregister(held.job.fd)
        worker_lives = bool(held.watch) and not held.orphan
        held.orphan = held.orphan or held.own  # who borrowed for itself is dead
        held.releasing, held.due = True, time.monotonic() + OWNER_SECONDS if worker_lives or held.own else 0.0

    def _forget(self, held: Held) -> None:
        if held.job.fd is not None and not held.releasing:
            self._selector.unregister(held.job.fd)
        held.job.close()
        del self._held[held.lease_id]


def main() -> None:
    """Watch. What ends a whole group or service is for its workers: this process ends when they are gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.set_blocking(1, False)
    # Redis's client imports OpenTelemetry's SDK where that is installed: half as much again, while leases wait.
    sys.modules["opentelemetry"] = None  # type: ignore[assignment]
    Watch(int(sys.argv[1]), says_ready="ready" in sys.argv[2:]).run()


if __name__ == "__main__":
    main()
