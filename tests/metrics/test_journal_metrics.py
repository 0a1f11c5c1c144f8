"""What happened in a pool, counted from its journal: each event once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from broker import AsyncBroker, Broker
from broker.metrics import AsyncExporter, Exporter, exporter, tally
from broker.values import State
from tests.metrics.conftest import Told, told

Scrape = Callable[[], Told]
Cards = Callable[..., None]


def test_grants_and_releases_are_counted_by_tenant(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB", tenant="red").release()
    broker.acquire("1GiB", tenant="red")
    broker.acquire("1GiB", tenant="blue")
    seen = scrape()
    grants = {labels["tenant"]: count for labels, count in seen.all("gpubroker_lease_grants_total")}
    assert grants == {"default": 0, "red": 2, "blue": 1}
    assert seen.one("gpubroker_lease_releases_total", tenant="red") == 1


def test_nothing_is_counted_twice(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB")
    assert [scrape().one("gpubroker_lease_grants_total") for _ in range(3)] == [1, 1, 1]
    broker.acquire("1GiB")
    assert scrape().one("gpubroker_lease_grants_total") == 2


def test_what_can_happen_begins_at_0(broker: Broker, cards: Cards, no_rest: None) -> None:
    cards("GPU-a")
    seen = told(Exporter(broker, fsck_seconds=0).render())
    assert seen.one("gpubroker_lease_losses_total", why="expired") == 0
    assert seen.one("gpubroker_gpu_throttles_total", UUID="GPU-a", Hostname="h1") == 0
    assert seen.one("gpubroker_journal_events_total", kind="overuse") == 0
    assert seen.one("gpubroker_lease_wait_seconds_count", tenant="default") == 0


def test_an_exporter_that_starts_counts_from_where_the_journal_ends(
    broker: Broker, cards: Cards, no_rest: None
) -> None:
    cards("GPU-a")
    broker.acquire("1GiB")
    exporter_ = Exporter(broker, fsck_seconds=0)
    assert told(exporter_.render()).one("gpubroker_lease_grants_total") == 0
    broker.acquire("1GiB")
    assert told(exporter_.render()).one("gpubroker_lease_grants_total") == 1
    again = Exporter(broker, fsck_seconds=0)  # started anew: a counter's reset
    assert told(again.render()).one("gpubroker_lease_grants_total") == 0


def test_two_servers_count_the_same_events_each_for_itself(broker: Broker, cards: Cards, no_rest: None) -> None:
    cards("GPU-a")
    both = [Exporter(broker, fsck_seconds=0) for _ in range(2)]
    for one in both:
        one.render()
    broker.acquire("1GiB")
    assert [told(one.render()).one("gpubroker_lease_grants_total") for one in both] == [1, 1]


def test_how_long_leases_waited_and_were_held_is_a_histogram(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB").release()
    seen = scrape()
    assert seen.one("gpubroker_lease_wait_seconds_bucket", le="0.01", tenant="default") == 1
    assert seen.one("gpubroker_lease_wait_seconds_sum") == 0
    assert seen.one("gpubroker_lease_hold_seconds_count") == 1
    assert seen.one("gpubroker_lease_hold_seconds_bucket", le="+Inf") == 1
    assert seen.one("gpubroker_lease_hold_seconds_sum") < 60


def test_a_wait_of_ms_is_told_in_seconds() -> None:
    counted = tally.Tally("p")
    counted.count({"seq": "1", "kind": "granted", "tenant": "red", "waited_ms": "2500"})
    counted.count({"seq": "2", "kind": "reclaimed", "tenant": "red", "held_ms": "61000"})
    samples = {(one.name, one.labels.get("le"), one.labels.get("tenant")): one.value
               for family in counted.collect() for one in family.samples}  # fmt: skip
    assert samples["gpubroker_lease_wait_seconds_sum", None, "red"] == 2.5
    assert samples["gpubroker_lease_wait_seconds_bucket", "1.0", "red"] == 0
    assert samples["gpubroker_lease_wait_seconds_bucket", "2.5", "red"] == 1
    assert samples["gpubroker_lease_hold_seconds_sum", None, "red"] == 61


def test_a_lost_lease_says_why(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB", ttl=0.1)
    told_to_end = broker.acquire("1GiB")
    broker.revoke(told_to_end.id, grace=0)
    while (seen := scrape()).one("gpubroker_lease_losses_total", why="expired") < 1:
        broker.reap()
    assert seen.one("gpubroker_lease_losses_total", why="revoked") == 1
    assert seen.one("gpubroker_lease_expiries_total") == 1
    assert seen.one("gpubroker_lease_revocations_total") == 1


def test_a_card_that_throttles_is_counted(scrape: Scrape, cards: Cards) -> None:
    cards("GPU-a")
    for state in (State.THROTTLED, State.NORMAL, State.CRITICAL):
        cards("GPU-a", state=state)
    seen = scrape()
    assert seen.one("gpubroker_gpu_throttles_total", UUID="GPU-a", Hostname="h1") == 2
    assert seen.one("gpubroker_gpu_state_changes_total", to="THROTTLED") == 1
    assert seen.one("gpubroker_gpu_state_changes_total", to="OPTIMAL") == 1


def test_a_journal_longer_than_a_page_is_counted_whole(
    scrape: Scrape, broker: Broker, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "PAGE", 3)
    cards("GPU-a")
    for _ in range(10):
        broker.acquire("1GiB").release()
    seen = scrape()
    assert seen.one("gpubroker_lease_grants_total") == 10
    assert seen.one("gpubroker_journal_missed_events_total") == 0


def test_what_was_trimmed_before_it_was_counted_is_missed(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    scrape()
    for _ in range(5):
        broker.acquire("1GiB").release()
    broker.redis.xtrim(broker.keys.events, maxlen=4, approximate=False)
    seen = scrape()
    assert seen.one("gpubroker_journal_missed_events_total") == 6
    assert seen.one("gpubroker_lease_releases_total") == 2
    broker.redis.flushall()  # what is left of the journal would not satisfy the laws


def test_a_ledger_that_was_lost_is_followed_in_its_new_journal(scrape: Scrape, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB")
    assert scrape().one("gpubroker_lease_grants_total") == 1
    broker.redis.flushall()
    cards("GPU-b")
    # Of a server whose clock is far behind what it was: its new entries stand before the old ones.
    entries = broker.redis.xrange(broker.keys.events)
    broker.redis.delete(broker.keys.events)
    for number, (_, fields) in enumerate(entries, start=1):
        broker.redis.xadd(broker.keys.events, fields, id=f"{number}-1")
    grant = {"seq": len(entries) + 1, "kind": "granted", "at": 1, "tenant": "default", "waited_ms": 0}
    broker.redis.xadd(broker.keys.events, {name: str(text) for name, text in grant.items()}, id="1000-1")
    seen = scrape()
    assert seen.one("gpubroker_lease_grants_total") == 2
    assert seen.one("gpubroker_journal_missed_events_total") == 0
    assert scrape().one("gpubroker_lease_grants_total") == 2
    broker.redis.flushall()


def test_a_kind_that_nobody_knows_is_counted_with_the_others(scrape: Scrape, broker: Broker) -> None:
    broker.redis.xadd(broker.keys.events, {"seq": "1", "kind": '"}\nx', "at": "1"})
    assert scrape().one("gpubroker_journal_events_total", kind="other") == 1
    broker.redis.flushall()


def test_a_follower_counts_what_nobody_scrapes(
    redis_url: str, broker: Broker, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "FOLLOW_SECONDS", 0.01)

    async def follow() -> Told:
        async with AsyncBroker.from_url(redis_url) as there:
            mine = AsyncExporter(there, after="0")
            following = asyncio.create_task(mine.follow())
            while mine._pool.follower._after != broker.last_event_id() or mine._pool._differences is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.to_thread(broker.redis.xtrim, broker.keys.events, maxlen=0)  # nothing is left to be read
            body = await mine.render()
            following.cancel()
            return told(body)

    cards("GPU-a")
    broker.acquire("1GiB")
    seen = asyncio.run(follow())
    assert seen.one("gpubroker_lease_grants_total") == 1
    assert seen.one("gpubroker_fsck_differences") == 0
    broker.redis.flushall()


def test_a_follower_outlives_a_ledger_that_holds_nonsense(
    redis_url: str, broker: Broker, cards: Cards, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exporter, "FOLLOW_SECONDS", 0.01)

    async def follow() -> float:
        async with AsyncBroker.from_url(redis_url) as there:
            mine = AsyncExporter(there, after="0")
            following = asyncio.create_task(mine.follow())
            while "event=ledger_unreadable" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.to_thread(broker.acquire, "1GiB")
            while mine._pool.follower._after != broker.last_event_id():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert caplog.text.count("event=ledger_unreadable") == 1  # the next look at all of it is in five minutes
            following.cancel()
            return told(await mine.render()).one("gpubroker_lease_grants_total")

    cards("GPU-a")
    broker.redis.sadd(broker.keys.tenants, "red")
    broker.redis.hset(broker.keys.tenant("red"), "leased_bytes", "much")
    assert asyncio.run(follow()) == 1
    broker.redis.flushall()
