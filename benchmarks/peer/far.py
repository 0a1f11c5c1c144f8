"""The driver's end of a peer's process: a call is a line there and a line back."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
_START_SECONDS = 60.0
_END_SECONDS = 5.0


class FarError(Exception):
    """A peer's process could not do what it was told."""


class Far:
    """A process that serves calls."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None) -> None:
        """Start it; ``ready`` waits for it."""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by ``end``
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, cwd=ROOT,
            env={**os.environ, **(env or {})}, start_new_session=True,
        )  # fmt: skip
        self._buffer = b""
        self._asked = 0

    @classmethod
    def python(cls, module: str, url: str, *more: str, env: dict[str, str] | None = None) -> Self:
        """A peer that is a module of Python."""
        return cls([sys.executable, "-m", "benchmarks.peer.child", module, url, *more], env)

    def ready(self) -> Self:
        """Wait until it serves.

        Raises:
            FarError: it does not.
        """
        self.result(_START_SECONDS)
        return self

    def tell(self, method: str, *arguments: Any) -> None:
        """Have it begin; ``result`` waits for its end."""
        pipe = self.process.stdin
        assert pipe is not None
        pipe.write(json.dumps([method, *arguments]).encode() + b"\n")
        pipe.flush()
        self._asked += 1

    def result(self, timeout: float = 120.0) -> Any:
        """What the call returned.

        Raises:
            FarError: it failed, its process ended, or the time is over.
        """
        line = self._line(time.monotonic() + timeout)
        self._asked = max(0, self._asked - 1)
        told = json.loads(line)
        if "error" in told:
            raise FarError(told["error"])
        return told["result"]

    def call(self, method: str, *arguments: Any, timeout: float = 120.0) -> Any:
        """Both.

        Raises:
            FarError: as ``result``.
        """
        self.tell(method, *arguments)
        return self.result(timeout)

    def kill(self) -> float:
        """SIGKILL to the process alone; when."""
        at = time.perf_counter()
        os.kill(self.process.pid, signal.SIGKILL)
        return at

    def end(self) -> None:
        """End it and whatever it started: first by the end of its input, then all of them by signals.

        One that is still in the midst of a call does not see the end of its input.
        """
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        for sig in (signal.SIGTERM, signal.SIGKILL) if self._asked else (None, signal.SIGTERM, signal.SIGKILL):
            if sig is not None:
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, sig)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_END_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._said.close()

    def __enter__(self) -> Self:
        """Wait until it serves."""
        try:
            return self.ready()
        except BaseException:
            self.end()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End it."""
        self.end()

    def _line(self, ends: float) -> bytes:
        pipe = self.process.stdout
        assert pipe is not None
        while b"\n" not in self._buffer:
            left = ends - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise FarError("no answer in time")
            read = os.read(pipe.fileno(), 1 << 20)
            if not read:
                self._said.seek(0)
                last = self._said.read().decode(errors="replace").strip().splitlines()
                raise FarError(f"its process ended: {last[-1] if last else 'without a word'}")
            self._buffer += read
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line
