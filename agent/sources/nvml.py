"""GPUs through NVIDIA's management library, at arm's length: another process calls it, this one holds the watch.

A call that hangs, or takes the other process down with it, costs one card for one look; the others are read by a new
process. docs/decisions/nvml-at-arms-length.md has the reasons.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Protocol

from agent.sources import Held, NoGpuError, Reading
from agent.sources.call_slot import CallSlot
from agent.sources.codec import from_line
from broker.values import State

log = logging.getLogger("gpubroker.agent")

#: Seconds that one call may take, and those that open the driver, or start the process, which may wake eight cards.
CALL_SECONDS, OPEN_SECONDS = 2.0, 30.0
_SLOW_CALLS = frozenset({"start", "nvmlInit", "nvmlInitWithFlags", "nvmlShutdown"})
#: Seconds after which a look ends with what there is.
LOOK_SECONDS = 5.0
#: Seconds between two readings of what takes long or changes seldom.
COSTLY_SECONDS = 30.0
#: Seconds between two tries of a card that hung, or of a driver that is not there, doubled up to the second number.
_RETRY_SECONDS = (1.0, 30.0)
_SUSPECT_SECONDS = (5.0, 300.0)
#: Processes that cannot even be killed, since the driver holds them. With so many no further one is risked.
_STUCK_MOST = 4


class Hung(Exception):
    """A call did not return in time."""


class Crashed(Exception):
    """The process ended in a call."""


@dataclass(slots=True)
class _Suspect:
    """A card that took the process down: why, when it is tried again, and after how long the time after that."""

    why: str
    not_before: float
    pause: float


class NvmlSource:
    """The host's NVIDIA GPUs. A lost or hanging card fails alone; a driver that went away is tried again."""

    name = "nvml"

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, look_seconds: float = LOOK_SECONDS,
        start: Callable[[], Child] | None = None,
    ) -> None:  # fmt: skip
        """Nothing is opened before the first reading. ``clock`` times what is tried again; hangs are timed really."""
        self._clock, self._look_seconds = clock, look_seconds
        self._start: Callable[[], Child] = start or OtherProcess
        self._child: Child | None = None
        self._stuck: list[subprocess.Popen[bytes]] = []
        self._known: dict[str, tuple[int, str]] = {}
        self._suspects: dict[int, _Suspect] = {}
        self._fallen: dict[str, tuple[int, ...]] = {}  # the driver's errors that no reading carries yet
        self._why, self._not_before, self._pause = "", 0.0, _RETRY_SECONDS[0]
        self._costly_at: float | None = None

    def read(self, held: Held) -> list[Reading]:
        """Read every GPU. One that was seen before and cannot be found now has a fault; it is not forgotten.

        Raises:
            NoGpuError: no library, no driver, or no card.
        """
        if self._clock() < self._not_before:
            raise NoGpuError(self._why)
        readings: dict[str, Reading] = {}
        faults = {index: one.why for index, one in self._suspects.items() if self._clock() < one.not_before}
        ends = time.monotonic() + self._look_seconds
        costly = self._costly_at is None or self._clock() - self._costly_at >= COSTLY_SECONDS
        while not self._look(readings, faults, ends, costly):
            if time.monotonic() >= ends:
                break
        if costly:
            self._costly_at = self._clock()
        missing = "" if self._child is None or not self._child.asked else "NVML has not come to it in this look"
        for uuid, (index, name) in self._known.items():
            if uuid not in readings:
                fault = faults.get(index) or missing or "NVML does not find it any more"
                readings[uuid] = Reading(uuid, index, name, fault=fault)
        if not readings:
            raise NoGpuError("; ".join(faults.values()) or "NVML finds no GPU on this host")
        self._pause = _RETRY_SECONDS[0]
        found = sorted(readings.values(), key=lambda reading: (reading.index, reading.mig != "", reading.uuid))
        return self._with_xids(found)

    def _with_xids(self, readings: list[Reading]) -> list[Reading]:
        """The readings with what befell their cards; what befalls a divided card befalls its parts."""
        fallen, self._fallen = self._fallen, {}
        at = {self._known[uuid][0]: xids for uuid, xids in fallen.items() if uuid in self._known}
        for uuid in fallen.keys() - self._known.keys():
            log.warning("event=xid_of_unknown_card gpu=%r xids=%r", uuid, fallen[uuid])
        return [replace(reading, xids=at[reading.index]) if reading.index in at else reading for reading in readings]

    def published(self, states: Mapping[str, State]) -> None:
        """Hardware feels what jobs do."""

    def close(self) -> None:
        """End the other process."""
        if self._child is not None:
            self._child.end()
            self._child = None

    # -- one look ------------------------------------------------------------------------------------------------------

    def _look(self, readings: dict[str, Reading], faults: dict[int, str], ends: float, costly: bool) -> bool:
        """Read what was not read yet. False if a card took the process down, and others are left."""
        child = self._ensure_child()
        done = {reading.index for reading in readings.values()} | set(faults)
        if not child.asked:
            child.ask({"now": self._clock(), "skip": sorted(done), "late": sorted(self._suspects), "costly": costly})
        card: int | None = None
        try:
            for kind, text in child.answers(ends):
                if kind == "C":
                    card = int(text)
                elif kind == "X":
                    for uuid, xids in json.loads(text).items():
                        self._fallen[uuid] = (*self._fallen.get(uuid, ()), *xids)
                elif kind == "R":
                    reading = self._reading(text, card, faults)
                    if reading is None:
                        continue
                    readings[reading.uuid] = reading
                    self._known[reading.uuid] = reading.index, reading.name
                    self._suspects.pop(reading.index, None)
                elif kind == "F":
                    index, _, why = text.partition(" ")
                    faults[int(index)] = why
                elif kind == "N":
                    self._bury(child)  # after an upgrade of the driver only a new process loads the new library
                    self._give_up(text)
        except (Hung, Crashed) as error:
            self._bury(child)
            if card is None:
                self._give_up(str(error))
            faults[card] = self._suspect(card, str(error))
            return False
        if child.asked and not (readings or faults or self._known):
            raise NoGpuError(f"NVML has not come to an end yet: {child.at()}")
        return True

    def _reading(self, text: str, card: int | None, faults: dict[int, str]) -> Reading | None:
        """The reading, or ``None`` for one that makes no sense: it is that card's trouble alone."""
        try:
            return from_line(text)
        except ValueError as error:
            if card is not None:
                faults[card] = f"its reading makes no sense: {error}"
            return None

    def _ensure_child(self) -> Child:
        self._stuck = [process for process in self._stuck if process.poll() is None]
        if self._child is None:
            if len(self._stuck) >= _STUCK_MOST:
                raise NoGpuError(f"the driver holds {len(self._stuck)} processes that asked it; restart the host")
            self._child = self._start()
        return self._child

    def _bury(self, child: Child) -> None:
        """End a process that hangs, or is gone; one that the driver holds dies later, or never."""
        self._child = None
        stuck = child.end()
        if stuck is not None:
            self._stuck.append(stuck)
            log.warning("event=nvml_stuck pid=%d", stuck.pid)

    def _suspect(self, index: int, why: str) -> str:
        """Remember that a card took the process down; it is tried again, after the others, in ever longer pauses."""
        before = self._suspects.get(index)
        pause = min(2 * before.pause, _SUSPECT_SECONDS[1]) if before else _SUSPECT_SECONDS[0]
        told = f"{why}; tried again in {pause:.0f} s"
        self._suspects[index] = _Suspect(told, self._clock() + pause, pause)
        log.warning("event=nvml_card_failed index=%d reason=%r", index, told)
        return told

    def _give_up(self, why: str) -> NoReturn:
        self._why = why
        self._not_before = self._clock() + self._pause
        self._pause = min(self._pause * 2, _RETRY_SECONDS[1])
        raise NoGpuError(why)


