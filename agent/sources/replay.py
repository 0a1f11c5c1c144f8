"""Recordings: what an agent read, look by look, and a source that plays it.

A line is one look: ``{"at": seconds, "readings": [...], "why": "no GPU, because"}``, readings as ``codec`` writes them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Self

from agent.sources import Held, NoGpuError, Reading
from agent.sources.codec import parse, to_line
from broker.errors import InvalidRequest
from broker.values import State

log = logging.getLogger("gpubroker.agent")

_ALLOWED = "a recording of `gpubroker agent --record FILE`"


class Recorder:
    """Writes each look to a file as it happens."""

    def __init__(self, path: Path) -> None:
        """Begin, or go on at the end of what is there.

        Raises:
            InvalidRequest: the file cannot be written.
        """
        try:
            self._file: IO[str] = path.open("a", encoding="utf-8")
        except OSError as error:
            raise InvalidRequest("--record", str(path), f"a file that can be written ({error.strerror})") from None
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *rest: object) -> None:
        self.close()

    def write(self, at: float, readings: Sequence[Reading], why: str) -> None:
        """One look, at that many seconds of any clock. A full disk is said once, and the agent goes on."""
        told = ",".join(map(to_line, readings))
        try:
            self._file.write(f'{{"at":{at:.3f},"readings":[{told}],"why":{json.dumps(why)}}}\n')
            self._file.flush()
        except OSError as error:
            if not self._failed:
                log.warning("event=record_failed file=%s error=%r", self._file.name, str(error))
            self._failed = True
        else:
            self._failed = False

    def close(self) -> None:
        """End the recording."""
        try:
            self._file.close()
        except OSError as error:
            log.warning("event=record_failed file=%s error=%r", self._file.name, str(error))


class ReplaySource:
    """A recording in its own time. Its processes are not this host's, so they are left out."""

    name = "replay"

    def __init__(
        self, path: Path, *, speed: float = 1.0, loop: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Check every line now, and read them one by one as their time comes.

        Raises:
            InvalidRequest: the file cannot be read, is empty, or a line of it is no look; names the line.
        """
        if not speed > 0:
            raise InvalidRequest("speed", speed, "a number above 0")
        self._path, self._speed, self._loop, self._clock = path, speed, loop, clock
        self._length = _check(path)
        self._looks = _looks(path)
        self._began: float | None = None
        self._first = 0.0
        self._now: tuple[float, list[Reading], str] | None = None
        self._next: tuple[float, list[Reading], str] | None = None

    def read(self, held: Held) -> list[Reading]:
        """What was read at the last look whose time has come.

        Raises:
            NoGpuError: there was no GPU at that look, or the recording is over.
        """
        now = self._clock()
        if self._began is None:
            self._begin(now)
        while self._next is not None and self._due(self._next[0]) <= now:
            self._now, self._next = self._next, next(self._looks, None)
        if self._next is None and self._now is not None and now >= self._due(self._now[0]) + self._length:
            if not self._loop:
                raise NoGpuError(f"the recording {self._path} is over")
            self._begin(now)
        assert self._now is not None
        _, readings, why = self._now
        if why:
            raise NoGpuError(why)
        return readings

    def published(self, states: Mapping[str, State]) -> None:
        """A recording hears nothing."""

    def close(self) -> None:
        """Nothing to let go."""

    def _begin(self, now: float) -> None:
        self._looks = _looks(self._path)
        self._now, self._next, self._began = next(self._looks), next(self._looks, None), now
        self._first = self._now[0]

    def _due(self, at: float) -> float:
        assert self._began is not None
        return self._began + (at - self._first) / self._speed


def _looks(path: Path) -> Iterator[tuple[float, list[Reading], str]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield _look(line)


def _look(line: str) -> tuple[float, list[Reading], str]:
    said = json.loads(line)
    if not isinstance(said, dict) or set(said) != {"at", "readings", "why"}:
        raise ValueError("a look has at, readings and why")
    at, listed, why = float(said["at"]), said["readings"], said["why"]
    if not isinstance(listed, list) or not isinstance(why, str) or (not listed and not why):
        raise ValueError("readings, or why there are none")
    return at, [replace(parse(one), processes=None) for one in listed], why


def _check(path: Path) -> float:
    """Seconds between the last look and the next one, if there were one: as long as the last two were apart."""
    before = step = None
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):  # noqa: B007  it is told below
                at = _look(line)[0]
                if before is not None and at < before:
                    raise ValueError(f"at={at}: looks follow each other in time")
                step, before = (None if before is None else at - before), at
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest("--replay", str(path), f"{_ALLOWED} ({error})") from None
    except (ValueError, TypeError) as error:
        raise InvalidRequest("--replay", f"{path}, line {number}", f"{_ALLOWED} ({error})") from None
    if before is None:
        raise InvalidRequest("--replay", str(path), f"{_ALLOWED}, which is not empty")
    return step or 3.0
