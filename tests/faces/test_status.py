"""`gpubroker status`: a line a card, whether all is well, and the table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from broker import Broker
from broker.cli import main
from broker.publish import Publisher
from broker.units import GIB, MIB
from broker.values import State

Cli = Callable[..., Result]
Cards = Callable[..., None]
UUID = "GPU-11111111-2222-3333-4444-555555555555"


def test_a_card_is_a_line_in_the_manner_of_gpustat(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards(UUID, host="studio-a", name="RTX 3060", temperature_c=61, memory_used_bytes=1850 * MIB)
    broker.acquire("2GiB", lease_id="job-7")
    line, _ = cli("status").stdout.splitlines()
    assert line == "[0] studio-a  RTX 3060  61°C  OPTIMAL  2048 / 6144 MiB lent, 1850 used | job-7(2048M)"


def test_lines_stand_under_each_other_and_end_with_what_is_the_matter(cli: Cli, broker: Broker, cards: Cards) -> None:
    hot = State.THROTTLED
    cards("GPU-a", "GPU-b", host="h1", temperature_c=77, state=hot, job_state=hot, reason="77 °C")
    cards("GPU-c", host="a-longer-name", name="A", temperature_c=None)
    Publisher(broker, "bare").publish([], 600_000, host_state="UNAVAILABLE", host_reason="no NVML library")
    *lines, _ = cli("status").stdout.splitlines()
    assert lines == [
        "[0] a-longer-name  A               OPTIMAL      0 / 6144 MiB lent, 0 used",
        "[0] h1             Test 6GB  77°C  THROTTLED    0 / 6144 MiB lent, 0 used | 77 °C",
        "[1] h1             Test 6GB  77°C  THROTTLED    0 / 6144 MiB lent, 0 used | 77 °C",
        "[-] bare           -               UNAVAILABLE    | no NVML library",
    ]


def test_the_last_line_says_that_all_is_well(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.acquire("4GiB")
    assert cli("status").stdout.splitlines()[-1] == (
        "all is well: 2 of 2 cards lend, 4.0 GiB of 11.0 GiB lent, nobody waits"
    )


def test_when_the_last_card_is_drained_not_all_is_well(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.drain("GPU-a")
    last = cli("status").stdout.splitlines()[-1]
    assert last.startswith("not all is well: nothing lends; 0 of 1 cards lend, 1 drained, ")


def test_a_card_that_a_person_drained_is_well(cli: Cli, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    cli("drain", "GPU-a")
    assert cli("status").stdout.splitlines()[-1].startswith("all is well: 1 of 2 cards lend")


@pytest.mark.parametrize(
    ("changes", "trouble"),
    [
        ({"state": State.CRITICAL, "job_state": State.CRITICAL}, "1 card CRITICAL"),
        ({"state": State.UNAVAILABLE, "job_state": State.UNAVAILABLE}, "1 card UNAVAILABLE"),
        ({"state": State.THROTTLED, "job_state": State.THROTTLED}, "1 card slowed down by heat"),
        ({"marks": ("health",)}, "1 card drained for health"),
    ],
)
def test_the_last_line_names_what_is_not_well(cli: Cli, cards: Cards, changes: dict[str, object], trouble: str) -> None:
    cards("GPU-a", **changes)
    last = cli("status").stdout.splitlines()[-1]
    assert last.startswith(f"not all is well: {trouble}; ")
    assert "gpubroker doctor" in last


def test_leases_beyond_what_there_is_are_not_well(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("4GiB")
    cards("GPU-a", unmanaged_bytes=3 * GIB)
    line, last = cli("status").stdout.splitlines()
    assert line.endswith("leases exceed the budget by 1.5 GiB")
    assert last.startswith("not all is well: 1 card with more lent than there is")


def test_a_full_memory_is_no_trouble_when_it_is_lent(cli: Cli, cards: Cards) -> None:
    cards("GPU-a", state=State.THROTTLED)
    assert cli("status").stdout.splitlines()[-1].startswith("all is well")


def test_a_card_whose_agent_is_silent_says_for_how_long(
    cli: Cli, cards: Cards, until: Callable[[Callable[[], bool]], None]
) -> None:
    cards("GPU-a", interval_ms=1)
    until(lambda: "UNAVAILABLE" in cli("status").stdout)
    line, last = cli("status").stdout.splitlines()
    assert "| no sample for " in line
    assert last.startswith("not all is well: 1 card silent; 0 of 1 cards lend")


def test_those_who_wait_are_counted(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("5GiB")
    broker.call("acquire", "late", 2 * GIB, 30_000, "", "", 0, "default", "me", "", "", "", 1)
    assert "1 waiting" in cli("status").stdout.splitlines()[-1]


def test_the_table_shows_each_card_and_each_host_without_one(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards(UUID, temperature_c=67, state=State.NORMAL, reason="67 °C", memory_used_bytes=3 * GIB)
    Publisher(broker, "bare").publish([], 600_000, host_state="UNAVAILABLE", host_reason="no NVML library")
    broker.acquire("4GiB")
    header, card, bare = cli("status", "--table").stdout.splitlines()
    assert " ".join(header.split()) == "HOST GPU NAME °C STATE JOB SPEED LEASED USED FREE TOTAL UUID REASON"
    shown = "h1 0 Test 6GB 67 NORMAL 1.0 4.0 GiB 3.0 GiB 1.5 GiB 6.0 GiB"
    assert card.split() == [*shown.split(), UUID, "67", "°C"]
    assert bare.split() == ["bare", *"---", "UNAVAILABLE", "0.0", *"-----", "no", "NVML", "library"]


@pytest.mark.parametrize("words", [("status",), ("status", "--table")])
def test_a_pipe_gets_no_colour_and_no_line_is_cut(
    cli: Cli, cards: Cards, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    cards(UUID, reason="r" * 300)
    text = cli(*words).stdout
    assert "\x1b" not in text
    assert "r" * 300 in text


@pytest.mark.parametrize("words", [("status",), ("status", "--table")])
def test_what_others_wrote_cannot_steer_the_terminal(cli: Cli, cards: Cards, words: tuple[str, ...]) -> None:
    cards("GPU-a", name="\x1b[2Jevil", reason="[red]plain[/red]\x9b2J")
    text = cli(*words).stdout
    assert not {"\x1b", "\x9b"} & set(text)
    assert "[red]plain[/red]" in text


def test_a_terminal_gets_colour_unless_it_is_told_not_to(
    redis_url: str, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards("GPU-a")
    monkeypatch.setenv("GPUBROKER_REDIS_URL", redis_url)
    assert "\x1b[32m" in CliRunner().invoke(main, ["status"], color=True).output
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in CliRunner().invoke(main, ["status"], color=True).output


def test_an_empty_pool_says_what_to_start(cli: Cli) -> None:
    assert "gpubroker agent" in cli("status").stdout


def test_status_in_json_has_the_ledgers_own_names(cli: Cli, cards: Cards) -> None:
    cards("GPU-a")
    told = json.loads(cli("status", "--json").stdout)
    assert set(told) == {"pool", "now", "hosts", "gpus"}
    assert {"uuid", "host", "state", "leased_bytes", "free_bytes", "temperature_c", "reason"} <= set(told["gpus"][0])


# -- the short way -----------------------------------------------------------------------------------------------------


def test_status_is_quick_since_it_imports_neither_redis_nor_models(redis_url: str, cards: Cards) -> None:
    cards("GPU-a")
    code = (
        "import sys; from broker.cli import main; "
        f"main(['status', '--redis-url', {redis_url!r}], standalone_mode=False); print(*sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "OPTIMAL" in told
    assert not {"redis", "pydantic", "rich", "rq", "asyncio", "importlib.metadata"} & set(told.splitlines()[-1].split())


def test_the_long_way_shows_the_same(cli: Cli, broker: Broker, cards: Cards, redis_url: str) -> None:
    cards("GPU-a", "GPU-b")
    broker.acquire("4GiB", lease_id="job-7")
    short = cli("status").stdout
    assert "job-7(4096M)" in short
    assert cli("status", "--redis-url", f"{redis_url}?socket_timeout=5").stdout == short


def test_a_user_and_a_database_are_found_the_short_way(
    cli: Cli, broker: Broker, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards("GPU-a")  # in database 0
    monkeypatch.setattr("broker.cli.status.broker_from", None)  # what would be asked the long way
    may = {"categories": ["+@read"], "commands": ["+time", "+select"]}
    broker.redis.acl_setuser("eye", enabled=True, passwords=["+s@crt"], keys=["*"], **may)
    try:
        host = broker.url.partition("://")[2].partition("/")[0]
        result = cli("status", "--redis-url", f"redis://eye:s%40crt@{host}/3")
    finally:
        broker.redis.acl_deluser("eye")
    assert (result.exit_code, "has no GPU" in result.stdout) == (0, True)


def test_a_wrong_password_is_told_by_the_client(cli: Cli, broker: Broker) -> None:
    host = broker.url.partition("://")[2]
    result = cli("status", "--redis-url", f"redis://eye:wrong@{host}")
    assert result.exit_code == 3
    assert "wants another user or password" in result.stderr
