"""Texts as Markdown: tables whose cells stay in their columns, code, and docstrings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SECTION = re.compile(r"^(?P<name>Args|Raises):\n(?P<told>(?:(?: {4}.*)?(?:\n|\Z))+)", re.MULTILINE)
_ARGUMENT = re.compile(r"^ {4}(?=\S)", re.MULTILINE)
#: Code as docstrings have it, beside the fences of a block.
_CODE = re.compile(r"(?<!`)``(?!`)")
_NOTE = re.compile(r"^Note: ", re.MULTILINE)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of these rows; a cell may hold anything."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(cell, line))} |\n" for line in lines)


def cell(text: str) -> str:
    """A text that stays in its cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """A text set as code; an empty one stays empty."""
    return f"`{text}`" if text else ""


def docstring(text: str) -> str:
    """A docstring of this house as Markdown: paragraphs, literal blocks, arguments as a list, what it raises."""
    told = _SECTION.sub(_section, text.rstrip())
    return _CODE.sub("`", _NOTE.sub("**Note:** ", _literal_blocks(told))).strip()


def _section(found: re.Match[str]) -> str:
    if found["name"] == "Raises":
        return f"Raises: {' '.join(found['told'].split())}\n"
    lines = [" ".join(one.split()) for one in _ARGUMENT.split(found["told"]) if one.strip()]
    return (
        "".join(f"- ``{name}``: {what.strip()}\n" for name, _, what in (line.partition(":") for line in lines)) + "\n"
    )


def _literal_blocks(text: str) -> str:
    """``::`` and an indented block, as reStructuredText has it, become a block of code."""
    out: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.rstrip().endswith("::"):
            shown = line.rstrip()[:-2].rstrip()
            out += [f"{shown}:", ""] * bool(shown) + ["```python"]
            inside = True
        elif inside and line and not line.startswith(" "):
            while out and not out[-1]:
                out.pop()
            out += ["```", "", line]
            inside = False
        elif inside and out[-1] == "```python" and not line:
            continue
        else:
            out.append(line[4:] if inside else line)
    if inside:
        out.append("```")
    return "\n".join(out)
