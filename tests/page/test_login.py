"""A server with tokens lets nobody see anything who has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.page.seeing import Tabs, live, row
from tests.page.serving import Served
from tests.page.test_actions import TOKENS, log_in

Cards = Callable[..., None]
Serve = Callable[..., Served]


def test_nothing_is_shown_before_the_token(tabs: Tabs, serve: Serve, cards: Cards) -> None:
    cards("GPU-a", host="studio-1")
    page = tabs.open(serve(tokens=TOKENS).url)
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    expect(page.get_by_label("Token")).to_be_focused()
    expect(page.get_by_text("studio-1")).to_have_count(0)


def test_a_wrong_token_is_refused_and_a_right_one_opens(tabs: Tabs, serve: Serve, cards: Cards) -> None:
    cards("GPU-a", host="studio-1")
    page = tabs.open(serve(tokens=TOKENS).url)
    page.get_by_label("Token").fill("no-such-token-at-all")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("The server does not take this token.")
    page.get_by_label("Token").fill("look-look-look-look")
    page.keyboard.press("Enter")
    live(page)
    expect(row(page, "studio-1 · 0")).to_be_visible()
    expect(page.locator("#me")).to_contain_text("viewer")


def test_the_token_stays_in_its_tab_and_goes_at_logging_out(tabs: Tabs, serve: Serve) -> None:
    served = serve(tokens=TOKENS)
    page = log_in(tabs, served, "work-work-work-work")
    page.reload()
    live(page)
    assert page.context.cookies() == []
    assert page.evaluate("localStorage.length") == 0
    other = page.context.new_page()
    other.goto(served.url)
    expect(other.get_by_label("Token")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_token_that_was_taken_away_ends_the_view(tabs: Tabs, serve: Serve, cards: Cards, tmp_path: Path) -> None:
    tabs.allow("401", "ERR_")
    cards("GPU-a", host="studio-1")
    file = tmp_path / "tokens"
    file.write_text("viewer:look-look-look-look\noperator:work-work-work-work\n")
    served = serve(token_file=file)
    page = log_in(tabs, served, "work-work-work-work")
    expect(row(page, "studio-1 · 0")).to_be_visible()
    file.write_text("viewer:look-look-look-look\n")
    served.stop()
    served.start()
    expect(page.get_by_label("Token")).to_be_visible()
    expect(page.get_by_text("studio-1")).to_have_count(0)


def test_what_is_no_token_is_refused_in_words(tabs: Tabs, serve: Serve) -> None:
    page = tabs.open(serve(tokens=TOKENS).url)
    no, unknown = "That is no token", "does not take this token"
    written = {"a b": no, "日本-日本-日本-日本": no, "viewer:": unknown, "äöü-äöü-äöü-äöü": unknown}
    for token, words in written.items():
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text(words)
        expect(page.get_by_label("Token")).to_be_visible()
