"""The journal as it is written, and the pool as it changes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from broker import Broker
from broker.http.settings import Limits
from broker.units import GIB
from tests.http.conftest import ADMIN, VIEWER, Serve, Told, told

Cards = Callable[..., None]


@contextmanager
def stream(client: httpx.Client, path: str, **options: object) -> Iterator[Iterator[Told]]:
    """The events of a stream, without its comments."""
    with client.stream("GET", path, **options) as answer:  # type: ignore[arg-type]
        answer.read() if answer.status_code != 200 else None
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield (event for event in told(answer.iter_lines()) if event is not None)


def next_of(events: Iterator[Told], kind: str) -> Told:
    """The next event of a kind."""
    return next(event for event in events if event.kind == kind)


def test_events_from_the_begin_are_those_of_the_journal(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB").release()
    journal = broker.events()
    with stream(http, "/api/events?after=0") as events:
        seen = [next(events) for _ in journal]
    assert [event.id for event in seen] == [event.stream_id for event in journal]
    assert [event.kind for event in seen] == [event.kind for event in journal]
    without = [{name: value for name, value in event.fields.items() if name != "token"} for event in journal]
    told = [event.model_dump(mode="json") | {"fields": fields} for event, fields in zip(journal, without, strict=True)]
    assert [json.loads(event.data) for event in seen] == told


def test_without_an_id_it_begins_now(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    with stream(http, "/api/events") as events:
        broker.drain("GPU-a")
        assert next(events).kind == "drained"


def test_a_stream_that_was_cut_goes_on_where_it_ended(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    with stream(http, "/api/events?after=0") as events:
        last = next_of(events, "state" if broker.events()[-1].kind == "state" else broker.events()[-1].kind)
    for _ in range(300):  # more than a page
        broker.drain("GPU-a")
        broker.undrain("GPU-a")
    missed = broker.events(last.id)
    with stream(http, "/api/events", headers={"Last-Event-ID": last.id}) as events:
        seen = [next(events) for _ in missed]
        broker.drain("GPU-a")
        now = next(events)
    assert [event.id for event in seen] == [event.stream_id for event in missed]
    assert (now.kind, now.id) == ("drained", broker.events()[-1].stream_id)


def test_who_comes_after_the_journal_was_trimmed_is_told(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    first = broker.events()[0].stream_id
    for _ in range(10):
        broker.drain("GPU-a")
        broker.undrain("GPU-a")
    broker.redis.xtrim(broker.keys.events, maxlen=5, approximate=False)
    kept = broker.events()
    with stream(http, "/api/events", headers={"Last-Event-ID": first}) as events:
        gap, *rest = [next(events) for _ in range(len(kept) + 1)]
    assert (gap.kind, json.loads(gap.data)["after"]) == ("gap", first)
    assert [event.id for event in rest] == [event.stream_id for event in kept]
    with stream(http, f"/api/events?after={kept[0].stream_id}") as events:
        assert next(events).id == kept[1].stream_id  # nothing is missing after one that is kept


def test_who_remembers_a_ledger_that_was_lost_is_told(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    ahead = f"{int(time.time() * 1000) + 3_600_000}-0"
    with stream(http, f"/api/events?after={ahead}") as events:
        assert next(events).kind == "gap"
        assert next(events).id == broker.events()[0].stream_id


def test_two_events_of_one_millisecond_are_both_told_once(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    for _ in range(50):
        broker.drain("GPU-a")
        broker.undrain("GPU-a")
    ids = [event.stream_id for event in broker.events()]
    for at in range(0, len(ids) - 1, 9):
        with stream(http, f"/api/events?after={ids[at]}") as events:
            assert next(events).id == ids[at + 1]


def test_live_begins_with_all_and_goes_on_with_what_changes(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    held = broker.acquire("1GiB", lease_id="first", gpu="GPU-a")
    with stream(http, "/api/live") as events:
        snapshot = json.loads(next(events).data)
        assert set(snapshot) == {"pool", "now", "gpus", "hosts", "leases", "waiters"}
        assert [gpu["uuid"] for gpu in snapshot["gpus"]] == ["GPU-a", "GPU-b"]
        assert [lease["id"] for lease in snapshot["leases"]] == ["first"]
        assert "token" not in snapshot["leases"][0]
        broker.acquire("2GiB", lease_id="second", gpu="GPU-b")
        delta = _delta(events, lambda one: "second" in one.get("leases", {}))
        assert delta["gpus"]["GPU-b"] == {"leased_bytes": 2 * GIB, "free_bytes": 7 * GIB // 2}
        assert delta["leases"]["second"]["memory_bytes"] == 2 * GIB
        assert "token" not in delta["leases"]["second"]
        held.release()
        delta = _delta(events, lambda one: "gone" in one)
        assert delta["gone"] == {"leases": ["first"]}
        assert delta["gpus"]["GPU-a"]["leased_bytes"] == 0


def _delta(
    events: Iterator[Told], wanted: Callable[[dict[str, dict[str, object]]], bool]
) -> dict[str, dict[str, object]]:
    while True:
        delta: dict[str, dict[str, object]] = json.loads(next_of(events, "delta").data)
        if wanted(delta):
            return delta


def test_live_tells_the_journal(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    with stream(http, "/api/live") as events:
        next_of(events, "snapshot")
        broker.drain("GPU-a")
        assert json.loads(next_of(events, "journal").data)["kind"] == "drained"


def test_no_stream_tells_a_leases_token(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    """Who may only look would else renew, shrink or end what others hold."""
    cards("GPU-a")
    with stream(http, "/api/live") as live:
        next_of(live, "snapshot")
        lease = broker.acquire("1GiB", lease_id="job")
        of_live = next(event for event in live if event.kind == "journal" and "granted" in event.data)
    with stream(http, "/api/events?after=0") as events:
        granted = next_of(events, "granted")
    for event in (of_live, granted):
        assert "job" in event.data
        assert str(lease.token) not in event.data
    assert broker.events()[-1].fields["token"] == str(lease.token)  # the journal itself has it


def test_deltas_applied_to_a_snapshot_are_the_pool(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    """The page's view is the pool, whatever happens meanwhile."""
    cards("GPU-a", "GPU-b", "GPU-c")
    stop = threading.Event()

    def churn() -> None:
        with Broker.from_url(broker.url) as own:
            while not stop.is_set():
                leases = [own.acquire("1GiB", lease_id=f"l{number}") for number in range(5)]
                for lease in leases[1:]:
                    lease.release()
                leases[0].release()

    working = threading.Thread(target=churn)
    working.start()
    try:
        with stream(http, "/api/live") as events:
            shown = _Shown(json.loads(next_of(events, "snapshot").data))
            for _ in range(3):
                shown.apply(json.loads(next_of(events, "delta").data))
            stop.set()
            working.join(20)
            final = {gpu.uuid: gpu.model_dump(mode="json") for gpu in broker.gpus()}
            while shown.kinds["gpus"] != final or shown.kinds["leases"]:
                shown.apply(json.loads(next_of(events, "delta").data))
    finally:
        stop.set()
        working.join(20)


