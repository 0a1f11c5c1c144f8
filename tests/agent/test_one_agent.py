"""One agent for a host, as processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.service import machine
from broker import Broker
from broker.publish import Publisher
from broker.values import HostReport
from tests.agent.conftest import Cards, state, wait_for, wait_for_samples

Agent = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_a_second_agent_ends_with_a_clear_word_and_the_first_goes_on(
    quick: Broker, agent: Agent, mock_cards: Cards, redis_url: str
) -> None:
    first = agent(mock=mock_cards)
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"))
    second = subprocess.run(
        [sys.executable, "-m", "broker.cli", "agent", "--simulate", "1x6GiB", "--host", "h1", "--redis-url", redis_url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 2
    assert f"process {first.pid} does already" in second.stderr
    wait_for_samples(quick)
    assert [gpu.uuid for gpu in quick.gpus()] == ["GPU-mock-0", "GPU-mock-1"]


def test_an_agent_that_another_machine_takes_over_from_ends_aloud(
    quick: Broker, agent: Agent, mock_cards: Cards, tmp_path: Path
) -> None:
    process = agent(mock=mock_cards)
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"))
    Publisher(quick, "h1").publish([], 60_000, host_report=HostReport(machine=machine()))  # as one in a container would
    assert process.wait(timeout=20) == 1
    assert "a newer agent publishes for host 'h1'" in (tmp_path / "h1.log").read_text()


def test_the_unit_for_systemd_can_be_printed() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "broker.cli", "agent", "--unit"], capture_output=True, text=True, check=True
    ).stdout
    assert told == Path(__file__).parents[2].joinpath("agent", "gpubroker-agent.service").read_text()
