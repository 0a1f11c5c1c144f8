"""`gpubroker doctor`: what is wrong with a pool, and what mends it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from broker import Broker
from broker.cli import main
from broker.publish import Publisher
from broker.units import GIB
from broker.values import State

Cli = Callable[..., Result]
Cards = Callable[..., None]


@pytest.fixture
def durable(broker: Broker) -> Iterator[Broker]:
    """The test's server, with an append-only file."""
    broker.redis.config_set("appendonly", "yes")
    yield broker
    broker.redis.config_set("appendonly", "no")


def wrong(result: Result) -> list[str]:
    """What the doctor found to be wrong, by what it is about."""
    return [finding["about"] for finding in json.loads(result.stdout)["findings"] if not finding["fine"]]


def test_a_pool_that_is_well_exits_0(cli: Cli, durable: Broker, cards: Cards) -> None:
    cards("GPU-a")
    durable.acquire("4GiB")
    result = cli("doctor")
    assert result.exit_code == 0
    assert "every sum and index follows from the leases" in result.stdout
    assert "WRONG" not in result.stdout
    told = json.loads(cli("doctor", "--json").stdout)
    assert (told["fine"], told["pool"], "mended" in told) == (True, "default", False)


def test_a_server_that_may_lose_leases_is_named_with_what_mends_it(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        result = cli("doctor")
    finally:
        broker.redis.config_set("maxmemory-policy", "noeviction")
    assert result.exit_code == 1
    assert "CONFIG SET appendonly yes" in result.stdout
    assert "CONFIG SET maxmemory-policy noeviction" in result.stdout


def test_a_server_that_is_nearly_full_is_named(cli: Cli, durable: Broker, cards: Cards) -> None:
    cards("GPU-a")
    durable.redis.config_set("maxmemory", str(int(durable.redis.info("memory")["used_memory"] * 1.05)))
    try:
        assert wrong(cli("doctor", "--json")) == ["memory"]
    finally:
        durable.redis.config_set("maxmemory", "0")


def test_a_pool_without_an_agent_and_hosts_with_a_silent_or_a_failed_one_are_named(
    cli: Cli, durable: Broker, until: Callable[[Callable[[], bool]], None]
) -> None:
    assert wrong(cli("doctor", "--json")) == ["agents"]
    Publisher(durable, "quiet").publish([], 1)
    Publisher(durable, "broken").publish([], 600_000, host_state="UNAVAILABLE", host_reason="no NVML library")
    until(lambda: wrong(cli("doctor", "--json")) == ["host broken", "host quiet"])
    assert "no NVML library" in cli("doctor").stdout


def test_a_card_whose_leases_exceed_what_there_is_is_named(cli: Cli, durable: Broker, cards: Cards) -> None:
    cards("GPU-a")
    durable.acquire("4GiB")
    cards("GPU-a", unmanaged_bytes=3 * GIB)
    assert wrong(cli("doctor", "--json")) == ["GPU GPU-a"]
    assert "1.5 GiB" in cli("doctor").stdout


def test_a_stepped_clock_is_named(cli: Cli, durable: Broker, cards: Cards) -> None:
    cards("GPU-a")
    durable.redis.hset(durable.keys.ledger, "clock_offset_ms", "5000")
    assert wrong(cli("doctor", "--json"))[0] == "clock"
    durable.redis.hset(durable.keys.ledger, "clock_offset_ms", "0")


def test_a_lease_long_over_whose_process_goes_on_is_named(cli: Cli, durable: Broker, cards: Cards) -> None:
    cards("GPU-a")
    durable.acquire("4GiB", lease_id="job-7", pid=4242)
    ended = int(durable.redis.hget(durable.keys.lease("job-7"), "expires_at") or 0) - 200_000
    durable.redis.hset(durable.keys.lease("job-7"), mapping={"state": "reclaiming", "expires_at": str(ended)})
    assert wrong(cli("doctor", "--json")) == ["lease job-7"]
    assert "end process 4242 on h1" in cli("doctor").stdout
    durable.redis.hset(durable.keys.lease("job-7"), mapping={"state": "active", "expires_at": str(ended + 200_000)})


def test_waiters_that_could_be_served_or_never_will_be_are_named(cli: Cli, durable: Broker, cards: Cards) -> None:
    cards("GPU-a")
    held = durable.acquire("5GiB")
    durable.call("acquire", "stuck", 2 * GIB, 30_000, "", "", 0, "studio", "me", "", "", "", 1)
    durable.call("acquire", "hopeless", GIB, 30_000, "", "", 0, "studio", "me", "", "", "", 1, "labels", "rack=z")
    assert wrong(cli("doctor", "--json")) == ["waiter hopeless"]
    since = int(durable.redis.hget(durable.keys.waiter("stuck"), "since") or 0)
    durable.redis.hset(durable.keys.waiter("stuck"), "since", str(since - 100_000))
    durable.redis.hset(durable.keys.gpu("GPU-a"), "budget_bytes", str(50 * GIB))  # room that nobody was told of
    assert "waiter stuck" in wrong(cli("doctor", "--json"))
    durable.redis.hset(durable.keys.gpu("GPU-a"), "budget_bytes", str(int(5.5 * GIB)))
    held.release()


def test_sums_that_are_wrong_are_named_and_mended_on_demand(cli: Cli, durable: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    durable.acquire("4GiB", gpu="GPU-a")
    durable.redis.hset(durable.keys.gpu("GPU-a"), mapping={"leased_bytes": "7", "free_bytes": "8"})
    assert wrong(cli("doctor", "--json")) == ["ledger"] * 2
    assert "--repair" in cli("doctor").stdout
    result = cli("doctor", "--repair", "--json")
    assert (result.exit_code, json.loads(result.stdout)["mended"]) == (0, {"gpu GPU-a": 2})
    assert cli("doctor", "--repair").stdout.startswith("mended  nothing")


def test_what_a_repair_mended_is_told(cli: Cli, durable: Broker, cards: Cards) -> None:
    cards("GPU-a")
    durable.redis.zrem(durable.keys.free, "GPU-a")
    assert cli("doctor", "--repair").stdout.startswith("mended  gpu GPU-a: 1 value\n")


def test_a_host_that_is_gone_for_good_is_retired_and_one_at_work_is_not(
    cli: Cli, durable: Broker, cards: Cards, until: Callable[[Callable[[], bool]], None]
) -> None:
    cards("GPU-a")
    cards("GPU-b", host="gone", interval_ms=1)
    until(lambda: wrong(cli("doctor", "--json")) == ["host gone"])
    assert "gpubroker retire gone" in cli("doctor").stdout
    assert (cli("retire", "gone").exit_code, cli("doctor").exit_code) == (0, 0)
    assert [gpu.uuid for gpu in durable.gpus()] == ["GPU-a"]
    for host, why in (("gone", "knows no host gone"), ("h1", "agent of host h1 is at work")):
        result = cli("retire", host)
        assert result.exit_code == 1
        assert why in result.stderr


def test_a_pool_in_which_nothing_can_be_lent_is_not_well(cli: Cli, durable: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    durable.drain(host="h1")
    assert wrong(cli("doctor", "--json")) == ["cards"]
    assert "none of 2 cards lends, 2 of them drained" in cli("doctor").stdout


def severities(result: Result) -> dict[str, str]:
    """How bad each thing is, where it is not fine."""
    return {one["about"]: one["severity"] for one in json.loads(result.stdout)["findings"] if not one["fine"]}


def test_a_card_that_cannot_be_read_and_one_that_is_sick_are_named_with_what_to_do(
    cli: Cli, durable: Broker, cards: Cards
) -> None:
    cards("GPU-a")
    cards("GPU-b", host="h2", state=State.UNAVAILABLE, job_state=State.UNAVAILABLE, reason="GPU is lost")
    cards("GPU-c", host="h3", marks=("health",), reason="XID 79")
    result = cli("doctor")
    assert result.exit_code == 1
    assert "WRONG   GPU GPU-b: cannot be used: GPU is lost" in result.stdout
    assert "WRONG   GPU GPU-c: drained for its health: XID 79" in result.stdout
    assert "`gpubroker hardware GPU-c`" in result.stdout


def test_a_warning_is_told_and_exits_0(cli: Cli, durable: Broker, cards: Cards) -> None:
    cards("GPU-a")
    cards("GPU-b", host="h2", state=State.CRITICAL, job_state=State.CRITICAL, reason="91 °C")
    result = cli("doctor", "--json")
    assert (result.exit_code, severities(result)) == (0, {"GPU GPU-b": "warning"})
    assert json.loads(result.stdout)["fine"] is True


def test_the_versions_of_drivers_are_told_by_host(cli: Cli, durable: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b", host="h1", hardware={"driver": "550.54"})
    cards("GPU-c", host="h2", hardware={"driver": "535.1"})
    assert "drivers: 535.1 on h2; 550.54 on h1\n" in cli("doctor").stdout


# -- what its user may -------------------------------------------------------------------------------------------------

_NEEDED = (
    "+evalsha +eval +info +ping +hello +client|id +client|unblock +time +scan +@hash +@set +@sortedset "
    "+@list +@stream +get +set +del +exists +persist +pexpire"
)


@pytest.fixture
def as_user(durable: Broker, cards: Cards) -> Iterator[Callable[..., Result]]:
    """The doctor as a user of these rights: ``as_user("~*", "+@read")``."""
    cards("GPU-a")

    def examine(*rules: str) -> Result:
        durable.redis.execute_command("ACL", "SETUSER", "anna", "reset", "on", ">pw", *rules)
        url = durable.url.replace("redis://", "redis://anna:pw@")
        return CliRunner().invoke(main, ["doctor", "--json", "--redis-url", url])

    yield examine
    durable.redis.acl_deluser("anna")


def test_the_rights_that_the_docs_list_are_all_that_is_needed(as_user: Callable[..., Result]) -> None:
    result = as_user("~gpubroker:*", *_NEEDED.split())
    assert "rights" not in severities(result)


def rights(result: Result) -> dict[str, str]:
    """What was found of the user's rights."""
    (finding,) = [one for one in json.loads(result.stdout)["findings"] if one["about"] == "rights"]
    return {name: str(value) for name, value in finding.items()}


def test_a_command_that_every_script_sends_is_named_and_how_to_allow_it(as_user: Callable[..., Result]) -> None:
    found = rights(as_user("~gpubroker:*", *_NEEDED.split(), "-zadd", "-blpop"))
    assert found["severity"] == "wrong"
    assert found["says"].startswith("anna may not ZADD, which every script sends")
    assert found["mend"] == "ACL SETUSER anna +blpop +zadd"


def test_what_only_some_do_is_a_warning_that_says_what_they_do(as_user: Callable[..., Result]) -> None:
    found = rights(as_user("~gpubroker:*", *_NEEDED.split(), "-blpop", "-zpopmin"))
    assert found["severity"] == "warning"
    assert found["says"] == "anna may not wait (BLPOP), learn (ZPOPMIN)"
    assert found["mend"] == "if it has to: ACL SETUSER anna +blpop +zpopmin"


def test_a_user_of_the_ledger_alone_is_told_to_name_another_for_rq(as_user: Callable[..., Result]) -> None:
    result = as_user("~gpubroker:*", *_NEEDED.split())
    assert severities(result)["rq"] == "warning"
    assert "--rq-url" in result.stdout


def test_keys_of_another_pool_are_not_enough(as_user: Callable[..., Result]) -> None:
    result = as_user("~gpubroker:{other}:*", *_NEEDED.split())
    assert result.exit_code == 3  # it cannot even look at this one
    assert "its user may not do this" in result.stderr


def test_who_only_looks_is_warned_and_well(as_user: Callable[..., Result]) -> None:
    result = as_user("~*", "+@read", "+time", "+info")
    assert result.exit_code == 0
    assert severities(result)["rights"] == "warning"


def test_without_info_the_server_is_not_looked_at_and_the_rest_is(as_user: Callable[..., Result]) -> None:
    result = as_user("~gpubroker:*", *_NEEDED.split(), "-info")
    assert result.exit_code == 0
    assert {"server", "rights"} <= set(severities(result))
