"""What `gpubroker top` makes of a picture: plain rows, whatever others wrote into the ledger."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.cli.top import rows
from broker.cli.top.feed import Picture
from broker.cli.top.pane import bar
from broker.units import GIB

TEXT = st.text(max_size=30)
SIZE = st.integers(0, 80 * GIB).map(str)
GPU = st.fixed_dictionaries(
    {"uuid": TEXT, "host": TEXT, "index": st.integers(0, 15).map(str), "name": TEXT, "state": TEXT},
    optional={
        "reason": TEXT, "temperature_c": st.integers(0, 120).map(str), "memory_total_bytes": SIZE, "drained_by": TEXT,
        "memory_used_bytes": SIZE, "unmanaged_bytes": SIZE, "leased_bytes": SIZE, "reserved_for": TEXT,
        "fresh_until": st.sampled_from(["0", "5000"]), "short_bytes": SIZE, "free_bytes": SIZE, "lease:\x1b[2J": SIZE,
    },
)  # fmt: skip
HOST = st.fixed_dictionaries(
    {"host": TEXT},
    optional={"reason": TEXT, "state": TEXT, "drained": TEXT, "gpus": TEXT, "cpu_percent": TEXT, "fresh_until": SIZE},
)
LEASE = st.fixed_dictionaries(
    {"id": TEXT},
    optional={"host": TEXT, "owner": TEXT, "state": TEXT, "gpu_uuids": TEXT, "tenant": TEXT, "job_id": TEXT,
              "memory_bytes": SIZE, "expires_at": SIZE, "created_at": SIZE, "used_bytes": SIZE, "revoke_at": TEXT},
)  # fmt: skip
WAITER = st.fixed_dictionaries({"id": TEXT}, optional={"memory_bytes": SIZE, "since": SIZE})
EVENT = st.tuples(TEXT, st.dictionaries(TEXT, TEXT, max_size=4).map(lambda fields: fields | {"at": "1000"}))
PICTURE = st.builds(
    Picture, now=st.just(1000), gpus=st.lists(GPU, max_size=4), hosts=st.lists(HOST, max_size=3),
    leases=st.lists(LEASE, max_size=3), waiters=st.lists(WAITER, max_size=3, unique_by=lambda one: one["id"]),
    events=st.lists(EVENT, max_size=3),
    whys=st.dictionaries(TEXT, TEXT, max_size=2),
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(PICTURE, TEXT)
def test_no_row_carries_what_would_steer_a_terminal(picture: Picture, sought: str) -> None:
    made = [
        *(row for sort in rows.CARD_SORTS for row in rows.cards(picture, sort, sought)),
        *(row for sort in rows.LEASE_SORTS for row in rows.leases(picture, sort, sought)),
        *(row for sort in rows.WAITER_SORTS for row in rows.waiters(picture, sort, sought)),
        *rows.events(picture, "newest", sought),
    ]
    for row in made:
        assert all(cell.isprintable() for cell in row.cells)
        assert row.more.isprintable()
    assert rows.summary(picture).isprintable()


@settings(max_examples=30, deadline=None)
@given(PICTURE)
def test_without_a_word_that_is_sought_nothing_is_left_out(picture: Picture) -> None:
    cards = rows.cards(picture, "host", "")
    assert sum(row.kind == "gpu" for row in cards) == len(picture.gpus)
    assert {row.name for row in cards if row.kind == "host"} >= {gpu["host"] for gpu in picture.gpus}
    assert len(rows.leases(picture, "end", "")) == len(picture.leases)
    assert [row.cells[0] for row in rows.waiters(picture, "place", "")] == [
        str(place) for place in range(1, len(picture.waiters) + 1)
    ]


@given(*[st.integers(0, 10 * GIB)] * 4, st.integers(4, 60))
def test_a_bar_fills_its_room_exactly_and_hides_nothing_that_is_there(
    used: int, lent: int, strange: int, total: int, space: int
) -> None:
    segments = bar((used, lent, strange, total), space)
    assert sum(len(segment.text) for segment in segments) == space
    if used + lent + strange <= total:
        for segment, share in zip(segments, (used, lent, strange), strict=False):
            assert bool(segment.text) == bool(share) or sum(map(len, (one.text for one in segments[:3]))) == space
