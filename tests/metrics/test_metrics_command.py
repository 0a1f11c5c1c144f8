"""`gpubroker metrics`: the same text, printed once."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from broker import Broker
from broker.cli import main
from tests.metrics.conftest import told

Cards = Callable[..., None]


def run(redis_url: str, *words: str) -> Result:
    return CliRunner().invoke(main, ["metrics", "--redis-url", redis_url, *words])


def test_one_look_is_printed(redis_url: str, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB")
    result = run(redis_url)
    assert result.exit_code == 0
    seen = told(result.stdout.encode())
    assert seen.one("gpubroker_leases") == 1
    assert seen.one("gpubroker_fsck_differences") == 0
    assert seen.one("gpubroker_lease_grants_total") == 0  # one look has counted nothing


def test_what_the_journal_holds_is_counted_on_demand(redis_url: str, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB")
    assert told(run(redis_url, "--journal", "--no-fsck").stdout.encode()).one("gpubroker_lease_grants_total") == 1


def test_openmetrics_ends_with_its_mark(redis_url: str, cards: Cards) -> None:
    cards("GPU-a")
    told(run(redis_url, "--openmetrics").stdout.encode(), openmetrics=True)


def test_without_the_library_it_says_what_to_install(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("broker.metrics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    result = run(redis_url)
    assert result.exit_code == 1
    assert "gpubroker[web]" in result.stderr
