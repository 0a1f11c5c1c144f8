"""What happens in the ledger is on the page a moment later, without loading it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from broker import Broker, State
from broker.units import GIB, MIB
from tests.page.seeing import go, row

if TYPE_CHECKING:
    from playwright.sync_api import Page

Cards = Callable[..., None]


def test_an_empty_pool_says_what_to_do(page: Page) -> None:
    expect(page.locator("#headline")).to_have_text("Worth a look")
    expect(page.locator("#findings")).to_contain_text("start `gpubroker agent`")


def test_a_card_appears_as_its_agent_publishes_it(page: Page, cards: Cards) -> None:
    cards("GPU-a", host="studio-1", temperature_c=58, utilization_percent=37)
    card = row(page, "studio-1 · 0")
    expect(card).to_contain_text("OPTIMAL")
    expect(card).to_contain_text("58 °C")
    expect(card).to_contain_text("37 %")
    expect(page.locator("#headline")).to_have_text("All is well")


def test_a_stack_tells_leased_unmanaged_reserved_and_free(page: Page, cards: Cards, broker: Broker) -> None:
    cards("GPU-a", memory_used_bytes=2 * GIB, unmanaged_bytes=512 * MIB)
    broker.acquire("2GiB", lease_id="job-7")
    stack = row(page, "h1 · 0").get_by_role("img", name="leased")
    words = "of 6.0 GiB: 2.0 GiB leased, 512 MiB unmanaged, 512 MiB reserved, 3.0 GiB free; 2.0 GiB used"
    expect(stack).to_have_attribute("aria-label", words)


def test_a_card_that_gets_too_hot_turns_the_verdict(page: Page, cards: Cards) -> None:
    cards("GPU-a")
    expect(page.locator("#headline")).to_have_text("All is well")
    cards("GPU-a", temperature_c=88, state=State.CRITICAL, job_state=State.CRITICAL, reason="88 °C is above 85")
    expect(page.locator("#headline")).to_have_text("Needs you")
    expect(page.locator("#findings")).to_contain_text("1 card of h1 CRITICAL")
    expect(row(page, "h1 · 0")).to_contain_text("88 °C is above 85")
    assert page.title().startswith("✕ Needs you")


def test_a_silent_agent_is_seen(page: Page, cards: Cards) -> None:
    cards("GPU-a", interval_ms=300)
    expect(page.locator("#headline")).to_have_text("Needs you")
    expect(page.locator("#findings")).to_contain_text("silent: no sample for")
    expect(row(page, "h1 · 0")).to_contain_text("UNAVAILABLE")


def test_a_drained_card_is_said_and_worries_nobody(page: Page, cards: Cards, broker: Broker) -> None:
    cards("GPU-a", "GPU-b")
    broker.drain("GPU-a")
    expect(page.locator("#headline")).to_have_text("All is well, but note")
    expect(row(page, "h1 · 0")).to_contain_text("drained")


def test_a_lease_comes_with_its_figures_and_goes(page: Page, cards: Cards, broker: Broker) -> None:
    cards("GPU-a", host="studio-1")
    go(page, "leases")
    expect(page.get_by_text("Nobody holds a lease.")).to_be_visible()
    lease = broker.acquire("2GiB", lease_id="enhance-1", tenant="wedding", job_id="job-7", owner="studio-1:12")
    expect(row(page, "enhance-1")).to_contain_text("2.0 GiB asked · – used")
    expect(row(page, "enhance-1")).to_contain_text("wedding")
    expect(row(page, "enhance-1")).to_contain_text("studio-1 · 0")
    lease.release()
    expect(row(page, "enhance-1")).to_have_count(0)


def test_waiters_stand_in_their_places(page: Page, cards: Cards, broker: Broker) -> None:
    cards("GPU-a")
    broker.acquire("5GiB", lease_id="holder")
    for name in ("first", "second"):
        queue(broker, name)
    go(page, "waiters")
    expect(row(page, "first").get_by_role("cell").first).to_have_text("1")
    expect(row(page, "second").get_by_role("cell").first).to_have_text("2")
    broker.cancel("first")
    expect(row(page, "second").get_by_role("cell").first).to_have_text("1")


def test_the_journal_goes_on(page: Page, cards: Cards, broker: Broker) -> None:
    go(page, "journal")
    cards("GPU-a", host="studio-1")
    expect(row(page, "joined")).to_contain_text("host studio-1")
    broker.acquire("2GiB", lease_id="job-7")
    expect(row(page, "granted").first).to_contain_text("memory 2.0 GiB")


def test_the_journal_from_before_is_there(page: Page, cards: Cards, broker: Broker) -> None:
    cards("GPU-a")
    broker.drain("GPU-a")
    page.reload()
    go(page, "journal")
    expect(row(page, "drained")).to_contain_text("card h1 · 0")


def queue(broker: Broker, name: str, memory: str = "4GiB") -> None:
    """A request that waits, whose asker looks after it no more."""
    from broker import calls

    request = calls.ask(memory, lease_id=name, wait=600, ttl=30)
    broker.call("acquire", *request.asking(True))
