"""The verbs around the ledger: gangs and alternatives, resize, revoke, adopt, tenants, explain, drains, the doctor."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from broker import Broker
from broker.cli import main
from broker.units import GIB
from broker.values import HostReport

Cli = Callable[..., Result]
Cards = Callable[..., None]


def one_line(text: str) -> str:
    """The line that stands alone in ``text``."""
    (line,) = text.splitlines()
    return line


def facts(text: str) -> dict[str, str]:
    """What a verb printed as ``name=value``."""
    return dict(word.split("=", 1) for word in one_line(text).split())


@pytest.mark.parametrize(
    "words",
    [
        ("resize", "a", "1", "1GiB"), ("revoke", "a"), ("adopt", "1", "1GiB"), ("explain", "1GiB"), ("tenants",),
        ("tenants", "set", "a", "--weight", "2"), ("doctor",), ("drain", "--host", "h1"), ("undrain", "--host", "h1"),
    ],
)  # fmt: skip
def test_without_redis_each_of_these_verbs_exits_3(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*words, "--redis-url", "redis://me:secret@127.0.0.1:1/3"])
    assert result.exit_code == 3
    assert "redis://me:***@127.0.0.1:1/3" in one_line(result.stderr)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("acquire", "1GiB", "--gpus", "0"), "gpus"),
        (("acquire", "17x1GiB"), "gpus"),
        (("acquire", ",".join(["1GiB"] * 9)), "memory"),
        (("acquire", "1GiB,none"), "memory"),
        (("acquire", "1GiB", "--label", "rack=*"), "labels"),
        (("acquire", "1GiB", "--capability", "ampere"), "capability"),
        (("acquire", "1GiB", "--mig", "*"), "mig"),
        (("acquire", "1GiB", "--host-memory", "nan"), "host_memory"),
        (("acquire", "1GiB", "--cpus", "nan"), "cpus"),
        (("acquire", "1GiB", "--placement", "far"), "placement"),
        (("acquire", "1GiB", "--function", "a b"), "function"),
        (("acquire", "1GiB", "--tenant", "*"), "tenant"),
        (("resize", "a", "0", "1GiB"), "token"),
        (("resize", "a", "1", "nan"), "memory"),
        (("resize", "a", "1", "1GiB", "--wait", "nan"), "wait"),
        (("revoke", "a", "--grace", "nan"), "grace"),
        (("revoke", "a b"), "lease_id"),
        (("adopt", "0", "1GiB"), "pid"),
        (("adopt", "1", "0"), "memory"),
        (("explain", "a b"), "what"),
        (("explain", "1GiB", "--priority", "9999"), "priority"),
        (("tenants", "set", "a b", "--weight", "2"), "tenant"),
        (("tenants", "set", "a", "--quota", "nan"), "quota"),
        (("tenants", "set", "a", "--weight", "nan"), "weight"),
        (("drain", "--host", "a b"), "host"),
    ],
)  # fmt: skip
def test_a_value_that_is_not_allowed_exits_2_and_is_named(cli: Cli, words: tuple[str, ...], field: str) -> None:
    result = cli(*words)
    assert result.exit_code == 2
    assert one_line(result.stderr).startswith(f"gpubroker: {field}=")


@pytest.mark.parametrize("words", [
    ("drain",), ("drain", "GPU-a", "--host", "h1"), ("undrain",), ("tenants", "set", "a"),
    ("acquire", "1GiB", "--label", "rack"),
])  # fmt: skip
def test_what_cannot_be_meant_exits_2_and_says_how_it_is_used(cli: Cli, words: tuple[str, ...]) -> None:
    result = cli(*words)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("2x2GiB",), ("2GiB", "--gpus", "2")])
def test_memory_of_several_gpus_is_of_each_and_all_are_of_one_host(
    cli: Cli, broker: Broker, cards: Cards, words: tuple[str, ...]
) -> None:
    cards("GPU-x", host="h0")
    cards("GPU-a", "GPU-b", host="h1")
    told = facts(cli("acquire", *words).stdout)
    assert (sorted(told["gpu_uuids"].split(",")), told["host"]) == (["GPU-a", "GPU-b"], "h1")
    assert told["memory_bytes"] == str(2 * GIB)
    row = cli("leases").stdout.splitlines()[1]
    assert "2x2.0 GiB" in row


def test_of_alternatives_the_first_that_fits_is_taken(cli: Cli, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    told = json.loads(cli("acquire", "16GiB,2x3GiB,1GiB", "--json").stdout)
    assert (told["choice"], told["memory_bytes"]) == (2, 3 * GIB)


@pytest.mark.parametrize("option", [
    ("--label", "rack=b", "--label", "zone=z"), ("--capability", "9.0"), ("--mig", "1g.5gb"),
])  # fmt: skip
def test_a_request_may_select_by_what_cards_and_hosts_are(cli: Cli, cards: Cards, option: tuple[str, ...]) -> None:
    cards("GPU-a", capability="8.6", told=HostReport(labels="rack=a,zone=z"))
    cards("GPU-b", host="h2", capability="9.0", mig="1g.5gb", told=HostReport(labels="rack=b,zone=z"))
    assert facts(cli("acquire", "1GiB", *option).stdout)["gpu_uuids"] == "GPU-b"


def test_a_hosts_own_memory_and_processors_are_lent_beside_its_gpus(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", told=HostReport(8 * GIB, 4000))
    wanted = ("acquire", "1GiB", "--host-memory", "6GiB", "--cpus", "1.5")
    assert cli(*wanted).exit_code == 0
    assert cli(*wanted).exit_code == 1
    assert (broker.leases()[0].host_memory_bytes, broker.leases()[0].cpus_milli) == (6 * GIB, 1500)


def test_placement_and_function_go_with_the_request(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    for _ in range(2):
        cli("acquire", "1GiB", "--placement", "spread", "--function", "enhance", "--tenant", "studio")
    assert {lease.gpu_uuids for lease in broker.leases()} == {"GPU-a", "GPU-b"}
    assert {(lease.function, lease.tenant) for lease in broker.leases()} == {("enhance", "studio")}


def test_a_waiters_alternatives_are_shown(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.acquire("2x5GiB")
    broker.call("acquire", "w", f"{5 * GIB},2x{4 * GIB}", 30_000, "", "", 0, "studio", "me", "", "", "", 1)
    row = cli("waiters").stdout.splitlines()[1]
    assert row.startswith("w")
    assert "5.0 GiB or 2x4.0 GiB" in row


# -- what becomes of a lease -------------------------------------------------------------------------------------------


def test_a_lease_is_resized_by_its_holder_and_nobody_else(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    held = facts(cli("acquire", "2GiB", "--lease-id", "job-7").stdout)
    assert facts(cli("resize", "job-7", held["token"], "5GiB").stdout) == {"id": "job-7", "memory_bytes": str(5 * GIB)}
    assert json.loads(cli("resize", "job-7", held["token"], "1GiB", "--json").stdout)["memory_bytes"] == GIB
    assert cli("resize", "job-7", "1", "2GiB").exit_code == 1
    assert [lease.memory_bytes for lease in broker.leases()] == [GIB]


def test_growth_for_which_there_is_no_room_exits_1_and_leaves_what_there_was(
    cli: Cli, broker: Broker, cards: Cards
) -> None:
    cards("GPU-a")
    held = facts(cli("acquire", "2GiB", "--lease-id", "job-7").stdout)
    broker.acquire("3GiB")
    assert cli("resize", "job-7", held["token"], "3GiB", "--wait", "0.2").exit_code == 1
    assert cli("resize", "job-7", held["token"], "50GiB").exit_code == 1
    assert sorted(lease.memory_bytes for lease in broker.leases()) == [2 * GIB, 3 * GIB]
    assert broker.waiters() == []


def test_a_revoked_lease_has_a_deadline_that_only_moves_nearer(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("2GiB", lease_id="job-7")
    first = int(facts(cli("revoke", "job-7", "--grace", "10", "--reason", "room for the boss").stdout)["revoke_at"])
    assert json.loads(cli("revoke", "job-7", "--grace", "20", "--json").stdout) == {"id": "job-7", "revoke_at": first}
    (lease,) = broker.leases()
    assert (lease.revoke_at, lease.revoke_reason) == (first, "room for the boss")
    assert "active revoked" in cli("leases").stdout


def test_revoking_what_nobody_holds_exits_1(cli: Cli) -> None:
    result = cli("revoke", "nothing")
    assert result.exit_code == 1
    assert "nothing" in one_line(result.stderr)


def test_memory_that_a_process_uses_without_a_lease_becomes_one(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", processes=((4242, 3 * GIB),), unmanaged_bytes=3 * GIB)
    told = facts(cli("adopt", "4242", "3GiB", "--host", "h1", "--tenant", "studio").stdout)
    assert (told["gpu_uuids"], told["memory_bytes"]) == ("GPU-a", str(3 * GIB))
    (lease,) = broker.leases()
    assert (lease.pid, lease.adopted, lease.tenant) == (4242, True, "studio")
    assert broker.gpus()[0].budget_bytes == int(5.5 * GIB)
    assert "active adopted" in cli("leases").stdout


def test_a_process_that_no_agent_sees_is_not_adopted(cli: Cli, cards: Cards) -> None:
    cards("GPU-a")
    result = cli("adopt", "4242", "3GiB", "--host", "h1")
    assert result.exit_code == 1
    assert "4242" in one_line(result.stderr)


# -- hosts and tenants -------------------------------------------------------------------------------------------------


def test_a_drained_host_lends_none_of_its_cards_until_it_is_undrained(cli: Cli, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    assert cli("drain", "GPU-a").exit_code == 0
    assert cli("drain", "--host", "h1").stdout == "drained h1\n"
    assert cli("acquire", "1GiB").exit_code == 1
    lines = cli("status").stdout.splitlines()[:2]
    assert all("drained with its host" in line for line in lines)
    assert cli("undrain", "--host", "h1").stdout == "undrained h1\n"
    assert facts(cli("acquire", "1GiB").stdout)["gpu_uuids"] == "GPU-b"


def test_draining_an_unknown_host_exits_1(cli: Cli) -> None:
    result = cli("drain", "--host", "h9")
    assert result.exit_code == 1
    assert "h9" in one_line(result.stderr)


def test_a_pool_without_tenants_says_so(cli: Cli) -> None:
    assert "nobody has borrowed" in cli("tenants").stdout


def test_tenants_are_shown_with_what_they_hold_and_may_hold(cli: Cli, cards: Cards) -> None:
    cards("GPU-a")
    assert cli("tenants", "set", "studio", "--quota", "3GiB", "--weight", "2").exit_code == 0
    assert cli("acquire", "2GiB", "--tenant", "studio").exit_code == 0
    header, row = cli("tenants").stdout.splitlines()
    assert header.split()[:4] == ["TENANT", "LEASED", "QUOTA", "WEIGHT"]
    assert row.split()[:6] == ["studio", "2.0", "GiB", "3.0", "GiB", "2"]
    (told,) = json.loads(cli("tenants", "--json").stdout)
    assert (told["leased_bytes"], told["quota_bytes"], told["weight"]) == (2 * GIB, 3 * GIB, 2.0)


def test_a_quota_is_kept_until_it_is_lifted(cli: Cli, cards: Cards) -> None:
    cards("GPU-a")
    told = json.loads(cli("tenants", "set", "studio", "--quota", "1GiB", "--json").stdout)
    assert told["quota_bytes"] == GIB
    refused = cli("acquire", "2GiB", "--tenant", "studio")
    assert refused.exit_code == 1
    assert "quota" in one_line(refused.stderr)
    assert json.loads(cli("tenants", "set", "studio", "--quota", "0", "--json").stdout)["quota_bytes"] is None
    assert cli("acquire", "2GiB", "--tenant", "studio").exit_code == 0


def test_each_function_has_an_account_of_its_ended_leases(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    for size in ("1GiB", "3GiB"):
        broker.acquire(size, tenant="studio", function="enhance").release()
    header, row = cli("tenants", "--functions").stdout.splitlines()
    assert header.split() == ["TENANT", "FUNCTION", "LEASES", "HELD", "WAITED", "ASKED", "PEAK"]
    assert row.split()[:3] == ["studio", "enhance", "2"]
    assert row.split()[-3:] == ["2.0", "GiB", "-"]


# -- explain -----------------------------------------------------------------------------------------------------------


def test_what_would_fit_is_told_with_a_card(cli: Cli, cards: Cards) -> None:
    cards("GPU-a")
    assert cli("explain", "4GiB").stdout == "4.0 GiB would be granted now, for instance on GPU-a of h1\n"


def test_what_would_not_fit_is_told_with_numbers_and_takes_nothing(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("4GiB")
    before = broker.recent_events()
    text = cli("explain", "3GiB").stdout
    assert "1.5 GiB free of 5.5 GiB where 3.0 GiB are needed" in text
    assert "can never be granted" in cli("explain", "50GiB").stdout
    assert (broker.recent_events(), broker.waiters()) == (before, [])


def test_a_request_that_waits_is_explained_by_its_name(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.acquire("2x5GiB")
    cli("drain", "GPU-b")
    for name in ("first", "123"):
        broker.call("acquire", name, 3 * GIB, 30_000, "", "", 0, "studio", "me", "", "", "", 1)
    lines = cli("explain", "first").stdout.splitlines()
    assert lines[0].startswith("first waits for 3.0 GiB, at place 1 of 2")
    assert "GPU-a" in lines[1]
    assert "gpubroker undrain GPU-b" in lines[2]
    assert cli("explain", "123", "--named").stdout.startswith("123 waits for 3.0 GiB, at place 2 of 2")


def test_every_option_of_a_request_may_be_asked_about(cli: Cli, cards: Cards) -> None:
    cards("GPU-a", capability="8.6", told=HostReport(GIB, 1000, "rack=a"))
    assert "would be granted now" in cli("explain", "1GiB", "--label", "rack=a", "--capability", "8.0").stdout
    assert "not of the kind" in cli("explain", "1GiB", "--label", "rack=b").stdout
    assert "not of the kind" in cli("explain", "1GiB", "--host", "h2").stdout
    assert "no host that it may use has so much memory" in cli("explain", "1GiB", "--host-memory", "2GiB").stdout
    assert "processors" in cli("explain", "1GiB", "--cpus", "2").stdout
    assert "2 cards of one host" in cli("explain", "2x1GiB").stdout
    cli("tenants", "set", "studio", "--quota", "1GiB")
    assert "of its quota left" in cli("explain", "2GiB", "--tenant", "studio").stdout


def test_an_explanation_in_json_has_the_verdict_on_each_card(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.acquire("4GiB", gpu="GPU-a")
    told = json.loads(cli("explain", "3GiB", "--json").stdout)
    assert {card["uuid"]: card["why"] for card in told["cards"]} == {"GPU-a": "leased", "GPU-b": "fits"}
    assert (told["kind"], told["fits"], told["ahead"]) == ("ask", True, 0)
    assert told["words"]


def test_the_verdict_on_each_card_is_shown_on_demand(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.acquire("4GiB", gpu="GPU-a")
    rows = cli("explain", "3GiB", "--cards").stdout.splitlines()[2:]
    assert sorted(row.split()[1:3] for row in rows) == [["GPU-a", "leased"], ["GPU-b", "fits"]]


def test_more_cards_than_one_page_are_all_looked_at(cli: Cli, cards: Cards) -> None:
    for host in range(5):
        cards(*(f"GPU-{host}-{index}" for index in range(30)), host=f"h{host}")
    told = json.loads(cli("explain", "1GiB", "--json").stdout)
    assert (len({card["uuid"] for card in told["cards"]}), told["total_cards"]) == (150, 150)


def test_what_nobody_knows_is_said_and_exits_1(cli: Cli) -> None:
    result = cli("explain", "nothing")
    assert result.exit_code == 1
    assert "knows no request or lease nothing" in one_line(result.stdout)
