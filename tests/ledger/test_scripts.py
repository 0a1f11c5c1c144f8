"""The scripts as such: headers, bad input, time, and a server that forgets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from importlib.resources import files

import pytest
import redis

from broker import Broker, InsufficientMemory, InvalidRequest, LeaseLost, PoolUnavailable
from broker.ledger import scripts
from broker.ledger.keys import ORDER
from broker.thresholds import Thresholds

Cards = Callable[..., None]
GOOD = ["job", "1024", "30000", "", "", "0", "default", "me", "", "", "", "0"]
NONSENSE = ["", " 12 ", "0x7f", "1e3", "nan", "inf", "-inf", "-5", "0", "1.5", "99999999999999999999", "١٢", "12\n"]


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("value", NONSENSE)
def test_a_number_that_is_none_is_refused_by_lua_itself_and_writes_nothing(broker: Broker, at: int, value: str) -> None:
    argv = list(GOOD)
    argv[at] = value
    with pytest.raises(InvalidRequest, match="memory|gpus" if at == 1 else "ttl_ms"):
        broker.call("acquire", *argv)
    assert broker.redis.keys("*") == []


@pytest.mark.parametrize(("at", "value"), [
    (0, ""), (0, "a b"), (0, "a\nb"), (0, "x" * 129), (3, "-h"), (4, "g*"), (5, "1e2"), (5, "1001"), (6, ""), (7, ""),
    (8, "{"), (9, "-1"), (10, "0"), (11, "2"), (11, ""),
])  # fmt: skip
def test_every_argument_is_checked_by_lua_itself(broker: Broker, at: int, value: str) -> None:
    argv = list(GOOD)
    argv[at] = value
    with pytest.raises(InvalidRequest):
        broker.call("acquire", *argv)
    assert broker.redis.keys("*") == []


@pytest.mark.parametrize(("changed", "options", "field"), [
    ({}, ("nonce", "a b"), "nonce"), ({}, ("nonce", "x" * 65), "nonce"), ({}, ("nonce",), "option"),
    ({}, ("colour", "red"), "option"), ({}, ("nonce", "a", "nonce", "a b"), "nonce"),
    ({1: "2x1048576", 4: "GPU-a"}, (), "gpus"), ({1: "1048576,2x1048576", 4: "GPU-a"}, (), "gpus"),
])  # fmt: skip
def test_options_are_checked_by_lua_itself(
    broker: Broker, changed: dict[int, str], options: tuple[str, ...], field: str
) -> None:
    argv = [changed.get(at, value) for at, value in enumerate(GOOD)]
    with pytest.raises(InvalidRequest, match=field):
        broker.call("acquire", *argv, *options)
    assert broker.redis.keys("*") == []


@pytest.mark.parametrize("wrong", [
    {"memory": "nan"}, {"memory": "-1GiB"}, {"memory": 0}, {"memory": True}, {"memory": 1.5}, {"memory": "5 apples"},
    {"memory": "1GiB", "ttl": float("nan")}, {"memory": "1GiB", "ttl": 0}, {"memory": "1GiB", "wait": -1},
    {"memory": "1GiB", "lease_id": "a b"}, {"memory": "1GiB", "host": ""}, {"memory": "1GiB", "gpus": 17},
    {"memory": "1GiB", "gpus": 0},
    {"memory": []}, {"memory": ["1GiB"] * 9}, {"memory": "1GiB", "mig": "a b"}, {"memory": "1GiB", "capability": "new"},
    {"memory": "1GiB", "host_memory": "-1"}, {"memory": "1GiB", "cpus": 0}, {"memory": "1GiB", "function": "a b"},
    {"memory": "1GiB", "priority": 5000}, {"memory": "1GiB", "placement": "random"}, {"memory": "1GiB", "token": 0},
])  # fmt: skip
def test_bad_input_is_refused_at_the_edge_naming_field_value_and_what_is_allowed(
    broker: Broker, wrong: dict[str, object]
) -> None:
    field = [name for name in wrong if name != "memory"] or ["memory"]
    with pytest.raises(InvalidRequest) as refused:
        broker.acquire(**wrong)  # type: ignore[arg-type]
    assert refused.value.field == field[0]
    assert repr(wrong[field[0]]) in str(refused.value)
    assert "not allowed: " in str(refused.value)
    assert broker.redis.keys("*") == []


def test_every_script_says_what_it_promises_and_takes() -> None:
    for name in scripts.names():
        text = files("broker.lua").joinpath(f"{name}.lua").read_text()
        assert text.startswith("#!lua"), name
        for part in ("-- KEYS ", "-- ARGV ", "-- reply ", "-- errors ", "-- cost ", "-- include: keys"):
            assert part in text, (name, part)
        promised = set(re.findall(r"BROKER_[A-Z_]+", text.split("-- include:")[0]))
        raised = set(
            re.findall(r"BROKER_[A-Z_]+", scripts.script(name).text.split("-- include:")[0].split("\n\n", 1)[1])
        )
        used = {word for word in raised if f"'{word} " in scripts.script(name).text}
        assert used <= promised | {"BROKER_INVALID"}, (name, used - promised)


def test_scripts_take_the_keys_in_the_order_of_python() -> None:
    text = files("broker.lua").joinpath("include/keys.lua").read_text()
    names = [name for line in re.findall(r"^-- keys: (.*)$", text, re.MULTILINE) for name in line.split()]
    assert names == [name.upper().replace("_PREFIX", "_OF") for name in ORDER]


def test_lua_and_python_agree_on_the_defaults() -> None:
    defaults = Thresholds()
    seen = set()
    for command in scripts.names():
        for name, value in re.findall(r"setting(?:_ms)?\('(\w+)', (\d+)\)", scripts.script(command).text):
            assert float(value) == getattr(defaults, name), (command, name)
            seen.add(name)
    assert {"waiter_seconds", "claim_seconds", "reclaim_seconds", "bypass_max", "history_size", "preempt"} <= seen
    ledger = files("broker.lua").joinpath("include/ledger.lua").read_text()
    assert f"or '{defaults.events_max}'" in ledger
    assert f"own[4] or '{defaults.memory_reserve_mb}'" in scripts.script("publish_sample").text
    tau = re.search(r"state\[13\][^\n]* or ([\d.]+)", scripts.script("acquire").text)
    assert tau is not None
    assert abs(float(tau[1]) - defaults.usage_half_life_seconds / math.log(2)) < 1


def test_a_server_that_forgot_its_scripts_gets_them_again(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB")
    broker.redis.script_flush()
    lease.renew()
    broker.redis.script_flush()
    assert lease.release() is True


def test_a_script_runs_by_hand_as_printed(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    text = scripts.script("acquire").text
    reply = broker.redis.eval(text, 1, broker.keys.root, *GOOD)
    assert reply[0] == "granted"  # type: ignore[index]


def test_a_step_of_the_clock_does_not_end_every_lease_at_once(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", ttl=30)
    _shift_past(broker, 3_600_000)
    broker.reap()
    assert broker.get(lease.id).state == "active"  # type: ignore[union-attr]
    assert lease.renew() > 0
    (step,) = [event for event in broker.events() if event.kind == "clock"]
    assert int(step.fields["step_ms"]) > 3_590_000


def test_while_expiry_pauses_a_card_without_a_fresh_sample_lends_nothing(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    _shift_past(broker, 3_600_000)
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB")
    cards("GPU-a")
    assert broker.acquire("1GiB").gpu_uuids == ("GPU-a",)


def test_one_script_ends_eight_leases_and_the_next_goes_on(broker: Broker, cards: Cards) -> None:
    broker.update_config(reclaim_seconds=0)
    cards("GPU-a")
    last = [broker.acquire("1MiB", ttl=0.1) for _ in range(12)][-1]
    seconds, micros = broker.redis.time()  # type: ignore[misc]
    while int(seconds) * 1000 + int(micros) // 1000 <= last.expires_at:
        seconds, micros = broker.redis.time()  # type: ignore[misc]
    left = []
    for _ in range(3):
        broker.reap()
        left.append(len(broker.leases()))
    assert left[-1] == 0
    assert left[0] >= 4


def test_after_a_step_the_leases_that_nobody_renews_do_end(broker: Broker, cards: Cards) -> None:
    broker.update_config(grace_seconds=0, reclaim_seconds=0)
    cards("GPU-a")
    lease = broker.acquire("1GiB", ttl=30)
    _shift_past(broker, 3_600_000)
    broker.reap()
    broker.reap()
    assert broker.get(lease.id) is None
    with pytest.raises(LeaseLost):
        lease.renew()


def test_a_clock_set_back_neither_freezes_nor_lengthens_a_lease(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", ttl=30)
    _shift_past(broker, -600_000)
    before = int(broker.redis.hget(broker.keys.ledger, "clock_ms"))  # type: ignore[arg-type]
    first = broker.reap()
    assert first >= before  # it did not run backwards
    assert lease.renew() <= first + 31_000
    assert broker.gpus()[0].lends
    assert "clock" in [event.kind for event in broker.events()]


def _shift_past(broker: Broker, step_ms: int) -> None:
    """As if Redis's clock had made a step of ``step_ms``: everything that the ledger remembers moves the other way."""
    client, keys = broker.redis, broker.keys
    for name in ("clock_ms", "soonest"):
        client.hincrby(keys.ledger, name, -step_ms)
    for index in (keys.leases, keys.all[ORDER.index("fresh")]):
        for member in client.zrange(index, 0, -1):  # type: ignore[union-attr]
            client.zincrby(index, -step_ms, member)
    for lease in client.zrange(keys.leases, 0, -1):  # type: ignore[union-attr]
        client.hincrby(keys.lease(lease), "expires_at", -step_ms)
    for uuid in client.smembers(keys.gpus):  # type: ignore[union-attr]
        client.hincrby(keys.gpu(uuid), "fresh_until", -step_ms)