class _Shown:
    """What a page holds."""

    def __init__(self, snapshot: dict[str, list[dict[str, object]]]) -> None:
        named = {"gpus": "uuid", "hosts": "host", "leases": "id", "waiters": "id"}
        self.kinds = {kind: {str(one[name]): one for one in snapshot[kind]} for kind, name in named.items()}

    def apply(self, delta: dict[str, dict[str, dict[str, object]]]) -> None:
        gone: dict[str, list[str]] = delta.get("gone", {})  # type: ignore[assignment]
        for kind, own in self.kinds.items():
            for name in gone.get(kind, []):
                del own[name]
            for name, changes in delta.get(kind, {}).items():
                own[name] = {**own.get(name, {}), **changes}


def test_more_streams_than_allowed_are_refused(serve: Serve) -> None:
    http = serve(limits=Limits(streams_of_one=1)).client()
    with stream(http, "/api/live"):
        refused = http.get("/api/live")
        assert (refused.status_code, "retry-after" in refused.headers) == (429, True)
    deadline = time.monotonic() + 10
    while True:  # the seat is free again once the server has seen the client go
        with http.stream("GET", "/api/live") as again:
            if again.status_code == 200:
                break
        assert time.monotonic() < deadline


@pytest.mark.parametrize("path", ["/api/live", "/api/events"])
def test_a_token_that_is_taken_away_ends_its_streams(
    serve: Serve, broker: Broker, cards: Cards, tmp_path: Path, path: str
) -> None:
    cards("GPU-a")
    tokens = tmp_path / "tokens"
    tokens.write_text(f"viewer:{VIEWER}\nadmin:{ADMIN}\n")
    served = serve(token_file=tokens)
    with served.client(ADMIN).stream("GET", path) as good, served.client(VIEWER).stream("GET", path) as answer:
        assert answer.status_code == 200
        lines, of_the_good = answer.iter_lines(), good.iter_lines()
        next(lines)
        tokens.write_text(f"admin:{ADMIN}\n")
        refused = served.client(VIEWER)
        while refused.get("/api/leases").status_code != 401:
            time.sleep(0.05)
        broker.drain("GPU-a")
        assert not any('"kind":"drained"' in line for line in lines)  # and it ends
        assert any('"kind":"drained"' in line for line in of_the_good)


def test_an_id_that_is_none_is_refused(http: httpx.Client) -> None:
    for wrong in ("x", "-1", "1-", "99999999999999999999", "$", "+"):
        assert http.get("/api/events", params={"after": wrong}).status_code == 422, wrong
        assert http.get("/api/events", headers={"Last-Event-ID": wrong}).status_code == 422, wrong


@pytest.mark.timeout(60)
def test_a_server_that_ends_ends_its_streams(serve: Serve, cards: Cards) -> None:
    from tests.http.conftest import serving

    cards("GPU-a")
    other = serve()
    with serving(other.settings) as served:
        client = served.client()
        opened = client.stream("GET", "/api/live")
        answer = opened.__enter__()
        lines = answer.iter_lines()
        next(lines)
    # The fixture's end has waited for the server's: it was not held up by the stream.
    opened.__exit__(None, None, None)
