"""Every verb that tells something tells it in JSON too, by names that stay."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from click.testing import Result

from broker import Broker
from broker.cli import main
from broker.units import GIB
from broker.values import HostReport, ListedProcess

Cli = Callable[..., Result]
Cards = Callable[..., None]

#: Verbs that run for as long as something lives, or print a file of another kind.
NO_DATA = {
    "up", "run", "top", "agent", "worker", "demo", "serve", "completion", "acl", "healthy", "metrics",
}  # fmt: skip

#: What each verb is given here, and the names of what it tells. They may grow; none of them goes.
TOLD: dict[tuple[str, ...], set[str]] = {
    ("status",): {"pool", "now", "hosts", "gpus"},
    ("hardware",): {"GPU-a", "GPU-b"},
    ("processes", "GPU-a"): {"GPU-a"},
    ("hosts",): {"host", "state", "gpus", "sampled_at", "fresh_until"},
    ("leases",): {"id", "gpu_uuids", "host", "memory_bytes", "token", "owner", "tenant", "priority", "state",
                  "created_at", "expires_at", "job_id", "pid", "used_bytes", "peak_bytes"},
    ("waiters",): {"id", "memory_bytes", "gpus", "owner", "tenant", "priority", "since", "deadline"},
    ("acquire", "1GiB", "--lease-id", "new"): {"id", "token", "gpu_uuids", "host", "memory_bytes", "expires_at",
                                               "choice"},
    ("renew", "held", "TOKEN"): {"id", "expires_at"},
    ("resize", "held", "TOKEN", "2GiB"): {"id", "memory_bytes"},
    ("release", "held", "TOKEN"): {"id", "in_time"},
    ("revoke", "held"): {"id", "revoke_at"},
    ("adopt", "4242", "1GiB", "--host", "h1"): {"id", "token", "gpu_uuids", "host", "memory_bytes", "expires_at"},
    ("explain", "1GiB"): {"what", "request", "kind", "place", "waiters", "cards", "ahead", "fits", "words", "never"},
    ("tenants",): {"name", "quota_bytes", "weight", "leased_bytes", "functions"},
    ("tenants", "set", "studio", "--weight", "2"): {"name", "quota_bytes", "weight", "leased_bytes"},
    ("sizes",): {"function", "size", "runs", "peak_bytes"},
    ("drain", "GPU-a"): {"done", "gpu", "host"},
    ("undrain", "GPU-a"): {"done", "gpu", "host"},
    ("retire", "gone"): {"done", "gpu", "host"},
    ("doctor",): {"pool", "fine", "findings"},
    ("events",): {"stream_id", "seq", "kind", "at", "fields"},
    ("history", "GPU-a"): {"stream_id", "uuid", "host", "at", "state", "temperature_c", "memory_used_bytes"},
    ("trend", "GPU-a"): {"gpu", "temperature_c", "slope_c_per_minute", "direction", "next_threshold", "words"},
    ("config", "get"): {"temp_optimal", "monitor_interval", "history_size"},
    ("config", "set", "temp_optimal=60"): {"temp_optimal"},
}  # fmt: skip


def verbs(group: click.Group = main, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every verb, and verbs of verbs, by its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield (*before, name), command
        if isinstance(command, click.Group):
            yield from verbs(command, (*before, name))


def test_every_verb_that_tells_something_takes_json() -> None:
    without = {words[0] for words, command in verbs() if not any("--json" in one.opts for one in command.params)}
    assert without <= NO_DATA


def test_every_verb_with_json_is_tried_here() -> None:
    tried = {words[: len(name)] for words in TOLD for name, _ in verbs() if words[: len(name)] == name}
    assert {words for words, _ in verbs() if words[0] not in NO_DATA} <= tried


@pytest.fixture
def pool(broker: Broker, cards: Cards, until: Callable[[Callable[[], bool]], None]) -> int:
    """Something of everything; the token of the lease `held`."""
    cards("GPU-c", host="gone", interval_ms=1)
    listed = (ListedProcess(4242, "1", GIB, "python", ""),)
    told = HostReport(memory_bytes=16 * GIB, cpus_milli=4000)
    cards(
        "GPU-a", "GPU-b", told=told, listed=listed, processes=((4242, GIB),), unmanaged_bytes=GIB,
        hardware={"margin_c": 21},
    )  # fmt: skip
    broker.learn("enhance", "run-1", GIB, peak_bytes=GIB // 2)
    broker.acquire("4GiB", lease_id="other", gpu="GPU-a", tenant="studio")
    broker.call("acquire", "late", 9 * GIB // 2, 30_000, "", "GPU-a", 0, "studio", "me", "", "", "", 1)
    until(lambda: not broker.gpus()[0].lends)
    return broker.acquire("1GiB", lease_id="held", gpu="GPU-b").token


@pytest.mark.parametrize("words", TOLD, ids=" ".join)
def test_a_verb_tells_in_json_by_names_that_stay(cli: Cli, pool: int, words: tuple[str, ...]) -> None:
    result = cli(*(str(pool) if word == "TOKEN" else word for word in words), "--json")
    assert result.exit_code == (1 if words == ("doctor",) else 0), result.output
    told: Any = json.loads(result.stdout)
    assert told
    for one in told if isinstance(told, list) else [told]:
        assert TOLD[words] <= set(one)


def test_a_finding_of_the_doctors_has_names_that_stay(cli: Cli, pool: int) -> None:
    for finding in json.loads(cli("doctor", "--json").stdout)["findings"]:
        assert set(finding) == {"about", "severity", "fine", "says", "mend"}
