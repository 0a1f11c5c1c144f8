"""The page comes back by itself, and never calls well what it does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from broker import Broker
from broker.embedded import EmbeddedServer
from broker.http.settings import HttpSettings
from broker.publish import Publisher
from tests.conftest import report
from tests.page.seeing import Tabs, go, live, row
from tests.page.serving import Served

if TYPE_CHECKING:
    from playwright.sync_api import Page

Cards = Callable[..., None]


def test_it_comes_back_by_itself_after_the_server_was_restarted(
    page: Page, served: Served, cards: Cards, tabs: Tabs
) -> None:
    tabs.allow("ERR_")
    cards("GPU-a", temperature_c=50)
    expect(row(page, "h1 · 0")).to_contain_text("50 °C")
    served.stop()
    expect(page.locator("#link")).to_contain_text("reconnecting")
    expect(page.locator("#headline")).to_have_text("No news")
    expect(page.locator("#findings")).to_contain_text("What is shown here is old")
    expect(row(page, "h1 · 0")).to_contain_text("50 °C")  # what was known is still there to read
    cards("GPU-a", temperature_c=51)
    served.start()
    live(page)
    expect(row(page, "h1 · 0")).to_contain_text("51 °C")
    expect(page.locator("#headline")).to_have_text("All is well")


def test_what_happened_while_it_was_away_is_in_its_journal_once(
    page: Page, served: Served, cards: Cards, broker: Broker, tabs: Tabs
) -> None:
    tabs.allow("ERR_")
    cards("GPU-a")
    go(page, "journal")
    expect(row(page, "joined")).to_have_count(1)
    served.stop()
    expect(page.locator("#link")).to_contain_text("reconnecting")
    broker.acquire("1GiB", lease_id="meanwhile").release()
    served.start()
    live(page)
    expect(row(page, "meanwhile")).to_have_count(2)  # granted, released
    broker.drain("GPU-a")
    expect(row(page, "drained")).to_have_count(1)
    expect(row(page, "joined")).to_have_count(1)


def test_one_can_have_it_try_at_once(page: Page, served: Served, tabs: Tabs) -> None:
    tabs.allow("ERR_")
    served.stop()
    retry = page.get_by_role("button", name="Try now")
    expect(retry).to_be_visible()
    served.start()
    retry.click()
    live(page)


def test_a_ledger_that_is_away_is_said_and_its_return_is_seen(tabs: Tabs) -> None:
    tabs.allow("503")
    with EmbeddedServer() as first:
        port = first.port
        with Broker.from_url(first.url) as broker:
            Publisher(broker, "h1").publish([report("GPU-a")], 600_000)
        served = Served(HttpSettings(redis_url=first.url))
        try:
            page = tabs.open(served.url)
            expect(page.locator("#headline")).to_have_text("All is well")
            first.stop()
            expect(page.locator("#headline")).to_have_text("The ledger is away")
            expect(page.locator("#link")).to_have_attribute("data-word", "away")
            with EmbeddedServer(port=port) as second, Broker.from_url(second.url) as broker:
                Publisher(broker, "h2").publish([report("GPU-b")], 600_000)
                live(page)
                expect(row(page, "h2 · 0")).to_be_visible()
                expect(row(page, "h1 · 0")).to_have_count(0)
        finally:
            served.stop()
