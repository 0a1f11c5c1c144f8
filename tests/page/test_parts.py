"""The page's own parts, each by itself: its reader of streams, its copy of the pool, its verdict, its order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.page.seeing import Tabs
from tests.page.serving import Served

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture
def page(tabs: Tabs, served: Served) -> Page:
    """A page in whose browser modules can be tried."""
    return tabs.open(served.url)


STREAM = (
    ': beat\r\n\r\nretry: 2000\n\nid: 5-0\nevent: journal\ndata: {"a":\ndata: "ü"}\n\n'
    "event:gap\ndata:1\r\rdata\n\nid: 6-0\n\n"
)
EVENTS = [
    {"id": "5-0", "event": "journal", "data": '{"a":\n"ü"}'},
    {"id": "5-0", "event": "gap", "data": "1"},
    {"id": "5-0", "event": "message", "data": ""},
]


def test_a_stream_is_read_the_same_however_it_is_cut(page: Page) -> None:
    read = """async ([stream]) => { const { Parser } = await import('/static/sse.js'); const all = [];
        for (let cut = 0; cut <= stream.length; cut++) {
            const events = []; const parser = new Parser((event) => events.push(event));
            parser.feed(stream.slice(0, cut)); parser.feed(stream.slice(cut)); parser.feed('');
            all.push([events, parser.lastId, parser.retryMs]); }
        return all; }"""
    told = page.evaluate(read, [STREAM])
    assert len(told) == len(STREAM) + 1
    assert all(one == [EVENTS, "6-0", 2000] for one in told), next(one for one in told if one != [EVENTS, "6-0", 2000])


LEDGER = """async ([events]) => { const { Ledger } = await import('/static/ledger.js'); const changes = [];
    const ledger = new Ledger((changed) => changes.push(Object.fromEntries(Object.entries(changed).map(
        ([noun, keys]) => [noun, keys === 'all' ? keys : [...keys].sort()]))));
    for (const [event, data] of events) ledger.take({ event, data: JSON.stringify(data) });
    return { gpus: [...ledger.gpus.values()], leases: [...ledger.leases.keys()], changes,
        kinds: ledger.journal.map((event) => event.kind) }; }"""
SNAPSHOT = {
    "pool": "p",
    "now": 1,
    "gpus": [{"uuid": "a", "x": 1}, {"uuid": "b"}],
    "hosts": [],
    "leases": [{"id": "l"}],
    "waiters": [],
}


def test_a_delta_changes_what_it_names_and_nothing_else(page: Page) -> None:
    delta = {"now": 2, "gpus": {"a": {"y": None}, "c": {"x": 3}}, "gone": {"leases": ["l"], "gpus": ["b"]}}
    told = page.evaluate(LEDGER, [[["snapshot", SNAPSHOT], ["delta", delta]]])
    assert told["gpus"] == [{"uuid": "a", "x": 1, "y": None}, {"uuid": "c", "x": 3}]
    assert told["leases"] == []
    assert told["changes"][1] == {"gpus": ["a", "b", "c"], "hosts": [], "leases": ["l"], "waiters": []}


def test_a_snapshot_forgets_all_that_was_known(page: Page) -> None:
    told = page.evaluate(LEDGER, [[["snapshot", SNAPSHOT], ["snapshot", SNAPSHOT | {"gpus": [], "leases": []}]]])
    assert (told["gpus"], told["leases"]) == ([], [])


def test_the_journal_is_in_order_and_tells_nothing_twice(page: Page) -> None:
    said = [("9-0", "b"), ("10-0", "c"), ("9-0", "b"), ("8-1", "a"), ("10-0", "c"), ("10-1", "d")]
    events = [["journal", {"stream_id": one, "seq": 1, "kind": kind, "at": 1, "fields": {}}] for one, kind in said]
    assert page.evaluate(LEDGER, [events])["kinds"] == ["a", "b", "c", "d"]


def verdict(page: Page, link: dict[str, Any] | None = None, **pool: list[dict[str, Any]]) -> dict[str, Any]:
    """The verdict on a pool at time 1000."""
    judge = """async ([pool, link]) => { const { verdict } = await import('/static/verdict.js');
        const maps = Object.fromEntries(['gpus', 'hosts', 'leases', 'waiters'].map((noun) =>
            [noun, new Map((pool[noun] ?? []).map((one, at) => [at, one]))]));
        return verdict({ known: true, ...maps }, link, 1000); }"""
    return page.evaluate(judge, [pool, link or {"live": True}])


FINE = {"uuid": "a", "host": "h", "state": "OPTIMAL", "drained": False, "sampled_at": 900, "fresh_until": 2000}


#: What is different about a card, and the level of a pool with it and one that is fine.
CARDS: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "well"), ({"state": "NORMAL"}, "well"), ({"drained": True, "drained_by": "gpu"}, "well"),
    ({"drained": True, "drained_by": "health"}, "look"), ({"state": "THROTTLED"}, "look"),
    ({"state": "THROTTLED", "job_state": "OPTIMAL"}, "well"), ({"state": "CRITICAL", "job_state": "OPTIMAL"}, "look"),
    ({"state": "CRITICAL"}, "bad"), ({"state": "UNAVAILABLE"}, "bad"), ({"fresh_until": 999}, "bad"),
    ({"short_bytes": 1}, "bad"), ({"state": "SOMETHING NEW"}, "bad"),
)  # fmt: skip


def test_a_pool_is_as_well_as_its_worst_card(page: Page) -> None:
    assert [(card, verdict(page, gpus=[FINE, FINE | card])["level"]) for card, _ in CARDS] == list(CARDS)


@pytest.mark.parametrize("link", [{"live": False, "word": "lost"}, {"live": False, "word": "live", "away": True}])
def test_what_is_old_is_never_well(page: Page, link: dict[str, Any]) -> None:
    assert verdict(page, link, gpus=[FINE])["level"] == "unknown"


def test_the_worst_is_said_first(page: Page) -> None:
    told = verdict(
        page, gpus=[FINE, FINE | {"drained": True}, FINE | {"state": "THROTTLED"}, FINE | {"state": "CRITICAL"}]
    )
    assert [one["level"] for one in told["findings"]] == ["bad", "look", "note"]


def test_names_are_sorted_as_people_count_and_the_unknown_comes_last(page: Page) -> None:
    order = """async () => { const { compare } = await import('/static/table.js');
        const words = ['gpu10', 'gpu2', '', null, 'Gpu1'], pairs = [[3, 1], [2, null], [2, 5], [null, 0]];
        return [words.sort(compare), pairs.sort(compare)]; }"""
    words, pairs = page.evaluate(order)
    assert words[:3] == ["Gpu1", "gpu2", "gpu10"]
    assert pairs == [[2, 5], [2, None], [3, 1], [None, 0]]


def test_numbers_read_as_in_the_terminal(page: Page) -> None:
    from broker.units import GIB, duration, format_size

    sizes = [0, 1, 512 << 20, GIB - 1, GIB, 6 * GIB + 51 * GIB // 100, -GIB]
    times = [0, 999, 119_000, 120_000, 7_199_000, 7_200_000, -1]
    told = page.evaluate(
        """async ([sizes, times]) => { const { size, duration } = await import('/static/format.js');
            return [sizes.map(size), times.map(duration)]; }""",
        [sizes, times],
    )
    assert told == [[format_size(one) for one in sizes], [duration(one) for one in times]]


EARLIER = """async ([total]) => { const { earlier } = await import('/static/earlier.js');
    const data = (at) => JSON.stringify({ stream_id: `${at}-0`, seq: at, kind: 'drained' });
    const line = (at) => `id: ${at}-0\\nevent: drained\\ndata: ${data(at)}\\n\\n`;
    const api = { open: async (path) => { const from = parseInt(path.split('after=')[1]) + 1;
        const some = Math.max(0, Math.min(1000, total - from + 1));
        return new Response(Array.from({ length: some }, (_, index) => line(from + index)).join('')); } };
    const found = await earlier(api, '0-0', 0);
    return [found.length, found.at(-1).kind, new Set(found.map((one) => one.stream_id)).size]; }"""


@pytest.mark.parametrize(("written", "found"), [
    (3, [3, "drained", 3]), (2500, [2500, "drained", 2500]),
    (30_000, [20_001, "gap", 20_001]),  # and it is said that there is more
])  # fmt: skip
def test_what_was_written_meanwhile_is_had_without_a_hole(page: Page, written: int, found: list[Any]) -> None:
    assert page.evaluate(EARLIER, [written]) == found
