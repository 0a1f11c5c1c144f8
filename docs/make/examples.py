"""The examples of ``examples/basics``, as they are in their files."""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples" / "basics"


def page() -> str:
    """A section an example: what it shows, its code, how to start it."""
    return "\n".join(_section(path) for path in paths())


def paths() -> list[Path]:
    """The examples in their order."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def _section(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    shows = ast.get_docstring(ast.parse(text)) or ""
    title, _, more = shows.partition(": ")
    _, _, code = text.partition('"""\n\n')
    start = f"python examples/basics/{path.name}"
    return f"## {title}\n\n{more[:1].upper()}{more[1:]}\n\n```sh\n{start}\n```\n\n```python\n{code.strip()}\n```\n"
