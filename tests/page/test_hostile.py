"""Whatever somebody wrote into the ledger stands on the page as the text that it is, on every view."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import redis
from playwright.sync_api import expect

from broker import Broker
from broker.publish import Publisher
from broker.units import GIB
from broker.values import HostReport, ListedProcess
from tests.conftest import report
from tests.page.seeing import Tabs, go, live, row
from tests.page.serving import Served
from tests.page.test_live import queue

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

CANARY = '"><img src=x onerror="window.canary=1"><svg onload=window.canary=2>'
ROOT = "gpubroker:{default}:"
VIEWS = ("cards", "leases", "waiters", "journal", "hosts")


@pytest.fixture
def poisoned(broker: Broker, redis_url: str) -> Iterator[redis.Redis]:
    """A pool in which every text that is no number is the canary, written past all checks, as `redis-cli` can."""
    listed = (ListedProcess(4321, "99", GIB, CANARY, "job-7"),)
    publisher = Publisher(broker, "h1")
    said = {"driver": CANARY, "clock_reasons": CANARY}
    card = report("GPU-a", name=CANARY, reason=CANARY, hardware=said, listed=listed)
    publisher.publish([card], 600_000, host_report=HostReport(memory_bytes=GIB, cpus_milli=1000))
    broker.acquire("5GiB", lease_id="job-7")
    queue(broker, "patient")
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        card = ("reason", "drained_by", "labels", "mig", "capability", "reserved_for", "name")
        client.hset(f"{ROOT}gpu:GPU-a", mapping=dict.fromkeys(card, CANARY) | {"drained": "1", "short_bytes": "1"})
        client.hset(f"{ROOT}hardware:GPU-a", mapping=said)
        client.hset(f"{ROOT}host:h1", mapping=dict.fromkeys(("reason", "labels", "source", "state"), CANARY))
        lease = ("owner", "tenant", "job_id", "function", "state", "revoke_reason", "pid_started")
        client.hset(f"{ROOT}lease:job-7", mapping=dict.fromkeys(lease, CANARY) | {"revoke_at": "9999999999999"})
        waiter = (
            "owner",
            "tenant",
            "job_id",
            "function",
            "labels",
            "host",
            "gpu",
            "placement",
            "reserved_gpus",
            "grows",
        )
        client.hset(f"{ROOT}waiter:patient", mapping=dict.fromkeys(waiter, CANARY))
        poison_names(client)
        client.xadd(
            f"{ROOT}events", {"seq": "9000", "kind": CANARY, "at": "1", CANARY: CANARY, "gpu": "GPU-a", "id": "job-7"}
        )
        yield client
        client.flushall()  # no lawful pool: nothing to check afterwards


def poison_names(client: redis.Redis) -> None:
    """A card, a host, a lease and a waiter whose very names are the canary."""
    for of, name, ids in (("gpu", "GPU-a", "gpus"), ("host", "h1", "hosts")):
        client.hset(
            f"{ROOT}{of}:{CANARY}", mapping=client.hgetall(f"{ROOT}{of}:{name}") | {"uuid": CANARY, "host": CANARY}
        )
        client.sadd(f"{ROOT}{ids}", CANARY)
    for of, name, ids in (("lease", "job-7", "leases"), ("waiter", "patient", "waiters")):
        changed = {"id": CANARY, "gpu_uuids": CANARY, "host": CANARY}
        client.hset(f"{ROOT}{of}:{CANARY}", mapping=client.hgetall(f"{ROOT}{of}:{name}") | changed)
        client.zadd(f"{ROOT}{ids}", {CANARY: 1})


@pytest.fixture
def page(tabs: Tabs, poisoned: redis.Redis, served: Served) -> Page:
    """The page of an admin on that pool. What the API refuses to look up by such a name is told on the console."""
    tabs.allow("422", "404")
    opened = tabs.open(served.url)
    live(opened)
    return opened


def test_lists_show_it_as_text(page: Page) -> None:
    for view in VIEWS:
        go(page, view)
        expect(row(page, CANARY).first).to_be_visible()
        assert page.locator("img, #main svg:not(.icon)").count() == 0, view


def test_a_view_of_one_shows_it_as_text(page: Page) -> None:
    for view in ("card/GPU-a", "lease/job-7", "waiter/patient"):
        go(page, view)
        expect(page.locator(".detail")).to_contain_text(CANARY)
        expect(page.get_by_role("table", name="What happened")).to_be_attached()
        assert page.locator("img").count() == 0, view


def test_a_thing_with_such_a_name_is_looked_at_by_its_link(page: Page) -> None:
    for view in ("card", "lease", "waiter"):
        go(page, f"{view}s")
        page.locator(f".row[data-kind={view}] a.first").filter(has_text=CANARY).first.click()
        expect(page.locator(".detail")).to_contain_text(CANARY)
        assert page.locator("img").count() == 0, view


def test_processes_and_hardware_are_text(page: Page) -> None:
    go(page, "card/GPU-a")
    expect(page.get_by_role("table", name="Processes that NVML sees")).to_contain_text(CANARY)
    expect(page.get_by_role("region", name="Hardware")).to_contain_text(CANARY)


def test_questions_show_it_as_text(page: Page) -> None:
    question = page.get_by_role("dialog")
    for view, button in (("cards", "Drain"), ("leases", "Revoke"), ("waiters", "Cancel"), ("hosts", "Drain")):
        go(page, view)
        acting(page, button).first.click()
        expect(question).to_be_visible()
        expect(question).to_contain_text(CANARY)
        page.keyboard.press("Escape")
    assert page.locator("img").count() == 0


def acting(page: Page, name: str) -> Locator:
    """The buttons of the rows that bear the canary."""
    return row(page, CANARY).get_by_role("button", name=name)


def test_the_verdict_and_the_title_are_text(page: Page) -> None:
    expect(page.locator("#findings")).to_contain_text("cards of")
    assert "<" not in page.title()


def test_an_address_cannot_smuggle_it_in(page: Page) -> None:
    places = ("card/{}", "lease/{}", "waiter/{}", "cards?q={}", "cards?show={}", "{}", "journal?sort={}")
    for place in places:
        for written in (quote(CANARY, safe=""), CANARY, "%", "__proto__", "constructor"):
            go(page, place.format(written))
            expect(page.locator("#main")).not_to_be_empty()
            assert page.locator("img").count() == 0, (place, written)


def test_a_refusal_that_repeats_it_is_text(page: Page) -> None:
    go(page, "waiters")
    page.get_by_label("How much memory").fill("4GiB")
    page.get_by_label("On which host").fill(CANARY)
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".ask .reasons li")).to_have_count(1)
    assert page.locator("img").count() == 0


def test_no_policy_is_needed_to_stop_it_but_there_is_one(page: Page, served: Served, tabs: Tabs) -> None:
    tabs.allow("Executing inline event handler")
    policy = page.request.get(served.url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "'unsafe-inline'" not in policy
    # The policy itself works: what is written past the page does not run.
    page.evaluate("""() => { const one = document.createElement('div');
        one.setAttribute('onclick', 'window.canary = 3'); document.body.append(one); one.click(); one.remove(); }""")
    assert page.evaluate("window.refused.length") == 1
    assert not page.evaluate("'canary' in window")
    page.evaluate("window.refused = []")