def test_an_unreachable_server_is_named_in_one_line() -> None:
    with Broker.from_url("redis://:secret@127.0.0.1:1/0") as nobody, pytest.raises(PoolUnavailable) as error:
        nobody.reap()
    assert "127.0.0.1:1" in str(error.value)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["", "http://x", "redis://h:port", 5, "redis://h:99999"])
def test_a_url_that_is_none_is_refused(url: object) -> None:
    with pytest.raises(InvalidRequest, match="redis_url"):
        Broker.from_url(url)  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", ["", "a b", "{x}", "x" * 65, "-x"])
def test_a_pool_name_that_is_none_is_refused(redis_url: str, pool: str) -> None:
    with pytest.raises(InvalidRequest, match="pool"):
        Broker.from_url(redis_url, pool=pool)


def test_pools_do_not_see_each_other(broker: Broker, cards: Cards, redis_url: str) -> None:
    cards("GPU-a")
    with Broker.from_url(redis_url, pool="other") as other:
        assert other.gpus() == []
        assert other.leases() == []


def test_an_error_reply_is_one_clean_line(broker: Broker) -> None:
    argv = list(GOOD)
    argv[0] = "evil\r\n+OK"
    with pytest.raises(InvalidRequest) as error:
        broker.call("acquire", *argv)
    assert "\n" not in str(error.value)


