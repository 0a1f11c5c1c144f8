"""Files that keep secrets: nobody but their owner reads them, and what is written is there whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from broker.errors import InvalidRequest

_LINE = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)", re.ASCII)
_TO_FILL = re.compile(r"\w+_(?:PASSWORD|TOKEN)", re.ASCII)


@dataclass(slots=True)
class SecretFile:
    """Lines of NAME=VALUE, as Compose's ``.env`` and systemd's ``EnvironmentFile`` have them; comments are kept."""

    path: Path
    lines: list[str]

    @classmethod
    def read(cls, path: Path) -> Self:
        """What stands there; nothing if there is no such file.

        Raises:
            InvalidRequest: it cannot be read.
        """
        try:
            return cls(path, path.read_text(encoding="utf-8").splitlines() if path.exists() else [])
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest("secrets", str(path), f"a file of NAME=VALUE lines ({error})") from None

    def get(self, name: str) -> str:
        """The value of the last line of that name; empty without one."""
        found = [line["value"].strip() for line in map(_LINE.fullmatch, self.lines) if line and line["name"] == name]
        return found[-1].strip("'\"") if found else ""

    def set(self, name: str, value: str) -> None:
        """Put the value into its line, or into a new one at the end."""
        places = [place for place, line in enumerate(self.lines) if (m := _LINE.fullmatch(line)) and m["name"] == name]
        if places:
            self.lines[places[-1]] = f"{name}={value}"
        else:
            self.lines.append(f"{name}={value}")

    def fill(self, make: Callable[[], str]) -> None:
        """Give a value to every line of a password or a token that has none."""
        for line in map(_LINE.fullmatch, list(self.lines)):
            if line and _TO_FILL.fullmatch(line["name"]) and not self.get(line["name"]):
                self.set(line["name"], make())

    def write(self) -> None:
        """Write it back."""
        write_private(self.path, self.lines)


def write_private(path: Path, lines: Iterable[str]) -> None:
    """Replace a file in one step by one that only its owner reads (0600).

    Raises:
        InvalidRequest: it cannot be written there.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise InvalidRequest("out", str(path), f"a file in a folder that may be written ({error.strerror})") from None
