"""For everybody: with a keyboard alone, with a screen reader, on a phone, in the dark."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from broker import Broker, State
from broker.units import GIB, MIB
from tests.page.seeing import Tabs, go, live, row
from tests.page.serving import Served
from tests.page.test_live import queue

if TYPE_CHECKING:
    from playwright.sync_api import Page

Cards = Callable[..., None]
VIEWS = (
    "cards", "leases", "waiters", "journal", "hosts", "settings", "card/GPU-a", "lease/enhance-1", "waiter/patient",
)  # fmt: skip
PHONE = {"width": 360, "height": 740}


@pytest.fixture
def busy(cards: Cards, broker: Broker) -> None:
    """A pool with something of everything, and with names as long as they may be."""
    cards("GPU-a", "GPU-b", host="studio-1", temperature_c=61, memory_used_bytes=3 * GIB, unmanaged_bytes=400 * MIB)
    hot = State.CRITICAL
    cards(
        "GPU-0f8b" * 15,
        host="studio-2",
        name="N" * 80,
        temperature_c=91,
        state=hot,
        job_state=hot,
        reason="91 °C " * 20,
    )
    broker.acquire("5GiB", lease_id="enhance-1", owner="o" * 128, tenant="t" * 128, job_id="j" * 128)
    broker.acquire("5GiB", lease_id="L" * 128, ttl=600)
    queue(broker, "patient")
    queue(broker, "w" * 128)
    broker.drain("GPU-b")


def test_no_view_is_wider_than_a_phone(tabs: Tabs, served: Served, busy: None) -> None:
    page = tabs.open(served.url, viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    live(page)
    wrong = {}
    for view in VIEWS:
        look_at(page, view)
        widest = page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
        # Neither does the page scroll to the side, nor is anything cut off there, nor is it bad to a screen reader.
        if widest > PHONE["width"] or wide_ones(page) or found(page):
            wrong[view] = (widest, wide_ones(page), found(page))
    assert wrong == {}


def look_at(page: Page, view: str) -> None:
    """Go to a view, and return once something is on it."""
    go(page, view)
    kind, one, _ = view.partition("/")
    expect(page.locator("nav [aria-current]")).to_have_attribute("data-view", f"{kind}s" if one else kind)
    expect(page.locator("#main").locator(".row[data-key], .setting, .facts div").first).to_be_visible()


def wide_ones(page: Page) -> list[str]:
    """What reaches over the right edge and is not cut by something around it that means to."""
    return page.evaluate("""() => [...document.querySelectorAll('body *')].filter((one) => {
        const box = one.getBoundingClientRect();
        return box.width && box.right > innerWidth + 1 && getComputedStyle(one).position !== 'absolute'
            && !one.closest('.cell, .second, .hidden-words, .heads, .u-over, .uplot, svg');
      }).map((one) => `${one.tagName}.${one.className} ${one.getBoundingClientRect().right}`)""")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(tabs: Tabs, served: Served, busy: None, scheme: str) -> None:
    page = tabs.open(served.url, color_scheme=scheme)
    live(page)
    wrong = {}
    for view in VIEWS:
        look_at(page, view)
        if told := found(page):
            wrong[view] = told
    assert wrong == {}


def test_axe_finds_nothing_serious_in_a_question(page: Page, busy: None) -> None:
    page.get_by_role("button", name="Drain card 0 of studio-1").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert found(page) == []


def test_axe_finds_nothing_serious_at_the_door(tabs: Tabs, serve: Callable[..., Served]) -> None:
    page = tabs.open(serve(tokens="viewer:look-look-look-look").url)
    expect(page.get_by_label("Token")).to_be_visible()
    assert found(page) == []


def found(page: Page) -> list[str]:
    """What axe finds, from moderate on, each with its first place."""
    told = Axe().run(page).response["violations"]
    return [
        f"{one['impact']} {one['id']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0]['failureSummary'][:300]}"
        for one in told
        if one["impact"] in ("moderate", "serious", "critical")
    ]


def test_everything_is_reached_and_done_with_a_keyboard(page: Page, busy: None, broker: Broker) -> None:
    expect(row(page, "studio-1 · 0")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the list")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("studio-1")
    expect(page.get_by_text("2 of 3")).to_be_visible()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.rows')"):
            break
    page.keyboard.press("End")
    expect(page.get_by_role("link", name="studio-1 · 1")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("link", name="studio-1 · 0")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Drain card 0 of studio-1")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Undrain card 0 of studio-1")).to_be_focused()
    assert broker.gpus()[0].drained
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="studio-1 · 0")).to_be_focused()


def test_focus_stays_on_its_row_while_the_list_changes(page: Page, cards: Cards) -> None:
    cards("GPU-a", "GPU-b", host="studio-5", temperature_c=50)
    page.get_by_role("link", name="studio-5 · 1").focus()
    cards("GPU-c", host="studio-1", temperature_c=70)  # comes before it
    cards("GPU-a", "GPU-b", host="studio-5", temperature_c=66)
    expect(row(page, "studio-1 · 0")).to_be_visible()
    expect(row(page, "studio-5 · 1")).to_contain_text("66 °C")
    expect(page.get_by_role("link", name="studio-5 · 1")).to_be_focused()


def test_a_list_is_a_table_to_a_screen_reader(page: Page, busy: None) -> None:
    table = page.get_by_role("table", name="Cards")
    expect(row(page, "studio-1 · 0")).to_be_visible()
    expect(table).to_have_attribute("aria-rowcount", "6")  # heads, two hosts, three cards
    heads = table.get_by_role("columnheader").all_inner_texts()
    cells = row(page, "studio-1 · 0").get_by_role("cell")
    assert cells.count() == len(heads)
    expect(row(page, "studio-1 · 0")).to_have_attribute("aria-rowindex", "3")


def test_a_change_of_the_verdict_is_said_aloud_once_and_figures_are_not(page: Page, cards: Cards) -> None:
    page.evaluate("""() => { const spoken = document.getElementById('spoken'); window.said = [];
        new MutationObserver(() => window.said.push(spoken.textContent))
            .observe(spoken, {childList: true, characterData: true, subtree: true}); }""")
    cards("GPU-a", temperature_c=50)
    expect(page.locator("#headline")).to_have_text("All is well")
    for degrees in (51, 52):
        cards("GPU-a", temperature_c=degrees)
        expect(row(page, "h1 · 0")).to_contain_text(f"{degrees} °C")
    assert page.evaluate("window.said") == ["All is well"]


def test_no_sign_is_a_colour_alone(page: Page, busy: None) -> None:
    expect(row(page, "studio-2 · 0")).to_contain_text("CRITICAL")
    signs = page.evaluate("""[...document.querySelectorAll('.state')].map(
        (one) => [one.dataset.state, one.querySelector('use').getAttribute('href')])""")
    assert {sign for state, sign in signs} == {f"#i-{state}" for state, _ in signs}
    assert len({sign for _, sign in signs}) == 2
