"""The page in a real Chromium, on a real server over a real ledger. Where there is no Chromium, one test says so."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.http.settings import HttpSettings
from tests.page import CHROMIUM, FLAGS
from tests.page.serving import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

#: Files of tests that drive a browser; the others read the page's files and run anywhere.
BROWSER = (
    "test_access.py", "test_actions.py", "test_connection.py", "test_hostile.py", "test_live.py", "test_login.py",
    "test_many.py", "test_pictures.py", "test_views.py",
)  # fmt: skip
collect_ignore = [] if CHROMIUM else list(BROWSER)

_SECONDS = 20_000
_WATCH = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => window.refused.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One browser for all tests of the page; no loop of its driver stays behind for the tests of other things."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def serve(redis_url: str) -> Iterator[Callable[..., Served]]:
    """Starts servers over the test's ledger: ``serve(tokens="viewer:…")``."""
    running: list[Served] = []

    def start(**settings: Any) -> Served:
        running.append(Served(HttpSettings(redis_url=redis_url, **settings)))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    """A server without tokens: whoever is on this machine is its admin."""
    return serve()


@dataclass
class Tabs:
    """Pages in a browser of their own; what went wrong in any of them fails the test."""

    browser: Browser
    pages: list[Page] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def open(self, url: str, **options: Any) -> Page:
        """A page, loaded; options are those of Playwright's ``new_context``."""
        context = self.browser.new_context(**({"reduced_motion": "reduce"} | options))
        context.set_default_timeout(_SECONDS)
        page = context.new_page()
        page.add_init_script(_WATCH)
        page.on("pageerror", lambda error: self.wrongs.append(f"error: {error}"))
        page.on("console", lambda said: said.type == "error" and self.wrongs.append(f"console: {said.text}"))
        self.pages.append(page)
        page.goto(url)
        return page

    def allow(self, *parts: str) -> None:
        """Words on the console with one of these in them are meant to come: a browser tells each refused request."""
        self.allowed += parts

    def check(self) -> None:
        """That nothing went wrong: no error of a script, nothing that the policy refused, no canary that ran."""
        for page in self.pages:
            self.wrongs += [f"policy: {one}" for one in page.evaluate("window.refused")]
            self.wrongs += ["the canary ran"] if page.evaluate("'canary' in window") else []
        assert [one for one in self.wrongs if not any(part in one for part in self.allowed)] == []


@pytest.fixture
def tabs(chromium: Browser) -> Iterator[Tabs]:
    """Opens pages: ``tabs.open(url, color_scheme="dark")``."""
    opened = Tabs(chromium)
    yield opened
    try:
        opened.check()
    finally:
        for page in opened.pages:
            page.context.close()


@pytest.fixture
def page(tabs: Tabs, served: Served) -> Page:
    """The page of an admin on the test's ledger, live."""
    opened = tabs.open(served.url)
    live(opened)
    return opened


def live(page: Page) -> None:
    """Returns once the page says that it is live."""
    from playwright.sync_api import expect

    expect(page.locator("#link")).to_have_attribute("data-word", "live", timeout=_SECONDS)


def row(page: Page, words: str) -> Any:
    """The row of a list in which these words stand."""
    return page.get_by_role("row").filter(has_text=words)


@pytest.fixture
def pictures() -> Path | None:
    """Where pictures for the documentation go, if anybody wants them: GPUBROKER_PICTURES=docs/images."""
    folder = os.environ.get("GPUBROKER_PICTURES")
    return Path(folder) if folder else None
