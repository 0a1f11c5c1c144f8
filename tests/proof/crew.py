"""The processes that hammer a pool: hired, paused, killed and replaced, and asked what they noted."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.proof.hammer import Orders, work


class Crew:
    """The processes, by name; a fallen one is replaced by another of its role."""

    def __init__(self, folder: Path, pool: str, dice: random.Random) -> None:
        """Nobody yet; complaints go into ``folder``."""
        self.folder = folder
        self.pool = pool
        self.members: dict[str, tuple[BaseProcess, str, str]] = {}
        self._dice = dice
        self._spawn = multiprocessing.get_context("spawn")

    def hire(self, name: str, role: str, url: str) -> None:
        """Start one, in place of whoever has the name."""
        orders = Orders(role, name, url, self.pool, self._dice.getrandbits(32), self.folder, os.getpid())
        process = self._spawn.Process(target=work, args=(orders,), name=name, daemon=True)
        process.start()
        self.members[name] = (process, role, url)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to one that is alive."""
        process = self.members[name][0]
        if process.is_alive() and process.pid:
            os.kill(process.pid, number)

    def signal_all(self, number: int) -> None:
        """Send a signal to everyone."""
        for name in self.members:
            self.signal(name, number)

    def replace(self, name: str) -> None:
        """SIGKILL one and start another."""
        process, role, url = self.members[name]
        process.kill()
        process.join()
        self.hire(name, role, url)

    def stop(self) -> list[str]:
        """End everyone; returns those who had died by themselves."""
        dead = [name for name, (process, _, _) in self.members.items() if not process.is_alive()]
        for number in (signal.SIGCONT, signal.SIGTERM):
            self.signal_all(number)
        for process, _, _ in self.members.values():
            process.join(timeout=20)
            if process.is_alive():
                process.kill()
                process.join()
        return dead

    def complaints(self) -> list[str]:
        """What the processes noted, and how often."""
        notes = Counter(
            line for path in self.folder.glob("*.txt") for line in path.read_text(encoding="utf-8").splitlines()
        )
        return [f"{line} ({count} times)" for line, count in sorted(notes.items())]