def test_server_memory_that_ran_out_refuses_new_leases_and_still_takes_old_ones_back(
    broker: Broker, cards: Cards
) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB")
    broker.redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(PoolUnavailable, match="maxmemory"):
            broker.acquire("1GiB")
        lease.renew()
        assert lease.release() is True
    finally:
        broker.redis.config_set("maxmemory", "0")


def test_a_lost_reply_takes_nothing_twice(broker: Broker, cards: Cards, monkeypatch: pytest.MonkeyPatch) -> None:
    cards("GPU-a")
    broker.acquire("1MiB").release()  # scripts loaded, connection made
    (connection,) = broker.redis.connection_pool._available_connections  # type: ignore[attr-defined]
    read, lost = connection.read_response, []

    def lose_first(*args: object, **kwargs: object) -> object:
        reply = read(*args, **kwargs)
        if not lost:
            lost.append(reply)
            connection.disconnect()
            raise redis.ConnectionError("the reply was lost on the way")
        return reply

    monkeypatch.setattr(connection, "read_response", lose_first)
    lease = broker.acquire("2GiB")
    assert lost
    assert [held.id for held in broker.leases()] == [lease.id]
    lost.clear()
    assert lease.release() is True
    assert lost
    assert broker.gpus()[0].leased_bytes == 0
