"""The page in a real Chromium, on a real server over a real ledger. Where there is no Chromium, one test says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from broker.http.settings import HttpSettings
from tests.page import CHROMIUM, FLAGS
from tests.page.seeing import Tabs, live
from tests.page.serving import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

#: Files of tests that drive a browser; the others read the page's files and run anywhere.
BROWSER = (
    "test_access.py", "test_actions.py", "test_connection.py", "test_hostile.py", "test_live.py", "test_login.py",
    "test_many.py", "test_parts.py", "test_pictures.py", "test_views.py",
)  # fmt: skip
collect_ignore = [] if CHROMIUM else list(BROWSER)


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


@pytest.fixture
def tabs(chromium: Browser, serve: Callable[..., Served]) -> Iterator[Tabs]:
    """Opens pages: ``tabs.open(url, color_scheme="dark")``. They are closed before the servers end."""
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
