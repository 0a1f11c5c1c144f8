"""Terminals as a tutorial has them: some stay busy with a program, one is for commands, all in one folder."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from broker import lifeline

_ENDS_SECONDS = 30.0
_RUN_SECONDS = 120.0


@dataclass
class Terminals:
    """A folder, an environment, and the programs that run. ``python`` and ``gpubroker`` are those of this test."""

    folder: Path
    environment: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, title: str, line: str) -> None:
        """A program that stays, in a terminal of that title; what it says is in ``said(title)``."""
        command = ["bash", "-c", f"exec env {_ours(line)}"]
        with self._log(title).open("wb") as log:
            self.running[title] = lifeline.spawn(
                command, log, on_parent_death=signal.SIGTERM, environment=self.environment, folder=self.folder
            )

    def said(self, title: str) -> str:
        """All that a program has said until now."""
        return self._log(title).read_text(encoding="utf-8")

    def run(self, line: str) -> tuple[int, str]:
        """A command to its end: its status, and what it says."""
        done = subprocess.run(
            ["bash", "-c", _ours(line)], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=_RUN_SECONDS, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def end(self, title: str) -> int:
        """Ctrl-C in a terminal; the program's status."""
        program = self.running.pop(title)
        program.send_signal(signal.SIGINT)
        return program.wait(timeout=_ENDS_SECONDS)

    def _log(self, title: str) -> Path:
        return self.folder / f"{re.sub(r'[^a-z]+', '-', title)}.log"


@contextmanager
def terminals(folder: Path) -> Iterator[Terminals]:
    """Terminals that are closed at the end, whatever still runs in them."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("GPUBROKER_", "RQ_", "PYTEST_"))
    }
    opened = Terminals(folder, {**environment, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"})
    try:
        yield opened
    finally:
        for program in reversed(opened.running.values()):
            lifeline.end_all([program], _ENDS_SECONDS)


def _ours(line: str) -> str:
    """The line with the programs of this interpreter's environment, wherever their scripts are."""
    python = shlex.quote(sys.executable)
    line = re.sub(r"^((?:[A-Z_]+=\S+ )*)gpubroker ", rf"\1{python} -m broker.cli ", line)
    return re.sub(r"^python ", f"{python} ", line)
