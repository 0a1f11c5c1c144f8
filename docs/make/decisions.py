"""The list of decisions, from the first line of each page and what it says it does."""

from __future__ import annotations

import re
from pathlib import Path

from docs.make.markdown import table

FOLDER = Path(__file__).parents[1] / "decisions"


def page() -> str:
    """Title, linked, and the first sentence."""
    rows = []
    for path in pages():
        title, _, text = path.read_text(encoding="utf-8").partition("\n")
        rows.append((f"[{title.removeprefix('# ')}]({path.name})", _first_sentence(text)))
    return table(("decision", "what"), rows)


def pages() -> list[Path]:
    """Every page of a decision, by name."""
    return sorted(path for path in FOLDER.glob("*.md") if path.name != "index.md")


def _first_sentence(text: str) -> str:
    paragraph = next((part for part in text.split("\n\n") if part.strip() and not part.startswith("#")), "")
    told = re.sub(r"^\*\*[^*]+\*\*\s*", "", " ".join(paragraph.split()))
    told = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", told)
    found = re.match(r".+?[^.\s]{2}\.(?=\s|$)", told)
    return found[0] if found else told
