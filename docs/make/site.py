"""MkDocs' hook: puts what is made from the code into the pages, and leaves out pages of parts that are not there."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docs.make import (
    acl,
    alerts,
    cli,
    configuration,
    decisions,
    diagrams,
    doctor,
    events,
    examples,
    http,
    keys,
    python,
    results,
    states,
)

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
#: What a page may name on a line of its own: ``<!-- made: NAME -->``.
PARTS: dict[str, Callable[[], str]] = {
    "acl": acl.page,
    "alerts": alerts.page,
    "answers": python.answers,
    "broker": python.BROKER,
    "cli": cli.page,
    "configuration": configuration.page,
    "decisions": decisions.page,
    "doctor": doctor.page,
    "events": events.page,
    "events on call": events.on_call,
    "examples": examples.page,
    "http": http.page,
    "keys": keys.page,
    "results": results.page,
    "states": states.page,
    "worker hooks": python.WORKER_HOOKS,
}
#: Pages that are there only with a part of the code.
ONLY_WITH: dict[str, Callable[[], bool]] = {
    "reference/http.md": http.is_there,
    "metrics.md": (DOCS / "metrics.md").exists,
    "tracing.md": (DOCS / "tracing.md").exists,
    "how-to/grafana.md": (DOCS / "metrics.md").exists,
}
#: Paragraphs that are there only with a part of the code: between ``<!-- with: NAME -->`` and ``<!-- end -->``.
WITH: dict[str, Callable[[], bool]] = {
    "acl": acl.is_there,
    "alerts": alerts.is_there,
    "http": http.is_there,
    "page pictures": (DOCS / "images" / "page-cards.png").exists,
    "top": cli.has_top,
    "top picture": (DOCS / "top.svg").exists,
}
_ONLY = re.compile(r"^<!-- with: (?P<name>[a-z ]+) -->\n(?P<text>.*?)^<!-- end -->\n", re.MULTILINE | re.DOTALL)
_PART = re.compile(r"^<!-- made: (?P<name>[a-z ]+) -->$", re.MULTILINE)
_FILE = re.compile(r"^<!-- file: (?P<path>[\w./-]+) -->$", re.MULTILINE)
_LINK = re.compile(r"\[(?P<text>[^\]\[]+)\]\((?P<to>[^)\s#]+\.md)(?:#[^)\s]*)?\)")


def absent() -> set[str]:
    """Pages that this build has not got."""
    return {page for page, is_there in ONLY_WITH.items() if not is_there()}


def on_config(config: Any) -> Any:
    """Take absent pages out of the navigation."""
    config["nav"] = _without(config["nav"], absent())
    return config


def on_files(files: Any, config: Any) -> Any:
    """Take absent pages out of the site."""
    for page in absent():
        if (there := files.get_file_from_path(page)) is not None:
            files.remove(there)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A page with its made parts in place."""
    return assembled(markdown, page.file.src_uri)


def present(markdown: str) -> str:
    """A page without what is said only with parts of the code that are not there."""
    return _ONLY.sub(lambda found: found["text"] if WITH[found["name"]]() else "", markdown)


def assembled(markdown: str, page: str) -> str:
    """A page with made parts and files in place, diagrams as pictures, and no links to pages that are absent.

    Raises:
        KeyError: it names a part that nobody makes. FileNotFoundError: a file or a diagram's picture is not there.
    """
    text = _PART.sub(lambda found: PARTS[found["name"]](), present(markdown))
    text = _FILE.sub(lambda found: (ROOT / found["path"]).read_text(encoding="utf-8").rstrip(), text)
    text = diagrams.as_pictures(text, page)
    missing, folder = absent(), posixpath.dirname(page)
    return _LINK.sub(
        lambda link: link["text"] if posixpath.normpath(posixpath.join(folder, link["to"])) in missing else link[0],
        text,
    )


def _without(nav: Any, pages: set[str]) -> Any:
    """A navigation without these pages."""
    if isinstance(nav, list):
        return [kept for entry in nav if (kept := _without(entry, pages)) is not None]
    if isinstance(nav, dict):
        ((title, inner),) = nav.items()
        kept = _without(inner, pages)
        return None if kept is None else {title: kept}
    return None if nav in pages else nav