class Child(Protocol):
    """Whoever asks NVML."""

    #: Whether it has not answered all of what it was asked.
    asked: bool

    def ask(self, wish: dict[str, Any]) -> None:
        """Ask for a look."""

    def answers(self, ends: float) -> Iterator[tuple[str, str]]:
        """What it answers, until it has answered all, or the time is over.

        Raises:
            Hung: it has been in one call for too long. Crashed: it is gone.
        """

    def at(self) -> str:
        """What it is doing, and since when."""

    def end(self) -> subprocess.Popen[bytes] | None:
        """End it; the process, if it cannot be ended now."""


class OtherProcess:
    """Another process, as ``nvml_child`` tells of itself."""

    def __init__(self, call_seconds: float = CALL_SECONDS) -> None:
        """Start it; a call may take so long."""
        self._call_seconds = call_seconds
        self._heard = b""
        self.asked = False
        shared = CallSlot.make()
        self._slot = CallSlot(shared)
        self._slot.enter("start")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent.sources.nvml_child", str(shared)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, pass_fds=(shared,), process_group=0,
        )  # fmt: skip
        os.close(shared)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._told, self._out = self.process.stdin, self.process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)

    def ask(self, wish: dict[str, Any]) -> None:
        """Ask for a look."""
        if self._slot.now()[0] != "start":
            self._slot.enter("look")  # what it was in before is over
        self.asked = True
        try:
            self._told.write(json.dumps(wish).encode() + b"\n")
            self._told.flush()
        except BrokenPipeError:
            pass  # it is gone; whoever waits for its answer hears of it

    def answers(self, ends: float) -> Iterator[tuple[str, str]]:
        """What it answers; raises ``Hung`` or ``Crashed``."""
        while self.asked:
            line, found, rest = self._heard.partition(b"\n")
            if found:
                self._heard = rest
                kind, _, text = line.decode(errors="replace").partition(" ")
                self.asked = kind not in ("D", "N")
                yield kind, text
            elif not self._wait(ends):
                return

    def _wait(self, ends: float) -> bool:
        """Hear more. False when the time is over."""
        call, seconds = self._slot.now()
        left = (OPEN_SECONDS if call in _SLOW_CALLS else self._call_seconds) - seconds
        wait = max(0.0, min(left, ends - time.monotonic()))
        if self._poll.poll(1000 * wait + 1):
            more = os.read(self._out, 1 << 16)
            if not more:
                self._crashed()
            self._heard += more
            return True
        if time.monotonic() >= ends:
            return False
        if self._slot.now()[0] == call and self._slot.now()[1] > seconds and left <= wait:
            raise Hung(f"{call} has not answered for {self._slot.now()[1]:.1f} s")
        return True

    def _crashed(self) -> NoReturn:
        code = self.process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        raise Crashed(f"the process that asks NVML ended in {self._slot.now()[0]} ({how})")

    def at(self) -> str:
        """The call it is in, and since when."""
        call, seconds = self._slot.now()
        return f"{call} since {seconds:.1f} s"

    def end(self) -> subprocess.Popen[bytes] | None:
        """End it; the process, if it cannot be ended now, since the driver holds it."""
        self._told.close()
        self.process.kill()
        try:
            self.process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            return self.process
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()
            self._slot.close()
        return None
