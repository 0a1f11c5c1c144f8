"""Mermaid diagrams as pictures beside the pages: a reader's browser loads no drawing program, from here or elsewhere.

``python -m docs.make.diagrams MERMAID_JS`` draws those that are new (``npm pack mermaid`` has ``mermaid.min.js``; needs
Chromium) and deletes those that no page has any more.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parents[1]
FOLDER = DOCS / "pictures"
#: Mermaid's themes, for the site's two.
THEMES = {"light": "neutral", "dark": "dark"}
_BLOCK = re.compile(r"^```mermaid\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_SECONDS = 60


def as_pictures(markdown: str, page: str) -> str:
    """A page's text with pictures for its diagrams.

    Raises:
        FileNotFoundError: a diagram was never drawn, or changed since.
    """
    up = "../" * page.count("/")

    def picture(found: re.Match[str]) -> str:
        headings = _HEADING.findall(markdown[: found.start()])
        shown = []
        for theme in THEMES:
            path = picture_of(found["text"], theme)
            if not path.exists():
                raise FileNotFoundError(f"{page}: a diagram has no {path.name}; draw it: see docs/make/diagrams.py")
            at = posixpath.join(up, FOLDER.name, path.name)
            shown.append(f"![Diagram: {headings[-1] if headings else page}]({at}#only-{theme})")
        return "\n".join(shown)

    return _BLOCK.sub(picture, markdown)


def picture_of(text: str, theme: str) -> Path:
    """Where a diagram's picture is: under a name that changes with the diagram."""
    return FOLDER / f"diagram-{hashlib.sha256(text.encode()).hexdigest()[:12]}-{theme}.svg"


def diagrams() -> Iterator[str]:
    """Every diagram of every page."""
    for path in sorted(DOCS.rglob("*.md")):
        for found in _BLOCK.finditer(path.read_text(encoding="utf-8")):
            yield found["text"]


def draw(text: str, theme: str, mermaid_js: Path) -> str:
    """The picture of a diagram, as text.

    Raises:
        ValueError: Mermaid does not understand it.
    """
    script = mermaid_js.read_text(encoding="utf-8").replace("</script", "<\\/script")
    shown = text.replace("&", "&amp;").replace("<", "&lt;")
    page = f"""<!doctype html><meta charset="utf-8"><pre id="text">{shown}</pre>
<script>{script}</script><script>
mermaid.initialize({{
  startOnLoad: false, theme: "{THEMES[theme]}", htmlLabels: false, flowchart: {{htmlLabels: false}} }});
mermaid.render("drawn", document.getElementById("text").textContent).then(
  ({{svg}}) => {{ document.body.innerHTML = svg; }}, (error) => {{ document.body.textContent = error; }});
</script>"""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
                   "--virtual-time-budget=10000", "--dump-dom", path.as_uri()]  # fmt: skip
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
    found = re.search(r"<svg.*</svg>", told, re.DOTALL)
    if found is None:
        raise ValueError(f"Mermaid draws nothing of:\n{text}")
    return found[0].replace("<br>", "<br/>")


def main(mermaid_js: str) -> None:
    """Draw what is new; delete what no page has."""
    FOLDER.mkdir(exist_ok=True)
    kept = {picture_of(text, theme): (text, theme) for text in diagrams() for theme in THEMES}
    for path, (text, theme) in kept.items():
        if not path.exists():
            path.write_text(draw(text, theme, Path(mermaid_js)), encoding="utf-8")
            print(path.name)
    for path in set(FOLDER.glob("diagram-*.svg")) - set(kept):
        path.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
