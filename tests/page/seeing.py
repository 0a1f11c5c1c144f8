"""What a person sees: pages in a browser, and the rows of a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

_MILLISECONDS = 20_000
_WATCH = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.refused.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""


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
        context.set_default_timeout(_MILLISECONDS)
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
        wrongs = [one for one in self.wrongs if not any(part in one for part in self.allowed)]
        assert not wrongs, wrongs


def live(page: Page) -> None:
    """Returns once the page says that it is live."""
    from playwright.sync_api import expect

    expect.set_options(timeout=_MILLISECONDS)
    expect(page.locator("#link")).to_have_attribute("data-word", "live")


def go(page: Page, view: str) -> None:
    """Look at another view, by its address."""
    page.evaluate("(view) => { location.hash = view; }", f"#/{view}")


def row(page: Page, words: str) -> Locator:
    """The row of a list in which these words stand."""
    return page.get_by_role("row").filter(has_text=words)
