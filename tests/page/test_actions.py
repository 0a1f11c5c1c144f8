"""What an operator does: each with a question before it, and the server's own words where it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from broker import Broker
from tests.page.seeing import Tabs, go, live, row
from tests.page.serving import Served
from tests.page.test_live import queue

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

Cards = Callable[..., None]
TOKENS = "viewer:look-look-look-look operator:work-work-work-work"


@pytest.fixture
def question(page: Page) -> Locator:
    """The dialog that asks."""
    return page.get_by_role("dialog")


def test_a_card_is_drained_once_that_was_confirmed(page: Page, cards: Cards, broker: Broker, question: Locator) -> None:
    cards("GPU-a")
    page.get_by_role("button", name="Drain card 0 of h1").click()
    expect(question).to_contain_text("Drain card 0 of h1?")
    expect(question).to_contain_text("Running leases stay")
    assert not broker.gpus()[0].drained
    question.get_by_role("button", name="Drain").click()
    expect(question).to_be_hidden()
    expect(page.locator("#toast")).to_have_text("Drained card 0 of h1.")
    expect(row(page, "h1 · 0")).to_contain_text("drained")
    assert broker.gpus()[0].drained_by == "gpu"
    page.get_by_role("button", name="Undrain card 0 of h1").click()
    question.get_by_role("button", name="Undrain").click()
    expect(page.get_by_role("button", name="Drain card 0 of h1", exact=True)).to_be_visible()
    assert not broker.gpus()[0].drained


def test_nothing_happens_to_who_thinks_again(page: Page, cards: Cards, broker: Broker, question: Locator) -> None:
    cards("GPU-a")
    page.get_by_role("button", name="Drain card 0 of h1").click()
    expect(question.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(question).to_be_hidden()
    expect(page.get_by_role("button", name="Drain card 0 of h1")).to_be_focused()
    assert not broker.gpus()[0].drained


def test_a_refusal_is_told_in_the_question(
    page: Page, cards: Cards, broker: Broker, question: Locator, tabs: Tabs
) -> None:
    tabs.allow("404")
    cards("GPU-a")
    lease = broker.acquire("2GiB", lease_id="job-7")
    go(page, "leases")
    page.get_by_role("button", name="Revoke lease job-7").click()
    lease.release()
    question.get_by_role("button", name="Revoke").click()
    expect(question.get_by_role("alert")).to_contain_text("Not done: ")
    expect(question.get_by_role("alert")).to_contain_text("job-7")
    expect(question).to_be_visible()


def test_a_lease_is_revoked_with_a_grace_and_a_reason(
    page: Page, cards: Cards, broker: Broker, question: Locator
) -> None:
    cards("GPU-a")
    broker.acquire("2GiB", lease_id="job-7", ttl=600)
    go(page, "leases")
    page.get_by_role("button", name="Revoke lease job-7").click()
    question.get_by_label("Grace, in seconds").fill("120")
    question.get_by_label("Reason").fill("maintenance")
    question.get_by_role("button", name="Revoke").click()
    expect(row(page, "job-7")).to_contain_text("revoked: maintenance, ends in")
    found = broker.get("job-7")
    assert found is not None
    assert found.revoke_reason == "maintenance"
    (event,) = (event for event in broker.events() if event.kind == "revoked")
    assert found.revoke_at == event.at + 120_000


def test_a_waiter_is_cancelled(page: Page, cards: Cards, broker: Broker, question: Locator) -> None:
    cards("GPU-a")
    broker.acquire("5GiB", lease_id="holder")
    queue(broker, "patient")
    go(page, "waiters")
    page.get_by_role("button", name="Cancel the request patient").click()
    question.get_by_role("button", name="Cancel request").click()
    expect(page.get_by_text("Nobody waits.")).to_be_visible()
    assert broker.waiters() == []


def test_a_host_is_drained_and_opened_again(page: Page, cards: Cards, broker: Broker, question: Locator) -> None:
    cards("GPU-a", "GPU-b", host="studio-1")
    go(page, "hosts")
    page.get_by_role("button", name="Drain host studio-1").click()
    question.get_by_role("button", name="Drain").click()
    expect(row(page, "studio-1")).to_contain_text("drained")
    assert [card.drained_by for card in broker.gpus()] == ["host", "host"]
    page.get_by_role("button", name="Undrain host studio-1").click()
    question.get_by_role("button", name="Undrain").click()
    expect(page.get_by_role("button", name="Drain host studio-1", exact=True)).to_be_visible()


def test_settings_change_together_after_they_were_shown(
    page: Page, cards: Cards, broker: Broker, question: Locator
) -> None:
    cards("GPU-a", temperature_c=62)
    go(page, "settings")
    page.get_by_label("temp_optimal", exact=True).fill("60")
    page.get_by_label("memory_reserve_mb", exact=True).fill("256")
    page.get_by_role("button", name="Change…").click()
    expect(question).to_contain_text("temp_optimal: 65 → 60")
    expect(question).to_contain_text("memory_reserve_mb: 512 → 256")
    question.get_by_role("button", name="Change").click()
    expect(page.locator("#toast")).to_have_text("Changed temp_optimal, memory_reserve_mb.")
    assert (broker.config().temp_optimal, broker.config().memory_reserve_mb) == (60, 256)
    page.get_by_label("temp_optimal", exact=True).fill("")
    page.get_by_role("button", name="Change…").click()
    expect(question).to_contain_text("temp_optimal: 60 → the default")
    question.get_by_role("button", name="Change").click()
    expect(page.get_by_label("temp_optimal", exact=True)).to_have_value("65")
    assert broker.config().temp_optimal == 65


def test_settings_out_of_bounds_are_refused_by_name_and_none_is_changed(
    page: Page, broker: Broker, question: Locator, tabs: Tabs
) -> None:
    tabs.allow("422")
    go(page, "settings")
    page.get_by_label("temp_optimal", exact=True).fill("80")
    page.get_by_label("history_size", exact=True).fill("50")
    page.get_by_role("button", name="Change…").click()
    question.get_by_role("button", name="Change").click()
    expect(question.get_by_role("alert")).to_contain_text("temp_optimal <= temp_normal")
    assert broker.config().changed() == {}


def test_one_card_has_settings_of_its_own(page: Page, cards: Cards, broker: Broker, question: Locator) -> None:
    cards("GPU-a", "GPU-b")
    go(page, "card/GPU-b")
    page.get_by_text("Settings of this card").click()
    page.get_by_label("temp_normal", exact=True).fill("70")
    page.get_by_role("button", name="Change…").click()
    question.get_by_role("button", name="Change").click()
    expect(page.locator("#toast")).to_contain_text("Changed temp_normal")
    assert (broker.config("GPU-b").temp_normal, broker.config().temp_normal) == (70, 75)


def test_a_request_that_cannot_reach_the_server_is_said_to_be_not_done(
    page: Page, cards: Cards, served: Served, broker: Broker, question: Locator, tabs: Tabs
) -> None:
    tabs.allow("ERR_CONNECTION_REFUSED")
    cards("GPU-a")
    page.get_by_role("button", name="Drain card 0 of h1").click()
    served.stop()
    question.get_by_role("button", name="Drain").click()
    expect(question.get_by_role("alert")).to_contain_text("the server cannot be reached")
    assert not broker.gpus()[0].drained


def test_a_viewer_sees_everything_and_can_do_nothing(
    tabs: Tabs, serve: Callable[..., Served], cards: Cards, broker: Broker
) -> None:
    cards("GPU-a")
    broker.acquire("5GiB", lease_id="holder")
    queue(broker, "patient")
    page = log_in(tabs, serve(tokens=TOKENS), "look-look-look-look")
    for view in ("cards", "leases", "waiters", "hosts", "settings", "card/GPU-a", "lease/holder", "waiter/patient"):
        go(page, view)
        expect(page.locator("#main")).not_to_be_empty()
        acts = page.get_by_role("button", name="rain").or_(page.get_by_role("button", name="Revoke"))
        expect(
            acts.or_(page.get_by_role("button", name="Cancel")).or_(page.get_by_role("button", name="Change"))
        ).to_have_count(0)
    expect(page.locator("input[id^=set-]")).to_have_count(0)


def test_an_operator_drains_and_does_not_change_settings(
    tabs: Tabs, serve: Callable[..., Served], cards: Cards
) -> None:
    cards("GPU-a")
    page = log_in(tabs, serve(tokens=TOKENS), "work-work-work-work")
    expect(page.get_by_role("button", name="Drain card 0 of h1")).to_be_visible()
    go(page, "settings")
    expect(page.locator("#set-temp_critical")).to_have_text("90")
    expect(page.locator("input[id^=set-]")).to_have_count(0)


def log_in(tabs: Tabs, served: Served, token: str) -> Page:
    """The page of who has this token."""
    page = tabs.open(served.url)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    live(page)
    return page


def test_a_double_click_makes_one_change_and_each_change_has_a_key_of_its_own(
    page: Page, cards: Cards, question: Locator
) -> None:
    cards("GPU-a")
    sent: list[str] = []
    page.on("request", lambda request: request.method == "POST" and sent.append(request.headers["idempotency-key"]))
    page.get_by_role("button", name="Drain card 0 of h1").click()
    question.get_by_role("button", name="Drain").dblclick()
    page.get_by_role("button", name="Undrain card 0 of h1").click()
    question.get_by_role("button", name="Undrain").dblclick()
    expect(page.get_by_role("button", name="Drain card 0 of h1", exact=True)).to_be_visible()
    assert len(sent) == len(set(sent)) == 2
