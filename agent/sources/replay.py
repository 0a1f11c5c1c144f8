"""What an agent saw, written down and played again: one line of JSON for each look at all cards.

A line is ``{"at": SECONDS, "readings": [...], "why": "..."}``. ``at`` counts from any moment that is the same for the
whole recording, the readings are those of ``agent.sources.codec``, and ``why`` says why there was none to read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from agent.sources import Held, NoGpuError, Process, Reading
from agent.sources.codec import from_fields, parse, to_line
from broker.errors import InvalidRequest
from broker.values import State

log = logging.getLogger("gpubroker.agent")

#: Linux gives no process a higher pid than 2^22 (``PID_MAX_LIMIT``): the pids of a recording are told above it, where
#: none of this host's can be.
FOREIGN_PIDS = 1 << 22
#: A longer line is no look.
_LONGEST_LINE = 8 << 20
#: Seconds that a look stands for when nothing else tells, as of a recording with one look.
_USUAL_SECONDS = 3.0
#: Every line begins so: when a look is due is known without reading all of it.
_AT = re.compile(rb'\{"at":(-?[0-9]{1,15}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,2})?),', re.ASCII)


class Recorder:
    """Writes looks to a file, each at once; a recording that is there already is gone on with."""

    def __init__(self, path: str | Path) -> None:
        """Open ``path``, readable for its owner alone if it is new. A last line that was cut off is taken away.

        Raises:
            InvalidRequest: it cannot be written, or is no recording.
        """
        self._path = str(path)
        self._trouble = ""
        self._file = -1
        try:
            # Not blocking: a pipe would wait for somebody to read it.
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
            self._go_on()
        except (OSError, ValueError) as error:
            self.close()
            if isinstance(error, InvalidRequest):
                raise
            raise InvalidRequest("--record", self._path, f"a file that can be written: {_words(error)}") from None

    def write(self, at_seconds: float, readings: Sequence[Reading], why: str) -> None:
        """Append one look, at ``at_seconds`` of the recording's clock; give it raw ``why``, as ``NoGpuError`` says it.

        What cannot be written, or could not be read again, is logged once and lost.
        """
        try:
            looks = ",".join(map(to_line, readings))
            # Three decimals: an exponent or a longer number would say nothing more.
            line = f'{{"at":{at_seconds:.3f},"readings":[{looks}],"why":{json.dumps(why)}}}\n'.encode("ascii")
            _Look.parse(1, line).read()
            self._append(line)
        except (OSError, ValueError) as error:
            if not self._trouble:
                log.warning("event=record_failed path=%r error=%r", self._path, _words(error))
            self._trouble = _words(error)
        else:
            if self._trouble:
                log.info("event=recovered about=record path=%r", self._path)
            self._trouble = ""

    def close(self) -> None:
        """Let the file go; harmless a second time."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __enter__(self) -> Self:
        """This recorder."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError:
            if written:  # half a line would spoil the whole recording
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, size)
            raise

    def _go_on(self) -> None:
        """Check what is there, and end it after its last whole line."""
        facts, disk = os.fstat(self._file), os.fstatvfs(self._file)
        if not stat.S_ISREG(facts.st_mode):
            raise InvalidRequest("--record", self._path, "a new file, or a recording to go on with")
        if disk.f_blocks and not disk.f_bavail:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not facts.st_size:
            return
        head = os.pread(self._file, 64, 0)
        if not _AT.match(head):
            raise InvalidRequest("--record", self._path, "a new file, or a recording to go on with")
        tail = os.pread(self._file, _LONGEST_LINE, max(0, facts.st_size - _LONGEST_LINE))
        cut = len(tail) - (tail.rfind(b"\n") + 1)
        if cut:
            os.ftruncate(self._file, facts.st_size - cut)


@dataclass(frozen=True, slots=True)
class _Look:
    """A line of a recording: its number from 1, and the second at which it was written."""

    number: int
    at: float
    line: bytes

    @classmethod
    def parse(cls, number: int, line: bytes) -> Self:
        """The look of a line; raises ValueError if it does not begin and end as one."""
        found = _AT.match(line)
        if not found or not line.endswith(b"\n"):
            raise ValueError(f"line {number} is cut off or begins as no look does: {line[:40]!r}")
        return cls(number, float(found[1]), line)

    def read(self) -> tuple[list[Reading], str]:
        """The readings and why there are none; raises ValueError if the line is broken."""
        try:
            found = parse(self.line.decode("utf-8"))
            if type(found) is not dict or found.keys() != {"at", "readings", "why"}:
                raise ValueError('not {"at": SECONDS, "readings": [...], "why": "..."}')
            if type(found["readings"]) is not list or type(found["why"]) is not str:
                raise ValueError("readings is a list and why a text")
            if found["why"] and found["readings"]:
                raise ValueError("readings, and a reason why there are none")
            readings = [from_fields(one) for one in found["readings"]]
            if len({reading.uuid for reading in readings}) < len(readings):
                raise ValueError("a card twice in one look")
        except ValueError as error:
            raise ValueError(f"line {self.number}: {error}") from error
        return readings, found["why"]


class ReplaySource:
    """A recording as a source, at its own pace: the latest look whose time has come.

    Its processes are another host's. Left out, all memory of a card counts as a stranger's, and no lease is told what
    its process uses. With ``processes`` they are told with pids that this host cannot have (``FOREIGN_PIDS`` added):
    neither a lease nor ``/proc`` ever matches one.
    """

    name = "replay"

    def __init__(
        self, path: str | Path, *, speed: float = 1.0, loop: bool = False, processes: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Check the whole recording, one line at a time; its clock starts at the first ``read``.

        Raises:
            InvalidRequest: no file, an empty one, a line that is broken, or a ``speed`` that is none.
        """
        if not 0 < speed <= 1e6:
            raise InvalidRequest("--replay speed", speed, "a factor above 0, up to 1000000")
        self._path, self._speed, self._loop, self._processes, self._clock = str(path), speed, loop, processes, clock
        try:
            # Not blocking: a pipe would wait for somebody to write to it.
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise InvalidRequest("--replay", self._path, f"a file that can be read: {_words(error)}") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise InvalidRequest("--replay", self._path, "a file with a recording")
        self._file: BinaryIO = os.fdopen(handle, "rb")
        try:
            self._count, self._length = self._check()
        except BaseException:
            self._file.close()
            raise
        self._started: float | None = None
        self._round = 0
        self._rewind()

    def read(self, held: Held) -> list[Reading]:
        """The readings of the latest look whose time has come.

        Raises:
            NoGpuError: there was none to read then, or the recording is over.
        """
        rounds, position = divmod(self._position(), self._length)
        if rounds and not self._loop:
            raise NoGpuError("the recording is over")
        try:
            if rounds != self._round:
                self._rewind()
                self._round = int(rounds)
            self._forward(position)
            readings, why = self._now.read()
        except (ValueError, OSError) as error:  # it was whole at the start: somebody writes to it
            raise NoGpuError(f"the recording was changed: {error}") from error
        if why:
            raise NoGpuError(why)
        return [replace(reading, processes=self._told(reading.processes)) for reading in readings]

    def age(self) -> float:
        """Seconds of the recording between the look that was read last and now."""
        rounds, position = divmod(self._position(), self._length)
        return position + (rounds - self._round) * self._length - self._now_due

    def published(self, states: Mapping[str, State]) -> None:
        """What was recorded does not change."""

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def _position(self) -> float:
        """Seconds of the recording since its first look."""
        now = self._clock()
        if self._started is None:
            self._started = now
        return (now - self._started) * self._speed

    def _told(self, found: tuple[Process, ...] | None) -> tuple[Process, ...] | None:
        if found is None or not self._processes:
            return None
        return tuple(replace(process, pid=process.pid + FOREIGN_PIDS) for process in found)

    def _check(self) -> tuple[int, float]:
        """How many looks there are, and the seconds of one round: the last look stands for as long as the mean one."""
        number, seconds, before = 0, 0.0, math.inf
        try:
            for look in self._looks():
                number = look.number
                look.read()
                seconds += max(0.0, look.at - before)
                before = look.at
        except (ValueError, OSError) as error:
            raise InvalidRequest("--replay", self._path, f"a recording without broken lines: {_words(error)}") from None
        if not number:
            raise InvalidRequest("--replay", self._path, "a recording with at least one look; this one is empty")
        return number, seconds + (seconds / (number - 1) if seconds else _USUAL_SECONDS)

    def _looks(self) -> Iterator[_Look]:
        """All lines from the first on."""
        self._file.seek(0)
        for number in range(1, 1 << 62):
            line = self._file.readline(_LONGEST_LINE)
            if not line:
                return
            yield _Look.parse(number, line)

    def _rewind(self) -> None:
        self._coming = self._looks()
        first = next(self._coming, None)
        if first is None:
            raise ValueError("it is empty")
        self._now = first
        self._now_due = 0.0
        self._take()

    def _take(self) -> None:
        """Look ahead by one line; the checked ones only, since a recording may still be written."""
        self._next = next(self._coming, None) if self._now.number < self._count else None

    def _forward(self, position: float) -> None:
        while self._next is not None:
            # A clock that was set back while recording: no time passed.
            due = self._now_due + max(0.0, self._next.at - self._now.at)
            if due > position:
                return
            self._now, self._now_due = self._next, due
            self._take()


def _words(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
