"""Sizes, times, names, configuration: pure parts around the ledger."""

from __future__ import annotations

import pickle

import fakeredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import Broker, InvalidRequest, State
from broker.calls import check_name
from broker.ledger.server import shown_url
from broker.plans import effective
from broker.refusals import broker_error
from broker.thresholds import Thresholds
from broker.units import GIB, MAX_MEMORY_BYTES, MIB, format_size, parse_seconds, parse_size


@pytest.mark.parametrize(("text", "size"), [
    ("6GiB", 6 * GIB), ("6G", 6 * GIB), ("6GB", 6 * 10**9), ("512MiB", 512 * MIB), ("1.5 GiB", 3 * GIB // 2),
    (" 1kib ", 1024), ("6442450944", 6 * GIB), (7, 7), ("1B", 1), ("4TiB", MAX_MEMORY_BYTES),
])  # fmt: skip
def test_sizes_are_read_as_people_write_them(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("bad", [
    "", "GiB", "-1", "+1", "nan", "inf", "1e9", "0x10", "0", 0, -5, True, None, 1.5, "5TiB", "1 2", "６GiB", b"1", [],
])  # fmt: skip
def test_what_is_no_size_is_refused(bad: object) -> None:
    with pytest.raises(InvalidRequest, match="memory="):
        parse_size(bad)  # type: ignore[arg-type]


@given(st.integers(1, MAX_MEMORY_BYTES))
def test_every_whole_number_of_bytes_is_itself(size: int) -> None:
    assert parse_size(size) == parse_size(str(size)) == size


@given(st.text(max_size=20))
def test_no_text_is_read_as_a_size_out_of_bounds(text: str) -> None:
    try:
        size = parse_size(text)
    except InvalidRequest:
        return
    assert 1 <= size <= MAX_MEMORY_BYTES


def test_sizes_are_shown_in_gib_or_mib() -> None:
    assert (format_size(6 * GIB), format_size(512 * MIB)) == ("6.0 GiB", "512 MiB")


@given(st.floats())
def test_seconds_out_of_bounds_are_refused(value: float) -> None:
    if not 0.1 <= value <= 60:
        with pytest.raises(InvalidRequest):
            parse_seconds(value, "ttl", least=0.1, most=60)
    else:
        assert parse_seconds(value, "ttl", least=0.1, most=60) == round(value * 1000)


@pytest.mark.parametrize("name", ["job-7", "GPU-8f", "a", "MIG-GPU-1/0/1", "host.example.org:12@x"])
def test_names_that_may_stand_in_a_key(name: str) -> None:
    assert check_name("id", name) == name


@pytest.mark.parametrize("name", ["", "-a", "a b", "a\n", "{a}", "ä", "x" * 129, None, 5])
def test_names_that_may_not(name: object) -> None:
    with pytest.raises(InvalidRequest):
        check_name("id", name)


def test_an_invalid_request_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(InvalidRequest("ttl", -1, "more")))
    assert (error.field, error.value, error.allowed) == ("ttl", -1, "more")


def test_errors_of_lua_become_exceptions_and_others_do_not() -> None:
    assert isinstance(broker_error("BROKER_INVALID field=ttl value=x allowed=a b"), InvalidRequest)
    assert broker_error("ERR something else") is None


def test_a_password_is_never_shown() -> None:
    assert shown_url("redis://me:secret@h:1/0") == "redis://me:***@h:1/0"
    assert shown_url("rediss://:p%40ss@h:1/0") == "rediss://:***@h:1/0"


@pytest.mark.parametrize(("changes", "field"), [
    ({"temp_optimal": 200}, "temp_optimal"), ({"temp_optimal": "nan"}, "temp_optimal"), ({"nonsense": 1}, "nonsense"),
    ({"monitor_interval": float("inf")}, "monitor_interval"), ({"temp_optimal": 80}, "config"),
])  # fmt: skip
def test_configuration_out_of_bounds_or_order_is_refused(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Thresholds.parse(changes)
    assert refused.value.field == field


def test_the_configuration_of_one_card_wins_over_the_pool() -> None:
    stored = {"version": "3", "temp_optimal": "60", "temp_optimal@GPU-a": "50", "temp_normal@GPU-b": "70"}
    assert effective(stored, None) == {"temp_optimal": "60"}
    assert effective(stored, "GPU-a") == {"temp_optimal": "50"}


def test_speeds_follow_the_states() -> None:
    assert [state.speed for state in State] == [1.0, 0.8, 0.5, 0.0, 0.0]


@pytest.fixture
def fake() -> Broker:
    return Broker(fakeredis.FakeRedis(decode_responses=True))


def test_an_empty_pool_reads_as_unavailable_and_empty(fake: Broker) -> None:
    assert fake.gpus() == fake.leases() == fake.waiters() == fake.hosts() == fake.events() == []
    assert (fake.throttle().state, fake.speed(), fake.should_throttle()) == (State.UNAVAILABLE, 0.0, True)
    assert fake.config() == Thresholds()


def test_records_are_read_from_plain_hashes(fake: Broker) -> None:
    fake.redis.hset(fake.keys.lease("a"), mapping={
        "id": "a", "gpu_uuids": "GPU-a", "host": "h", "memory_bytes": "5", "token": "9007199254740991", "owner": "o",
        "tenant": "t", "priority": "0", "state": "active", "created_at": "1", "expires_at": "2", "ttl_ms": "1",
        "pid": "", "used_bytes": "",
    })  # fmt: skip
    lease = fake.get("a")
    assert lease is not None
    assert (lease.token, lease.pid, lease.used_bytes) == ((1 << 53) - 1, None, None)
