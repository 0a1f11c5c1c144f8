"""Lists that can be searched, filtered and sorted; and the views of one card, one lease, one request."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from broker import Broker, State
from broker.publish import Publisher
from broker.units import GIB
from broker.values import ListedProcess
from tests.conftest import report
from tests.page.seeing import go, live, row
from tests.page.test_live import queue

if TYPE_CHECKING:
    from playwright.sync_api import Page

Cards = Callable[..., None]


@pytest.fixture
def studio(cards: Cards) -> None:
    """Three hosts: one fine, one hot, one cool."""
    cards("GPU-a", "GPU-b", host="studio-1", temperature_c=60)
    cards("GPU-c", host="studio-2", temperature_c=79, state=State.THROTTLED, job_state=State.THROTTLED)
    cards("GPU-d", host="studio-10", temperature_c=41)


def first_cells(page: Page) -> list[str]:
    """The names of the cards from above."""
    return page.locator(".row[data-kind=card] .c-card .first").all_inner_texts()


def test_hosts_stand_in_the_order_people_count_with_their_cards_under_them(page: Page, studio: None) -> None:
    expect(page.locator(".row[data-kind=card]")).to_have_count(4)
    assert page.locator(".host-name").all_inner_texts() == ["studio-1", "studio-2", "studio-10"]
    assert first_cells(page) == ["studio-1 · 0", "studio-1 · 1", "studio-2 · 0", "studio-10 · 0"]


def test_cards_are_found_by_words(page: Page, studio: None) -> None:
    page.get_by_role("searchbox").fill("studio-1 gpu-b")
    expect(page.locator(".row[data-kind=card]")).to_have_count(1)
    expect(page.get_by_text("1 of 4")).to_be_visible()


def test_the_hottest_card_comes_first_when_asked_for(page: Page, studio: None) -> None:
    expect(page.locator(".row[data-kind=card]")).to_have_count(4)
    page.get_by_role("columnheader", name="Temperature").get_by_role("button").click()
    assert first_cells(page)[0] == "studio-2 · 0"
    expect(page.get_by_role("columnheader", name="Temperature")).to_have_attribute("aria-sort", "descending")
    page.get_by_role("columnheader", name="Temperature").get_by_role("button").click()
    assert first_cells(page)[0] == "studio-10 · 0"


def test_a_finding_leads_to_its_cards_and_the_address_can_be_sent_on(page: Page, studio: None) -> None:
    page.get_by_role("link", name="1 card of studio-2 THROTTLED").click()
    expect(page.locator(".row[data-kind=card]")).to_have_count(1)
    assert page.url.endswith("#/cards?show=THROTTLED")
    page.reload()
    expect(page.locator(".row[data-kind=card]")).to_have_count(1)


def test_a_card_shows_its_history_and_where_its_heat_goes(page: Page, broker: Broker) -> None:
    publisher = Publisher(broker, "studio-1")
    for degrees in range(50, 62):
        publisher.publish([report("GPU-a", temperature_c=degrees, utilization_percent=80)], 600_000)
        time.sleep(0.02)  # samples need times of their own
    row(page, "studio-1 · 0").get_by_role("link").click()
    expect(page.get_by_role("heading", name="studio-1 · 0")).to_be_visible()
    plot = page.get_by_role("img", name="Temperature: 61 °C now, from 50 °C to 61 °C in 12 samples")
    expect(plot.locator("canvas")).to_be_visible()
    expect(page.get_by_role("img", name="Load: 80 % now")).to_be_visible()
    expect(page.locator(".trend")).to_contain_text("At 61 °C and rising by")
    publisher.publish([report("GPU-a", temperature_c=62)], 600_000)
    expect(page.get_by_role("img", name="Temperature: 62 °C now, from 50 °C to 62 °C in 13 samples")).to_be_visible()


def test_a_card_shows_what_is_claimed_beside_what_nvml_sees(page: Page, broker: Broker) -> None:
    listed = (ListedProcess(4321, "99", 3 * GIB, "python", "enhance-1"), ListedProcess(77, "5", GIB, "steam", ""))
    publisher = Publisher(broker, "studio-1")
    publisher.publish([report("GPU-a")], 600_000)
    broker.acquire("2GiB", lease_id="enhance-1", pid=4321)
    publisher.publish([report("GPU-a", memory_used_bytes=4 * GIB, unmanaged_bytes=GIB, listed=listed)], 600_000)
    go(page, "card/GPU-a")
    leases = page.get_by_role("table", name="Leases on this card")
    expect(leases.get_by_role("row", name="enhance-1")).to_contain_text("2.0 GiB")
    processes = page.get_by_role("table", name="Processes that NVML sees")
    expect(processes.get_by_role("row", name="4321")).to_contain_text("enhance-1")
    expect(processes.get_by_role("row", name="steam")).to_contain_text("no lease: unmanaged")


def test_a_request_says_why_it_waits(page: Page, cards: Cards, broker: Broker) -> None:
    cards("GPU-a")
    broker.acquire("5GiB", lease_id="holder")
    queue(broker, "patient")
    go(page, "waiters")
    page.get_by_role("link", name="Why patient waits").click()
    expect(page.locator(".reasons li").first).to_contain_text("patient waits for 4.0 GiB, at place 1 of 1")
    expect(page.locator(".reasons")).to_contain_text("1 card with too little free")
    expect(page.get_by_role("table", name="Card by card")).to_contain_text("leased")


def test_one_can_ask_what_a_request_would_meet(page: Page, cards: Cards) -> None:
    cards("GPU-a")
    go(page, "waiters")
    page.get_by_label("How much memory").fill("20GiB")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".ask .reasons")).to_contain_text("can never be granted")


def test_a_lease_that_ended_says_so(page: Page, cards: Cards, broker: Broker) -> None:
    cards("GPU-a")
    lease = broker.acquire("2GiB", lease_id="enhance-1")
    go(page, "leases")
    page.get_by_role("link", name="enhance-1").click()
    expect(page.get_by_role("heading", name="Lease enhance-1")).to_be_visible()
    expect(page.locator(".facts")).to_contain_text("2.0 GiB")
    lease.release()
    expect(page.locator(".why")).to_have_text("It has ended.")
    expect(page.get_by_role("table", name="What happened")).to_contain_text("released")


def test_every_setting_stands_with_its_bounds(page: Page) -> None:
    go(page, "settings")
    expect(page.get_by_label("temp_critical", exact=True)).to_have_value("90")
    expect(page.locator("#set-temp_critical-hint")).to_contain_text("From 0 to 150. Default 90.")


def test_hosts_show_how_their_agents_are(page: Page, cards: Cards) -> None:
    cards("GPU-a", host="studio-1")
    go(page, "hosts")
    expect(row(page, "studio-1")).to_contain_text("fresh")
    expect(row(page, "studio-1")).to_contain_text("1 card")


def test_an_address_that_names_nothing_says_so(page: Page) -> None:
    go(page, "card/GPU-nowhere")
    expect(page.get_by_text("The pool knows no such card.")).to_be_visible()
    go(page, "nonsense")
    live(page)
    expect(page.get_by_role("table", name="Cards")).to_be_visible()
