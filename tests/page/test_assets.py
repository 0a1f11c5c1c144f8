"""The page's files as they lie in the package: nothing to build, nothing from elsewhere, nothing inline."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

STATIC = Path(__file__).parents[2] / "broker" / "http" / "static"
VENDOR = STATIC / "vendor"
INDEX = (STATIC / "index.html").read_text()
MODULES = [path for path in STATIC.rglob("*.js") if VENDOR not in path.parents]


def test_the_page_has_no_script_style_or_handler_of_its_own_inside() -> None:
    assert not re.search(r"<script(?![^>]*\bsrc=)", INDEX)
    assert "<style" not in INDEX
    assert not re.search(r"\s(on[a-z]+|style)=", INDEX)


def test_everything_comes_from_the_package() -> None:
    named = re.findall(r'(?:src|href)="(static/[^"]+)"', INDEX)
    assert "static/main.js" in named
    assert [name for name in named if not (STATIC.parent / name).is_file()] == []
    for text in (INDEX, *(path.read_text() for path in MODULES)):
        assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_every_module_is_asked_for_at_once() -> None:
    named = set(re.findall(r'href="static/([^"]+\.js)"|src="static/([^"]+\.js)"', INDEX))
    assert {one or other for one, other in named} == {str(path.relative_to(STATIC)) for path in MODULES}


def test_no_text_becomes_html() -> None:
    for path in MODULES:
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc|setHTML",
            path.read_text(),
        )
        assert found == [], path


def test_no_file_of_ours_is_longer_than_400_lines() -> None:
    files = [*MODULES, *STATIC.glob("*.css"), STATIC / "index.html"]
    assert {path.name: lines for path in files if (lines := len(path.read_text().splitlines())) > 400} == {}


def test_what_others_wrote_is_as_they_published_it_with_its_licence() -> None:
    # `npm pack uplot@1.6.32`: dist/uPlot.esm.js
    digest = hashlib.sha256((VENDOR / "uplot" / "uPlot.esm.js").read_bytes()).hexdigest()
    assert digest == "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba"
    assert "The MIT License" in (VENDOR / "uplot" / "LICENSE").read_text()


def test_the_package_carries_all_of_it() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["broker.http"]
    carried = {path for pattern in patterns for path in STATIC.parent.glob(pattern) if path.is_file()}
    assert [path for path in STATIC.rglob("*") if path.is_file() and path not in carried] == []
