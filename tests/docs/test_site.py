"""The site is built without a network, its links lead somewhere, and a browser loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from tests.docs.pages import ROOT

#: Where a build that wanted the network would have to go.
_NOWHERE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
_LOADS = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}


@dataclass
class Read(HTMLParser):
    """What a page of the site names, links to and loads."""

    text: str
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self.ids |= {told[name] for name in ("id", "name") if name in told}
        self.classes |= set(told.get("class", "").split())
        if tag == "a" and "href" in told:
            self.links.append(told["href"])
        elif tag == "link" and told.get("rel") in ("canonical", "prev", "next"):
            return
        elif told.get(_LOADS.get(tag, "")):
            self.loads.append(told[_LOADS[tag]])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` builds it."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, **_NOWHERE}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="session")
def read(site: Path) -> dict[str, Read]:
    """Every page, by its path in the site."""
    return {path.relative_to(site).as_posix(): Read(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}


def test_every_link_and_anchor_leads_somewhere(site: Path, read: dict[str, Read]) -> None:
    wrong = []
    for page, told in read.items():
        if page == "404.html":  # its links are from the root of wherever the site is
            continue
        for link in [*told.links, *told.loads]:
            if re.match(r"[a-z]+:", link):
                continue
            path, anchor = urldefrag(link)
            target = os.path.normpath(Path(page).parent / unquote(path)) if path else page
            if (site / target).is_dir():
                target = f"{target}/index.html"
            if not (site / target).exists():
                wrong.append(f"{page}: {link} is not there")
            elif anchor and target in read and unquote(anchor) not in read[target].ids:
                wrong.append(f"{page}: {target} has no #{anchor}")
    assert wrong == []


def test_a_readers_browser_loads_nothing_from_elsewhere(site: Path, read: dict[str, Read]) -> None:
    loaded = {load for told in read.values() for load in told.loads}
    assert [load for load in loaded if re.match(r"(?:[a-z]+:)?//", load)] == []
    assert all("mermaid" not in told.classes for told in read.values())  # the theme would fetch a program for it
    styles = [path.read_text("utf-8") for path in site.rglob("*.css")]
    assert styles
    assert [style[:60] for style in styles if re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style)] == []


def test_every_page_is_in_the_navigation_or_in_an_index(read: dict[str, Read]) -> None:
    pages = {page for page in read if page != "404.html"}
    linked = set()
    for page, told in read.items():
        linked |= {os.path.normpath(Path(page).parent / unquote(urldefrag(link)[0])) for link in told.links if link}
    assert pages - linked == set()


def test_no_page_shows_a_part_that_was_not_made(site: Path) -> None:
    mark = re.compile(r"(?:<|&lt;)!-- (?:made:|file:|with:|end)")
    left = [path.name for path in site.rglob("*.html") if mark.search(path.read_text("utf-8"))]
    assert left == []
