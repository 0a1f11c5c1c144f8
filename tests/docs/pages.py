"""What the pages of the documentation hold: blocks of code, with their language and title."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docs.make.site import present

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(
    r'^(?P<indent> *)```(?P<language>\w*)(?: title="(?P<title>[^"]*)")?[^\n]*\n(?P<text>.*?)^(?P=indent)```$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: ``language`` and ``title`` are empty where it has none."""

    language: str
    title: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its lines without comments, those that go on with ``\\`` in one."""
        text = re.sub(r"\\\n\s*", "", self.text)
        lines = (re.sub(r"(?:^|\s+)#.*", "", line).strip() for line in text.splitlines())
        return [line for line in lines if line]


def blocks(page: str, language: str = "", title: str = "") -> list[Block]:
    """The blocks of a page, of that language and title where they are given."""
    found = [
        Block(one["language"], one["title"] or "", one["text"])
        for one in _BLOCK.finditer(present((DOCS / page).read_text(encoding="utf-8")))
    ]
    return [block for block in found if language in ("", block.language) and title in ("", block.title)]


def pages() -> Iterator[str]:
    """Every page that people write, as a path below ``docs``."""
    for path in sorted(DOCS.rglob("*.md")):
        yield path.relative_to(DOCS).as_posix()
