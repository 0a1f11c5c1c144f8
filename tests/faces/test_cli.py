"""The `gpubroker` command: what it prints, and what its exit code says."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest
from click.testing import CliRunner, Result

from broker import Broker
from broker.cli import main
from broker.units import GIB

Cli = Callable[..., Result]
Cards = Callable[..., None]
UUID = "GPU-11111111-2222-3333-4444-555555555555"


def one_line(text: str) -> str:
    """The line that stands alone in ``text``."""
    (line,) = text.splitlines()
    return line


@pytest.mark.parametrize(
    "words",
    [
        ("status",), ("leases", "--json"), ("waiters",), ("acquire", "1GiB"), ("renew", "a", "1"),
        ("release", "a", "1"), ("drain", "GPU-a"), ("undrain", "GPU-a"), ("events", "--follow"),
        ("history", "GPU-a"), ("config", "get"),
        ("config", "set", "temp_optimal=60"),
    ],
)  # fmt: skip
def test_without_redis_every_verb_exits_3_and_names_the_url_but_not_its_password(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*words, "--redis-url", "redis://me:secret@127.0.0.1:1/3"])
    assert result.exit_code == 3
    assert "redis://me:***@127.0.0.1:1/3" in one_line(result.stderr)
    assert "secret" not in result.output


@pytest.mark.parametrize("url", ["redis://:sec@ret@127.0.0.1:1/0", "redis://127.0.0.1:1/0?password=secret"])
def test_a_password_is_hidden_wherever_it_stands_in_the_url(url: str) -> None:
    result = CliRunner().invoke(main, ["status", "--redis-url", url])
    assert result.exit_code == 3
    assert "ret" not in one_line(result.stderr)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("acquire", "0"), "memory"),
        (("acquire", "nan"), "memory"),
        (("acquire", "--", "-5GiB"), "memory"),
        (("acquire", "1GiB", "--ttl", "nan"), "ttl"),
        (("acquire", "1GiB", "--ttl", "0"), "ttl"),
        (("acquire", "1GiB", "--wait", "inf"), "wait"),
        (("acquire", "1GiB", "--lease-id", "a b"), "lease_id"),
        (("acquire", "1GiB", "--host", "*"), "host"),
        (("acquire", "1GiB", "--priority", "5000"), "priority"),
        (("renew", "a", "0"), "token"),
        (("drain", "x y"), "gpu"),
        (("status", "--pool", "a{b}"), "pool"),
        (("status", "--redis-url", "http://x"), "redis_url"),
        (("config", "set", "temp_optimal=200"), "temp_optimal"),
        (("config", "set", "temp_optimal=80"), "config"),
        (("config", "set", "temperature=60"), "NAME"),
        (("config", "get", "temperature"), "NAME"),
    ],
)
def test_a_value_that_is_not_allowed_exits_2_and_is_named(cli: Cli, words: tuple[str, ...], field: str) -> None:
    result = cli(*words)
    assert result.exit_code == 2
    assert one_line(result.stderr).startswith(f"gpubroker: {field}=")


def test_a_refused_change_leaves_the_configuration_as_it_was(cli: Cli, broker: Broker) -> None:
    assert cli("config", "set", "monitor_interval=5", "temp_optimal=200").exit_code == 2
    assert broker.config().monitor_interval == 3


def test_a_change_of_the_configuration_is_stored_and_an_empty_value_restores_the_default(cli: Cli) -> None:
    assert cli("config", "set", "temp_optimal=60").stdout == "temp_optimal=60\n"
    assert cli("config", "get", "temp_optimal").stdout == "60\n"
    assert cli("config", "set", "temp_optimal=").stdout == "temp_optimal=65\n"


def test_a_gpu_can_have_a_configuration_of_its_own(cli: Cli) -> None:
    assert cli("config", "set", "--gpu", "GPU-a", "temp_optimal=60").exit_code == 0
    assert json.loads(cli("config", "get", "temp_optimal", "--gpu", "GPU-a", "--json").stdout) == {"temp_optimal": 60}
    assert json.loads(cli("config", "get", "temp_optimal", "--json").stdout) == {"temp_optimal": 65}


def test_a_drained_card_says_so_until_it_is_undrained(cli: Cli, cards: Cards) -> None:
    cards("GPU-a")
    assert cli("drain", "GPU-a").stdout == "drained GPU-a\n"
    assert cli("status").stdout.splitlines()[0].endswith("| drained")
    assert cli("acquire", "1GiB").exit_code == 1
    assert cli("undrain", "GPU-a").stdout == "undrained GPU-a\n"
    assert cli("acquire", "1GiB").exit_code == 0


def test_draining_an_unknown_card_is_refused(cli: Cli) -> None:
    result = cli("drain", "GPU-x")
    assert result.exit_code == 1
    assert "GPU-x" in one_line(result.stderr)


def test_a_lease_is_taken_renewed_and_released_from_the_shell(cli: Cli, cards: Cards, broker: Broker) -> None:
    cards("GPU-a")
    facts = dict(word.split("=") for word in one_line(cli("acquire", "4GiB", "--lease-id", "job-7").stdout).split())
    assert (facts["id"], facts["gpu_uuids"], facts["memory_bytes"]) == ("job-7", "GPU-a", str(4 * GIB))
    assert json.loads(cli("acquire", "4GiB", "--lease-id", "job-7", "--json").stdout)["token"] == int(facts["token"])
    renewed = json.loads(cli("renew", "job-7", facts["token"], "--ttl", "100", "--json").stdout)
    assert renewed["expires_at"] > int(facts["expires_at"])
    assert cli("release", "job-7", facts["token"]).stdout == "released job-7\n"
    assert broker.leases() == []


def test_leases_are_shown_whole_as_a_table_and_in_json(cli: Cli, cards: Cards, broker: Broker) -> None:
    cards("GPU-a")
    lease = broker.acquire("4GiB", lease_id="x" * 128, job_id="job-1")
    header, row = cli("leases").stdout.splitlines()
    assert header.split()[:4] == ["ID", "HOST", "GPU", "MEMORY"]
    assert row.split()[:6] == [lease.id, "h1", "GPU-a", "4.0", "GiB", str(lease.token)]
    assert [held["id"] for held in json.loads(cli("leases", "--json").stdout)] == [lease.id]


def test_waiters_are_shown_next_first(cli: Cli, cards: Cards, broker: Broker) -> None:
    cards("GPU-a")
    broker.acquire("5GiB")
    for name, priority in (("late", 0), ("early", 5)):
        # A request that waits stays in the queue between two signs of life of its client.
        broker.call("acquire", name, 2 * GIB, 30_000, "", "", priority, "default", "me", "", "", "", 1)
    rows = cli("waiters").stdout.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["early", "late"]
    assert [waiter["id"] for waiter in json.loads(cli("waiters", "--json").stdout)] == ["early", "late"]


@pytest.mark.parametrize(("memory", "says"), [("5.5GiB", "no room"), ("50GiB", "can never fit")])
def test_a_request_that_finds_no_room_exits_1_and_says_why(cli: Cli, cards: Cards, memory: str, says: str) -> None:
    cards("GPU-a")
    cli("acquire", "1GiB")
    result = cli("acquire", memory)
    assert result.exit_code == 1
    assert says in one_line(result.stderr)


def test_a_stale_token_is_refused(cli: Cli, cards: Cards, broker: Broker) -> None:
    cards("GPU-a")
    broker.acquire("1GiB", lease_id="job-7")
    assert cli("release", "job-7", "1").exit_code == 1
    assert len(broker.leases()) == 1


def test_events_are_printed_oldest_first_a_line_each(cli: Cli, cards: Cards, broker: Broker) -> None:
    cards("GPU-a")
    broker.acquire("1GiB", lease_id="job-7")
    lines = cli("events", "--count", "2").stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["joined", "granted"]
    assert "id=job-7" in lines[1]
    assert [event["kind"] for event in json.loads(cli("events", "--count", "1", "--json").stdout)] == ["granted"]


def test_followed_events_are_one_json_object_a_line(
    command: list[str], redis_url: str, cards: Cards, broker: Broker
) -> None:
    cards("GPU-a")
    words = [*command, "events", "--follow", "--json", "--redis-url", redis_url, "--count", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["kind"] == "joined"
        broker.acquire("1GiB", lease_id="job-7")
        event = json.loads(follower.stdout.readline())
        follower.terminate()
    assert (event["kind"], event["fields"]["id"]) == ("granted", "job-7")


def test_history_shows_the_samples_of_one_card(cli: Cli, cards: Cards) -> None:
    for temperature in (50, 60):
        cards("GPU-a", "GPU-b", temperature_c=temperature)
    assert [row.split()[1] for row in cli("history", "GPU-a").stdout.splitlines()[1:]] == ["50", "60"]
    assert [sample["temperature_c"] for sample in json.loads(cli("history", "GPU-a", "--json").stdout)] == [50, 60]


def test_help_lists_plugins_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = EntryPoint("weigh", "no_such_module.cli:weigh", "gpubroker.commands")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [plugin])
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "weigh" in result.stdout
    assert "no_such_module" in result.stdout


def test_a_plugin_runs_as_a_verb_with_the_commands_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    import click

    from broker.errors import PoolUnavailable

    @click.command()
    def weigh() -> None:
        raise PoolUnavailable("no scales")

    module = type(sys)("scales")
    module.weigh = weigh  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scales", module)
    plugin = EntryPoint("weigh", "scales:weigh", "gpubroker.commands")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [plugin])
    result = CliRunner().invoke(main, ["weigh"])
    assert (result.exit_code, result.stderr) == (3, "gpubroker: no scales\n")


def test_the_help_does_not_load_what_only_verbs_need(command: list[str]) -> None:
    code = "import sys; from broker.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert not {"pydantic", "rich", "rq"} & set(told.splitlines()[-1].split())
